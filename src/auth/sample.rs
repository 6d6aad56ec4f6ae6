//! Keys and tokens for tests.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::Value;

use crate::auth::Authenticator;
use crate::auth::api_key::{ApiKey, ApiKeys};
use crate::auth::key::{KeySet, TokenKey};
use crate::config::Config;
use crate::config::auth::{self, TokenAlgorithm};

/// API keys for everything, and for `news` and `chat:…`.
pub(crate) const MASTER_KEY: &str = "master-0123456789";
pub(crate) const CHAT_KEY: &str = "chat-key-0123456789";

/// A key of 32 equal bytes.
pub(crate) fn key(kid: &str, byte: u8) -> TokenKey {
    TokenKey::from_secret(kid, TokenAlgorithm::Hs256, &[byte; 32]).unwrap()
}

/// The keys of [`configure`].
pub(crate) fn keys() -> KeySet {
    KeySet::new(vec![key("main", 1)])
}

/// A token with these claims by the key that [`key`] makes.
pub(crate) fn token(kid: &str, byte: u8, claims: &Value) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#));
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    let message = format!("{header}.{claims}");
    let key = EncodingKey::from_secret(&[byte; 32]);
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

/// Gives `config` a token key, and API keys if wanted.
pub(crate) fn configure(config: &mut Config, with_api_keys: bool) {
    let keys = &mut config.auth;
    keys.token_keys
        .insert("main".to_owned(), auth::TokenKey::default());
    if with_api_keys {
        for name in ["master", "chat"] {
            keys.api_keys
                .insert(name.to_owned(), auth::ApiKey::default());
        }
    }
}

/// Verifies with the keys that [`configure`] stands for.
pub(crate) fn authenticator(config: &Config) -> Authenticator {
    let list = |channels: &[&str]| channels.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    let api_key = |name: &str, secret: &str, channels: &[&str]| {
        ApiKey::new(name, secret.as_bytes(), &list(channels)).unwrap()
    };
    let api_keys = match config.auth.api_keys.is_empty() {
        true => ApiKeys::default(),
        false => ApiKeys::new(vec![
            api_key("master", MASTER_KEY, &["*"]),
            api_key("chat", CHAT_KEY, &["news", "chat:*"]),
        ]),
    };
    Authenticator::new(config, keys(), Arc::new(api_keys), 1)
}
