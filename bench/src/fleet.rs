//! All workers of a run, seen from the main thread: start them, tell them what to do, wait until it is done.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{EventfdFlags, eventfd};

use crate::kernel::{descriptors_per_table, now_ns};
use crate::plan::Plan;
use crate::tally::Tally;
use crate::worker::{Command, Progress, Worker};

/// Descriptors of a table that are no connections: standard streams, epoll set, the wake-ups of all workers.
const DESCRIPTORS_RESERVED: usize = 128;
const POLL_INTERVAL: Duration = Duration::from_millis(2);

pub(crate) struct Fleet {
    /// The first worker's plan. Those of the others differ in what is spoken alone.
    pub(crate) plan: Arc<Plan>,
    workers: Vec<Handle>,
    stall_timeout_ns: u64,
}

struct Handle {
    commands: Sender<Command>,
    progress: Arc<Progress>,
    wake: &'static OwnedFd,
}

/// How many workers hold `connections`: what was asked for, or the larger of the cores and the tables needed; a
/// multiple of `modes`, since each has the same share of the connections.
pub(crate) fn worker_count(
    connections: u32,
    asked: Option<u32>,
    modes: u32,
) -> Result<u32, String> {
    let per_worker = descriptors_per_table()
        .saturating_sub(DESCRIPTORS_RESERVED)
        .max(1);
    let needed = (connections as usize).div_ceil(per_worker) as u32;
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    match asked {
        Some(asked) if asked < needed => Err(format!(
            "{connections} connections need {needed} workers, since one table holds {per_worker} sockets: \
             raise --workers or the limit of open files"
        )),
        Some(asked) if !asked.is_multiple_of(modes) => Err(format!(
            "--workers must be a multiple of {modes}, the sum of the weights of --mix"
        )),
        Some(asked) => Ok(asked),
        None => Ok(needed
            .max(cores.min(connections))
            .max(1)
            .next_multiple_of(modes)),
    }
}

impl Fleet {
    /// Starts the workers, which take the `plans` in turn; they have no connections yet.
    pub(crate) fn start(plans: Vec<Plan>, stall_timeout_s: f64) -> Self {
        let plans: Vec<_> = plans.into_iter().map(Arc::new).collect();
        let plan = Arc::clone(&plans[0]);
        // All wake-ups exist before the first worker leaves this thread's table.
        let wakes: Vec<&'static OwnedFd> = (0..plan.workers)
            .map(|_| {
                &*Box::leak(Box::new(
                    eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd for each worker"),
                ))
            })
            .collect();
        let in_turn = plans.iter().cycle();
        let workers = wakes.into_iter().zip(0..).zip(in_turn);
        let workers = workers.map(|((wake, index), plan)| {
            let (commands, receiver) = channel();
            let progress = Arc::new(Progress::default());
            let (plan, worker_progress) = (Arc::clone(plan), Arc::clone(&progress));
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Err(error) = Worker::run(index, plan, receiver, worker_progress, wake) {
                        eprintln!("worker {index}: {error}");
                        std::process::exit(2);
                    }
                })
                .expect("a thread for each worker");
            Handle {
                commands,
                progress,
                wake,
            }
        });
        Self {
            workers: workers.collect(),
            plan,
            stall_timeout_ns: (stall_timeout_s * 1e9) as u64,
        }
    }

    /// Opens the first `connections` and waits until each is open or has failed. Returns the seconds it took.
    pub(crate) fn open(&self, connections: u32, rate: f64) -> f64 {
        let begin_ns = now_ns();
        let rate = rate / f64::from(self.plan.workers);
        self.tell_shares(connections, |connections| Command::Open {
            connections,
            rate,
        });
        self.wait("connections", u64::from(connections), || {
            self.sum(|progress| &progress.settled)
        });
        (now_ns() - begin_ns) as f64 / 1e9
    }

    /// Closes all but the first `connections`; all must be open.
    pub(crate) fn shrink(&self, connections: u32) {
        self.tell_shares(connections, |connections| Command::Shrink { connections });
        while self.open_now() > u64::from(connections) {
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Tells each worker its share of the first `connections`.
    fn tell_shares(&self, connections: u32, command: impl Fn(u32) -> Command) {
        let workers = self.plan.workers;
        for (index, worker) in (0..).zip(&self.workers) {
            worker.tell(command(
                connections / workers + u32::from(index < connections % workers),
            ));
        }
    }

    pub(crate) fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            worker.tell(command());
        }
    }

    /// Lets all clients together send `rate` chat messages per second, and returns when the last is sent.
    pub(crate) fn say(&self, rate: f64, seconds: f64) {
        let rate = rate / self.workers.len() as f64;
        self.workers
            .iter()
            .for_each(|worker| worker.progress.is_saying.store(1, Ordering::Release));
        self.tell_all(|| Command::Say { rate, seconds });
        while self.sum(|progress| &progress.is_saying) > 0 {
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until `target` messages have been delivered since the start.
    pub(crate) fn wait_messages(&self, target: u64) -> bool {
        self.wait("deliveries", target, || self.messages())
    }

    pub(crate) fn open_now(&self) -> u64 {
        self.sum(|progress| &progress.open)
    }

    /// Deliveries since the start.
    pub(crate) fn messages(&self) -> u64 {
        self.sum(|progress| &progress.messages)
    }

    /// Answers to requests since the start.
    pub(crate) fn answers(&self) -> u64 {
        self.sum(|progress| &progress.answers)
    }

    /// Chat messages sent since the start.
    pub(crate) fn said(&self) -> u64 {
        self.sum(|progress| &progress.said)
    }

    /// What all workers counted since the last time.
    pub(crate) fn take_tally(&self) -> Tally {
        let (reply, tallies) = channel();
        for worker in &self.workers {
            worker.tell(Command::Report(reply.clone()));
        }
        drop(reply);
        let mut sum = Tally::default();
        tallies.iter().for_each(|tally| sum.add(&tally));
        sum
    }

    /// Waits until `value` reaches `target`; `false` if it has not moved for the stall timeout.
    pub(crate) fn wait(&self, what: &'static str, target: u64, value: impl Fn() -> u64) -> bool {
        let bar = progress_bar(target, what);
        let (mut last, mut moved_ns) = (value(), now_ns());
        while last < target {
            thread::sleep(POLL_INTERVAL);
            let now = value();
            bar.set_position(now);
            if now != last {
                (last, moved_ns) = (now, now_ns());
            } else if now_ns() - moved_ns > self.stall_timeout_ns {
                bar.abandon_with_message("stalled");
                return false;
            }
        }
        bar.finish_and_clear();
        true
    }

    fn sum(&self, counter: impl Fn(&Progress) -> &AtomicU64) -> u64 {
        self.workers
            .iter()
            .map(|worker| counter(&worker.progress).load(Ordering::Acquire))
            .sum()
    }
}

impl Handle {
    fn tell(&self, command: Command) {
        self.commands.send(command).expect("workers never end");
        let _ = rustix::io::write(self.wake, &1_u64.to_ne_bytes());
    }
}

/// A bar on stderr; invisible when that is no terminal.
pub(crate) fn progress_bar(target: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg:>12} {bar:40} {human_pos}/{human_len} {per_sec} {elapsed}",
    );
    ProgressBar::new(target)
        .with_style(style.expect("the template is valid"))
        .with_message(what)
}

/// Sleeps behind a bar, so that a long hold shows that it goes on.
pub(crate) fn hold(seconds: f64, what: &'static str) {
    let tenths = (seconds * 10.0).round() as u64;
    let bar = progress_bar(tenths, what);
    for _ in 0..tenths {
        thread::sleep(Duration::from_millis(100));
        bar.inc(1);
    }
    bar.finish_and_clear();
}
