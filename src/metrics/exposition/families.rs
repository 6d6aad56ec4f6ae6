//! What is said of the shards, in the order in which it stands there.

use super::Value::{Least, PerShard, PerShardBy, Sum, SumBy, SumByRefusal};
use super::{Family, Label, counter, gauge, histogram};
use crate::close_reason::CloseReason;
use crate::config::SlowReader;
use crate::metrics::{CALLBACK_RESULTS, Metrics, TLS_HANDSHAKES, TRANSPORTS};

const TRANSPORT: Label = ("transport", |place| TRANSPORTS[place]);
const REASON: Label = ("reason", |place| CloseReason::ALL[place].label());
const TLS_RESULT: Label = ("result", |place| TLS_HANDSHAKES[place]);
const CALLBACK_RESULT: Label = ("result", |place| CALLBACK_RESULTS[place]);
const POLICY: Label = ("policy", |place| SlowReader::WORDS[place]);

pub(super) const CONNECTIONS: &[Family<Metrics>] = &[
    counter(
        "connections_accepted_total",
        "Connections accepted.",
        PerShard(|m| m.accepted_total),
    ),
    gauge(
        "connections",
        "Open connections by use.",
        PerShardBy(TRANSPORT, |m| &m.connections),
    ),
    counter(
        "connections_closed_total",
        "Connections ended, by the one reason of each.",
        SumBy(REASON, |m| &m.closed_total),
    ),
    counter(
        "refusals_total",
        "Requests refused, by code and status.",
        SumByRefusal(|m| &m.refusals_total),
    ),
    counter(
        "connections_rejected_total",
        "Newcomers turned away at the door.",
        Sum(|m| m.rejected_total),
    ),
    counter(
        "accept_errors_total",
        "Failed accepts, mostly for lack of descriptors.",
        Sum(|m| m.accept_errors_total),
    ),
    counter(
        "tls_handshakes_total",
        "TLS handshakes, by what they came to.",
        SumBy(TLS_RESULT, |m| &m.tls_handshakes_total),
    ),
];

pub(super) const REQUESTS: &[Family<Metrics>] = &[
    counter(
        "requests_total",
        "HTTP requests.",
        Sum(|m| m.requests_total),
    ),
    counter(
        "token_verifications_total",
        "Tokens whose signature was checked.",
        Sum(|m| m.token_verifications_total),
    ),
    counter(
        "token_cache_hits_total",
        "Tokens that were verified before.",
        Sum(|m| m.token_cache_hits_total),
    ),
    counter(
        "jwks_reads_total",
        "Reads of jwks.",
        Sum(|m| m.jwks_reads_total),
    ),
    counter(
        "jwks_read_failures_total",
        "Reads of jwks that gave no keys; those from before stay.",
        Sum(|m| m.jwks_read_failures_total),
    ),
];

pub(super) const CALLBACK: &[Family<Metrics>] = &[
    counter(
        "callback_calls_total",
        "Questions that the backend was asked, by what they came to.",
        SumBy(CALLBACK_RESULT, |m| &m.callback.calls_total),
    ),
    counter(
        "callback_cache_hits_total",
        "Questions whose answer was known.",
        Sum(|m| m.callback.cache_hits_total),
    ),
    counter(
        "callback_joined_total",
        "Questions that waited for the answer to the same one.",
        Sum(|m| m.callback.joined_total),
    ),
    counter(
        "callback_busy_total",
        "Questions that were not asked, since too many waited.",
        Sum(|m| m.callback.busy_total),
    ),
    gauge(
        "callback_in_flight",
        "Questions that the backend has now.",
        Sum(|m| m.callback.in_flight),
    ),
    gauge(
        "callback_waiting",
        "Questions that wait to be asked.",
        Sum(|m| m.callback.waiting),
    ),
    histogram(
        "callback_seconds",
        "Time of a question to the backend.",
        |m| &m.callback.time,
    ),
];

pub(super) const MESSAGES: &[Family<Metrics>] = &[
    counter(
        "messages_published_total",
        "Messages taken.",
        Sum(|m| m.published_messages_total),
    ),
    counter(
        "messages_published_bytes_total",
        "Payload bytes taken.",
        Sum(|m| m.published_bytes_total),
    ),
    counter(
        "messages_delivered_total",
        "Messages handed to connections.",
        Sum(|m| m.delivered_messages_total),
    ),
    counter(
        "messages_dropped_total",
        "Messages that a slow reader did not get, by the policy of the namespace.",
        SumBy(POLICY, |m| &m.dropped_messages_total),
    ),
    counter(
        "gaps_told_total",
        "Losses of history that a client was told of.",
        Sum(|m| m.gaps_told_total),
    ),
    counter(
        "socket_in_bytes_total",
        "Bytes received.",
        Sum(|m| m.socket_bytes_in_total),
    ),
    counter(
        "socket_out_bytes_total",
        "Bytes sent.",
        Sum(|m| m.socket_bytes_out_total),
    ),
    counter(
        "heartbeats_sent_total",
        "Pings and keep-alive comments.",
        Sum(|m| m.heartbeats_sent_total),
    ),
];

pub(super) const SHARDS: &[Family<Metrics>] = &[
    counter(
        "ring_overflows_total",
        "Times the completion queue was full.",
        PerShard(|m| m.ring_overflows_total),
    ),
    counter(
        "mails_total",
        "Mails from other shards.",
        PerShard(|m| m.mails_total),
    ),
    counter(
        "panics_total",
        "Connections ended by a bug.",
        Sum(|m| m.panics_total),
    ),
    gauge(
        "channels",
        "Channels that the shard is the home of.",
        PerShard(|m| m.channels),
    ),
    gauge(
        "channels_listened",
        "Channels with a listener on the shard.",
        PerShard(|m| m.channels_listened),
    ),
    gauge(
        "history_bytes",
        "Bytes of the histories.",
        PerShard(|m| m.history_bytes),
    ),
    gauge(
        "outbox_bytes",
        "Bytes that wait for clients to read them.",
        PerShard(|m| m.outbox_bytes),
    ),
    gauge(
        "fanout_backlog_bytes",
        "Bytes of messages on their way to listeners.",
        PerShard(|m| m.fanout_backlog_bytes),
    ),
    counter(
        "idempotency_keys_forgotten_total",
        "Idempotency keys forgotten before their time, for want of room.",
        Sum(|m| m.idempotency_keys_forgotten_total),
    ),
];

pub(super) const HISTORY_LOG: &[Family<Metrics>] = &[
    counter(
        "history_writes_total",
        "Batches handed to the history logs.",
        Sum(|m| m.history_writes_total),
    ),
    counter(
        "history_written_bytes_total",
        "Bytes written to the history logs.",
        Sum(|m| m.history_written_bytes_total),
    ),
    counter(
        "history_write_errors_total",
        "Batches that could not be written: their publishes were refused.",
        Sum(|m| m.history_write_errors_total),
    ),
    counter(
        "history_sync_errors_total",
        "Times that a history log did not come to the disk.",
        Sum(|m| m.history_sync_errors_total),
    ),
    gauge(
        "history_file_bytes",
        "Bytes of the history log's present file.",
        PerShard(|m| m.history_file_bytes),
    ),
    gauge(
        "history_queue_bytes",
        "Bytes that wait to be written to the history log.",
        PerShard(|m| m.history_queue_bytes),
    ),
    histogram(
        "history_write_seconds",
        "Time to write a batch to the history log.",
        |m| &m.history_write_time,
    ),
    gauge(
        "history_restored_messages",
        "Messages that the history logs brought back at the start.",
        Sum(|m| m.history_restored_messages),
    ),
    gauge(
        "history_torn_bytes",
        "Bytes of unfinished records that were cut at the start.",
        Sum(|m| m.history_torn_bytes),
    ),
    gauge(
        "history_damaged_bytes",
        "Bytes of damaged history logs that were left out at the start.",
        Sum(|m| m.history_damaged_bytes),
    ),
    gauge(
        "history_position_skips",
        "1 if positions were skipped at the start, since some may be missing.",
        Sum(|m| m.history_skips),
    ),
];

pub(super) const PROCESS: &[Family<Metrics>] = &[
    counter(
        "log_lines_dropped_total",
        "Log lines lost because stderr was not read fast enough.",
        Sum(|m| m.log_lines_dropped_total),
    ),
    counter(
        "reloads_total",
        "Configurations put in force by SIGHUP, on every shard.",
        Least(|m| m.reloads_total),
    ),
    counter(
        "reload_failures_total",
        "Configurations refused at SIGHUP, with the old one in force.",
        Sum(|m| m.reload_failures_total),
    ),
    histogram(
        "heartbeat_lateness_seconds",
        "How late heartbeats went out.",
        |m| &m.heartbeat_lateness,
    ),
    histogram("turn_seconds", "Time of one turn of a shard.", |m| {
        &m.turn_time
    }),
];
