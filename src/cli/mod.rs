//! The command line: arguments and environment → [`Action`].
//!
//! The flags of `serve` come from the table of settings; `pub` and `sub` are small clients for scripts and first steps.

pub mod cursor;
pub mod event_stream;
pub mod http;
pub mod printer;
pub mod publish;
pub mod reconnect;
pub mod subscribe;
pub mod url;

mod commands;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::Duration;

use clap::ArgMatches;
use clap::error::ErrorKind;

use crate::config::Config;
use crate::config::auth::Secret;
use crate::config::load::{API_KEY, ConfigFile, NAMESPACE, TOKEN_KEY};
use crate::config::table::SETTINGS;
use crate::server::{Keys, check_backplane_url};
use crate::tls::TlsConfigs;
use cursor::Start;
use publish::{Kind, Payload, PublishOptions};
use subscribe::{SubscribeOptions, Transport};
use url::ServerUrl;

/// What the command line asks for, checked.
#[derive(Debug, PartialEq)]
pub enum Action {
    Serve(Box<Config>),
    Publish(PublishOptions),
    Subscribe(SubscribeOptions),
    /// Text for stdout, and done.
    Print(String),
}

/// Why there is no [`Action`]. Shown on stderr; exit code 2.
#[derive(Debug)]
pub enum UsageError {
    /// Also `--help` and `--version`, which are no errors: see [`clap::Error::exit_code`].
    Arguments(clap::Error),
    Config(String),
}

/// Reads the arguments (the program's name first) and the environment.
///
/// Reads the configuration file too, which is the only thing here that the arguments alone do not decide.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    variables: Vec<(String, String)>,
) -> Result<Action, UsageError> {
    let matches = commands::root()
        .try_get_matches_from(with_default_command(args))
        .map_err(UsageError::Arguments)?;
    match matches.subcommand() {
        Some(("serve", matches)) => serve(matches, variables),
        Some(("pub", matches)) => publish(matches, &variables).map_err(UsageError::Arguments),
        Some(("sub", matches)) => subscribe(matches, &variables).map_err(UsageError::Arguments),
        Some(("check", matches)) => check(matches),
        Some(("settings", _)) => Ok(Action::Print(crate::config::describe::settings_markdown())),
        _ => unreachable!("a subcommand is required, and all are listed"),
    }
}

/// `pushring --listen …` means `pushring serve --listen …`.
fn with_default_command(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<_> = args.into_iter().collect();
    let is_serve = match args.get(1).map(|arg| arg.to_string_lossy()) {
        None => true,
        Some(first) => {
            first.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&first.as_ref())
        }
    };
    if is_serve {
        args.insert(args.len().min(1), "serve".into());
    }
    args
}

fn serve(matches: &ArgMatches, variables: Vec<(String, String)>) -> Result<Action, UsageError> {
    let path = matches
        .get_one::<String>("config")
        .cloned()
        .or_else(|| variable(&variables, "PUSHRING_CONFIG"));
    let text = path.as_deref().map(read_file).transpose()?;
    let file = path
        .as_deref()
        .zip(text.as_deref())
        .map(|(path, text)| ConfigFile { path, text });
    let config = Config::load(file, variables, flags(matches))
        .map_err(|e| UsageError::Config(e.to_string()))?;
    check_config(&config)?;
    Ok(Action::Serve(Box::new(config)))
}

/// The settings that were given as flags. A list that was given in parts is put together again.
fn flags(matches: &ArgMatches) -> Vec<(String, String)> {
    let tables = [NAMESPACE, TOKEN_KEY, API_KEY];
    let names = SETTINGS.iter().map(|s| s.name).chain(tables);
    let given = names.filter_map(|name| Some((name, matches.get_many::<String>(name)?)));
    given
        .map(|(name, values)| {
            (
                name.to_owned(),
                values.cloned().collect::<Vec<_>>().join(","),
            )
        })
        .collect()
}

fn check(matches: &ArgMatches) -> Result<Action, UsageError> {
    let path = required(matches, "FILE");
    let text = read_file(&path)?;
    let file = ConfigFile {
        path: &path,
        text: &text,
    };
    let config = Config::load(Some(file), [], []).map_err(|e| UsageError::Config(e.to_string()))?;
    check_config(&config)?;
    TlsConfigs::load(&config).map_err(|e| UsageError::Config(e.to_string()))?;
    Ok(Action::Print(config.to_toml()))
}

/// What no single setting shows, the keys' files among it; what is behind a URL is seen at the start only.
fn check_config(config: &Config) -> Result<(), UsageError> {
    let wrong = |text: String| UsageError::Config(text);
    config.check_open_mode().map_err(|e| wrong(e.to_string()))?;
    Keys::load(config).map_err(|e| wrong(e.to_string()))?;
    check_backplane_url(config).map_err(wrong)
}

fn read_file(path: &str) -> Result<String, UsageError> {
    std::fs::read_to_string(path)
        .map_err(|e| UsageError::Config(format!("{path} cannot be read: {e}")))
}

fn publish(matches: &ArgMatches, variables: &[(String, String)]) -> Result<Action, clap::Error> {
    let payload = match matches.get_one::<String>("TEXT").map(String::as_str) {
        Some("-") => Payload::Stdin,
        Some(text) => Payload::Text(text.to_owned()),
        None if std::io::stdin().is_terminal() => {
            return Err(usage(
                "pub",
                ErrorKind::MissingRequiredArgument,
                "give the message as TEXT, or - to type it",
            ));
        }
        None => Payload::Stdin,
    };
    let kind = match (matches.get_flag("json"), matches.get_flag("binary")) {
        (true, _) => Kind::Json,
        (_, true) => Kind::Binary,
        _ => Kind::Text,
    };
    Ok(Action::Publish(PublishOptions {
        server: server("pub", matches, variables)?,
        token: token(matches, variables),
        channels: split_channels([required(matches, "CHANNEL")].iter()),
        payload,
        kind,
        event: matches.get_one("event").cloned(),
        ttl_seconds: matches.get_one("ttl").copied(),
        store: !matches.get_flag("no-store"),
        idempotency_key: matches.get_one("idempotency-key").cloned(),
    }))
}

fn subscribe(matches: &ArgMatches, variables: &[(String, String)]) -> Result<Action, clap::Error> {
    let transport = match required(matches, "transport").as_str() {
        "sse" => Transport::EventStream,
        "long" => Transport::LongPoll,
        "short" => Transport::ShortPoll,
        _ => Transport::WebSocket,
    };
    let start = match matches.get_one("last") {
        Some(n) => Start::Last(*n),
        None => Start::parse(&required(matches, "since")),
    };
    Ok(Action::Subscribe(SubscribeOptions {
        server: server("sub", matches, variables)?,
        token: token(matches, variables),
        channels: split_channels(matches.get_many::<String>("CHANNEL").unwrap_or_default()),
        transport,
        start,
        json: matches.get_flag("json"),
        interval: matches
            .get_one("interval")
            .copied()
            .unwrap_or(Duration::from_secs(1)),
        count: matches.get_one("count").copied(),
    }))
}

/// `a,b` and `a b` are the same two channels, and each is listened on once.
fn split_channels<'a>(args: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut channels: Vec<String> = Vec::new();
    for name in args.flat_map(|arg| arg.split(',')) {
        if !channels.iter().any(|known| known == name) {
            channels.push(name.to_owned());
        }
    }
    channels
}

fn server(
    command: &str,
    matches: &ArgMatches,
    variables: &[(String, String)],
) -> Result<ServerUrl, clap::Error> {
    let text = matches.get_one::<String>("server").cloned();
    let text = text.or_else(|| variable(variables, "PUSHRING_SERVER"));
    let text = text.as_deref().unwrap_or(commands::SERVER_DEFAULT);
    let refused = |e| {
        usage(
            command,
            ErrorKind::ValueValidation,
            &format!("--server {text}: {e}"),
        )
    };
    ServerUrl::parse(text).map_err(refused)
}

/// A token or an API key.
fn token(matches: &ArgMatches, variables: &[(String, String)]) -> Option<Secret> {
    let text = matches.get_one::<String>("token").cloned();
    let text = text.or_else(|| variable(variables, "PUSHRING_TOKEN"));
    text.map(Secret)
}

fn usage(command: &str, kind: ErrorKind, message: &str) -> clap::Error {
    let mut root = commands::root();
    root.build();
    match root.find_subcommand_mut(command) {
        Some(command) => command.error(kind, message),
        None => root.error(kind, message),
    }
}

/// An argument that clap requires, or gives a default.
fn required(matches: &ArgMatches, id: &str) -> String {
    matches.get_one::<String>(id).cloned().unwrap_or_default()
}

/// An empty variable counts as unset.
fn variable(variables: &[(String, String)], name: &str) -> Option<String> {
    variables
        .iter()
        .find(|(n, value)| n == name && !value.is_empty())
        .map(|(_, value)| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_command_it_serves() {
        for args in [
            &[][..],
            &["serve"],
            &["--threads", "0"],
            &["--threads=0"],
            &["serve", "--threads", "0"],
        ] {
            assert_eq!(parsed(args, &[]), Action::Serve(Box::default()), "{args:?}");
        }
    }

    #[test]
    fn every_setting_is_a_flag_and_lists_may_be_given_in_parts() {
        let Action::Serve(config) = parsed(
            &[
                "--listen=127.0.0.1:0",
                "--listen=[::1]:0",
                "--insecure",
                "--pin-threads=false",
                "--namespace=echo.client_publish=true",
                "--namespace=echo.history_messages=0",
                "--message-bytes-max",
                "1KiB",
            ],
            &[
                ("PUSHRING_MESSAGE_BYTES_MAX", "2KiB"),
                ("PUSHRING_HEARTBEAT", "1s"),
                ("LANG", "C"),
            ],
        ) else {
            panic!("serves")
        };
        assert_eq!(
            (config.listen.len(), config.insecure, config.pin_threads),
            (2, true, false)
        );
        assert_eq!(
            (config.limits.message_bytes_max, config.timing.heartbeat_ms),
            (1024, 1000)
        );
        assert_eq!(
            (
                config.namespace("echo").client_publish,
                config.namespace("echo").history_messages
            ),
            (true, 0)
        );
    }

    #[test]
    fn publishing() {
        let Action::Publish(options) = parsed(
            &["pub", "a,b", "hello", "--event=e", "--no-store"],
            &[("PUSHRING_SERVER", "h:1"), ("PUSHRING_TOKEN", "a.b.c")],
        ) else {
            panic!("publishes")
        };
        assert_eq!(options.channels, ["a", "b"]);
        assert_eq!(options.token, Some(Secret("a.b.c".to_owned())));
        assert_eq!(
            (options.payload, options.kind),
            (Payload::Text("hello".to_owned()), Kind::Text)
        );
        assert_eq!(
            (options.event.as_deref(), options.store, options.ttl_seconds),
            (Some("e"), false, None)
        );
        assert_eq!(options.server.authority, "h:1");
        let Action::Publish(options) = parsed(
            &["pub", "a", "-", "--binary", "--ttl=5", "--server=i:2"],
            &[],
        ) else {
            panic!("publishes")
        };
        assert_eq!(
            (options.payload, options.kind, options.ttl_seconds),
            (Payload::Stdin, Kind::Binary, Some(5))
        );
    }

    #[test]
    fn subscribing() {
        let Action::Subscribe(options) = parsed(
            &["sub", "a,b", "b", "c", "--transport", "long", "--last=3"],
            &[],
        ) else {
            panic!("subscribes")
        };
        assert_eq!(options.channels, ["a", "b", "c"]);
        assert_eq!(
            (options.transport, options.start),
            (Transport::LongPoll, Start::Last(3))
        );
        assert_eq!(options.server.authority, "127.0.0.1:8080");
        let Action::Subscribe(options) = parsed(
            &["sub", "a", "--interval=0.5", "--since=k-1", "--count=2"],
            &[],
        ) else {
            panic!("subscribes")
        };
        assert_eq!(
            (options.transport, options.start),
            (Transport::WebSocket, Start::Cursor("k-1".to_owned()))
        );
        assert_eq!(
            (options.interval, options.count),
            (Duration::from_millis(500), Some(2))
        );
    }

    #[test]
    fn mistakes_are_told() {
        for (args, variables, want) in [
            (
                &["--heartbeat", "25"][..],
                &[][..],
                "--heartbeat = \"25\": the unit is missing",
            ),
            (&["--heartbeet", "1s"], &[], "--heartbeat"),
            (
                &[],
                &[("PUSHRING_HEARTBEET", "1s")],
                "did you mean PUSHRING_HEARTBEAT?",
            ),
            (&["--listen", "0.0.0.0:80"], &[], "--insecure"),
            (
                &["--config", "/nonexistent"],
                &[],
                "/nonexistent cannot be read",
            ),
            (&["publish", "a"], &[], "unrecognized subcommand"),
            (
                &["pub", "a", "x", "--json", "--binary"],
                &[],
                "cannot be used with",
            ),
            (
                &["pub", "a", "x", "--server", "https://h"],
                &[],
                "pub and sub do not speak TLS",
            ),
            (&["sub"], &[], "CHANNEL"),
            (
                &["sub", "a", "--last=1", "--since=now"],
                &[],
                "cannot be used with",
            ),
            (&["sub", "a", "--interval=-1"], &[], "--interval"),
            (&["sub", "a", "--count=0"], &[], "--count"),
            (&["check"], &[], "FILE"),
        ] {
            let message = match run(args, variables) {
                Ok(action) => panic!("{args:?} gives {action:?}"),
                Err(UsageError::Arguments(error)) => {
                    assert_eq!(error.exit_code(), 2, "{args:?}");
                    error.to_string()
                }
                Err(UsageError::Config(message)) => message,
            };
            assert!(message.contains(want), "{args:?}: {message}");
        }
    }

    #[test]
    fn help_and_version_are_not_failures() {
        for (args, want) in [
            (&["--help"][..], "pushring pub news"),
            (&["--version"], env!("CARGO_PKG_VERSION")),
            (&["serve", "--help"], "--message-bytes-max <SIZE>"),
            (&["serve", "-h"], "--listen <ADDR>"),
            (&["pub", "--help"], "Examples:"),
            (&["sub", "--help"], "Examples:"),
            (&["check", "--help"], "FILE"),
        ] {
            let Err(UsageError::Arguments(error)) = run(args, &[]) else {
                panic!("{args:?}")
            };
            assert_eq!(error.exit_code(), 0, "{args:?}");
            assert!(error.to_string().contains(want), "{args:?}: {error}");
        }
        assert!(
            matches!(parsed(&["settings"], &[]), Action::Print(text) if text.contains("| `listen` |"))
        );
    }

    fn run(args: &[&str], variables: &[(&str, &str)]) -> Result<Action, UsageError> {
        let args = ["pushring"].iter().chain(args).map(OsString::from);
        parse(
            args,
            variables
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
        )
    }

    #[track_caller]
    fn parsed(args: &[&str], variables: &[(&str, &str)]) -> Action {
        run(args, variables).unwrap_or_else(|e| panic!("{args:?}: {e:?}"))
    }
}
