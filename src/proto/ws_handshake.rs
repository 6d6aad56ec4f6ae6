//! The opening handshake of a WebSocket, server side (RFC 6455 §4.2). That the request is a GET with
//! `Upgrade: websocket` is decided where requests are routed.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

use super::refused::Refused;

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

impl From<HandshakeError> for Refused {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::VersionUnsupported => Self::new(
                426,
                "websocket_version_unsupported",
                "Send Sec-WebSocket-Version: 13 (RFC 6455).",
            ),
            HandshakeError::KeyMissing => Self::new(
                400,
                "websocket_key_missing",
                "Send a Sec-WebSocket-Key: 16 random bytes in base64.",
            ),
            HandshakeError::KeyInvalid => Self::new(
                400,
                "websocket_key_invalid",
                "Sec-WebSocket-Key has to be 16 random bytes in base64, 24 characters.",
            ),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &[u8; ACCEPT_BYTES] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    #[track_caller]
    fn check_key(key: &str, is_key: bool) {
        assert_eq!(accept_key(key).is_ok(), is_key, "{key:?}");
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        assert_eq!(accept_key(KEY), Ok(*ACCEPT));
        assert_eq!(check(Some("13"), Some(KEY)), Ok(*ACCEPT));
        assert_eq!(
            check(Some(" 13 "), Some(" dGhlIHNhbXBsZSBub25jZQ==\t")),
            Ok(*ACCEPT)
        );
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        check_key("AAAAAAAAAAAAAAAAAAAAAA==", true);
        check_key("/////////////////////w==", true);
        // 22 random characters.
        check_key("abcdefghijklmnopqrstuv==", true);
        check_key("", false);
        check_key("=", false);
        check_key("AAAAAAAAAAAAAAAAAAAAAA", false);
        check_key("AAAAAAAAAAAAAAAAAAAAAA=", false);
        check_key("AAAAAAAAAAAAAAAAAAAAA===", false);
        check_key("AAAAAAAAAAAAAAAAAAAAAAA=", false);
        check_key("AAAAAAAAAAAAAAAAAAAAAAAA", false);
        check_key("AAAAAAAAAAAAAAAAAAAAAAAA==", false);
        check_key("SGVsbG8sIHdvcmxkIQ==", false);
        check_key(" AAAAAAAAAAAAAAAAAAAAA==", false);
        check_key("AAAAAAAAAA\r\nAAAAAAAAAA==", false);
        check_key("ééééééééééé==", false);
        check_key(&"A".repeat(100_000), false);
    }

    #[test]
    fn every_byte_of_a_key_is_base64() {
        for byte in 0..128_u8 {
            let key = KEY.replacen('d', &char::from(byte).to_string(), 1);
            check_key(
                &key,
                byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/',
            );
        }
    }

    #[test]
    fn refusals_say_what_to_send() {
        let version = HandshakeError::VersionUnsupported;
        for (sent, key, expected) in [
            (None, Some(KEY), version),
            (Some(""), Some(KEY), version),
            (Some("8"), Some(KEY), version),
            (Some("013"), Some(KEY), version),
            (Some("13, 8"), Some(KEY), version),
            (None, None, version),
            (Some("13"), None, HandshakeError::KeyMissing),
            (Some("13"), Some("short"), HandshakeError::KeyInvalid),
        ] {
            let error = check(sent, key).unwrap_err();
            assert_eq!(error, expected, "{sent:?} {key:?}");
            let refused = Refused::from(error);
            assert_eq!(refused.status, if error == version { 426 } else { 400 });
            assert!(refused.code.starts_with("websocket_"));
            assert!(refused.message.contains("Sec-WebSocket-"));
        }
    }

    #[test]
    fn the_answer_carries_further_fields() {
        let mut out = Vec::new();
        write_101(&mut out, ACCEPT, &[]);
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert_eq!(str::from_utf8(&out), Ok(&*format!("{head}\r\n")));
        out.clear();
        write_101(
            &mut out,
            ACCEPT,
            &[("Pushring-Cursor", "k3-1"), ("Pushring-Recovered", "false")],
        );
        let extra = "Pushring-Cursor: k3-1\r\nPushring-Recovered: false\r\n\r\n";
        assert_eq!(str::from_utf8(&out), Ok(&*format!("{head}{extra}")));
    }
}
