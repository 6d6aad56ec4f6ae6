//! `publish` and `poll`: how many requests per second fit, each connection waiting for its answers.
//!
//! A closed loop finds the capacity. Its latencies are those at saturation, where a slow answer holds back the requests
//! that would have shown it: read them as a hint.

use super::Run;
use crate::fleet::hold;
use crate::options::{Poll, Publish};
use crate::report::Report;
use crate::worker::Command;

pub(super) fn publish(mut run: Run, publish: &Publish) -> Result<Report, String> {
    run.admit(run.options.connections())?;
    run.fleet.tell_all(|| Command::Begin);
    measure(&mut run, "publish", publish.duration)?;
    if publish.pipeline == 1 {
        let latency_us = &run.total.latency_us.clone();
        run.report.latency("answer", latency_us);
    }
    Ok(run.finish())
}

pub(super) fn poll(mut run: Run, poll: &Poll) -> Result<Report, String> {
    run.admit(run.options.connections())?;
    measure(&mut run, "poll", poll.duration)?;
    Ok(run.finish())
}

fn measure(run: &mut Run, name: &'static str, seconds: f64) -> Result<(), String> {
    // The first tenth warms up, outside of the figures.
    hold(seconds / 10.0, "warm up");
    run.take_tally();
    let (begin, answers_before) = (run.begin_stretch()?, run.fleet.answers());
    hold(seconds, name);
    let answers = run.fleet.answers() - answers_before;
    let took_s = (crate::kernel::now_ns() - begin.client.at_ns) as f64 / 1e9;
    run.end_stretch(name, &begin, answers, "request")?;
    run.fleet.tell_all(|| Command::Stop);
    let refused: u64 = run.take_tally().refusals.values().sum();
    run.report.figure("requests", answers as f64, "");
    run.report.figure("rate", answers as f64 / took_s, "1/s");
    run.report.check("refused requests", 0, refused);
    run.report.check(
        "open at the end",
        u64::from(run.options.connections()),
        run.fleet.open_now(),
    );
    Ok(())
}
