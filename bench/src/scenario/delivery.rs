//! `broadcast`, `steady`, `saturate`, `chat`: how fast and how late messages arrive.

use super::Run;
use crate::fleet::{hold, progress_bar};
use crate::kernel::now_ns;
use crate::options::{Broadcast, Saturate, Steady};
use crate::report::{Report, Table};

pub(super) fn broadcast(mut run: Run, broadcast: &Broadcast) -> Result<Report, String> {
    let connections = run.options.connections();
    run.admit(connections)?;
    let mut publisher = run.publisher()?;
    let mut begin = run.begin_stretch()?;
    let mut rounds = Rounds::default();
    let bar = progress_bar(u64::from(broadcast.messages), "messages");
    let mut owed = 0;
    for _ in 0..broadcast.messages {
        run.take_tally();
        for channel in 0..run.fleet.plan.channels {
            publisher.publish(channel)?;
        }
        owed += u64::from(connections);
        let whole = run.fleet.wait_messages(owed);
        rounds.push(&mut run);
        if !whole {
            break;
        }
        bar.inc(1);
        hold(broadcast.pause, "pause");
        begin.idle_s += broadcast.pause;
    }
    bar.finish_and_clear();
    run.end_stretch("broadcast", &begin, owed, "delivery")?;
    rounds.report(&mut run.report, u64::from(connections));
    run.check_deliveries_on_both_sides(u64::from(broadcast.messages) * u64::from(connections))?;
    Ok(run.finish())
}

/// First, median, p99 and last delivery of each message, in microseconds since it was published.
#[derive(Default)]
pub(super) struct Rounds(Vec<[f64; 4]>);

impl Rounds {
    /// Takes the latencies of the message that was just delivered.
    pub(super) fn push(&mut self, run: &mut Run) {
        let latency_us = run.take_tally().latency_us;
        let quantile = |quantile| latency_us.value_at_quantile(quantile) as f64;
        self.0.push([
            latency_us.min() as f64,
            quantile(0.5),
            quantile(0.99),
            latency_us.max() as f64,
        ]);
    }

    pub(super) fn report(self, report: &mut Report, subscribers: u64) {
        for (column, name) in [
            "first delivery",
            "median delivery",
            "p99 delivery",
            "last delivery",
        ]
        .iter()
        .enumerate()
        {
            let mut values: Vec<f64> = self.0.iter().map(|round| round[column]).collect();
            values.sort_by(f64::total_cmp);
            let Some(median) = values.get(values.len() / 2) else {
                continue;
            };
            report.figure(format!("{name} (median of messages)"), *median, "us");
            if column == 3 {
                report.figure(
                    "deliveries at the median last",
                    subscribers as f64 / (median / 1e6),
                    "1/s",
                );
            }
        }
        let columns = ["message", "first us", "median us", "p99 us", "last us"]
            .map(String::from)
            .to_vec();
        let rows = self.0.iter().zip(1_u32..).map(|(round, message)| {
            std::iter::once(f64::from(message))
                .chain(round.iter().copied())
                .collect::<Vec<_>>()
        });
        report.table(Table {
            name: "messages",
            columns,
            rows: rows.collect(),
        });
    }
}

pub(super) fn steady(mut run: Run, steady: &Steady) -> Result<Report, String> {
    let connections = run.options.connections();
    run.admit(connections)?;
    let mut publisher = run.publisher()?;
    run.take_tally();
    let begin = run.begin_stretch()?;
    let plan = std::sync::Arc::clone(&run.fleet.plan);
    let published = publisher.publish_on_schedule(steady.rate, steady.duration, |channel| {
        plan.subscribers_of(channel)
    })?;
    run.fleet.wait_messages(published.deliveries);
    run.end_stretch("steady", &begin, published.deliveries, "delivery")?;
    let latency_us = run.take_tally().latency_us;
    run.report
        .figure("published", published.sent as f64 / steady.duration, "1/s");
    run.report.figure(
        "deliveries",
        published.deliveries as f64 / steady.duration,
        "1/s",
    );
    run.report.latency("delivery", &latency_us);
    run.report.latency("publish answer", &published.answer_us);
    run.report
        .latency("publisher lateness", &published.lateness_us);
    run.report
        .check("publishes accepted", published.sent, published.accepted);
    run.check_deliveries_on_both_sides(published.deliveries)?;
    Ok(run.finish())
}

pub(super) fn saturate(mut run: Run, saturate: &Saturate) -> Result<Report, String> {
    if run.fleet.plan.channels != 1 {
        return Err("saturate publishes to one channel: leave out --channels".into());
    }
    let connections = u64::from(run.options.connections());
    run.admit(run.options.connections())?;
    let mut publisher = run.publisher()?;
    run.take_tally();
    let begin = run.begin_stretch()?;
    let fleet = &run.fleet;
    let (sent, accepted) =
        publisher.publish_in_window(saturate.window, saturate.duration, || {
            fleet.messages() / connections
        })?;
    let owed = sent * connections;
    run.fleet.wait_messages(owed);
    let took_s = (now_ns() - begin.client.at_ns) as f64 / 1e9;
    run.end_stretch("saturate", &begin, owed, "delivery")?;
    let latency_us = run.take_tally().latency_us;
    run.report.figure("published", sent as f64 / took_s, "1/s");
    run.report.figure("deliveries", owed as f64 / took_s, "1/s");
    run.report.latency("delivery", &latency_us);
    run.report.check("publishes accepted", sent, accepted);
    run.check_deliveries_on_both_sides(owed)?;
    Ok(run.finish())
}

pub(super) fn chat(mut run: Run, chat: &Steady) -> Result<Report, String> {
    let (connections, channels) = (run.options.connections(), run.fleet.plan.channels);
    if connections % channels != 0 {
        return Err("chat needs --connections to be a multiple of --channels, so that every channel has as many".into());
    }
    run.admit(connections)?;
    run.take_tally();
    let begin = run.begin_stretch()?;
    run.fleet.say(chat.rate, chat.duration);
    let said = run.fleet.said();
    let owed = said * u64::from(connections / channels);
    run.fleet.wait_messages(owed);
    run.end_stretch("chat", &begin, owed, "delivery")?;
    let latency_us = run.take_tally().latency_us;
    run.report
        .figure("said", said as f64 / chat.duration, "1/s");
    run.report
        .figure("deliveries", owed as f64 / chat.duration, "1/s");
    run.report.latency("delivery", &latency_us);
    run.check_deliveries_on_both_sides(owed)?;
    Ok(run.finish())
}
