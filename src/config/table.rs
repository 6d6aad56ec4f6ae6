//! The table of all settings. A new setting is a field in `mod.rs` and a line here; one that is read only at the start
//! is named in `reload.rs`, too.

use super::auth::{Access, ApiKey, TokenAlgorithm, TokenKey};
use super::callback::{CACHE_TTL_MAX_MS, WhenDown};
use super::setting::{Field, Group, Kind, Setting};
use super::{Config, Degraded, LogFormat, LogLevel, Namespace, SlowReader, THREADS_MAX};
use super::{GIB, KIB, MIB};
use crate::proto::http_request::HEADERS_MAX;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Durations that a peer is held to: short enough for a test, long enough for the slowest link.
const PATIENCE: std::ops::RangeInclusive<u64> = 100..=HOUR;

macro_rules! field {
    ($($path:tt)+) => {
        Field { get: |t| &t.$($path)+, get_mut: |t| &mut t.$($path)+ }
    };
}

const fn setting<T>(
    group: Group,
    name: &'static str,
    kind: Kind<T>,
    help: &'static str,
) -> Setting<T> {
    Setting {
        name,
        group,
        kind,
        help,
    }
}

#[rustfmt::skip]
pub static SETTINGS: &[Setting<Config>] = {
    use Group::{
        Authentication, Backplane, Callback, Channels, Delivery, HistoryLog, Logs, Network, Requests, Shards,
        Shutdown,
    };
    use Kind::{
        Addresses, Bool, Bytes, Count, Duration, HeaderNames, Mode, Networks, OptionalAddress, OptionalText,
        OptionalUrl, Origins, Secret,
    };
    &[
        setting(Network, "listen", Addresses(field!(listen)),
            "Where clients connect. Port 0 lets the kernel choose; the log says which port it got."),
        setting(Network, "internal", OptionalAddress(field!(internal)),
            "Where the backend publishes and measures; with none, that is on listen too. unix:/run/pushring.sock is a unix \
             socket, for programs on this host."),
        setting(Network, "internal_mode", Mode(field!(internal_mode)),
            "Mode of the unix socket's file: who has the right to write may connect."),
        setting(Network, "insecure", Bool(field!(insecure)),
            "Lets a server without keys listen on an address that is not loopback: whoever reaches it may then \
             publish and listen."),
        setting(Network, "allowed_origins", Origins(field!(allowed_origins)),
            "Web pages that may use the server, for CORS and for the Origin of a WebSocket. * is any; \
             https://*.example.com is every subdomain. Others are refused with 403."),
        setting(Network, "connections_max", Count(field!(limits.connections_max), 0..=100_000_000),
            "Open connections of the process; 0 is as many as the descriptor limit allows. Beyond, a connection is \
             answered 503 and closed."),
        setting(Network, "connections_per_address_max", Count(field!(limits.connections_per_address_max), 0..=100_000_000),
            "Open connections of one client address, IPv6 by its /64; 0 is any number. Beyond, a connection is answered \
             429 and closed. The backend on internal is exempt. Behind a balancer only with proxy_protocol, or all \
             clients have its address."),
        setting(Network, "connections_per_user_max", Count(field!(limits.connections_per_user_max), 0..=100_000_000),
            "Connections on which one user (sub of the token) listens, on all threads together; 0 is any number. Beyond, \
             a request to listen is answered 429; a WebSocket that brings its token later is closed with 1008."),
        setting(Network, "accepts_per_second_max", Count(field!(limits.accepts_per_second_max), 0..=1_000_000),
            "Connections that each thread takes in a second; 0 is any number. Beyond, a connection is answered 503 and \
             closed, or waits first (accept_wait_max). The backend on internal is exempt."),
        setting(Network, "accept_wait_max", Duration(field!(timing.accept_wait_max_ms), 0..=MINUTE),
            "How long newcomers may be faster than accepts_per_second_max and are left waiting in the kernel's queue, to \
             come in one after another; only then they are refused. 0s refuses them at once."),
        setting(Network, "tls_certificate", OptionalText(field!(tls_certificate)),
            "PEM file with the certificate of listen, and behind it those that signed it; with none, listen speaks \
             plain HTTP."),
        setting(Network, "tls_key", OptionalText(field!(tls_key)),
            "PEM file with the private key of tls_certificate."),
        setting(Network, "internal_tls_certificate", OptionalText(field!(internal_tls_certificate)),
            "The same for internal."),
        setting(Network, "internal_tls_key", OptionalText(field!(internal_tls_key)),
            "The private key of internal_tls_certificate."),
        setting(Network, "handshake_timeout", Duration(field!(timing.handshake_timeout_ms), PATIENCE),
            "From the accept, or the end of the PROXY header, until TLS is agreed on. Later, the connection is closed."),
        setting(Network, "proxy_protocol", Bool(field!(proxy_protocol)),
            "Connections to listen begin with a header of the PROXY protocol, version 1 or 2, and the address in it is \
             the client's. Without one a connection is refused."),
        setting(Network, "internal_proxy_protocol", Bool(field!(internal_proxy_protocol)),
            "The same for connections to internal."),
        setting(Network, "proxy_sources", Networks(field!(proxy_sources)),
            "Addresses of the balancers whose PROXY header is believed. Where a header is required, connections from \
             others are refused with 403."),
        setting(Network, "proxy_header_timeout", Duration(field!(timing.proxy_header_timeout_ms), PATIENCE),
            "From the accept to the end of the PROXY header. Later, the connection is refused with 408."),

        setting(Authentication, "jwks", OptionalText(field!(auth.jwks)),
            "The public keys of tokens as a JSON Web Key Set: a file, or a URL. Read at start and then refreshed."),
        setting(Authentication, "jwks_ca_file", OptionalText(field!(auth.jwks_ca_file)),
            "Certificates in PEM that https of jwks is trusted by; none is those of the public authorities, as they \
             were when this program was built."),
        setting(Authentication, "jwks_refresh", Duration(field!(auth.jwks_refresh_ms), SECOND..=DAY),
            "Between two reads of jwks. When one fails, the keys from before stay."),
        setting(Authentication, "jwks_refetch_interval", Duration(field!(auth.jwks_refetch_interval_ms), SECOND..=HOUR),
            "Between two reads of jwks that a token with an unknown kid brings about. Sooner, it is refused at once."),
        setting(Authentication, "token_audience", OptionalText(field!(auth.token_audience)),
            "What a token has to name in aud."),
        setting(Authentication, "token_issuer", OptionalText(field!(auth.token_issuer)),
            "What a token has to have as iss."),
        setting(Authentication, "token_leeway", Duration(field!(auth.token_leeway_ms), 0..=10 * MINUTE),
            "How far the clocks of this host and of the tokens' issuer may be apart, for exp and nbf."),
        setting(Authentication, "token_exp_required", Bool(field!(auth.token_exp_required)),
            "Whether a token without exp is refused. If not, it is good for as long as its key is."),
        setting(Authentication, "token_cookie", OptionalText(field!(auth.token_cookie)),
            "The cookie that may bring the token. Then the page's origin has to be the server's own, or one that \
             allowed_origins names other than by *."),
        setting(Authentication, "token_cache_max", Count(field!(auth.token_cache_max), 0..=100_000_000),
            "Verified tokens of the process that are remembered until they end, so that a long poll is not verified \
             anew each time. Beyond, the oldest are forgotten."),
        setting(Authentication, "token_expiry_grace", Duration(field!(auth.token_expiry_grace_ms), 0..=HOUR),
            "How long a WebSocket or an event stream outlives its token; then it is closed (WebSocket: 3005). The \
             time to bring a new token."),
        setting(Authentication, "auth_timeout", Duration(field!(auth.auth_timeout_ms), PATIENCE),
            "How long a WebSocket that came without a token may take to bring it as its first message; then it is \
             closed with 3500."),

        setting(Callback, "connect_url", OptionalUrl(field!(auth.connect_url)),
            "Where the backend is asked, by HTTP, who somebody is that wants to listen or publish and shows no token, and \
             what they may; the answer counts as much as a token. With none, it is not."),
        setting(Callback, "callback_timeout", Duration(field!(callback.timeout_ms), 10..=MINUTE),
            "How long the backend (connect_url, authorize_url) has for its answer; later, it counts as down. A question that waits as \
             long before it can be asked is refused with 503."),
        setting(Callback, "callback_when_down",
            Kind::Choice {
                words: WhenDown::WORDS,
                get: |c| c.callback.when_down as usize,
                set: |c, i| c.callback.when_down = WhenDown::ALL[i],
            },
            "What becomes of a request when the backend is down: refused with 503, or allowed, as nobody where connect_url \
             was to say who it is."),
        setting(Callback, "callback_headers", HeaderNames(field!(callback.headers)),
            "Header fields of the request that are passed on with the question."),
        setting(Callback, "callback_concurrency_max", Count(field!(callback.concurrency_max), 1..=1_024),
            "Questions that the backend has at a time, of the process; each takes a thread and a connection."),
        setting(Callback, "callback_queue_max", Count(field!(callback.queue_max), 1..=1_000_000),
            "Questions that wait behind them. Beyond, a request is refused with 503."),
        setting(Callback, "callback_cache_ttl", Duration(field!(callback.cache_ttl_ms), 0..=CACHE_TTL_MAX_MS),
            "How long an answer is good for the same question, where it has no Cache-Control of its own; 0s is for one \
             request only."),
        setting(Callback, "callback_cache_max", Count(field!(callback.cache_max), 0..=100_000_000),
            "Answers of the process that are remembered. Beyond, the oldest are forgotten."),
        setting(Callback, "callback_ca_file", OptionalText(field!(callback.ca_file)),
            "Certificates in PEM that https of connect_url and authorize_url is trusted by; none is those of the public authorities, as \
             they were when this program was built."),

        setting(Requests, "head_timeout", Duration(field!(timing.head_timeout_ms), PATIENCE),
            "From the first byte of a request to the end of its head. Later, it is refused with 408."),
        setting(Requests, "body_timeout", Duration(field!(timing.body_timeout_ms), PATIENCE),
            "From the end of the head to the end of the body. Later, the request is refused with 408. Also from the first \
             byte of a WebSocket message to its end; later, it is closed with 1008."),
        setting(Requests, "idle_timeout", Duration(field!(timing.idle_timeout_ms), 100..=DAY),
            "How long a kept-alive connection may wait for its next request; then it is closed. Longer than the \
             idle time-out of the load balancer in front."),
        setting(Requests, "linger_timeout", Duration(field!(timing.linger_timeout_ms), 0..=MINUTE),
            "How long a refused client may go on sending, unread, so that it can read the refusal; then it is cut."),
        setting(Requests, "head_bytes_max", Bytes(field!(limits.head_bytes_max), KIB..=MIB),
            "Request line and header fields together. A longer head is refused with 431."),
        setting(Requests, "target_bytes_max", Bytes(field!(limits.target_bytes_max), 256..=64 * KIB),
            "Path and query of a request. A longer target is refused with 414."),
        setting(Requests, "headers_max", Count(field!(limits.headers_max), 8..=HEADERS_MAX),
            "Header fields of a request. More are refused with 431."),
        setting(Requests, "input_bytes_max", Bytes(field!(limits.input_bytes_max), KIB..=64 * MIB),
            "Pipelined bytes kept while an answer is pending. At the limit the connection is not read until the \
             answer is out."),
        setting(Requests, "inbound_messages_per_second_max",
            Count(field!(limits.inbound_messages_per_second_max), 0..=1_000_000),
            "Frames of one WebSocket, or requests of one HTTP connection, in a second; 0 is any number. Beyond, a \
             WebSocket is closed with 1008, a request refused with 429. The backend on internal is exempt."),
        setting(Requests, "inbound_bytes_per_second_max",
            Bytes(field!(limits.inbound_bytes_per_second_max), 0..=GIB),
            "The same for their bytes. A large message passes, and those after it pay for it."),

        setting(Delivery, "heartbeat", Duration(field!(timing.heartbeat_ms), PATIENCE),
            "Between two signs of life (ping, or a comment line) on a quiet connection. Shorter than the idle \
             time-out of every proxy on the way."),
        setting(Delivery, "pong_timeout", Duration(field!(timing.pong_timeout_ms), PATIENCE),
            "A WebSocket that was silent for heartbeat + pong_timeout is closed with 3012."),
        setting(Delivery, "poll_wait_max", Duration(field!(timing.poll_wait_max_ms), PATIENCE),
            "The longest wait= of a long poll. A longer wait is shortened to this."),
        setting(Delivery, "poll_limit_default", Count(field!(limits.poll_limit_default), 1..=100_000),
            "Messages in one poll answer when the request has no limit=."),
        setting(Delivery, "poll_limit_max", Count(field!(limits.poll_limit_max), 1..=100_000),
            "Messages in one poll answer at most. The next poll gets the rest."),
        setting(Delivery, "sse_retry", Duration(field!(timing.sse_retry_ms), 100..=10 * MINUTE),
            "What an event stream, or a WebSocket that the server ends for a while, tells its client to wait before it comes \
             back; jittered for each connection."),
        setting(Delivery, "channels_per_connection_max", Count(field!(limits.channels_per_connection_max), 1..=1_000),
            "Channels of one request. More are refused with 400."),
        setting(Delivery, "outbox_bytes_max", Bytes(field!(limits.outbox_bytes_max), KIB..=GIB),
            "Bytes that wait for one client to read them. Beyond, the client is too slow and is closed (WebSocket: \
             3008)."),
        setting(Delivery, "outbox_bytes_total_max", Bytes(field!(limits.outbox_bytes_total_max), KIB..=1_024 * GIB),
            "Bytes that wait for all clients of the process, an equal share for each shard. Beyond, clients for whom more \
             than the average waits are closed as too slow."),
        setting(Delivery, "write_stall_timeout", Duration(field!(timing.write_stall_timeout_ms), PATIENCE),
            "How long a client may take for 64 KiB of what waits for it, or for all of it; then it is closed."),
        setting(Delivery, "close_timeout", Duration(field!(timing.close_timeout_ms), 100..=MINUTE),
            "How long the closing handshake of a WebSocket may take; then the connection is cut."),
        setting(Delivery, "websocket_age_max", Duration(field!(timing.websocket_age_max_ms), 0..=365 * DAY),
            "How long a WebSocket lives, up to a tenth more or less; then it is closed with 3001 and a short delay to \
             reconnect after. 0s is without a limit."),
        setting(Delivery, "event_stream_age_max", Duration(field!(timing.event_stream_age_max_ms), 0..=365 * DAY),
            "How long an event stream lives, up to a tenth more or less; then it ends with a short retry, and the \
             client comes back with its cursor. 0s is without a limit."),

        setting(Channels, "message_bytes_max", Bytes(field!(limits.message_bytes_max), 1..=64 * MIB),
            "Payload of one message. A larger publish is refused with 413, on a WebSocket with close code 1009."),
        setting(Channels, "channels_max", Count(field!(limits.channels_max), 1..=100_000_000),
            "Channels of the process. At the limit a request that needs a new one is refused with 503."),
        setting(Channels, "channel_idle_timeout", Duration(field!(timing.channel_idle_timeout_ms), 0..=30 * DAY),
            "How long a channel without listeners is kept after its last use and the end of its history; then it is \
             forgotten, epoch and all, and older cursors are told of a gap."),
        setting(Channels, "history_bytes_total_max", Bytes(field!(limits.history_bytes_total_max), 0..=1_024 * GIB),
            "All histories of the process together, an equal share for each shard. Beyond, a channel that is \
             published to loses its own oldest messages; where that is not enough, the publish is refused with 503."),
        setting(Channels, "idempotency_window", Duration(field!(timing.idempotency_window_ms), 0..=DAY),
            "How long a repeat of a publish with the same Idempotency-Key is answered with the first result; 0s \
             delivers repeats."),
        setting(Channels, "idempotency_keys_max", Count(field!(limits.idempotency_keys_max), 0..=100_000_000),
            "Remembered publishes of the process. Beyond, the oldest are forgotten before the window is over."),
        setting(Channels, "publishes_in_flight_max", Count(field!(limits.publishes_in_flight_max), 1..=10_000),
            "Publishes of one WebSocket that await another shard, the disk or the broker. At the limit the connection is not \
             read."),

        setting(HistoryLog, "history_dir", OptionalText(field!(history_dir)),
            "The directory that keeps histories, positions and epochs over a restart. It is made if it is missing, and \
             one process has it for itself. With none, histories are in memory only."),
        setting(HistoryLog, "history_sync_interval", Duration(field!(timing.history_sync_interval_ms), 0..=MINUTE),
            "How often what was published is brought to the disk. A power loss takes what came in since; the end of the \
             process, even by kill -9, takes nothing. 0s: before each answer."),
        setting(HistoryLog, "history_stall_timeout", Duration(field!(timing.history_stall_timeout_ms), 10..=MINUTE),
            "How long a write may take. Longer, publishes are refused with 503 until it is done."),
        setting(HistoryLog, "history_queue_bytes_max", Bytes(field!(limits.history_queue_bytes_max), 4 * KIB..=GIB),
            "Publishes of one shard that wait to be written. Beyond, a publish is refused with 503."),
        setting(HistoryLog, "history_log_bytes_min", Bytes(field!(limits.history_log_bytes_min), 4 * KIB..=64 * GIB),
            "A shard's log is rewritten when it is longer than this, and twice as long as what it has to keep."),

        setting(Backplane, "backplane", Secret(field!(backplane)),
            "The broker through which several nodes work together: redis://, rediss://, redis+sentinel://, \
             redis+cluster:// or nats://. With none, this node works alone."),
        setting(Backplane, "backplane_prefix", OptionalText(field!(backplane_prefix)),
            "What everything at the broker begins with: nodes with the same prefix work together."),
        setting(Backplane, "backplane_ca_file", OptionalText(field!(backplane_ca_file)),
            "Certificates in PEM that TLS to the broker is trusted by; none is those of the public authorities, as they \
             were when this program was built."),
        setting(Backplane, "backplane_timeout", Duration(field!(timing.backplane_timeout_ms), 100..=MINUTE),
            "For connecting to the broker, and for any answer of it. Longer, it is taken for lost and connected anew; \
             who waits for it is refused with 503."),
        setting(Backplane, "backplane_linger", Duration(field!(timing.backplane_linger_ms), 0..=HOUR),
            "How long a channel is still listened to at the broker after its last listener has left this node: who \
             comes back sooner costs the broker nothing."),
        setting(Backplane, "backplane_check_interval", Duration(field!(timing.backplane_check_interval_ms), 100..=HOUR),
            "How often each channel with listeners is compared with the broker, which finds a last message that did not \
             come by itself."),
        setting(Backplane, "backplane_queue_bytes_max", Bytes(field!(limits.backplane_queue_bytes_max), 64 * KIB..=64 * GIB),
            "Publishes of the process on their way to the broker. Beyond, a publish is refused with 503."),

        setting(Shards, "threads", Count(field!(threads), 0..=THREADS_MAX),
            "Shards, one thread each; 0 is one for each core."),
        setting(Shards, "pin_threads", Bool(field!(pin_threads)),
            "Ties each shard's thread to one core. For a machine that does nothing else."),
        setting(Shards, "fanout_backlog_bytes_max", Bytes(field!(limits.fanout_backlog_bytes_max), KIB..=64 * GIB),
            "Messages of one shard that wait to be sent to subscribers. Beyond, a publish is refused with 503."),
        setting(Shards, "fanout_sends_per_turn", Count(field!(limits.fanout_sends_per_turn), 1..=65_536),
            "Sends in one turn of a shard before it looks at its sockets again, and as many heartbeats. More is faster \
             for large channels, less is fairer to all others."),
        setting(Shards, "mailbox_max", Count(field!(limits.mailbox_max), 16..=16_777_216),
            "Mails from other shards that wait for one shard. Beyond, a publish is refused with 503."),

        setting(Shutdown, "drain_delay", Duration(field!(timing.drain_delay_ms), 0..=10 * MINUTE),
            "Between /readyz saying 503 and the first close: the time that the load balancer needs to notice."),
        setting(Shutdown, "drain_period", Duration(field!(timing.drain_period_ms), 0..=HOUR),
            "Over how long the closes are spread, so that clients do not all come back at once."),
        setting(Shutdown, "drain_timeout", Duration(field!(timing.drain_timeout_ms), 0..=HOUR),
            "How long connections have to finish, from the first close on; then they are cut."),

        setting(Logs, "log_format",
            Kind::Choice {
                words: LogFormat::WORDS,
                get: |c| c.log_format as usize,
                set: |c, i| c.log_format = LogFormat::ALL[i],
            },
            "One line of text, or one JSON object, for each event on stderr."),
        setting(Logs, "log_level",
            Kind::Choice {
                words: LogLevel::WORDS,
                get: |c| c.log_level as usize,
                set: |c, i| c.log_level = LogLevel::ALL[i],
            },
            "The least urgent event that is logged."),
    ]
};

/// The fields of `[namespace.NAME]`.
#[rustfmt::skip]
pub static NAMESPACE_SETTINGS: &[Setting<Namespace>] = {
    use Group::Namespace;
    use Kind::{Bool, Bytes, Count, Duration, OptionalUrl};
    &[
        setting(Namespace, "history_messages", Count(field!(history_messages), 0..=100_000),
            "Messages kept for each channel; 0 keeps none. The oldest go first, and late cursors are told of a gap."),
        setting(Namespace, "history_age", Duration(field!(history_age_ms), 0..=30 * DAY),
            "How long a message is kept."),
        setting(Namespace, "history_bytes", Bytes(field!(history_bytes), 0..=64 * GIB),
            "Bytes kept for each channel: payloads, event names, and some 100 bytes for each message. The oldest messages \
             go first; the newest one always has room."),
        setting(Namespace, "client_publish", Bool(field!(client_publish)),
            "Whether a WebSocket client may publish to its channel. If not, its data frame is answered with close \
             code 1008."),
        setting(Namespace, "subscribe",
            Kind::Choice {
                words: Access::SUBSCRIBE_WORDS,
                get: |n| n.subscribe as usize,
                set: |n, i| n.subscribe = Access::ALL[i],
            },
            "Who may listen: public is everybody, authenticated everybody with a good token, token those whose token \
             lists the channel."),
        setting(Namespace, "publish",
            Kind::Choice {
                words: Access::WORDS,
                get: |n| n.publish as usize,
                set: |n, i| n.publish = Access::ALL[i],
            },
            "Who may publish beside the backend: as subscribe, and internal is nobody."),
        setting(Namespace, "authorize_url", OptionalUrl(field!(authorize_url)),
            "Where the backend is asked, by HTTP, whether somebody may listen whom subscribe would let; with none, it is \
             not."),
        setting(Namespace, "slow_reader",
            Kind::Choice {
                words: SlowReader::WORDS,
                get: |n| n.slow_reader as usize,
                set: |n, i| n.slow_reader = SlowReader::ALL[i],
            },
            "Over outbox_bytes_max, what gives way: the connection (close), or the oldest messages that wait \
             (drop_oldest). With latest, a message that has to wait gives way to the next one of its channel. What is \
             dropped is told as a gap; a WebSocket with format=raw has no room for that and is closed."),
        setting(Namespace, "degraded",
            Kind::Choice {
                words: Degraded::WORDS,
                get: |n| n.degraded as usize,
                set: |n, i| n.degraded = Degraded::ALL[i],
            },
            "What becomes of a publish while the broker is away: refused with 503 (refuse), or brought to those who \
             listen on this node, and to nobody else, ever (local)."),
    ]
};

/// The fields of `[token_key.NAME]`.
#[rustfmt::skip]
pub static TOKEN_KEY_SETTINGS: &[Setting<TokenKey>] = {
    use Kind::{OptionalText, Secret};
    &[
        setting(Group::TokenKey, "algorithm",
            Kind::Choice {
                words: TokenAlgorithm::WORDS,
                get: |k| k.algorithm as usize,
                set: |k, i| k.algorithm = TokenAlgorithm::ALL[i],
            },
            "The only algorithm that a token with this key may have."),
        setting(Group::TokenKey, "secret", Secret(field!(secret)),
            "For HS256, HS384, HS512: at least 32, 48, 64 bytes."),
        setting(Group::TokenKey, "secret_file", OptionalText(field!(secret_file)),
            "The same in a file; one line end at its end is not part of it."),
        setting(Group::TokenKey, "public_key", OptionalText(field!(public_key)),
            "For the other algorithms: the public key in PEM, RSA of 2048 to 4096 bits."),
        setting(Group::TokenKey, "public_key_file", OptionalText(field!(public_key_file)),
            "The same in a file."),
    ]
};

/// The fields of `[api_key.NAME]`.
#[rustfmt::skip]
pub static API_KEY_SETTINGS: &[Setting<ApiKey>] = {
    use Kind::{Channels, OptionalText, Secret};
    &[
        setting(Group::ApiKey, "secret", Secret(field!(secret)),
            "What the backend sends: visible ASCII, at least 16 bytes, better 32 random ones in hexadecimal."),
        setting(Group::ApiKey, "secret_file", OptionalText(field!(secret_file)),
            "The same in a file; one line end at its end is not part of it."),
        setting(Group::ApiKey, "channels", Channels(field!(channels)),
            "The channels that it is good for: names, prefix* for all that begin so, * for all."),
    ]
};

/// What such a table is, for the README.
pub const TOKEN_KEY_HELP: &str = "A key that tokens may be signed with; its name is the `kid`.";
pub const API_KEY_HELP: &str = "What a backend shows as `Authorization: Bearer` or `X-API-Key`; its name is for the operator only.";

/// What a namespace is, for `--help` and the README.
pub const NAMESPACE_HELP: &str = "The part of a channel's name before its first colon is its namespace; \
    a channel without a colon is in the namespace \"\". \
    A namespace without a table of its own is treated as \"\" is; a field that a table leaves out is as in \"\".";

/// In the order of the enum, so that the discriminant is the index.
impl LogFormat {
    const ALL: &[Self] = &[Self::Text, Self::Json];
    const WORDS: &[&str] = &["text", "json"];
}

/// In the order of the enum, so that the discriminant is the index.
impl Degraded {
    const ALL: &[Self] = &[Self::Refuse, Self::Local];
    const WORDS: &[&str] = &["refuse", "local"];
}

impl SlowReader {
    const ALL: &[Self] = &[Self::Close, Self::DropOldest, Self::Latest];
    pub(crate) const WORDS: &[&str] = &["close", "drop_oldest", "latest"];

    /// The metric's label and the log's word; the same as in the file.
    pub fn label(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// In the order of the enum, so that the discriminant is the index.
impl LogLevel {
    const ALL: &[Self] = &[
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];
    const WORDS: &[&str] = &["error", "warn", "info", "debug", "trace"];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::value::ValueError;
    use super::*;

    #[test]
    fn a_default_is_in_range_and_what_is_shown_reads_back() {
        check(SETTINGS, &Config::default());
        check(NAMESPACE_SETTINGS, &Namespace::default());
        check_places(TOKEN_KEY_SETTINGS, &TokenKey::default());
        check_places(API_KEY_SETTINGS, &ApiKey::default());
    }

    /// Names are unique, sorted by group, and none begins like the variables that Kubernetes sets for a service
    /// called `pushring`.
    #[test]
    fn names_are_unambiguous() {
        let names: BTreeSet<_> = SETTINGS.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SETTINGS.len());
        assert!(SETTINGS.is_sorted_by_key(|s| s.group as usize));
        for name in names {
            assert!(
                !name.starts_with("port") && !name.starts_with("service"),
                "{name}"
            );
            assert!(name != "namespace" && name != "config", "{name}");
        }
    }

    #[test]
    fn the_bounds_hold_and_one_beyond_is_refused() {
        let find = |name: &str| SETTINGS.iter().find(|s| s.name == name).unwrap();
        let mut config = Config::default();
        for (name, text, want) in [
            ("message_bytes_max", "64MiB", Ok(())),
            ("message_bytes_max", "67108865", Err(ValueError::TooBig)),
            ("message_bytes_max", "0", Err(ValueError::TooSmall)),
            ("threads", "256", Ok(())),
            ("threads", "257", Err(ValueError::TooBig)),
            ("headers_max", "100", Ok(())),
            ("headers_max", "101", Err(ValueError::TooBig)),
            ("heartbeat", "100ms", Ok(())),
            ("heartbeat", "99ms", Err(ValueError::TooSmall)),
            ("log_format", "json", Ok(())),
            ("log_format", "xml", Err(ValueError::Malformed)),
            ("internal", "127.0.0.1:8081", Ok(())),
            ("internal", "none", Ok(())),
            ("listen", "127.0.0.1:0, [::1]:0", Ok(())),
            ("listen", "", Err(ValueError::Malformed)),
        ] {
            let before = config.clone();
            assert_eq!(find(name).apply(&mut config, text), want, "{name} = {text}");
            assert!(
                want.is_ok() || config == before,
                "{name} = {text} changed something"
            );
        }
        assert_eq!(find("listen").show(&config), "127.0.0.1:0,[::1]:0");
    }

    #[test]
    fn every_setting_has_a_place_of_its_own() {
        check_places(SETTINGS, &Config::default());
        check_places(NAMESPACE_SETTINGS, &Namespace::default());
    }

    #[track_caller]
    fn check_places<T: Clone + PartialEq>(settings: &[Setting<T>], default: &T) {
        const OTHER_VALUES: &[&str] = &[
            "777ms",
            "77s",
            "7KiB",
            "77MiB",
            "77",
            "true",
            "false",
            "json",
            "debug",
            "latest",
            "local",
            "127.0.0.1:7",
            "https://a",
            "token",
            "allow",
            "RS256",
            "10.0.0.0/8",
            "/a/path",
        ];
        let shown = settings
            .iter()
            .filter(|s| !matches!(s.kind, Kind::Secret(_)));
        for setting in shown {
            let mut target = default.clone();
            let applied = OTHER_VALUES
                .iter()
                .any(|text| setting.apply(&mut target, text).is_ok() && target != *default);
            assert!(applied, "{}", setting.name);
            let changed: Vec<_> = settings
                .iter()
                .filter(|s| s.show(&target) != s.show(default))
                .map(|s| s.name)
                .collect();
            assert_eq!(changed, [setting.name]);
        }
    }

    #[track_caller]
    fn check<T: Default + PartialEq + Clone>(settings: &[Setting<T>], default: &T) {
        for setting in settings {
            let shown = setting.show(default);
            let mut target = default.clone();
            assert_eq!(
                setting.apply(&mut target, &shown),
                Ok(()),
                "{} = {shown}",
                setting.name
            );
            assert!(
                target == *default,
                "{} = {shown} reads back as something else",
                setting.name
            );
            assert!(setting.help.ends_with('.'), "{}", setting.name);
        }
    }
}
