//! `verify`: every acknowledged message reaches every client once and in order, or the client is told of its loss.
//!
//! It runs the server by itself, with publishers and thousands of clients that come and go, change the transport, read
//! slowly or not at all and are cut off in mid-frame (`fate`, `worker`), while the server is drained, killed, stopped
//! and started again (`process`). A client keeps its cursor alone (`client`, `judge`); which message stands at which
//! position is in one `ledger`, and what a message is, its number says (`payload`). So a run of any length fits into
//! memory.

mod client;
mod fate;
mod judge;
mod ledger;
mod payload;
mod position;
mod process;
mod publisher;
mod wire;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use fastrand::Rng;
use rustix::process::Signal;

use self::client::{Client, Transport};
use self::judge::{Finding, Findings};
use self::ledger::{Audit, Ledger};
use self::process::{Process, Program};
use self::publisher::{Publisher, publisher_of};
use self::worker::{Tally, Worker};
use crate::fleet::worker_count;
use crate::metrics_page::MetricsPage;
use crate::options::Options;
use crate::report::Report;

/// Messages that the channels of the namespace `short` keep.
const SHORT_HISTORY: u64 = 8;
/// Every so many channels one is short.
const SHORT_EVERY: u32 = 6;
/// Every so many clients one listens on three channels.
const SEVERAL_EVERY: u32 = 5;
const PUBLISHERS: u32 = 8;
/// The publisher of the last message of each channel.
const LAST_PUBLISHER: u32 = 100;
/// For clients to come to the end, from the last message on.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// For what comes although nothing should.
const AFTERMATH: Duration = Duration::from_millis(700);
/// For the last look at the server's counters.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Args, Clone, Debug)]
pub(crate) struct Verify {
    /// The server's program.
    #[arg(long, value_name = "PATH")]
    program: PathBuf,
    /// An argument for the server, such as --threads=3. May be repeated.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    server_arg: Vec<String>,
    /// How long clients and server are troubled.
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    duration: f64,
    /// Messages per second, of all publishers.
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND")]
    rate: f64,
    /// What happens to the server, at even intervals.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "EVENT,…",
        default_value = "takeover,restart,kill"
    )]
    events: Vec<ServerEvent>,
    /// How often the events are gone through.
    #[arg(long, default_value_t = 1, value_name = "N")]
    rounds: u32,
    /// Mean life of a connection.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    life: f64,
    /// Clients poll, and slow ones read, so many times more seldom; many of them take little CPU then.
    #[arg(long, default_value_t = 1, value_name = "FACTOR", value_parser = clap::value_parser!(u32).range(1..=100))]
    ease: u32,
    /// Fail when there were fewer deliveries.
    #[arg(long, default_value_t = 1, value_name = "N")]
    deliveries_min: u64,
    /// Messages that histories keep, but for those of the namespace `short`; few enough to be full for most of a soak,
    /// and so many that nobody comes too late for them.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    history: u64,
    /// Histories outlive the process (by --server-arg): then no epoch may ever change.
    #[arg(long)]
    durable: bool,
    /// Repeats what was drawn by lot; threads and sockets keep their own time. A new one if not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ServerEvent {
    /// Nothing; for a run without a restart.
    None,
    /// A second process listens on the same port, then the first one is drained (SIGTERM).
    Takeover,
    /// SIGTERM, and the next process when it has ended.
    Restart,
    /// SIGKILL, and the next process at once.
    Kill,
    /// SIGSTOP for three seconds.
    Stop,
}

pub(crate) fn run(options: &Options, verify: &Verify) -> Result<Report, String> {
    let seed = verify.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    eprintln!("verify: --seed {seed}");
    let names = (0..options.load.channels).map(|index| match index % SHORT_EVERY {
        1 => (format!("short:{index}"), SHORT_HISTORY),
        _ => (format!("verify-{index}"), verify.history),
    });
    let ledger = Arc::new(Ledger::new(names, verify.durable));
    let findings = Arc::new(Findings::default());
    let folder = Folder::make(seed)?;
    let program = Program {
        path: verify.program.clone(),
        config: folder.config(verify)?,
        arguments: verify.server_arg.clone(),
    };
    let mut server = Server {
        ledger: Arc::clone(&ledger),
        findings: Arc::clone(&findings),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        program,
        process: None,
        events: 0,
    };
    server.start()?;

    let clients = Clients::start(options, verify, seed, &server)?;
    let publishing = Arc::new(publisher::Shared {
        ledger: Arc::clone(&ledger),
        findings: Arc::clone(&findings),
        seed,
        address: server.address,
        is_over: AtomicBool::new(false),
        acknowledged: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
        repeated: AtomicU64::new(0),
        over_restarts: std::sync::Mutex::default(),
    });
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|index| {
            let publisher = Publisher::new(&publishing, index);
            let rate = verify.rate / f64::from(PUBLISHERS);
            thread::spawn(move || publisher.run(rate))
        })
        .collect();

    let begin = Instant::now();
    server.trouble(verify, begin)?;
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
    let shared = Arc::clone(&clients.shared);
    let tallies = clients.finish()?;
    let seconds = begin.elapsed().as_secs_f64();
    let panics = server.panics()?;
    server.end();

    let mut report = Report::new("verify");
    report.figure("seed", seed as f64, "");
    report.figure("time", seconds, "s");
    report_clients(&mut report, options, &tallies, seconds);
    report.figure(
        "server processes",
        f64::from(ledger.processes.load(Ordering::Acquire)),
        "",
    );
    report.figure("server events", f64::from(server.events), "");
    report_publishes(&mut report, &ledger, &findings, &publishing);
    for behind in tallies.iter().flat_map(|tally| &tally.behind) {
        findings.add(Finding::NeverArrived, 1, || behind.clone());
    }
    let deliveries = shared.deliveries.load(Ordering::Acquire);
    report.check_at_least("deliveries", verify.deliveries_min, deliveries);
    for &(finding, name) in Finding::ALL {
        report.check(name, 0, findings.count(finding));
    }
    report.check("panics that the last process counts", 0, panics);
    for example in findings.examples() {
        report.warn(example);
    }
    Ok(report)
}

/// The process under test, whichever it is now.
struct Server {
    ledger: Arc<Ledger>,
    findings: Arc<Findings>,
    program: Program,
    address: SocketAddr,
    process: Option<Process>,
    events: u32,
}

impl Server {
    fn start(&mut self) -> Result<(), String> {
        // Before it can begin an epoch.
        self.ledger.processes.fetch_add(1, Ordering::AcqRel);
        let process = self.program.start(self.address)?;
        eprintln!(
            "verify: server process {} on {}",
            process.id(),
            process.address
        );
        self.address = process.address;
        self.process = Some(process);
        Ok(())
    }

    /// Lets the time of the run go by, with its events.
    fn trouble(&mut self, verify: &Verify, begin: Instant) -> Result<(), String> {
        let events: Vec<_> = (0..verify.rounds)
            .flat_map(|_| &verify.events)
            .copied()
            .filter(|event| *event != ServerEvent::None)
            .collect();
        for (index, event) in events.iter().enumerate() {
            let share = (index + 1) as f64 / (events.len() + 1) as f64;
            sleep_until(begin + Duration::from_secs_f64(verify.duration * share));
            self.suffer(*event)?;
        }
        sleep_until(begin + Duration::from_secs_f64(verify.duration));
        Ok(())
    }

    fn suffer(&mut self, event: ServerEvent) -> Result<(), String> {
        self.events += 1;
        let before = self.process.take().expect("a process runs");
        let ended = match event {
            ServerEvent::None => {
                self.process = Some(before);
                return Ok(());
            }
            ServerEvent::Stop => {
                before.signal(Signal::STOP);
                thread::sleep(STOP);
                before.signal(Signal::CONT);
                self.process = Some(before);
                return Ok(());
            }
            ServerEvent::Takeover => {
                self.start()?;
                return self.judge_end(event, before.drain());
            }
            ServerEvent::Restart => before.drain(),
            ServerEvent::Kill => before.kill(),
        };
        self.judge_end(event, ended)?;
        self.start()
    }

    fn judge_end(&self, event: ServerEvent, ended: Result<(), String>) -> Result<(), String> {
        if let Err(error) = ended {
            self.findings
                .add(Finding::Server, 1, || format!("{event:?}: {error}"));
        }
        Ok(())
    }

    /// Tried again where the server has no room for a newcomer at this moment.
    fn panics(&self) -> Result<u64, String> {
        let page = MetricsPage::new(&format!("http://{}/metrics", self.address))?;
        let end = Instant::now() + PAGE_TIMEOUT;
        loop {
            match page.value("pushring_panics_total") {
                Ok(panics) => return Ok(panics.ok_or("the page of metrics has no panics")? as u64),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => thread::sleep(LOOK_AGAIN),
            }
        }
    }

    fn end(&mut self) {
        if let Some(process) = self.process.take() {
            let _ = self.judge_end(ServerEvent::Restart, process.drain());
        }
    }
}

/// The threads with the clients.
struct Clients {
    shared: Arc<worker::Shared>,
    threads: Vec<JoinHandle<std::io::Result<Tally>>>,
}

impl Clients {
    fn start(
        options: &Options,
        verify: &Verify,
        seed: u64,
        server: &Server,
    ) -> Result<Self, String> {
        let connections = options.connections();
        let workers = worker_count(connections, options.load.workers, 1)?;
        let shared = Arc::new(worker::Shared {
            ledger: Arc::clone(&server.ledger),
            findings: Arc::clone(&server.findings),
            seed,
            target: server.address,
            life: Duration::from_secs_f64(verify.life),
            ease: verify.ease,
            is_calm: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            deliveries: AtomicU64::new(0),
            behind: (0..workers).map(|_| AtomicU64::new(u64::MAX)).collect(),
        });
        let mut rng = Rng::with_seed(seed);
        let mut shares: Vec<Vec<Client>> = (0..workers).map(|_| Vec::new()).collect();
        for number in 0..connections {
            let channels = choose_channels(&mut rng, number, options.load.channels as u16);
            shares[(number % workers) as usize].push(Client::new(number, channels));
        }
        let threads = shares.into_iter().enumerate().map(|(index, clients)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || Worker::run(index, shared, clients))
        });
        Ok(Self {
            threads: threads.collect(),
            shared,
        })
    }

    /// Leaves them alone until all are at the end, or the time is over.
    fn finish(self) -> Result<Vec<Tally>, String> {
        self.shared.is_calm.store(true, Ordering::Release);
        let end = Instant::now() + CATCH_UP_TIMEOUT;
        let is_behind = || {
            let mut behind = self.shared.behind.iter();
            behind.any(|behind| behind.load(Ordering::Acquire) > 0)
        };
        while is_behind() && Instant::now() < end {
            thread::sleep(LOOK_AGAIN);
        }
        thread::sleep(AFTERMATH);
        self.shared.is_over.store(true, Ordering::Release);
        let tallies = self.threads.into_iter().map(|thread| {
            let tally = thread.join().expect("a worker panicked");
            tally.map_err(|error| error.to_string())
        });
        tallies.collect()
    }
}

fn choose_channels(rng: &mut Rng, number: u32, count: u16) -> Vec<u16> {
    let first = (number % u32::from(count)) as u16;
    if count < 3 || !number.is_multiple_of(SEVERAL_EVERY) {
        return vec![first];
    }
    let second = (first + rng.u16(1..count)) % count;
    let third = (0..count).find(|channel| ![first, second].contains(channel));
    vec![first, second, third.expect("there are three")]
}

fn report_clients(report: &mut Report, options: &Options, tallies: &[Tally], seconds: f64) {
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

fn report_publishes(
    report: &mut Report,
    ledger: &Ledger,
    findings: &Findings,
    publishing: &publisher::Shared,
) {
    let over_restarts = publishing.over_restarts.lock().expect("no panic");
    let (mut total, mut twice_over_restarts) = (Audit::default(), 0);
    for channel in &ledger.channels {
        let audit = channel.audit(publisher_of);
        total.acknowledged += audit.acknowledged;
        total.unacknowledged += audit.unacknowledged;
        total.unknown += audit.unknown;
        for number in audit.twice {
            if over_restarts.contains(&number) {
                twice_over_restarts += 1;
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
        ("positions that nobody told of", total.unknown as f64),
        ("publishes repeated", load(&publishing.repeated)),
        ("publishes given up", load(&publishing.unknown)),
        (
            "publishes twice, over a restart",
            f64::from(twice_over_restarts),
        ),
    ] {
        report.figure(name, value, "");
    }
}

/// Where the server's configuration is. Dropped, it is removed.
struct Folder(PathBuf);

impl Folder {
    fn make(seed: u64) -> Result<Self, String> {
        let name = format!("pushring-verify-{}-{seed}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    /// Limits that are hit within seconds, and histories that keep everything, but for those of `short`.
    fn config(&self, verify: &Verify) -> Result<PathBuf, String> {
        // A client that reads little, or nothing for a while, is closed and comes back.
        let text = format!(
            "outbox_bytes_max = \"128KiB\"\nwrite_stall_timeout = \"2s\"\nheartbeat = \"1s\"\npong_timeout = \"2s\"\n\
             drain_period = \"500ms\"\ndrain_timeout = \"2s\"\nclose_timeout = \"1s\"\npoll_limit_default = 20\n\
             [namespace.\"\"]\nhistory_messages = {}\nhistory_age = \"1d\"\nhistory_bytes = \"1GiB\"\n\
             [namespace.short]\nhistory_messages = {SHORT_HISTORY}\n",
            verify.history
        );
        let path = self.0.join(if verify.durable {
            "durable.toml"
        } else {
            "memory.toml"
        });
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}
