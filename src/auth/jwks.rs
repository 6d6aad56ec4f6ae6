//! A JSON Web Key Set (RFC 7517): the public keys of whoever issues the tokens.

use std::fmt;

use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::auth::key::TokenKey;
use crate::config::auth::TokenAlgorithm;

/// A set larger than this is none.
pub const JWKS_BYTES_MAX: usize = 1024 * 1024;
/// Keys of a set: each costs a verification where a token names none.
pub const KEYS_MAX: usize = 256;

/// Why a text is no set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwksError {
    NotASet,
    TooManyKeys,
    /// None of the keys is one that tokens here can be signed with.
    NoUsableKey,
}

impl fmt::Display for JwksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotASet => "this is no JSON Web Key Set: {\"keys\":[…]}",
            Self::TooManyKeys => "there are more than 256 keys",
            Self::NoUsableKey => {
                "no key is a public one for RS256, RS384, RS512, PS256, ES256, ES384 or EdDSA"
            }
        })
    }
}

/// The keys of the set. What is for other uses or by other algorithms is left out, as RFC 7517 §5 wants it; so are
/// secrets, which are nothing to publish.
pub fn parse(text: &str) -> Result<Vec<TokenKey>, JwksError> {
    #[derive(Deserialize)]
    struct Set<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }
    let set: Set<'_> = serde_json::from_str(text).map_err(|_| JwksError::NotASet)?;
    if set.keys.len() > KEYS_MAX {
        return Err(JwksError::TooManyKeys);
    }
    let keys = set.keys.iter().filter_map(|key| {
        let key: Jwk = serde_json::from_str(key.get()).ok()?;
        key.into_token_key()
    });
    let keys: Vec<_> = keys.collect();
    if keys.is_empty() {
        return Err(JwksError::NoUsableKey);
    }
    Ok(keys)
}

/// One key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    kid: Option<Box<str>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn into_token_key(self) -> Option<TokenKey> {
        use TokenAlgorithm::{EdDsa, Es256, Es384, Ps256, Rs256, Rs384, Rs512};
        if self.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        // Without `alg` the key's kind decides; for RSA it is what everybody means.
        let possible: &[TokenAlgorithm] = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => &[Rs256, Rs384, Rs512, Ps256],
            ("EC", Some("P-256")) => &[Es256],
            ("EC", Some("P-384")) => &[Es384],
            ("OKP", Some("Ed25519")) => &[EdDsa],
            _ => return None,
        };
        let algorithm = match self.alg.as_deref() {
            None => possible[0],
            Some(word) => *possible.iter().find(|algorithm| algorithm.word() == word)?,
        };
        let key = match algorithm {
            EdDsa => DecodingKey::from_ed_components(&self.x?),
            Es256 | Es384 => DecodingKey::from_ec_components(&self.x?, &self.y?),
            _ => DecodingKey::from_rsa_components(&self.n?, &self.e?),
        };
        TokenKey::new(self.kid, algorithm, key.ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = include_str!("testdata/jwks.json");

    /// `kid` and algorithm of each key.
    #[track_caller]
    fn check(text: &str, want: Result<&[(&str, &str)], JwksError>) {
        let keys = parse(text);
        let found = keys.as_ref().map_err(|error| *error).map(|keys| {
            let shown = keys
                .iter()
                .map(|key| (key.kid.as_deref().unwrap_or(""), key.algorithm.word()));
            shown.collect::<Vec<_>>()
        });
        assert_eq!(found, want.map(<[_]>::to_vec), "{text}");
    }

    #[test]
    fn a_set_gives_its_public_keys_for_signatures() {
        check(
            SET,
            Ok(&[
                ("rsa", "RS256"),
                ("pss", "PS256"),
                ("p256", "ES256"),
                ("p384", "ES384"),
                ("ed", "EdDSA"),
            ]),
        );
        let one = |key: &str| format!(r#"{{"keys":[{key}]}}"#);
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        check(
            &one(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#)),
            Ok(&[("", "EdDSA")]),
        );
        for key in [
            // A secret, a key for encryption, an unknown curve, an algorithm of another kind, a broken value.
            r#"{"kty":"oct","alg":"HS256","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#
                .to_owned(),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","use":"enc","x":"{x}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"X25519","x":"{x}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","alg":"HS256","x":"{x}"}}"#),
            r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#.to_owned(),
            r#"{"kty":"OKP","crv":"Ed25519"}"#.to_owned(),
            r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.to_owned(),
            // A short modulus behind zeros, and one that is even.
            format!(
                r#"{{"kty":"RSA","n":"{}AQAB","e":"AQAB"}}"#,
                "AAAA".repeat(100)
            ),
            format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, "gAAA".repeat(86)),
            r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#.to_owned(),
            "1".to_owned(),
        ] {
            check(&one(&key), Err(JwksError::NoUsableKey));
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            check(text, Err(JwksError::NotASet));
        }
        check(r#"{"keys":[]}"#, Err(JwksError::NoUsableKey));
        let many = vec!["1"; KEYS_MAX + 1].join(",");
        check(
            &format!(r#"{{"keys":[{many}]}}"#),
            Err(JwksError::TooManyKeys),
        );
    }
}
