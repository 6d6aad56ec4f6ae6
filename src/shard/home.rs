//! What a shard does for others: as the home of channels it answers their questions, and it delivers what other homes
//! have published.

use std::sync::Arc;

use crate::api::question::{Answer, Question};
use crate::hub::durable::Change;
use crate::hub::message::{ChannelName, Message};
use crate::hub::{HomeRefusal, Publish, Published, Scope, ShardId};
use crate::shard::connection::ConnectionKey;
use crate::shard::journal::Pending;
use crate::shard::mailbox::{Asker, Mail, Stage};
use crate::shard::{Life, Shard};

impl Shard {
    /// Reads all mail; `false` if there was none.
    pub(super) fn read_mail(&mut self) -> bool {
        let mut mails = std::mem::take(&mut self.scratch.mails);
        self.post.mailbox(self.id).take(&mut mails);
        let is_busy = !mails.is_empty();
        self.metrics.mails_total += mails.len() as u64;
        for mail in mails.drain(..) {
            self.on_mail(mail);
        }
        self.scratch.mails = mails;
        is_busy
    }

    fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Ask { asker, question } => {
                if let Some(answer) = self.answer(asker, question) {
                    self.reply(asker, answer);
                }
            }
            Mail::Answer {
                connection,
                slot,
                answer,
            } => self.on_answer(connection, slot, answer),
            Mail::Publication(message) => self.fanout.enqueue(message),
            Mail::Unlisten { from, channel } => match &mut self.relay {
                Some(relayed) => relayed.relay.unlisten(&channel, from, self.clock.hub_ms),
                None => self.hub.unlisten(&channel, from, self.clock.hub_ms),
            },
            Mail::Gap(channel, position) => self.fanout.enqueue_gap(&channel, position),
            Mail::EndListeners(channel) => self.fanout.enqueue_end(&channel),
            Mail::Keys { issued, read } => self.on_keys(issued, read),
            Mail::Reload {
                config,
                tls,
                token_keys,
                api_keys,
            } => {
                self.reload(config);
                let n_shards = self.post.n_shards();
                self.auth
                    .reload(&self.config, token_keys, api_keys, n_shards);
                self.reload_tls(&tls);
            }
            Mail::ReloadFailed => self.metrics.reload_failures_total += 1,
            Mail::Stage(Stage::NotReady) => {
                self.life = Life::NotReady;
                // Every home knows it before the first listener is ended.
                self.hub.begin_end();
            }
            Mail::Stage(Stage::Drain) => self.drain(),
            Mail::Stage(Stage::Cut) => self.cut(),
            Mail::Over => self.life = Life::Over,
            Mail::HistoryLog(report) => self.on_history_report(report),
            Mail::Backplane(news) => self.on_backplane_news(news),
        }
    }

    /// Asks the home of the question, or the shard of its connection; of a question to all shards, each slot is for the
    /// shard with its number. `None`: the answer comes by mail.
    pub(super) fn ask(
        &mut self,
        connection: ConnectionKey,
        slot: u16,
        question: Question,
    ) -> Option<Answer> {
        let asker = Asker {
            shard: self.id,
            connection,
            slot,
        };
        if let Question::Authorize(consultation) = question {
            return self.ask_backend(asker, *consultation);
        }
        let home = match question.channel() {
            Some(channel) => self.home(channel),
            None => question.shard().unwrap_or(ShardId(slot)),
        };
        if home == self.id {
            return self.answer(asker, question);
        }
        self.post.send(home, Mail::Ask { asker, question });
        None
    }

    /// Answers as the home; `None`: the answer comes by mail.
    fn answer(&mut self, asker: Asker, question: Question) -> Option<Answer> {
        if self.relay.is_some() && !matches!(question, Question::Inquiry(_) | Question::Metrics) {
            return self.ask_relay(asker, question);
        }
        let answer = match question {
            Question::Publish(publish) | Question::PublishCounted(publish) => {
                let result = self.publish(asker, publish).transpose()?;
                let result = result.map_err(|refusal| self.complain_of_refusal(refusal));
                Answer::Published(result.map(|published| (published, Scope::Alone)))
            }
            Question::Listen(listen) => {
                match self.hub.listen(&listen, asker.shard, self.clock.hub_ms) {
                    Ok((replay, listening)) => Answer::Replay {
                        channel: listen.channel,
                        replay,
                        listening,
                    },
                    Err(refusal) => Answer::Refused(self.complain_of_refusal(refusal)),
                }
            }
            Question::Info(channel) => Answer::Info(self.hub.info(&channel, self.clock.hub_ms)),
            Question::Delete(channel) => {
                let result = self.delete(asker, &channel).transpose()?;
                Answer::Deleted(result.map_err(|refusal| self.complain_of_refusal(refusal)))
            }
            Question::List(list) => Answer::List(self.hub.list(
                &list.prefix,
                list.after.as_deref(),
                list.limit,
                self.clock.hub_ms,
            )),
            Question::Inquiry(inquiry) => Answer::Finding(self.inquire(&inquiry)),
            Question::Metrics => Answer::Metrics(Box::new(self.measure())),
            Question::Authorize(_) => unreachable!("goes to no home"),
        };
        Some(answer)
    }

    /// `Ok(None)`: it is published when the log has it.
    fn publish(
        &mut self,
        asker: Asker,
        publish: Publish,
    ) -> Result<Option<Published>, HomeRefusal> {
        if self.is_congested() {
            return Err(HomeRefusal::BacklogFull);
        }
        if self.journal.is_some() {
            return self.draft(asker, publish);
        }
        let mut listening = std::mem::take(&mut self.scratch.listening);
        let result = self.hub.publish(publish, self.clock.hub_ms, &mut listening);
        if let Ok((_, Some(message))) = &result {
            self.tell_published(message, &mut listening);
        }
        self.scratch.listening = listening;
        result.map(|(published, _)| Some(published))
    }

    /// Brings a message that is published to the shards that listen.
    pub(super) fn tell_published(&mut self, message: &Arc<Message>, listening: &mut Vec<ShardId>) {
        self.metrics.published_messages_total += 1;
        self.metrics.published_bytes_total += message.payload.len() as u64;
        for shard in listening.drain(..) {
            self.tell(shard, Mail::Publication(message.clone()));
        }
    }

    /// `Ok(None)`: the answer comes when the log has it.
    fn delete(&mut self, asker: Asker, channel: &ChannelName) -> Result<Option<bool>, HomeRefusal> {
        if let Some(refusal) = self.journal_refusal() {
            return Err(refusal);
        }
        let epoch = self.hub.epoch(channel);
        let mut listening = std::mem::take(&mut self.scratch.listening);
        let was_there = self.hub.delete(channel, self.clock.hub_ms, &mut listening);
        for shard in listening.drain(..) {
            self.tell(shard, Mail::EndListeners(channel.clone()));
        }
        self.scratch.listening = listening;
        match (&mut self.journal, epoch) {
            (Some(journal), Some(epoch)) => {
                let change = Change::Forgotten(channel.clone(), epoch);
                journal.wait(Pending::Delete(asker, change), &mut self.hub);
                Ok(None)
            }
            _ => Ok(Some(was_there)),
        }
    }

    /// Brings an answer to whoever asked.
    pub(super) fn reply(&mut self, asker: Asker, answer: Answer) {
        self.tell(asker.shard, asker.mail(answer));
    }

    /// A shard that would have to deliver is behind. Checked over all of them, so that a channel's fate does not
    /// depend on which shard happens to be slow; a publish is refused rather than queued without a limit.
    pub(super) fn is_congested(&self) -> bool {
        let limits = &self.config.limits;
        let is_behind = |shard: usize| {
            let mailbox = self.post.mailbox(ShardId(shard as u16));
            mailbox.is_congested(limits.mailbox_max, limits.fanout_backlog_bytes_max)
        };
        (0..self.post.n_shards()).any(is_behind)
    }

    /// An answer for one of our connections has come by mail.
    fn on_answer(&mut self, connection: ConnectionKey, slot: u16, answer: Answer) {
        if self.take_answer(connection, slot, answer) {
            self.settle(connection.index);
        }
    }

    /// Hands an answer to its connection; `false` if that is gone. If the connection listens from now on, it does so
    /// from this moment: what the home publishes later comes behind its answer.
    pub(super) fn take_answer(
        &mut self,
        connection: ConnectionKey,
        slot: u16,
        answer: Answer,
    ) -> bool {
        let index = connection.index;
        let is_waiting = self.is_current(connection) && self.connections[index as usize].is_open();
        let subscription = match &answer {
            Answer::Replay {
                channel,
                listening: true,
                ..
            } if is_waiting => Some(self.fanout.listen(channel, index)),
            Answer::Replay {
                channel,
                listening: true,
                ..
            } => {
                let channel = channel.clone();
                self.unlisten(channel);
                None
            }
            _ => None,
        };
        if is_waiting {
            self.advance(index, |transport, context| {
                transport.on_answer(slot, answer, subscription, context)
            });
        }
        is_waiting
    }

    /// Tells the home that a listener is gone.
    pub(super) fn unlisten(&mut self, channel: ChannelName) {
        let home = self.home(&channel);
        let from = self.id;
        self.tell(home, Mail::Unlisten { from, channel });
    }

    /// Mail that need not leave the shard is read on the spot.
    pub(super) fn tell(&mut self, shard: ShardId, mail: Mail) {
        if shard == self.id {
            self.on_mail(mail);
        } else {
            self.post.send(shard, mail);
        }
    }
}
