//! One worker: a thread with a descriptor table, an epoll set and its share of the connections.
//!
//! A connection costs one record of 40 bytes here and, for polls, its cursor; everything else (input buffer, output
//! buffer, histograms) is per worker. The set is edge-triggered, so a connection is added once and never changed.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Protocol as IpProtocol, Socket, Type};

use crate::clients::{ClientError, Event, Reading, http, poll, sse, ws};
use crate::kernel::{bind_address_no_port, now_ns, own_descriptor_table};
use crate::plan::{Plan, Protocol};
use crate::stamp::Stamp;
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
    pub(crate) failed: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) answers: AtomicU64,
    pub(crate) said: AtomicU64,
    pub(crate) is_saying: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Connecting,
    /// The opening request is written.
    Opening,
    Open,
    /// Open, but out of the epoll set.
    Paused,
}

/// One client. Its place in the worker's vector gives its number, and the number its channel.
#[derive(Debug)]
struct Connection {
    socket: Option<OwnedFd>,
    state: State,
    reading: Reading,
    /// Bytes of a unit that has not come whole wait in [`Worker::rests`].
    has_rest: bool,
    last_sequence: u32,
    /// When the connect or the last request began; wraps after 71 minutes.
    asked_us: u32,
    /// One line per cursor header.
    cursor: Option<Box<str>>,
}

const _: () = assert!(size_of::<Connection>() <= 40);

impl Connection {
    const CLOSED: Self = Self {
        socket: None,
        state: State::Closed,
        reading: Reading::Head,
        has_rest: false,
        last_sequence: 0,
        asked_us: 0,
        cursor: None,
    };
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

    fn open_due(&mut self) {
        while self.begun < self.to_open && self.opening < OPENING_MAX {
            let now_ns = now_ns();
            if now_ns < self.open_schedule.next_ns {
                return;
            }
            self.open_schedule.next_ns += self.open_schedule.interval_ns;
            let slot = self.begun as usize;
            self.begun += 1;
            if slot == self.connections.len() {
                self.connections.push(Connection::CLOSED);
            }
            match self.connect(slot) {
                Ok(socket) => {
                    self.opening += 1;
                    self.connections[slot] = Connection {
                        socket: Some(socket),
                        state: State::Connecting,
                        asked_us: (now_ns / 1000) as u32,
                        ..Connection::CLOSED
                    };
                }
                Err(error) => self.count_failure(format!("connect: {error}")),
            }
        }
    }

    fn connect(&self, slot: usize) -> io::Result<OwnedFd> {
        let target = self.plan.target;
        let socket = Socket::new(
            Domain::for_address(target),
            Type::STREAM.nonblocking(),
            Some(IpProtocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = self.plan.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let socket = OwnedFd::from(socket);
        if let Some(source) = self.plan.source_of(self.number(slot), self.round) {
            bind_address_no_port(std::os::fd::AsFd::as_fd(&socket))?;
            rustix::net::bind(&socket, &source)?;
        }
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.watch(&socket, slot)?;
        Ok(socket)
    }

    fn watch(&self, socket: &OwnedFd, slot: usize) -> rustix::io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(slot as u64),
            flags,
        )
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

    fn on_connected(&mut self, slot: usize) {
        let channel = self.plan.channel_of(self.number(slot));
        self.connections[slot].state = State::Opening;
        if let Protocol::Publish { .. } = self.plan.protocol {
            self.on_opened(slot);
            return;
        }
        self.out.clear();
        self.plan
            .first_request
            .render(channel, "now", &mut self.out);
        if self.send_out(slot) && !self.plan.admitted_by_answer {
            self.on_opened(slot);
        }
    }

    fn on_opened(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        connection.state = State::Open;
        self.opening -= 1;
        self.tally.opened += 1;
        self.tally
            .admission_us
            .saturating_record(elapsed_us(connection.asked_us, now_ns()));
        add(&self.progress.open, 1);
    }

    fn on_readable(&mut self, slot: usize, hangup: bool) {
        loop {
            let Some(socket) = &self.connections[slot].socket else {
                return;
            };
            match recv(socket, &mut self.input[..], RecvFlags::empty()) {
                Ok((0, _)) => return self.on_end(slot, "closed before it opened"),
                Ok((received, _)) => {
                    self.on_bytes(slot, received);
                    // A short read has emptied the socket (epoll(7)), unless an end is behind it.
                    if received < self.input.len() && !hangup {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(error) => return self.on_end(slot, &format!("read: {error}")),
            }
        }
    }

    /// Decodes what has arrived, counts it and sends what it asks for: pongs, the next request.
    fn on_bytes(&mut self, slot: usize, received: usize) {
        let now_ns = now_ns();
        let number = self.number(slot);
        let Self {
            plan,
            connections,
            rests,
            input,
            out,
            tally,
            progress,
            loop_runs,
            ..
        } = self;
        let connection = &mut connections[slot];
        let mut joined = if connection.has_rest {
            rests.remove(&slot).unwrap_or_default()
        } else {
            Vec::new()
        };
        let bytes = if connection.has_rest {
            joined.extend_from_slice(&input[..received]);
            &joined[..]
        } else {
            &input[..received]
        };
        let decode = match plan.protocol {
            Protocol::WebSocket => ws::decode,
            Protocol::EventStream => sse::decode,
            Protocol::Poll | Protocol::Publish { .. } => poll::decode,
        };
        out.clear();
        let (messages_before, answers_before) = (tally.messages, tally.answers);
        let mut opened = false;
        let mut reading = connection.reading;
        let result = decode(&mut reading, bytes, &mut |event| match event {
            Event::Opened => opened = true,
            Event::Message(payload) => match Stamp::decode(payload) {
                Some(stamp) => {
                    tally.on_message(stamp, payload.len(), &mut connection.last_sequence, now_ns)
                }
                None => tally.foreign += 1,
            },
            Event::KeepAlive => tally.heartbeats += 1,
            Event::Ping(payload) => {
                tally.heartbeats += 1;
                ws::encode_pong(payload, out);
            }
            Event::Gap => tally.gaps_told += 1,
            Event::Close(code) => *tally.close_codes.entry(code).or_default() += 1,
            Event::Answer { status, head } => {
                tally.answers += 1;
                // 304 is how some servers answer a poll that has nothing.
                if !(200..300).contains(&status) && status != 304 {
                    *tally.refusals.entry(status).or_default() += 1;
                }
                let is_poll = plan.protocol == Protocol::Poll;
                if is_poll {
                    opened |= connection.state == State::Opening;
                    tally.heartbeats += u64::from(status != 200);
                    if let Some(cursor) = cursor(plan, head) {
                        connection.cursor = Some(cursor);
                    }
                }
                if !*loop_runs {
                    return;
                }
                let channel = plan.channel_of(number);
                if is_poll {
                    let cursor = connection.cursor.as_deref().unwrap_or("now");
                    plan.next_request.render(channel, cursor, out);
                } else {
                    plan.publish_request(
                        channel,
                        Stamp {
                            intended_ns: now_ns,
                            sequence: 0,
                        },
                        out,
                    );
                    tally
                        .latency_us
                        .saturating_record(elapsed_us(connection.asked_us, now_ns));
                    connection.asked_us = (now_ns / 1000) as u32;
                }
            }
        });
        connection.reading = reading;
        let consumed = *result.as_ref().unwrap_or(&bytes.len());
        connection.has_rest = consumed < bytes.len();
        if connection.has_rest {
            rests.insert(slot, bytes[consumed..].to_vec());
        }
        add(&progress.messages, tally.messages - messages_before);
        add(&progress.answers, tally.answers - answers_before);
        if opened && connection.state == State::Opening {
            self.on_opened(slot);
        }
        match result {
            Ok(_) if self.out.is_empty() => {}
            Ok(_) => {
                self.send_out(slot);
            }
            Err(ClientError::Refused(status)) => {
                self.on_end(slot, &format!("refused with {status}"))
            }
            Err(ClientError::Malformed) => self.on_end(slot, "an answer that cannot be read"),
        }
    }

    /// Sends `out`, and ends the connection if it does not fit: what a client sends is small, and a server that
    /// takes none of it is not serving.
    fn send_out(&mut self, slot: usize) -> bool {
        let Some(socket) = &self.connections[slot].socket else {
            return false;
        };
        match send(socket, &self.out, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == self.out.len() => return true,
            Ok(_) | Err(Errno::AGAIN) => self.on_end(slot, "the server stopped reading"),
            Err(error) => self.on_end(slot, &format!("write: {error}")),
        }
        false
    }

    /// The connection is over without our doing; `reason` counts if it was never open.
    fn on_end(&mut self, slot: usize, reason: &str) {
        let state = self.connections[slot].state;
        self.connections[slot] = Connection::CLOSED;
        self.rests.remove(&slot);
        match state {
            State::Closed => {}
            State::Connecting | State::Opening => {
                self.opening -= 1;
                self.count_failure(reason.to_owned());
            }
            State::Open | State::Paused => {
                self.tally.ended += 1;
                self.progress.open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn count_failure(&mut self, reason: String) {
        *self.tally.failures.entry(reason).or_default() += 1;
        add(&self.progress.failed, 1);
    }

    fn close_all(&mut self) {
        self.connections
            .iter_mut()
            .for_each(|connection| *connection = Connection::CLOSED);
        self.rests.clear();
        self.round += 1;
        (self.to_open, self.begun, self.opening) = (0, 0, 0);
        self.progress.open.store(0, Ordering::Release);
    }

    fn say_due(&mut self) {
        while self.say_until_ns != 0 {
            let intended_ns = self.say_schedule.next_ns;
            if intended_ns >= self.say_until_ns || self.connections.is_empty() {
                self.say_until_ns = 0;
                self.progress.is_saying.store(0, Ordering::Release);
                return;
            }
            if now_ns() < intended_ns {
                return;
            }
            self.say_schedule.next_ns += self.say_schedule.interval_ns.max(1);
            let slot = self.next_to_say % self.connections.len();
            self.next_to_say += 1;
            if self.connections[slot].state != State::Open {
                continue;
            }
            let mut payload = Vec::with_capacity(self.plan.payload_bytes);
            Stamp {
                intended_ns,
                sequence: 0,
            }
            .encode_payload(self.plan.payload_bytes, &mut payload);
            self.out.clear();
            ws::encode_text(&payload, &mut self.out);
            if self.send_out(slot) {
                self.tally.said += 1;
                add(&self.progress.said, 1);
            }
        }
    }

    fn begin_loop(&mut self) {
        let Protocol::Publish { pipeline } = self.plan.protocol else {
            return;
        };
        self.loop_runs = true;
        for slot in 0..self.connections.len() {
            if self.connections[slot].state != State::Open {
                continue;
            }
            let (now_ns, channel) = (now_ns(), self.plan.channel_of(self.number(slot)));
            self.connections[slot].asked_us = (now_ns / 1000) as u32;
            self.out.clear();
            for _ in 0..pipeline {
                self.plan.publish_request(
                    channel,
                    Stamp {
                        intended_ns: now_ns,
                        sequence: 0,
                    },
                    &mut self.out,
                );
            }
            self.send_out(slot);
        }
    }

    fn pause(&mut self, share: u32) {
        for slot in 0..self.connections.len() {
            let is_chosen = self.plan.is_slow(self.number(slot), share);
            let connection = &mut self.connections[slot];
            if let (true, State::Open, Some(socket)) =
                (is_chosen, connection.state, &connection.socket)
            {
                if epoll::delete(&self.epoll, socket).is_ok() {
                    connection.state = State::Paused;
                }
            }
        }
    }

    fn resume(&mut self) {
        for slot in 0..self.connections.len() {
            if self.connections[slot].state != State::Paused {
                continue;
            }
            self.connections[slot].state = State::Open;
            let socket = self.connections[slot]
                .socket
                .as_ref()
                .expect("a paused client has a socket");
            // Adding reports what is already there, so the backlog is read in the next turn.
            if let Err(error) = self.watch(socket, slot) {
                self.on_end(slot, &format!("epoll: {error}"));
            }
        }
    }
}

/// The cursor in a poll's answer, one line per configured header; `None` if it has none of them.
fn cursor(plan: &Plan, head: &[u8]) -> Option<Box<str>> {
    let values = plan
        .cursor_headers
        .iter()
        .map(|name| http::header_value(head, name));
    let values: Vec<_> = values.map(Option::unwrap_or_default).collect();
    values
        .iter()
        .any(|value| !value.is_empty())
        .then(|| values.join("\n").into())
}

fn elapsed_us(since_us: u32, now_ns: u64) -> u64 {
    u64::from(((now_ns / 1000) as u32).wrapping_sub(since_us))
}

/// Adds to a counter that only this thread writes.
fn add(counter: &AtomicU64, more: u64) {
    if more != 0 {
        counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Release);
    }
}
