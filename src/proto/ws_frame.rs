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
