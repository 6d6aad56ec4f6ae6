//! Key sets of an issuer: whatever it serves, a key that is taken is bound to an algorithm that takes a public key.

use pushring::auth::jwks::parse;

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    if let Ok(keys) = parse(text) {
        assert!(!keys.is_empty());
        assert!(
            keys.iter()
                .all(|key| key.algorithm.secret_bytes_min().is_none())
        );
    }
}
