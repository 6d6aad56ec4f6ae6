//! How connections end: in three steps, with exactly one reason.
//!
//! *Closing*: no new work, and what is written still goes out ([`Phase::Flushing`], [`Phase::Lingering`]). *Joined*:
//! shut down, and the polls are home. *Freed*: the slot may be somebody else's.

use std::hash::BuildHasher;
use std::sync::atomic::Ordering;

use crate::close_reason::CloseReason;
use crate::metrics::TransportKind;
use crate::shard::clients::counted_address;
use crate::shard::connection::{Connection, Marks, Phase};
use crate::shard::{Life, Shard};
use crate::transport::Transport;

/// Between two log lines about noteworthy ends; the counters have them all.
const END_LINE_INTERVAL_MS: u64 = 1000;

/// How long a drain waits for the first request of a connection: whoever was let in is answered, not turned away.
const NEWCOMERS_MS: u64 = 1000;

impl Shard {
    /// No new work: subscriptions and input are given up, what is written so far still goes out.
    pub(super) fn begin_end(&mut self, index: u32, reason: CloseReason) {
        let connection = &mut self.connections[index as usize];
        if !connection.is_open() {
            return;
        }
        connection.phase = Phase::Flushing(reason);
        connection.input = None;
        connection.transport.release(&mut self.scratch.effects);
    }

    /// Ends at once: nothing more is sent.
    pub(super) fn end_now(&mut self, index: u32, reason: CloseReason) {
        let connection = &mut self.connections[index as usize];
        let reason = match connection.phase {
            Phase::Closing => return,
            Phase::Preface { .. } | Phase::Handshake { .. } | Phase::Open => reason,
            Phase::Flushing(first) | Phase::Lingering { reason: first, .. } => first,
        };
        let kind = connection.transport.kind();
        connection.phase = Phase::Closing;
        self.with_outbox(index, |_, outbox| *outbox = None);
        let connection = &mut self.connections[index as usize];
        connection.input = None;
        connection.transport.release(&mut self.scratch.effects);
        connection.transport = Transport::new(self.clock.now_ms);
        self.drop_tls(index);
        let connection = &mut self.connections[index as usize];
        connection.shut_down();
        self.scratch.effects.clear_output();
        self.release_all();
        self.metrics.on_transport(Some(kind), None);
        self.note_end(index, kind, reason);
        // Whoever called may still look at the entry.
        self.scratch.ended.push(index);
    }

    /// Frees the entry once its end has come and nothing of it is with the kernel.
    pub(super) fn free_if_joined(&mut self, index: u32) {
        let is_over =
            |connection: &Connection| connection.phase == Phase::Closing && connection.is_joined();
        if self.connections.get(index as usize).is_some_and(is_over) {
            self.timers.disarm(index);
            self.connections.remove(index as usize);
            if let Some(address) = self.clients.forget(index) {
                self.shared.address_counts.remove(&counted_address(address));
            }
            self.shared.n_connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts an end, and logs a sample of those that somebody should know of.
    fn note_end(&mut self, index: u32, kind: TransportKind, reason: CloseReason) {
        self.metrics.on_closed(reason);
        if reason.is_noteworthy()
            && self
                .end_lines
                .is_due(self.clock.now_ms, END_LINE_INTERVAL_MS)
        {
            let peer = self.peer(index);
            let connection = self.id_of(index);
            tracing::warn!(%connection, %peer, transport = kind.label(), reason = reason.label(), "connection ended");
        }
    }

    /// A deadline has come, or an earlier one that has since moved.
    pub(super) fn on_timer(&mut self, index: u32) {
        let Some(connection) = self.connections.get(index as usize) else {
            return;
        };
        let is_stalled = connection.is_stalled(&self.config, self.clock.now_ms);
        let is_silent = connection
            .transport
            .is_silent(&self.config, self.clock.now_ms);
        let phase = connection.phase;
        let drain_ms = self.drain_ms(index);
        let is_to_be_told = drain_ms.is_some_and(|drain_ms| self.clock.now_ms >= drain_ms);
        match phase {
            Phase::Preface { .. } | Phase::Handshake { .. } if is_to_be_told => {
                self.end_now(index, CloseReason::Shutdown)
            }
            Phase::Preface { until_ms } => self.on_preface_timer(index, until_ms),
            Phase::Handshake { until_ms } => self.on_handshake_timer(index, until_ms),
            Phase::Open if is_stalled => self.end_now(index, CloseReason::WriteStalled),
            Phase::Flushing(_) if is_stalled => self.end_now(index, CloseReason::WriteStalled),
            Phase::Lingering { reason, until_ms } if self.clock.now_ms >= until_ms => {
                self.end_now(index, reason)
            }
            Phase::Open if is_to_be_told => {
                self.connections[index as usize].set(Marks::DRAINED, true);
                self.step(index, |transport, context| transport.on_drain(context));
            }
            // What the peer has sent may wait behind others: nobody is ended for the shard's own lateness.
            Phase::Open if is_silent && self.read_ahead(index) => {}
            Phase::Open => {
                let connection = &self.connections[index as usize];
                let deadline_ms = connection.transport.next_deadline_ms(&self.config);
                if deadline_ms.is_some_and(|deadline_ms| self.clock.now_ms >= deadline_ms) {
                    self.step(index, |transport, context| transport.on_deadline(context));
                } else {
                    self.await_next(index);
                }
            }
            Phase::Flushing(_) | Phase::Lingering { .. } => self.await_next(index),
            Phase::Closing => {}
        }
        // The wheel has one deadline for each connection, and this one has just been taken from it.
        self.arm_drain(index);
    }

    /// When a connection is told that the server shuts down; `None` if it is not to be, or has been.
    fn drain_ms(&self, index: u32) -> Option<u64> {
        let Life::Draining { since_ms } = self.life else {
            return None;
        };
        let connection = self.connections.get(index as usize)?;
        let is_there = matches!(
            connection.phase,
            Phase::Preface { .. } | Phase::Handshake { .. } | Phase::Open
        );
        if !is_there || connection.has(Marks::DRAINED) {
            return None;
        }
        // Drawn anew each time and always the same: the record of a connection has no room for it.
        let draw = (self.shared.hasher).hash_one((index, connection.generation));
        let wait_ms = draw % (self.config.timing.drain_period_ms + 1);
        let wait_ms_min = match connection.has(Marks::HEARD) {
            true => 0,
            false => NEWCOMERS_MS,
        };
        Some(since_ms + wait_ms.max(wait_ms_min))
    }

    /// The connection is told in its time, if the server shuts down.
    pub(super) fn arm_drain(&mut self, index: u32) {
        if let Some(drain_ms) = self.drain_ms(index) {
            self.timers.arm(index, drain_ms);
        }
    }

    /// Ends all connections over the drain period, in random order, each in the way of its transport.
    pub(super) fn drain(&mut self) {
        self.life = Life::Draining {
            since_ms: self.clock.now_ms,
        };
        self.begin_to_close_door();
        for index in self.indices() {
            self.arm_drain(index);
        }
    }

    /// Ends what the drain has left.
    pub(super) fn cut(&mut self) {
        self.close_door();
        for index in self.indices() {
            self.end_now(index, CloseReason::Shutdown);
        }
    }

    fn indices(&self) -> Vec<u32> {
        let connections = self.connections.iter();
        connections.map(|(index, _)| index as u32).collect()
    }
}
