//! The settings in words: the README's table, and what is printed at start.

use std::fmt::Write as _;

use super::Config;
use super::auth::{ApiKey, TokenKey};
use super::load::{API_KEY, NAMESPACE, TOKEN_KEY};
use super::setting::{Group, Kind, Setting};
use super::table::{
    API_KEY_HELP, API_KEY_SETTINGS, NAMESPACE_HELP, NAMESPACE_SETTINGS, SETTINGS, TOKEN_KEY_HELP,
    TOKEN_KEY_SETTINGS,
};

/// The README's section on settings, Markdown: a table for each group.
pub fn settings_markdown() -> String {
    let config = Config::default();
    let mut out = String::new();
    for &group in Group::ALL {
        let title = match group {
            Group::Namespace => "Namespaces",
            Group::TokenKey => "Token keys",
            Group::ApiKey => "API keys",
            group => group.title(),
        };
        let _ = write!(out, "### {title}\n\n");
        if group == Group::Namespace {
            let _ = write!(
                out,
                "{NAMESPACE_HELP} In the file a namespace is a table `[namespace.NAME]` (`[namespace.\"\"]`); \
                 on the command line, `--{NAMESPACE} NAME.FIELD=VALUE`, as often as needed.\n\n"
            );
        }
        let keys = match group {
            Group::TokenKey => Some((TOKEN_KEY, TOKEN_KEY_HELP)),
            Group::ApiKey => Some((API_KEY, API_KEY_HELP)),
            _ => None,
        };
        if let Some((kind, help)) = keys {
            let flag = kind.replace('_', "-");
            let _ = write!(
                out,
                "{help} In the file it is a table `[{kind}.NAME]`; on the command line, \
                 `--{flag} NAME.FIELD=VALUE`, as often as needed.\n\n"
            );
        }
        out.push_str("| setting | default | range | meaning |\n|---|---|---|---|\n");
        for setting in SETTINGS.iter().filter(|s| s.group == group) {
            push_row(&mut out, setting, &config);
        }
        for setting in NAMESPACE_SETTINGS.iter().filter(|s| s.group == group) {
            push_row(&mut out, setting, config.namespace(""));
        }
        for setting in TOKEN_KEY_SETTINGS.iter().filter(|s| s.group == group) {
            push_row(&mut out, setting, &TokenKey::default());
        }
        for setting in API_KEY_SETTINGS.iter().filter(|s| s.group == group) {
            push_row(&mut out, setting, &ApiKey::default());
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// A string of TOML on one line: a key takes no other.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn push_row<T>(out: &mut String, setting: &Setting<T>, default: &T) {
    let range = setting.range();
    let range = range
        .strip_prefix("from ")
        .unwrap_or(&range)
        .replace(" to ", " – ");
    let help = setting.help.replace('*', "\\*");
    let _ = writeln!(
        out,
        "| `{}` | `{}` | {range} | {help} |",
        setting.name,
        setting.show(default)
    );
}

impl Config {
    /// The effective value of every setting, one line for each group and each namespace, to be logged at start:
    /// `("Logs", "log_format=text log_level=info")`.
    pub fn summary(&self) -> Vec<(String, String)> {
        fn line<T>(settings: &[Setting<T>], group: Group, target: &T) -> String {
            let of_group = settings.iter().filter(|s| s.group == group);
            of_group
                .map(|s| format!("{}={}", s.name, s.show(target)))
                .collect::<Vec<_>>()
                .join(" ")
        }
        let is_table = |group: &Group| SETTINGS.iter().all(|s| s.group != *group);
        let groups = Group::ALL.iter().filter(|group| !is_table(group));
        let groups = groups.map(|&group| (group.title().to_owned(), line(SETTINGS, group, self)));
        let namespaces = self.namespaces.iter().map(|(name, namespace)| {
            (
                format!("Namespace \"{name}\""),
                line(NAMESPACE_SETTINGS, Group::Namespace, namespace),
            )
        });
        let token_keys = self.auth.token_keys.iter().map(|(name, key)| {
            (
                format!("Token key \"{name}\""),
                format!("algorithm={}", key.algorithm.word()),
            )
        });
        let api_keys = self.auth.api_keys.iter().map(|(name, key)| {
            (
                format!("API key \"{name}\""),
                format!("channels={}", key.channels.join(",")),
            )
        });
        groups
            .chain(namespaces)
            .chain(token_keys)
            .chain(api_keys)
            .collect()
    }

    /// The effective values as a configuration file that [`Config::load`] reads back. Secrets are left out.
    pub fn to_toml(&self) -> String {
        fn push<T>(out: &mut String, setting: &Setting<T>, target: &T) {
            let (name, value) = (setting.name, setting.show(target));
            let _ = match setting.kind {
                Kind::Channels(_) if value.is_empty() => Ok(()),
                Kind::Count(..) | Kind::Bool(_) => writeln!(out, "{name} = {value}"),
                Kind::Secret(_) => writeln!(out, "# {name} = {value}"),
                Kind::OptionalText(_) | Kind::OptionalUrl(_) => {
                    writeln!(out, "{name} = {}", quoted(&value))
                }
                _ => writeln!(out, "{name} = \"{value}\""),
            };
        }
        let mut out = String::new();
        for setting in SETTINGS {
            push(&mut out, setting, self);
        }
        for (name, namespace) in &self.namespaces {
            let _ = writeln!(out, "\n[namespace.\"{name}\"]");
            for setting in NAMESPACE_SETTINGS {
                push(&mut out, setting, namespace);
            }
        }
        for (name, key) in &self.auth.token_keys {
            let _ = writeln!(out, "\n[{TOKEN_KEY}.{}]", quoted(name));
            for setting in TOKEN_KEY_SETTINGS {
                push(&mut out, setting, key);
            }
        }
        for (name, key) in &self.auth.api_keys {
            let _ = writeln!(out, "\n[{API_KEY}.{}]", quoted(name));
            for setting in API_KEY_SETTINGS {
                push(&mut out, setting, key);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::ConfigFile;
    use super::*;

    #[test]
    fn every_setting_is_in_every_listing() {
        let markdown = settings_markdown();
        let config = Config::default();
        let summary: String = config
            .summary()
            .iter()
            .map(|(title, line)| format!("{title}: {line}\n"))
            .collect();
        for name in SETTINGS
            .iter()
            .map(|s| s.name)
            .chain(NAMESPACE_SETTINGS.iter().map(|s| s.name))
        {
            assert!(markdown.contains(&format!("| `{name}` |")), "{name}");
            assert!(summary.contains(&format!("{name}=")), "{name}");
        }
        assert!(
            markdown
                .contains("| `message_bytes_max` | `64KiB` | 1 – 64MiB | Payload of one message."),
            "{markdown}"
        );
        assert!(
            summary.contains("Logs: log_format=text log_level=info\n"),
            "{summary}"
        );
        assert!(
            summary.contains("Namespace \"\": history_messages=100 history_age=10m"),
            "{summary}"
        );
    }

    #[test]
    fn the_effective_file_reads_back() {
        let flags = [
            ("namespace", "echo.client_publish=true"),
            ("listen", "[::1]:0,127.0.0.1:0"),
            ("threads", "3"),
        ];
        let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::load(None, [], flags).unwrap();
        let text = config.to_toml();
        assert_eq!(
            Config::load(
                Some(ConfigFile {
                    path: "f",
                    text: &text
                }),
                [],
                []
            ),
            Ok(config),
            "{text}"
        );
    }
}
