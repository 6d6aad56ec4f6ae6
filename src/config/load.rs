//! File, environment and flags → [`Config`]. A flag wins over the environment, which wins over the file.
//!
//! Nothing here reads a file or the environment: the texts are arguments. Every mistake is reported, not only the first,
//! and each says where it is and what to write instead.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::setting::Setting;
use super::table::{NAMESPACE_SETTINGS, SETTINGS};
use super::{Config, Namespace};

/// Every variable that begins like this is ours, and one that is not known is a mistake.
pub const VARIABLE_PREFIX: &str = "PUSHRING_";

/// Known variables that are no settings: the file's path, and the server that `pub` and `sub` talk to.
const OTHER_VARIABLES: &[&str] = &["PUSHRING_CONFIG", "PUSHRING_SERVER"];

/// Kubernetes gives every container of a namespace such variables for a service that is called `pushring`.
const KUBERNETES_VARIABLES: &[&str] = &["PUSHRING_SERVICE_", "PUSHRING_PORT_"];

/// The pseudo-setting of flags and environment that sets one field of one namespace: `echo.client_publish=true`.
pub const NAMESPACE: &str = "namespace";

/// A configuration file that has been read.
#[derive(Clone, Copy, Debug)]
pub struct ConfigFile<'a> {
    /// For messages only.
    pub path: &'a str,
    pub text: &'a str,
}

/// What is wrong with a configuration, one sentence for each mistake. Never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Config {
    /// Puts the sources together. Flags go by the name of their setting: `("message_bytes_max", "1MiB")`.
    pub fn load(
        file: Option<ConfigFile<'_>>,
        variables: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let mut loader = Loader {
            config: Self::default(),
            errors: Vec::new(),
        };
        if let Some(file) = file {
            loader.read_file(file);
        }
        for (variable, value) in variables {
            loader.read_variable(&variable, &value);
        }
        for (name, value) in flags {
            let place = format!("--{}", name.replace('_', "-"));
            loader.read_setting(&place, &name, &value);
        }
        loader.finish()
    }
}

struct Loader {
    config: Config,
    errors: Vec<String>,
}

impl Loader {
    fn finish(mut self) -> Result<Config, ConfigErrors> {
        // A relation between values means something only once each value does.
        if self.errors.is_empty() {
            self.errors = self.config.contradictions();
        }
        if self.errors.is_empty() {
            Ok(self.config)
        } else {
            Err(ConfigErrors(self.errors))
        }
    }

    /// An empty variable counts as unset, as it does for most programs that are started by a template.
    fn read_variable(&mut self, variable: &str, value: &str) {
        let Some(name) = variable.strip_prefix(VARIABLE_PREFIX) else {
            return;
        };
        let is_foreign = variable == "PUSHRING_PORT"
            || OTHER_VARIABLES.contains(&variable)
            || KUBERNETES_VARIABLES
                .iter()
                .any(|prefix| variable.starts_with(prefix));
        if !is_foreign && !value.is_empty() {
            self.read_setting(variable, &name.to_ascii_lowercase(), value);
        }
    }

    /// `place` is how the operator wrote it: `--heartbeat`, `PUSHRING_HEARTBEAT`.
    fn read_setting(&mut self, place: &str, name: &str, value: &str) {
        if name == NAMESPACE {
            value
                .split(',')
                .for_each(|assignment| self.read_assignment(place, assignment));
        } else if let Some(setting) = SETTINGS.iter().find(|s| s.name == name) {
            self.errors
                .extend(apply(setting, &mut self.config, place, value).err());
        } else {
            let known = SETTINGS.iter().map(|s| s.name).chain([NAMESPACE]);
            let hint = did_you_mean(name, known, |name| {
                match place.strip_prefix(VARIABLE_PREFIX) {
                    Some(_) => format!("{VARIABLE_PREFIX}{}", name.to_ascii_uppercase()),
                    None => name.to_owned(),
                }
            });
            self.errors.push(format!("{place}: no such setting{hint}"));
        }
    }

    /// `echo.client_publish=true`; a name may hold dots and equal signs, a field and its value never do.
    fn read_assignment(&mut self, place: &str, assignment: &str) {
        let parts = assignment
            .trim()
            .rsplit_once('=')
            .and_then(|(left, value)| Some((left.rsplit_once('.')?, value)));
        match parts {
            Some(((namespace, field), value)) => {
                let place = format!("{place} {namespace}.{field}");
                self.read_namespace_field(&place, namespace, field, value);
            }
            None => self.errors.push(format!(
                "{place} = \"{assignment}\": not understood; give NAME.FIELD=VALUE such as echo.client_publish=true"
            )),
        }
    }

    fn read_namespace_field(&mut self, place: &str, namespace: &str, field: &str, value: &str) {
        if let Some(setting) = NAMESPACE_SETTINGS.iter().find(|s| s.name == field) {
            if let Some(namespace) = self.namespace_mut(place, namespace) {
                let result = apply(setting, namespace, place, value);
                self.errors.extend(result.err());
            }
        } else if SETTINGS.iter().any(|s| s.name == field) {
            self.errors.push(format!(
                "{place}: {field} is a setting of the server, not of a namespace; put it above the first [namespace.…]"
            ));
        } else {
            let hint = did_you_mean(
                field,
                NAMESPACE_SETTINGS.iter().map(|s| s.name),
                str::to_owned,
            );
            self.errors
                .push(format!("{place}: a namespace has no such field{hint}"));
        }
    }

    fn namespace_mut(&mut self, place: &str, name: &str) -> Option<&mut Namespace> {
        if name.len() <= 254
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.@$~=#".contains(&b))
        {
            return Some(self.config.namespaces.entry(name.to_owned()).or_default());
        }
        self.errors.push(format!(
            "{place}: \"{name}\" cannot be the first part of a channel's name; use letters, digits and _ - . @ $ ~ = #"
        ));
        None
    }

    fn read_file(&mut self, file: ConfigFile<'_>) {
        let place = |at: usize| format!("{}:{}", file.path, line_number(file.text, at));
        let table = match DeTable::parse(file.text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                return self
                    .errors
                    .push(format!("{}: {}", place(at), error.message()));
            }
        };
        for (key, value) in in_file_order(&table) {
            let place = format!("{}: {}", place(key.span().start), key.get_ref());
            if key.get_ref() == NAMESPACE {
                let Some(namespaces) = value.get_ref().as_table() else {
                    self.errors.push(format!(
                        "{place}: write a table for each namespace: [namespace.NAME]"
                    ));
                    continue;
                };
                self.read_namespaces(file, namespaces);
            } else if let Some(text) = scalar_text(value.get_ref()) {
                self.read_setting(&place, key.get_ref(), &text);
            } else {
                // An unknown table is told as an unknown name; a known name gets told what it expects.
                self.read_setting(&place, key.get_ref(), value.get_ref().type_str());
            }
        }
    }

    fn read_namespaces(&mut self, file: ConfigFile<'_>, namespaces: &DeTable<'_>) {
        for (name, fields) in in_file_order(namespaces) {
            let place = |at: usize, field: &str| {
                format!(
                    "{}:{}: namespace \"{}\" {field}",
                    file.path,
                    line_number(file.text, at),
                    name.get_ref()
                )
            };
            let Some(fields) = fields.get_ref().as_table() else {
                // `client_publish = true` right below `[namespace]`.
                let place = place(name.span().start, "");
                self.errors.push(format!(
                    "{}: is no table; write [namespace.NAME], or [namespace.\"\"]",
                    place.trim_end()
                ));
                continue;
            };
            // A table without fields still says that the namespace has its defaults, not those of "".
            self.namespace_mut(&place(name.span().start, ""), name.get_ref());
            for (field, value) in in_file_order(fields) {
                let text = scalar_text(value.get_ref())
                    .unwrap_or_else(|| value.get_ref().type_str().to_owned());
                self.read_namespace_field(
                    &place(field.span().start, field.get_ref()),
                    name.get_ref(),
                    field.get_ref(),
                    &text,
                );
            }
        }
    }
}

fn apply<T>(setting: &Setting<T>, target: &mut T, place: &str, value: &str) -> Result<(), String> {
    setting.apply(target, value).map_err(|error| {
        format!(
            "{place} = \"{value}\": {error}; give {}",
            setting.expected()
        )
    })
}

/// `; did you mean NAME?`, or nothing where no known name is near.
fn did_you_mean<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str>,
    show: impl Fn(&str) -> String,
) -> String {
    // Two names with less in common than this are not a slip of the finger (the threshold that clap has).
    const SIMILARITY_MIN: f64 = 0.7;
    known
        .map(|known| (strsim::jaro(name, known), known))
        .filter(|(similarity, _)| *similarity > SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, nearest)| {
            format!("; did you mean {}?", show(nearest))
        })
}

type Entry<'t, 'i> = (
    &'t Spanned<toml::de::DeString<'i>>,
    &'t Spanned<DeValue<'i>>,
);

/// The parser sorts by key; mistakes are reported from top to bottom.
fn in_file_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<Entry<'t, 'i>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The value as it would stand in a flag; `None` for what no setting can be.
fn scalar_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Array(items) => {
            let items: Option<Vec<_>> = items
                .iter()
                .map(|item| scalar_text(item.get_ref()))
                .collect();
            Some(items?.join(","))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn line_number(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())]
        .iter()
        .filter(|&&b| b == b'\n')
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
        let file = "heartbeat = '1s'\nsse_retry = '1s'\nidle_timeout = '1s'\nnamespace.echo.history_messages = 1";
        let variables = [
            ("PUSHRING_SSE_RETRY", "2s"),
            ("PUSHRING_IDLE_TIMEOUT", "2s"),
            ("HOME", "/"),
        ];
        let flags = [
            ("idle_timeout", "3s"),
            ("namespace", "echo.client_publish=true"),
            ("namespace", ".history_age=1h"),
        ];
        let config = load(file, &variables, &flags).unwrap();
        let timing = &config.timing;
        assert_eq!(
            (
                timing.heartbeat_ms,
                timing.sse_retry_ms,
                timing.idle_timeout_ms
            ),
            (1_000, 2_000, 3_000)
        );
        let echo = config.namespace("echo");
        assert_eq!((echo.history_messages, echo.client_publish), (1, true));
        assert_eq!(config.namespace("").history_age_ms, 3_600_000);
    }

    #[test]
    fn an_unlisted_namespace_is_treated_as_the_one_without_a_name() {
        let file = "[namespace.'']\nhistory_messages = 7\nhistory_age = '1m'\n[namespace.echo]\nhistory_messages = 0\n[namespace.bare]\n";
        let config = load(file, &[], &[]).unwrap();
        assert_eq!(config.namespace("").history_messages, 7);
        assert_eq!(config.namespace("unlisted").history_messages, 7);
        assert_eq!(config.namespace("echo").history_messages, 0);
        assert_eq!(
            config.namespace("echo").history_age_ms,
            Namespace::default().history_age_ms
        );
        assert_eq!(*config.namespace("bare"), Namespace::default());
    }

    #[test]
    fn values_may_be_written_as_toml_has_them() {
        let file = "listen = ['127.0.0.1:0', '[::1]:0']\nmessage_bytes_max = 1_000\ninsecure = true\nthreads = '2'";
        let config = load(file, &[], &[]).unwrap();
        assert_eq!(config.listen.len(), 2);
        assert_eq!(
            (
                config.limits.message_bytes_max,
                config.insecure,
                config.threads
            ),
            (1_000, true, 2)
        );
    }

    #[test]
    fn a_mistake_in_the_file_names_line_key_and_remedy() {
        for (file, want) in [
            (
                "\nheartbeat = 25",
                "f.toml:2: heartbeat = \"25\": the unit is missing; give a duration such as 500ms, 25s or 10m, from 100ms to 1h",
            ),
            (
                "heartbeat = '10ms'",
                "f.toml:1: heartbeat = \"10ms\": too small; give a duration such as 500ms, 25s or 10m, from 100ms to 1h",
            ),
            (
                "heartbeat = 2.5",
                "f.toml:1: heartbeat = \"2.5\": not understood; give a duration such as 500ms, 25s or 10m, from 100ms to 1h",
            ),
            (
                "insecure = 1",
                "f.toml:1: insecure = \"1\": not understood; give true or false",
            ),
            (
                "threads = 0x10",
                "f.toml:1: threads = \"0x10\": not understood; give a whole number from 0 to 256",
            ),
            (
                "\n\nheartbeats = '1s'",
                "f.toml:3: heartbeats: no such setting; did you mean heartbeat?",
            ),
            ("zzz = 1", "f.toml:1: zzz: no such setting"),
            (
                "[namespaces.a]\nb = 1",
                "f.toml:1: namespaces: no such setting; did you mean namespace?",
            ),
            (
                "threads = {}",
                "f.toml:1: threads = \"table\": not understood; give a whole number from 0 to 256",
            ),
            (
                "[namespace.echo]\nclient_publis = true",
                "f.toml:2: namespace \"echo\" client_publis: a namespace has no such field; did you mean client_publish?",
            ),
            (
                "[namespace.echo]\nclient_publish = 3",
                "f.toml:2: namespace \"echo\" client_publish = \"3\": not understood; give true or false",
            ),
            (
                "[namespace.'a:b']",
                "f.toml:1: namespace \"a:b\" : \"a:b\" cannot be the first part of a channel's name; use letters, digits and _ - . @ $ ~ = #",
            ),
            (
                "[namespace]\nclient_publish = true",
                "f.toml:2: namespace \"client_publish\": is no table; write [namespace.NAME], or [namespace.\"\"]",
            ),
            (
                "namespace = 1",
                "f.toml:1: namespace: write a table for each namespace: [namespace.NAME]",
            ),
            (
                "[namespace.a]\nthreads = 1",
                "f.toml:2: namespace \"a\" threads: threads is a setting of the server, not of a namespace; put it above the first [namespace.…]",
            ),
        ] {
            check(file, &[], &[], &[want]);
        }
        let syntax = load("threads = 1\nthreads = = 2", &[], &[])
            .unwrap_err()
            .to_string();
        assert!(syntax.starts_with("f.toml:2: "), "{syntax}");
    }

    #[test]
    fn a_mistake_in_environment_or_flags_names_them() {
        let none = "";
        check(
            none,
            &[("PUSHRING_HEARTBEET", "1s")],
            &[],
            &["PUSHRING_HEARTBEET: no such setting; did you mean PUSHRING_HEARTBEAT?"],
        );
        check(
            none,
            &[("PUSHRING_THREADS", "many")],
            &[],
            &["PUSHRING_THREADS = \"many\": not understood; give a whole number from 0 to 256"],
        );
        check(
            none,
            &[],
            &[("message_bytes_max", "65MiB")],
            &[
                "--message-bytes-max = \"65MiB\": too big; give a size such as 65536, 64KiB or 1MiB, from 1 to 64MiB",
            ],
        );
        check(
            none,
            &[("PUSHRING_NAMESPACE", "a")],
            &[("namespace", "a.b=c")],
            &[
                "PUSHRING_NAMESPACE = \"a\": not understood; give NAME.FIELD=VALUE such as echo.client_publish=true",
                "--namespace a.b: a namespace has no such field",
            ],
        );
    }

    #[test]
    fn what_is_not_a_setting_is_left_alone() {
        let variables = [
            ("PUSHRING_CONFIG", "x"),
            ("PUSHRING_SERVER", "x"),
            ("PUSHRING_PORT", "tcp://10.0.0.1:8080"),
            ("PUSHRING_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("PUSHRING_SERVICE_HOST", "10.0.0.1"),
            ("PUSHRING_INTERNAL", ""),
        ];
        assert_eq!(load("", &variables, &[]), Ok(Config::default()));
        let names = "PUSHRING_NAMESPACE";
        let config = load(
            "",
            &[(names, "a.history_messages=1,b.c=d.client_publish=true")],
            &[],
        )
        .unwrap();
        assert_eq!(
            (
                config.namespace("a").history_messages,
                config.namespace("b.c=d").client_publish
            ),
            (1, true)
        );
    }

    #[test]
    fn contradictions_are_told_together() {
        check(
            "message_bytes_max = '2MiB'",
            &[],
            &[],
            &[
                "outbox_bytes_max (1MiB) is below message_bytes_max (2MiB): raise it, or no client could be sent a message of the largest size",
                "namespace \"\" history_bytes (1MiB) is below message_bytes_max (2MiB): raise it, or set history_messages = 0 to keep none",
            ],
        );
    }

    fn load(
        file: &str,
        variables: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<Config, ConfigErrors> {
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect()
        };
        Config::load(
            Some(ConfigFile {
                path: "f.toml",
                text: file,
            }),
            owned(variables),
            owned(flags),
        )
    }

    #[track_caller]
    fn check(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)], want: &[&str]) {
        assert_eq!(
            load(file, variables, flags).unwrap_err().to_string(),
            want.join("\n")
        );
    }
}
