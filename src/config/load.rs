//! File, environment and flags → [`Config`]. A flag wins over the environment, which wins over the file.
//!
//! Nothing here reads a file or the environment: the texts are arguments. Every mistake is reported, not only
//! the first, and each says where it is and what to write instead.

mod keys;

pub use keys::{API_KEY, TOKEN_KEY};

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::setting::Setting;
use super::table::{NAMESPACE_SETTINGS, SETTINGS};
use super::{Config, Namespace};
use crate::proto::channel_name;

/// Every variable that begins like this is ours, and one that is not known is a mistake.
pub const VARIABLE_PREFIX: &str = "PUSHRING_";

/// Known variables that are no settings: the file's path, the server that `pub` and `sub` talk to and what they show
/// it, and the program that the test scripts run.
const OTHER_VARIABLES: &[&str] = &[
    "PUSHRING_CONFIG",
    "PUSHRING_SERVER",
    "PUSHRING_TOKEN",
    "PUSHRING_BIN",
];

/// Kubernetes gives every container of a namespace such variables for a service that is called `pushring`.
const KUBERNETES_VARIABLES: &[&str] = &["PUSHRING_SERVICE_", "PUSHRING_PORT_"];

/// What the project's own tests are told by.
const TEST_VARIABLES: &[&str] = &["PUSHRING_SIM_", "PUSHRING_TEST_", "PUSHRING_BENCH_"];

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
pub struct ConfigErrors(pub(super) Vec<String>);

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
            namespace_fields: Vec::new(),
        };
        if let Some(file) = file {
            loader.read_file(file);
        }
        for (variable, value) in variables {
            loader.read_variable(&variable, &value);
        }
        for (name, value) in flags {
            let location = format!("--{}", name.replace('_', "-"));
            loader.read_setting(&location, &name, &value);
        }
        loader.finish()
    }
}

struct Loader {
    config: Config,
    errors: Vec<String>,
    /// Kept until every source is read: what a namespace does not say is inherited from `""`, wherever that is said.
    namespace_fields: Vec<NamespaceField>,
}

struct NamespaceField {
    location: String,
    namespace: String,
    /// Field and value; `None` for a table that only names the namespace.
    assignment: Option<(String, String)>,
}

impl Loader {
    fn finish(mut self) -> Result<Config, ConfigErrors> {
        let (unnamed, named): (Vec<_>, Vec<_>) = std::mem::take(&mut self.namespace_fields)
            .into_iter()
            .partition(|field| field.namespace.is_empty());
        for NamespaceField {
            location,
            namespace,
            assignment,
        } in unnamed.into_iter().chain(named)
        {
            match assignment {
                Some((field, value)) => {
                    self.apply_namespace_field(&location, &namespace, &field, &value);
                }
                None => _ = self.namespace_mut(&location, &namespace),
            }
        }
        // A relation between values means something only once each value does.
        if self.errors.is_empty() {
            self.config.check_relations()?;
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
            || (KUBERNETES_VARIABLES.iter().chain(TEST_VARIABLES))
                .any(|prefix| variable.starts_with(prefix));
        if !is_foreign && !value.is_empty() {
            self.read_setting(variable, &name.to_ascii_lowercase(), value);
        }
    }

    /// `location` is how the operator wrote it: `--heartbeat`, `PUSHRING_HEARTBEAT`.
    fn read_setting(&mut self, location: &str, name: &str, value: &str) {
        if name == NAMESPACE {
            value
                .split(',')
                .for_each(|assignment| self.read_assignment(location, assignment));
        } else if name == TOKEN_KEY || name == API_KEY {
            self.read_key_assignments(location, name, value);
        } else if let Some(setting) = SETTINGS.iter().find(|s| s.name == name) {
            self.errors
                .extend(apply(setting, &mut self.config, location, value).err());
        } else {
            let tables = [NAMESPACE, TOKEN_KEY, API_KEY];
            let known = SETTINGS.iter().map(|s| s.name).chain(tables);
            let hint = did_you_mean(name, known, |name| {
                match location.strip_prefix(VARIABLE_PREFIX) {
                    Some(_) => format!("{VARIABLE_PREFIX}{}", name.to_ascii_uppercase()),
                    None => name.to_owned(),
                }
            });
            self.errors
                .push(format!("{location}: no such setting{hint}"));
        }
    }

    /// `echo.client_publish=true`; a name may hold dots and equal signs, a field and its value never do.
    fn read_assignment(&mut self, location: &str, assignment: &str) {
        let parts = assignment
            .trim()
            .rsplit_once('=')
            .and_then(|(left, value)| Some((left.rsplit_once('.')?, value)));
        match parts {
            Some(((namespace, field), value)) => {
                let location = format!("{location} {namespace}.{field}");
                self.read_namespace_field(&location, namespace, field, value);
            }
            None => self.errors.push(format!(
                "{location} = \"{assignment}\": not understood; give NAME.FIELD=VALUE such as echo.client_publish=true"
            )),
        }
    }

    fn read_namespace_field(&mut self, location: &str, namespace: &str, field: &str, value: &str) {
        self.namespace_fields.push(NamespaceField {
            location: location.to_owned(),
            namespace: namespace.to_owned(),
            assignment: Some((field.to_owned(), value.to_owned())),
        });
    }

    fn apply_namespace_field(&mut self, location: &str, namespace: &str, field: &str, value: &str) {
        if let Some(setting) = NAMESPACE_SETTINGS.iter().find(|s| s.name == field) {
            if let Some(namespace) = self.namespace_mut(location, namespace) {
                let result = apply(setting, namespace, location, value);
                self.errors.extend(result.err());
            }
        } else if SETTINGS.iter().any(|s| s.name == field) {
            self.errors.push(format!(
                "{location}: {field} is a setting of the server, not of a namespace; put it above the first [namespace.…]"
            ));
        } else {
            let hint = did_you_mean(
                field,
                NAMESPACE_SETTINGS.iter().map(|s| s.name),
                str::to_owned,
            );
            self.errors
                .push(format!("{location}: a namespace has no such field{hint}"));
        }
    }

    fn namespace_mut(&mut self, location: &str, name: &str) -> Option<&mut Namespace> {
        // A colon comes behind it.
        let is_allowed = |byte| byte != b':' && channel_name::is_allowed(byte);
        if name.len() < channel_name::BYTES_MAX && name.bytes().all(is_allowed) {
            let inherited = self.config.namespaces[""].clone();
            let entry = self.config.namespaces.entry(name.to_owned());
            return Some(entry.or_insert(inherited));
        }
        self.errors.push(format!(
            "{location}: \"{name}\" cannot be the first part of a channel's name; use letters, digits and _ - . @ $ ~ = #"
        ));
        None
    }

    fn read_file(&mut self, file: ConfigFile<'_>) {
        let location = |at: usize| format!("{}:{}", file.path, line_number(file.text, at));
        let table = match DeTable::parse(file.text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                return self
                    .errors
                    .push(format!("{}: {}", location(at), error.message()));
            }
        };
        for (key, value) in in_file_order(&table) {
            let location = format!("{}: {}", location(key.span().start), key.get_ref());
            if key.get_ref() == NAMESPACE {
                let Some(namespaces) = value.get_ref().as_table() else {
                    self.errors.push(format!(
                        "{location}: write a table for each namespace: [namespace.NAME]"
                    ));
                    continue;
                };
                self.read_namespaces(file, namespaces);
            } else if [TOKEN_KEY, API_KEY].contains(&&**key.get_ref()) {
                match value.get_ref().as_table() {
                    Some(tables) => self.read_key_tables(file, key.get_ref(), tables),
                    None => self.errors.push(format!(
                        "{location}: write a table for each key: [{}.NAME]",
                        key.get_ref()
                    )),
                }
            } else if let Some(text) = scalar_text(value.get_ref()) {
                self.read_setting(&location, key.get_ref(), &text);
            } else {
                // An unknown table is told as an unknown name; a known name gets told what it expects.
                self.read_setting(&location, key.get_ref(), value.get_ref().type_str());
            }
        }
    }

    fn read_namespaces(&mut self, file: ConfigFile<'_>, namespaces: &DeTable<'_>) {
        for (name, fields) in in_file_order(namespaces) {
            let location = |at: usize, field: &str| {
                format!(
                    "{}:{}: namespace \"{}\" {field}",
                    file.path,
                    line_number(file.text, at),
                    name.get_ref()
                )
            };
            let Some(fields) = fields.get_ref().as_table() else {
                // `client_publish = true` right below `[namespace]`.
                let location = location(name.span().start, "");
                self.errors.push(format!(
                    "{}: is no table; write [namespace.NAME], or [namespace.\"\"]",
                    location.trim_end()
                ));
                continue;
            };
            // A table without fields is checked for its name, too.
            self.namespace_fields.push(NamespaceField {
                location: location(name.span().start, ""),
                namespace: name.get_ref().to_string(),
                assignment: None,
            });
            for (field, value) in in_file_order(fields) {
                let text = scalar_text(value.get_ref())
                    .unwrap_or_else(|| value.get_ref().type_str().to_owned());
                self.read_namespace_field(
                    &location(field.span().start, field.get_ref()),
                    name.get_ref(),
                    field.get_ref(),
                    &text,
                );
            }
        }
    }
}

fn apply<T>(
    setting: &Setting<T>,
    target: &mut T,
    location: &str,
    value: &str,
) -> Result<(), String> {
    setting.apply(target, value).map_err(|error| {
        let shown = match setting.may_hold_secret() {
            true => String::new(),
            false => format!(" = \"{value}\""),
        };
        format!("{location}{shown}: {error}; give {}", setting.expected())
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
mod tests;
