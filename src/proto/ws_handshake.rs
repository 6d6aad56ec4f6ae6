//! The opening handshake of a WebSocket, server side (RFC 6455 §4.2). That the request is a GET with
//! `Upgrade: websocket` is decided where requests are routed.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

/// Base64 of a SHA-1.
pub const ACCEPT_BYTES: usize = 28;

/// Base64 of the 16 bytes of a key.
const KEY_BYTES: usize = 24;

/// "Globally Unique Identifier" of §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// There are clients that draw 22 characters instead of 16 bytes, so the four bits that the last character
/// has too many may be anything.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Why a handshake is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Answered with `Sec-WebSocket-Version: 13` (§4.2.2).
    VersionUnsupported,
    KeyMissing,
    KeyInvalid,
}

impl HandshakeError {
    pub fn status(self) -> u16 {
        match self {
            Self::VersionUnsupported => 426,
            Self::KeyMissing | Self::KeyInvalid => 400,
        }
    }

    pub fn code(self) -> &'static str {
        match self {
            Self::VersionUnsupported => "websocket_version_unsupported",
            Self::KeyMissing => "websocket_key_missing",
            Self::KeyInvalid => "websocket_key_invalid",
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Self::VersionUnsupported => "Send Sec-WebSocket-Version: 13 (RFC 6455).",
            Self::KeyMissing => "Send a Sec-WebSocket-Key: 16 random bytes in base64.",
            Self::KeyInvalid => {
                "Sec-WebSocket-Key has to be 16 random bytes in base64, 24 characters."
            }
        }
    }
}

/// Checks `Sec-WebSocket-Version` and `Sec-WebSocket-Key`; returns the value of `Sec-WebSocket-Accept`.
pub fn check(
    version: Option<&str>,
    key: Option<&str>,
) -> Result<[u8; ACCEPT_BYTES], HandshakeError> {
    if version.map(str::trim_ascii) != Some("13") {
        return Err(HandshakeError::VersionUnsupported);
    }
    accept_key(key.ok_or(HandshakeError::KeyMissing)?.trim_ascii())
}

/// `Sec-WebSocket-Accept` for a client's key (§4.2.2, 5.4).
pub fn accept_key(key: &str) -> Result<[u8; ACCEPT_BYTES], HandshakeError> {
    // 24 characters with padding may hold 16, 17 or 18 bytes.
    let mut nonce = [0; 18];
    let is_key = key.len() == KEY_BYTES && KEY_BASE64.decode_slice(key, &mut nonce) == Ok(16);
    if !is_key {
        return Err(HandshakeError::KeyInvalid);
    }
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; ACCEPT_BYTES];
    let written = STANDARD.encode_slice(hash, &mut accept);
    debug_assert_eq!(written, Ok(ACCEPT_BYTES));
    Ok(accept)
}

/// Appends the answer that ends the handshake, with further header fields. Their values have to be valid.
pub fn write_101(out: &mut Vec<u8>, accept: &[u8; ACCEPT_BYTES], extra: &[(&str, &str)]) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept);
    out.extend_from_slice(b"\r\n");
    for (name, value) in extra {
        debug_assert!(
            !name.contains(['\r', '\n', ':']) && !value.contains(['\r', '\n']),
            "{name}: {value}"
        );
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}
