//! The server's side: shards, their mail, and sockets that are two byte queues. What the I/O around the pure core does,
//! done in the smallest way that keeps its promises.

mod glue;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use pushring::api::question::{Answer, Question};
use pushring::auth::Authenticator;
use pushring::close_reason::CloseReason;
use pushring::config::Config;
use pushring::hub::fanout::{ChannelIndex, Delivery, Fanout, Subscription};
use pushring::hub::message::{ChannelName, Message};
use pushring::hub::{Hub, ShardId};
use pushring::metrics::Metrics;
use pushring::transport::outbox::Outbox;
use pushring::transport::{Effects, Transport};
use slab::Slab;

use crate::checker::Ledger;

/// Two byte queues between one client and one connection.
#[derive(Default)]
pub(crate) struct Socket {
    pub(crate) to_server: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
    /// What the kernel takes before the server has to wait.
    pub(crate) capacity: usize,
    pub(crate) client_closed: bool,
    pub(crate) server_closed: bool,
    shard: usize,
    connection: Option<usize>,
}

struct Connection {
    socket: usize,
    transport: Transport,
    outbox: Option<Outbox>,
    input: Vec<u8>,
    /// Only a goodbye is left to send.
    is_ending: bool,
    /// What replays have added to the outbox.
    replay_bytes: usize,
}

/// Names a connection in mail: its socket tells whether its slot still belongs to it.
#[derive(Clone, Copy)]
struct Asker {
    shard: usize,
    connection: usize,
    socket: usize,
    slot: u16,
}

enum Mail {
    Question(Asker, Question),
    Answer(Asker, Answer),
    Message(Arc<Message>),
    End(ChannelName),
    Unlisten(ChannelName),
}

struct Shard {
    hub: Hub,
    fanout: Fanout,
    auth: Authenticator,
    connections: Slab<Connection>,
    metrics: Metrics,
    effects: Effects,
    rng: fastrand::Rng,
}

pub(crate) struct World {
    pub(crate) config: Arc<Config>,
    pub(crate) now_ms: u64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) ledger: Ledger,
    pub(crate) is_draining: bool,
    /// Subscriptions that the shards hold, by channel.
    pub(crate) subscriptions: HashMap<String, usize>,
    pub(crate) closed: HashMap<&'static str, usize>,
    shards: Vec<Shard>,
    /// First in, first out from each shard to each other.
    mail: HashMap<(usize, usize), VecDeque<Mail>>,
    /// Sockets whose server side has something to do.
    readable: Vec<usize>,
}

enum Event<'a> {
    Answer(u16, Answer, Option<Subscription>),
    Delivery(ChannelIndex, &'a Delivery),
    Deadline,
    Drain,
}

impl World {
    pub(crate) fn new(config: Config, n_shards: usize, seed: u64) -> Self {
        let config = Arc::new(config);
        let shard = |n: usize| Shard {
            hub: Hub::new(config.clone(), n_shards, seed.wrapping_mul(1000) + n as u64),
            fanout: Fanout::default(),
            auth: Authenticator::open(&Config::default()),
            connections: Slab::new(),
            metrics: Metrics::default(),
            effects: Effects::default(),
            rng: fastrand::Rng::with_seed(seed ^ n as u64),
        };
        Self {
            now_ms: 1,
            rng: fastrand::Rng::with_seed(seed),
            sockets: Vec::new(),
            ledger: Ledger::default(),
            is_draining: false,
            subscriptions: HashMap::new(),
            closed: HashMap::new(),
            shards: (0..n_shards).map(shard).collect(),
            mail: HashMap::new(),
            readable: Vec::new(),
            config,
        }
    }

    // What clients do.

    pub(crate) fn connect(&mut self, capacity: usize) -> usize {
        let socket = self.sockets.len();
        let shard = self.rng.usize(..self.shards.len());
        let connection = self.shards[shard].connections.insert(Connection {
            socket,
            transport: Transport::new(self.now_ms),
            outbox: None,
            input: Vec::new(),
            is_ending: false,
            replay_bytes: 0,
        });
        self.sockets.push(Socket {
            capacity,
            shard,
            connection: Some(connection),
            ..Socket::default()
        });
        socket
    }

    pub(crate) fn send(&mut self, socket: usize, bytes: &[u8]) {
        self.sockets[socket].to_server.extend_from_slice(bytes);
        self.readable.push(socket);
    }

    pub(crate) fn close(&mut self, socket: usize) {
        self.sockets[socket].client_closed = true;
        self.sockets[socket].to_client = Vec::new();
        self.readable.push(socket);
    }

    /// Takes up to `max` bytes that the server has sent, which makes room for more.
    pub(crate) fn receive(&mut self, socket: usize, max: usize) -> Vec<u8> {
        let to_client = &mut self.sockets[socket].to_client;
        let taken = to_client.drain(..max.min(to_client.len())).collect();
        self.refill(socket);
        taken
    }

    // What the server does, one small step at a time. Each says whether there was something to do.

    pub(crate) fn deliver_mail(&mut self) -> bool {
        let mut pairs: Vec<_> = self
            .mail
            .iter()
            .filter(|(_, mails)| !mails.is_empty())
            .map(|(&pair, _)| pair)
            .collect();
        if pairs.is_empty() {
            return false;
        }
        pairs.sort_unstable();
        let (from, to) = pairs[self.rng.usize(..pairs.len())];
        let mail = self
            .mail
            .get_mut(&(from, to))
            .and_then(VecDeque::pop_front)
            .expect("not empty");
        match mail {
            Mail::Question(asker, question) => {
                let answer = self.answer_of(to, asker.shard, question);
                self.post(to, from, Mail::Answer(asker, answer));
            }
            Mail::Answer(asker, answer) => self.on_answer(asker, answer),
            Mail::Message(message) => self.shards[to].fanout.enqueue(message),
            Mail::End(name) => self.shards[to].fanout.enqueue_end(&name),
            Mail::Unlisten(name) => {
                self.shards[to]
                    .hub
                    .unlisten(&name, ShardId(from as u16), self.now_ms)
            }
        }
        true
    }

    /// One slice of one shard's fan-out.
    pub(crate) fn deliver_slice(&mut self) -> bool {
        let busy: Vec<_> = (0..self.shards.len())
            .filter(|&shard| !self.shards[shard].fanout.is_idle())
            .collect();
        if busy.is_empty() {
            return false;
        }
        let shard = busy[self.rng.usize(..busy.len())];
        let mut connections = Vec::new();
        let connections_max = self.rng.usize(1..8);
        let slice = self.shards[shard]
            .fanout
            .next_slice(&mut connections, connections_max)
            .expect("not idle");
        for connection in connections {
            self.step(
                shard,
                connection as usize,
                Event::Delivery(slice.channel, &slice.delivery),
            );
        }
        true
    }

    /// One connection reads some of what its client has sent.
    pub(crate) fn read(&mut self) -> bool {
        if self.readable.is_empty() {
            return false;
        }
        let index = self.rng.usize(..self.readable.len());
        let socket = self.readable.swap_remove(index);
        let Some(connection) = self.sockets[socket].connection else {
            return true;
        };
        let shard = self.sockets[socket].shard;
        if self.sockets[socket].client_closed {
            self.end(shard, connection, CloseReason::PeerReset);
            return true;
        }
        let available = self.sockets[socket].to_server.len();
        let taken = if self.rng.bool() {
            available
        } else {
            self.rng.usize(0..=available)
        };
        if taken < available {
            self.readable.push(socket);
        }
        let bytes = self.sockets[socket].to_server.drain(..taken);
        self.shards[shard].connections[connection]
            .input
            .extend(bytes);
        self.feed(shard, connection);
        true
    }

    /// Lets `ms` pass: deadlines, stalled writes, and a bit of sweeping.
    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        for shard in 0..self.shards.len() {
            self.shards[shard].hub.sweep(4, self.now_ms);
            for connection in self.connections(shard) {
                self.expire(shard, connection);
            }
        }
    }

    fn expire(&mut self, shard: usize, connection: usize) {
        for _ in 0..4 {
            let Some(it) = self.shards[shard].connections.get(connection) else {
                return;
            };
            let stall_ms = self.config.timing.write_stall_timeout_ms;
            if it
                .outbox
                .as_ref()
                .is_some_and(|outbox| self.now_ms >= outbox.progress_ms() + stall_ms)
            {
                return self.end(shard, connection, CloseReason::WriteStalled);
            }
            let is_due = it
                .transport
                .next_deadline_ms(&self.config)
                .is_some_and(|due_ms| due_ms <= self.now_ms);
            if it.is_ending || !is_due {
                return;
            }
            self.step(shard, connection, Event::Deadline);
        }
        panic!("a deadline stays due after its step");
    }

    /// The server shuts down.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
        for shard in 0..self.shards.len() {
            for connection in self.connections(shard) {
                self.step(shard, connection, Event::Drain);
            }
        }
    }

    fn connections(&self, shard: usize) -> Vec<usize> {
        self.shards[shard]
            .connections
            .iter()
            .map(|(connection, _)| connection)
            .collect()
    }

    // What a test may look at.

    /// Position and listeners of a channel at its home.
    pub(crate) fn info(&mut self, channel: &str) -> Option<(String, usize)> {
        let name = ChannelName::parse(channel).expect("a valid name");
        let home = self.home(&name);
        let info = self.shards[home].hub.info(&name, self.now_ms)?;
        Some((info.position.to_string(), info.subscribers as usize))
    }

    /// Messages that slow readers did not get, by policy.
    pub(crate) fn dropped_messages(&self) -> [u64; 3] {
        let sum = |policy: usize| {
            let counts = self.shards.iter();
            counts
                .map(|shard| shard.metrics.dropped_messages_total[policy])
                .sum()
        };
        [0, 1, 2].map(sum)
    }

    /// Once every client is gone and time has passed nothing is left.
    pub(crate) fn check_empty(&mut self) {
        assert!(self.mail.values().all(VecDeque::is_empty), "mail is left");
        for shard in &self.shards {
            assert_eq!(shard.connections.len(), 0, "connections");
            assert_eq!(shard.fanout.channels(), 0, "channels listened to");
            assert_eq!(shard.fanout.backlog_bytes(), 0, "backlog");
        }
        assert!(
            self.subscriptions.values().all(|&count| count == 0),
            "subscriptions: {:?}",
            self.subscriptions
        );
        let timing = &self.config.timing;
        let ages = self
            .config
            .namespaces
            .values()
            .map(|namespace| namespace.history_age_ms);
        self.now_ms += timing.channel_idle_timeout_ms + ages.max().unwrap_or(0);
        for shard in &mut self.shards {
            shard.hub.sweep(usize::MAX, self.now_ms);
            assert_eq!(
                (shard.hub.channels(), shard.hub.history_bytes()),
                (0, 0),
                "channels and their histories"
            );
        }
    }
}
