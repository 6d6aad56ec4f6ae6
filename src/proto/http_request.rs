//! The head of a request (RFC 9112 §2–§6): bytes → [`RequestHead`], or the reason to refuse it.
//!
//! Strict on purpose: what two servers could read differently is refused, so that this server and a proxy in front of
//! it always agree on where a request ends. Line ends and byte classes are decided here, on the raw bytes and as they
//! arrive; names and values are split by `httparse` once the head is whole; what they mean is in `fields`.
//! After a refusal nothing on the connection can be trusted: the caller answers and closes.

mod error;
mod fields;
#[cfg(test)]
mod tests;

pub use error::HeadError;
pub use fields::{FieldLines, HEADERS_MAX};

use memchr::memchr;

/// What a peer may make us hold and look at before its request is known.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// The whole head, from the first byte to its empty line.
    pub head_bytes_max: usize,
    /// The request target; wants to be smaller than `head_bytes_max`, or 431 comes before 414.
    pub target_bytes_max: usize,
    /// Header lines; at most [`HEADERS_MAX`].
    pub headers_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    /// Any other valid token.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How the end of the body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither Content-Length nor Transfer-Encoding: the head is the whole request.
    None,
    Length(u64),
    Chunked,
}

/// A complete, checked head; borrows from the input.
///
/// Values are ASCII without control bytes (tabs aside) and without surrounding whitespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    pub method: Method,
    pub version: Version,
    /// Begins with `/`, or is `*` for OPTIONS. Still percent-encoded, dot segments and all.
    pub path: &'a str,
    /// What follows the first `?`, still percent-encoded; empty if there is none.
    pub query: &'a str,
    pub body: BodyFraming,
    /// What the client can do: the server may still close.
    pub keep_alive: bool,
    /// The client holds its body back until it reads `100 Continue` (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    /// Always present in HTTP/1.1; never empty.
    pub host: Option<&'a str>,
    pub origin: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub authorization: Option<&'a str>,
    pub api_key: Option<&'a str>,
    pub cookie: Option<&'a str>,
    pub last_event_id: Option<&'a str>,
    pub idempotency_key: Option<&'a str>,
    /// Present when the client asks for WebSocket in both `Upgrade` and `Connection`.
    pub upgrade: Option<UpgradeFields<'a>>,
    /// All header fields, for those that this server does not read itself.
    pub lines: FieldLines<'a>,
}

/// The fields of a WebSocket handshake (RFC 6455 §4.1), unchecked. Sec-WebSocket-Protocol and -Extensions are offers,
/// which are declined by saying nothing of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpgradeFields<'a> {
    pub key: Option<&'a str>,
    pub version: Option<&'a str>,
}

/// Where the search for the head's end stands, so that a head that comes byte by byte costs linear time in all.
///
/// Belongs to one head: as long as that is incomplete the caller hands in the same bytes again, with more behind them.
/// The limits may be others from one time to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadProgress {
    /// Everything before is checked; never past the CR of an unfinished line end.
    scanned_bytes: u32,
    /// Where the current line begins: `line_start <= scanned_bytes`.
    line_start: u32,
    request_line_start: u32,
    /// Where the header lines begin; 0 while the request line is unfinished.
    headers_start: u32,
    n_headers: u16,
    n_empty_lines: u8,
}

/// Reads one head from the front of `input`: the head and how many bytes it took.
///
/// `Ok(None)` means "not enough bytes yet" and consumes nothing. A refusal comes as soon as it is certain, and is the
/// same however the head is cut into reads.
pub fn decode_head<'a>(
    input: &'a [u8],
    progress: &mut HeadProgress,
    limits: &HeadLimits,
) -> Result<Option<(RequestHead<'a>, usize)>, HeadError> {
    let Some((line, head_bytes)) = progress.find_end(input, limits)? else {
        return Ok(None);
    };
    let lines = &input[progress.headers_start as usize..head_bytes];
    let head = fields::parse_fields(&line, lines, usize::from(progress.n_headers))?;
    *progress = HeadProgress::default();
    Ok(Some((head, head_bytes)))
}

/// RFC 9112 §3: a method longer than any that is implemented is answered 501.
const METHOD_BYTES_MAX: usize = 32;
/// RFC 9112 §2.2: at least one empty line before the request line is to be ignored; some clients send a few.
const EMPTY_LINES_MAX: u8 = 4;

impl HeadProgress {
    /// Checks the bytes that are new. Once the empty line is there: the request line, and the length of the head.
    ///
    /// Everything is judged in the order of its position, so that a prefix never gets another answer than the whole.
    fn find_end<'a>(
        &mut self,
        input: &'a [u8],
        limits: &HeadLimits,
    ) -> Result<Option<(RequestLine<'a>, usize)>, HeadError> {
        let window = &input[..input.len().min(limits.head_bytes_max)];
        let mut request_line = None;
        loop {
            let line_start = self.line_start as usize;
            let in_request_line = self.headers_start == 0;
            // Method, target, `HTTP/1.1`, two spaces, CRLF.
            let line_limit = line_start + METHOD_BYTES_MAX + limits.target_bytes_max + 12;
            let (end, class) = match in_request_line {
                true => (window.len().min(line_limit), REQUEST_LINE_BYTE),
                false => (window.len(), FIELD_BYTE),
            };
            // RFC 9112 §5.2: obs-fold; §2.2: whitespace before the first header line.
            if !in_request_line && matches!(window.get(line_start), Some(b' ' | b'\t')) {
                return Err(HeadError::HeaderFolded);
            }
            let scanned = self.scanned_bytes as usize;
            // The limits are lower than they were at the read before.
            if scanned > end {
                return Err(match in_request_line && end == line_limit {
                    true => HeadError::TargetTooLong,
                    false => HeadError::HeadTooLarge,
                });
            }
            let stop = scanned + count_front(&window[scanned..end], class);
            self.scanned_bytes = stop as u32;
            let line = &window[line_start..stop];
            if in_request_line {
                check_method(line)?;
            }
            match &window[stop..end] {
                [b'\r', b'\n', ..] => {}
                [] | [b'\r'] if in_request_line && end == line_limit => {
                    return Err(HeadError::TargetTooLong);
                }
                [] | [b'\r'] if window.len() == limits.head_bytes_max => {
                    return Err(HeadError::HeadTooLarge);
                }
                [] | [b'\r'] => return Ok(None),
                [b'\r', ..] => return Err(HeadError::BareCr),
                [b'\n', ..] => return Err(HeadError::BareLf),
                _ if in_request_line => return Err(HeadError::RequestLineByteInvalid),
                _ => return Err(HeadError::HeaderByteInvalid),
            }
            let next_line = stop + 2;
            if !in_request_line && line.is_empty() {
                let request_line = match request_line {
                    Some(request_line) => request_line,
                    // It came with an earlier read. Both its ends are known, and the second has a CRLF behind it.
                    None => {
                        let line =
                            self.request_line_start as usize..self.headers_start as usize - 2;
                        parse_request_line(&input[line], limits)?
                    }
                };
                return Ok(Some((request_line, next_line)));
            } else if !in_request_line {
                self.n_headers += 1;
                if usize::from(self.n_headers) > limits.headers_max.min(HEADERS_MAX) {
                    return Err(HeadError::TooManyHeaders);
                }
            } else if line.is_empty() {
                self.n_empty_lines += 1;
                if self.n_empty_lines > EMPTY_LINES_MAX {
                    return Err(HeadError::RequestLineInvalid);
                }
            } else {
                request_line = Some(parse_request_line(line, limits)?);
                self.request_line_start = line_start as u32;
                self.headers_start = next_line as u32;
            }
            self.line_start = next_line as u32;
            self.scanned_bytes = next_line as u32;
        }
    }
}

/// Refuses what cannot be the beginning of a request line, finished or not; looks at a bounded number of bytes.
fn check_method(line: &[u8]) -> Result<(), HeadError> {
    let start = &line[..line.len().min(METHOD_BYTES_MAX + 1)];
    match start.iter().position(|&byte| !is_token_byte(byte)) {
        Some(end) if end > 0 && start[end] == b' ' => Ok(()),
        Some(_) => Err(HeadError::MethodInvalid),
        None if line.len() > METHOD_BYTES_MAX => Err(HeadError::MethodTooLong),
        None => Ok(()),
    }
}

struct RequestLine<'a> {
    method: Method,
    version: Version,
    /// Of a target in absolute-form.
    authority: Option<&'a str>,
    path: &'a str,
    query: &'a str,
}

/// RFC 9112 §3: method, target and version with exactly one space between them.
fn parse_request_line<'a>(
    line: &'a [u8],
    limits: &HeadLimits,
) -> Result<RequestLine<'a>, HeadError> {
    let (method, rest) = split_at_space(line)?;
    let (target, version) = split_at_space(rest)?;
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        // RFC 9110 §2.5: a higher minor version is to be read as the highest that is known.
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Version::Http11,
        // Also the preface of HTTP/2 (RFC 9113 §3.4).
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return Err(HeadError::VersionUnsupported);
        }
        _ => return Err(HeadError::RequestLineInvalid),
    };
    if target.len() > limits.target_bytes_max {
        return Err(HeadError::TargetTooLong);
    }
    let method = match method {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"POST" => Method::Post,
        b"PUT" => Method::Put,
        b"DELETE" => Method::Delete,
        b"OPTIONS" => Method::Options,
        b"PATCH" => Method::Patch,
        // Its target is an authority (RFC 9112 §3.2.3) and its success a tunnel: no request for this server.
        b"CONNECT" => return Err(HeadError::MethodUnsupported),
        _ => Method::Other,
    };
    if !is_target(target) {
        return Err(HeadError::TargetInvalid);
    }
    let target = str::from_utf8(target).map_err(|_| HeadError::RequestLineByteInvalid)?;
    let (authority, path_and_query) = split_authority(target)?;
    let (path, query) = path_and_query
        .split_once('?')
        .unwrap_or((path_and_query, ""));
    let path = match path {
        // RFC 9112 §3.2.4: OPTIONS of an absolute-form without path and query means the server as a whole.
        "" if authority.is_some() && method == Method::Options && path_and_query.is_empty() => "*",
        "" if authority.is_some() => "/",
        "*" if authority.is_none() && method == Method::Options && path_and_query == "*" => path,
        _ if path.starts_with('/') => path,
        _ => return Err(HeadError::TargetInvalid),
    };
    Ok(RequestLine {
        method,
        version,
        authority,
        path,
        query,
    })
}

fn split_at_space(line: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    let space = memchr(b' ', line).ok_or(HeadError::RequestLineInvalid)?;
    Ok((&line[..space], &line[space + 1..]))
}

/// RFC 9112 §3.2: of visible ASCII, `"`, `<` and `>` stand nowhere in a target, and a fragment is no part of it.
///
/// RFC 3986 forbids more, but browsers send some of that as it is (WHATWG URL, "query percent-encode set").
fn is_target(target: &[u8]) -> bool {
    // No early exit, so that the compiler tests 16 bytes at once.
    let is_allowed = |all, byte: &u8| all & !matches!(byte, b'"' | b'#' | b'<' | b'>');
    target.iter().fold(true, is_allowed)
}

/// RFC 9112 §3.2.2: a server accepts the absolute-form in requests.
fn split_authority(target: &str) -> Result<(Option<&str>, &str), HeadError> {
    if target.starts_with('/') {
        return Ok((None, target));
    }
    let Some((scheme, rest)) = target.split_once("://") else {
        return Ok((None, target));
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(HeadError::TargetInvalid);
    }
    let (authority, path_and_query) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !fields::is_host(authority) {
        return Err(HeadError::TargetInvalid);
    }
    Ok((Some(authority), path_and_query))
}

/// Visible ASCII and the space.
const REQUEST_LINE_BYTE: u8 = 1;
/// RFC 9110 §5.5: tab, space, visible ASCII, obs-text.
const FIELD_BYTE: u8 = 2;
/// RFC 9110 §5.6.2: tchar.
const TOKEN_BYTE: u8 = 4;
/// RFC 3986 §2.3: unreserved.
const UNRESERVED_BYTE: u8 = 8;

const BYTE_CLASS: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if byte >= 0x20 && byte <= 0x7E {
            classes[byte] |= REQUEST_LINE_BYTE | FIELD_BYTE;
        }
        if byte == b'\t' as usize || byte >= 0x80 {
            classes[byte] |= FIELD_BYTE;
        }
        if (byte as u8).is_ascii_alphanumeric() {
            classes[byte] |= TOKEN_BYTE | UNRESERVED_BYTE;
        }
        if matches!(byte as u8, b'-' | b'.' | b'_' | b'~') {
            classes[byte] |= UNRESERVED_BYTE;
        }
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < marks.len() {
        classes[marks[index] as usize] |= TOKEN_BYTE;
        index += 1;
    }
    classes
};

/// How many bytes at the front are all of `class`, which contains visible ASCII and the space.
fn count_front(bytes: &[u8], class: u8) -> usize {
    // Nearly all of a head is visible ASCII, and the compiler tests 16 bytes of it at once.
    let is_visible = |block: &[u8; 16]| {
        block
            .iter()
            .fold(true, |all, byte| all & matches!(byte, b' '..=b'~'))
    };
    let (blocks, _) = bytes.as_chunks();
    let start = 16 * blocks.iter().take_while(|block| is_visible(block)).count();
    let n = bytes[start..]
        .iter()
        .position(|&byte| BYTE_CLASS[byte as usize] & class == 0);
    n.map_or(bytes.len(), |n| start + n)
}

/// RFC 9110 §5.6.2: one or more tchar.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

pub(crate) fn is_token_byte(byte: u8) -> bool {
    BYTE_CLASS[byte as usize] & TOKEN_BYTE != 0
}

pub(crate) fn is_unreserved_byte(byte: u8) -> bool {
    BYTE_CLASS[byte as usize] & UNRESERVED_BYTE != 0
}

/// RFC 9110 §5.5: what a field value may consist of.
pub(crate) fn is_field_byte(byte: u8) -> bool {
    BYTE_CLASS[byte as usize] & FIELD_BYTE != 0
}
