//! Another configuration for a server that runs: what of it takes effect, and what the operator reads about it.

use std::collections::BTreeSet;
use std::fmt;

use super::Config;
use super::setting::{HIDDEN, Setting};
use super::table::{NAMESPACE_SETTINGS, SETTINGS};

/// From these, entrances, threads, the log's form, the caches of callbacks, the directory of histories and the
/// connections to brokers were made at the start. All others take effect by a reload.
pub const RESTART_SETTINGS: &[&str] = &[
    "listen",
    "internal",
    "internal_mode",
    "proxy_protocol",
    "internal_proxy_protocol",
    "insecure",
    "threads",
    "pin_threads",
    "log_format",
    "jwks",
    "jwks_ca_file",
    "jwks_refresh",
    "jwks_refetch_interval",
    "callback_concurrency_max",
    "callback_cache_max",
    "callback_ca_file",
    "history_dir",
    "history_sync_interval",
    "backplane",
    "backplane_prefix",
    "backplane_ca_file",
    "backplane_timeout",
];

/// A value that is another one now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As in the file; of a namespace, with its name in front.
    pub name: String,
    pub from: String,
    pub to: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, from, to } = self;
        write!(f, "{name}: {from} -> {to}")
    }
}

/// What becomes of a configuration that was read while the server runs.
#[derive(Debug)]
pub struct Reload {
    /// To be in force from now on.
    pub config: Config,
    pub changes: Vec<Change>,
    /// Changed in the file, and left as they were at the start.
    pub ignored: Vec<Change>,
}

impl Config {
    /// `next` as far as it can take the place of this one. What comes of the two has to be checked like any other.
    pub fn reload(&self, mut next: Self) -> Reload {
        let (ignored, mut changes): (Vec<_>, Vec<_>) = changes(SETTINGS, self, &next, "")
            .into_iter()
            .partition::<Vec<_>, _>(|change| RESTART_SETTINGS.contains(&&*change.name));
        let keys = [
            ("token_key", self.auth.token_keys != next.auth.token_keys),
            ("api_key", self.auth.api_keys != next.auth.api_keys),
        ];
        for (name, _) in keys.into_iter().filter(|(_, is_other)| *is_other) {
            changes.push(Change {
                name: name.to_owned(),
                from: HIDDEN.to_owned(),
                to: HIDDEN.to_owned(),
            });
        }
        for setting in SETTINGS
            .iter()
            .filter(|it| RESTART_SETTINGS.contains(&it.name))
        {
            setting.copy(self, &mut next);
        }
        let names: BTreeSet<_> = self
            .namespaces
            .keys()
            .chain(next.namespaces.keys())
            .collect();
        for name in names {
            let (from, to) = (self.namespace(name), next.namespace(name));
            let prefix = format!("namespace \"{name}\" ");
            changes.extend(self::changes(NAMESPACE_SETTINGS, from, to, &prefix));
        }
        Reload {
            config: next,
            changes,
            ignored,
        }
    }
}

fn changes<T>(settings: &[Setting<T>], from: &T, to: &T, prefix: &str) -> Vec<Change> {
    let change = |setting: &Setting<T>| {
        (!setting.is_same(from, to)).then(|| Change {
            name: format!("{prefix}{}", setting.name),
            from: setting.show(from),
            to: setting.show(to),
        })
    };
    settings.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Namespace;

    /// Flags of both configurations; compares what is said of the difference.
    #[track_caller]
    fn check(from: &[(&str, &str)], to: &[(&str, &str)], changes: &[&str], ignored: &[&str]) {
        let load = |flags: &[(&str, &str)]| {
            let flags = flags
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()));
            Config::load(None, [], flags).unwrap()
        };
        let (old, new) = (load(from), load(to));
        let reload = old.reload(new.clone());
        let shown =
            |changes: &[Change]| changes.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&reload.changes), changes);
        assert_eq!(shown(&reload.ignored), ignored);
        if ignored.is_empty() {
            assert_eq!(reload.config, new);
        }
        assert!(
            old.reload(reload.config).ignored.is_empty(),
            "left as they were"
        );
    }

    #[test]
    fn what_changes_is_said_and_what_needs_a_restart_stays() {
        check(&[], &[], &[], &[]);
        check(
            &[("heartbeat", "10s")],
            &[("message_bytes_max", "1KiB")],
            &["heartbeat: 10s -> 25s", "message_bytes_max: 64KiB -> 1KiB"],
            &[],
        );
        check(
            &[],
            &[
                ("listen", "127.0.0.1:0,[::1]:0"),
                ("threads", "3"),
                ("log_level", "warn"),
            ],
            &["log_level: info -> warn"],
            &[
                "listen: 127.0.0.1:8080 -> 127.0.0.1:0,[::1]:0",
                "threads: 0 -> 3",
            ],
        );
        check(
            &[("namespace", "a.history_messages=5,.client_publish=true")],
            &[("namespace", "a.history_messages=6,b.client_publish=true")],
            &[
                "namespace \"\" client_publish: true -> false",
                "namespace \"a\" history_messages: 5 -> 6",
                "namespace \"a\" client_publish: true -> false",
            ],
            &[],
        );
    }

    #[test]
    fn what_stays_may_not_go_with_what_is_new() {
        let load = |flags: &[(&str, &str)]| {
            let flags = flags
                .iter()
                .map(|&(name, value)| (name.into(), value.into()));
            Config::load(None, [], flags).unwrap()
        };
        // Each configuration is fine; of the two together the second has what takes effect.
        for (from, to, want) in [
            (
                &[("proxy_protocol", "true"), ("proxy_sources", "10.0.0.0/8")][..],
                &[][..],
                "proxy_protocol is on and proxy_sources is none",
            ),
            (
                &[],
                &[("jwks", "keys.json"), ("namespace", ".subscribe=token")],
                "namespace \"\" asks for tokens",
            ),
        ] {
            let mixed = load(from).reload(load(to)).config;
            let error = mixed.check_relations().unwrap_err().to_string();
            assert!(error.starts_with(want), "{error}");
        }
    }

    #[test]
    fn keys_are_read_anew_and_where_the_issuer_is_needs_a_restart() {
        check(
            &[("token_key", "a.secret=x"), ("token_leeway", "1s")],
            &[("token_key", "a.secret=y"), ("jwks", "keys.json")],
            &[
                "token_leeway: 1s -> 5s",
                "token_key: (not shown) -> (not shown)",
            ],
            &["jwks: none -> keys.json"],
        );
    }

    #[test]
    fn each_that_needs_a_restart_is_a_setting() {
        for name in RESTART_SETTINGS {
            assert!(
                SETTINGS.iter().any(|setting| setting.name == *name),
                "{name}"
            );
        }
        assert_eq!(Config::default().namespace("x"), &Namespace::default());
    }
}
