//! `leave`: what the end of a connection costs the server, with few and with many open; at the end all leave at once.

use super::Run;
use crate::kernel::now_ns;
use crate::options::Leave;
use crate::report::{Report, Table};
use crate::server_probe::run_time_ns;
use crate::worker::Command;

pub(super) fn run(mut run: Run, leave: &Leave) -> Result<Report, String> {
    let pids = run.options.probe.server_pid.clone();
    if run.metrics.is_none() || pids.is_empty() {
        return Err(
            "leave needs --metrics-url and --server-pid: the server says when they are gone".into(),
        );
    }
    let connections = run.options.connections();
    let sizes = if leave.steps.is_empty() {
        vec![connections]
    } else {
        leave.steps.clone()
    };
    if sizes.iter().any(|&size| size < leave.leaving) {
        return Err("--leaving is at most the smallest of --steps".into());
    }
    let mut rows = Vec::new();
    for size in sizes {
        run.admit(size)?;
        let (begin_ns, cpu_ns) = (now_ns(), run_time_ns(&pids)?);
        run.fleet.shrink(size - leave.leaving);
        run.check_server_connections(u64::from(size - leave.leaving))?;
        let each_us = |ns: u64| ns as f64 / 1e3 / f64::from(leave.leaving);
        rows.push(vec![
            f64::from(size),
            each_us(run_time_ns(&pids)? - cpu_ns),
            each_us(now_ns() - begin_ns),
        ]);
    }
    run.report.table(Table {
        name: "ends",
        columns: ["open", "server cpu us", "elapsed us"]
            .map(String::from)
            .to_vec(),
        rows,
    });

    run.admit(connections)?;
    let (begin_ns, cpu_ns) = (now_ns(), run_time_ns(&pids)?);
    run.fleet.tell_all(|| Command::Close);
    run.check_server_connections(0)?;
    run.report
        .figure("all left", (now_ns() - begin_ns) as f64 / 1e9, "s");
    let each_us = (run_time_ns(&pids)? - cpu_ns) as f64 / 1e3 / f64::from(connections);
    run.report
        .figure("all left server cpu per connection", each_us, "us");
    Ok(run.finish())
}
