//! API keys: what a backend shows to publish and to look at channels.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::auth::pattern::Patterns;

/// Shorter ones can be guessed.
pub const SECRET_BYTES_MIN: usize = 16;
/// It has to fit into a header field.
pub const SECRET_BYTES_MAX: usize = 1024;

/// One key. The secret itself is not kept.
pub struct ApiKey {
    name: Box<str>,
    digest: [u8; 32],
    channels: Patterns,
}

/// Why a key of the configuration is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKeyError {
    TooShort,
    TooLong,
    NotVisibleAscii,
    NoChannels,
}

impl fmt::Display for ApiKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => {
                "the secret has less than 16 bytes: make one by `openssl rand -hex 32`"
            }
            Self::TooLong => "the secret has more than 1024 bytes",
            Self::NotVisibleAscii => {
                "the secret holds other bytes than visible ASCII, which no header field can carry"
            }
            Self::NoChannels => {
                "channels is missing: list the channels that it is good for, or \"*\" for all"
            }
        })
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.name)
    }
}

impl ApiKey {
    pub fn new(name: &str, secret: &[u8], channels: &[String]) -> Result<Self, ApiKeyError> {
        match secret {
            _ if secret.len() < SECRET_BYTES_MIN => Err(ApiKeyError::TooShort),
            _ if secret.len() > SECRET_BYTES_MAX => Err(ApiKeyError::TooLong),
            _ if !secret.iter().all(u8::is_ascii_graphic) => Err(ApiKeyError::NotVisibleAscii),
            _ if channels.is_empty() => Err(ApiKeyError::NoChannels),
            _ => Ok(Self {
                name: name.into(),
                digest: Sha256::digest(secret).into(),
                channels: Patterns::new(channels.iter().map(String::as_str)),
            }),
        }
    }
}

/// All keys of the configuration.
#[derive(Debug, Default)]
pub struct ApiKeys(Vec<ApiKey>);

impl ApiKeys {
    pub fn new(keys: Vec<ApiKey>) -> Self {
        Self(keys)
    }

    /// Compares digests, all of each and all keys, so that the time tells nothing of how near a guess was.
    pub fn find(&self, secret: &str) -> Option<usize> {
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        self.0
            .iter()
            .enumerate()
            .fold(None, |found, (number, key)| {
                let is_it = bool::from(key.digest.ct_eq(&digest));
                if is_it { Some(number) } else { found }
            })
    }

    pub fn channels(&self, number: usize) -> &Patterns {
        &self.0[number].channels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, secret: &str, channels: &[&str]) -> Result<ApiKey, ApiKeyError> {
        let channels: Vec<_> = channels.iter().map(|&it| it.to_owned()).collect();
        ApiKey::new(name, secret.as_bytes(), &channels)
    }

    #[test]
    fn a_key_is_found_by_its_secret_among_several() {
        let keys = ApiKeys::new(vec![
            key("old", "0123456789abcdef", &["*"]).unwrap(),
            key("new", "fedcba9876543210", &["news", "chat:*"]).unwrap(),
        ]);
        let name = |secret: &str| keys.find(secret).map(|number| &*keys.0[number].name);
        assert_eq!(name("0123456789abcdef"), Some("old"));
        assert_eq!(name("fedcba9876543210"), Some("new"));
        for wrong in [
            "",
            "0123456789abcde",
            "0123456789abcdeF",
            "0123456789abcdef0",
            "old",
        ] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        assert!(keys.channels(1).contains("chat:1"));
        assert_eq!(format!("{keys:?}"), "ApiKeys([ApiKey(old), ApiKey(new)])");
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        for (secret, channels, want) in [
            ("0123456789abcde", &["*"][..], ApiKeyError::TooShort),
            (&"x".repeat(1025), &["*"], ApiKeyError::TooLong),
            ("0123456789 abcdef", &["*"], ApiKeyError::NotVisibleAscii),
            (
                "0123456789abcde\u{e9}",
                &["*"],
                ApiKeyError::NotVisibleAscii,
            ),
            ("0123456789abcdef", &[], ApiKeyError::NoChannels),
        ] {
            assert_eq!(key("k", secret, channels).unwrap_err(), want, "{secret}");
        }
    }
}
