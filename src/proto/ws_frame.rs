//! One WebSocket frame's header, mask and the frames the server writes (RFC 6455 §5.2, §5.5). What frames
//! mean together is [`ws_message`](super::ws_message).

/// The header of a frame from a client: flags and opcode, the longest length form, the mask.
pub const CLIENT_HEADER_BYTES_MAX: usize = 2 + 8 + 4;

/// The header of a frame from the server: no mask.
pub const SERVER_HEADER_BYTES_MAX: usize = 2 + 8;

/// The payload of a control frame (§5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;

/// The reason in a close frame: a control payload less the two bytes of the code (§5.5.1).
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_PAYLOAD_BYTES_MAX - 2;

/// A ping of the server; it has no payload, since any pong is a sign of life.
pub const PING: [u8; 2] = [0x89, 0x00];

/// The answer to a close frame that has no code.
pub const CLOSE_WITHOUT_CODE: [u8; 2] = [0x88, 0x00];

/// What a frame is (§5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    /// Control frames may stand between the fragments of a message and are never fragmented (§5.4).
    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    fn decode(nibble: u8) -> Option<Self> {
        Some(match nibble {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// The header of a client's frame; the length is as announced and bounded only by 2^63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub fin: bool,
    pub opcode: Opcode,
    pub payload_bytes: u64,
    pub mask: [u8; 4],
}

/// A header that no client may send. Each is a protocol error: close code 1002.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A reserved bit without an extension that gives it a meaning.
    ReservedBit,
    /// Opcodes 3–7 and B–F.
    ReservedOpcode,
    ControlFragmented,
    ControlTooLong,
    /// A client masks every frame (§5.1).
    Unmasked,
    /// "The minimal number of bytes MUST be used to encode the length" (§5.2).
    LengthNotMinimal,
    /// "The most significant bit MUST be 0" (§5.2).
    LengthTopBit,
}

impl FrameError {
    /// What the close frame says to the client.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ReservedBit => "reserved bits must be 0, no extension was negotiated",
            Self::ReservedOpcode => "unknown opcode",
            Self::ControlFragmented => "control frames must not be fragmented",
            Self::ControlTooLong => "control frames carry at most 125 bytes",
            Self::Unmasked => "frames from a client must be masked",
            Self::LengthNotMinimal => "payload length must use its shortest form",
            Self::LengthTopBit => "payload length must be below 2^63",
        }
    }
}

/// Decodes the header of a client's frame from the front of `input`; returns it with its length in bytes.
/// `Ok(None)`: more bytes are needed. A header is refused at its first wrong byte.
pub fn decode_header(input: &[u8]) -> Result<Option<(FrameHeader, usize)>, FrameError> {
    let Some(&first) = input.first() else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(FrameError::ReservedBit);
    }
    let fin = first & 0x80 != 0;
    let opcode = Opcode::decode(first & 0x0F).ok_or(FrameError::ReservedOpcode)?;
    if opcode.is_control() && !fin {
        return Err(FrameError::ControlFragmented);
    }

    let Some(&second) = input.get(1) else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(FrameError::Unmasked);
    }
    let short_length = second & 0x7F;
    if opcode.is_control() && usize::from(short_length) > CONTROL_PAYLOAD_BYTES_MAX {
        return Err(FrameError::ControlTooLong);
    }

    let after = &input[2..];
    let (payload_bytes, length_bytes) = match short_length {
        126 => match after.first_chunk::<2>() {
            Some(&length) => (u64::from(u16::from_be_bytes(length)), 2),
            None => return Ok(None),
        },
        127 => {
            if after.first().is_some_and(|byte| byte & 0x80 != 0) {
                return Err(FrameError::LengthTopBit);
            }
            match after.first_chunk::<8>() {
                Some(&length) => (u64::from_be_bytes(length), 8),
                None => return Ok(None),
            }
        }
        short => (u64::from(short), 0),
    };
    if (length_bytes == 2 && payload_bytes < 126) || (length_bytes == 8 && payload_bytes <= 0xFFFF)
    {
        return Err(FrameError::LengthNotMinimal);
    }

    let Some(&mask) = after[length_bytes..].first_chunk::<4>() else {
        return Ok(None);
    };
    let header = FrameHeader {
        fin,
        opcode,
        payload_bytes,
        mask,
    };
    Ok(Some((header, 2 + length_bytes + 4)))
}

/// Removes (or applies) the mask (§5.3). `payload` begins `offset_in_frame` bytes after the frame's header,
/// so that a frame can be unmasked as it arrives.
pub fn unmask(payload: &mut [u8], mask: [u8; 4], offset_in_frame: u64) {
    let mut turned = mask;
    turned.rotate_left((offset_in_frame % 4) as usize);
    let [a, b, c, d] = turned;
    let mask_word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ mask_word).to_ne_bytes();
    }
    for (byte, mask_byte) in tail.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask_byte;
    }
}

/// The header of a frame from the server, in place: 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug)]
pub struct ServerHeader {
    bytes: [u8; SERVER_HEADER_BYTES_MAX],
    len: u8,
}

impl ServerHeader {
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The header of a whole message or control frame from the server: final, unmasked, shortest length form.
pub fn server_header_array(opcode: Opcode, payload_bytes: usize) -> ServerHeader {
    let mut bytes = [0; SERVER_HEADER_BYTES_MAX];
    bytes[0] = 0x80 | opcode as u8;
    let len = match payload_bytes {
        0..=125 => {
            bytes[1] = payload_bytes as u8;
            2
        }
        126..=0xFFFF => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        }
    };
    ServerHeader { bytes, len }
}

/// Appends [`server_header_array`].
pub fn server_header(out: &mut Vec<u8>, opcode: Opcode, payload_bytes: usize) {
    out.extend_from_slice(server_header_array(opcode, payload_bytes).as_slice());
}

/// Appends a close frame. A reason over [`CLOSE_REASON_BYTES_MAX`] is cut at the end of a character.
pub fn close_frame(out: &mut Vec<u8>, code: u16, reason: &str) {
    let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    server_header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends the pong that answers a ping with this payload (§5.5.3).
pub fn pong_frame(out: &mut Vec<u8>, ping_payload: &[u8]) {
    debug_assert!(ping_payload.len() <= CONTROL_PAYLOAD_BYTES_MAX);
    server_header(out, Opcode::Pong, ping_payload.len());
    out.extend_from_slice(ping_payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    /// A header with the length in the form that `form` names: 7, 16 or 64 bits.
    fn header(first: u8, form: u32, payload_bytes: u64) -> Vec<u8> {
        let mut bytes = vec![first];
        match form {
            7 => bytes.push(0x80 | payload_bytes as u8),
            16 => {
                bytes.push(0x80 | 126);
                bytes.extend((payload_bytes as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(payload_bytes.to_be_bytes());
            }
        }
        bytes.extend(MASK);
        bytes
    }

    /// Every prefix is either "more bytes are needed" or, from some length on, the final answer.
    fn check(bytes: &[u8], expected: Result<(bool, Opcode, u64), FrameError>) {
        let expected = expected.map(|(fin, opcode, payload_bytes)| {
            Some((
                FrameHeader {
                    fin,
                    opcode,
                    payload_bytes,
                    mask: MASK,
                },
                bytes.len(),
            ))
        });
        assert_eq!(decode_header(bytes), expected, "{bytes:02X?}");
        let mut is_refused = false;
        for end in 0..bytes.len() {
            let decoded = decode_header(&bytes[..end]);
            if decoded == Ok(None) {
                assert!(!is_refused, "{bytes:02X?} takes a refusal back at {end}");
            } else {
                assert_eq!(decoded, expected, "{bytes:02X?} cut at {end}");
                is_refused = true;
            }
        }
        // What follows a header is not looked at.
        let followed = [bytes, &[0xFF; 20]].concat();
        assert_eq!(
            decode_header(&followed),
            expected,
            "{bytes:02X?} with bytes after it"
        );
    }

    #[test]
    fn lengths_use_their_shortest_form() {
        let longest = u64::MAX >> 1;
        for (form, payload_bytes) in [
            (7, 0),
            (7, 1),
            (7, 125),
            (16, 126),
            (16, 127),
            (16, 65535),
            (64, 65536),
            (64, 1 << 32),
            (64, longest),
        ] {
            check(
                &header(0x82, form, payload_bytes),
                Ok((true, Opcode::Binary, payload_bytes)),
            );
        }
        for (form, payload_bytes) in [
            (16, 0),
            (16, 125),
            (64, 0),
            (64, 125),
            (64, 126),
            (64, 65535),
        ] {
            check(
                &header(0x82, form, payload_bytes),
                Err(FrameError::LengthNotMinimal),
            );
        }
        for payload_bytes in [1 << 63, u64::MAX] {
            check(
                &header(0x82, 64, payload_bytes),
                Err(FrameError::LengthTopBit),
            );
        }
    }

    #[test]
    fn every_first_byte_has_its_verdict() {
        for first in 0..=255_u8 {
            let fin = first & 0x80 != 0;
            let opcode = match first & 0x0F {
                0 => Some(Opcode::Continuation),
                1 => Some(Opcode::Text),
                2 => Some(Opcode::Binary),
                8 => Some(Opcode::Close),
                9 => Some(Opcode::Ping),
                10 => Some(Opcode::Pong),
                _ => None,
            };
            let expected = match opcode {
                _ if first & 0x70 != 0 => Err(FrameError::ReservedBit),
                None => Err(FrameError::ReservedOpcode),
                Some(_) if first & 0x08 != 0 && !fin => Err(FrameError::ControlFragmented),
                Some(opcode) => Ok((fin, opcode, 5)),
            };
            check(&header(first, 7, 5), expected);
        }
    }

    #[test]
    fn every_second_byte_has_its_verdict() {
        for second in 0..=255_u8 {
            let is_masked = second >= 128;
            let short = second % 128;
            for (first, opcode) in [(0x81, Opcode::Text), (0x89, Opcode::Ping)] {
                let mut bytes = match short {
                    126 => header(first, 16, 1000),
                    127 => header(first, 64, 100_000),
                    short => header(first, 7, short.into()),
                };
                bytes[1] = second;
                let payload_bytes = [1000, 100_000].get(usize::from(short.max(126)) - 126);
                let expected = match payload_bytes {
                    _ if !is_masked => Err(FrameError::Unmasked),
                    _ if short < 126 => Ok((true, opcode, short.into())),
                    Some(_) if opcode == Opcode::Ping => Err(FrameError::ControlTooLong),
                    Some(&long) => Ok((true, opcode, long)),
                    None => unreachable!(),
                };
                check(&bytes, expected);
            }
        }
    }

    fn unmask_naive(payload: &mut [u8], mask: [u8; 4], offset_in_frame: u64) {
        for (byte, offset) in payload.iter_mut().zip(offset_in_frame..) {
            *byte ^= mask[(offset % 4) as usize];
        }
    }

    #[test]
    fn unmasking_by_words_agrees_with_the_naive_twin() {
        let bytes: Vec<u8> = (0..100).map(|byte: u8| byte.wrapping_mul(37)).collect();
        for start in 0..9 {
            for end in start..bytes.len() {
                for offset in [0, 1, 2, 3, 4, 13, u64::from(u32::MAX), u64::MAX >> 1] {
                    let (mut fast, mut naive) = (bytes.clone(), bytes.clone());
                    unmask(&mut fast[start..end], MASK, offset);
                    unmask_naive(&mut naive[start..end], MASK, offset);
                    assert_eq!(fast, naive, "{start}..{end} at {offset}");
                }
            }
        }
    }

    #[test]
    fn server_headers_have_the_shortest_form() {
        for (payload_bytes, expected) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65535, &[0x82, 126, 0xFF, 0xFF]),
            (65536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(
                server_header_array(Opcode::Binary, payload_bytes).as_slice(),
                expected
            );
        }
    }

    #[test]
    fn control_frames_of_the_server_are_whole_frames() {
        let mut out = Vec::new();
        pong_frame(&mut out, b"");
        pong_frame(&mut out, b"abc");
        close_frame(&mut out, 1000, "");
        close_frame(&mut out, 3001, "bye");
        assert_eq!(
            out,
            b"\x8A\x00\x8A\x03abc\x88\x02\x03\xE8\x88\x05\x0B\xB9bye"
        );
        out.clear();
        server_header(&mut out, Opcode::Ping, 0);
        server_header(&mut out, Opcode::Close, 0);
        assert_eq!(out, [PING, CLOSE_WITHOUT_CODE].concat());
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        for (reason, kept_bytes) in [
            ("x".repeat(123), 123),
            ("x".repeat(124), 123),
            ("é".repeat(62), 122),
            ("😀".repeat(31), 120),
        ] {
            let mut out = Vec::new();
            close_frame(&mut out, 1008, &reason);
            assert_eq!(out[..4], [0x88, 2 + kept_bytes as u8, 0x03, 0xF0]);
            assert_eq!(str::from_utf8(&out[4..]), Ok(&reason[..kept_bytes]));
        }
    }

    #[test]
    fn every_reason_fits_a_close_frame() {
        for error in [
            FrameError::ReservedBit,
            FrameError::ReservedOpcode,
            FrameError::ControlFragmented,
            FrameError::ControlTooLong,
            FrameError::Unmasked,
            FrameError::LengthNotMinimal,
            FrameError::LengthTopBit,
        ] {
            assert!(error.reason().len() <= CLOSE_REASON_BYTES_MAX);
        }
    }
}
