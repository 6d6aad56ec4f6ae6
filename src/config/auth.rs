//! Who may do what: the keys, what a token has to be, and whom a namespace lets in.

use std::collections::BTreeMap;
use std::fmt;

use super::{MINUTE_MS, SECOND_MS};

/// Keys, and the rules for what is signed by them. Without any, and without `connect_url`, the server is in open mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// By `kid`.
    pub token_keys: BTreeMap<String, TokenKey>,
    /// By name, which is only for the operator.
    pub api_keys: BTreeMap<String, ApiKey>,
    /// A file, or a URL.
    pub jwks: Option<String>,
    /// Certificates in PEM to trust for the URL, instead of those that the public trusts.
    pub jwks_ca_file: Option<String>,
    pub jwks_refresh_ms: u64,
    /// Between two fetches for the sake of a token whose key is not known.
    pub jwks_refetch_interval_ms: u64,
    /// Where the backend is asked who somebody is that shows no token. `None`: it is not.
    pub connect_url: Option<String>,
    pub token_audience: Option<String>,
    pub token_issuer: Option<String>,
    /// How far the clocks of this host and of the tokens' issuer may be apart.
    pub token_leeway_ms: u64,
    pub token_exp_required: bool,
    /// The name of a cookie that may bring the token.
    pub token_cookie: Option<String>,
    /// Verified tokens of the process that are remembered.
    pub token_cache_max: usize,
    /// From a token's end to the end of what was opened with it.
    pub token_expiry_grace_ms: u64,
    /// How long a WebSocket may take to bring its token in the first message.
    pub auth_timeout_ms: u64,
}

/// One key that tokens may be signed with. A secret, or a public key: never both, and which one is decided by the
/// algorithm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenKey {
    pub algorithm: TokenAlgorithm,
    pub secret: Option<Secret>,
    pub secret_file: Option<String>,
    /// PEM.
    pub public_key: Option<String>,
    pub public_key_file: Option<String>,
}

/// What a backend shows to publish and to look at channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiKey {
    pub secret: Option<Secret>,
    pub secret_file: Option<String>,
    /// Names, and beginnings of names with a `*` behind them.
    pub channels: Vec<String>,
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Signatures of tokens (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenAlgorithm {
    #[default]
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Es256,
    Es384,
    EdDsa,
}

impl TokenAlgorithm {
    /// In the order of the enum, so that the discriminant is the index.
    pub const ALL: &[Self] = &[
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];
    /// As a token's `alg` has them.
    pub const WORDS: &[&str] = &[
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA",
    ];

    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// Bytes that a secret needs at least, the size of the hash (RFC 7518 §3.2); `None` for a public key.
    pub fn secret_bytes_min(self) -> Option<usize> {
        match self {
            Self::Hs256 => Some(32),
            Self::Hs384 => Some(48),
            Self::Hs512 => Some(64),
            _ => None,
        }
    }
}

/// Whom a namespace lets subscribe, or publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    Public,
    /// Anybody with a good token.
    Authenticated,
    /// Whose token lists the channel.
    Token,
    /// The backend only.
    Internal,
}

impl Access {
    /// In the order of the enum, so that the discriminant is the index.
    pub const ALL: &[Self] = &[
        Self::Public,
        Self::Authenticated,
        Self::Token,
        Self::Internal,
    ];
    pub const WORDS: &[&str] = &["public", "authenticated", "token", "internal"];
    /// Nobody subscribes for the backend alone.
    pub const SUBSCRIBE_WORDS: &[&str] = &["public", "authenticated", "token"];
}

impl Auth {
    /// Somebody can be told from a stranger.
    pub fn has_keys(&self) -> bool {
        self.knows_users() || !self.api_keys.is_empty()
    }

    /// One client can be told from another, by its token or by the backend.
    pub fn knows_users(&self) -> bool {
        self.verifies_tokens() || self.connect_url.is_some()
    }

    pub fn verifies_tokens(&self) -> bool {
        !self.token_keys.is_empty() || self.jwks.is_some()
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            token_keys: BTreeMap::new(),
            api_keys: BTreeMap::new(),
            jwks: None,
            jwks_ca_file: None,
            jwks_refresh_ms: 10 * MINUTE_MS,
            jwks_refetch_interval_ms: 10 * SECOND_MS,
            connect_url: None,
            token_audience: None,
            token_issuer: None,
            token_leeway_ms: 5 * SECOND_MS,
            token_exp_required: true,
            token_cookie: None,
            token_cache_max: 100_000,
            token_expiry_grace_ms: 10 * SECOND_MS,
            auth_timeout_ms: 10 * SECOND_MS,
        }
    }
}
