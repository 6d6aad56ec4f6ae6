//! Configurations: what is accepted comes back the same from the file that the program writes of it; what is not, is
//! told in words.

use pushring::config::Config;
use pushring::config::load::ConfigFile;

/// The file, and behind each NUL a variable `NAME=VALUE`.
pub(crate) fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let variables = parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| (format!("PUSHRING_{name}"), value.to_owned()));
    match load(file, variables) {
        // A secret is written nowhere.
        Ok(config) if has_secret(&config) => {}
        Ok(config) => {
            let written = config.to_toml();
            let again = load(&written, []).unwrap_or_else(|errors| panic!("{errors}\n{written}"));
            assert_eq!(again, config, "{written}");
        }
        Err(errors) => assert!(!errors.trim().is_empty()),
    }
}

fn has_secret(config: &Config) -> bool {
    let auth = &config.auth;
    let of_tokens = auth.token_keys.values().map(|key| &key.secret);
    let of_backends = auth.api_keys.values().map(|key| &key.secret);
    of_tokens.chain(of_backends).any(Option::is_some)
}

fn load(
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, String> {
    let file = ConfigFile { path: "f", text };
    Config::load(Some(file), variables, []).map_err(|errors| errors.to_string())
}
