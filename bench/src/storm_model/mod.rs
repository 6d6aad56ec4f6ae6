//! `storm-model`: how the clients of a lost node come back to the others, for numbers that fit on no machine.
//!
//! No socket and no clock: events (`world`) of clients that wait as the documented ones do (`client`) and of nodes that
//! take newcomers at a measured rate (`node`). All surviving nodes are alike; the balancer spreads newcomers evenly.

mod client;
mod node;
mod world;

use clap::{Args, ValueEnum};

use self::client::Kind;
use self::node::Door;
use self::world::{Case, Loss, Outcome};
use crate::report::{Report, Table};

/// What the kernel needs to accept and hold, as a share of what a newcomer costs all in all: 10 of 18.3 µs.
const REFUSAL_SHARE: f64 = 0.55;

#[derive(Args, Clone, Debug)]
pub(crate) struct StormModel {
    /// Clients of all nodes; a row for each.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "N,…",
        default_value = "1000000,10000000,100000000"
    )]
    users: Vec<u64>,
    /// Clients of one node when all are there; so many nodes as that takes, and at least two.
    #[arg(long, default_value_t = 500_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    users_per_node: u64,
    /// Cores of a node, and threads of its server.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    cores: u64,
    /// Newcomers that one core takes in a second.
    #[arg(long, default_value_t = 30_000, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..))]
    core_connects: u64,
    /// What the cores have left for newcomers, in percent.
    #[arg(long, default_value_t = 50, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(1..=100))]
    room: u64,
    /// The server's setting accepts_per_second_max, of each thread.
    #[arg(long, default_value_t = 0, value_name = "PER_SECOND")]
    accepts_per_second_max: u64,
    /// Newcomers that wait at one thread's listener (net.core.somaxconn).
    #[arg(long, default_value_t = 4_096, value_name = "N")]
    backlog: u64,
    #[arg(long, value_enum, default_value = "page")]
    client: Kind,
    #[arg(long, value_enum, default_value = "killed")]
    loss: LossKind,
    /// Within which time all clients notice that a node was killed.
    #[arg(long, default_value_t = 0.1, value_name = "SECONDS")]
    notice: f64,
    /// The server's setting drain_period, if it is drained.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    drain_period: f64,
    #[arg(long, default_value_t = 0.05, value_name = "SECONDS")]
    round_trip: f64,
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LossKind {
    /// The process is killed: its host resets all connections.
    Killed,
    /// SIGTERM.
    Drained,
}

pub(crate) fn run(model: &StormModel) -> Result<Report, String> {
    let mut report = Report::new("storm-model");
    report.figure("seed", model.seed as f64, "");
    let door = model.door();
    report.figure(
        "newcomers that a node can take",
        door.admissions_per_second as f64,
        "1/s",
    );
    let mut rows = Vec::new();
    for &users in &model.users {
        let nodes = model.nodes(users)?;
        let clients = u32::try_from(users / u64::from(nodes)).map_err(|_| "too many users")?;
        let case = Case {
            clients,
            nodes: nodes - 1,
            kind: model.client,
            loss: model.loss(),
            round_trip_us: microseconds(model.round_trip),
            door,
        };
        let outcome = world::run(case, model.seed);
        report.check(
            format!("back or told to stay away, of {clients} of {users}"),
            u64::from(clients),
            outcome.away_ms.len() as u64 + outcome.stay_away,
        );
        if outcome.stay_away > 0 {
            report.warn(format!(
                "{} of {clients} took a 503 as final: only their page can bring them back",
                outcome.stay_away
            ));
        }
        rows.push(row(users, nodes, clients, &outcome));
    }
    let columns = [
        "users",
        "nodes",
        "come back",
        "peak 1/s",
        "half s",
        "99% s",
        "longest s",
        "all back s",
        "tries each",
        "told 503",
        "closed",
        "SYNs lost",
    ];
    report.table(Table {
        name: "one node lost",
        columns: columns.map(String::from).to_vec(),
        rows,
    });
    Ok(report)
}

/// Peak: the most newcomers of one node in one second. Half, 99%, longest: how long clients were away.
fn row(users: u64, nodes: u16, clients: u32, outcome: &Outcome) -> Vec<f64> {
    let away_s = |per_mille: usize| {
        let last = outcome.away_ms.len().saturating_sub(1);
        let away_ms = outcome.away_ms.get(last * per_mille / 1_000);
        f64::from(away_ms.copied().unwrap_or(0)) / 1e3
    };
    vec![
        users as f64,
        f64::from(nodes),
        f64::from(clients),
        f64::from(outcome.arrivals_peak),
        away_s(500),
        away_s(990),
        away_s(1_000),
        outcome.all_back_ms as f64 / 1e3,
        outcome.attempts as f64 / f64::from(clients),
        outcome.refused as f64,
        outcome.closed as f64,
        outcome.dropped as f64,
    ]
}

impl StormModel {
    fn nodes(&self, users: u64) -> Result<u16, String> {
        let nodes = users.div_ceil(self.users_per_node).max(2);
        u16::try_from(nodes).map_err(|_| format!("{nodes} nodes are too many for the model"))
    }

    fn door(&self) -> Door {
        Door {
            admissions_per_second: (self.core_connects * self.cores * self.room / 100).max(1),
            refusal_share: REFUSAL_SHARE,
            backlog: self.backlog * self.cores,
            threads: self.cores,
            accepts_per_second_max: self.accepts_per_second_max,
        }
    }

    fn loss(&self) -> Loss {
        match self.loss {
            LossKind::Killed => Loss::Killed {
                notice_us: microseconds(self.notice),
            },
            LossKind::Drained => Loss::Drained {
                period_us: microseconds(self.drain_period),
            },
        }
    }
}

fn microseconds(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::{Options, Scenario};

    /// The table for these arguments; everybody has to be accounted for.
    #[track_caller]
    fn check(arguments: &[&str]) -> Vec<serde_json::Value> {
        let words = ["pushring-bench", "storm-model"].iter().chain(arguments);
        let options = Options::try_parse_from(words).unwrap();
        let Scenario::StormModel(model) = &options.scenario else {
            panic!("another scenario");
        };
        let report = run(model).unwrap();
        assert!(report.agrees(), "{}", report.to_text());
        let json = report.to_json("");
        json["tables"]["one_node_lost"].as_array().unwrap().clone()
    }

    #[test]
    fn a_row_for_each_number_of_users() {
        let rows = check(&["--users", "1000,4000", "--users-per-node", "1000"]);
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (&row["nodes"], &row["come_back"]))
            .map(|(nodes, clients)| (nodes.as_u64(), clients.as_u64()))
            .collect();
        // One node alone would have nobody to go to.
        assert_eq!(seen, [(Some(2), Some(500)), (Some(4), Some(1_000))]);
    }

    #[test]
    fn more_nodes_share_the_newcomers() {
        let rows = check(&["--users", "20000,100000", "--users-per-node", "10000"]);
        let peak = |row: &serde_json::Value| row["peak_1/s"].as_f64().unwrap();
        assert!(peak(&rows[1]) * 4.0 < peak(&rows[0]), "{rows:?}");
    }
}
