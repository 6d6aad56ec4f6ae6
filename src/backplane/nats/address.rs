//! The setting `backplane` for NATS: `nats://user:password@host:4222,host2:4222?replicas=3`.

use std::borrow::Cow;

use crate::proto::query;

/// NATS's own limit.
const REPLICAS_MAX: u64 = 5;

/// What the URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Each `nats://host:port` or `tls://host:port`, without any secret.
    pub servers: Vec<String>,
    pub login: Option<Login>,
    /// `?replicas=`: on so many servers of a cluster the stream is kept, from when it is made.
    pub replicas: u64,
    /// `?credentials=`: path of a credentials file (a JWT with its seed).
    pub credentials_file: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Token(String),
    User { name: String, password: String },
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Address {
    /// Errors say what to write, and repeat nothing of the URL: it holds a password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url
            .split_once("://")
            .filter(|(scheme, _)| ["nats", "tls"].contains(scheme))
            .ok_or("backplane: write nats://host:4222, or tls://host:4222")?;
        let (authority, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let mut login = None;
        let mut servers = Vec::new();
        for part in authority.split(',') {
            let host = match part.rsplit_once('@') {
                Some((user, host)) => {
                    login = Some(Login::parse(user)?);
                    host
                }
                None => part,
            };
            if host.is_empty() || host.contains('/') {
                return Err(
                    "backplane: a host is missing; write nats://host:4222,host2:4222".into(),
                );
            }
            servers.push(format!("{scheme}://{host}"));
        }
        let mut address = Self {
            servers,
            login,
            replicas: 1,
            credentials_file: None,
        };
        for parameter in parameters.split('&').filter(|it| !it.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "replicas" => {
                    address.replicas = value
                        .parse()
                        .ok()
                        .filter(|replicas| (1..=REPLICAS_MAX).contains(replicas))
                        .ok_or("backplane: replicas is a number from 1 to 5")?;
                }
                "credentials" => address.credentials_file = Some(decoded(value)?.into_owned()),
                _ => return Err("backplane: NATS takes ?replicas= and ?credentials= only".into()),
            }
        }
        Ok(address)
    }
}

impl Login {
    fn parse(user: &str) -> Result<Self, String> {
        Ok(match user.split_once(':') {
            Some((name, password)) => Self::User {
                name: decoded(name)?.into_owned(),
                password: decoded(password)?.into_owned(),
            },
            None => Self::Token(decoded(user)?.into_owned()),
        })
    }
}

fn decoded(text: &str) -> Result<Cow<'_, str>, String> {
    query::decode_component(text, false)
        .map_err(|_| "backplane: write a % in a password as %25".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, servers: &[&str], login: Option<Login>, replicas: u64) {
        let address = Address::parse(url).unwrap();
        assert_eq!(address.servers, servers, "{url}");
        assert_eq!(address.login, login, "{url}");
        assert_eq!(address.replicas, replicas, "{url}");
    }

    #[test]
    fn a_url_names_servers_and_who_comes() {
        check("nats://localhost", &["nats://localhost"], None, 1);
        check("tls://a:1,b:2/", &["tls://a:1", "tls://b:2"], None, 1);
        check(
            "nats://u:p%40%3a@a:1,b?replicas=3",
            &["nats://a:1", "nats://b"],
            Some(Login::User {
                name: "u".into(),
                password: "p@:".into(),
            }),
            3,
        );
        check(
            "nats://s3cret@a",
            &["nats://a"],
            Some(Login::Token("s3cret".into())),
            1,
        );
        check("nats://[::1]:4222", &["nats://[::1]:4222"], None, 1);
        let address = Address::parse("nats://a?credentials=%2Fetc%2Fa.creds").unwrap();
        assert_eq!(address.credentials_file.as_deref(), Some("/etc/a.creds"));
    }

    #[test]
    fn a_refused_url_is_not_repeated() {
        for url in [
            "",
            "redis://secret@a",
            "nats://",
            "nats://secret@",
            "nats://secret@a,,b",
            "nats://secret@a/b",
            "nats://secret@a?replicas=0",
            "nats://secret@a?replicas=6",
            "nats://secret@a?secret=1",
            "nats://secret%@a",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(
                error.starts_with("backplane: ") && !error.contains("secret"),
                "{url}: {error}"
            );
        }
        let address = Address::parse("nats://u:secret@a").unwrap();
        assert!(!format!("{address:?}").contains("secret"));
    }
}
