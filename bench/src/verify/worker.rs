//! A share of the clients on an epoll set: their sockets, and what is done to them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::client::{Client, Context, Outcome, Stream};
use super::fate::{Exit, Fate, absence_ns};
use super::judge::{Counts, Findings};
use super::ledger::Ledger;
use super::network::SOURCES;
use super::transport::Transport;
use crate::clients::ws::{OPCODE_CLOSE, encode_frame};
use crate::kernel::{bind_address_no_port, now_ns, own_descriptor_table};

const MILLISECOND_NS: u64 = 1_000_000;
const INPUT_BYTES: usize = 64 * 1024;
const EVENTS_PER_TURN: usize = 512;
/// Between two looks at what is due.
const TURN_NS: u64 = 4 * MILLISECOND_NS;
const SMALL_BUFFER_BYTES: usize = 4 * 1024;
const SLOW_BYTES: usize = 600;
const SLOW_INTERVAL_NS: u64 = 15 * MILLISECOND_NS;
/// Between two short polls, at most; times the ease.
const POLL_PAUSE_MS_MAX: u64 = 400;
/// Of a long poll; and what the server grants by default.
const WAIT_S: u32 = 2;
const WAIT_S_MAX: u32 = 60;
/// For the rest of a cut frame, or for the answer to a goodbye.
const EXIT_TIMEOUT_NS: u64 = 500 * MILLISECOND_NS;

/// What all workers and the main thread share.
pub(super) struct Shared {
    pub(super) ledger: Arc<Ledger>,
    pub(super) findings: Arc<Findings>,
    pub(super) seed: u64,
    /// Any of them will do.
    pub(super) targets: Vec<SocketAddr>,
    /// A raw frame's position is known from how many there were.
    pub(super) frames_can_be_counted: bool,
    /// Mean life of a connection.
    pub(super) life: Duration,
    /// Factor on the intervals at which a client acts by itself, until it has to come to the end.
    pub(super) ease: u32,
    /// Nothing is done to the clients any more; they only come to the end.
    pub(super) is_calm: AtomicBool,
    pub(super) is_over: AtomicBool,
    pub(super) deliveries: AtomicU64,
    /// Clients of each worker that are not at the end, while calm.
    pub(super) behind: Vec<AtomicU64>,
}

impl Shared {
    /// Whether the end of the run is known, and `client` is not there.
    fn is_behind(&self, client: &Client) -> bool {
        let targets = self.ledger.targets.get();
        targets.is_some_and(|targets| !client.is_at(targets))
    }

    /// In calm, clients that are on their way to the end are looked after at once.
    fn ease_now(&self) -> u64 {
        match self.is_calm.load(Ordering::Acquire) {
            true => 1,
            false => u64::from(self.ease),
        }
    }
}

/// What a worker did to its clients, and what they got.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    pub(super) deliveries_by_transport: [u64; Transport::ALL.len()],
    pub(super) connects: u64,
    pub(super) pauses: u64,
    pub(super) slow: u64,
    pub(super) half_asked: u64,
    pub(super) cut_mid_frame: u64,
    pub(super) resets: u64,
    /// Connections that the server ended or refused.
    pub(super) ended_by_server: u64,
    pub(super) behind: Vec<String>,
}

struct Seat {
    client: Client,
    rng: Rng,
    link: Option<Link>,
    /// When to look at it next.
    due_ns: u64,
    /// Connections so far: events of an older one are stale.
    round: u32,
}

struct Link {
    socket: OwnedFd,
    stream: Stream,
    fate: Fate,
    is_connected: bool,
    /// Between two polls: when to ask again.
    asks_ns: Option<u64>,
    /// Still to be read before the cut.
    cut_after: Option<usize>,
    has_said_goodbye: bool,
    is_listened_to: bool,
    input: Vec<u8>,
}

pub(super) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    epoll: OwnedFd,
    seats: Vec<Seat>,
    /// When the seats were last looked through for what is due.
    looked_ns: u64,
    buffer: Box<[u8]>,
    out: Vec<u8>,
    tally: Tally,
}

impl Worker {
    /// Serves `clients` until the run is over, on a thread of its own.
    pub(super) fn run(
        index: usize,
        shared: Arc<Shared>,
        clients: Vec<Client>,
    ) -> io::Result<Tally> {
        own_descriptor_table()?;
        let begin_ns = now_ns();
        let seats = clients.into_iter().map(|client| {
            let mut rng = Rng::with_seed(shared.seed ^ (u64::from(client.number) << 32));
            Seat {
                due_ns: begin_ns + rng.u64(..1_000) * MILLISECOND_NS,
                client,
                rng,
                link: None,
                round: 0,
            }
        });
        let mut worker = Self {
            index,
            seats: seats.collect(),
            looked_ns: 0,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            buffer: vec![0; INPUT_BYTES].into_boxed_slice(),
            out: Vec::new(),
            tally: Tally::default(),
            shared,
        };
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        while !worker.shared.is_over.load(Ordering::Acquire) {
            worker.turn(&mut events)?;
        }
        Ok(worker.finish())
    }

    fn turn(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        events.clear();
        let room = rustix::buffer::spare_capacity(events);
        let ease = self.shared.ease_now();
        let turn_ns = TURN_NS * ease;
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: turn_ns as i64,
        };
        match epoll::wait(&self.epoll, room, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let before = self.tally.counts.deliveries;
        for event in events.iter() {
            let (data, flags) = (event.data, event.flags);
            let (slot, round) = (data.u64() as u32 as usize, (data.u64() >> 32) as u32);
            if self.seats[slot].round == round && self.seats[slot].link.is_some() {
                self.on_ready(slot, flags);
            }
        }
        let (now_ns, is_calm) = (now_ns(), self.shared.is_calm.load(Ordering::Acquire));
        // Where clients have time, most of the work would be to look through them.
        if ease == 1 || now_ns >= self.looked_ns + turn_ns {
            self.looked_ns = now_ns;
            for slot in 0..self.seats.len() {
                if is_calm || self.seats[slot].due_ns <= now_ns {
                    self.on_due(slot, now_ns, is_calm);
                }
            }
        }
        let more = self.tally.counts.deliveries - before;
        self.shared.deliveries.fetch_add(more, Ordering::Relaxed);
        if is_calm {
            let behind = self.behind().count() as u64;
            self.shared.behind[self.index].store(behind, Ordering::Release);
        }
        Ok(())
    }

    fn on_ready(&mut self, slot: usize, flags: epoll::EventFlags) {
        let Some(link) = &mut self.seats[slot].link else {
            return;
        };
        if !link.is_connected {
            match rustix::net::sockopt::socket_error(&link.socket) {
                Ok(Ok(())) if flags.contains(epoll::EventFlags::OUT) => {
                    link.is_connected = true;
                    // What a slow one has not read would wake us until its time comes.
                    let reads_at_once = !link.fate.is_slow;
                    self.seats[slot].due_ns = now_ns();
                    self.listen(slot, reads_at_once);
                    self.ask(slot);
                }
                Ok(Ok(())) => {}
                _ => self.leave(slot, true),
            }
            return;
        }
        let is_over = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if !link.fate.is_slow || is_over {
            self.receive(slot, INPUT_BYTES);
        }
    }

    /// Sends a request, or its front.
    fn ask(&mut self, slot: usize) {
        let seat = &mut self.seats[slot];
        let Some(link) = &mut seat.link else { return };
        self.out.clear();
        let choice = seat.rng.u8(..);
        let transport = link.stream.transport;
        let wait_s = (WAIT_S * self.shared.ease).min(WAIT_S_MAX);
        seat.client.request(
            &self.shared.ledger,
            transport,
            wait_s,
            choice,
            &mut self.out,
        );
        if link.fate.is_half_asked {
            self.out.truncate(seat.rng.usize(1..self.out.len()));
            self.tally.half_asked += 1;
        }
        link.asks_ns = None;
        self.send(slot);
    }

    fn send(&mut self, slot: usize) {
        let Some(link) = &self.seats[slot].link else {
            return;
        };
        let sent = rustix::net::send(&link.socket, &self.out, SendFlags::NOSIGNAL);
        // Requests and pongs are small: a socket that does not take them whole is as good as broken.
        if sent != Ok(self.out.len()) {
            self.leave(slot, true);
        }
    }

    fn receive(&mut self, slot: usize, bytes_max: usize) {
        let seat = &mut self.seats[slot];
        let Some(link) = &mut seat.link else { return };
        let bytes_max = link.cut_after.unwrap_or(bytes_max).min(bytes_max);
        let room = &mut self.buffer[..bytes_max];
        let bytes = match rustix::net::recv(&link.socket, room, RecvFlags::empty()) {
            Ok((0, _)) => return self.leave(slot, true),
            Ok((bytes, _)) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.leave(slot, true),
        };
        link.input.extend_from_slice(&self.buffer[..bytes]);
        self.out.clear();
        let before = self.tally.counts.deliveries;
        let mut context = Context {
            ledger: &self.shared.ledger,
            findings: &self.shared.findings,
            counts: &mut self.tally.counts,
            seed: self.shared.seed,
        };
        let outcome = seat.client.read(
            &mut context,
            &mut link.stream,
            &mut link.input,
            &mut self.out,
        );
        let transport = link.stream.transport;
        self.tally.deliveries_by_transport[transport as usize] +=
            self.tally.counts.deliveries - before;
        if let Some(left) = &mut link.cut_after {
            *left -= bytes;
            if *left == 0 {
                self.tally.cut_mid_frame += 1;
                return self.cut(slot);
            }
        }
        match outcome {
            Outcome::Open => {}
            Outcome::Answered { closes: true } | Outcome::Ended | Outcome::Broken => {
                if !self.out.is_empty() {
                    self.send(slot);
                }
                return self.leave(slot, true);
            }
            Outcome::Answered { closes: false } if !link.input.is_empty() => {
                return self.leave(slot, true);
            }
            Outcome::Answered { closes: false } => {
                let pause_ns = match transport {
                    Transport::ShortPoll => {
                        // At the end only those who are not there yet have reason to hurry.
                        let is_behind = self.shared.is_behind(&seat.client);
                        let ease = if is_behind { 1 } else { self.shared.ease };
                        let pause_ms = seat.rng.u64(50..POLL_PAUSE_MS_MAX);
                        pause_ms * MILLISECOND_NS * u64::from(ease)
                    }
                    _ => 0,
                };
                let asks_ns = now_ns() + pause_ns;
                link.asks_ns = Some(asks_ns);
                seat.due_ns = seat.due_ns.min(asks_ns);
            }
        }
        if !self.out.is_empty() {
            self.send(slot);
        }
    }

    /// Looks at a client whose time has come.
    fn on_due(&mut self, slot: usize, now_ns: u64, is_calm: bool) {
        let seat = &mut self.seats[slot];
        let Some(link) = &mut seat.link else {
            // Who is away for long comes back now.
            let latest_ns = now_ns + 200 * MILLISECOND_NS;
            if is_calm && seat.due_ns > latest_ns {
                seat.due_ns = now_ns + seat.rng.u64(..200) * MILLISECOND_NS;
            }
            if seat.due_ns <= now_ns {
                self.connect(slot, now_ns, is_calm);
            }
            return;
        };
        if is_calm && link.fate.ends_ns != u64::MAX && !link.fate.is_half_asked {
            link.fate = Fate::calm();
            link.cut_after = None;
            // It may be dozens of polls from the end.
            link.asks_ns = link.asks_ns.map(|_| now_ns);
            seat.due_ns = now_ns;
        }
        if seat.due_ns > now_ns || !link.is_connected && now_ns < link.fate.ends_ns {
            return;
        }
        if now_ns >= link.fate.ends_ns {
            return self.exit(slot, now_ns);
        }
        let mut next_ns = link.fate.ends_ns;
        let mut wants_to_read = true;
        match link.fate.pause_ns {
            Some((from_ns, _)) if now_ns < from_ns => next_ns = next_ns.min(from_ns),
            Some((_, until_ns)) if now_ns < until_ns => {
                self.tally.pauses += u64::from(link.is_listened_to);
                wants_to_read = false;
                next_ns = next_ns.min(until_ns);
            }
            _ => {}
        }
        let asks = link.asks_ns.is_some_and(|asks_ns| asks_ns <= now_ns);
        if let Some(asks_ns) = link.asks_ns.filter(|_| !asks) {
            next_ns = next_ns.min(asks_ns);
        }
        let reads_slowly = wants_to_read && link.fate.is_slow;
        if reads_slowly {
            next_ns = next_ns.min(now_ns + SLOW_INTERVAL_NS * u64::from(self.shared.ease));
        }
        seat.due_ns = next_ns;
        self.listen(slot, wants_to_read && !reads_slowly);
        if asks {
            self.ask(slot);
        }
        if reads_slowly {
            self.receive(slot, SLOW_BYTES);
        }
    }

    fn connect(&mut self, slot: usize, now_ns: u64, is_calm: bool) {
        let life_ns = self.shared.life.as_nanos() as u64;
        let seat = &mut self.seats[slot];
        // A raw frame does not say which channel it is of.
        let choices = match seat.client.channels.len() {
            1 if self.shared.frames_can_be_counted => &Transport::ALL[..],
            _ => &[
                Transport::ShortPoll,
                Transport::LongPoll,
                Transport::SseRaw,
                Transport::SseJson,
                Transport::WebSocketJson,
            ],
        };
        let transport = choices[seat.rng.usize(..choices.len())];
        let fate = match is_calm {
            true => Fate::calm(),
            false => Fate::draw(&mut seat.rng, transport, now_ns, life_ns),
        };
        seat.round += 1;
        self.tally.connects += 1;
        let targets = &self.shared.targets;
        let target = targets[seat.rng.usize(..targets.len())];
        let source = source(target, seat.client.number + seat.round);
        let opened = open(target, source, fate.has_small_buffer);
        let socket = opened.and_then(|socket| {
            let data = epoll::EventData::new_u64((u64::from(seat.round) << 32) | slot as u64);
            let flags = epoll::EventFlags::OUT | epoll::EventFlags::IN;
            epoll::add(&self.epoll, &socket, data, flags)?;
            Ok(socket)
        });
        match socket {
            Ok(socket) => {
                self.tally.slow += u64::from(fate.is_slow);
                seat.due_ns = fate.ends_ns;
                seat.link = Some(Link {
                    socket,
                    stream: Stream::new(transport),
                    fate,
                    is_connected: false,
                    asks_ns: None,
                    cut_after: None,
                    has_said_goodbye: false,
                    is_listened_to: true,
                    input: Vec::new(),
                });
            }
            Err(_) => seat.due_ns = now_ns + 100 * MILLISECOND_NS,
        }
    }

    /// The end of a connection as its fate has it.
    fn exit(&mut self, slot: usize, now_ns: u64) {
        let seat = &mut self.seats[slot];
        let Some(link) = &mut seat.link else { return };
        let is_first = link.cut_after.is_none() && !link.has_said_goodbye;
        match link.fate.exit {
            Exit::MidFrame if is_first && link.is_connected && !link.fate.is_half_asked => {
                link.cut_after = Some(seat.rng.usize(1..400));
            }
            Exit::Goodbye if is_first && link.is_connected && !link.fate.is_half_asked => {
                link.has_said_goodbye = true;
                self.out.clear();
                encode_frame(OPCODE_CLOSE, &1000u16.to_be_bytes(), &mut self.out);
                self.send(slot);
            }
            Exit::Reset => return self.cut(slot),
            _ => return self.leave(slot, false),
        }
        let seat = &mut self.seats[slot];
        if let Some(link) = &mut seat.link {
            link.fate.ends_ns = now_ns + EXIT_TIMEOUT_NS;
            link.fate.pause_ns = None;
            link.fate.is_slow = false;
            seat.due_ns = link.fate.ends_ns;
            self.listen(slot, true);
        }
    }

    /// Ends the connection by RST.
    fn cut(&mut self, slot: usize) {
        if let Some(link) = &self.seats[slot].link {
            let _ = rustix::net::sockopt::set_socket_linger(&link.socket, Some(Duration::ZERO));
            self.tally.resets += 1;
        }
        self.leave(slot, false);
    }

    /// Ends the connection; the client comes back after a while.
    fn leave(&mut self, slot: usize, by_server: bool) {
        let seat = &mut self.seats[slot];
        if seat.link.take().is_some() {
            self.tally.ended_by_server += u64::from(by_server);
            let away_ns = match self.shared.is_calm.load(Ordering::Acquire) {
                true => seat.rng.u64(20..100) * MILLISECOND_NS,
                false => absence_ns(&mut seat.rng),
            };
            seat.due_ns = now_ns() + away_ns;
        }
    }

    /// Whether the epoll set tells of bytes. A connection that is not listened to fills the server's side.
    fn listen(&mut self, slot: usize, listens: bool) {
        let seat = &mut self.seats[slot];
        let Some(link) = &mut seat.link else { return };
        let flags = match listens {
            true => epoll::EventFlags::IN,
            false => epoll::EventFlags::empty(),
        };
        let data = epoll::EventData::new_u64((u64::from(seat.round) << 32) | slot as u64);
        if epoll::modify(&self.epoll, &link.socket, data, flags).is_ok() {
            link.is_listened_to = listens;
        }
    }

    /// The clients that are not at the end.
    fn behind(&self) -> impl Iterator<Item = &Seat> {
        let seats = self.seats.iter();
        seats.filter(|seat| self.shared.is_behind(&seat.client))
    }

    fn finish(mut self) -> Tally {
        let describe = |seat: &Seat| {
            let link = seat.link.as_ref().map(|link| link.stream.transport.name());
            let places: Vec<_> = seat.client.places.iter().map(|place| place.at).collect();
            let how = link.unwrap_or("not connected");
            format!("client {} ({how}) is at {places:?}", seat.client.number)
        };
        self.tally.behind = self.behind().map(describe).collect();
        self.tally
    }
}

/// One of several source addresses, so that ports in TIME_WAIT don't run short.
fn source(target: SocketAddr, number: u32) -> Ipv4Addr {
    let number = number % u32::from(SOURCES);
    match target.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() => {
            let [a, b, c, _] = ip.octets();
            Ipv4Addr::new(a, b, c, 1 + number as u8)
        }
        _ => Ipv4Addr::from(0x7F00_0002 + number),
    }
}

fn open(target: SocketAddr, source: Ipv4Addr, has_small_buffer: bool) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if has_small_buffer {
        socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
    }
    let socket = OwnedFd::from(socket);
    bind_address_no_port(socket.as_fd())?;
    rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}
