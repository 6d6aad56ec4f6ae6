//! What a broker has to be able to do. Whichever it is, the rest is one: tickets, rounds of channels, the canary,
//! reconnects.

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::backplane::order::{Arrival, Keep, NodeId, NotPublished, Standing};
use crate::hub::message::ChannelName;
use crate::hub::position::Position;
use crate::hub::{Publish, Published};

/// One connected broker: of however many servers it is made, it is there as a whole or not at all.
///
/// Everything is called from one thread, on a runtime of that thread. Calls may be made while earlier ones are under
/// way; all but readings are carried out in the order in which they were first polled. An error of a whole call, as
/// much as [`Event::Broken`], is the end of this connection: whoever holds it drops it and connects anew.
///
/// What the numbers must be, so that nothing is lost in silence:
/// - Within one epoch of a channel offsets ascend, and none is ever given to two messages: not after a fail-over to a
///   replica that lacks the last ones, nor after a restart with an older state.
/// - [`Message::previous`](crate::hub::message::Message::previous) is the offset of the channel's message before, so
///   that a hole shows at the message behind it.
/// - When a channel's data is gone, its epoch changes. When a [`Reading`] names a position of the present epoch that
///   the broker has no trace of, messages are lost: the epoch changes then, too, and every node that listens hears of
///   it with the next message or [`Event::Moved`].
///
/// Times: `published_us` is the broker's own clock (or that of its client, where it has none to ask), in microseconds
/// since 1970; `published_ms` the same in milliseconds; `expires_ms` that plus the message's own `ttl`, or `u64::MAX`.
// The futures stay on the thread that calls, so nobody needs them to be `Send`.
#[allow(async_fn_in_trait)]
pub trait Broker: Sized + 'static {
    /// Connects to everything that it takes, and installs there what it needs. Events come from now on.
    async fn connect(settings: &Settings) -> Result<(Self, mpsc::Receiver<Event>), BrokerError>;

    /// What was heard of the broker last, for [`look_for`](Self::look_for). A broker that gives no position out twice,
    /// whatever it has lost, needs none.
    fn trace(&self) -> Option<Trace> {
        None
    }

    /// Whether the broker still has what an earlier connection has heard last. If not, messages are lost: as where a
    /// [`Reading`] shows that, the epoch changes, and this connection is of no use any more.
    async fn look_for(&self, _trace: Trace) -> Result<bool, BrokerError> {
        Ok(true)
    }

    /// Connections that a canary has to come back through.
    fn connections(&self) -> usize;

    /// Publishes all of it, each channel's in order, with as few round trips as it takes; an answer for each.
    async fn publish(
        &self,
        publishes: Vec<Publishing>,
    ) -> Result<Vec<Result<Published, NotPublished>>, BrokerError>;

    /// From the return on, what is published on the channels comes as events. None of them is listened to yet.
    async fn listen(&self, channels: &[ChannelName]) -> Result<(), BrokerError>;

    /// All of them are listened to.
    async fn unlisten(&self, channels: &[ChannelName]) -> Result<(), BrokerError>;

    /// Where each channel stands, with as few round trips as it takes. What is published from then on is not part of
    /// it. What is part of it, behind a position that the reading names, and comes as an event, too, is with the
    /// receiver by the time of the return: whoever takes that first knows that what is missing then is lost. So this
    /// may wait until events are taken.
    async fn read(&self, readings: &[Reading]) -> Result<Vec<Standing>, BrokerError>;

    /// Names positions, as [`read`](Self::read) does, so that the broker finds out what it has lost. What it has is for
    /// nobody.
    async fn remind(&self, readings: &[Reading]) -> Result<(), BrokerError> {
        self.read(readings).await.map(drop)
    }

    /// Drops the channel's history and its epoch, and tells every node that listens ([`Event::Ended`]). `false`:
    /// there was no such channel.
    async fn delete(&self, channel: &ChannelName, keep: Keep) -> Result<bool, BrokerError>;

    /// Sends `number` through every connection to this node itself; it comes back as [`Event::Canary`].
    async fn canary(&self, number: u64) -> Result<(), BrokerError>;

    /// The clock by which messages are published and expire, in milliseconds since 1970.
    async fn now_ms(&self) -> Result<u64, BrokerError>;

    /// Says something to all nodes that share the prefix, this one among them; it comes as [`Event::Note`].
    async fn tell(&self, note: &[u8]) -> Result<(), BrokerError>;
}

/// What a broker says by itself. Per channel in the order of its publishing.
#[derive(Debug)]
pub enum Event {
    Arrival(Arrival),
    /// The channel has another epoch, or was found to stand elsewhere: it is to be read again.
    Moved(ChannelName),
    /// The channel was deleted.
    Ended(ChannelName),
    /// From 0 to below [`Broker::connections`].
    Canary {
        connection: usize,
        number: u64,
    },
    /// What some node told all.
    Note(Vec<u8>),
    /// A connection is lost. Nothing comes any more.
    Broken(BrokerError),
}

/// One message to be published.
#[derive(Debug)]
pub struct Publishing {
    pub publish: Publish,
    pub keep: Keep,
    /// Remembered with the result under an `Idempotency-Key`.
    pub receivers: u32,
}

/// One channel to be read.
#[derive(Clone, Debug)]
pub struct Reading {
    pub channel: ChannelName,
    /// What is behind it is wanted; `None` for all that there is.
    pub after: Option<Position>,
    pub keep: Keep,
}

/// A message, or a sign of life, as one among others that may have got its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    pub position: Position,
    pub published_us: u64,
}

/// How to reach a broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The setting `backplane`.
    pub url: String,
    /// The setting `backplane_prefix`: begins every key, channel or subject.
    pub prefix: String,
    /// Certificates in PEM to trust, instead of those that the public trusts.
    pub ca_file: Option<String>,
    /// For connecting, and for any single answer.
    pub timeout: Duration,
    pub node: NodeId,
}

/// Why a broker cannot be used. For the operator: says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerError(pub String);

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BrokerError {}
