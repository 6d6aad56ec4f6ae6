//! Rules between settings, once each value is in range.

use std::fmt;
use std::net::SocketAddr;

use super::Config;
use super::address::ListenAddress;
use super::auth::Access;
use super::load::ConfigErrors;
use super::value::{show_bytes, show_duration_ms};

/// A server without keys was told to listen where strangers can reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenModeError {
    pub address: SocketAddr,
    /// The setting that holds the address.
    pub setting: &'static str,
}

impl fmt::Display for OpenModeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, setting } = self;
        let remedy = match *setting {
            "internal" => "in the file a table [api_key.NAME] with secret_file and channels",
            _ => {
                "in the file a table [token_key.NAME] with algorithm and secret_file or public_key_file, or jwks, or \
                 connect_url, for the clients; [api_key.NAME] with secret_file and channels for the backend"
            }
        };
        write!(
            f,
            "{setting} = {address} is not a loopback address, and this server asks nobody for a key: \
             whoever reaches it could publish and listen. Set a key ({remedy}); or bind it to 127.0.0.1 or [::1]; or, \
             if only trusted peers can reach it (a private network, a proxy in front that authenticates), \
             give --insecure (in the file: insecure = true)"
        )
    }
}

impl Config {
    /// Without keys only loopback addresses may be listened on, unless the operator says `insecure`. Any key will do
    /// for `listen`, where publishing then needs one, and so does a backend that is asked about every listener; the
    /// internal address asks for API keys only.
    pub fn check_open_mode(&self) -> Result<(), OpenModeError> {
        let is_exposed = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
        let is_guarded = self.auth.has_keys() || self.is_left_to_backend();
        let listen = self.listen.iter().filter(|_| !is_guarded);
        let internal = self
            .internal_tcp()
            .filter(|_| self.auth.api_keys.is_empty());
        let mut addresses = listen
            .map(|a| ("listen", *a))
            .chain(internal.map(|a| ("internal", a)));
        match addresses.find(|(_, address)| is_exposed(address)) {
            Some((setting, address)) if !self.insecure => Err(OpenModeError { address, setting }),
            _ => Ok(()),
        }
    }

    /// Strangers reach nothing but listening, and the backend decides on that everywhere. Whom it lets in may then
    /// publish, too, where `client_publish` is set.
    fn is_left_to_backend(&self) -> bool {
        let mut namespaces = self.namespaces.values();
        self.internal.is_some()
            && namespaces.all(|namespace| {
                namespace.authorize_url.is_some() && namespace.publish != Access::Public
            })
    }

    /// A unix socket is as near as a loopback address.
    fn internal_tcp(&self) -> Option<SocketAddr> {
        self.internal.as_ref().and_then(ListenAddress::tcp)
    }

    /// Whether the values, fine alone, are so together.
    pub fn check_relations(&self) -> Result<(), ConfigErrors> {
        let found = self.contradictions();
        match found.is_empty() {
            true => Ok(()),
            false => Err(ConfigErrors(found)),
        }
    }

    /// Values that are fine alone and not together; each sentence says which to change.
    fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.contradictions_of_entrances(&mut found);
        self.contradictions_of_tls(&mut found);
        self.contradictions_of_limits(&mut found);
        self.contradictions_of_backplane(&mut found);
        self.contradictions_of_namespaces(&mut found);
        found
    }

    fn contradictions_of_entrances(&self, found: &mut Vec<String>) {
        let listen = self.listen.iter().copied();
        let mut addresses: Vec<_> = listen
            .chain(self.internal_tcp())
            .filter(|address| address.port() != 0)
            .collect();
        addresses.sort();
        for pair in addresses.windows(2).filter(|pair| pair[0] == pair[1]) {
            found.push(format!(
                "{} is to be listened on twice: change listen or internal",
                pair[0]
            ));
        }
        for (setting, is_on) in [
            ("proxy_protocol", self.proxy_protocol),
            ("internal_proxy_protocol", self.internal_proxy_protocol),
        ] {
            if is_on && self.proxy_sources.is_empty() {
                found.push(format!(
                    "{setting} is on and proxy_sources is none, so nobody could connect: list the balancers' addresses \
                     in proxy_sources"
                ));
            }
        }
        if let (Some(ListenAddress::Unix(_)), true) = (&self.internal, self.internal_proxy_protocol)
        {
            found.push(
                "internal_proxy_protocol is on and internal is a unix socket, which no balancer connects to: turn it off"
                    .to_owned(),
            );
        }
    }

    fn contradictions_of_tls(&self, found: &mut Vec<String>) {
        for (certificate, key, has_certificate, has_key) in [
            (
                "tls_certificate",
                "tls_key",
                self.tls_certificate.is_some(),
                self.tls_key.is_some(),
            ),
            (
                "internal_tls_certificate",
                "internal_tls_key",
                self.internal_tls_certificate.is_some(),
                self.internal_tls_key.is_some(),
            ),
        ] {
            if has_certificate != has_key {
                let (given, missing) = match has_certificate {
                    true => (certificate, key),
                    false => (key, certificate),
                };
                found.push(format!(
                    "{given} is set and {missing} is none: set both, or none"
                ));
            }
        }
        if self.internal_tls_certificate.is_some() && self.internal.is_none() {
            found.push(
                "internal_tls_certificate is set and internal is none: set internal, or use tls_certificate"
                    .to_owned(),
            );
        }
    }

    fn contradictions_of_limits(&self, found: &mut Vec<String>) {
        let (limits, timing) = (&self.limits, &self.timing);
        let mut at_least =
            |high: (&str, usize), low: (&str, usize), show: fn(u64) -> String, otherwise: &str| {
                if high.1 < low.1 {
                    let (high_shown, low_shown) = (show(high.1 as u64), show(low.1 as u64));
                    found.push(format!(
                        "{} ({high_shown}) is below {} ({low_shown}): {otherwise}",
                        high.0, low.0
                    ));
                }
            };
        at_least(
            ("poll_limit_max", limits.poll_limit_max),
            ("poll_limit_default", limits.poll_limit_default),
            |n| n.to_string(),
            "raise it, or lower poll_limit_default",
        );
        at_least(
            ("head_bytes_max", limits.head_bytes_max),
            ("target_bytes_max", limits.target_bytes_max),
            show_bytes,
            "raise it, or lower target_bytes_max, which is a part of the head",
        );
        at_least(
            ("outbox_bytes_total_max", limits.outbox_bytes_total_max),
            ("outbox_bytes_max", limits.outbox_bytes_max),
            show_bytes,
            "raise it, or lower outbox_bytes_max",
        );
        if timing.drain_timeout_ms < timing.drain_period_ms {
            found.push(format!(
                "drain_timeout ({}) is below drain_period ({}): raise it, or connections are cut before they are told",
                show_duration_ms(timing.drain_timeout_ms),
                show_duration_ms(timing.drain_period_ms),
            ));
        }
    }

    fn contradictions_of_backplane(&self, found: &mut Vec<String>) {
        if self.backplane.is_none() {
            return;
        }
        let timing = &self.timing;
        if self.history_dir.is_some() {
            found.push(
                "backplane and history_dir are both set: with a broker the histories are there. Set one of them".into(),
            );
        }
        // A look at a channel is also what keeps it known to the broker.
        if timing.channel_idle_timeout_ms < 2 * timing.backplane_check_interval_ms {
            found.push(
                "channel_idle_timeout is below twice backplane_check_interval, so the broker would forget channels in \
                 use: raise it, or lower backplane_check_interval"
                    .into(),
            );
        }
        if self.backplane_prefix.as_deref().unwrap_or("").is_empty() {
            found.push(
                "backplane is set and backplane_prefix is empty: give the nodes a prefix".into(),
            );
        }
    }

    fn contradictions_of_namespaces(&self, found: &mut Vec<String>) {
        if !self.auth.knows_users() {
            let needs_token = |n: &&super::Namespace| {
                let asks = [Access::Authenticated, Access::Token];
                asks.contains(&n.subscribe) || asks.contains(&n.publish)
            };
            if let Some((name, _)) = self.namespaces.iter().find(|(_, n)| needs_token(n)) {
                found.push(format!(
                    "namespace \"{name}\" asks for tokens, and there is no key to verify them: set [token_key.NAME], \
                     jwks or connect_url, or subscribe and publish to public or internal"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::auth::{ApiKey, TokenKey};
    use crate::config::network::Network;

    #[test]
    fn without_keys_only_loopback_is_listened_on_unless_insecure() {
        // (listen, internal, what is refused)
        for (listen, internal, want) in [
            (&["127.0.0.1:8080"][..], None, None),
            (
                &["127.9.9.9:8080", "[::1]:0", "[::ffff:127.0.0.1]:1"],
                Some("127.0.0.1:1"),
                None,
            ),
            (&["127.0.0.1:8080"], Some("unix:/run/pushring.sock"), None),
            (&["0.0.0.0:8080"], None, Some(("listen", "0.0.0.0:8080"))),
            (
                &["127.0.0.1:8080", "[::]:8080"],
                None,
                Some(("listen", "[::]:8080")),
            ),
            (
                &["127.0.0.1:8080"],
                Some("10.0.0.1:1"),
                Some(("internal", "10.0.0.1:1")),
            ),
        ] {
            let mut config = Config {
                listen: listen.iter().map(|a| a.parse().unwrap()).collect(),
                internal: internal.map(|a| a.parse().unwrap()),
                ..Config::default()
            };
            let want = want.map(|(setting, a)| OpenModeError {
                setting,
                address: a.parse().unwrap(),
            });
            assert_eq!(
                config.check_open_mode(),
                want.map_or(Ok(()), Err),
                "{listen:?} {internal:?}"
            );
            config.insecure = true;
            assert_eq!(config.check_open_mode(), Ok(()));
        }
    }

    #[test]
    fn keys_open_the_addresses_that_they_guard() {
        let any: SocketAddr = "0.0.0.0:1".parse().unwrap();
        let exposed = |listen: bool, internal: bool| Config {
            listen: vec![if listen {
                any
            } else {
                "127.0.0.1:1".parse().unwrap()
            }],
            internal: internal.then_some(ListenAddress::Tcp(any)),
            ..Config::default()
        };
        for (listen, internal, of_tokens, of_backend) in [
            (true, false, None, None),
            (false, true, Some("internal"), None),
            (true, true, Some("internal"), None),
        ] {
            let refused =
                |config: &Config| config.check_open_mode().err().map(|error| error.setting);
            let mut config = exposed(listen, internal);
            let first = if listen { "listen" } else { "internal" };
            assert_eq!(refused(&config), Some(first));
            config.auth.jwks = Some("keys.json".to_owned());
            assert_eq!(refused(&config), of_tokens);
            config.auth.jwks = None;
            config
                .auth
                .token_keys
                .insert("a".to_owned(), TokenKey::default());
            assert_eq!(refused(&config), of_tokens);
            config.auth.token_keys.clear();
            config
                .auth
                .api_keys
                .insert("a".to_owned(), ApiKey::default());
            assert_eq!(refused(&config), of_backend);
        }
        let error = exposed(true, false)
            .check_open_mode()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("[token_key.NAME]") && error.contains("--insecure"),
            "{error}"
        );
    }

    #[test]
    fn the_defaults_do_not_contradict_each_other() {
        check(|_| {}, &[]);
    }

    #[test]
    fn contradictions_name_both_settings() {
        check(
            |c| c.internal = Some(c.listen[0].into()),
            &["127.0.0.1:8080 is to be listened on twice"],
        );
        check(
            |c| c.limits.poll_limit_max = 99,
            &["poll_limit_max (99) is below poll_limit_default (100)"],
        );
        check(
            |c| c.limits.head_bytes_max = 1024,
            &["head_bytes_max (1KiB) is below target_bytes_max (8KiB)"],
        );
        check(
            |c| c.timing.drain_period_ms = 11_000,
            &["drain_timeout (10s) is below drain_period (11s)"],
        );
        let wants_tokens = |c: &mut Config| {
            c.namespaces.get_mut("").unwrap().subscribe = Access::Authenticated;
        };
        check(wants_tokens, &["namespace \"\" asks for tokens"]);
        check(
            |c| {
                wants_tokens(c);
                c.auth.jwks = Some("keys.json".to_owned());
            },
            &[],
        );
        check(
            |c| c.limits.outbox_bytes_total_max = 1024,
            &["outbox_bytes_total_max (1KiB) is below outbox_bytes_max (1MiB)"],
        );
        check(
            |c| (c.proxy_protocol, c.internal_proxy_protocol) = (true, true),
            &[
                "proxy_protocol is on and proxy_sources is none",
                "internal_proxy_protocol is on and proxy_sources is none",
            ],
        );
        let with_sources = |c: &mut Config| {
            c.proxy_protocol = true;
            c.proxy_sources = vec![Network::parse("10.0.0.0/8").unwrap()];
        };
        check(with_sources, &[]);
        let unix_proxy = |c: &mut Config| {
            with_sources(c);
            c.internal_proxy_protocol = true;
            c.internal = Some("unix:/a".parse().unwrap());
        };
        check(
            unix_proxy,
            &["internal_proxy_protocol is on and internal is"],
        );
        let some = || Some("/a.pem".to_owned());
        check(
            |c| c.tls_key = some(),
            &["tls_key is set and tls_certificate is none"],
        );
        check(
            |c| c.internal_tls_certificate = some(),
            &[
                "internal_tls_certificate is set and internal_tls_key is none",
                "internal_tls_certificate is set and internal is none",
            ],
        );
        check(|c| (c.tls_certificate, c.tls_key) = (some(), some()), &[]);
        let no_history = |c: &mut Config| {
            let namespace = c.namespaces.get_mut("").unwrap();
            (namespace.history_bytes, namespace.history_messages) = (0, 0);
        };
        check(no_history, &[]);
        check(|c| c.listen = vec!["127.0.0.1:0".parse().unwrap(); 2], &[]);
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), want: &[&str]) {
        let mut config = Config::default();
        change(&mut config);
        let found = config.contradictions();
        assert_eq!(found.len(), want.len(), "{found:?}");
        for (found, want) in found.iter().zip(want) {
            assert!(found.starts_with(want), "{found}");
        }
    }
}
