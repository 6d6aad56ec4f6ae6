//! Server-Sent Events: the lines of a stream (WHATWG HTML §9.2). Chunked transfer coding around them is HTTP's
//! business.
//!
//! A block is lines up to an empty one: the id line, which is a subscriber's own, and the rest, which all
//! subscribers of a channel share.

use memchr::memchr2;

/// A comment line alone: no empty line follows, since widely used clients turn a block of nothing but comments
/// into an empty message.
pub const KEEP_ALIVE: &[u8] = b":\n";

/// The event type that tells of lost messages.
pub const GAP_EVENT: &str = "pushring.gap";

/// Longest event name in bytes.
pub const EVENT_NAME_BYTES_MAX: usize = 128;

/// Whether a message may have this event name: one line, no NUL, neither empty nor too long.
pub fn event_name_is_valid(name: &str) -> bool {
    (1..=EVENT_NAME_BYTES_MAX).contains(&name.len()) && is_one_line(name)
}

/// The first bytes of a stream: a comment, so that a browser's `open` fires at once, and the delay before a
/// reconnect. They begin the first event's block; no empty line ends them.
pub fn write_opening(out: &mut Vec<u8>, retry_ms: u64) {
    out.extend_from_slice(b":ok\nretry: ");
    out.extend_from_slice(retry_ms.to_string().as_bytes());
    out.push(b'\n');
}

/// One message: [`write_id_line`] and [`write_event_body`].
pub fn write_event(out: &mut Vec<u8>, id: Option<&str>, event: Option<&str>, data: &[u8]) {
    if let Some(id) = id {
        write_id_line(out, id);
    }
    write_event_body(out, event, data);
}

/// The line that the client repeats as `Last-Event-ID`.
pub fn write_id_line(out: &mut Vec<u8>, id: &str) {
    write_field(out, b"id: ", id);
}

/// The rest of the block with the empty line that ends it. `data` is UTF-8; CR, LF and CRLF end a line of it
/// and reach the client as LF. A line end at the end of `data` gives an empty last line, so it is not lost.
pub fn write_event_body(out: &mut Vec<u8>, event: Option<&str>, data: &[u8]) {
    if let Some(event) = event {
        write_field(out, b"event: ", event);
    }
    let mut rest = data;
    loop {
        let line_end = memchr2(b'\r', b'\n', rest);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest[..line_end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(line_end) = line_end else {
            break;
        };
        let line_end_bytes = if rest[line_end..].starts_with(b"\r\n") {
            2
        } else {
            1
        };
        rest = &rest[line_end + line_end_bytes..];
    }
    out.push(b'\n');
}

/// Tells that messages are lost; `json` is [`json::write_gap`](super::json::write_gap).
pub fn write_gap(out: &mut Vec<u8>, id: Option<&str>, json: &str) {
    write_event(out, id, Some(GAP_EVENT), json.as_bytes());
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &str) {
    debug_assert!(is_one_line(value), "{value:?}");
    out.extend_from_slice(name);
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// CR or LF would begin a field of the value's own making; a client ignores an id with NUL.
fn is_one_line(value: &str) -> bool {
    !value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}
