//! What the driver asks of the broker, and what becomes of the answers.

use std::rc::Rc;

use tokio::time::Instant;

use super::link::{Connection, Link, Read};
use super::{Driver, Sink};
use crate::backplane::broker::{Broker, BrokerError, Publishing, Reading};
use crate::backplane::calls::{Answer, CallKind, Write, WriteCall};
use crate::backplane::order::{News, NotPublished};
use crate::backplane::roster::Asker;
use crate::hub::Published;
use crate::hub::message::ChannelName;

impl<B: Broker, S: Sink> Driver<B, S> {
    /// Fills every call that may be under way.
    pub(super) fn begin_calls(&mut self, now: Instant) {
        self.begin_writes(now);
        self.begin_rounds();
        self.begin_tell();
    }

    fn begin_writes(&mut self, now: Instant) {
        let Link::Up(Connection { broker, calls, .. }) = &mut self.link else {
            return;
        };
        let is_write =
            |kind: &CallKind| matches!(kind, CallKind::Publish { .. } | CallKind::Delete(_));
        for _ in calls.count(is_write)..self.settings.write_calls {
            let broker = Rc::clone(broker);
            match self.writes.next_call(
                self.settings.publishes_per_call,
                self.settings.payload_bytes_per_call,
            ) {
                Some(WriteCall::Publish(askers, publishings)) => {
                    let n = publishings.len();
                    self.stats.publishes_total += n as u64;
                    let channel = |it: &Publishing| (it.publish.channel.clone(), it.keep);
                    let kind = CallKind::Publish {
                        askers,
                        channels: publishings.iter().map(channel).collect(),
                        began: now,
                    };
                    calls.begin(kind, async move {
                        let results = broker.publish(publishings).await?;
                        check_count(n, results.len())?;
                        Ok(Answer::Published(results))
                    });
                }
                Some(WriteCall::Delete(asker, channel, keep)) => {
                    calls.begin(CallKind::Delete(asker), async move {
                        broker.delete(&channel, keep).await.map(Answer::Deleted)
                    });
                }
                None => break,
            }
        }
    }

    /// What the broker may have lost comes first.
    fn begin_rounds(&mut self) {
        let Link::Up(up) = &mut self.link else { return };
        let is_round = |kind: &CallKind| {
            matches!(kind, CallKind::Open(_) | CallKind::Close | CallKind::Remind)
        };
        let channels_max = self.settings.channels_per_round;
        for _ in up.calls.count(is_round) + up.read.len()..self.settings.rounds {
            if !up.reminders.is_empty() {
                up.begin_remind(channels_max);
                continue;
            }
            let round = self.registry.next_round(channels_max);
            if round.unlisten.is_empty() && round.read.is_empty() {
                break;
            }
            up.begin_close(round.unlisten);
            up.begin_open(round.listen, round.read);
        }
    }

    fn begin_tell(&mut self) {
        let Link::Up(Connection { broker, calls, .. }) = &mut self.link else {
            return;
        };
        let is_telling = calls.count(|kind| matches!(kind, CallKind::Tell)) > 0;
        if !is_telling && !self.notes.is_empty() {
            let broker = Rc::clone(broker);
            let notes = std::mem::take(&mut self.notes);
            calls.begin(CallKind::Tell, async move {
                broker.tell(&notes).await.map(|()| Answer::Done)
            });
        }
    }

    pub(super) fn on_answer(&mut self, kind: CallKind, answer: Answer, now: Instant) {
        match (kind, answer) {
            (
                CallKind::Publish {
                    askers,
                    channels,
                    began,
                },
                Answer::Published(results),
            ) => {
                let call_us = (now - began).as_micros() as u64;
                self.stats.publish_calls_total += 1;
                self.stats.publish_calls_us_total += call_us;
                self.stats.publish_call_us_max = self.stats.publish_call_us_max.max(call_us);
                let now_ms = self.now_ms(now);
                let asked = askers.into_iter().zip(channels);
                for ((Asker { shard, ticket }, (channel, keep)), result) in asked.zip(results) {
                    match result {
                        Ok(Published { position, .. }) => {
                            self.acknowledged.note(&channel, position, keep, now_ms);
                        }
                        Err(NotPublished::Away) => self.stats.publishes_away_total += 1,
                        Err(NotPublished::Refused) => self.stats.publishes_refused_total += 1,
                    }
                    self.tell(shard, News::Published { ticket, result });
                }
            }
            (CallKind::Delete(Asker { shard, ticket }), Answer::Deleted(was_there)) => {
                let result = Ok(was_there);
                self.tell(shard, News::Deleted { ticket, result });
            }
            (CallKind::Open(channels), Answer::Standings(standings)) => {
                self.stats.reads_total += channels.len() as u64;
                if let Link::Up(up) = &mut self.link {
                    up.read.push_back(Read {
                        due: up.events_taken + up.events.len() as u64,
                        channels,
                        standings,
                    });
                }
            }
            (CallKind::Clock, Answer::Clock(reading)) => self.on_clock(&reading),
            (
                CallKind::Remind
                | CallKind::Close
                | CallKind::Canary
                | CallKind::Clock
                | CallKind::Tell,
                Answer::Done,
            ) => {}
            (kind, answer) => debug_assert!(false, "{kind:?} answered by {answer:?}"),
        }
    }

    /// Tells the homes where channels stand, as far as they have all that was said before.
    pub(super) fn tell_standings(&mut self) {
        while let Link::Up(up) = &mut self.link
            && up
                .read
                .front()
                .is_some_and(|read| read.due <= up.events_taken)
            && let Some(read) = up.read.pop_front()
        {
            for (channel, standing) in read.channels.into_iter().zip(read.standings) {
                if let Some(home) = self.registry.on_read(&channel) {
                    self.tell(home, News::Standing { channel, standing });
                }
            }
        }
    }

    /// A call came to no answer. Channels are the registry's to remember.
    pub(super) fn fail(&mut self, kind: CallKind) {
        match kind {
            CallKind::Publish { askers, .. } => {
                askers
                    .into_iter()
                    .for_each(|asker| self.answer_publish_away(asker));
            }
            CallKind::Delete(asker) => self.answer_delete_away(asker),
            CallKind::Open(_)
            | CallKind::Close
            | CallKind::Remind
            | CallKind::Canary
            | CallKind::Clock
            | CallKind::Tell => {}
        }
    }

    pub(super) fn answer_away(&mut self, asker: Asker, write: &Write) {
        match write {
            Write::Publish(_) => self.answer_publish_away(asker),
            Write::Delete { .. } => self.answer_delete_away(asker),
        }
    }

    pub(super) fn answer_publish_away(&mut self, Asker { shard, ticket }: Asker) {
        self.stats.publishes_away_total += 1;
        let result = Err(NotPublished::Away);
        self.tell(shard, News::Published { ticket, result });
    }

    pub(super) fn answer_delete_away(&mut self, Asker { shard, ticket }: Asker) {
        let result = Err(NotPublished::Away);
        self.tell(shard, News::Deleted { ticket, result });
    }
}

impl<B: Broker> Connection<B> {
    fn begin_remind(&mut self, channels_max: usize) {
        let rest = self.reminders.len().saturating_sub(channels_max);
        let readings = self.reminders.split_off(rest);
        let broker = Rc::clone(&self.broker);
        self.calls.begin(CallKind::Remind, async move {
            broker.remind(&readings).await.map(|()| Answer::Done)
        });
    }

    fn begin_close(&mut self, channels: Vec<ChannelName>) {
        if channels.is_empty() {
            return;
        }
        let broker = Rc::clone(&self.broker);
        self.calls.begin(CallKind::Close, async move {
            broker.unlisten(&channels).await.map(|()| Answer::Done)
        });
    }

    /// Listens to the channels `listen`, and reads those of `readings`, which are these and more.
    fn begin_open(&mut self, listen: Vec<ChannelName>, readings: Vec<Reading>) {
        if readings.is_empty() {
            return;
        }
        let broker = Rc::clone(&self.broker);
        let channels = readings.iter().map(|reading| reading.channel.clone());
        let kind = CallKind::Open(channels.collect());
        self.calls.begin(kind, async move {
            // What is published between the two comes as an event, too; the other way round it would be missed.
            if !listen.is_empty() {
                broker.listen(&listen).await?;
            }
            let standings = broker.read(&readings).await?;
            check_count(readings.len(), standings.len())?;
            Ok(Answer::Standings(standings))
        });
    }
}

fn check_count(asked: usize, answered: usize) -> Result<(), BrokerError> {
    if asked == answered {
        return Ok(());
    }
    Err(BrokerError(format!(
        "the broker's client answered {answered} of {asked}: a defect of this program"
    )))
}
