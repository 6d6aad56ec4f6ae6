//! `pushring-bench`: a load generator for push servers.
//!
//! A scenario (`scenario`) drives a fleet of workers (`fleet`, `worker`), each an epoll loop over many cheap clients
//! (`clients`); a publisher (`publisher`) is the backend. Every payload carries a stamp (`stamp`), so that deliveries
//! are counted, ordered and timed; `server_probe` and `metrics_page` watch the server. `floor` is the other side:
//! servers to compare with that do nothing but the system calls. The method behind the figures is in
//! `bench/README.md`. Two are programs of their own beside them: `verify` judges a server instead of measuring it, and
//! `storm_model` reckons what no machine can show.

mod clients;
mod fleet;
mod floor;
mod kernel;
mod metrics_page;
mod options;
mod plan;
mod publisher;
mod report;
mod scenario;
mod server_probe;
mod stamp;
mod storm_model;
mod tally;
mod verify;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::options::{Options, Scenario};

/// 0: every count agrees; 1: some don't; 2: the run could not be made.
fn main() -> ExitCode {
    let options = Options::parse();
    if let Scenario::Floor(floor) = &options.scenario {
        let Err(error) = floor::run(floor) else {
            return ExitCode::SUCCESS;
        };
        eprintln!("pushring-bench: {}: {error}", floor.listen);
        return ExitCode::from(2);
    }
    let report = match scenario::run(&options) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("pushring-bench: {error}");
            return ExitCode::from(2);
        }
    };
    print!("{}", report.to_text());
    if let Some(path) = &options.probe.json {
        let json = format!("{:#}\n", report.to_json(&command_line()));
        if let Err(error) = std::fs::write(path, json) {
            eprintln!("pushring-bench: {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    if report.agrees() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The command for the report, without what belongs to this machine: the path of the program and of the report.
fn command_line() -> String {
    let mut words = vec!["pushring-bench".to_owned()];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--json" {
            arguments.next();
        } else if !argument.starts_with("--json=") {
            words.push(argument);
        }
    }
    words.join(" ")
}
