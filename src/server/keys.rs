//! The keys of the configuration with the files that they are in.

use std::fmt;
use std::sync::Arc;

use ureq::tls::RootCerts;

use crate::auth::api_key::{ApiKey, ApiKeys};
use crate::auth::key::{KeyError, TokenKey};
use crate::config::Config;
use crate::config::auth::{self, Access, Secret};
use crate::server::jwks::{Source, root_certificates};

/// What is wrong with the keys, one sentence for each mistake. Never empty.
#[derive(Debug)]
pub struct KeysError(Vec<String>);

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// All that the configuration says of keys, read and checked. An issuer's set that is behind a URL is only named.
#[derive(Debug)]
pub struct Keys {
    pub token_keys: Arc<[TokenKey]>,
    pub api_keys: Arc<ApiKeys>,
    pub issuer: Option<Source>,
    /// Whom to trust to be the backend.
    pub backend_roots: RootCerts,
}

impl Keys {
    pub fn load(config: &Config) -> Result<Self, KeysError> {
        let mut errors = Vec::new();
        let mut token_keys = Vec::new();
        for (kid, key) in &config.auth.token_keys {
            match token_key(kid, key) {
                Ok(key) => token_keys.push(key),
                Err(error) => errors.push(format!("token_key \"{kid}\": {error}")),
            }
        }
        let mut api_keys = Vec::new();
        for (name, key) in &config.auth.api_keys {
            match api_key(name, key) {
                Ok(key) => api_keys.push(key),
                Err(error) => errors.push(format!("api_key \"{name}\": {error}")),
            }
        }
        let backend_ca_file = config.callback.ca_file.as_deref();
        let backend_roots = root_certificates("callback_ca_file", backend_ca_file);
        let backend_roots = backend_roots.unwrap_or_else(|error| {
            errors.push(error);
            RootCerts::WebPki
        });
        let ca_file = config.auth.jwks_ca_file.as_deref();
        let issuer = config.auth.jwks.as_deref();
        let issuer = issuer.map(|text| Source::parse(text, ca_file)).transpose();
        let issuer = issuer.and_then(|source| {
            source.as_ref().map_or(Ok(()), Source::check)?;
            Ok(source)
        });
        match issuer {
            Ok(issuer) if errors.is_empty() => Ok(Self {
                token_keys: token_keys.into(),
                api_keys: Arc::new(ApiKeys::new(api_keys)),
                issuer,
                backend_roots,
            }),
            Ok(_) => Err(KeysError(errors)),
            Err(error) => {
                errors.push(format!("jwks: {error}"));
                Err(KeysError(errors))
            }
        }
    }
}

fn token_key(kid: &str, key: &auth::TokenKey) -> Result<TokenKey, String> {
    let algorithm = key.algorithm;
    let of_secret = |secret: &[u8]| TokenKey::from_secret(kid, algorithm, secret);
    let of_pem = |pem: &[u8]| TokenKey::from_pem(kid, algorithm, pem);
    let auth::TokenKey {
        secret,
        secret_file,
        public_key,
        public_key_file,
        ..
    } = key;
    let result = match (secret, secret_file, public_key, public_key_file) {
        (Some(Secret(secret)), None, None, None) => of_secret(secret.as_bytes()),
        (None, Some(file), None, None) => of_secret(&read_secret(file)?),
        (None, None, Some(pem), None) => of_pem(pem.as_bytes()),
        (None, None, None, Some(file)) => of_pem(&read(file)?),
        _ => Err(KeyError::NotOne),
    };
    result.map_err(|error| format!("{}: {error}", algorithm.word()))
}

fn api_key(name: &str, key: &auth::ApiKey) -> Result<ApiKey, String> {
    let secret = match (&key.secret, &key.secret_file) {
        (Some(Secret(secret)), None) => secret.clone().into_bytes(),
        (None, Some(file)) => read_secret(file)?,
        _ => return Err("give one of secret and secret_file".to_owned()),
    };
    ApiKey::new(name, &secret, &key.channels).map_err(|error| error.to_string())
}

/// Editors and `echo` put a line end behind what was meant.
fn read_secret(path: &str) -> Result<Vec<u8>, String> {
    let mut secret = read(path)?;
    if secret.ends_with(b"\n") {
        secret.pop();
        if secret.ends_with(b"\r") {
            secret.pop();
        }
    }
    Ok(secret)
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"))
}

/// What is set, and cannot have been meant: to be told at the start.
pub(super) fn advice(config: &Config) -> Vec<String> {
    let auth = &config.auth;
    let mut advice = Vec::new();
    let is_internal = |access: Access| access == Access::Internal;
    let mut namespaces = config.namespaces.values();
    let nobody_publishes = namespaces.all(|namespace| is_internal(namespace.publish));
    if auth.has_keys() && auth.api_keys.is_empty() && config.internal.is_none() && nobody_publishes
    {
        advice.push(
            "nobody may publish by POST /pub: set [api_key.NAME], or internal, or publish of a namespace".to_owned(),
        );
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::ConfigFile;

    /// `want`: how the error begins.
    #[track_caller]
    fn check(text: &str, want: Option<&str>) {
        let config = Config::load(Some(ConfigFile { path: "f", text }), [], []).unwrap();
        match (Keys::load(&config), want) {
            (Ok(_), None) => {}
            (Err(error), Some(want)) => {
                assert!(error.to_string().starts_with(want), "{text}: {error}")
            }
            (result, want) => panic!("{text}: {:?}, not {want:?}", result.err()),
        }
    }

    #[test]
    fn keys_are_given_in_one_way_and_fit_their_algorithm() {
        let secret = "0123456789abcdef0123456789abcdef";
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/src/auth/testdata");
        let pem = include_str!("../auth/testdata/ed25519.pub.pem");
        check("", None);
        check(&format!("[token_key.a]\nsecret = \"{secret}\""), None);
        check(
            &format!("[token_key.a]\nalgorithm = \"EdDSA\"\npublic_key = \"\"\"{pem}\"\"\""),
            None,
        );
        check(
            &format!(
                "[token_key.a]\nalgorithm = \"ES384\"\npublic_key_file = \"{data}/p384.pub.pem\""
            ),
            None,
        );
        check(&format!("jwks = \"{data}/jwks.json\""), None);
        check("jwks = \"http://127.0.0.1:9/keys\"", None);
        check(
            &format!("[api_key.a]\nsecret = \"{secret}\"\nchannels = [\"*\"]"),
            None,
        );
        for (text, want) in [
            (
                "[token_key.a]".to_owned(),
                "token_key \"a\": HS256: give one of",
            ),
            (
                format!("[token_key.a]\nsecret = \"{secret}\"\npublic_key = \"x\""),
                "token_key \"a\": HS256: give one of",
            ),
            (
                "[token_key.a]\nsecret = \"short\"".to_owned(),
                "token_key \"a\": HS256: the secret is too short",
            ),
            (
                format!("[token_key.a]\nalgorithm = \"RS256\"\nsecret = \"{secret}\""),
                "token_key \"a\": RS256: the algorithm takes a public key",
            ),
            (
                format!("[token_key.a]\npublic_key_file = \"{data}/rsa2048.pub.pem\""),
                "token_key \"a\": HS256: the algorithm takes a secret",
            ),
            (
                "[token_key.a]\nsecret_file = \"/no/such\"".to_owned(),
                "token_key \"a\": /no/such cannot be read",
            ),
            (
                "jwks = \"/no/such\"".to_owned(),
                "jwks: /no/such cannot be read",
            ),
            (format!("jwks = \"{data}/p256.pem\""), "jwks: "),
            (
                format!("jwks = \"https://a/k\"\njwks_ca_file = \"{data}/jwks.json\""),
                "jwks: ",
            ),
            (
                "[api_key.a]\nchannels = \"*\"".to_owned(),
                "api_key \"a\": give one of",
            ),
            (
                format!("[api_key.a]\nsecret = \"{secret}\""),
                "api_key \"a\": channels is missing",
            ),
        ] {
            check(&text, Some(want));
        }
    }
}
