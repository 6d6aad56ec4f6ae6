//! Answers (RFC 9112 §4–§7): values → bytes appended to the caller's buffer, with no allocation beyond it.

use super::http_request::Version;

/// Sent to a client that expects it, before its body is read (RFC 9110 §10.1.1).
pub const CONTINUE_100: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Behind the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";
/// The last chunk and an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How the client finds the end of the answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// In bytes. An answer to HEAD declares what GET would have got and sends nothing.
    Length(usize),
    /// HTTP/1.1 only.
    Chunked,
    /// The connection ends with the body; `keep_alive` has no say.
    UntilClose,
    /// Nothing is said: 1xx, 204, 304, and answers to HEAD whose length is unknown.
    None,
}

#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    pub status: u16,
    /// The request's version; the answer's own is always HTTP/1.1 (RFC 9110 §2.5).
    pub version: Version,
    pub keep_alive: bool,
    pub body: ResponseBody,
    pub content_type: Option<&'a str>,
    /// The value of `Date`; see [`http_date`].
    pub date: Option<&'a [u8]>,
    /// Names and values of further headers.
    pub extra: &'a [(&'a str, &'a str)],
}

pub fn write_head(out: &mut Vec<u8>, head: &ResponseHead<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, usize::from(head.status));
    out.push(b' ');
    out.extend_from_slice(reason_phrase(head.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some(date) = head.date {
        push_header(out, "Date", date);
    }
    if let Some(content_type) = head.content_type {
        push_header(out, "Content-Type", content_type.as_bytes());
    }
    for (name, value) in head.extra {
        push_header(out, name, value.as_bytes());
    }
    // RFC 9110 §8.6, RFC 9112 §6.1: these never have a body, so they may not declare one.
    let has_framing = !matches!(head.status, 100..=199 | 204 | 304);
    match head.body {
        ResponseBody::Length(length) if has_framing => {
            out.extend_from_slice(b"Content-Length: ");
            push_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        ResponseBody::Chunked if has_framing => {
            debug_assert_eq!(head.version, Version::Http11, "HTTP/1.0 has no chunks");
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        _ => {}
    }
    push_connection(out, head);
    out.extend_from_slice(b"\r\n");
}

/// RFC 9112 §9.3: said only where it differs from what the request's version implies. 101 has its own.
fn push_connection(out: &mut Vec<u8>, head: &ResponseHead<'_>) {
    let keep_alive = head.keep_alive && head.body != ResponseBody::UntilClose;
    match (head.version, keep_alive) {
        _ if head.status < 200 => {}
        (Version::Http11, false) => out.extend_from_slice(b"Connection: close\r\n"),
        (Version::Http10, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (Version::Http11, true) | (Version::Http10, false) => {}
    }
}

/// A refusal: `{"error":{"code":…,"message":…}}`. With `head_only` (answers to HEAD) the body is declared but not sent.
///
/// Code and message are constants that need no escaping in JSON.
#[expect(
    clippy::too_many_arguments,
    reason = "one call per refusal reads better than a struct of its own"
)]
pub fn write_error(
    out: &mut Vec<u8>,
    version: Version,
    keep_alive: bool,
    status: u16,
    code: &'static str,
    message: &'static str,
    extra: &[(&str, &str)],
    head_only: bool,
) {
    debug_assert!(
        is_json_text(code) && is_json_text(message),
        "needs escaping: {code} {message}"
    );
    let parts = [
        "{\"error\":{\"code\":\"",
        code,
        "\",\"message\":\"",
        message,
        "\"}}",
    ];
    let length = parts.iter().map(|part| part.len()).sum();
    let body = ResponseBody::Length(length);
    let content_type = Some("application/json");
    write_head(
        out,
        &ResponseHead {
            status,
            version,
            keep_alive,
            body,
            content_type,
            date: None,
            extra,
        },
    );
    if !head_only {
        parts
            .iter()
            .for_each(|part| out.extend_from_slice(part.as_bytes()));
    }
}

fn is_json_text(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

/// Appends `data` as one chunk; nothing if it is empty, since an empty chunk ends the body (RFC 9112 §7.1).
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        out.extend_from_slice(chunk_prefix(data.len()).as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(CHUNK_END);
    }
}

/// What stands before a chunk's data, for data that is sent from where it is; [`CHUNK_END`] follows it.
#[derive(Clone, Copy, Debug)]
pub struct ChunkPrefix {
    bytes: [u8; 18],
    start: u8,
}

/// `length` is not 0: that would end the body.
pub fn chunk_prefix(length: usize) -> ChunkPrefix {
    debug_assert_ne!(length, 0);
    let mut prefix = ChunkPrefix {
        bytes: *b"0000000000000000\r\n",
        start: 16,
    };
    let mut rest = length;
    while rest > 0 {
        prefix.start -= 1;
        prefix.bytes[usize::from(prefix.start)] = b"0123456789abcdef"[rest % 16];
        rest /= 16;
    }
    prefix
}

impl ChunkPrefix {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

/// RFC 9110 §5.6.7, such as `Sun, 06 Nov 1994 08:49:37 GMT`. Times after the year 9999 become its last second.
pub fn http_date(unix_seconds: u64) -> [u8; 29] {
    const LAST_SECOND_OF_9999: u64 = 253_402_300_799;
    let seconds = unix_seconds.min(LAST_SECOND_OF_9999);
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March put the leap day last; 400 of them have 146,097 days. Day 0 is 1 March of year 0.
    let days_since_march_0 = days + 719_468;
    let (era, day_of_era) = (days_since_march_0 / 146_097, days_since_march_0 % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, months have 153 days in every five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);

    let mut date = *b"ddd, 00 mmm 0000 00:00:00 GMT";
    // 1 January 1970 was a Thursday.
    date[..3].copy_from_slice(name_of(b"ThuFriSatSunMonTueWed", days % 7));
    date[8..11].copy_from_slice(name_of(b"JanFebMarAprMayJunJulAugSepOctNovDec", month));
    for (at, number) in [
        (5, day),
        (12, year / 100),
        (14, year % 100),
        (17, second_of_day / 3600),
        (20, second_of_day / 60 % 60),
        (23, second_of_day % 60),
    ] {
        date[at] = b'0' + (number / 10) as u8;
        date[at + 1] = b'0' + (number % 10) as u8;
    }
    date
}

fn name_of(names: &[u8], index: u64) -> &[u8] {
    &names[index as usize * 3..][..3]
}

/// RFC 9110 §15, for the statuses this server sends; an empty phrase is allowed (RFC 9112 §4).
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// A control byte in a value becomes a space (RFC 9110 §5.5), so that no caller's mistake can split an answer.
fn push_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(
        value
            .iter()
            .map(|&byte| if byte.is_ascii_control() { b' ' } else { byte }),
    );
    out.extend_from_slice(b"\r\n");
}

fn push_number(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}
