//! The scenarios, and what they share: admission of all connections, CPU of both sides, checks at the end.

mod closed_loop;
mod connect;
mod delivery;
mod fairness;
mod idle;
mod leave;
mod slow;
mod storm;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::fleet::{Fleet, worker_count};
use crate::metrics_page::MetricsPage;
use crate::options::{Mode, Options, Scenario};
use crate::plan::Plan;
use crate::publisher::Publisher;
use crate::report::Report;
use crate::server_probe::{HostTicks, Usage, usage};
use crate::tally::Tally;

/// Above this share of stolen time the figures are the neighbours'.
const STEAL_PERCENT_MAX: f64 = 2.0;

/// Runs the scenario of the options. An error is a run that could not be made; a run whose counts don't agree is a
/// report that says so.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    match &options.scenario {
        Scenario::Connect => connect::run(Run::start("connect", options)?),
        Scenario::Idle(idle) => idle::run(Run::start("idle", options)?, idle),
        Scenario::Broadcast(broadcast) => {
            delivery::broadcast(Run::start("broadcast", options)?, broadcast)
        }
        Scenario::Steady(steady) => delivery::steady(Run::start("steady", options)?, steady),
        Scenario::Chat(chat) => {
            if options.modes() != [Mode::Ws] {
                return Err("chat needs --mode ws: only a WebSocket can publish".into());
            }
            delivery::chat(Run::start("chat", options)?, chat)
        }
        Scenario::Publish(publish) => {
            let workers = worker_count(options.connections(), options.load.workers, 1)?;
            let plan = Plan::publishers(options, publish.pipeline, workers);
            closed_loop::publish(Run::start_with("publish", options, vec![plan])?, publish)
        }
        Scenario::Poll(poll) => {
            let mut options = options.clone();
            options.load.mode = Mode::Short;
            options.load.mix.clear();
            closed_loop::poll(Run::start("poll", &options)?, poll)
        }
        Scenario::Storm(storm) => storm::run(Run::start("storm", options)?, storm),
        Scenario::Saturate(saturate) => {
            delivery::saturate(Run::start("saturate", options)?, saturate)
        }
        Scenario::Leave(leave) => leave::run(Run::start("leave", options)?, leave),
        Scenario::Slow(slow) => slow::run(Run::start("slow", options)?, slow),
        Scenario::Fairness(fairness) => fairness::run(Run::start("fairness", options)?, fairness),
        Scenario::Verify(verify) => crate::verify::run(options, verify),
        Scenario::StormModel(model) => crate::storm_model::run(model),
        Scenario::Floor(_) => Err("a floor is a server: it has no report".into()),
    }
}

/// One run: the clients, what is known about the server, and the report that is being written.
struct Run {
    options: Options,
    fleet: Fleet,
    report: Report,
    /// Counts of the clients since the last [`Run::take_tally`] are not in here yet.
    total: Tally,
    metrics: Option<MetricsPage>,
    /// The server's gauge of connections before ours.
    connections_before: u64,
    /// The server's count of deliveries before ours; `None` if it isn't known.
    deliveries_before: Option<u64>,
    /// The server's count of ended connections by reason before ours; empty if it isn't known.
    closed_before: BTreeMap<String, f64>,
    host_before: HostTicks,
}

/// CPU of both sides at the beginning of a stretch of time.
struct Stretch {
    client: Usage,
    server: Option<Usage>,
    /// Pauses that belong to no work; CPU is reported per second of the rest.
    idle_s: f64,
}

impl Run {
    fn start(scenario: &'static str, options: &Options) -> Result<Self, String> {
        let modes = options.modes().len() as u32;
        let workers = worker_count(options.connections(), options.load.workers, modes)?;
        Self::start_with(scenario, options, Plan::subscribers(options, workers))
    }

    fn start_with(
        scenario: &'static str,
        options: &Options,
        plans: Vec<Plan>,
    ) -> Result<Self, String> {
        if !options.probe.server_pid.is_empty() {
            usage(&options.probe.server_pid)?;
        }
        let metrics = options
            .probe
            .metrics_url
            .as_deref()
            .map(MetricsPage::new)
            .transpose()?;
        let mut run = Self {
            fleet: Fleet::start(plans, options.load.stall_timeout),
            options: options.clone(),
            report: Report::new(scenario),
            total: Tally::default(),
            metrics,
            connections_before: 0,
            deliveries_before: None,
            closed_before: BTreeMap::new(),
            host_before: HostTicks::now(),
        };
        run.connections_before = run.settled_server_connections()?;
        run.deliveries_before = run.server_deliveries()?;
        run.closed_before = run.server_closed()?;
        Ok(run)
    }

    /// A publisher, made when it is needed, since servers close idle connections. Its own connection is one of those
    /// that the server counts from now on.
    fn publisher(&mut self) -> Result<Publisher, String> {
        let publisher = Publisher::connect(&self.fleet.plan)?;
        self.connections_before += u64::from(self.metrics.is_some());
        Ok(publisher)
    }

    fn drop_publisher(&mut self, publisher: Publisher) {
        drop(publisher);
        self.connections_before -= u64::from(self.metrics.is_some());
    }

    /// Opens the first `connections` and checks that both sides see them. Returns the seconds it took.
    fn admit(&mut self, connections: u32) -> Result<f64, String> {
        let seconds = self.open(connections);
        self.check_admitted(connections)?;
        Ok(seconds)
    }

    fn open(&mut self, connections: u32) -> f64 {
        self.fleet.open(connections, self.options.load.connect_rate)
    }

    fn check_admitted(&mut self, connections: u32) -> Result<(), String> {
        self.report.check(
            format!("admitted of {connections}"),
            u64::from(connections),
            self.fleet.open_now(),
        );
        self.check_server_connections(u64::from(connections))
    }

    /// Checks the server's own count, which may be a moment behind.
    fn check_server_connections(&mut self, want: u64) -> Result<(), String> {
        let mut got = None;
        for _ in 0..100 {
            got = self.server_connections()?;
            if got.is_none_or(|got| got.saturating_sub(self.connections_before) == want) {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        if let Some(got) = got {
            let got = got.saturating_sub(self.connections_before);
            self.report.check(
                format!("connections the server counts for {want}"),
                want,
                got,
            );
        }
        Ok(())
    }

    /// The server's gauge once it falls no more: it may be busy with the end of an earlier run, or of our own
    /// connection that asked before.
    fn settled_server_connections(&self) -> Result<u64, String> {
        let Some(mut least) = self.server_connections()? else {
            return Ok(0);
        };
        let mut stood_still = 0;
        while stood_still < 5 {
            thread::sleep(Duration::from_millis(50));
            let now = self.server_connections()?.unwrap_or(0);
            stood_still = if now < least { 0 } else { stood_still + 1 };
            least = least.min(now);
        }
        Ok(least)
    }

    fn server_connections(&self) -> Result<Option<u64>, String> {
        self.server_count(&self.options.probe.metrics_connections)
    }

    fn server_deliveries(&self) -> Result<Option<u64>, String> {
        self.server_count(&self.options.probe.metrics_deliveries)
    }

    fn server_count(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(metrics) = &self.metrics else {
            return Ok(None);
        };
        let value = metrics.value(name)?;
        let value = value.ok_or_else(|| format!("the page of --metrics-url has no {name}"))?;
        Ok(Some(value as u64))
    }

    fn server_closed(&self) -> Result<BTreeMap<String, f64>, String> {
        let name = &self.options.probe.metrics_closed;
        let samples = self.metrics.as_ref().map(|page| page.samples(name));
        samples.unwrap_or_else(|| Ok(BTreeMap::new()))
    }

    /// Checks that the server has ended no connection, for whatever reason; only where nobody leaves.
    fn check_server_closed(&mut self) -> Result<(), String> {
        if self.closed_before.is_empty() {
            return Ok(());
        }
        let ours = format!("\"{}\"", self.options.probe.metrics_closed_answered);
        let mut closed = 0;
        for (reason, count) in self.server_closed()? {
            let more = count - self.closed_before.get(&reason).unwrap_or(&0.0);
            if more > 0.0 && !reason.contains(&ours) {
                self.report
                    .warn(format!("the server ended {more} with {reason}"));
                closed += more as u64;
            }
        }
        self.report
            .check("connections that the server counts as ended", 0, closed);
        Ok(())
    }

    fn server_usage(&self) -> Result<Option<Usage>, String> {
        let pids = &self.options.probe.server_pid;
        if pids.is_empty() {
            Ok(None)
        } else {
            usage(pids).map(Some)
        }
    }

    fn begin_stretch(&self) -> Result<Stretch, String> {
        Ok(Stretch {
            client: usage(&[std::process::id()])?,
            server: self.server_usage()?,
            idle_s: 0.0,
        })
    }

    /// Reports the CPU of both sides since `begin`, and what each of `units` cost the server.
    fn end_stretch(
        &mut self,
        name: &str,
        begin: &Stretch,
        units: u64,
        unit: &str,
    ) -> Result<(), String> {
        let end = self.begin_stretch()?;
        let seconds = (end.client.at_ns - begin.client.at_ns) as f64 / 1e9 - begin.idle_s;
        let client_cores = (end.client.cpu_s() - begin.client.cpu_s()) / seconds;
        self.report
            .figure(format!("{name} client cpu"), client_cores, "cores");
        let cores = thread::available_parallelism()
            .map_or(1, usize::from)
            .min(self.fleet.plan.workers as usize);
        if client_cores > 0.9 * cores as f64 {
            self.report.warn(format!(
                "{name}: the clients used {client_cores:.2} of their {cores} cores; the bottleneck may be the client"
            ));
        }
        if let (Some(begin), Some(end)) = (&begin.server, &end.server) {
            let user_s = end.cpu_user_s - begin.cpu_user_s;
            let system_s = end.cpu_system_s - begin.cpu_system_s;
            self.report.figure(
                format!("{name} server cpu"),
                (user_s + system_s) / seconds,
                "cores",
            );
            self.report
                .figure(format!("{name} server user"), user_s, "s");
            self.report
                .figure(format!("{name} server system"), system_s, "s");
            if units > 0 {
                let each_us = (user_s + system_s) * 1e6 / units as f64;
                self.report
                    .figure(format!("{name} server cpu per {unit}"), each_us, "us");
            }
        }
        Ok(())
    }

    /// What the clients counted since the last time; it also goes into the total.
    fn take_tally(&mut self) -> Tally {
        let tally = self.fleet.take_tally();
        self.total.add(&tally);
        tally
    }

    /// Checks deliveries against what is owed: their number, their bytes, their order.
    fn check_deliveries(&mut self, owed: u64) {
        self.take_tally();
        let total = &self.total;
        self.report.check("deliveries", owed, total.messages);
        self.report.check(
            "payload bytes",
            owed * self.fleet.plan.payload_bytes as u64,
            total.payload_bytes,
        );
        self.report.check("missing by sequence", 0, total.missing);
        self.report.check("repeated", 0, total.repeated);
        self.report.check("gaps told", 0, total.gaps_told);
    }

    /// The same, and the server's own count; only where every subscriber reads.
    fn check_deliveries_on_both_sides(&mut self, owed: u64) -> Result<(), String> {
        self.check_deliveries(owed);
        if let (Some(before), Some(after)) = (self.deliveries_before, self.server_deliveries()?) {
            self.report
                .check("deliveries the server counts", owed, after - before);
        }
        Ok(())
    }

    /// The checks and warnings that end every run.
    fn finish(mut self) -> Report {
        self.take_tally();
        let (report, total) = (&mut self.report, &self.total);
        let steal_percent = HostTicks::now().steal_percent_since(self.host_before);
        report.figure("steal", steal_percent, "%");
        if steal_percent > STEAL_PERCENT_MAX {
            report.warn("other guests took this host's CPU: repeat the run before believing it");
        }
        report.check("connections the server ended", 0, total.ended);
        if total.heartbeats > 0 {
            report.figure("heartbeats", total.heartbeats as f64, "");
        }
        report.reasons("not admitted", &total.failures);
        report.reasons("refused with status", &total.refusals);
        report.reasons("closed with code", &total.close_codes);
        if total.foreign > 0 {
            report.warn(format!("{} messages were not ours", total.foreign));
        }
        self.report
    }
}
