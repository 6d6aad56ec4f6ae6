//! Arguments → [`Action`] → exit code: 0 done, 1 refused or failed, 2 wrong usage or configuration.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use pushring::cli::{self, Action, UsageError};
use pushring::config::Config;
use pushring::{logging, server};

const FAILED: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match cli::parse(env::args_os(), variables()) {
        Ok(Action::Serve(config)) => serve(*config),
        Ok(Action::Publish(options)) => exit_code(cli::publish::run(&options)),
        Ok(Action::Subscribe(options)) => exit_code(cli::subscribe::run(&options)),
        Ok(Action::Print(text)) => match io::stdout().write_all(text.as_bytes()) {
            // `pushring settings | head`: the reader has what it wanted.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => exit_code(Err(e)),
            _ => ExitCode::SUCCESS,
        },
        Err(UsageError::Arguments(error)) => {
            // Nothing is left to do for help that nobody reads.
            let _ = error.print();
            u8::try_from(error.exit_code()).unwrap_or(USAGE).into()
        }
        Err(UsageError::Config(message)) => {
            message.lines().for_each(complain);
            USAGE.into()
        }
    }
}

fn serve(config: Config) -> ExitCode {
    // Writes what is still queued when it is dropped, so it outlives the last line.
    let _log = logging::start(config.log_format, config.log_level);
    for (group, values) in config.summary() {
        tracing::info!("settings, {group}: {values}");
    }
    match server::run(config, Box::new(read_config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            FAILED.into()
        }
    }
}

/// The configuration as it reads now: the same flags and environment, and the file as it has become.
fn read_config() -> Result<Config, String> {
    match cli::parse(env::args_os(), variables()) {
        Ok(Action::Serve(config)) => Ok(*config),
        Ok(_) => unreachable!("the arguments said to serve"),
        Err(UsageError::Arguments(error)) => Err(error.to_string()),
        Err(UsageError::Config(message)) => Err(message),
    }
}

fn exit_code(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            FAILED.into()
        }
    }
}

/// Unlike `eprintln!`, does not panic when nobody reads stderr.
fn complain(error: impl Display) {
    let _ = writeln!(io::stderr(), "pushring: {error}");
}

/// A variable that is not Unicode is no setting of ours, or one with a value that will be refused.
fn variables() -> Vec<(String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    env::vars_os()
        .map(|(name, value)| (lossy(name), lossy(value)))
        .collect()
}
