//! The connection to the broker: made, lost, and made again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::clock::ClockReading;
use super::trouble::Trouble;
use super::{Driver, Sink};
use crate::backplane::broker::{Broker, BrokerError, Event, Reading};
use crate::backplane::calls::Calls;
use crate::backplane::canary::Canary;
use crate::backplane::order::{Health, News, Standing};
use crate::hub::message::ChannelName;

/// Channels that one [`News::Interrupted`] names, so that no shard's turn is long.
pub(super) const CHANNELS_PER_INTERRUPTION: usize = 1024;

pub(super) struct Connected<B> {
    broker: B,
    events: mpsc::Receiver<Event>,
    /// Taken before anything is read: what is too old cannot be told without.
    clock: ClockReading,
}

pub(super) enum Link<B> {
    Waiting(Instant),
    Connecting(Pin<Box<dyn Future<Output = Result<Connected<B>, BrokerError>>>>),
    Up(Connection<B>),
}

pub(super) struct Connection<B> {
    pub(super) broker: Rc<B>,
    pub(super) since: Instant,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) canary: Canary,
    /// When its clock was asked for last.
    pub(super) clock_at: Instant,
    pub(super) calls: Calls,
    pub(super) events_taken: u64,
    /// Answers that wait for events in front of them, oldest first.
    pub(super) read: VecDeque<Read>,
    /// Positions to be named to this broker, which may have lost them.
    pub(super) reminders: Vec<Reading>,
}

/// The answer to openings. What it includes and does not bring is taken for lost where it has not come as an event, so
/// it waits until the events in front of it are taken: these are many after a burst, and none are taken while a shard
/// is behind.
pub(super) struct Read {
    /// How many events are taken by then.
    pub(super) due: u64,
    pub(super) channels: Vec<ChannelName>,
    pub(super) standings: Vec<Standing>,
}

impl<B: Broker, S: Sink> Driver<B, S> {
    pub(super) fn connect(&mut self) {
        let settings = Rc::clone(&self.settings);
        let trace = self.trace;
        self.link = Link::Connecting(Box::pin(async move {
            let connecting = async {
                let (mut broker, mut events) = B::connect(&settings.broker).await?;
                if let Some(trace) = trace
                    && !broker.look_for(trace).await?
                {
                    drop((broker, events));
                    (broker, events) = B::connect(&settings.broker).await?;
                }
                let clock = ClockReading::take(&broker).await?;
                Ok(Connected {
                    broker,
                    events,
                    clock,
                })
            };
            let too_long = || {
                BrokerError(format!(
                    "connecting takes longer than {:?}: see to the servers of backplane, or raise backplane_timeout",
                    settings.connect_timeout
                ))
            };
            let connected = timeout(settings.connect_timeout, connecting).await;
            connected.unwrap_or_else(|_| Err(too_long()))
        }));
    }

    pub(super) fn on_connected(&mut self, connected: Connected<B>, now: Instant) {
        let Connected {
            broker,
            events,
            clock,
        } = connected;
        self.stats.connects_total += 1;
        self.on_clock(&clock);
        self.roster.on_connected(self.now_ms(now));
        let reminders = self.acknowledged.readings(self.now_ms(now));
        self.link = Link::Up(Connection {
            canary: Canary::new(broker.connections(), self.last_canary),
            clock_at: now,
            broker: Rc::new(broker),
            since: now,
            events,
            calls: Calls::new(),
            events_taken: 0,
            read: VecDeque::new(),
            reminders,
        });
        // The first canary goes at once.
        self.beat_at = now;
    }

    pub(super) fn on_lost(&mut self, error: &BrokerError, now: Instant) {
        let connection = match std::mem::replace(&mut self.link, Link::Waiting(now)) {
            Link::Up(connection) => connection,
            link => {
                self.link = link;
                return;
            }
        };
        if now - connection.since >= self.settings.reconnect_cap {
            self.backoff.on_lasted();
        }
        self.stats.disconnects_total += 1;
        self.last_canary = connection.canary.last_number();
        self.trace = connection.broker.trace().or(self.trace);
        if self.is_hearing {
            self.is_hearing = false;
            self.tell_health(Health::Deaf);
        }
        for kind in connection.calls.into_kinds() {
            self.fail(kind);
        }
        let waiting: Vec<_> = self.writes.drain().collect();
        for (asker, write) in waiting {
            self.answer_away(asker, &write);
        }
        let mut lost: Vec<Vec<ChannelName>> = vec![Vec::new(); self.news.len()];
        self.registry
            .interrupt(|home, channel| lost[usize::from(home.0)].push(channel));
        for (news, channels) in self.news.iter_mut().zip(lost) {
            let pieces = channels.chunks(CHANNELS_PER_INTERRUPTION);
            news.extend(pieces.map(|piece| News::Interrupted(piece.to_vec())));
        }
        self.notes.clear();
        let mut counted = Vec::new();
        self.roster.on_broken(&mut counted);
        self.tell_counted(&counted);
        self.connect_later(error, now);
    }

    pub(super) fn connect_later(&mut self, error: &BrokerError, now: Instant) {
        if self.trouble.is_news(error, self.now_ms(now)) {
            tracing::warn!("the broker is away: {error}");
        }
        self.link = Link::Waiting(now + self.backoff.next(fastrand::f64()));
    }

    pub(super) fn on_heard(&mut self) {
        if !self.is_hearing {
            self.is_hearing = true;
            self.trouble = Trouble::default();
            self.backoff.on_heard();
            self.tell_health(Health::Hearing);
            tracing::info!("the broker is heard");
        }
    }
}
