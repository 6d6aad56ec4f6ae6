//! What is measured of the way to a broker.

/// One shard's part. The first shard also has what the broker's thread counts.
#[derive(Clone, Debug, Default)]
pub struct Backplane {
    /// Messages in front of which another one was missing.
    pub holes_total: u64,
    /// Messages that came with a reading while somebody listened.
    pub caught_up_messages_total: u64,
    /// Losses that listeners of this node were told of.
    pub losses_total: u64,
    /// Publishes on their way to the broker.
    pub queue_bytes: u64,
    pub stats: BackplaneStats,
}

/// What the broker's thread counts; it hands out copies, so that nobody shares a counter with it. Totals are since the
/// start of the process; the rest is how it is at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackplaneStats {
    /// The canary comes back.
    pub is_hearing: bool,
    /// Since the start, or since a canary came back last through every connection to the broker.
    pub canary_age_ms: u64,
    /// Nodes that share the broker, this one among them.
    pub nodes: usize,
    pub connects_total: u64,
    pub connect_failures_total: u64,
    /// Connections lost, by deafness too.
    pub disconnects_total: u64,
    /// Of them those that a lost canary ended.
    pub deafnesses_total: u64,
    /// Messages that were given to the broker, whatever became of them.
    pub publishes_total: u64,
    /// Answered with [`Away`](crate::backplane::order::NotPublished::Away).
    pub publishes_away_total: u64,
    /// Answered with [`Refused`](crate::backplane::order::NotPublished::Refused).
    pub publishes_refused_total: u64,
    /// Publishes and deletes that wait for a call.
    pub publishes_waiting: usize,
    /// Calls that have taken those messages to the broker and brought answers; with the next two, its round trip.
    pub publish_calls_total: u64,
    pub publish_calls_us_total: u64,
    /// Of the calls since the last copy.
    pub publish_call_us_max: u64,
    pub channels_listened: usize,
    /// Channels that wait to be opened or closed.
    pub channels_waiting: usize,
    /// Channels read.
    pub reads_total: u64,
    /// Whatever the broker said by itself.
    pub events_total: u64,
    /// Counts of listeners without the answer of some node.
    pub counts_incomplete_total: u64,
}
