//! The glue around the pure core: what becomes of a step's effects, of questions and of answers.

use pushring::api::Side;
use pushring::api::question::{Answer, Question};
use pushring::close_reason::CloseReason;
use pushring::hub::batch::{Batch, Format, WireForm};
use pushring::hub::fanout::{Delivery, Subscription};
use pushring::hub::message::ChannelName;
use pushring::hub::{Scope, ShardId};
use pushring::transport::outbox::{Outbox, Waiting};
use pushring::transport::{Context, Next, Transport, slow_reader};

use crate::wire;

use super::{Asker, Event, Mail, Shard, Socket, World};

const DATE: &[u8] = b"Thu, 01 Jan 1970 00:00:00 GMT";

impl World {
    /// Offers the input until nothing more is taken.
    pub(super) fn feed(&mut self, shard: usize, connection: usize) {
        loop {
            let Some(it) = self.shards[shard].connections.get_mut(connection) else {
                return;
            };
            if it.is_ending {
                it.input.clear();
                return;
            }
            if it.input.is_empty() || !it.transport.wants_input(&self.config) {
                return;
            }
            let mut input = std::mem::take(&mut it.input);
            let kind = it.transport.kind();
            let (consumed, next) = self.with_context(shard, connection, |transport, context| {
                transport.on_bytes(&mut input, context)
            });
            input.drain(..consumed);
            self.shards[shard].connections[connection].input = input;
            self.settle(shard, connection, next);
            let is_same = self.shards[shard]
                .connections
                .get(connection)
                .is_some_and(|it| it.transport.kind() == kind);
            if consumed == 0 && is_same {
                return;
            }
        }
    }

    /// Anything but input happens to a connection.
    pub(super) fn step(&mut self, shard: usize, connection: usize, event: Event<'_>) {
        let Some(it) = self.shards[shard].connections.get_mut(connection) else {
            panic!("a delivery for a connection that is gone");
        };
        if it.is_ending {
            return;
        }
        let it_shard = &mut self.shards[shard];
        let it = &mut it_shard.connections[connection];
        if let Event::Delivery(_, delivery) = &event
            && let Some(outbox) = &mut it.outbox
            && !slow_reader::has_room(
                &it.transport,
                delivery,
                outbox,
                &self.config,
                &mut it_shard.metrics,
            )
        {
            outbox.keep_begun();
            self.with_context(shard, connection, Transport::on_slow_reader);
            return self.settle(shard, connection, Next::End(CloseReason::SlowReader));
        }
        let batch = match &event {
            Event::Delivery(_, Delivery::Messages(batch)) => Some(batch.clone()),
            _ => None,
        };
        let next = self.with_context(shard, connection, |transport, context| match event {
            Event::Answer(slot, answer, subscription) => {
                transport.on_answer(slot, answer, subscription, context)
            }
            Event::Delivery(channel, delivery) => transport.on_delivery(channel, delivery, context),
            Event::Deadline => transport.on_deadline(context),
            Event::Drain => transport.on_drain(context),
        });
        if let Some(batch) = batch {
            self.check_sharing(shard, connection, &batch);
        }
        self.settle(shard, connection, next);
        self.feed(shard, connection);
    }

    fn with_context<R>(
        &mut self,
        shard: usize,
        connection: usize,
        step: impl FnOnce(&mut Transport, &mut Context<'_>) -> R,
    ) -> R {
        let n_shards = self.shards.len();
        let Shard {
            fanout,
            auth,
            connections,
            metrics,
            effects,
            rng,
            ..
        } = &mut self.shards[shard];
        let it = &mut connections[connection];
        let mut context = Context {
            config: &self.config,
            side: Side::Both,
            connection: connection as u32,
            now_ms: self.now_ms,
            unix_ms: self.now_ms,
            date: DATE,
            is_ready: !self.is_draining,
            is_draining: self.is_draining,
            has_backlog: it.outbox.is_some(),
            shard: ShardId(shard as u16),
            n_shards,
            fanout,
            auth,
            rng,
            metrics,
            effects,
        };
        step(&mut it.transport, &mut context)
    }

    /// Carries out what a step wants.
    fn settle(&mut self, shard: usize, connection: usize, next: Next) {
        let now_ms = self.now_ms;
        let it_shard = &mut self.shards[shard];
        let it = &mut it_shard.connections[connection];
        let effects = &mut it_shard.effects;
        let socket = it.socket;
        match next {
            Next::Stay => {}
            Next::Become(transport) => it.transport = transport,
            Next::End(reason) => {
                it.transport.release(effects);
                it.is_ending = true;
                *self.closed.entry(reason.label()).or_default() += 1;
            }
        }
        for waiting in &effects.replay {
            if let Waiting::Message { message, .. } = waiting {
                it.replay_bytes += message.bytes();
            }
        }
        let mut taken = None;
        if it.outbox.is_none() {
            let sent = write(&mut self.sockets[socket], effects.out.slices());
            if sent < effects.out.bytes() {
                taken = Some(sent);
            } else {
                effects.out.clear();
            }
        }
        if taken.is_some() || effects.has_output() {
            let outbox = it.outbox.get_or_insert_with(|| Outbox::new(now_ms));
            let bytes_max = self.config.limits.outbox_bytes_max;
            outbox.take_effects(effects, taken, bytes_max, &mut it_shard.metrics);
        }
        if let Some(outbox) = &it.outbox {
            // The limit, one batch and what its encoding adds, the replay and what its encoding adds.
            let bound = self.config.limits.outbox_bytes_max + 4 * 64 * 1024 + 2 * it.replay_bytes;
            assert!(
                outbox.bytes() <= bound,
                "an outbox of {} bytes, bound {bound}",
                outbox.bytes()
            );
        }
        let released = std::mem::take(&mut effects.released);
        let questions = std::mem::take(&mut effects.questions);
        for subscription in released {
            self.unlisten(shard, subscription);
        }
        self.refill(socket);
        for (slot, question) in questions {
            self.ask(
                Asker {
                    shard,
                    connection,
                    socket,
                    slot,
                },
                question,
            );
        }
    }

    /// Writes from the outbox what the socket takes; a connection that has said its goodbye ends then.
    pub(super) fn refill(&mut self, socket: usize) {
        let shard = self.sockets[socket].shard;
        let Some(connection) = self.sockets[socket].connection else {
            return;
        };
        let Shard {
            connections,
            effects,
            ..
        } = &mut self.shards[shard];
        let it = &mut connections[connection];
        let out = &mut effects.out;
        while let Some(outbox) = &mut it.outbox {
            outbox.fill(out, &mut it.transport);
            if out.is_empty() {
                it.outbox = None;
                break;
            }
            let wanted = out.bytes();
            let sent = write(&mut self.sockets[socket], out.slices());
            outbox.on_write(out, sent, sent, self.now_ms);
            if sent < wanted {
                break;
            }
        }
        if it.is_ending && it.outbox.is_none() {
            self.remove(shard, connection);
        }
    }

    pub(super) fn end(&mut self, shard: usize, connection: usize, reason: CloseReason) {
        if !self.shards[shard].connections[connection].is_ending {
            self.settle(shard, connection, Next::End(reason));
        }
        if self.shards[shard].connections.contains(connection) {
            self.remove(shard, connection);
        }
    }

    fn remove(&mut self, shard: usize, connection: usize) {
        let it = self.shards[shard].connections.remove(connection);
        self.sockets[it.socket].connection = None;
        self.sockets[it.socket].server_closed = true;
    }

    pub(super) fn home(&self, name: &ChannelName) -> usize {
        let hash = name.as_str().bytes().fold(7usize, |hash, byte| {
            hash.wrapping_mul(31) + usize::from(byte)
        });
        hash % self.shards.len()
    }

    fn ask(&mut self, asker: Asker, question: Question) {
        let home = match question.channel() {
            Some(channel) => self.home(channel),
            None => usize::from(asker.slot),
        };
        if home == asker.shard {
            let answer = self.answer_of(home, home, question);
            self.on_answer(asker, answer);
        } else {
            self.post(asker.shard, home, Mail::Question(asker, question));
        }
    }

    pub(super) fn on_answer(&mut self, asker: Asker, answer: Answer) {
        let connections = &self.shards[asker.shard].connections;
        let is_there = (connections.get(asker.connection))
            .is_some_and(|it| it.socket == asker.socket && !it.is_ending);
        let name = match &answer {
            Answer::Replay {
                channel,
                listening: true,
                ..
            } => Some(channel.clone()),
            _ => None,
        };
        match name {
            Some(name) if !is_there => self.tell_unlistened(asker.shard, name),
            _ if !is_there => {}
            name => {
                let subscription = name.map(|name| {
                    *self
                        .subscriptions
                        .entry(name.as_str().to_owned())
                        .or_default() += 1;
                    self.shards[asker.shard]
                        .fanout
                        .listen(&name, asker.connection as u32)
                });
                self.step(
                    asker.shard,
                    asker.connection,
                    Event::Answer(asker.slot, answer, subscription),
                );
            }
        }
    }

    pub(super) fn answer_of(&mut self, home: usize, asking: usize, question: Question) -> Answer {
        let now_ms = self.now_ms;
        let mut listening = Vec::new();
        let hub = &mut self.shards[home].hub;
        match question {
            Question::Publish(publish) | Question::PublishCounted(publish) => {
                let store = publish.store;
                match hub.publish(publish, now_ms, &mut listening) {
                    Err(refusal) => Answer::Published(Err(refusal)),
                    Ok((published, message)) => {
                        if let Some(message) = message {
                            self.ledger.record(&message, store);
                            for to in listening {
                                match usize::from(to.0) {
                                    to if to == home => {
                                        self.shards[home].fanout.enqueue(message.clone())
                                    }
                                    to => self.post(home, to, Mail::Message(message.clone())),
                                }
                            }
                        }
                        Answer::Published(Ok((published, Scope::Alone)))
                    }
                }
            }
            Question::Listen(listen) => match hub.listen(&listen, ShardId(asking as u16), now_ms) {
                Ok((replay, listening)) => Answer::Replay {
                    channel: listen.channel,
                    replay,
                    listening,
                },
                Err(refusal) => Answer::Refused(refusal),
            },
            Question::Info(name) => Answer::Info(hub.info(&name, now_ms)),
            Question::Delete(name) => {
                let is_deleted = hub.delete(&name, now_ms, &mut listening);
                for to in listening {
                    match usize::from(to.0) {
                        to if to == home => self.shards[home].fanout.enqueue_end(&name),
                        to => self.post(home, to, Mail::End(name.clone())),
                    }
                }
                Answer::Deleted(Ok(is_deleted))
            }
            Question::List(list) => {
                Answer::List(hub.list(&list.prefix, list.after.as_deref(), list.limit, now_ms))
            }
            Question::Inquiry(_) => unreachable!("no operator here"),
            Question::Metrics => Answer::Metrics(Box::new(self.shards[home].metrics.clone())),
            Question::Authorize(_) => unreachable!("no namespace has an authorize_url"),
        }
    }

    fn unlisten(&mut self, shard: usize, subscription: Subscription) {
        let name = self.shards[shard].fanout.unlisten(subscription);
        *self
            .subscriptions
            .get_mut(name.as_str())
            .expect("it was listened to") -= 1;
        self.tell_unlistened(shard, name);
    }

    fn tell_unlistened(&mut self, shard: usize, name: ChannelName) {
        let home = self.home(&name);
        if home == shard {
            self.shards[home]
                .hub
                .unlisten(&name, ShardId(shard as u16), self.now_ms);
        } else {
            self.post(shard, home, Mail::Unlisten(name));
        }
    }

    pub(super) fn post(&mut self, from: usize, to: usize, mail: Mail) {
        self.mail.entry((from, to)).or_default().push_back(mail);
    }

    /// A stream on one channel sends the batch's own shared bytes, never a copy.
    fn check_sharing(&self, shard: usize, connection: usize, batch: &Batch) {
        let formats = [Format::Raw, Format::Json];
        let forms: Vec<_> = match self.shards[shard].connections[connection].transport {
            Transport::WebSocket(_) => formats.map(WireForm::WebSocket).to_vec(),
            _ => return,
        };
        let mut slices = self.shards[shard].effects.out.slices();
        if let Some(slice) = slices.next() {
            assert!(
                forms
                    .iter()
                    .any(|&form| batch.bytes(form).as_ptr() == slice.as_ptr()),
                "a copy of a batch"
            );
            // Behind an echo a closing client is answered.
            let is_close_frame = |slice: &[u8]| slice[0] == 0x80 | wire::CLOSE;
            let is_alone = slices.next().is_none_or(is_close_frame);
            assert!(is_alone, "something beside the batch");
        }
    }
}

/// Writes what the socket has room for.
fn write<'a>(socket: &mut Socket, slices: impl Iterator<Item = &'a [u8]>) -> usize {
    let mut sent = 0;
    for slice in slices {
        let room = socket.capacity.saturating_sub(socket.to_client.len());
        let taken = room.min(slice.len());
        socket.to_client.extend_from_slice(&slice[..taken]);
        sent += taken;
        if taken < slice.len() {
            break;
        }
    }
    sent
}
