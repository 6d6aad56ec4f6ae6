//! A WebSocket client (RFC 6455) that reads frames by their length and masks with the key zero.
//!
//! The zero key leaves the payload as it is, so a pong or a chat message is a constant head in front of its bytes; to
//! the server it is masked like any other (§5.3 asks for an unpredictable key, which protects proxies, not servers).

use super::http::decode_head;
use super::{ClientError, Event, Reading};

pub(crate) const OPCODE_TEXT: u8 = 0x1;
pub(crate) const OPCODE_BINARY: u8 = 0x2;
pub(crate) const OPCODE_CLOSE: u8 = 0x8;
pub(crate) const OPCODE_PING: u8 = 0x9;
pub(crate) const OPCODE_PONG: u8 = 0xA;

pub(crate) fn decode(
    reading: &mut Reading,
    input: &[u8],
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<usize, ClientError> {
    let mut consumed = 0;
    if *reading == Reading::Head {
        let Some(head) = decode_head(input)? else {
            return Ok(0);
        };
        if head.status != 101 {
            return Err(ClientError::Refused(head.status));
        }
        *reading = Reading::Stream;
        consumed = head.head_bytes;
        on_event(Event::Opened);
    }
    while let Some((first, payload, frame_bytes)) = decode_frame(&input[consumed..])? {
        consumed += frame_bytes;
        match first & 0x0F {
            // A message in fragments counts once, at its first frame, which holds the stamp.
            OPCODE_TEXT | OPCODE_BINARY => on_event(Event::Message(payload)),
            OPCODE_PING => on_event(Event::Ping(payload)),
            OPCODE_CLOSE => {
                let code = payload
                    .get(..2)
                    .map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                on_event(Event::Close(code));
            }
            _ => {}
        }
    }
    Ok(consumed)
}

/// Appends a masked text frame around `payload`.
pub(crate) fn encode_text(payload: &[u8], out: &mut Vec<u8>) {
    encode_frame(OPCODE_TEXT, payload, out);
}

pub(crate) fn encode_pong(payload: &[u8], out: &mut Vec<u8>) {
    encode_frame(OPCODE_PONG, payload, out);
}

pub(crate) fn encode_frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    const FIN: u8 = 0x80;
    const MASKED: u8 = 0x80;
    out.push(FIN | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(MASKED | length as u8),
        length @ 126..=0xFFFF => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// First byte, payload and size of a frame.
pub(crate) type Frame<'a> = (u8, &'a [u8], usize);

/// Reads the unmasked frame at the front of `input`; `Ok(None)` means "not enough bytes yet".
pub(crate) fn decode_frame(input: &[u8]) -> Result<Option<Frame<'_>>, ClientError> {
    let &[first, second, ref rest @ ..] = input else {
        return Ok(None);
    };
    if second & 0x80 != 0 {
        // §5.1: a client closes on a masked frame.
        return Err(ClientError::Malformed);
    }
    let (length, length_bytes) = match second {
        126 => match rest.first_chunk::<2>() {
            Some(bytes) => (usize::from(u16::from_be_bytes(*bytes)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes) as usize, 8),
            None => return Ok(None),
        },
        length => (usize::from(length), 0),
    };
    let payload = rest.get(length_bytes..).and_then(|rest| rest.get(..length));
    Ok(payload.map(|payload| (first, payload, 2 + length_bytes + length)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::check_splits;
    use super::*;

    const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    #[test]
    fn reads_the_upgrade_and_every_kind_of_frame() {
        check(b"", &[]);
        check(b"\x81\x05hello", &["message hello"]);
        check(
            b"\x82\x7e\x00\x03abc\x89\x00\x89\x02hi",
            &["message abc", "ping ", "ping hi"],
        );
        check(
            b"\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x01a\x8a\x00",
            &["message a"],
        );
        check(b"\x88\x02\x03\xe9", &["close 1001"]);
        check(b"\x88\x00", &["close 1005"]);
    }

    #[test]
    fn tells_a_refusal_from_nonsense() {
        for (input, want) in [
            (
                &b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..],
                ClientError::Refused(503),
            ),
            (b"SSH-2.0\r\n\r\n", ClientError::Malformed),
            (
                b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x80",
                ClientError::Malformed,
            ),
        ] {
            assert_eq!(
                decode(&mut { Reading::Head }, input, &mut |_| {}),
                Err(want)
            );
        }
    }

    #[test]
    fn masks_at_every_length_form() {
        for length in [0, 125, 126, 0xFFFF, 0x1_0000] {
            let mut out = Vec::new();
            encode_text(&vec![b'a'; length], &mut out);
            out[1] &= 0x7F;
            let key_at = out.len() - length - 4;
            out.drain(key_at..key_at + 4);
            let (first, payload, frame_bytes) = decode_frame(&out).unwrap().unwrap();
            assert_eq!(
                (first, payload.len(), frame_bytes),
                (0x81, length, out.len())
            );
        }
    }

    #[track_caller]
    fn check(frames: &[u8], want: &[&str]) {
        check_splits(
            decode,
            &[ACCEPTED, frames].concat(),
            &[&["opened"], want].concat(),
        );
    }
}
