//! `connect`: how fast connections are admitted.

use super::Run;
use crate::report::Report;

pub(super) fn run(mut run: Run) -> Result<Report, String> {
    let connections = run.options.connections();
    let begin = run.begin_stretch()?;
    let seconds = run.open(connections);
    run.end_stretch("connect", &begin, u64::from(connections), "connection")?;
    run.check_admitted(connections)?;
    let tally = run.take_tally();
    run.report.figure("admitted", tally.opened as f64, "");
    run.report.figure("time", seconds, "s");
    run.report
        .figure("rate", tally.opened as f64 / seconds, "1/s");
    run.report.latency("admission", &tally.admission_us);
    Ok(run.finish())
}
