//! Keys that tokens are verified with, each bound to one algorithm.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, crypto};

use crate::auth::rsa;
use crate::config::auth::TokenAlgorithm;

/// One key.
pub struct TokenKey {
    /// `None`: a key of a set that gives it no name.
    pub kid: Option<Box<str>>,
    pub algorithm: TokenAlgorithm,
    key: DecodingKey,
}

/// Why a key of the configuration is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Less than the algorithm's hash has.
    SecretTooShort { bytes_min: usize },
    /// Neither a secret nor a public key, or several.
    NotOne,
    /// A secret for an algorithm that takes a public key.
    SecretForPublic,
    /// A public key for an algorithm that takes a secret: it would be a secret that everybody has.
    PublicForSecret,
    /// Not PEM, not a public key, or of another kind than the algorithm needs.
    PublicKeyInvalid,
    /// Less than 2048 bits.
    RsaTooShort,
    /// More than 4096 bits.
    RsaTooLong,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SecretTooShort { bytes_min } => {
                return write!(
                    f,
                    "the secret is too short for the algorithm, which needs {bytes_min} bytes: make one by \
                     `openssl rand -hex {}`",
                    bytes_min
                );
            }
            Self::NotOne => "give one of secret, secret_file, public_key and public_key_file",
            Self::SecretForPublic => "the algorithm takes a public key, not a secret",
            Self::PublicForSecret => "the algorithm takes a secret, not a public key",
            Self::PublicKeyInvalid => {
                "this is no public key for the algorithm: give PEM that begins with -----BEGIN PUBLIC KEY-----"
            }
            Self::RsaTooShort => "an RSA key needs 2048 bits at least",
            Self::RsaTooLong => "an RSA key may have 4096 bits at most",
        })
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({:?}, {})", self.kid, self.algorithm.word())
    }
}

impl TokenKey {
    pub fn from_secret(
        kid: &str,
        algorithm: TokenAlgorithm,
        secret: &[u8],
    ) -> Result<Self, KeyError> {
        match algorithm.secret_bytes_min() {
            None => Err(KeyError::SecretForPublic),
            Some(bytes_min) if secret.len() < bytes_min => {
                Err(KeyError::SecretTooShort { bytes_min })
            }
            Some(_) => Ok(Self {
                kid: Some(kid.into()),
                algorithm,
                key: DecodingKey::from_secret(secret),
            }),
        }
    }

    pub fn from_pem(kid: &str, algorithm: TokenAlgorithm, pem: &[u8]) -> Result<Self, KeyError> {
        use TokenAlgorithm::{EdDsa, Es256, Es384, Ps256, Rs256, Rs384, Rs512};
        let key = match algorithm {
            Rs256 | Rs384 | Rs512 | Ps256 => DecodingKey::from_rsa_pem(pem),
            Es256 | Es384 => DecodingKey::from_ec_pem(pem),
            EdDsa => DecodingKey::from_ed_pem(pem),
            _ => return Err(KeyError::PublicForSecret),
        };
        let key = key.map_err(|_| KeyError::PublicKeyInvalid)?;
        Self::new(Some(kid.into()), algorithm, key)
    }

    /// Only with a key that fits the algorithm.
    pub(super) fn new(
        kid: Option<Box<str>>,
        algorithm: TokenAlgorithm,
        key: DecodingKey,
    ) -> Result<Self, KeyError> {
        // The library takes the first 32 bytes, however many there are.
        let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
        if algorithm == TokenAlgorithm::EdDsa && bytes != 32 {
            return Err(KeyError::PublicKeyInvalid);
        }
        // Whether the key is of the algorithm's kind, and a point on its curve.
        if crypto::verify("", b"", &key, library(algorithm)).is_err() {
            return Err(KeyError::PublicKeyInvalid);
        }
        if key.family() == AlgorithmFamily::Rsa {
            rsa::check(&key)?;
        }
        Ok(Self {
            kid,
            algorithm,
            key,
        })
    }

    /// `signature` in base64url over `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        crypto::verify(signature, message, &self.key, library(self.algorithm)).unwrap_or(false)
    }
}

fn library(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::Hs256 => Algorithm::HS256,
        TokenAlgorithm::Hs384 => Algorithm::HS384,
        TokenAlgorithm::Hs512 => Algorithm::HS512,
        TokenAlgorithm::Rs256 => Algorithm::RS256,
        TokenAlgorithm::Rs384 => Algorithm::RS384,
        TokenAlgorithm::Rs512 => Algorithm::RS512,
        TokenAlgorithm::Ps256 => Algorithm::PS256,
        TokenAlgorithm::Es256 => Algorithm::ES256,
        TokenAlgorithm::Es384 => Algorithm::ES384,
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

/// All keys: those of the configuration, and those of the issuer's set. Either is replaced as a whole,
/// beside the other.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    pub configured: Arc<[TokenKey]>,
    pub issued: Arc<[TokenKey]>,
}

impl KeySet {
    pub fn new(configured: Vec<TokenKey>) -> Self {
        Self {
            configured: configured.into(),
            issued: Arc::default(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &TokenKey> {
        self.configured.iter().chain(&*self.issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TokenAlgorithm::{EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Rs256};

    const RSA: &[u8] = include_bytes!("testdata/rsa2048.pub.pem");
    const RSA_1024: &[u8] = include_bytes!("testdata/rsa1024.pub.pem");
    const P256: &[u8] = include_bytes!("testdata/p256.pub.pem");
    const P384: &[u8] = include_bytes!("testdata/p384.pub.pem");
    const ED25519: &[u8] = include_bytes!("testdata/ed25519.pub.pem");
    const PRIVATE: &[u8] = include_bytes!("testdata/p256.pem");

    #[track_caller]
    fn check(result: Result<TokenKey, KeyError>, want: Option<KeyError>) {
        assert_eq!(result.err(), want);
    }

    #[test]
    fn a_secret_is_as_long_as_the_hash() {
        for (algorithm, bytes_min) in [(Hs256, 32), (Hs384, 48), (Hs512, 64)] {
            check(
                TokenKey::from_secret("k", algorithm, &vec![7; bytes_min]),
                None,
            );
            let want = Some(KeyError::SecretTooShort { bytes_min });
            check(
                TokenKey::from_secret("k", algorithm, &vec![7; bytes_min - 1]),
                want,
            );
        }
        check(
            TokenKey::from_secret("k", Rs256, &[7; 99]),
            Some(KeyError::SecretForPublic),
        );
    }

    #[test]
    fn a_public_key_is_of_the_kind_that_the_algorithm_needs() {
        for (algorithm, pem) in [
            (Rs256, RSA),
            (Ps256, RSA),
            (Es256, P256),
            (Es384, P384),
            (EdDsa, ED25519),
        ] {
            check(TokenKey::from_pem("k", algorithm, pem), None);
        }
        check(
            TokenKey::from_pem("k", Rs256, RSA_1024),
            Some(KeyError::RsaTooShort),
        );
        check(
            TokenKey::from_pem("k", Hs256, RSA),
            Some(KeyError::PublicForSecret),
        );
        for (algorithm, pem) in [
            (Es256, P384),
            (Es384, P256),
            (Rs256, P256),
            (Es256, RSA),
            (EdDsa, P256),
            (Es256, ED25519),
            (Es256, PRIVATE),
            (Es256, &b"no PEM"[..]),
            (Rs256, b""),
        ] {
            let want = Some(KeyError::PublicKeyInvalid);
            check(TokenKey::from_pem("k", algorithm, pem), want);
        }
    }
}
