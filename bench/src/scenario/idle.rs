//! `idle`: memory per connection at several sizes, heartbeats over time, and the proof that all are still served.

use std::collections::BTreeMap;

use super::Run;
use crate::fleet::hold;
use crate::options::Idle;
use crate::report::{Report, Table};
use crate::server_probe::{Usage, slab_bytes, slope, usage};

/// Memory of both sides and of the kernel with a number of connections open.
struct Step {
    connections: u32,
    server: Usage,
    client: Usage,
    slab: BTreeMap<String, u64>,
}

pub(super) fn run(mut run: Run, idle: &Idle) -> Result<Report, String> {
    let sizes = if idle.steps.is_empty() {
        vec![run.options.connections()]
    } else {
        idle.steps.clone()
    };
    if sizes.windows(2).any(|pair| pair[0] >= pair[1])
        || sizes.last() != Some(&run.options.connections())
    {
        return Err("--steps must rise, and the last one is the number of connections".into());
    }
    let mut steps = vec![measure(&run, 0)?];
    for size in sizes {
        run.admit(size)?;
        if !run.report.agrees() {
            // Those who are left say nothing about that many.
            return Ok(run.finish());
        }
        hold(idle.settle, "settle");
        steps.push(measure(&run, size)?);
    }
    report_steps(&mut run, &steps, idle.server_bytes_max);
    let empty_rss_bytes = steps[0].server.rss_bytes;

    if idle.hold > 0.0 {
        run.take_tally();
        let begin = run.begin_stretch()?;
        hold(idle.hold, "hold");
        let heartbeats = run.take_tally().heartbeats;
        run.report.figure("hold heartbeats", heartbeats as f64, "");
        run.end_stretch("hold", &begin, heartbeats, "heartbeat")?;
        run.report.check(
            "open after the hold",
            u64::from(run.options.connections()),
            run.fleet.open_now(),
        );
    }
    run.check_server_connections(u64::from(run.options.connections()))?;

    let mut publisher = run.publisher()?;
    let channels = run.fleet.plan.channels;
    for channel in 0..channels {
        publisher.publish(channel)?;
    }
    let owed = u64::from(run.options.connections());
    run.fleet.wait_messages(owed);
    run.check_deliveries_on_both_sides(owed)?;
    run.check_server_closed()?;
    run.report.latency("delivery", &run.total.latency_us);
    if let Some(server) = run.server_usage()? {
        // Not a slope: all that the server has grown by, what it needs once and what the message left behind included.
        let grown_bytes = server.rss_bytes as f64 - empty_rss_bytes as f64;
        run.report.figure(
            "server memory per connection at the end (rss)",
            grown_bytes / owed as f64,
            "B",
        );
    }
    Ok(run.finish())
}

fn measure(run: &Run, connections: u32) -> Result<Step, String> {
    Ok(Step {
        connections,
        server: run.server_usage()?.unwrap_or_default(),
        client: usage(&[std::process::id()])?,
        slab: slab_bytes(),
    })
}

fn report_steps(run: &mut Run, steps: &[Step], server_bytes_max: Option<u64>) {
    // The slope is taken over the steps, without the empty server: what a first connection brings into being once is
    // not a price per connection. With a single step there is nothing else to compare with.
    let measured = if steps.len() > 2 { &steps[1..] } else { steps };
    let slope_of = |bytes: &dyn Fn(&Step) -> u64| {
        let points: Vec<_> = measured
            .iter()
            .map(|step| (f64::from(step.connections), bytes(step) as f64))
            .collect();
        slope(&points).unwrap_or(0.0)
    };
    if !run.options.probe.server_pid.is_empty() {
        let each = slope_of(&|step| step.server.pss_bytes);
        run.report
            .figure("server memory per connection (pss)", each, "B");
        if let Some(limit) = server_bytes_max {
            let each = each.ceil().max(0.0) as u64;
            run.report
                .check_at_most("server bytes per connection", limit, each);
        }
        let each = slope_of(&|step| step.server.rss_bytes);
        run.report
            .figure("server memory per connection (rss)", each, "B");
    } else if server_bytes_max.is_some() {
        run.report.warn("--server-bytes-max needs --server-pid");
    }
    run.report.figure(
        "client memory per connection (pss)",
        slope_of(&|step| step.client.pss_bytes),
        "B",
    );

    // Both ends are on this host, so the kernel's figures hold two sockets per connection.
    let caches: Vec<String> = steps
        .last()
        .map(|step| step.slab.keys().cloned().collect())
        .unwrap_or_default();
    let mut slab_table = Table {
        name: "kernel slab per connection, both ends",
        columns: vec!["total B".into()],
        rows: vec![vec![slope_of(&|step| step.slab.values().sum())]],
    };
    for cache in caches {
        let each = slope_of(&|step| step.slab.get(&cache).copied().unwrap_or(0));
        if each.abs() >= 1.0 {
            slab_table.columns.push(format!("{cache} B"));
            slab_table.rows[0].push(each);
        }
    }

    let columns = [
        "connections",
        "server pss B",
        "server rss B",
        "client pss B",
        "slab B",
    ];
    run.report.table(Table {
        name: "memory",
        columns: columns.map(String::from).to_vec(),
        rows: steps
            .iter()
            .map(|step| {
                let slab: u64 = step.slab.values().sum();
                let bytes = [
                    step.server.pss_bytes,
                    step.server.rss_bytes,
                    step.client.pss_bytes,
                    slab,
                ];
                std::iter::once(f64::from(step.connections))
                    .chain(bytes.map(|bytes| bytes as f64))
                    .collect()
            })
            .collect(),
    });
    if steps[0].slab.is_empty() {
        run.report
            .warn("/proc/slabinfo cannot be read: no figures of the kernel's memory");
    } else {
        run.report.table(slab_table);
    }
}
