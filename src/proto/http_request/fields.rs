//! What the header fields of a request mean: framing, persistence, and the values that this server reads.

use memchr::memchr;

use super::{BodyFraming, HeadError, RequestHead, RequestLine, UpgradeFields, Version};
use super::{is_token, is_unreserved_byte};

/// Header lines of any head: the room for them is on the stack.
pub const HEADERS_MAX: usize = 100;
/// Header lines of nearly every head: making room for [`HEADERS_MAX`] takes longer than reading these.
const HEADERS_USUAL: usize = 16;
/// `sec-websocket-version`: a longer name is none of ours.
const KNOWN_NAME_BYTES_MAX: usize = 21;

/// The header lines of a checked head, each with its CRLF, and the empty line behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLines<'a>(&'a [u8]);

impl<'a> FieldLines<'a> {
    #[cfg(test)]
    pub(super) const EMPTY: Self = Self(&[]);

    /// The values of every field of this name, which has any case, in their order.
    pub fn values(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.0;
        let lines = std::iter::from_fn(move || {
            let end = memchr(b'\n', rest)?;
            let (line, behind) = rest.split_at(end + 1);
            rest = behind;
            Some(line)
        });
        lines.filter_map(move |line| {
            let colon = memchr(b':', line)?;
            let is_it = line[..colon].eq_ignore_ascii_case(name.as_bytes());
            is_it.then(|| line[colon + 1..].trim_ascii())
        })
    }
}

/// `lines` are the `n_headers` header lines with the empty line at their end; their line ends and bytes are checked.
pub(super) fn parse_fields<'a>(
    line: &RequestLine<'a>,
    lines: &'a [u8],
    n_headers: usize,
) -> Result<RequestHead<'a>, HeadError> {
    if n_headers <= HEADERS_USUAL {
        parse_into(&mut [httparse::EMPTY_HEADER; HEADERS_USUAL], line, lines)
    } else {
        parse_into(&mut [httparse::EMPTY_HEADER; HEADERS_MAX], line, lines)
    }
}

fn parse_into<'a>(
    storage: &mut [httparse::Header<'a>],
    line: &RequestLine<'a>,
    lines: &'a [u8],
) -> Result<RequestHead<'a>, HeadError> {
    let headers = match httparse::parse_headers(lines, storage) {
        // Both see the same end, or one of them is wrong.
        Ok(httparse::Status::Complete((n, headers))) if n == lines.len() => headers,
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
        _ => return Err(HeadError::HeaderNameInvalid),
    };
    let mut fields = Fields::default();
    for header in headers {
        fields.take(header.name, header.value)?;
    }
    fields.into_head(line, FieldLines(lines))
}

#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a str>,
    origin: Option<&'a str>,
    content_type: Option<&'a str>,
    content_length: Option<&'a str>,
    transfer_encoding: Option<&'a str>,
    authorization: Option<&'a str>,
    api_key: Option<&'a str>,
    cookie: Option<&'a str>,
    last_event_id: Option<&'a str>,
    idempotency_key: Option<&'a str>,
    websocket_key: Option<&'a str>,
    websocket_version: Option<&'a str>,
    connection_close: bool,
    connection_keep_alive: bool,
    connection_upgrade: bool,
    upgrade_websocket: bool,
    expect_continue: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), HeadError> {
        let mut lowercase = [0; KNOWN_NAME_BYTES_MAX];
        let Some(lowercase) = lowercase.get_mut(..name.len()) else {
            return Ok(());
        };
        lowercase.copy_from_slice(name.as_bytes());
        lowercase.make_ascii_lowercase();
        match &*lowercase {
            b"host" => once(&mut self.host, value),
            b"origin" => once(&mut self.origin, value),
            b"content-type" => once(&mut self.content_type, value),
            b"content-length" => once(&mut self.content_length, value),
            b"transfer-encoding" => once(&mut self.transfer_encoding, value),
            b"authorization" => once(&mut self.authorization, value),
            b"x-api-key" => once(&mut self.api_key, value),
            b"cookie" => self.take_cookie(value),
            b"last-event-id" => once(&mut self.last_event_id, value),
            b"idempotency-key" => once(&mut self.idempotency_key, value),
            b"sec-websocket-key" => once(&mut self.websocket_key, value),
            b"sec-websocket-version" => once(&mut self.websocket_version, value),
            b"connection" => self.take_connection(ascii(value)?),
            b"upgrade" => self.take_upgrade(ascii(value)?),
            b"expect" => self.take_expect(ascii(value)?),
            _ => Ok(()),
        }
    }

    /// Cookies are the page's affair, and browsers send them as UTF-8 whatever RFC 6265 §4.1.1 says. Of older clients'
    /// bytes none is for this server.
    fn take_cookie(&mut self, value: &'a [u8]) -> Result<(), HeadError> {
        if self.cookie.is_some() {
            return Err(HeadError::HeaderRepeated);
        }
        self.cookie = Some(str::from_utf8(value).map_or("", trim));
        Ok(())
    }

    /// RFC 9110 §7.6.1.
    fn take_connection(&mut self, value: &str) -> Result<(), HeadError> {
        for option in list(value) {
            self.connection_close |= option.eq_ignore_ascii_case("close");
            self.connection_keep_alive |= option.eq_ignore_ascii_case("keep-alive");
            self.connection_upgrade |= option.eq_ignore_ascii_case("upgrade");
        }
        Ok(())
    }

    /// RFC 9110 §7.8: other protocols are offers that may be ignored.
    fn take_upgrade(&mut self, value: &str) -> Result<(), HeadError> {
        self.upgrade_websocket |=
            list(value).any(|protocol| protocol.eq_ignore_ascii_case("websocket"));
        Ok(())
    }

    /// RFC 9110 §10.1.1.
    fn take_expect(&mut self, value: &str) -> Result<(), HeadError> {
        for expectation in list(value) {
            if !expectation.eq_ignore_ascii_case("100-continue") {
                return Err(HeadError::ExpectationUnsupported);
            }
            self.expect_continue = true;
        }
        Ok(())
    }

    fn into_head(
        self,
        line: &RequestLine<'a>,
        lines: FieldLines<'a>,
    ) -> Result<RequestHead<'a>, HeadError> {
        let is_http11 = line.version == Version::Http11;
        self.check_host(line)?;
        let body = self.body_framing(line.version)?;
        let has_body = !matches!(body, BodyFraming::None | BodyFraming::Length(0));
        // RFC 9110 §7.8: Upgrade is ignored in HTTP/1.0.
        let is_upgrade = is_http11 && self.upgrade_websocket && self.connection_upgrade;
        Ok(RequestHead {
            method: line.method,
            version: line.version,
            path: line.path,
            query: line.query,
            body,
            // RFC 9112 §9.3.
            keep_alive: !self.connection_close && (is_http11 || self.connection_keep_alive),
            // RFC 9110 §10.1.1: ignored in HTTP/1.0; not answered where there is no body to wait for.
            expect_continue: is_http11 && self.expect_continue && has_body,
            host: self.host,
            origin: self.origin,
            content_type: self.content_type,
            authorization: self.authorization,
            api_key: self.api_key,
            cookie: self.cookie,
            last_event_id: self.last_event_id,
            idempotency_key: self.idempotency_key,
            upgrade: is_upgrade.then_some(UpgradeFields {
                key: self.websocket_key,
                version: self.websocket_version,
            }),
            lines,
        })
    }

    /// RFC 9112 §3.2: exactly one valid Host in HTTP/1.1; identical to the authority of an absolute-form.
    fn check_host(&self, line: &RequestLine<'_>) -> Result<(), HeadError> {
        match (self.host, line.authority) {
            (None, _) if line.version == Version::Http11 => Err(HeadError::HostMissing),
            (Some(host), _) if !is_host(host) => Err(HeadError::HostInvalid),
            (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
                Err(HeadError::HostMismatch)
            }
            _ => Ok(()),
        }
    }

    /// RFC 9112 §6.3, with every ambiguity refused rather than resolved.
    fn body_framing(&self, version: Version) -> Result<BodyFraming, HeadError> {
        match (self.content_length, self.transfer_encoding) {
            (None, None) => Ok(BodyFraming::None),
            (Some(_), Some(_)) => Err(HeadError::ContentLengthWithTransferEncoding),
            (None, Some(_)) if version == Version::Http10 => {
                Err(HeadError::TransferEncodingInHttp10)
            }
            (None, Some(codings)) => check_codings(codings).map(|()| BodyFraming::Chunked),
            (Some(length), None) => {
                // `parse` alone would take a sign.
                let is_number =
                    !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
                let length = if is_number { length.parse().ok() } else { None };
                length
                    .map(BodyFraming::Length)
                    .ok_or(HeadError::ContentLengthInvalid)
            }
        }
    }
}

/// RFC 9112 §6.1: `chunked`, once and last; it has no parameters (§7.1). Other codings are not understood.
fn check_codings(codings: &str) -> Result<(), HeadError> {
    let mut result = Ok(());
    let mut has_chunked = false;
    for coding in codings.split(',').map(trim) {
        let name = trim(coding.split(';').next().unwrap_or(coding));
        if has_chunked || !is_token(name.as_bytes()) {
            return Err(HeadError::TransferEncodingInvalid);
        }
        has_chunked = name.eq_ignore_ascii_case("chunked");
        if has_chunked && name != coding {
            return Err(HeadError::TransferEncodingInvalid);
        } else if !has_chunked {
            result = Err(HeadError::TransferEncodingUnsupported);
        }
    }
    result
}

/// A host name, an IPv4 address or a bracketed IPv6 address, and optionally a port (RFC 9110 §7.2).
///
/// Narrower than RFC 3986 §3.2.2: no percent-encoding and no sub-delims, which no name in use has, and a comma among
/// which would let two joined Host fields pass for one.
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address, port),
            None => return false,
        },
        None => text.split_at(memchr(b':', text.as_bytes()).unwrap_or(text.len())),
    };
    let is_host = match text.starts_with('[') {
        true => {
            host.contains(':')
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte))
        }
        false => host.bytes().all(is_unreserved_byte),
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty() || (!digits.starts_with('+') && digits.parse::<u16>().is_ok())
        }
        None => port.is_empty(),
    };
    is_host && is_port && !host.is_empty()
}

fn once<'a>(slot: &mut Option<&'a str>, value: &'a [u8]) -> Result<(), HeadError> {
    if slot.is_some() {
        return Err(HeadError::HeaderRepeated);
    }
    *slot = Some(ascii(value)?);
    Ok(())
}

/// RFC 9110 §5.5: obs-text has no defined meaning, so none of the values that matter here may have it.
fn ascii(value: &[u8]) -> Result<&str, HeadError> {
    match str::from_utf8(value) {
        Ok(text) if text.is_ascii() => Ok(trim(text)),
        _ => Err(HeadError::HeaderValueNotAscii),
    }
}

/// RFC 9110 §5.6.1: empty elements are ignored.
fn list(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(trim)
        .filter(|element| !element.is_empty())
}

/// RFC 9110 §5.6.3: optional whitespace is spaces and tabs, and a value has no other whitespace in it.
fn trim(text: &str) -> &str {
    text.trim_ascii()
}
