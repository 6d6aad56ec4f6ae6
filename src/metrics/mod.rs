//! What a shard counts.
//!
//! The counters are plain numbers of one shard. Whoever answers `/metrics` asks every shard for a copy.

pub mod backplane;
mod exposition;

use std::collections::BTreeMap;

use crate::close_reason::CloseReason;
use crate::config::SlowReader;

use backplane::Backplane;
pub use exposition::write_exposition;

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
    /// The metric's label and the log's word.
    pub fn label(self) -> &'static str {
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

/// By code and status.
pub type RefusalCounts = BTreeMap<(&'static str, u16), u64>;

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
    pub refusals_total: RefusalCounts,
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
