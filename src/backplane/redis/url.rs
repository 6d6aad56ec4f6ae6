//! Where the servers are, and who we are to them: the setting `backplane`.
//!
//! ```text
//! redis://[[user]:password@]host[:port][/db]
//! redis+sentinel://[[user]:password@]host[:port],host[:port]…/master[/db]
//! redis+cluster://[[user]:password@]host[:port],host[:port]…
//! ```
//!
//! `rediss` in the place of `redis` is TLS to all of them. What is no letter, digit or `-._~` in a user or password is
//! percent-encoded.

use std::fmt;

/// Why a URL cannot be used. Says nothing of what is in it, since a password may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UrlError {
    Scheme,
    Credentials,
    Host,
    Port,
    SeveralHosts,
    Database,
    MasterMissing,
    PathInCluster,
}

impl UrlError {
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Scheme => {
                "backplane: begin with redis://, redis+sentinel:// or redis+cluster://, or rediss in its place for TLS"
            }
            Self::Credentials => {
                "backplane: write user:password@ or :password@, percent-encoded, or nothing before the host"
            }
            Self::Host => "backplane: name a host, an IPv4 address, or an IPv6 address in brackets",
            Self::Port => "backplane: a port is a number from 1 to 65535",
            Self::SeveralHosts => {
                "backplane: redis:// is one server; for several write redis+sentinel:// or redis+cluster://"
            }
            Self::Database => "backplane: the database after the slash is a number",
            Self::MasterMissing => {
                "backplane: with redis+sentinel:// end with /NAME, the master's name at the sentinels"
            }
            Self::PathInCluster => "backplane: a cluster has no databases; end after the last host",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedisUrl {
    pub(super) tls: bool,
    pub(super) credentials: Option<Credentials>,
    pub(super) servers: Servers,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    Single {
        address: Address,
        db: i64,
    },
    Sentinel {
        sentinels: Vec<Address>,
        master: String,
        db: i64,
    },
    Cluster(Vec<Address>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    /// `None`: the server's default user.
    pub(super) user: Option<String>,
    pub(super) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl RedisUrl {
    pub(super) fn parse(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let (protocol, layout) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match protocol {
            "redis" => false,
            "rediss" => true,
            _ => return Err(UrlError::Scheme),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(Credentials::parse(credentials)?), hosts),
            None => (None, authority),
        };
        let servers = match layout {
            "" if hosts.contains(',') => return Err(UrlError::SeveralHosts),
            "" if scheme.ends_with('+') => return Err(UrlError::Scheme),
            "" => Servers::Single {
                address: Address::parse(hosts, 6379)?,
                db: database(path)?,
            },
            "sentinel" => {
                let (master, db) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(UrlError::MasterMissing);
                }
                Servers::Sentinel {
                    sentinels: addresses(hosts, 26_379)?,
                    master: master.into(),
                    db: database(db)?,
                }
            }
            "cluster" if path.is_empty() => Servers::Cluster(addresses(hosts, 6379)?),
            "cluster" => return Err(UrlError::PathInCluster),
            _ => return Err(UrlError::Scheme),
        };
        Ok(Self {
            tls,
            credentials,
            servers,
        })
    }
}

impl Credentials {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let (user, password) = text.split_once(':').ok_or(UrlError::Credentials)?;
        let user = percent_decode(user)?;
        Ok(Self {
            user: (!user.is_empty()).then_some(user),
            password: percent_decode(password)?,
        })
    }
}

impl Address {
    fn parse(text: &str, default_port: u16) -> Result<Self, UrlError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
                let is_end = port.is_empty() || port.starts_with(':');
                if !is_end || host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(UrlError::Host);
                }
                (host, port.strip_prefix(':'))
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(UrlError::Host);
        }
        let port = match port {
            None => default_port,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(UrlError::Port),
            },
        };
        Ok(Self {
            host: host.into(),
            port,
        })
    }
}

fn addresses(hosts: &str, default_port: u16) -> Result<Vec<Address>, UrlError> {
    hosts
        .split(',')
        .map(|host| Address::parse(host, default_port))
        .collect()
}

fn database(text: &str) -> Result<i64, UrlError> {
    match text {
        "" => Ok(0),
        digits => digits
            .parse::<u16>()
            .map(i64::from)
            .map_err(|_| UrlError::Database),
    }
}

fn percent_decode(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or(UrlError::Credentials)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(UrlError::Credentials);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str) -> (bool, Option<(String, String)>, String) {
        let RedisUrl {
            tls,
            credentials,
            servers,
        } = RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error:?}"));
        let join = |addresses: Vec<Address>| {
            let texts: Vec<_> = addresses.iter().map(Address::to_string).collect();
            texts.join(" ")
        };
        let servers = match servers {
            Servers::Single { address, db } => format!("{address} {db}"),
            Servers::Sentinel {
                sentinels,
                master,
                db,
            } => format!("{} {master} {db}", join(sentinels)),
            Servers::Cluster(seeds) => join(seeds),
        };
        let credentials = credentials.map(|all| (all.user.unwrap_or_default(), all.password));
        (tls, credentials, servers)
    }

    #[test]
    fn every_layout_can_be_named() {
        let login = |user: &str, password: &str| Some((user.into(), password.into()));
        for (url, tls, credentials, servers) in [
            ("redis://localhost", false, None, "localhost:6379 0"),
            ("redis://localhost/", false, None, "localhost:6379 0"),
            ("rediss://[::1]:1/7", true, None, "[::1]:1 7"),
            ("redis://[::1]", false, None, "[::1]:6379 0"),
            ("redis://:pw@h", false, login("", "pw"), "h:6379 0"),
            (
                "redis://me:p%40%2f:w@h:9/2",
                false,
                login("me", "p@/:w"),
                "h:9 2",
            ),
            ("redis://me:@h", false, login("me", ""), "h:6379 0"),
            ("redis+sentinel://a,b:1/my", false, None, "a:26379 b:1 my 0"),
            (
                "rediss+sentinel://:p@a/my/3",
                true,
                login("", "p"),
                "a:26379 my 3",
            ),
            ("redis+cluster://a:7000,b", false, None, "a:7000 b:6379"),
            ("rediss+cluster://u:p@a", true, login("u", "p"), "a:6379"),
        ] {
            assert_eq!(check(url), (tls, credentials, servers.into()), "{url}");
        }
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong() {
        for (url, wanted) in [
            ("", UrlError::Scheme),
            ("localhost:6379", UrlError::Scheme),
            ("http://h", UrlError::Scheme),
            ("redis+ring://h", UrlError::Scheme),
            ("redis+://h", UrlError::Scheme),
            ("redis://", UrlError::Host),
            ("redis://:6379", UrlError::Host),
            ("redis://[::1", UrlError::Host),
            ("redis://[::1]x", UrlError::Host),
            ("redis://[h]", UrlError::Host),
            ("redis://a b", UrlError::Host),
            ("redis://h:0", UrlError::Port),
            ("redis://h:65536", UrlError::Port),
            ("redis://h:", UrlError::Port),
            ("redis://a,b", UrlError::SeveralHosts),
            ("redis://h/x", UrlError::Database),
            ("redis://h/-1", UrlError::Database),
            ("redis://h/1/2", UrlError::Database),
            ("redis://pw@h", UrlError::Credentials),
            ("redis://:p%4@h", UrlError::Credentials),
            ("redis://:p%4x@h", UrlError::Credentials),
            ("redis://:p%ff@h", UrlError::Credentials),
            ("redis+sentinel://a,b", UrlError::MasterMissing),
            ("redis+sentinel://a//1", UrlError::MasterMissing),
            ("redis+sentinel://a,/my", UrlError::Host),
            ("redis+cluster://a/0", UrlError::PathInCluster),
        ] {
            assert_eq!(RedisUrl::parse(url), Err(wanted), "{url}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let url = RedisUrl::parse("redis://me:geheim@h").unwrap();
        assert!(!format!("{url:?}").contains("geheim"));
    }
}
