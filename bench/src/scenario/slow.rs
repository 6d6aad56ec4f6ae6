//! `slow`: a share of the readers stops reading while messages go on. The others must not notice, and the server's
//! memory must stay bounded; what becomes of the slow ones is the server's policy, and the report tells it.

use super::Run;
use crate::fleet::hold;
use crate::options::Slow;
use crate::report::Report;
use crate::worker::Command;

/// After they read again, the slow get this long to take what waits for them.
const CATCH_UP_S: f64 = 3.0;

pub(super) fn run(mut run: Run, slow: &Slow) -> Result<Report, String> {
    let connections = run.options.connections();
    run.admit(connections)?;
    let mut publisher = run.publisher()?;
    run.take_tally();
    let plan = std::sync::Arc::clone(&run.fleet.plan);
    let readers_of = |channel: u32| {
        let members = (channel..connections).step_by(plan.channels as usize);
        members
            .filter(|&connection| !plan.is_slow(connection, slow.share))
            .count() as u32
    };
    let readers: Vec<u32> = (0..plan.channels).map(readers_of).collect();
    let slow_connections = u64::from(connections - readers.iter().sum::<u32>());

    run.fleet.tell_all(|| Command::Pause { share: slow.share });
    let memory_before = run.server_usage()?;
    let begin = run.begin_stretch()?;
    let schedule = &slow.schedule;
    let published = publisher.publish_on_schedule(schedule.rate, schedule.duration, |channel| {
        readers[channel as usize]
    })?;
    run.fleet.wait_messages(published.deliveries);
    run.end_stretch("slow", &begin, published.deliveries, "delivery")?;
    if let (Some(before), Some(after)) = (memory_before, run.server_usage()?) {
        let growth = after.pss_bytes.saturating_sub(before.pss_bytes) as f64;
        run.report.figure("server memory growth (pss)", growth, "B");
        run.report.figure(
            "server memory growth per slow reader",
            growth / slow_connections.max(1) as f64,
            "B",
        );
    }
    let latency_us = run.take_tally().latency_us;
    run.report
        .figure("slow readers", slow_connections as f64, "");
    run.report.figure(
        "published",
        published.sent as f64 / schedule.duration,
        "1/s",
    );
    run.report.latency("delivery to the others", &latency_us);
    run.report
        .check("publishes accepted", published.sent, published.accepted);
    run.check_deliveries(published.deliveries);

    run.fleet.tell_all(|| Command::Resume);
    hold(CATCH_UP_S, "catch up");
    let slow_tally = run.take_tally();
    run.report
        .figure("slow readers ended", slow_tally.ended as f64, "");
    run.report
        .figure("slow deliveries", slow_tally.messages as f64, "");
    run.report.figure(
        "slow messages missing by sequence",
        slow_tally.missing as f64,
        "",
    );
    run.report
        .figure("slow gaps told", slow_tally.gaps_told as f64, "");
    run.report
        .check_at_most("ended by the server", slow_connections, run.total.ended);
    // Ends of slow readers are no disagreement; `finish` counts the others only.
    run.total.ended = run.total.ended.saturating_sub(slow_tally.ended);
    Ok(run.finish())
}
