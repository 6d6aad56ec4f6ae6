//! One core at work: it owns its entrances, connections, ring, hub, timers and counters, and nobody else touches them.
//!
//! The *turn* is the whole of its life: reap completions, read mail, deliver some slices of messages, expire timers,
//! post mail; then, if there is nothing to do, park until the ring, another shard or the clock has something.
//!
//! | part | files |
//! |---|---|
//! | the turn | here; `clock`, `park` |
//! | what comes in | `accept` a newcomer, `admission`, `preface` (PROXY protocol), `tls`, `input` |
//! | a step of a connection | `step`; `outboxes` and `slow_reader` for what it cannot send; `end` |
//! | as a home of channels | `home`, `mailbox`; `relay` with a broker; `durable` and its `journal` with `history_dir` |
//! | beside | `callback` asks the backend, `issuer_keys`, `inquiry` of the operator, `reload` |
//! | what these use | `connection`, `completion`, `ring`, `timers`, `clients`, `keyed_counts`, `complaint`, `shared` |

mod clock;
mod park;

mod accept;
mod admission;
mod input;
mod preface;
mod tls;

mod end;
mod outboxes;
mod slow_reader;
mod step;

mod durable;
mod home;
mod journal;
pub mod mailbox;
mod relay;

mod callback;
mod inquiry;
mod issuer_keys;
mod reload;

mod clients;
mod complaint;
mod completion;
pub mod connection;
pub mod keyed_counts;
pub mod ring;
mod shared;
pub mod timers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use slab::Slab;

use crate::auth::Authenticator;
use crate::config::Config;
use crate::hub::fanout::Fanout;
use crate::hub::message::ChannelName;
use crate::hub::{HomeRefusal, Hub, ShardId};
use crate::logging::LineLimit;
use crate::metrics::{CallbackCounts, Metrics};
use crate::tls::session::RecordBuffer;
use crate::transport::Effects;

use accept::Door;
pub use accept::Entrance;
use admission::AcceptRate;
use clients::Clients;
use clock::Clock;
use complaint::{Complaint, Complaints};
use completion::Completion;
use connection::{Connection, ConnectionKey, GENERATION_MASK};
use inquiry::Farewells;
use journal::Journal;
use mailbox::{Mail, Post};
use outboxes::Outboxes;
use relay::Relayed;
use ring::Ring;
pub use shared::{HistoryLog, Shared, home_of};
use timers::TimerWheel;
use tls::TlsSessions;

/// Bytes read from a connection in one turn. One buffer serves all of a shard's connections, so it stays in the cache.
const READ_BYTES: usize = 64 * 1024;
/// Completions handled in one turn.
const COMPLETIONS_PER_TURN: usize = 512;
/// Calls into the kernel for them.
const ENTERS_PER_TURN: usize = 32;
/// Deliveries of one turn, and timers, however many shards share a core.
const SENDS_PER_TURN_MIN: usize = 16;
/// Channels looked at in one sweep at least, how many sweeps see all of them at most, and how often one happens: what
/// has expired keeps its memory for a minute.
const SWEEP_CHANNELS_MIN: usize = 256;
const SWEEPS_PER_ROUND: usize = 600;
const SWEEP_INTERVAL_MS: u64 = 100;

/// One shard, on the thread that made it.
pub struct Shard {
    id: ShardId,
    shared: Arc<Shared>,
    config: Arc<Config>,
    hub: Hub,
    /// Only if histories are kept on disk.
    journal: Option<Journal>,
    /// Only if a broker numbers the messages; then the hub has nothing to do.
    relay: Option<Relayed>,
    fanout: Fanout,
    connections: Slab<Connection>,
    clients: Clients,
    tls_sessions: TlsSessions,
    door: Door,
    accept_rate: AcceptRate,
    complaints: Complaints,
    outboxes: Outboxes,
    end_lines: LineLimit,
    /// By policy.
    slow_reader_lines: [LineLimit; 3],
    timers: TimerWheel,
    ring: Ring,
    post: Post,
    metrics: Metrics,
    auth: Authenticator,
    /// Connections that wait for the issuer's keys.
    awaiting_keys: Vec<ConnectionKey>,
    farewells: Farewells,
    rng: fastrand::Rng,
    clock: Clock,
    next_generation: u32,
    next_sweep_ms: u64,
    life: Life,
    /// Deliveries of one turn, and timers: most of those send a heartbeat.
    sends_per_turn: usize,
    /// Used by every step and empty between steps, so that steps need no storage of their own.
    scratch: Scratch,
}

/// How far a shard has come. Every one goes through these in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Serving,
    /// Says so, and serves.
    NotReady,
    Draining {
        since_ms: u64,
    },
    /// Drained: no connection is left.
    Empty,
    /// So are all other shards.
    Over,
}

impl Life {
    /// The end of the connections has begun.
    fn is_draining(self) -> bool {
        !matches!(self, Self::Serving | Self::NotReady)
    }
}

#[derive(Default)]
struct Scratch {
    effects: Effects,
    read_buffer: Vec<u8>,
    /// What came in over TLS.
    plaintext: Vec<u8>,
    record: RecordBuffer,
    completions: Vec<u64>,
    mails: Vec<Mail>,
    slice: Vec<u32>,
    due: Vec<u32>,
    listening: Vec<ShardId>,
    /// Connections that have come to their end in this turn.
    ended: Vec<u32>,
}

/// The setting `fanout_sends_per_turn`, shared out among the shards that have to share a core. Below
/// [`SENDS_PER_TURN_MIN`] a turn would cost more than its sends.
fn sends_per_turn(setting: usize, n_shards: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = setting / n_shards.div_ceil(cores);
    share.max(SENDS_PER_TURN_MIN.min(setting))
}

impl Shard {
    /// A shard of this thread. `entrances` are its own sockets.
    pub fn new(
        id: ShardId,
        shared: Arc<Shared>,
        post: Post,
        entrances: Vec<Entrance>,
    ) -> std::io::Result<Self> {
        let config = shared.config.clone();
        let clock = Clock::new(shared.started, shared.history_origin_ms);
        let now_ms = clock.now_ms;
        let mut rng = fastrand::Rng::new();
        let ring = Ring::new(post.mailbox(id).wake())?;
        let n_shards = post.n_shards();
        let sends_per_turn = sends_per_turn(config.limits.fanout_sends_per_turn, n_shards);
        let mut auth = Authenticator::new(
            &config,
            shared.keys.clone(),
            shared.api_keys.clone(),
            n_shards,
        );
        auth.users.count_with(shared.user_counts.clone());
        let next_generation = rng.u32(..) & GENERATION_MASK;
        let mut shard = Self {
            id,
            hub: Hub::new(config.clone(), post.n_shards(), rng.u64(..)),
            journal: None,
            relay: None,
            fanout: Fanout::default(),
            connections: Slab::new(),
            clients: Clients::default(),
            tls_sessions: TlsSessions::default(),
            door: Door::new(entrances),
            accept_rate: AcceptRate::new(config.limits.accepts_per_second_max, now_ms),
            complaints: Complaints::default(),
            outboxes: Outboxes::default(),
            end_lines: LineLimit::default(),
            slow_reader_lines: Default::default(),
            timers: TimerWheel::new(now_ms),
            ring,
            post,
            metrics: Metrics::default(),
            auth,
            awaiting_keys: Vec::new(),
            farewells: Farewells::default(),
            rng,
            clock,
            // Of an earlier process, or of another server, an id finds nobody here.
            next_generation,
            next_sweep_ms: now_ms,
            life: Life::Serving,
            sends_per_turn,
            scratch: Scratch {
                read_buffer: vec![0; READ_BYTES],
                ..Scratch::default()
            },
            config,
            shared,
        };
        for entrance in 0..shard.door.entrances.len() {
            shard.arm_entrance(entrance)?;
        }
        Ok(shard)
    }

    /// Takes up the histories that its log has brought back, and keeps them there from now on.
    pub fn keep_journal(&mut self, log: HistoryLog) {
        let HistoryLog {
            share,
            writer,
            found,
        } = log;
        self.metrics.history_restored_messages = share.messages() as u64;
        self.metrics.history_torn_bytes = found.torn_bytes;
        self.metrics.history_damaged_bytes = found.damaged_bytes;
        self.metrics.history_skips = u64::from(found.is_skipped);
        self.hub.adopt(share, self.clock.hub_ms);
        self.hub.begin_log();
        self.journal = Some(Journal::new(writer));
    }

    /// Turns until the server has shut down.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut parking = park::Parking::new(self.post.mailbox(self.id).wake())?;
        self.ring.mute(true);
        while self.life != Life::Over {
            let began = Instant::now();
            let is_busy = self.turn()?;
            if is_busy {
                self.metrics
                    .turn_time
                    .record_us(began.elapsed().as_micros() as u64);
                if self.has_backlog() {
                    // A broadcast keeps every shard busy, and so does a beat of very many connections. On a core that
                    // is shared, with another shard or with anybody, none of them holds it for a whole time slice of
                    // the scheduler while others have somebody waiting.
                    std::thread::yield_now();
                }
                continue;
            }
            // Once more with the ring unmuted: what comes from here on is signalled.
            self.ring.mute(false);
            self.ring.enter()?;
            if self.ring.is_quiet() && self.post.mailbox(self.id).is_empty() {
                parking.park(self.until_next_deadline_ms()).await?;
            }
            self.ring.mute(true);
        }
        self.post.flush();
        self.finish_journal();
        Ok(())
    }

    /// One turn; `false` if there was nothing to do.
    fn turn(&mut self) -> std::io::Result<bool> {
        self.clock.read();
        self.hub.observe_us(self.clock.hub_us);
        let mut completions = std::mem::take(&mut self.scratch.completions);
        // The kernel hands over about twenty completions at a time. All of them come before the timers: a pong that is
        // here is to be read before its lack is noted.
        for _ in 0..ENTERS_PER_TURN {
            self.ring.enter()?;
            let room = COMPLETIONS_PER_TURN - completions.len();
            self.ring.reap(&mut completions, room);
            if completions.len() == COMPLETIONS_PER_TURN || self.ring.is_quiet() {
                break;
            }
        }
        let mut is_busy = !completions.is_empty();
        for user_data in completions.drain(..) {
            self.on_completion(Completion::unpack(user_data));
        }
        self.scratch.completions = completions;
        is_busy |= self.read_mail();
        is_busy |= self.say_farewell();
        is_busy |= self.deliver();
        is_busy |= self.expire_timers();
        self.sweep();
        self.hand_over_records();
        self.send_orders();
        while let Some(index) = self.scratch.ended.pop() {
            self.free_if_joined(index);
        }
        self.note_if_empty();
        self.post
            .mailbox(self.id)
            .report_backlog(self.fanout.backlog_bytes());
        self.metrics.ring_overflows_total += u64::from(self.ring.take_overflows());
        self.post.flush();
        Ok(is_busy)
    }

    /// More is to be sent than one turn has done.
    fn has_backlog(&self) -> bool {
        let is_due = |at_ms| at_ms <= self.clock.now_ms;
        !self.fanout.is_idle() || self.timers.next_ms().is_some_and(is_due)
    }

    /// Without connections of its own a shard still is the home of channels that those of others ask for: all end
    /// together, told by the one that was the last to become empty.
    fn note_if_empty(&mut self) {
        let is_draining = matches!(self.life, Life::Draining { .. });
        if !is_draining || !self.door.is_closed || !self.connections.is_empty() {
            return;
        }
        self.life = Life::Empty;
        if self.shared.n_occupied.fetch_sub(1, Ordering::AcqRel) == 1 {
            for shard in 0..self.post.n_shards() {
                self.post.send(ShardId(shard as u16), Mail::Over);
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        match completion {
            Completion::Acceptable(entrance) => self.on_acceptable(entrance as usize),
            Completion::Readable(key) => {
                // A freed entry has no poll with the kernel, so the key is never stale.
                let connection = &mut self.connections[key.index as usize];
                debug_assert_eq!(connection.generation, key.generation);
                connection.read_armed = false;
                self.on_readable(key.index);
            }
            Completion::Writable(key) => {
                let connection = &mut self.connections[key.index as usize];
                debug_assert_eq!(connection.generation, key.generation);
                connection.write_armed = false;
                self.on_writable(key.index);
            }
        }
    }

    fn expire_timers(&mut self) -> bool {
        let mut due = std::mem::take(&mut self.scratch.due);
        self.timers
            .expire(self.clock.now_ms, &mut due, self.sends_per_turn);
        let is_busy = !due.is_empty();
        for index in due.drain(..) {
            self.on_timer(index);
        }
        self.scratch.due = due;
        self.retry_accept();
        self.close_door_if_due();
        is_busy
    }

    fn sweep(&mut self) {
        if self.clock.now_ms < self.next_sweep_ms {
            return;
        }
        self.next_sweep_ms = self.clock.now_ms + SWEEP_INTERVAL_MS;
        let channels_max = SWEEP_CHANNELS_MIN.max(self.hub.places() / SWEEPS_PER_ROUND);
        self.hub.sweep(channels_max, self.clock.hub_ms);
        self.sweep_relay();
    }

    /// How long nothing is due; `None` for as long as it takes.
    fn until_next_deadline_ms(&self) -> Option<u64> {
        let has_channels = self.hub.channels() > 0 || self.relay.is_some();
        let sweep_ms = has_channels.then_some(self.next_sweep_ms);
        let log_ms = self.journal.as_ref().and_then(Journal::retry_ms);
        let next_ms = [self.timers.next_ms(), sweep_ms, self.door.next_ms(), log_ms]
            .into_iter()
            .flatten()
            .min()?;
        Some(next_ms.saturating_sub(self.clock.now_ms))
    }

    /// Tells the operator, if that was not done a moment ago.
    fn complain(&mut self, complaint: Complaint) {
        if self.complaints.is_due(complaint, self.clock.now_ms) {
            tracing::warn!(shard = self.id.0, "{}", complaint.advice());
        }
    }

    /// Tells the operator why this home has turned a request away, if that was not done a moment ago.
    fn complain_of_refusal(&mut self, refusal: HomeRefusal) -> HomeRefusal {
        self.complain(refusal.into());
        refusal
    }

    /// Tells the operator what is wrong with one connection, if `complaint` was not made a moment ago.
    fn complain_of(&mut self, index: u32, complaint: Complaint, found: &str) {
        if self.complaints.is_due(complaint, self.clock.now_ms) {
            let peer = self.peer(index);
            let connection = self.id_of(index);
            tracing::warn!(%connection, %peer, found, "{}", complaint.advice());
        }
    }

    /// The client's address: as a proxy has told it, or as the socket has it.
    fn client(&self, index: u32) -> Option<SocketAddr> {
        let told = self.clients.get(index);
        told.or_else(|| self.connections[index as usize].peer_address())
    }

    /// The client's address, for the log.
    fn peer(&self, index: u32) -> String {
        self.client(index)
            .map_or_else(|| "unknown".to_owned(), |address| address.to_string())
    }

    /// The shard that numbers the messages of `channel`.
    fn home(&self, channel: &ChannelName) -> ShardId {
        ShardId(home_of(channel, &self.shared.hasher, self.post.n_shards()) as u16)
    }

    fn connection_key(&self, index: u32) -> ConnectionKey {
        ConnectionKey {
            index,
            generation: self.connections[index as usize].generation,
        }
    }

    /// The connection of a key that has been away; a stale key finds nothing.
    fn is_current(&self, key: ConnectionKey) -> bool {
        self.connections
            .get(key.index as usize)
            .is_some_and(|connection| connection.generation == key.generation)
    }

    /// The shard's counts with its present state.
    fn measure(&self) -> Metrics {
        let relayed = self.relay.as_ref();
        Metrics {
            channels: (self.hub.channels() + relayed.map_or(0, |it| it.relay.channels())) as u64,
            channels_listened: self.fanout.channels() as u64,
            history_bytes: (self.hub.history_bytes()
                + relayed.map_or(0, |it| it.relay.history_bytes()))
                as u64,
            idempotency_keys_forgotten_total: self.hub.idempotency_keys_forgotten_total(),
            backplane: relayed.map(Relayed::measure),
            outbox_bytes: self.outboxes.bytes() as u64,
            fanout_backlog_bytes: self.fanout.backlog_bytes() as u64,
            history_queue_bytes: (self.journal.as_ref()).map_or(0, Journal::queue_bytes) as u64,
            callback: match self.id {
                ShardId(0) => self.shared.callbacks.counts(),
                _ => CallbackCounts::default(),
            },
            log_lines_dropped_total: match self.id {
                ShardId(0) => crate::logging::dropped_lines() as u64,
                _ => 0,
            },
            ..self.metrics.clone()
        }
    }
}

#[cfg(test)]
mod tests;
