//! The stamp at the front of every payload: when it was meant to be sent and which one it is.
//!
//! `pb:<16 hex digits of nanoseconds>:<8 hex digits of sequence>:` and then `x` up to the payload's size. It is plain
//! ASCII without anything that JSON or SSE escapes, so a receiver finds it again in a frame, an event or a poll's body,
//! and the run of `x` shows whether the payload came whole.

use memchr::memmem;

pub(crate) const STAMP_BYTES: usize = 3 + 16 + 1 + 8 + 1;

const MARK: &[u8] = b"pb:";
const FILLER: u8 = b'x';

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The moment the schedule asked for, not the moment of the send: a late sender counts as latency.
    pub(crate) intended_ns: u64,
    /// Counts the messages of one channel from 1.
    pub(crate) sequence: u32,
}

impl Stamp {
    /// Appends a payload of `payload_bytes` (at least [`STAMP_BYTES`]) to `out`.
    pub(crate) fn encode_payload(self, payload_bytes: usize, out: &mut Vec<u8>) {
        debug_assert!(payload_bytes >= STAMP_BYTES);
        let start = out.len();
        out.extend_from_slice(MARK);
        encode_hex(self.intended_ns, 16, out);
        out.push(b':');
        encode_hex(u64::from(self.sequence), 8, out);
        out.push(b':');
        out.resize(start + payload_bytes, FILLER);
    }

    /// Reads the stamp that `input` begins with.
    pub(crate) fn decode(input: &[u8]) -> Option<Self> {
        let digits = input.get(..STAMP_BYTES)?.strip_prefix(MARK)?;
        if digits[16] != b':' || digits[25] != b':' {
            return None;
        }
        let intended_ns = decode_hex(&digits[..16])?;
        let sequence = decode_hex(&digits[17..25])? as u32;
        Some(Self {
            intended_ns,
            sequence,
        })
    }
}

/// Finds the next stamped payload in a body: the payload and where the search goes on.
pub(crate) fn next_payload(body: &[u8]) -> Option<(&[u8], usize)> {
    let mut from = 0;
    while let Some(found) = memmem::find(&body[from..], MARK) {
        let start = from + found;
        if Stamp::decode(&body[start..]).is_some() {
            let end = start + STAMP_BYTES + filler_bytes(&body[start + STAMP_BYTES..]);
            return Some((&body[start..end], end));
        }
        from = start + MARK.len();
    }
    None
}

fn filler_bytes(input: &[u8]) -> usize {
    input
        .iter()
        .position(|&byte| byte != FILLER)
        .unwrap_or(input.len())
}

fn encode_hex(value: u64, digits: u32, out: &mut Vec<u8>) {
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * place)) as usize & 15]);
    }
}

fn decode_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        Some(value << 4 | u64::from((*digit as char).to_digit(16)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_gives_its_stamp_back() {
        for (intended_ns, sequence, payload_bytes) in [
            (0, 0, STAMP_BYTES),
            (1, 2, 64),
            (u64::MAX, u32::MAX, 128),
            (0x0123_4567_89ab_cdef, 77, 4096),
        ] {
            check(
                Stamp {
                    intended_ns,
                    sequence,
                },
                payload_bytes,
            );
        }
    }

    #[test]
    fn finds_every_payload_of_a_body() {
        let mut body = br#"{"cursor":"pb:1","messages":[{"data":""#.to_vec();
        Stamp {
            intended_ns: 5,
            sequence: 1,
        }
        .encode_payload(40, &mut body);
        body.extend_from_slice(br#""},{"data":""#);
        Stamp {
            intended_ns: 6,
            sequence: 2,
        }
        .encode_payload(STAMP_BYTES, &mut body);
        body.extend_from_slice(br#""}]}"#);

        let (first, end) = next_payload(&body).unwrap();
        assert_eq!(
            (first.len(), Stamp::decode(first).unwrap().sequence),
            (40, 1)
        );
        let (second, end_of_second) = next_payload(&body[end..]).unwrap();
        assert_eq!(
            (second.len(), Stamp::decode(second).unwrap().sequence),
            (STAMP_BYTES, 2)
        );
        assert_eq!(next_payload(&body[end + end_of_second..]), None);
    }

    #[test]
    fn what_is_no_stamp_is_none() {
        for input in [
            &b""[..],
            b"pb:",
            b"pb:0000000000000000-00000001:",
            b"pb:000000000000000g:00000001:",
        ] {
            assert_eq!(Stamp::decode(input), None);
        }
    }

    #[track_caller]
    fn check(stamp: Stamp, payload_bytes: usize) {
        let mut payload = Vec::new();
        stamp.encode_payload(payload_bytes, &mut payload);
        assert_eq!(payload.len(), payload_bytes);
        assert_eq!(Stamp::decode(&payload), Some(stamp));
        assert_eq!(next_payload(&payload), Some((&payload[..], payload_bytes)));
        for len in 0..STAMP_BYTES {
            assert_eq!(Stamp::decode(&payload[..len]), None, "prefix of {len}");
        }
    }
}
