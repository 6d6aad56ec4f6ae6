//! How the driver goes about its work: what an operator has no reason to change.

use std::time::Duration;

use crate::backplane::broker::Settings;
use crate::backplane::driver::ShardClock;

#[derive(Clone, Debug)]
pub struct DriverSettings {
    pub broker: Settings,
    pub n_shards: u16,
    pub clock: ShardClock,
    pub publishes_per_call: usize,
    pub payload_bytes_per_call: usize,
    /// Publishing calls (and deletes) under way.
    pub write_calls: usize,
    pub channels_per_round: usize,
    /// Rounds of channels to be listened to and read, or to remind the broker of, that are under way.
    pub rounds: usize,
    /// How often a canary, a sign of life to the other nodes, and the figures are sent.
    pub beat: Duration,
    /// So many in a row that do not come back through every connection end the connection to the broker.
    pub canaries_lost_max: u64,
    /// For all steps of connecting together. Each has the broker's own timeout, and the first two (a sentinel, the
    /// master that it names) may use up all of theirs and say who is silent.
    pub connect_timeout: Duration,
    pub reconnect_first: Duration,
    /// Whatever has lasted for as long is tried again soon.
    pub reconnect_cap: Duration,
    /// A node that was not heard for this long is gone.
    pub node_silence: Duration,
    /// How long a count waits for other nodes.
    pub count_timeout: Duration,
}

impl DriverSettings {
    pub fn new(broker: Settings, n_shards: u16, clock: ShardClock) -> Self {
        Self {
            connect_timeout: Duration::from_secs(10) + 2 * broker.timeout,
            broker,
            n_shards,
            clock,
            publishes_per_call: 512,
            payload_bytes_per_call: 1024 * 1024,
            write_calls: 4,
            channels_per_round: 512,
            rounds: 4,
            beat: Duration::from_secs(1),
            canaries_lost_max: 3,
            reconnect_first: Duration::from_millis(100),
            reconnect_cap: Duration::from_secs(5),
            node_silence: Duration::from_secs(5),
            count_timeout: Duration::from_millis(500),
        }
    }
}
