//! NATS with JetStream as the broker.
//!
//! One stream keeps the messages of all channels, each channel on a subject of its own ([`subject`]). A message's
//! offset is its number in the stream. The server sends every message that it has stored once more, with that number
//! and the number of the one before on the subject; nodes listen to that ([`entry::Live`]). Histories are read by
//! direct gets ([`history`]), many in one request.
//!
//! The epoch is the stream's, and is told by the subject under which the server sends messages again. So whatever
//! comes live comes under the epoch in which it was numbered, and a connection has one epoch for as long as it lives:
//! when the stream gets another, since it was made anew or has lost messages, every node connects anew.
//!
//! That messages are lost shows by a position that some node names and of which the stream has no trace, or by what a
//! node has heard last, which is not there ([`recall`]).

pub mod address;
pub mod entry;
pub mod hearing;
pub mod history;
pub mod link;
pub mod queue;
pub mod reader;
pub mod recall;
pub mod stream;
pub mod subject;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use async_nats::{HeaderMap, Message};
use futures_util::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc};

use crate::backplane::broker::{Broker, BrokerError, Event, Publishing, Reading, Settings, Trace};
use crate::backplane::order::{Keep, NodeId, NotPublished, Standing};
use crate::backplane::refusals::Refusals;
use crate::hub::Published;
use crate::hub::message::ChannelName;
use crate::hub::position::{Epoch, Position};

use address::Address;
use entry::{Content, Live};
use hearing::{Hearing, Purpose};
use link::{Link, Refusal, SendError};
use stream::{Limits, Stream};
use subject::Subjects;

/// JetStream: there is no such stream.
const STREAM_NOT_FOUND: u64 = 10059;
/// JetStream: there is one, configured otherwise.
const STREAM_IN_USE: u64 = 10058;

/// Requests under way at a time, of those that each have an answer of their own.
const REQUESTS_MAX: usize = 64;

pub struct Nats {
    link: Link,
    subjects: Subjects,
    /// Name of the stream.
    stream: String,
    epoch: Epoch,
    node: NodeId,
    /// The stream's as far as is known, and the largest that anybody here has wanted.
    limits: Cell<Limits>,
    wanted: Cell<Limits>,
    listened: RefCell<HashMap<ChannelName, Hearing>>,
    /// The canary, notes, and the news of another epoch.
    always_heard: Vec<Hearing>,
    /// Held while what a call does is sent, so that nothing of another call comes between. First come, first served.
    turn: Mutex<()>,
    refusals: Refusals,
}

/// JetStream's answer to a message.
#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<Value>,
}

/// Whether the URL is one of NATS; what to write instead, if not.
pub fn check_url(url: &str) -> Result<(), String> {
    Address::parse(url).map(drop)
}

impl Broker for Nats {
    async fn connect(settings: &Settings) -> Result<(Self, mpsc::Receiver<Event>), BrokerError> {
        let (link, events) = Link::connect(settings).await?;
        let subjects = Subjects::new(&settings.prefix);
        let replicas = Address::parse(&settings.url).map_err(BrokerError)?.replicas;
        let stream = found_or_made(&link, &subjects, replicas).await?;
        let mut nats = Self {
            stream: subjects.stream(),
            epoch: stream.epoch,
            node: settings.node,
            limits: Cell::new(stream.limits),
            wanted: Cell::new(stream.limits),
            listened: RefCell::default(),
            always_heard: Vec::new(),
            turn: Mutex::new(()),
            refusals: Refusals::new(),
            link,
            subjects,
        };
        for (subject, purpose) in [
            (
                nats.subjects.live_canary(nats.epoch, nats.node),
                Purpose::Canary(nats.epoch),
            ),
            (nats.subjects.note(), Purpose::Note),
            (nats.subjects.moved(), Purpose::Moved),
        ] {
            let hearing = nats.hear(subject, purpose).await?;
            nats.always_heard.push(hearing);
        }
        Ok((nats, events))
    }

    fn trace(&self) -> Option<Trace> {
        *self.link.shared().newest()
    }

    async fn look_for(&self, trace: Trace) -> Result<bool, BrokerError> {
        self.recall(trace).await
    }

    fn connections(&self) -> usize {
        1
    }

    async fn publish(
        &self,
        publishes: Vec<Publishing>,
    ) -> Result<Vec<Result<Published, NotPublished>>, BrokerError> {
        let mut call = self.link.call();
        let mut results = vec![Err(NotPublished::Refused); publishes.len()];
        let mut awaited = 0;
        {
            let _turn = self.turn.lock().await;
            self.want(publishes.iter().map(|publishing| publishing.keep))
                .await?;
            for (index, publishing) in publishes.iter().enumerate() {
                let subject = self.subjects.message(&publishing.publish.channel);
                let headers = entry::message_headers(publishing);
                let reply = Some(call.reply(index));
                match self
                    .link
                    .try_send(subject, reply, headers, &publishing.publish.payload)
                    .await
                {
                    Ok(()) => awaited += 1,
                    Err(SendError::TooLarge) => {
                        self.refusals.log("it is larger than max_payload of NATS");
                    }
                    Err(SendError::Broken(error)) => return Err(error),
                }
            }
        }
        let mut repeats = Vec::new();
        for _ in 0..awaited {
            let (index, message) = call.answer().await?;
            match self.acknowledged(&message)? {
                Ok(ack) => {
                    let offset = ack.seq;
                    results[index] = Ok(Published {
                        position: Position {
                            epoch: self.epoch,
                            offset,
                        },
                        receivers: publishes[index].receivers,
                    });
                    if ack.duplicate {
                        repeats.push((index, offset));
                    }
                }
                Err(refusal) => self.refusals.log(refusal.description),
            }
        }
        let publishes = &publishes;
        let mut firsts = futures_util::stream::iter(repeats)
            .map(|(index, offset)| async move {
                let first = self
                    .first_receivers(&publishes[index].publish.channel, offset)
                    .await?;
                Ok::<_, BrokerError>((index, first))
            })
            .buffered(REQUESTS_MAX);
        while let Some((index, first)) = firsts.try_next().await? {
            if let (Ok(published), Some(first)) = (&mut results[index], first) {
                published.receivers = first;
            }
        }
        Ok(results)
    }

    async fn listen(&self, channels: &[ChannelName]) -> Result<(), BrokerError> {
        let turn = self.turn.lock().await;
        for channel in channels {
            let subject = self.subjects.live_message(self.epoch, channel);
            let live = Live::new(channel.clone(), self.epoch);
            let hearing = self
                .hear(subject, Purpose::Channel(channel.clone(), live))
                .await?;
            self.listened.borrow_mut().insert(channel.clone(), hearing);
        }
        drop(turn);
        // Between the servers of a cluster, what is stored from here on goes the way that this message has gone, behind
        // the subscriptions.
        self.pass_through_stream().await
    }

    async fn unlisten(&self, channels: &[ChannelName]) -> Result<(), BrokerError> {
        let _turn = self.turn.lock().await;
        let mut listened = self.listened.borrow_mut();
        for channel in channels {
            listened.remove(channel);
        }
        Ok(())
    }

    async fn read(&self, readings: &[Reading]) -> Result<Vec<Standing>, BrokerError> {
        let standings = self.read_all(readings).await?;
        let is_news = |(reading, standing): &(&Reading, &Standing)| {
            reading.after.is_some_and(|after| after != standing.head)
        };
        let news = readings.iter().zip(&standings).filter(is_news);
        let channels: Vec<_> = news.map(|(reading, _)| &reading.channel).collect();
        if !channels.is_empty() {
            // What the stream sends again comes behind one another, and the acknowledgement behind all of it.
            self.pass_through_stream().await?;
            self.drain(&channels).await;
        }
        Ok(standings)
    }

    async fn remind(&self, readings: &[Reading]) -> Result<(), BrokerError> {
        self.read_all(readings).await.map(drop)
    }

    async fn delete(&self, channel: &ChannelName, keep: Keep) -> Result<bool, BrokerError> {
        let subject = self.subjects.message(channel);
        let mut call = self.link.call();
        let newest = {
            let _turn = self.turn.lock().await;
            self.want([keep].into_iter()).await?;
            let newest = self.newest_at_leader(&subject).await?;
            let reply = Some(call.reply(0));
            self.link
                .send(subject, reply, entry::ended_headers(), b"")
                .await?;
            newest
        };
        let (_, message) = call.answer().await?;
        self.acknowledged(&message)?.map_err(Refusal::into_error)?;
        Ok(newest.is_some_and(|newest| newest.content != Content::Ended))
    }

    /// Goes through JetStream: a stream without a leader keeps nothing and sends nothing again, however well the
    /// servers pass on other messages.
    async fn canary(&self, number: u64) -> Result<(), BrokerError> {
        let subject = self.subjects.canary(self.node);
        let payload = number.to_string();
        self.link
            .send(subject, None, entry::canary_headers(), payload.as_bytes())
            .await?;
        Ok(())
    }

    /// The leader's, which says when each message was stored.
    async fn now_ms(&self) -> Result<u64, BrokerError> {
        self.stream().await.map(|stream| stream.now_ms)
    }

    async fn tell(&self, note: &[u8]) -> Result<(), BrokerError> {
        self.link
            .send(self.subjects.note(), None, HeaderMap::new(), note)
            .await?;
        Ok(())
    }
}

impl Nats {
    async fn hear(&self, subject: String, purpose: Purpose) -> Result<Hearing, BrokerError> {
        let messages = self.link.subscribe(subject).await?;
        Ok(Hearing::start(messages, purpose, self.link.shared()))
    }

    /// Has the stream store something. Whatever it sent again before has come when this returns.
    async fn pass_through_stream(&self) -> Result<(), BrokerError> {
        let subject = self.subjects.canary(self.node);
        let message = self
            .link
            .request(subject, entry::canary_headers(), b"")
            .await?;
        self.acknowledged(&message)?.map_err(Refusal::into_error)?;
        Ok(())
    }

    /// Waits until what has come on these channels is with the receiver of events.
    async fn drain(&self, channels: &[&ChannelName]) {
        let drained = |channel: &&ChannelName| self.listened.borrow().get(*channel)?.drained();
        let drained: Vec<_> = channels.iter().filter_map(drained).collect();
        for drained in drained {
            // An error says that nobody listens any more.
            let _ = drained.await;
        }
    }

    /// Makes sure that the stream keeps as much as is wanted.
    async fn want(&self, keeps: impl Iterator<Item = Keep>) -> Result<(), BrokerError> {
        let wanted = keeps.map(Limits::of).fold(self.wanted.get(), Limits::max);
        self.wanted.set(wanted);
        if self.limits.get().covers(wanted) {
            return Ok(());
        }
        let stream = self.stream().await?;
        self.raise(&stream).await
    }

    async fn raise(&self, stream: &Stream) -> Result<(), BrokerError> {
        self.limits.set(stream.limits);
        if !stream.limits.covers(self.wanted.get()) {
            let config = stream.raised(self.wanted.get());
            let answer = self
                .link
                .demand("STREAM.UPDATE", &self.stream, &config)
                .await?;
            let stream = Stream::parse(&answer, &self.subjects).map_err(BrokerError)?;
            self.limits.set(stream.limits);
        }
        Ok(())
    }

    /// The stream as its leader has it. An error if it is another one than at the beginning.
    async fn stream(&self) -> Result<Stream, BrokerError> {
        let answer = self
            .link
            .demand("STREAM.INFO", &self.stream, &Value::Null)
            .await?;
        let stream = Stream::parse(&answer, &self.subjects).map_err(BrokerError)?;
        if stream.epoch != self.epoch {
            return Err(moved());
        }
        Ok(stream)
    }

    /// The stream has lost messages: it gets another epoch, and every node hears of it.
    async fn renew_epoch(&self, stream: &Stream) -> Result<BrokerError, BrokerError> {
        let config = stream.renewed(&self.subjects, Epoch::from_random(fastrand::u64(..)));
        self.link
            .demand("STREAM.UPDATE", &self.stream, &config)
            .await?;
        self.link
            .send(self.subjects.moved(), None, HeaderMap::new(), b"")
            .await?;
        Ok(moved())
    }

    /// What a stored message, or one that was not, is answered. Without JetStream there is nobody to answer.
    fn acknowledged(&self, message: &Message) -> Result<Result<Ack, Refusal>, BrokerError> {
        if message.status.is_some() {
            return Err(BrokerError(format!(
                "nobody at NATS stores messages: the stream {} or JetStream is gone",
                self.stream
            )));
        }
        let ack: Ack = serde_json::from_slice(&message.payload)
            .map_err(|_| BrokerError("JetStream acknowledges with what is not JSON".into()))?;
        Ok(match &ack.error {
            Some(error) => Err(Refusal::parse(error)),
            None => Ok(ack),
        })
    }
}

/// The stream of this prefix. Two nodes may make it at once: one of them finds what the other has made.
async fn found_or_made(
    link: &Link,
    subjects: &Subjects,
    replicas: u64,
) -> Result<Stream, BrokerError> {
    let name = subjects.stream();
    let mut answer = link.ask("STREAM.INFO", &name, &Value::Null).await?;
    if matches!(&answer, Err(refusal) if refusal.code == STREAM_NOT_FOUND) {
        let epoch = Epoch::from_random(fastrand::u64(..));
        let config = stream::new_config(subjects, epoch, Limits::INITIAL, replicas);
        answer = link.ask("STREAM.CREATE", &name, &config).await?;
        if matches!(&answer, Err(refusal) if refusal.code == STREAM_IN_USE) {
            answer = link.ask("STREAM.INFO", &name, &Value::Null).await?;
        }
    }
    Stream::parse(&answer.map_err(Refusal::into_error)?, subjects).map_err(BrokerError)
}

fn moved() -> BrokerError {
    BrokerError(
        "the stream at NATS was made anew or has lost messages: everything is read again".into(),
    )
}
