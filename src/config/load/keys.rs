//! The tables of keys, `[token_key.NAME]` and `[api_key.NAME]`. No mistake is told with the text that it was made in,
//! which may be a secret.

use toml::de::DeTable;

use super::{ConfigFile, Loader, did_you_mean, in_file_order, line_number, scalar_text};
use crate::config::auth::{ApiKey, TokenKey};
use crate::config::setting::Setting;
use crate::config::table::{API_KEY_SETTINGS, TOKEN_KEY_SETTINGS};

/// The pseudo-setting of flags and environment that sets one field of one key: `main.algorithm=RS256`.
pub const TOKEN_KEY: &str = "token_key";
pub const API_KEY: &str = "api_key";

/// Bytes of a key's name.
const NAME_BYTES_MAX: usize = 255;

impl Loader {
    pub(super) fn read_key_tables(
        &mut self,
        file: ConfigFile<'_>,
        kind: &str,
        tables: &DeTable<'_>,
    ) {
        for (name, fields) in in_file_order(tables) {
            let location = |at: usize, field: &str| {
                let line = line_number(file.text, at);
                format!(
                    "{}:{line}: {kind} \"{}\" {field}",
                    file.path,
                    name.get_ref()
                )
            };
            let Some(fields) = fields.get_ref().as_table() else {
                let location = location(name.span().start, "");
                self.errors.push(format!(
                    "{}: is no table; write [{kind}.NAME]",
                    location.trim_end()
                ));
                continue;
            };
            self.add_key(&location(name.span().start, ""), kind, name.get_ref());
            for (field, value) in in_file_order(fields) {
                let text = scalar_text(value.get_ref())
                    .unwrap_or_else(|| value.get_ref().type_str().to_owned());
                let location = location(field.span().start, field.get_ref());
                self.read_key_field(&location, kind, name.get_ref(), field.get_ref(), &text);
            }
        }
    }

    /// `main.algorithm=RS256,main.public_key_file=/etc/key.pem`: names may hold dots, values may hold equal signs.
    pub(super) fn read_key_assignments(&mut self, location: &str, kind: &str, assignments: &str) {
        for assignment in assignments.split(',') {
            let parts = assignment.trim().split_once('=');
            match parts.and_then(|(left, value)| Some((left.rsplit_once('.')?, value))) {
                Some(((name, field), value)) => {
                    let location = format!("{location} {name}.{field}");
                    self.add_key(&location, kind, name);
                    self.read_key_field(&location, kind, name, field, value);
                }
                None => self.errors.push(format!(
                    "{location}: not understood; give NAME.FIELD=VALUE such as main.secret_file=/run/secrets/key, joined \
                     by commas"
                )),
            }
        }
    }

    fn add_key(&mut self, location: &str, kind: &str, name: &str) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            self.errors.push(format!(
                "{}: a key needs a name of 1 to {NAME_BYTES_MAX} bytes",
                location.trim_end()
            ));
        }
        let auth = &mut self.config.auth;
        if kind == TOKEN_KEY {
            auth.token_keys.entry(name.to_owned()).or_default();
        } else {
            auth.api_keys.entry(name.to_owned()).or_default();
        }
    }

    fn read_key_field(&mut self, location: &str, kind: &str, name: &str, field: &str, value: &str) {
        let auth = &mut self.config.auth;
        let result = if kind == TOKEN_KEY {
            let key: &mut TokenKey = auth.token_keys.entry(name.to_owned()).or_default();
            set(TOKEN_KEY_SETTINGS, key, location, field, value)
        } else {
            let key: &mut ApiKey = auth.api_keys.entry(name.to_owned()).or_default();
            set(API_KEY_SETTINGS, key, location, field, value)
        };
        self.errors.extend(result.err());
    }
}

fn set<T>(
    settings: &[Setting<T>],
    key: &mut T,
    location: &str,
    field: &str,
    value: &str,
) -> Result<(), String> {
    let Some(setting) = settings.iter().find(|s| s.name == field) else {
        let hint = did_you_mean(field, settings.iter().map(|s| s.name), str::to_owned);
        return Err(format!("{location}: a key has no such field{hint}"));
    };
    setting
        .apply(key, value)
        .map_err(|error| format!("{location}: {error}; give {}", setting.expected()))
}
