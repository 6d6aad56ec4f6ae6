//! What is measured of the way to a broker.

use std::fmt::Write;

use super::{Exposition, Metrics};

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
    /// Orders to open a channel.
    pub opens_total: u64,
    /// Channels read.
    pub reads_total: u64,
    /// Channels that were to be opened again because a connection was lost.
    pub interruptions_total: u64,
    /// Whatever the broker said by itself.
    pub events_total: u64,
    /// Of that the messages of channels that are open here.
    pub arrivals_total: u64,
    pub counts_total: u64,
    /// Counts without the answer of some node.
    pub counts_incomplete_total: u64,
}

impl Exposition<'_> {
    /// Nothing on a node that works alone.
    pub(super) fn backplane(&mut self) {
        if self.shards.iter().all(|shard| shard.backplane.is_none()) {
            return;
        }
        type Shards = fn(&Backplane) -> u64;
        let of_shards: [(&str, &str, &str, Shards); 4] = [
            (
                "backplane_holes_total",
                "counter",
                "Messages from the broker in front of which another one was missing.",
                |it| it.holes_total,
            ),
            (
                "backplane_caught_up_messages_total",
                "counter",
                "Messages that were read from the broker's history, since they had not come by themselves.",
                |it| it.caught_up_messages_total,
            ),
            (
                "backplane_losses_total",
                "counter",
                "Losses at the broker that the listeners of a channel were told of.",
                |it| it.losses_total,
            ),
            (
                "backplane_queue_bytes",
                "gauge",
                "Publishes on their way to the broker.",
                |it| it.queue_bytes,
            ),
        ];
        for (name, kind, help, value) in of_shards {
            self.sum(name, kind, help, |shard: &Metrics| {
                shard.backplane.as_deref().map_or(0, value)
            });
        }
        let stats = (self.shards.first()).and_then(|first| first.backplane.clone());
        let BackplaneStats {
            is_hearing,
            canary_age_ms,
            nodes,
            connects_total,
            connect_failures_total,
            disconnects_total,
            deafnesses_total,
            publishes_total,
            publish_calls_total,
            publish_calls_us_total,
            publish_call_us_max,
            publishes_waiting,
            channels_listened,
            channels_waiting,
            reads_total,
            events_total,
            ..
        } = stats.unwrap_or_default().stats;
        for (name, kind, help, value) in [
            (
                "backplane_hearing",
                "gauge",
                "1 while the canary comes back from the broker.",
                u64::from(is_hearing),
            ),
            (
                "backplane_nodes",
                "gauge",
                "Nodes that share the broker, this one among them.",
                nodes as u64,
            ),
            (
                "backplane_connects_total",
                "counter",
                "Connections to the broker.",
                connects_total,
            ),
            (
                "backplane_connect_failures_total",
                "counter",
                "Attempts to connect that failed.",
                connect_failures_total,
            ),
            (
                "backplane_disconnects_total",
                "counter",
                "Connections to the broker that were lost.",
                disconnects_total,
            ),
            (
                "backplane_deafnesses_total",
                "counter",
                "Of them those that a canary found dead.",
                deafnesses_total,
            ),
            (
                "backplane_publishes_total",
                "counter",
                "Messages given to the broker.",
                publishes_total,
            ),
            (
                "backplane_publishes_waiting",
                "gauge",
                "Messages that wait to be given to it.",
                publishes_waiting as u64,
            ),
            (
                "backplane_channels",
                "gauge",
                "Channels listened to at the broker.",
                channels_listened as u64,
            ),
            (
                "backplane_channels_waiting",
                "gauge",
                "Channels that wait to be listened to.",
                channels_waiting as u64,
            ),
            (
                "backplane_reads_total",
                "counter",
                "Histories read from the broker.",
                reads_total,
            ),
            (
                "backplane_events_total",
                "counter",
                "What the broker said by itself.",
                events_total,
            ),
        ] {
            self.family(name, kind, help);
            self.line(name, "", value);
        }
        let seconds = |us: u64| us as f64 / 1e6;
        self.family(
            "backplane_round_trip_seconds",
            "summary",
            "From giving messages to the broker to its answer.",
        );
        self.line(
            "backplane_round_trip_seconds_count",
            "",
            publish_calls_total,
        );
        self.float(
            "backplane_round_trip_seconds_sum",
            seconds(publish_calls_us_total),
        );
        for (name, help, value) in [
            (
                "backplane_round_trip_max_seconds",
                "The longest of the last second.",
                seconds(publish_call_us_max),
            ),
            (
                "backplane_canary_age_seconds",
                "Since a canary has come back from the broker.",
                canary_age_ms as f64 / 1e3,
            ),
        ] {
            self.family(name, "gauge", help);
            self.float(name, value);
        }
    }

    fn float(&mut self, name: &str, value: f64) {
        writeln!(self.out, "pushring_{name} {value}").expect("writing to a String");
    }
}
