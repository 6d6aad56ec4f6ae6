//! One connection's steps: what happened goes into its transport, and what comes out is carried out.
//!
//! Every step ends the same way, in [`Shard::settle`]: questions are asked, subscriptions given up, bytes sent, and
//! the connection is put to rest with its polls and its deadline armed, or comes nearer to its end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;

use crate::close_reason::CloseReason;
use crate::hub::fanout::{ChannelIndex, Delivery};
use crate::shard::completion::Completion;
use crate::shard::connection::{ConnectionKey, Marks, Phase};
use crate::shard::tls;
use crate::shard::{Life, Shard};
use crate::threads::abort_because;
use crate::transport::outbox::Outbox;
use crate::transport::{Context, Next, Transport};

/// Bytes written to one connection in one turn, before the others get theirs.
const WRITE_BYTES_PER_TURN: usize = 1024 * 1024;

impl Shard {
    /// Lets the connection's transport do something, and carries out what it wants.
    pub(super) fn step(
        &mut self,
        index: u32,
        step: impl FnOnce(&mut Transport, &mut Context<'_>) -> Next,
    ) {
        self.advance(index, step);
        self.settle(index);
    }

    /// A step without its settlement. A panic in it is a bug that costs this connection and no other.
    pub(super) fn advance(
        &mut self,
        index: u32,
        step: impl FnOnce(&mut Transport, &mut Context<'_>) -> Next,
    ) {
        let is_ready = self.life == Life::Serving && !self.is_deaf();
        let connection = &mut self.connections[index as usize];
        let mut context = Context {
            config: &self.config,
            side: connection.side,
            connection: index,
            now_ms: self.clock.now_ms,
            unix_ms: self.clock.unix_ms,
            date: &self.clock.date,
            is_ready,
            is_draining: self.life.is_draining(),
            has_backlog: connection.outbox.is_some(),
            shard: self.id,
            n_shards: self.post.n_shards(),
            fanout: &self.fanout,
            auth: &mut self.auth,
            rng: &mut self.rng,
            metrics: &mut self.metrics,
            effects: &mut self.scratch.effects,
        };
        let transport = &mut connection.transport;
        // What the step may leave half done is the connection's own, and it ends.
        let next = catch_unwind(AssertUnwindSafe(|| step(transport, &mut context)));
        match next {
            Ok(next) => {
                if std::mem::take(&mut self.scratch.effects.awaits_keys) {
                    self.await_keys(index);
                }
                self.apply(index, next);
                self.ask_all(index);
            }
            Err(_) => self.on_panic(index),
        }
    }

    /// Whatever the step was in the middle of, nothing of it remains: not even a subscription that it had moved.
    fn on_panic(&mut self, index: u32) {
        self.metrics.panics_total += 1;
        self.scratch.effects.clear_output();
        self.scratch.effects.questions.clear();
        self.apply(index, Next::End(CloseReason::Panicked));
        self.scratch.effects.released = self.fanout.subscriptions_of(index);
    }

    fn apply(&mut self, index: u32, next: Next) {
        let connection = &mut self.connections[index as usize];
        match next {
            Next::Stay => {}
            Next::Become(transport) => {
                self.metrics
                    .on_transport(Some(connection.transport.kind()), Some(transport.kind()));
                connection.transport = transport;
                // Perhaps it has begun after its like were told.
                connection.set(Marks::DRAINED, false);
                self.arm_drain(index);
            }
            Next::End(reason) => self.begin_end(index, reason),
        }
    }

    /// Asks what the step wants to know. What a home of our own knows is answered on the spot.
    fn ask_all(&mut self, index: u32) {
        if self.scratch.effects.questions.is_empty() {
            return;
        }
        let key = self.connection_key(index);
        let mut questions = std::mem::take(&mut self.scratch.effects.questions);
        for (slot, question) in questions.drain(..) {
            if let Some(answer) = self.ask(key, slot, question) {
                self.take_answer(key, slot, answer);
            }
        }
        if self.scratch.effects.questions.is_empty() {
            self.scratch.effects.questions = questions;
        }
    }

    /// Carries out what is left of a step, and arms what the connection waits for.
    pub(super) fn settle(&mut self, index: u32) {
        self.release_all();
        self.send(index);
        self.resume(index);
        self.await_next(index);
    }

    pub(super) fn release_all(&mut self) {
        while let Some(subscription) = self.scratch.effects.released.pop() {
            let channel = self.fanout.unlisten(subscription);
            self.unlisten(channel);
        }
    }

    /// Sends the step's output: into the socket if nothing waits before it, into the outbox otherwise.
    pub(super) fn send(&mut self, index: u32) {
        let effects = &mut self.scratch.effects;
        let connection = &mut self.connections[index as usize];
        let is_direct = connection.outbox.is_none();
        let mut taken = None;
        if is_direct && !effects.out.is_empty() {
            let session = self.tls_sessions.get_mut(index);
            match tls::transmit(connection, session, &effects.out, &mut self.scratch.record) {
                Ok(sent) => {
                    self.metrics.socket_bytes_out_total += sent.wire_bytes as u64;
                    if sent.is_full {
                        taken = Some(sent.taken);
                    } else {
                        effects.out.clear();
                    }
                }
                Err(_) => return self.end_now(index, CloseReason::PeerReset),
            }
        }
        if taken.is_none() && !effects.has_output() {
            return;
        }
        let has_dropped = self.with_outbox(index, |shard, outbox| {
            let effects = &mut shard.scratch.effects;
            let outbox = outbox.get_or_insert_with(|| Box::new(Outbox::new(shard.clock.now_ms)));
            let bytes_max = shard.config.limits.outbox_bytes_max;
            outbox.take_effects(effects, taken, bytes_max, &mut shard.metrics)
        });
        if has_dropped {
            self.note_slow_reader(index);
        }
        if is_direct && taken.is_none() {
            self.drain_outbox(index);
        }
    }

    /// Writes what waits, until the socket is full or the turn's share is used up.
    fn drain_outbox(&mut self, index: u32) {
        let written = self.with_outbox(index, |shard, outbox| shard.write_from(index, outbox));
        if written.is_err() {
            self.end_now(index, CloseReason::PeerReset);
        }
    }

    fn write_from(&mut self, index: u32, queue: &mut Option<Box<Outbox>>) -> Result<(), Errno> {
        let mut written = 0;
        let out = &mut self.scratch.effects.out;
        debug_assert!(out.is_empty());
        let connection = &mut self.connections[index as usize];
        while let Some(outbox) = queue {
            let mut session = self.tls_sessions.get_mut(index);
            // Until that is out, nothing else can go.
            let has_unsent = session.as_ref().is_some_and(|it| it.has_unsent());
            if !has_unsent {
                outbox.fill(out, &mut connection.transport);
            }
            if out.is_empty() && !has_unsent {
                *queue = None;
                break;
            }
            let buffer = &mut self.scratch.record;
            let sent = tls::transmit(connection, session.take(), out, buffer)
                .inspect_err(|_| out.clear())?;
            self.metrics.socket_bytes_out_total += sent.wire_bytes as u64;
            written += sent.wire_bytes;
            outbox.on_write(out, sent.taken, sent.wire_bytes, self.clock.now_ms);
            if sent.is_full || written >= WRITE_BYTES_PER_TURN {
                break;
            }
        }
        Ok(())
    }

    /// Lets a connection that ends linger when its answer is sent, then arms what it waits for.
    pub(super) fn await_next(&mut self, index: u32) {
        let connection = &self.connections[index as usize];
        if let Phase::Flushing(reason) = connection.phase
            && connection.outbox.is_none()
            && self.close_tls(index)
        {
            let connection = &mut self.connections[index as usize];
            if connection.has(Marks::END_OF_INPUT) {
                return self.end_now(index, reason);
            }
            connection.finish_sending();
            let until_ms = self.clock.now_ms + self.config.timing.linger_timeout_ms;
            connection.phase = Phase::Lingering { reason, until_ms };
        }
        self.arm(index);
    }

    fn arm(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let key = ConnectionKey {
            index,
            generation: connection.generation,
        };
        let mut armed = Ok(());
        if connection.wants_read(&self.config) {
            armed = self
                .ring
                .poll_readable(&*connection, Completion::Readable(key).pack());
            connection.read_armed = true;
        }
        if connection.outbox.is_some() && !connection.write_armed && armed.is_ok() {
            armed = self
                .ring
                .poll_writable(&*connection, Completion::Writable(key).pack());
            connection.write_armed = true;
        }
        if let Some(deadline_ms) = connection.deadline_ms(&self.config) {
            self.timers.arm(index, deadline_ms);
        }
        if let Err(error) = armed {
            self.abort_without_ring(&error);
        }
    }

    /// Without its ring a shard is deaf, to newcomers or to whom it has: better to be restarted than to look alive.
    pub(super) fn abort_without_ring(&self, error: &io::Error) -> ! {
        abort_because(&format!(
            "the ring of shard {} takes no more polls ({error})",
            self.id.0
        ));
    }

    /// The socket takes bytes again.
    pub(super) fn on_writable(&mut self, index: u32) {
        match self.connections[index as usize].phase {
            Phase::Preface { .. } | Phase::Handshake { .. } | Phase::Open | Phase::Flushing(_) => {
                self.drain_outbox(index);
                self.resume(index);
                if self.connections[index as usize].phase == Phase::Closing {
                    self.free_if_joined(index);
                } else {
                    self.await_next(index);
                }
            }
            Phase::Lingering { .. } => {}
            Phase::Closing => self.free_if_joined(index),
        }
    }

    /// Delivers the turn's share of what is on its way; `false` if nothing was.
    pub(super) fn deliver(&mut self) -> bool {
        if self.fanout.is_idle() {
            return false;
        }
        let mut left = self.sends_per_turn;
        let mut slice = std::mem::take(&mut self.scratch.slice);
        while left > 0 {
            let Some(deliver) = self.fanout.next_slice(&mut slice, left) else {
                break;
            };
            left -= slice.len().clamp(1, left);
            for &index in &slice {
                self.deliver_to(index, deliver.channel, &deliver.delivery);
            }
        }
        self.scratch.slice = slice;
        true
    }

    fn deliver_to(&mut self, index: u32, channel: ChannelIndex, delivery: &Delivery) {
        let connection = &mut self.connections[index as usize];
        if !connection.is_open() || connection.transport.has_said_goodbye() {
            return;
        }
        if connection.outbox.is_some()
            && let Some(reason) = self.is_too_slow(index, delivery)
        {
            return self.end_slow_reader(index, delivery, reason);
        }
        self.step(index, |transport, context| {
            transport.on_delivery(channel, delivery, context)
        });
    }
}
