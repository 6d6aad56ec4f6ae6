//! `verify`: every acknowledged message reaches every client once and in order, or the client is told of its loss.
//!
//! It runs the server by itself, with publishers and thousands of clients that come and go, change the transport, read
//! slowly or not at all and are cut off in mid-frame (`fate`, `worker`), while the server is drained, killed, stopped
//! and started again (`process`). A client keeps its cursor alone (`client`, `judge`); which message stands at which
//! position is in one `ledger`, and what a message is, its number says (`payload`). So a run of any length fits into
//! memory.

mod broker;
mod client;
mod crowd;
mod fate;
mod judge;
mod ledger;
mod network;
mod nodes;
mod options;
mod payload;
mod position;
mod process;
mod proxy;
mod publisher;
mod summary;
mod transport;
mod wire;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::ValueEnum;

use self::crowd::Crowd;
use self::judge::{Finding, Findings};
use self::ledger::{Ledger, Numbers};
use self::nodes::Nodes;
pub(crate) use self::options::Verify;
use self::publisher::Publisher;
use self::summary::{report_clients, report_publishes};
use crate::options::Options;
use crate::report::Report;

/// Messages that the channels of the namespace `short` keep.
const SHORT_HISTORY: u64 = 8;
/// Every so many channels one is short.
const SHORT_EVERY: u32 = 6;
const PUBLISHERS: u32 = 8;
/// The publisher of the last message of each channel.
const LAST_PUBLISHER: u32 = 100;

pub(crate) fn run(options: &Options, verify: &Verify) -> Result<Report, String> {
    let seed = verify.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    eprintln!("verify: --seed {seed}");
    verify.check()?;
    let names = (0..options.load.channels).map(|index| match index % SHORT_EVERY {
        1 => (format!("short:{index}"), SHORT_HISTORY),
        _ => (format!("verify-{index}"), verify.history),
    });
    let numbers = match verify.broker {
        Some(_) => Numbers::WithHoles,
        None => Numbers::Messages,
    };
    let ledger = Arc::new(Ledger::new(names, numbers));
    let findings = Arc::new(Findings::default());
    let mut nodes = Nodes::start(verify, &ledger, &findings, seed)?;

    let crowd = Crowd::start(options, verify, seed, (&ledger, &findings), &nodes)?;
    let publishing = Arc::new(publisher::Shared {
        ledger: Arc::clone(&ledger),
        findings: Arc::clone(&findings),
        seed,
        addresses: nodes.addresses(),
        refusals_are_final: verify.broker.is_none(),
        is_over: AtomicBool::new(false),
        acknowledged: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
        repeated: AtomicU64::new(0),
        over_memories: std::sync::Mutex::default(),
    });
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|index| {
            let publisher = Publisher::new(&publishing, index);
            let rate = verify.rate / f64::from(PUBLISHERS);
            thread::spawn(move || publisher.run(rate))
        })
        .collect();

    let begin = Instant::now();
    nodes.trouble(verify, begin)?;
    publishing.is_over.store(true, Ordering::Release);
    for publisher in publishers {
        publisher.join().expect("a publisher panicked")?;
    }
    let mut last = Publisher::new(&publishing, LAST_PUBLISHER);
    let targets: Result<Vec<_>, String> = (0..ledger.channels.len() as u16)
        .map(|channel| {
            loop {
                // Whose answer got lost does not say where it stands.
                if let Some(&at) = last.publish(&[channel])?.first() {
                    return Ok(at);
                }
            }
        })
        .collect();
    ledger.targets.set(targets?).expect("they are set once");
    let shared = Arc::clone(&crowd.shared);
    let tallies = crowd.finish()?;
    let seconds = begin.elapsed().as_secs_f64();
    let panics = nodes.counter("pushring_panics_total")?;
    nodes.end();

    let mut report = Report::new("verify");
    report.figure("seed", seed as f64, "");
    report.figure("time", seconds, "s");
    report_clients(&mut report, options, &tallies, seconds);
    report.figure("server processes", f64::from(nodes.processes), "");
    for (event, count) in &nodes.events {
        let name = event.to_possible_value().expect("it has a name");
        report.figure(format!("event {}", name.get_name()), f64::from(*count), "");
    }
    report_publishes(&mut report, &ledger, &findings, &publishing);
    for behind in tallies.iter().flat_map(|tally| &tally.behind) {
        findings.add(Finding::NeverArrived, 1, || behind.clone());
    }
    let deliveries = shared.deliveries.load(Ordering::Acquire);
    report.check_at_least("deliveries", verify.deliveries_min, deliveries);
    for &(finding, name) in Finding::ALL {
        report.check(name, 0, findings.count(finding));
    }
    report.check("panics that the last processes count", 0, panics);
    for example in findings.examples() {
        report.warn(example);
    }
    Ok(report)
}
