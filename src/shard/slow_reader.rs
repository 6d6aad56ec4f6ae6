//! Readers that are too slow: how they end, and what the operator reads of them.

use crate::close_reason::CloseReason;
use crate::config::{SlowReader, share};
use crate::hub::fanout::Delivery;
use crate::hub::message::{ChannelName, Message};
use crate::shard::Shard;
use crate::shard::complaint::Complaint;
use crate::transport::{Next, slow_reader};

/// Between two log lines about one policy; the counters have them all.
const LINE_INTERVAL_MS: u64 = 1000;

impl Shard {
    /// Whether what waits for a connection leaves no room for a delivery, and then why it ends. Messages that may give
    /// way do so first.
    pub(super) fn is_too_slow(&mut self, index: u32, delivery: &Delivery) -> Option<CloseReason> {
        let has_room = self.with_outbox(index, |shard, outbox| {
            let transport = &shard.connections[index as usize].transport;
            let (config, metrics) = (&shard.config, &mut shard.metrics);
            let outbox = outbox.as_deref_mut()?;
            Some(slow_reader::has_room(
                transport, delivery, outbox, config, metrics,
            ))
        })?;
        let outbox = self.connections[index as usize].outbox.as_deref()?;
        let total_max = share(
            self.config.limits.outbox_bytes_total_max,
            self.post.n_shards(),
        );
        if !has_room {
            Some(CloseReason::SlowReader)
        } else if self.outboxes.is_too_large(outbox, total_max) {
            Some(CloseReason::OutboxesFull)
        } else {
            None
        }
    }

    /// Nothing that waits may give way, so the connection does. Its goodbye goes right behind what is begun.
    pub(super) fn end_slow_reader(&mut self, index: u32, delivery: &Delivery, reason: CloseReason) {
        if reason == CloseReason::OutboxesFull {
            self.complain(Complaint::Outboxes);
        }
        if let Delivery::Messages(batch) = delivery {
            let policy = SlowReader::Close;
            self.metrics.dropped_messages_total[policy as usize] += batch.messages().len() as u64;
            self.log_slow_reader(index, &batch.messages()[0].channel, policy);
        }
        self.keep_begun(index);
        self.step(index, |transport, context| {
            transport.on_slow_reader(context);
            Next::End(reason)
        });
    }

    /// Messages have given way to a newer one.
    pub(super) fn note_slow_reader(&mut self, index: u32) {
        let outbox = self.connections[index as usize].outbox.as_ref();
        let newest = outbox.and_then(|outbox| outbox.newest_message());
        if let Some((Message { channel, .. }, policy)) = newest {
            let channel = channel.clone();
            self.log_slow_reader(index, &channel, policy);
        }
    }

    /// Logs a sample.
    fn log_slow_reader(&mut self, index: u32, channel: &ChannelName, policy: SlowReader) {
        let connection = &self.connections[index as usize];
        let Some(outbox) = &connection.outbox else {
            return;
        };
        let lines = &mut self.slow_reader_lines[policy as usize];
        if !lines.is_due(self.clock.now_ms, LINE_INTERVAL_MS) {
            return;
        }
        let peer = self.peer(index);
        tracing::warn!(
            connection = %self.id_of(index),
            %peer,
            transport = connection.transport.kind().label(),
            %channel,
            policy = policy.label(),
            waiting_bytes = outbox.bytes(),
            behind_ms = self.clock.now_ms - outbox.since_ms(),
            "slow reader"
        );
    }
}
