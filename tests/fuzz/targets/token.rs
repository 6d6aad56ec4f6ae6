//! Tokens: what is accepted was signed, in exactly this spelling, and whatever is signed is read without a panic.

use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use pushring::auth::key::{KeySet, TokenKey};
use pushring::auth::token::{Rules, verify};
use pushring::config::auth::{Auth, TokenAlgorithm};
use serde::Deserialize;

const SECRET: &[u8; 32] = b"a secret that only this file has";

/// What the server has to look at. Other members are nobody's, whatever is in them.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

/// A token as it is; and header and claims, parted by the first NUL, with a good signature.
pub(crate) fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let key = TokenKey::from_secret("k", TokenAlgorithm::Hs256, SECRET).expect("32 bytes");
    let keys = KeySet::new(vec![key]);
    let rules = Rules::new(&Auth::default());
    assert!(verify(text, &keys, &rules, 1).is_err(), "nobody signed it");
    let Some((header, claims)) = text.split_once('\0') else {
        return;
    };
    let message = format!("{}.{}", base64url(header), base64url(claims));
    let key = EncodingKey::from_secret(SECRET);
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a secret");
    let token = format!("{message}.{signature}");
    if let Ok(grant) = verify(&token, &keys, &rules, 1) {
        let header: Header = serde_json::from_str(header).expect("the server could read it");
        assert_eq!(header.alg, "HS256");
        assert!(header.kid.is_none_or(|kid| kid == "k"));
        assert!(grant.expires_unix_ms.is_some());
        // One more character, or one less, is another text.
        assert!(verify(&format!("{token}A"), &keys, &rules, 1).is_err());
        assert!(verify(&token[..token.len() - 1], &keys, &rules, 1).is_err());
    }
}

/// RFC 4648 §5, without padding.
fn base64url(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let characters = text.as_bytes().chunks(3).flat_map(|bytes| {
        let bits = bytes
            .iter()
            .fold(0, |bits, &byte| bits << 8 | usize::from(byte))
            << (8 * (3 - bytes.len()));
        let character = move |place: usize| ALPHABET[bits >> (18 - 6 * place) & 63] as char;
        (0..=bytes.len()).map(character)
    });
    characters.collect()
}
