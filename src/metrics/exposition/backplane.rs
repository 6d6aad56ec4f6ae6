//! What is said of the way to a broker.

use super::Value::{Sum, SumUs};
use super::{Family, counter, gauge, summary};
use crate::metrics::backplane::Backplane;

pub(super) const BACKPLANE: &[Family<Backplane>] = &[
    counter(
        "backplane_holes_total",
        "Messages from the broker in front of which another one was missing.",
        Sum(|it| it.holes_total),
    ),
    counter(
        "backplane_caught_up_messages_total",
        "Messages that were read from the broker's history, since they had not come by themselves.",
        Sum(|it| it.caught_up_messages_total),
    ),
    counter(
        "backplane_losses_total",
        "Losses at the broker that the listeners of a channel were told of.",
        Sum(|it| it.losses_total),
    ),
    gauge(
        "backplane_queue_bytes",
        "Publishes on their way to the broker.",
        Sum(|it| it.queue_bytes),
    ),
    gauge(
        "backplane_hearing",
        "1 while the canary comes back from the broker.",
        Sum(|it| it.stats.is_hearing.into()),
    ),
    gauge(
        "backplane_nodes",
        "Nodes that share the broker, this one among them.",
        Sum(|it| it.stats.nodes as u64),
    ),
    counter(
        "backplane_connects_total",
        "Connections to the broker.",
        Sum(|it| it.stats.connects_total),
    ),
    counter(
        "backplane_connect_failures_total",
        "Attempts to connect that failed.",
        Sum(|it| it.stats.connect_failures_total),
    ),
    counter(
        "backplane_disconnects_total",
        "Connections to the broker that were lost.",
        Sum(|it| it.stats.disconnects_total),
    ),
    counter(
        "backplane_deafnesses_total",
        "Of them those that a canary found dead.",
        Sum(|it| it.stats.deafnesses_total),
    ),
    counter(
        "backplane_publishes_total",
        "Messages given to the broker.",
        Sum(|it| it.stats.publishes_total),
    ),
    counter(
        "backplane_publishes_away_total",
        "Publishes that the broker went away from, answered with backplane_away.",
        Sum(|it| it.stats.publishes_away_total),
    ),
    counter(
        "backplane_publishes_refused_total",
        "Publishes that the broker did not take, answered with backplane_refused.",
        Sum(|it| it.stats.publishes_refused_total),
    ),
    gauge(
        "backplane_publishes_waiting",
        "Messages that wait to be given to it.",
        Sum(|it| it.stats.publishes_waiting as u64),
    ),
    gauge(
        "backplane_channels",
        "Channels listened to at the broker.",
        Sum(|it| it.stats.channels_listened as u64),
    ),
    gauge(
        "backplane_channels_waiting",
        "Channels that wait to be listened to.",
        Sum(|it| it.stats.channels_waiting as u64),
    ),
    counter(
        "backplane_reads_total",
        "Histories read from the broker.",
        Sum(|it| it.stats.reads_total),
    ),
    counter(
        "backplane_events_total",
        "What the broker said by itself.",
        Sum(|it| it.stats.events_total),
    ),
    counter(
        "backplane_counts_incomplete_total",
        "Counts of listeners without the answer of some node.",
        Sum(|it| it.stats.counts_incomplete_total),
    ),
    summary(
        "backplane_round_trip_seconds",
        "From giving messages to the broker to its answer.",
        |it| it.stats.publish_calls_total,
        |it| it.stats.publish_calls_us_total,
    ),
    gauge(
        "backplane_round_trip_max_seconds",
        "The longest of the last second.",
        SumUs(|it| it.stats.publish_call_us_max),
    ),
    gauge(
        "backplane_canary_age_seconds",
        "Since a canary has come back from the broker.",
        SumUs(|it| it.stats.canary_age_ms * 1000),
    ),
];
