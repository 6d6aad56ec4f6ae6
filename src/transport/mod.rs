//! What one connection speaks. Pure: bytes, answers, deliveries and the time come in; bytes, questions and the end
//! come out through [`Effects`].
//!
//! | part | files |
//! |---|---|
//! | a request | `http` reads it, `exchange` asks the homes; `report` and `response` answer |
//! | what it becomes | `poll`, `event_stream`, `websocket`; `first_message` before one without a token, its `goodbye` |
//! | what all of these listen to | `subscriptions`, and the `replay` they begin with |
//! | what goes out | `outgoing` from one step; `outbox` where the socket is full, and `slow_reader` |
//! | limits of time and rate | `age`, `beat` (heartbeats), `inbound_rate` by a `token_bucket` |
//! | for the operator | `inspect` |
#![forbid(unsafe_code)]

pub mod exchange;
pub mod http;
mod report;
pub mod response;

pub mod event_stream;
pub mod first_message;
mod goodbye;
pub mod poll;
pub mod websocket;

mod replay;
pub mod subscriptions;

pub mod outbox;
pub mod outgoing;
pub mod slow_reader;

pub mod age;
pub mod beat;
pub mod inbound_rate;
mod inspect;
pub mod token_bucket;

use crate::api::Side;
use crate::api::access::Gate;
use crate::api::question::{Answer, Question};
use crate::auth::{Authenticator, Clock};
use crate::close_reason::CloseReason;
use crate::config::Config;
use crate::hub::ShardId;
use crate::hub::fanout::{ChannelIndex, Delivery, Fanout, Subscription};
use crate::metrics::{Metrics, TransportKind};

use beat::Beats;
use event_stream::EventStream;
use first_message::FirstMessage;
use goodbye::Goodbye;
use http::Http;
use inbound_rate::InboundRate;
use outbox::Waiting;
use outgoing::Outgoing;
use poll::LongPoll;
use websocket::WebSocket;

/// What a connection speaks now. Idle, it is a few words: what is needed only while something happens is boxed.
#[derive(Debug)]
pub enum Transport {
    /// Between requests, or in one.
    Http(Http),
    LongPoll(Box<LongPoll>),
    EventStream(EventStream),
    WebSocket(WebSocket),
    /// A WebSocket that has yet to say who it is.
    FirstMessage(Box<FirstMessage>),
}

/// What a step may look at.
#[derive(Debug)]
pub struct Context<'a> {
    pub config: &'a Config,
    pub side: Side,
    /// The connection's index on its shard, free for another one only when this is at its end.
    pub connection: u32,
    /// Milliseconds of the process's monotonic clock.
    pub now_ms: u64,
    /// Milliseconds since 1970, for what tokens say.
    pub unix_ms: u64,
    /// The value of `Date`.
    pub date: &'a [u8],
    /// The server wants traffic; otherwise balancers are told to look elsewhere.
    pub is_ready: bool,
    /// The server ends its connections.
    pub is_draining: bool,
    /// Something waits for this connection already: what must keep its order goes behind it.
    pub has_backlog: bool,
    pub shard: ShardId,
    pub n_shards: usize,
    /// Knows the names of subscriptions.
    pub fanout: &'a Fanout,
    pub auth: &'a mut Authenticator,
    pub rng: &'a mut fastrand::Rng,
    pub metrics: &'a mut Metrics,
    pub effects: &'a mut Effects,
}

impl Context<'_> {
    /// When heartbeats go out.
    pub fn beats(&self) -> Beats {
        let heartbeat_ms = self.config.timing.heartbeat_ms;
        Beats::new(heartbeat_ms, self.shard, self.n_shards)
    }

    /// What decides on requests and tokens.
    pub fn gate(&mut self) -> Gate<'_> {
        Gate {
            config: self.config,
            side: self.side,
            connection: self.connection,
            clock: Clock {
                now_ms: self.now_ms,
                unix_ms: self.unix_ms,
            },
            auth: self.auth,
            metrics: self.metrics,
        }
    }
}

/// What a step wants done. One value serves all connections of a shard in turn.
#[derive(Debug, Default)]
pub struct Effects {
    pub out: Outgoing,
    /// To be asked, each with its slot among the questions of the request.
    pub questions: Vec<(u16, Question)>,
    /// Subscriptions that the connection gives up.
    pub released: Vec<Subscription>,
    /// The replay of a stream that begins; goes behind `out`, exempt from the limit of the outbox.
    pub replay: Vec<Waiting>,
    /// Deliveries that have to wait their turn, before `out`: a goodbye may have waited for them.
    pub behind: Vec<Waiting>,
    /// A pong for a peer that does not read fast enough: the newest one is enough.
    pub pong: Option<Vec<u8>>,
    /// A token's key is not known: [`Transport::on_keys`] is to be called once the issuer's keys were read again.
    pub awaits_keys: bool,
}

impl Effects {
    /// Asks `question`, which is in this slot of those of the request.
    pub fn ask(&mut self, slot: u16, question: Question) {
        self.questions.push((slot, question));
    }

    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
            || !self.replay.is_empty()
            || !self.behind.is_empty()
            || self.pong.is_some()
    }

    /// Drops what was to be sent: the connection is at its end.
    pub fn clear_output(&mut self) {
        self.out.clear();
        self.replay.clear();
        self.behind.clear();
        self.pong = None;
        self.awaits_keys = false;
    }
}

/// How the connection goes on after a step.
#[derive(Debug)]
pub enum Next {
    Stay,
    Become(Transport),
    /// Send what there is to send, then end.
    End(CloseReason),
}

impl Transport {
    /// A connection that was just accepted.
    pub fn new(now_ms: u64) -> Self {
        Self::Http(Http::new(InboundRate::default(), now_ms))
    }

    /// The peer sent bytes. Takes whole units from the front and says how many bytes they had; what it leaves is
    /// handed in again with more behind it, or when [`wants_input`](Self::wants_input) says so.
    pub fn on_bytes(&mut self, input: &mut [u8], context: &mut Context<'_>) -> (usize, Next) {
        match self {
            Self::Http(http) => http.on_bytes(input, context),
            // The next request waits until this one is answered.
            Self::LongPoll(_) => (0, Next::Stay),
            // A stream has one direction; what a client sends into it is nobody's.
            Self::EventStream(_) => (input.len(), Next::Stay),
            Self::WebSocket(websocket) => websocket.on_bytes(input, context),
            Self::FirstMessage(first) => first.on_bytes(input, context),
        }
    }

    /// A question of this connection has its answer; `subscription` is the connection's if it listens now.
    pub fn on_answer(
        &mut self,
        slot: u16,
        answer: Answer,
        subscription: Option<Subscription>,
        context: &mut Context<'_>,
    ) -> Next {
        match self {
            Self::Http(http) => http.on_answer(slot, answer, subscription, context),
            Self::WebSocket(websocket) => websocket.on_answer(&answer, context),
            Self::FirstMessage(first) => first.on_answer(slot, answer, subscription, context),
            Self::LongPoll(_) | Self::EventStream(_) => unreachable!("asks nothing"),
        }
    }

    /// Something arrives on one of this connection's subscriptions.
    pub fn on_delivery(
        &mut self,
        channel: ChannelIndex,
        delivery: &Delivery,
        context: &mut Context<'_>,
    ) -> Next {
        match self {
            Self::Http(http) => http.on_delivery(channel, delivery, context),
            Self::LongPoll(poll) => poll.on_delivery(channel, delivery, context),
            Self::EventStream(stream) => stream.on_delivery(channel, delivery, context),
            Self::WebSocket(websocket) => websocket.on_delivery(channel, delivery, context),
            Self::FirstMessage(first) => first.on_delivery(channel, delivery, context),
        }
    }

    /// The issuer's keys were read, whether or not that gave others.
    pub fn on_keys(&mut self, context: &mut Context<'_>) -> Next {
        match self {
            Self::Http(http) => http.on_keys(),
            Self::WebSocket(websocket) => websocket.on_keys(context),
            Self::FirstMessage(first) => first.on_keys(context),
            Self::LongPoll(_) | Self::EventStream(_) => Next::Stay,
        }
    }

    /// The time of [`next_deadline_ms`](Self::next_deadline_ms) has come.
    pub fn on_deadline(&mut self, context: &mut Context<'_>) -> Next {
        match self {
            Self::Http(http) => http.on_deadline(context),
            Self::LongPoll(poll) => poll.on_deadline(context),
            Self::EventStream(stream) => stream.on_deadline(context),
            Self::WebSocket(websocket) => websocket.on_deadline(context),
            Self::FirstMessage(first) => first.on_deadline(context),
        }
    }

    /// When to call [`on_deadline`](Self::on_deadline) next. Asked again after every step.
    pub fn next_deadline_ms(&self, config: &Config) -> Option<u64> {
        match self {
            Self::Http(http) => http.next_deadline_ms(config),
            Self::LongPoll(poll) => Some(poll.deadline_ms()),
            Self::EventStream(stream) => Some(stream.next_deadline_ms()),
            Self::WebSocket(websocket) => Some(websocket.next_deadline_ms(config)),
            Self::FirstMessage(first) => first.next_deadline_ms(config),
        }
    }

    /// Heartbeats go by other times from now on. Silence counts anew: a peer is held to the new time from its next
    /// ping on, not for what the old one allowed.
    pub fn beat_anew(&mut self, beats: Beats, now_ms: u64, rng: &mut fastrand::Rng) {
        let due_ms = beats.any_ms(now_ms, rng);
        match self {
            Self::Http(_) | Self::LongPoll(_) | Self::FirstMessage(_) => {}
            Self::EventStream(stream) => stream.beat_anew(due_ms),
            Self::WebSocket(websocket) => websocket.beat_anew(due_ms, now_ms),
        }
    }

    /// The server shuts down: say goodbye in the way of the transport, or finish what is being answered.
    pub fn on_drain(&mut self, context: &mut Context<'_>) -> Next {
        match self {
            Self::Http(http) => http.on_drain(),
            Self::LongPoll(poll) => poll.on_drain(context),
            Self::EventStream(stream) => stream.on_drain(context),
            Self::WebSocket(websocket) => websocket.on_drain(context),
            Self::FirstMessage(first) => first.on_drain(context),
        }
    }

    /// The operator ends the connection: it is told in the way of the transport.
    pub fn on_disconnect(&mut self, context: &mut Context<'_>) -> Next {
        match self {
            Self::Http(http) => http.on_disconnect(context),
            Self::LongPoll(poll) => poll.on_disconnect(context),
            Self::EventStream(stream) => stream.on_disconnect(context),
            Self::WebSocket(websocket) => websocket.on_disconnect(context),
            Self::FirstMessage(_) => Goodbye::DISCONNECTED.send(context),
        }
    }

    /// The peer will send no more, and waits for something that may be long in coming.
    pub fn on_end_of_input(&mut self, context: &mut Context<'_>) -> Next {
        match self {
            Self::LongPoll(poll) => poll.on_deadline(context),
            Self::Http(_) | Self::EventStream(_) | Self::WebSocket(_) | Self::FirstMessage(_) => {
                Next::Stay
            }
        }
    }

    /// The peer will send no more. `true`: it may still read the answer that is being made.
    pub fn survives_end_of_input(&self) -> bool {
        matches!(self, Self::Http(http) if http.is_asking())
    }

    /// About to be ended for its silence.
    pub fn is_silent(&self, config: &Config, now_ms: u64) -> bool {
        matches!(self, Self::WebSocket(websocket) if websocket.is_silent(config, now_ms))
    }

    /// Its last word is said, though the peer's is still to come: deliveries pass it by.
    pub fn has_said_goodbye(&self) -> bool {
        matches!(self, Self::WebSocket(websocket) if websocket.has_said_goodbye())
    }

    /// Has a way to say that messages are lost in the midst of what it sends.
    pub fn can_tell_a_gap(&self) -> bool {
        match self {
            Self::Http(_) | Self::LongPoll(_) | Self::FirstMessage(_) => false,
            Self::EventStream(_) => true,
            Self::WebSocket(websocket) => websocket.can_tell_a_gap(),
        }
    }

    /// The slow reader's goodbye, after which nothing else is sent.
    pub fn on_slow_reader(&mut self, context: &mut Context<'_>) {
        if let Self::WebSocket(websocket) = self {
            websocket.say_goodbye(&Goodbye::SLOW_READER, context);
        }
    }

    /// May be given bytes now.
    pub fn wants_input(&self, config: &Config) -> bool {
        match self {
            Self::Http(http) => http.wants_input(),
            Self::LongPoll(_) => false,
            Self::EventStream(_) => true,
            Self::WebSocket(websocket) => websocket.wants_input(config),
            Self::FirstMessage(first) => first.wants_input(),
        }
    }

    /// Writes one thing from the outbox, whose turn has come.
    pub fn encode(&mut self, waiting: Waiting, out: &mut Outgoing) {
        match (self, waiting) {
            (_, Waiting::Bytes { bytes, sent: 0 }) => out.share(&bytes),
            (_, Waiting::Bytes { bytes, sent }) => out.push(&bytes[sent..]),
            (Self::EventStream(stream), waiting) => stream.encode(&waiting, out),
            (Self::WebSocket(websocket), waiting) => websocket.encode(&waiting, out),
            (Self::Http(_) | Self::LongPoll(_) | Self::FirstMessage(_), _) => {
                unreachable!("only a stream has a replay")
            }
        }
    }

    /// Gives up every subscription.
    pub fn release(&mut self, effects: &mut Effects) {
        match self {
            Self::Http(http) => http.release(effects),
            Self::LongPoll(poll) => poll.release(effects),
            Self::EventStream(stream) => stream.release(effects),
            Self::WebSocket(websocket) => websocket.release(effects),
            Self::FirstMessage(first) => first.release(effects),
        }
    }

    /// As which of the kinds it is counted.
    pub fn kind(&self) -> TransportKind {
        match self {
            Self::Http(_) => TransportKind::Http,
            Self::LongPoll(_) => TransportKind::LongPoll,
            Self::EventStream(_) => TransportKind::EventStream,
            Self::WebSocket(_) | Self::FirstMessage(_) => TransportKind::WebSocket,
        }
    }
}

#[cfg(test)]
mod tests;
