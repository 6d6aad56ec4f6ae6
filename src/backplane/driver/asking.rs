//! What the driver asks of the broker, and what becomes of the answers.

use std::rc::Rc;

use tokio::time::Instant;

use super::{Connection, Driver, Link, Read, Sink};
use crate::backplane::broker::{Broker, BrokerError, Publishing};
use crate::backplane::calls::{Answer, Subject, Write, WriteCall};
use crate::backplane::order::{News, NotPublished};
use crate::backplane::roster::Asker;
use crate::hub::Published;

impl<B: Broker, S: Sink> Driver<B, S> {
    /// Fills every call that may be under way.
    pub(super) fn begin_calls(&mut self, now: Instant) {
        let Link::Up(Connection {
            broker,
            calls,
            read,
            reminders,
            ..
        }) = &mut self.link
        else {
            return;
        };
        let is_write =
            |subject: &Subject| matches!(subject, Subject::Publish { .. } | Subject::Delete(_));
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
                    let subject = Subject::Publish {
                        askers,
                        channels: publishings.iter().map(channel).collect(),
                        began: now,
                    };
                    calls.begin(subject, async move {
                        let results = broker.publish(publishings).await?;
                        check_count(n, results.len())?;
                        Ok(Answer::Published(results))
                    });
                }
                Some(WriteCall::Delete(asker, channel, keep)) => {
                    calls.begin(Subject::Delete(asker), async move {
                        broker.delete(&channel, keep).await.map(Answer::Deleted)
                    });
                }
                None => break,
            }
        }
        let is_batch = |subject: &Subject| {
            matches!(subject, Subject::Open(_) | Subject::Close | Subject::Remind)
        };
        for _ in calls.count(is_batch) + read.len()..self.settings.batches {
            if !reminders.is_empty() {
                let rest = reminders
                    .len()
                    .saturating_sub(self.settings.channels_per_batch);
                let readings = reminders.split_off(rest);
                let broker = Rc::clone(broker);
                calls.begin(Subject::Remind, async move {
                    broker.remind(&readings).await.map(|()| Answer::Done)
                });
                continue;
            }
            let batch = self.registry.next_batch(self.settings.channels_per_batch);
            if batch.unlisten.is_empty() && batch.read.is_empty() {
                break;
            }
            if !batch.unlisten.is_empty() {
                let broker = Rc::clone(broker);
                calls.begin(Subject::Close, async move {
                    broker
                        .unlisten(&batch.unlisten)
                        .await
                        .map(|()| Answer::Done)
                });
            }
            if batch.read.is_empty() {
                continue;
            }
            let broker = Rc::clone(broker);
            let channels = batch.read.iter().map(|reading| reading.channel.clone());
            calls.begin(Subject::Open(channels.collect()), async move {
                // What is published between the two comes as an event, too; the other way round it would be missed.
                if !batch.listen.is_empty() {
                    broker.listen(&batch.listen).await?;
                }
                let standings = broker.read(&batch.read).await?;
                check_count(batch.read.len(), standings.len())?;
                Ok(Answer::Standings(standings))
            });
        }
        let is_telling = calls.count(|subject| matches!(subject, Subject::Tell)) > 0;
        if !is_telling && !self.notes.is_empty() {
            let broker = Rc::clone(broker);
            let notes = std::mem::take(&mut self.notes);
            calls.begin(Subject::Tell, async move {
                broker.tell(&notes).await.map(|()| Answer::Done)
            });
        }
    }

    pub(super) fn on_answer(&mut self, subject: Subject, answer: Answer, now: Instant) {
        match (subject, answer) {
            (
                Subject::Publish {
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
            (Subject::Delete(Asker { shard, ticket }), Answer::Deleted(was_there)) => {
                let result = Ok(was_there);
                self.tell(shard, News::Deleted { ticket, result });
            }
            (Subject::Open(channels), Answer::Standings(standings)) => {
                self.stats.reads_total += channels.len() as u64;
                if let Link::Up(up) = &mut self.link {
                    up.read.push_back(Read {
                        due: up.events_taken + up.events.len() as u64,
                        channels,
                        standings,
                    });
                }
            }
            (Subject::Remind | Subject::Close | Subject::Canary | Subject::Tell, Answer::Done) => {}
            (subject, answer) => debug_assert!(false, "{subject:?} answered by {answer:?}"),
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
    pub(super) fn fail(&mut self, subject: Subject) {
        match subject {
            Subject::Publish { askers, .. } => {
                askers
                    .into_iter()
                    .for_each(|asker| self.answer_publish_away(asker));
            }
            Subject::Delete(asker) => self.answer_delete_away(asker),
            Subject::Open(_)
            | Subject::Close
            | Subject::Remind
            | Subject::Canary
            | Subject::Tell => {}
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

fn check_count(asked: usize, answered: usize) -> Result<(), BrokerError> {
    if asked == answered {
        return Ok(());
    }
    Err(BrokerError(format!(
        "the broker's client answered {answered} of {asked}: a defect of this program"
    )))
}
