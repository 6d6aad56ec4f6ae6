//! What a shard counts, and how all shards' counts read in the Prometheus text format.
//!
//! The counters are plain numbers of one shard. Whoever answers `/metrics` asks every shard for a copy.

pub mod backplane;

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::close_reason::CloseReason;
use crate::config::SlowReader;

use backplane::Backplane;

/// Upper bounds of the time histograms, in microseconds.
const TIME_BOUNDS_US: [u64; 12] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
];

/// How a connection is used at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// Between requests, in one, or being ended.
    Http,
    LongPoll,
    EventStream,
    WebSocket,
}

const TRANSPORTS: [&str; 4] = ["http", "long_poll", "sse", "websocket"];

impl TransportKind {
    /// The metrics' label.
    pub fn word(self) -> &'static str {
        TRANSPORTS[self as usize]
    }
}

/// What a TLS handshake has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsHandshake {
    Full,
    /// By the ticket of an earlier one.
    Resumed,
    Failed,
    TimedOut,
    /// It was none: somebody speaks without TLS.
    PlainText,
}

const TLS_HANDSHAKES: [&str; 5] = ["full", "resumed", "failed", "timed_out", "plain_text"];

/// What a question to the backend has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackResult {
    Allowed,
    Denied,
    Failed,
}

const CALLBACK_RESULTS: [&str; 3] = ["allowed", "denied", "failed"];

/// Questions to the backend, of the whole process; the first shard reports them.
#[derive(Clone, Debug, Default)]
pub struct CallbackCounts {
    /// By [`CallbackResult`].
    pub calls_total: [u64; CALLBACK_RESULTS.len()],
    pub cache_hits_total: u64,
    /// Those that waited for the answer to the same question of another.
    pub joined_total: u64,
    /// Those that were not asked, since too many waited.
    pub busy_total: u64,
    /// With the backend now.
    pub in_flight: u64,
    pub waiting: u64,
    pub time: TimeHistogram,
}

/// Times in buckets.
#[derive(Clone, Debug, Default)]
pub struct TimeHistogram {
    buckets: [u64; TIME_BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl TimeHistogram {
    pub fn record_us(&mut self, us: u64) {
        self.buckets[TIME_BOUNDS_US.partition_point(|&bound| bound < us)] += 1;
        self.sum_us += us;
    }
}

/// The counts of one shard. Names say what is counted; totals only grow, the others are states.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub accepted_total: u64,
    /// Newcomers turned away at the door.
    pub rejected_total: u64,
    pub accept_errors_total: u64,
    pub closed_total: [u64; CloseReason::ALL.len()],
    pub connections: [u64; TRANSPORTS.len()],
    /// By [`TlsHandshake`].
    pub tls_handshakes_total: [u64; TLS_HANDSHAKES.len()],
    pub requests_total: u64,
    /// By code and status.
    pub refusals_total: BTreeMap<(&'static str, u16), u64>,
    /// Tokens whose signature was looked at, and those that were known already.
    pub token_verifications_total: u64,
    pub token_cache_hits_total: u64,
    /// Reads of the issuer's keys, and those that gave none; the first shard counts them.
    pub jwks_reads_total: u64,
    pub jwks_read_failures_total: u64,
    pub callback: CallbackCounts,
    pub published_messages_total: u64,
    pub published_bytes_total: u64,
    pub delivered_messages_total: u64,
    pub socket_bytes_in_total: u64,
    pub socket_bytes_out_total: u64,
    /// Messages that a slow reader did not get, by what gave way.
    pub dropped_messages_total: [u64; SlowReader::WORDS.len()],
    pub gaps_told_total: u64,
    pub heartbeats_sent_total: u64,
    pub heartbeat_lateness: TimeHistogram,
    pub turn_time: TimeHistogram,
    pub ring_overflows_total: u64,
    pub mails_total: u64,
    pub panics_total: u64,
    pub channels: u64,
    pub channels_listened: u64,
    pub history_bytes: u64,
    pub idempotency_keys_forgotten_total: u64,
    pub outbox_bytes: u64,
    pub fanout_backlog_bytes: u64,
    pub reloads_total: u64,
    pub history_writes_total: u64,
    pub history_written_bytes_total: u64,
    pub history_write_errors_total: u64,
    pub history_sync_errors_total: u64,
    /// Of the log file that is written.
    pub history_file_bytes: u64,
    /// What waits to be written.
    pub history_queue_bytes: u64,
    /// Of one batch.
    pub history_write_time: TimeHistogram,
    /// At the start, as the three that follow; those are of the whole process and the first shard reports them.
    pub history_restored_messages: u64,
    pub history_torn_bytes: u64,
    pub history_damaged_bytes: u64,
    pub history_skips: u64,
    /// Only where a broker numbers the messages.
    pub backplane: Option<Box<Backplane>>,
    /// Of the whole process; the first shard reports them.
    pub reload_failures_total: u64,
    pub log_lines_dropped_total: u64,
}

impl Metrics {
    pub fn on_closed(&mut self, reason: CloseReason) {
        self.closed_total[reason as usize] += 1;
    }

    pub fn on_refusal(&mut self, code: &'static str, status: u16) {
        self.on_refusals(code, status, 1);
    }

    pub fn on_refusals(&mut self, code: &'static str, status: u16, count: u64) {
        *self.refusals_total.entry((code, status)).or_default() += count;
    }

    /// A connection is used differently from now on. `None`: it did not exist, or no longer does.
    pub fn on_transport(&mut self, from: Option<TransportKind>, to: Option<TransportKind>) {
        if let Some(from) = from {
            self.connections[from as usize] -= 1;
        }
        if let Some(to) = to {
            self.connections[to as usize] += 1;
        }
    }
}

/// All shards' counts in the Prometheus text format, version 0.0.4. Per shard where a skew matters, summed elsewhere.
pub fn write_exposition(out: &mut String, shards: &[Metrics]) {
    let mut exposition = Exposition { out, shards };
    exposition.per_shard(
        "connections_accepted_total",
        "counter",
        "Connections accepted.",
        |m| m.accepted_total,
    );
    exposition.family("connections", "gauge", "Open connections by use.");
    for (shard, metrics) in shards.iter().enumerate() {
        for (transport, count) in TRANSPORTS.iter().zip(metrics.connections) {
            exposition.line(
                "connections",
                &format!("shard=\"{shard}\",transport=\"{transport}\""),
                count,
            );
        }
    }
    exposition.family(
        "connections_closed_total",
        "counter",
        "Connections ended, by the one reason of each.",
    );
    for reason in CloseReason::ALL {
        let count = shards
            .iter()
            .map(|metrics| metrics.closed_total[reason as usize])
            .sum();
        exposition.line(
            "connections_closed_total",
            &format!("reason=\"{}\"", reason.label()),
            count,
        );
    }
    exposition.family(
        "refusals_total",
        "counter",
        "Requests refused, by code and status.",
    );
    let mut refusals = BTreeMap::new();
    for (key, count) in shards.iter().flat_map(|metrics| &metrics.refusals_total) {
        *refusals.entry(key).or_insert(0) += count;
    }
    for ((code, status), count) in refusals {
        exposition.line(
            "refusals_total",
            &format!("code=\"{code}\",status=\"{status}\""),
            count,
        );
    }
    exposition.sum(
        "connections_rejected_total",
        "counter",
        "Newcomers turned away at the door.",
        |m| m.rejected_total,
    );
    exposition.sum(
        "accept_errors_total",
        "counter",
        "Failed accepts, mostly for lack of descriptors.",
        |m| m.accept_errors_total,
    );
    exposition.family(
        "tls_handshakes_total",
        "counter",
        "TLS handshakes, by what they came to.",
    );
    for (place, result) in TLS_HANDSHAKES.iter().enumerate() {
        let count = shards
            .iter()
            .map(|metrics| metrics.tls_handshakes_total[place])
            .sum();
        exposition.line(
            "tls_handshakes_total",
            &format!("result=\"{result}\""),
            count,
        );
    }
    exposition.sum("requests_total", "counter", "HTTP requests.", |m| {
        m.requests_total
    });
    exposition.sum(
        "token_verifications_total",
        "counter",
        "Tokens whose signature was checked.",
        |m| m.token_verifications_total,
    );
    exposition.sum(
        "token_cache_hits_total",
        "counter",
        "Tokens that were verified before.",
        |m| m.token_cache_hits_total,
    );
    exposition.sum("jwks_reads_total", "counter", "Reads of jwks.", |m| {
        m.jwks_reads_total
    });
    exposition.sum(
        "jwks_read_failures_total",
        "counter",
        "Reads of jwks that gave no keys; those from before stay.",
        |m| m.jwks_read_failures_total,
    );
    exposition.callback();
    exposition.sum(
        "messages_published_total",
        "counter",
        "Messages taken.",
        |m| m.published_messages_total,
    );
    exposition.sum(
        "messages_published_bytes_total",
        "counter",
        "Payload bytes taken.",
        |m| m.published_bytes_total,
    );
    exposition.sum(
        "messages_delivered_total",
        "counter",
        "Messages handed to connections.",
        |m| m.delivered_messages_total,
    );
    exposition.family(
        "messages_dropped_total",
        "counter",
        "Messages that a slow reader did not get, by the policy of the namespace.",
    );
    for (index, policy) in SlowReader::WORDS.iter().enumerate() {
        let count = |metrics: &Metrics| metrics.dropped_messages_total[index];
        let sum = shards.iter().map(count).sum();
        exposition.line(
            "messages_dropped_total",
            &format!("policy=\"{policy}\""),
            sum,
        );
    }
    exposition.sum(
        "gaps_told_total",
        "counter",
        "Losses of history that a client was told of.",
        |m| m.gaps_told_total,
    );
    exposition.sum("socket_in_bytes_total", "counter", "Bytes received.", |m| {
        m.socket_bytes_in_total
    });
    exposition.sum("socket_out_bytes_total", "counter", "Bytes sent.", |m| {
        m.socket_bytes_out_total
    });
    exposition.sum(
        "heartbeats_sent_total",
        "counter",
        "Pings and keep-alive comments.",
        |m| m.heartbeats_sent_total,
    );
    exposition.per_shard(
        "ring_overflows_total",
        "counter",
        "Times the completion queue was full.",
        |m| m.ring_overflows_total,
    );
    exposition.per_shard("mails_total", "counter", "Mails from other shards.", |m| {
        m.mails_total
    });
    exposition.sum(
        "panics_total",
        "counter",
        "Connections ended by a bug.",
        |m| m.panics_total,
    );
    exposition.per_shard(
        "channels",
        "gauge",
        "Channels that the shard is the home of.",
        |m| m.channels,
    );
    exposition.per_shard(
        "channels_listened",
        "gauge",
        "Channels with a listener on the shard.",
        |m| m.channels_listened,
    );
    exposition.per_shard("history_bytes", "gauge", "Bytes of the histories.", |m| {
        m.history_bytes
    });
    exposition.per_shard(
        "outbox_bytes",
        "gauge",
        "Bytes that wait for clients to read them.",
        |m| m.outbox_bytes,
    );
    exposition.per_shard(
        "fanout_backlog_bytes",
        "gauge",
        "Bytes of messages on their way to listeners.",
        |m| m.fanout_backlog_bytes,
    );
    exposition.sum(
        "idempotency_keys_forgotten_total",
        "counter",
        "Idempotency keys forgotten before their time, for want of room.",
        |m| m.idempotency_keys_forgotten_total,
    );
    exposition.history_log();
    exposition.backplane();
    exposition.sum(
        "log_lines_dropped_total",
        "counter",
        "Log lines lost because stderr was not read fast enough.",
        |m| m.log_lines_dropped_total,
    );
    exposition.family(
        "reloads_total",
        "counter",
        "Configurations put in force by SIGHUP, on every shard.",
    );
    let reloads = shards.iter().map(|metrics| metrics.reloads_total);
    exposition.line("reloads_total", "", reloads.min().unwrap_or(0));
    exposition.sum(
        "reload_failures_total",
        "counter",
        "Configurations refused at SIGHUP, with the old one in force.",
        |m| m.reload_failures_total,
    );
    exposition.histogram(
        "heartbeat_lateness_seconds",
        "How late heartbeats went out.",
        |m| &m.heartbeat_lateness,
    );
    exposition.histogram("turn_seconds", "Time of one turn of a shard.", |m| {
        &m.turn_time
    });
}

struct Exposition<'a> {
    out: &'a mut String,
    shards: &'a [Metrics],
}

impl Exposition<'_> {
    fn callback(&mut self) {
        self.family(
            "callback_calls_total",
            "counter",
            "Questions that the backend was asked, by what they came to.",
        );
        for (place, result) in CALLBACK_RESULTS.iter().enumerate() {
            let counts = self.shards.iter().map(|m| m.callback.calls_total[place]);
            self.line(
                "callback_calls_total",
                &format!("result=\"{result}\""),
                counts.sum(),
            );
        }
        self.sum(
            "callback_cache_hits_total",
            "counter",
            "Questions whose answer was known.",
            |m| m.callback.cache_hits_total,
        );
        self.sum(
            "callback_joined_total",
            "counter",
            "Questions that waited for the answer to the same one.",
            |m| m.callback.joined_total,
        );
        self.sum(
            "callback_busy_total",
            "counter",
            "Questions that were not asked, since too many waited.",
            |m| m.callback.busy_total,
        );
        self.sum(
            "callback_in_flight",
            "gauge",
            "Questions that the backend has now.",
            |m| m.callback.in_flight,
        );
        self.sum(
            "callback_waiting",
            "gauge",
            "Questions that wait to be asked.",
            |m| m.callback.waiting,
        );
        self.histogram(
            "callback_seconds",
            "Time of a question to the backend.",
            |m| &m.callback.time,
        );
    }

    fn history_log(&mut self) {
        self.sum(
            "history_writes_total",
            "counter",
            "Batches handed to the history logs.",
            |m| m.history_writes_total,
        );
        self.sum(
            "history_written_bytes_total",
            "counter",
            "Bytes written to the history logs.",
            |m| m.history_written_bytes_total,
        );
        self.sum(
            "history_write_errors_total",
            "counter",
            "Batches that could not be written: their publishes were refused.",
            |m| m.history_write_errors_total,
        );
        self.sum(
            "history_sync_errors_total",
            "counter",
            "Times that a history log did not come to the disk.",
            |m| m.history_sync_errors_total,
        );
        self.per_shard(
            "history_file_bytes",
            "gauge",
            "Bytes of the history log's present file.",
            |m| m.history_file_bytes,
        );
        self.per_shard(
            "history_queue_bytes",
            "gauge",
            "Bytes that wait to be written to the history log.",
            |m| m.history_queue_bytes,
        );
        self.histogram(
            "history_write_seconds",
            "Time to write a batch to the history log.",
            |m| &m.history_write_time,
        );
        self.sum(
            "history_restored_messages",
            "gauge",
            "Messages that the history logs brought back at the start.",
            |m| m.history_restored_messages,
        );
        self.sum(
            "history_torn_bytes",
            "gauge",
            "Bytes of unfinished records that were cut at the start.",
            |m| m.history_torn_bytes,
        );
        self.sum(
            "history_damaged_bytes",
            "gauge",
            "Bytes of damaged history logs that were left out at the start.",
            |m| m.history_damaged_bytes,
        );
        self.sum(
            "history_position_skips",
            "gauge",
            "1 if positions were skipped at the start, since some may be missing.",
            |m| m.history_skips,
        );
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(
            self.out,
            "# HELP pushring_{name} {help}\n# TYPE pushring_{name} {kind}"
        )
        .expect("writing to a String");
    }

    fn line(&mut self, name: &str, labels: &str, value: u64) {
        let result = match labels {
            "" => writeln!(self.out, "pushring_{name} {value}"),
            _ => writeln!(self.out, "pushring_{name}{{{labels}}} {value}"),
        };
        result.expect("writing to a String");
    }

    fn sum(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&Metrics) -> u64) {
        self.family(name, kind, help);
        let sum = self.shards.iter().map(value).sum();
        self.line(name, "", sum);
    }

    fn per_shard(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&Metrics) -> u64) {
        self.family(name, kind, help);
        for (shard, metrics) in self.shards.iter().enumerate() {
            self.line(name, &format!("shard=\"{shard}\""), value(metrics));
        }
    }

    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        histogram: impl Fn(&Metrics) -> &TimeHistogram,
    ) {
        self.family(name, "histogram", help);
        for (shard, metrics) in self.shards.iter().enumerate() {
            let histogram = histogram(metrics);
            let mut count = 0;
            let bounds = TIME_BOUNDS_US
                .iter()
                .map(|&bound_us| (bound_us as f64 / 1e6).to_string())
                .chain(["+Inf".to_owned()]);
            for (bound, bucket) in bounds.zip(histogram.buckets) {
                count += bucket;
                self.line(
                    &format!("{name}_bucket"),
                    &format!("shard=\"{shard}\",le=\"{bound}\""),
                    count,
                );
            }
            let sum = histogram.sum_us as f64 / 1e6;
            writeln!(self.out, "pushring_{name}_sum{{shard=\"{shard}\"}} {sum}")
                .expect("writing to a String");
            self.line(
                &format!("{name}_count"),
                &format!("shard=\"{shard}\""),
                count,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_adds_up() {
        let mut one = Metrics {
            accepted_total: 2,
            published_messages_total: 3,
            ..Metrics::default()
        };
        one.on_closed(CloseReason::SlowReader);
        one.on_refusal("path_unknown", 404);
        one.on_transport(None, Some(TransportKind::WebSocket));
        for us in [100, 101, 2_000_000] {
            one.turn_time.record_us(us);
        }
        let mut two = one.clone();
        two.on_transport(Some(TransportKind::WebSocket), None);
        two.turn_time.record_us(100);
        let mut text = String::new();
        write_exposition(&mut text, &[one, two]);
        for line in [
            "pushring_connections_accepted_total{shard=\"1\"} 2",
            "pushring_connections{shard=\"0\",transport=\"websocket\"} 1",
            "pushring_connections{shard=\"1\",transport=\"websocket\"} 0",
            "pushring_connections_closed_total{reason=\"slow_reader\"} 2",
            "pushring_refusals_total{code=\"path_unknown\",status=\"404\"} 2",
            "pushring_messages_published_total 6",
            "pushring_turn_seconds_bucket{shard=\"0\",le=\"0.0001\"} 1",
            "pushring_turn_seconds_bucket{shard=\"0\",le=\"0.00025\"} 2",
            "pushring_turn_seconds_bucket{shard=\"0\",le=\"1\"} 2",
            "pushring_turn_seconds_bucket{shard=\"0\",le=\"+Inf\"} 3",
            "pushring_turn_seconds_sum{shard=\"0\"} 2.000201",
            "pushring_turn_seconds_count{shard=\"0\"} 3",
            "pushring_turn_seconds_count{shard=\"1\"} 4",
        ] {
            assert!(
                text.lines().any(|got| got == line),
                "no line {line:?} in\n{text}"
            );
        }
    }
}
