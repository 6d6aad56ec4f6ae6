//! The figures of a run: what was done to clients, and what became of the publishes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::judge::{Finding, Findings};
use super::ledger::{Audit, Ledger, Numbers};
use super::publisher::{self, publisher_of};
use super::transport::Transport;
use super::worker::Tally;
use crate::options::Options;
use crate::report::Report;

pub(super) fn report_clients(
    report: &mut Report,
    options: &Options,
    tallies: &[Tally],
    seconds: f64,
) {
    let sum = |of: &dyn Fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>() as f64;
    report.figure("clients", f64::from(options.connections()), "");
    report.figure("channels", f64::from(options.load.channels), "");
    let deliveries = sum(&|tally| tally.counts.deliveries);
    report.figure("deliveries", deliveries, "");
    report.figure("delivery rate", deliveries / seconds, "1/s");
    let rows = Transport::ALL.map(|transport| {
        let of = |tally: &Tally| tally.deliveries_by_transport[transport as usize];
        (transport.name(), sum(&of))
    });
    for (name, deliveries) in rows {
        report.figure(format!("by {name}"), deliveries, "");
    }
    type Count = fn(&Tally) -> u64;
    let counts: [(&str, Count); 10] = [
        ("connections", |tally| tally.connects),
        ("ended by the server", |tally| tally.ended_by_server),
        ("cut in mid-frame", |tally| tally.cut_mid_frame),
        ("resets", |tally| tally.resets),
        ("half a request", |tally| tally.half_asked),
        ("pauses", |tally| tally.pauses),
        ("slow readers", |tally| tally.slow),
        ("losses told, of a history", |tally| {
            tally.counts.gaps_of_history
        }),
        ("losses told, of a restart", |tally| {
            tally.counts.gaps_of_restart
        }),
        ("messages told lost", |tally| {
            tally.counts.messages_told_lost
        }),
    ];
    for (name, count) in counts {
        report.figure(name, sum(&count), "");
    }
}

pub(super) fn report_publishes(
    report: &mut Report,
    ledger: &Ledger,
    findings: &Findings,
    publishing: &publisher::Shared,
) {
    for (messages, who) in ledger.leaps_over_messages() {
        findings.add(Finding::Lost, messages, || who);
    }
    let over_memories = publishing.over_memories.lock().expect("no panic");
    let (mut total, mut twice_over_memories) = (Audit::default(), 0);
    for channel in &ledger.channels {
        let audit = channel.audit(publisher_of);
        total.acknowledged += audit.acknowledged;
        total.unacknowledged += audit.unacknowledged;
        total.unknown += audit.unknown;
        for number in audit.twice {
            if over_memories.contains(&number) {
                twice_over_memories += 1;
            } else {
                findings.add(Finding::PublishedTwice, 1, || {
                    format!("{number:08x} on {}", channel.name)
                });
            }
        }
        for number in audit.swapped {
            findings.add(Finding::PublishedOutOfOrder, 1, || {
                format!("{number:08x} on {}", channel.name)
            });
        }
    }
    let load = |count: &AtomicU64| count.load(Ordering::Acquire) as f64;
    for (name, value) in [
        ("messages acknowledged", total.acknowledged as f64),
        (
            "messages whose answer was lost",
            total.unacknowledged as f64,
        ),
        ("publishes repeated", load(&publishing.repeated)),
        ("publishes given up", load(&publishing.unknown)),
        (
            "publishes twice, over a loss of keys",
            f64::from(twice_over_memories),
        ),
    ] {
        report.figure(name, value, "");
    }
    if ledger.numbers() == Numbers::Messages {
        let unknown = total.unknown as f64;
        report.figure("positions that nobody told of", unknown, "");
    }
}
