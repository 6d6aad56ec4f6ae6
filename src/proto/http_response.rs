//! Answers (RFC 9112 §4–§7): values → bytes appended to the caller's buffer, with no allocation beyond it.

use super::decimal;
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
    match status_line(head.status) {
        Some(line) => out.extend_from_slice(line.as_bytes()),
        // An empty phrase is allowed (RFC 9112 §4).
        None => out.extend_from_slice(format!("HTTP/1.1 {} \r\n", head.status).as_bytes()),
    }
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
    let has_framing = !matches!(head.status, 100..=199 | 204);
    match head.body {
        ResponseBody::Length(length) if has_framing => {
            out.extend_from_slice(b"Content-Length: ");
            decimal::push(out, length as u64);
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

/// The body of a refusal. Code and message are constants that need no escaping in JSON.
pub fn error_body(code: &'static str, message: &'static str) -> String {
    debug_assert!(
        is_json_text(code) && is_json_text(message),
        "needs escaping: {code} {message}"
    );
    format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#)
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

macro_rules! status_lines {
    ($($status:literal $phrase:literal,)*) => {
        /// RFC 9112 §4, with the phrases of RFC 9110 §15 for the statuses this server sends.
        fn status_line(status: u16) -> Option<&'static str> {
            match status {
                $($status => Some(concat!("HTTP/1.1 ", $status, " ", $phrase, "\r\n")),)*
                _ => None,
            }
        }
    };
}

status_lines! {
    100 "Continue",
    101 "Switching Protocols",
    200 "OK",
    201 "Created",
    202 "Accepted",
    204 "No Content",
    400 "Bad Request",
    401 "Unauthorized",
    403 "Forbidden",
    404 "Not Found",
    405 "Method Not Allowed",
    408 "Request Timeout",
    411 "Length Required",
    413 "Content Too Large",
    414 "URI Too Long",
    415 "Unsupported Media Type",
    417 "Expectation Failed",
    426 "Upgrade Required",
    429 "Too Many Requests",
    431 "Request Header Fields Too Large",
    501 "Not Implemented",
    503 "Service Unavailable",
    505 "HTTP Version Not Supported",
}

/// A control byte in a value becomes a space (RFC 9110 §5.5), so that no caller's mistake can split an answer.
fn push_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let start = out.len();
    out.extend_from_slice(value);
    for byte in &mut out[start..] {
        if byte.is_ascii_control() {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http_request::Version::{Http10, Http11};

    #[test]
    fn writes_heads() {
        let ok = ResponseHead {
            status: 200,
            version: Http11,
            keep_alive: true,
            body: ResponseBody::Length(5),
            content_type: Some("text/plain"),
            date: None,
            extra: &[],
        };
        check(
            &ok,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n",
        );
        let date = http_date(784_111_777);
        let bare = ResponseHead {
            content_type: None,
            body: ResponseBody::Length(0),
            ..ok
        };
        check(
            &ResponseHead {
                date: Some(&date),
                extra: &[("A", "b"), ("C", "d\r\nE: f\0")],
                ..bare
            },
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nA: b\r\nC: d  E: f \r\nContent-Length: 0\r\n\r\n",
        );
        check(
            &ResponseHead {
                body: ResponseBody::Length(usize::MAX),
                ..bare
            },
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
        );
        check(
            &ResponseHead {
                body: ResponseBody::Chunked,
                ..bare
            },
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        check(
            &ResponseHead {
                status: 599,
                ..bare
            },
            "HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n",
        );
    }

    #[test]
    fn says_connection_exactly_where_it_differs_from_the_default() {
        let sized = ResponseBody::Length(0);
        for (version, keep_alive, body, want) in [
            (Http11, true, sized, ""),
            (Http11, false, sized, "Connection: close\r\n"),
            (Http10, true, sized, "Connection: keep-alive\r\n"),
            (Http10, false, sized, ""),
            (
                Http11,
                true,
                ResponseBody::UntilClose,
                "Connection: close\r\n",
            ),
            (Http10, true, ResponseBody::UntilClose, ""),
        ] {
            let head = ResponseHead {
                status: 204,
                version,
                keep_alive,
                body,
                content_type: None,
                date: None,
                extra: &[],
            };
            check(&head, &format!("HTTP/1.1 204 No Content\r\n{want}\r\n"));
        }
    }

    #[test]
    fn statuses_without_body_declare_none() {
        for (status, reason) in [(101, "Switching Protocols"), (204, "No Content")] {
            for body in [
                ResponseBody::Length(0),
                ResponseBody::Length(5),
                ResponseBody::Chunked,
            ] {
                let head = ResponseHead {
                    status,
                    version: Http11,
                    keep_alive: true,
                    body,
                    content_type: None,
                    date: None,
                    extra: &[],
                };
                check(&head, &format!("HTTP/1.1 {status} {reason}\r\n\r\n"));
            }
        }
    }

    #[test]
    fn errors_are_json() {
        assert_eq!(
            error_body("method_not_allowed", "Use GET."),
            r#"{"error":{"code":"method_not_allowed","message":"Use GET."}}"#
        );
    }

    #[test]
    fn writes_chunks() {
        let mut out = Vec::new();
        write_chunk(&mut out, b"");
        write_chunk(&mut out, b"a");
        write_chunk(&mut out, &[b'b'; 26]);
        out.extend_from_slice(LAST_CHUNK);
        assert_eq!(
            String::from_utf8_lossy(&out),
            format!("1\r\na\r\n1a\r\n{}\r\n0\r\n\r\n", "b".repeat(26))
        );
        for length in [1, 15, 16, 255, 256, 0xABC_DEF, usize::MAX] {
            assert_eq!(
                chunk_prefix(length).as_bytes(),
                format!("{length:x}\r\n").as_bytes()
            );
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix_seconds, date) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (1_735_689_600, "Wed, 01 Jan 2025 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(String::from_utf8_lossy(&http_date(unix_seconds)), date);
        }
    }

    /// The twin counts days one by one.
    #[test]
    fn dates_agree_with_counting() {
        let (mut year, mut month, mut day) = (1970, 0, 1);
        for days in 0..200_000 {
            let date = http_date(days * 86_400 + 86_399);
            let name = name_of(b"JanFebMarAprMayJunJulAugSepOctNovDec", month);
            let want = format!(
                "{day:02} {} {year:04} 23:59:59 GMT",
                String::from_utf8_lossy(name)
            );
            assert_eq!(String::from_utf8_lossy(&date[5..]), want);
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let days_of_month = [
                31,
                28 + u64::from(is_leap),
                31,
                30,
                31,
                30,
                31,
                31,
                30,
                31,
                30,
                31,
            ];
            day += 1;
            if day > days_of_month[month as usize] {
                (day, month) = (1, (month + 1) % 12);
                year += u64::from(month == 0);
            }
        }
    }

    #[track_caller]
    fn check(head: &ResponseHead<'_>, want: &str) {
        let mut out = Vec::new();
        write_head(&mut out, head);
        assert_eq!(String::from_utf8_lossy(&out), want);
    }
}
