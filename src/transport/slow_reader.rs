//! What becomes of messages for a client that reads more slowly than its channels speak.

use crate::config::{Config, SlowReader};
use crate::hub::batch::Batch;
use crate::hub::fanout::Delivery;
use crate::hub::message::ChannelName;
use crate::metrics::Metrics;
use crate::transport::outbox::{Outbox, Waiting};
use crate::transport::{Effects, Transport};

/// Whether a delivery may go on to a client for whom something waits already. Messages of other channels give way
/// where they may. `false`: the client is too slow, and its connection ends.
pub fn has_room(
    transport: &Transport,
    delivery: &Delivery,
    outbox: &mut Outbox,
    config: &Config,
    metrics: &mut Metrics,
) -> bool {
    let bytes_max = config.limits.outbox_bytes_max;
    if let Delivery::Messages(batch) = delivery {
        let channel = &batch.messages()[0].channel;
        if transport.can_tell_a_gap() && policy(channel, config) != SlowReader::Close {
            return true;
        }
    }
    outbox.make_room(bytes_max, metrics);
    !outbox.exceeds(bytes_max)
}

/// What the channel's namespace says.
pub(super) fn policy(channel: &ChannelName, config: &Config) -> SlowReader {
    config.namespace(channel.namespace()).slow_reader
}

/// Lets each message of `batch` wait by itself, so that the older can give way to the newer.
pub(super) fn wait_behind(
    batch: &Batch,
    place: u16,
    slow_reader: SlowReader,
    effects: &mut Effects,
) {
    let waiting = |message: &_| Waiting::Message {
        place,
        message: std::sync::Arc::clone(message),
        slow_reader,
    };
    effects.behind.extend(batch.messages().iter().map(waiting));
}
