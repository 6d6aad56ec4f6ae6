//! `storm`: all clients leave at once and all come back, as after a network failure or a deploy.

use super::Run;
use crate::kernel::now_ns;
use crate::options::Storm;
use crate::report::{Report, Table};
use crate::worker::Command;

pub(super) fn run(mut run: Run, storm: &Storm) -> Result<Report, String> {
    let connections = run.options.connections();
    run.admit(connections)?;
    let begin = run.begin_stretch()?;
    let mut rows = Vec::new();
    let mut owed = 0;
    for round in 0..storm.rounds {
        let left_ns = now_ns();
        run.fleet.tell_all(|| Command::Close);
        run.fleet.wait("left", u64::from(connections), || {
            u64::from(connections) - run.fleet.open_now()
        });
        run.check_server_connections(0)?;
        let leave_s = (now_ns() - left_ns) as f64 / 1e9;
        let return_s = run.admit(connections)?;
        let mut publisher = run.publisher()?;
        for channel in 0..run.fleet.plan.channels {
            publisher.publish(channel)?;
        }
        owed += u64::from(connections);
        run.fleet.wait_messages(owed);
        run.drop_publisher(publisher);
        rows.push(vec![
            f64::from(round + 1),
            leave_s,
            return_s,
            f64::from(connections) / return_s,
        ]);
    }
    run.end_stretch(
        "storm",
        &begin,
        u64::from(connections) * u64::from(storm.rounds),
        "leave and return",
    )?;
    let columns = ["round", "leave s", "return s", "return 1/s"]
        .map(String::from)
        .to_vec();
    run.report.table(Table {
        name: "rounds",
        columns,
        rows,
    });
    let admission_us = run.take_tally().admission_us;
    run.report.latency("admission", &admission_us);
    run.check_deliveries_on_both_sides(owed)?;
    Ok(run.finish())
}
