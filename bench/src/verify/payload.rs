//! What a message's number says about it: kind, event name and every byte of the payload.
//!
//! So nobody has to keep payloads: a receiver reads the number and makes the message again. The number stands at the
//! front as `m:<8 hex digits>:`, in bytes that JSON, base64 and event streams leave alone or that are decoded first.

use fastrand::Rng;

const MARK: &[u8] = b"m:";
/// `{"` and the mark; nothing else stands in front of the number.
const FRONT_BYTES_MAX: usize = 16;

/// Where the length of a WebSocket frame changes its form, and the largest message that a server takes by default.
const EDGES: &[usize] = &[125, 126, 127, 1_400, 4_096, 65_535, 65_536];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Text,
    Binary,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) event: Option<&'static str>,
    pub(super) payload: Vec<u8>,
}

impl Message {
    /// The message that `number` stands for in a run with this seed.
    pub(super) fn make(seed: u64, number: u32) -> Self {
        let mut rng = Rng::with_seed(seed ^ (u64::from(number) << 20));
        let event = [None, None, Some("created"), Some("a name, with: signs")][rng.usize(..4)];
        let bytes = match rng.u32(..1_000) {
            0..2 => EDGES[rng.usize(..EDGES.len())],
            2..30 => EDGES[rng.usize(..EDGES.len() - 2)],
            _ => rng.usize(24..300),
        };
        let (kind, mut payload, end) = match rng.u32(..4) {
            0 => (Kind::Json, b"{\"".to_vec(), &b"\":[1,2.50,null]}"[..]),
            1 => (Kind::Binary, Vec::new(), &b""[..]),
            _ => (Kind::Text, Vec::new(), &b""[..]),
        };
        payload.extend_from_slice(MARK);
        payload.extend_from_slice(format!("{number:08x}:").as_bytes());
        let filler_bytes = bytes.saturating_sub(payload.len() + end.len());
        fill(kind, filler_bytes, &mut rng, &mut payload);
        payload.extend_from_slice(end);
        Self {
            kind,
            event,
            payload,
        }
    }

    pub(super) fn content_type(&self) -> &'static str {
        match self.kind {
            Kind::Json => "application/json",
            Kind::Text => "text/plain",
            Kind::Binary => "application/octet-stream",
        }
    }
}

/// Bytes that an encoder may stumble over: quotes, line ends, letters of two bytes, any byte at all.
fn fill(kind: Kind, bytes: usize, rng: &mut Rng, payload: &mut Vec<u8>) {
    let end = payload.len() + bytes;
    while payload.len() < end {
        let room = end - payload.len();
        match (kind, rng.u8(..)) {
            (Kind::Binary, byte) => payload.push(byte),
            (Kind::Text, 0..4) => payload.push(b'\n'),
            (Kind::Text, 4..8) => payload.push(b"\"\\:/<"[rng.usize(..5)]),
            (_, 8..16) if room >= 2 => payload.extend_from_slice("é".as_bytes()),
            (Kind::Json, 16..20) if room >= 2 => payload.extend_from_slice(b"\\n"),
            (_, byte) => payload.push(b'a' + byte % 26),
        }
    }
}

/// The number that a payload begins with.
pub(super) fn number_of(payload: &[u8]) -> Option<u32> {
    let front = &payload[..payload.len().min(FRONT_BYTES_MAX)];
    let at = memchr::memmem::find(front, MARK)? + MARK.len();
    let digits = std::str::from_utf8(payload.get(at..at + 8)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_again_and_gives_the_same_message() {
        let mut kinds = [0; 3];
        for number in 0..20_000 {
            let message = Message::make(7, number);
            assert_eq!(number_of(&message.payload), Some(number));
            assert_eq!(message, Message::make(7, number));
            assert!(message.payload.len() <= 65_536);
            match message.kind {
                Kind::Json => {
                    serde_json::from_slice::<serde_json::Value>(&message.payload).unwrap();
                }
                Kind::Text => drop(String::from_utf8(message.payload).unwrap()),
                Kind::Binary => {}
            }
            kinds[message.kind as usize] += 1;
        }
        assert!(kinds.iter().all(|&count| count > 3_000), "{kinds:?}");
    }

    #[test]
    fn what_has_no_number_is_none() {
        for payload in [&b""[..], b"m:", b"m:0000000", b"m:0000000g:", b"hello"] {
            assert_eq!(number_of(payload), None);
        }
    }
}
