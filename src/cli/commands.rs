//! The commands as clap knows them. What they mean is in the parent module.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, value_parser};

use crate::config::Config;
use crate::config::load::{API_KEY, NAMESPACE, TOKEN_KEY};
use crate::config::setting::{Group, Kind, Setting};
use crate::config::table::{
    API_KEY_SETTINGS, NAMESPACE_HELP, NAMESPACE_SETTINGS, SETTINGS, TOKEN_KEY_SETTINGS,
};

pub(super) const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";

pub(super) fn root() -> Command {
    Command::new("pushring")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A push server: publish over HTTP, listen by polling, Server-Sent Events or WebSocket, on one cursor")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommands([serve(), publish(), subscribe(), check(), settings()])
        .after_help(
            "Without a command it serves: `pushring --listen 127.0.0.1:9000` is `pushring serve --listen …`.\n\n\
             Examples:\n  \
             pushring                                serve on http://127.0.0.1:8080\n  \
             pushring sub news                       listen, in a second terminal\n  \
             pushring pub news 'hello'               publish, in a third\n  \
             curl -N http://127.0.0.1:8080/sse/news  listen without pushring",
        )
}

fn serve() -> Command {
    let config = Config::default();
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("Reads settings from a TOML file [env: PUSHRING_CONFIG]");
    let namespace = Arg::new(NAMESPACE)
        .long(NAMESPACE)
        .value_name("NAME.FIELD=VALUE")
        .action(ArgAction::Append)
        .help(namespace_help(&config))
        .help_heading(Group::Namespace.title())
        .hide_short_help(true);
    let fields = |names: Vec<&str>| {
        format!(
            "Sets one field of one key; may be repeated. Fields: {}. Whoever may list processes sees what stands \
                 here: give secrets as files",
            names.join(", ")
        )
    };
    let key = |name: &'static str, group: Group, help: String| {
        Arg::new(name)
            .long(name.replace('_', "-"))
            .value_name("NAME.FIELD=VALUE")
            .action(ArgAction::Append)
            .help(help)
            .help_heading(group.title())
            .hide_short_help(true)
    };
    let token_key_fields = fields(TOKEN_KEY_SETTINGS.iter().map(|s| s.name).collect());
    let api_key_fields = fields(API_KEY_SETTINGS.iter().map(|s| s.name).collect());
    Command::new("serve")
        .about("Runs the server (the default command)")
        .arg(file)
        .args(SETTINGS.iter().map(|setting| flag(setting, &config)))
        .arg(namespace)
        .arg(key(TOKEN_KEY, Group::TokenKey, token_key_fields))
        .arg(key(API_KEY, Group::ApiKey, api_key_fields))
        .after_help("--help shows all settings, this is the short list.")
        .after_long_help(
            "Every flag is also a key of the file and a variable of the environment: --message-bytes-max 1MiB is \
             message_bytes_max = \"1MiB\" and PUSHRING_MESSAGE_BYTES_MAX=1MiB. A flag wins over the environment, \
             which wins over the file. `pushring check FILE` tells what is wrong with a file.\n\n\
             Examples:\n  \
             pushring serve --listen 127.0.0.1:9000 --threads 2\n  \
             pushring serve --namespace echo.client_publish=true --namespace echo.history_messages=0\n  \
             pushring serve --config pushring.toml --log-format json",
        )
}

fn flag(setting: &'static Setting<Config>, default: &Config) -> Arg {
    let help = format!("{} [default: {}]", setting.help, setting.show(default));
    let arg = Arg::new(setting.name)
        .long(setting.flag())
        .value_name(setting.placeholder())
        .long_help(format!("{help}{}", bracketed(&setting.range())))
        .help(help)
        .help_heading(setting.group.title())
        .hide_short_help(setting.group != Group::Network && setting.name != "threads");
    match setting.kind {
        // `--insecure` is `--insecure=true`; a value of its own needs the equal sign.
        Kind::Bool(_) => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        _ if setting.is_list() => arg.action(ArgAction::Append),
        _ => arg,
    }
}

fn bracketed(range: &str) -> String {
    if range.is_empty() {
        String::new()
    } else {
        format!(" [{range}]")
    }
}

fn namespace_help(default: &Config) -> String {
    let mut help =
        format!("Sets one field of one namespace; may be repeated. {NAMESPACE_HELP} Fields:");
    for setting in NAMESPACE_SETTINGS {
        let (shown, range) = (
            setting.show(default.namespace("")),
            bracketed(&setting.range()),
        );
        help.push_str(&format!(
            "\n{}: {} [default: {shown}]{range}",
            setting.name, setting.help
        ));
    }
    help
}

fn server() -> Arg {
    Arg::new("server")
        .long("server")
        .value_name("URL")
        .help(format!(
            "Where the server is [env: PUSHRING_SERVER] [default: {SERVER_DEFAULT}]"
        ))
}

fn token() -> Arg {
    Arg::new("token").long("token").value_name("TOKEN").help(
        "What to show to the server: a token or an API key. Better in the environment, where others do not see it \
         [env: PUSHRING_TOKEN]",
    )
}

fn publish() -> Command {
    let option =
        |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    Command::new("pub")
        .about("Publishes a message and prints its position and how many got it")
        .arg(
            Arg::new("CHANNEL")
                .required(true)
                .help("The channel, or several joined by commas"),
        )
        .arg(Arg::new("TEXT").help(
            "The message; - or nothing reads it from stdin, without the line end of its last line",
        ))
        .arg(server())
        .arg(token())
        .arg(
            option("event", "NAME")
                .help("The event's name, for addEventListener(NAME) in a browser"),
        )
        .arg(switch("json").help("The message is JSON"))
        .arg(
            switch("binary")
                .help("The message is bytes, taken as they are")
                .conflicts_with("json"),
        )
        .arg(
            option("ttl", "SECONDS")
                .value_parser(value_parser!(u64))
                .help("How long to keep it, if shorter than the namespace says"),
        )
        .arg(switch("no-store").help("Only for who listens now"))
        .arg(
            option("idempotency-key", "KEY")
                .help("A repeat with the same key is answered, and not delivered again"),
        )
        .after_help(
            "Exit code: 0 published, 1 refused or not reached, 2 wrong usage. Where the server has \
             --internal ADDR, publish there: --server http://ADDR.\n\n\
             Examples:\n  \
             pushring pub news 'hello'\n  \
             pushring pub news --json '{\"a\":1}' --event created\n  \
             date | pushring pub clock,news\n  \
             pushring pub images --binary - < cat.png",
        )
}

fn subscribe() -> Command {
    let option =
        |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    Command::new("sub")
        .about("Prints the messages of channels as they come, and goes on after any loss")
        .arg(Arg::new("CHANNEL").required(true).num_args(1..).help("Channels to listen on"))
        .arg(server())
        .arg(token())
        .arg(
            option("transport", "NAME")
                .value_parser(PossibleValuesParser::new(["ws", "sse", "long", "short"]))
                .default_value("ws")
                .help("WebSocket, Server-Sent Events, long polling or short polling"),
        )
        .arg(option("since", "WHERE").default_value("now").help("Where to start: now, earliest, or a cursor"))
        .arg(
            option("last", "N")
                .value_parser(value_parser!(u64))
                .conflicts_with("since")
                .help("Starts with the last N messages"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Prints whole objects with channel, id and event; always one line each"),
        )
        .arg(
            option("interval", "SECONDS")
                .value_parser(seconds)
                .default_value("1")
                .help("Between two short polls; 0.5 is fine"),
        )
        .arg(option("count", "N").value_parser(value_parser!(u64).range(1..)).help("Ends after N messages"))
        .after_help(
            "A message is printed as its payload: text as it is, binary as base64. Gaps and reconnects are told on \
             stderr. Ends on Ctrl-C, after --count messages, or with exit code 1 if the server refuses.\n\n\
             Examples:\n  \
             pushring sub news\n  \
             pushring sub news chat:42 --json --since earliest\n  \
             pushring sub news --transport long --last 10\n  \
             pushring sub jobs --count 1 && echo 'one job'",
        )
}

fn check() -> Command {
    Command::new("check")
        .about("Checks a configuration file and prints the settings it gives")
        .arg(Arg::new("FILE").required(true).help("The TOML file"))
        .after_help(
            "The environment and flags play no part. Exit code: 0 if a server would start with it, otherwise 2.\n\n\
             Examples:\n  \
             pushring check pushring.toml\n  \
             pushring check /dev/null          all defaults",
        )
}

fn settings() -> Command {
    Command::new("settings")
        .about("Prints a table of all settings, their defaults and ranges, in Markdown")
}

/// `1`, `0.5`; up to a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let range = 0.01..=86_400.0;
    let seconds = text
        .parse::<f64>()
        .ok()
        .filter(|seconds| range.contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "give seconds, from 0.01 to 86400".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        root().debug_assert();
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        for (text, want_ms) in [
            ("1", Some(1_000)),
            ("0.5", Some(500)),
            ("86400", Some(86_400_000)),
        ] {
            assert_eq!(
                seconds(text).ok(),
                want_ms.map(Duration::from_millis),
                "{text}"
            );
        }
        for text in ["0", "-1", "", "1s", "nan", "inf", "1e9"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
