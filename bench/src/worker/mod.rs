//! One worker: a thread with a descriptor table, an epoll set and its share of the connections.
//!
//! A connection costs one record of 40 bytes here and, for polls, its cursor; everything else (input buffer, output
//! buffer, histograms) is per worker. The set is edge-triggered, so a connection is added once and never changed.

mod connection;
mod incoming;
mod opening;
mod outgoing;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use self::connection::{Connection, State};
use crate::kernel::{now_ns, own_descriptor_table};
use crate::plan::{Plan, Protocol};
use crate::tally::Tally;

/// Connects in flight per worker: below the usual listen backlog, whose overflow costs a second per lost SYN.
const OPENING_MAX: u32 = 256;
const INPUT_BYTES: usize = 64 * 1024;
const EVENTS_PER_TURN: usize = 1024;
/// The wake-up's mark among the connections' indices.
const WAKE: u64 = u64::MAX;

/// What the main thread asks of a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Open the first `connections` of the worker's share, at most `rate` per second (0: no limit).
    Open { connections: u32, rate: f64 },
    /// Close all at once.
    Close,
    /// Close all but the first `connections` of the worker's share, all of which are open.
    Shrink { connections: u32 },
    /// Send chat messages from one open connection after another, `rate` per second, for `seconds`.
    Say { rate: f64, seconds: f64 },
    /// Stop reading on this share of the connections, in percent.
    Pause { share: u32 },
    /// Read again.
    Resume,
    /// Begin a closed loop of publishes.
    Begin,
    /// Let the answers on their way be the last ones.
    Stop,
    /// Hand over what was counted since the last time.
    Report(Sender<Tally>),
}

/// What the main thread may see at any time. Written by the worker only, once per turn.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Progress {
    pub(crate) open: AtomicU64,
    /// Connections that were admitted or failed, since all were closed.
    pub(crate) settled: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) answers: AtomicU64,
    pub(crate) said: AtomicU64,
    pub(crate) is_saying: AtomicU64,
}

/// Something to do at even intervals.
#[derive(Debug, Default)]
struct Schedule {
    next_ns: u64,
    interval_ns: u64,
}

impl Schedule {
    fn new(rate: f64) -> Self {
        let interval_ns = if rate > 0.0 { (1e9 / rate) as u64 } else { 0 };
        Self {
            next_ns: now_ns(),
            interval_ns,
        }
    }
}

pub(crate) struct Worker {
    index: u32,
    plan: Arc<Plan>,
    commands: Receiver<Command>,
    progress: Arc<Progress>,
    wake: &'static OwnedFd,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    rests: HashMap<usize, Vec<u8>>,
    input: Box<[u8]>,
    out: Vec<u8>,
    tally: Tally,
    /// How often all connections were closed.
    round: u32,
    /// Connections to open, how many of them were begun, and how many of those are not yet open or failed.
    to_open: u32,
    begun: u32,
    opening: u32,
    open_schedule: Schedule,
    say_schedule: Schedule,
    say_until_ns: u64,
    next_to_say: usize,
    loop_runs: bool,
}

impl Worker {
    /// Runs on the calling thread for ever; call it on a thread of its own.
    pub(crate) fn run(
        index: u32,
        plan: Arc<Plan>,
        commands: Receiver<Command>,
        progress: Arc<Progress>,
        wake: &'static OwnedFd,
    ) -> io::Result<()> {
        own_descriptor_table()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            wake,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        let mut worker = Self {
            index,
            loop_runs: plan.protocol == Protocol::Poll,
            plan,
            commands,
            progress,
            wake,
            epoll,
            connections: Vec::new(),
            rests: HashMap::new(),
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            out: Vec::new(),
            tally: Tally::default(),
            round: 0,
            to_open: 0,
            begun: 0,
            opening: 0,
            open_schedule: Schedule::default(),
            say_schedule: Schedule::default(),
            say_until_ns: 0,
            next_to_say: 0,
        };
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        loop {
            worker.turn(&mut events)?;
        }
    }

    fn turn(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(events),
            self.timeout().as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.iter() {
            let (data, flags) = (event.data, event.flags);
            if data.u64() == WAKE {
                let _ = rustix::io::read(self.wake, &mut [0; 8]);
                self.on_commands();
            } else {
                self.on_ready(data.u64() as usize, flags);
            }
        }
        self.open_due();
        self.say_due();
        Ok(())
    }

    /// How long the epoll set may wait: until the next connect or chat message is due.
    fn timeout(&self) -> Option<Timespec> {
        let connect_ns = (self.begun < self.to_open && self.opening < OPENING_MAX)
            .then_some(self.open_schedule.next_ns);
        let say_ns = (self.say_until_ns != 0).then_some(self.say_schedule.next_ns);
        let next_ns = [connect_ns, say_ns].into_iter().flatten().min()?;
        let wait_ns = next_ns.saturating_sub(now_ns());
        Some(Timespec {
            tv_sec: (wait_ns / 1_000_000_000) as i64,
            tv_nsec: (wait_ns % 1_000_000_000) as i64,
        })
    }

    fn on_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Open { connections, rate } => {
                    self.to_open = connections;
                    self.connections.reserve_exact(
                        (connections as usize).saturating_sub(self.connections.len()),
                    );
                    self.open_schedule = Schedule::new(rate);
                }
                Command::Close => self.close_all(),
                Command::Shrink { connections } => self.shrink(connections),
                Command::Say { rate, seconds } => {
                    self.say_schedule = Schedule::new(rate);
                    // Workers take turns instead of speaking all at once.
                    self.say_schedule.next_ns += self.say_schedule.interval_ns
                        * u64::from(self.index)
                        / u64::from(self.plan.workers);
                    self.say_until_ns = now_ns() + (seconds * 1e9) as u64;
                    self.progress.is_saying.store(1, Ordering::Release);
                }
                Command::Pause { share } => self.pause(share),
                Command::Resume => self.resume(),
                Command::Begin => self.begin_loop(),
                Command::Stop => self.loop_runs = false,
                Command::Report(reply) => {
                    let _ = reply.send(std::mem::take(&mut self.tally));
                }
            }
        }
    }

    /// The number of a connection among those of all workers.
    fn number(&self, slot: usize) -> u32 {
        slot as u32 * self.plan.workers + self.index
    }

    fn on_ready(&mut self, slot: usize, flags: epoll::EventFlags) {
        let hangup = flags
            .intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        match self.connections[slot].state {
            State::Closed | State::Paused => {}
            State::Connecting => {
                let socket = self.connections[slot]
                    .socket
                    .as_ref()
                    .expect("a connecting client has a socket");
                let outcome = rustix::net::sockopt::socket_error(socket).unwrap_or(Ok(()));
                match outcome {
                    Err(error) => self.on_end(slot, &format!("connect: {error}")),
                    Ok(()) if flags.contains(epoll::EventFlags::OUT) => self.on_connected(slot),
                    Ok(()) => {}
                }
            }
            State::Opening | State::Open => {
                if hangup || flags.contains(epoll::EventFlags::IN) {
                    self.on_readable(slot, hangup);
                }
            }
        }
    }
}

/// Microseconds since a moment kept in 32 bits.
fn elapsed_us(since_us: u32, now_ns: u64) -> u64 {
    u64::from(((now_ns / 1000) as u32).wrapping_sub(since_us))
}

/// Adds to a counter that only this thread writes.
fn add(counter: &AtomicU64, more: u64) {
    if more != 0 {
        counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Release);
    }
}
