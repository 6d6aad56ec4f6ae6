//! A message as it stands in the stream and is announced, written by `library.lua`:
//!
//! ```text
//! 1 EPOCH OFFSET PREVIOUS MICROSECONDS KIND TTL_MS STORED EVENT
//! PAYLOAD
//! ```
//!
//! Whoever may write to the server may write anything here. What is numbered is delivered in any case, since leaving it
//! out would look like a loss; what it says of itself is not believed.

use std::sync::Arc;

use crate::backplane::order::Arrival;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::{EPOCH_BYTES, Epoch, Position};
use crate::proto::json;
use crate::proto::payload::PayloadKind;
use crate::proto::sse_event::event_name_is_free;

/// The form that this node reads and `library.lua` writes.
const VERSION: &str = "1";

/// What was announced on a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Message(Arrival),
    /// The channel has another epoch.
    Moved,
    /// The channel was deleted.
    Ended,
}

impl Frame {
    /// `None`: this is no frame.
    pub(super) fn decode(channel: &ChannelName, bytes: &[u8]) -> Option<Self> {
        match bytes {
            b"moved" => Some(Self::Moved),
            b"ended" => Some(Self::Ended),
            _ => message(channel, bytes).map(Self::Message),
        }
    }
}

/// The message of a frame.
pub(super) fn message(channel: &ChannelName, bytes: &[u8]) -> Option<Arrival> {
    let line_end = memchr::memchr(b'\n', bytes)?;
    let (line, payload) = (&bytes[..line_end], &bytes[line_end + 1..]);
    let mut fields = str::from_utf8(line).ok()?.splitn(9, ' ');
    if fields.next()? != VERSION {
        return None;
    }
    let epoch = <[u8; EPOCH_BYTES]>::try_from(fields.next()?.as_bytes()).ok()?;
    let position = Position {
        epoch: Epoch::from_bytes(epoch)?,
        offset: number(fields.next()?)?,
    };
    let previous = number(fields.next()?)?;
    let published_us = number(fields.next()?)?;
    let kind = match fields.next()? {
        "json" => PayloadKind::Json,
        "text" => PayloadKind::Text,
        "binary" => PayloadKind::Binary,
        _ => return None,
    };
    let ttl_ms = match fields.next()? {
        "-" => None,
        ttl => Some(number(ttl)?),
    };
    let is_stored = match fields.next()? {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    let event = fields.next()?;
    if previous >= position.offset {
        return None;
    }
    let published_ms = published_us / 1000;
    let message = Message {
        channel: channel.clone(),
        position,
        previous,
        kind: real_kind(kind, payload),
        event: event_name_is_free(event).then(|| event.into()),
        payload: payload.into(),
        published_ms,
        published_us,
        expires_ms: ttl_ms.map_or(u64::MAX, |ttl| published_ms.saturating_add(ttl)),
    };
    Some(Arrival {
        message: Arc::new(message),
        is_stored,
    })
}

/// The kind that the payload has indeed, at most that which it is said to have.
fn real_kind(said: PayloadKind, payload: &[u8]) -> PayloadKind {
    match said {
        PayloadKind::Json if json::is_valid(payload) => PayloadKind::Json,
        PayloadKind::Json | PayloadKind::Text if str::from_utf8(payload).is_ok() => {
            PayloadKind::Text
        }
        _ => PayloadKind::Binary,
    }
}

/// As the frame says it.
pub(super) fn kind_name(kind: PayloadKind) -> &'static str {
    match kind {
        PayloadKind::Json => "json",
        PayloadKind::Text => "text",
        PayloadKind::Binary => "binary",
    }
}

fn number(text: &str) -> Option<u64> {
    // `u64::from_str` takes a sign.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "1 k3Qz9aXb 42 41 1700000000123456 json 5000 1 created";

    fn channel() -> ChannelName {
        ChannelName::parse("news").unwrap()
    }

    fn check(header: &str, payload: &[u8]) -> Option<Arrival> {
        message(&channel(), &[header.as_bytes(), b"\n", payload].concat())
    }

    #[test]
    fn a_message_says_all_of_itself() {
        let arrival = check(HEADER, b"{\"a\":1}").unwrap();
        assert!(arrival.is_stored);
        let message = &*arrival.message;
        assert_eq!(message.position.to_string(), "k3Qz9aXb-42");
        assert_eq!(message.previous, 41);
        assert_eq!(message.published_us, 1_700_000_000_123_456);
        assert_eq!(message.published_ms, 1_700_000_000_123);
        assert_eq!(message.expires_ms, 1_700_000_005_123);
        assert_eq!(message.kind, PayloadKind::Json);
        assert_eq!(message.event.as_deref(), Some("created"));
        assert_eq!(&*message.payload, b"{\"a\":1}");
        let other = check("1 k3Qz9aXb 1 0 1 binary - 0 ", b"\n\xff\n").unwrap();
        assert!(!other.is_stored);
        assert_eq!(other.message.event, None);
        assert_eq!(other.message.expires_ms, u64::MAX);
        assert_eq!(&*other.message.payload, b"\n\xff\n");
    }

    #[test]
    fn a_part_of_a_header_is_no_message() {
        let whole = format!("{HEADER}\n");
        for end in 0..whole.len() {
            let part = &whole.as_bytes()[..end];
            assert_eq!(Frame::decode(&channel(), part), None, "{end} bytes");
            // Nor with the line's end where it is broken off, until the event's name may begin.
            if end < whole.len() - "created\n".len() {
                let part = [part, b"\n"].concat();
                assert_eq!(Frame::decode(&channel(), &part), None, "{end} bytes");
            }
        }
        assert!(check(HEADER, b"").is_some());
    }

    #[test]
    fn nonsense_is_no_message() {
        for header in [
            "",
            "2 k3Qz9aXb 42 41 1 json - 1 ",
            "1 k3Qz9aX! 42 41 1 json - 1 ",
            "1 k3Qz9aXbb 42 41 1 json - 1 ",
            "1 k3Qz9aXb 42 42 1 json - 1 ",
            "1 k3Qz9aXb 42 43 1 json - 1 ",
            "1 k3Qz9aXb +2 1 1 json - 1 ",
            "1 k3Qz9aXb  1 1 json - 1 ",
            "1 k3Qz9aXb 18446744073709551616 1 1 json - 1 ",
            "1 k3Qz9aXb 42 41 1 yaml - 1 ",
            "1 k3Qz9aXb 42 41 1 json -1 1 ",
            "1 k3Qz9aXb 42 41 1 json - 2 ",
            "1 k3Qz9aXb 42 41 1 json - 1",
            "hello",
        ] {
            assert_eq!(check(header, b"1"), None, "{header}");
        }
    }

    #[test]
    fn a_payload_is_what_it_is_and_not_what_it_says() {
        use PayloadKind::{Binary, Json, Text};
        for (said, payload, wanted) in [
            ("json", &b"1"[..], Json),
            ("json", b"{", Text),
            ("json", b"\"\xff\"", Binary),
            ("text", b"{}", Text),
            ("text", b"\xff", Binary),
            ("binary", b"1", Binary),
        ] {
            let header = format!("1 k3Qz9aXb 2 1 1 {said} - 1 ");
            let kind = check(&header, payload).unwrap().message.kind;
            assert_eq!(kind, wanted, "{said} {payload:?}");
        }
    }

    #[test]
    fn an_event_name_that_nobody_may_have_is_left_out() {
        let names = ["pushring.gap", "a\rb", "a\0b", &"a".repeat(129)];
        for name in names {
            let header = format!("1 k3Qz9aXb 2 1 1 text - 1 {name}");
            assert_eq!(check(&header, b"").unwrap().message.event, None, "{name:?}");
        }
        let message = check("1 k3Qz9aXb 2 1 1 text - 1 two words", b"").unwrap();
        assert_eq!(message.message.event.as_deref(), Some("two words"));
    }

    #[test]
    fn a_notice_is_exactly_that() {
        for (bytes, wanted) in [("moved", Some(Frame::Moved)), ("ended", Some(Frame::Ended))] {
            assert_eq!(Frame::decode(&channel(), bytes.as_bytes()), wanted);
        }
        for bytes in ["move", "moved\n", "ended ", ""] {
            assert_eq!(Frame::decode(&channel(), bytes.as_bytes()), None);
        }
    }
}
