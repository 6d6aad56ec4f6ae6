//! Every number that an operator may change: its name, its unit, its default and its reason.
//!
//! A [`Config`] is plain data, never changed once it is made: [`reload`] puts another one in its place. Durations are
//! milliseconds (`_ms`), sizes are bytes (`_bytes_`), so that no reader has to ask. Defaults stand below the fields.

pub mod address;
pub mod auth;
pub mod callback;
pub mod check;
pub mod describe;
pub mod load;
pub mod network;
pub mod reload;
pub mod setting;
pub mod table;
pub mod value;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use address::ListenAddress;
use auth::{Access, Auth, Secret};
use callback::Callback;
use network::Network;

/// What one server process runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect. Port 0 lets the kernel choose. Never empty.
    pub listen: Vec<SocketAddr>,
    /// Where the backend publishes and measures. `None`: on `listen` too.
    pub internal: Option<ListenAddress>,
    /// Mode of the file, where `internal` is a unix socket.
    pub internal_mode: u32,
    /// PEM files of the certificates of `listen` and of their key. `None`: it speaks plain HTTP.
    pub tls_certificate: Option<String>,
    pub tls_key: Option<String>,
    /// The same of `internal`.
    pub internal_tls_certificate: Option<String>,
    pub internal_tls_key: Option<String>,
    /// Connections to `listen` begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// So do those to `internal`.
    pub internal_proxy_protocol: bool,
    /// Whose header is believed. Nobody else may connect where one is required.
    pub proxy_sources: Vec<Network>,
    /// Shards, one thread each. 0 means one for each core; see [`Config::shards`].
    pub threads: usize,
    /// Ties each shard's thread to one core.
    pub pin_threads: bool,
    /// Lets a server without keys listen on an address that strangers can reach.
    pub insecure: bool,
    /// Who may use the server from a browser page: `*`, `https://example.com`, `https://*.example.com`.
    pub allowed_origins: Vec<String>,
    /// The directory that keeps the histories over a restart. `None`: they are in memory only.
    pub history_dir: Option<String>,
    /// The URL of the broker through which nodes work together; may have a password in it. `None`: there is one node.
    pub backplane: Option<Secret>,
    /// What the broker's keys, channels and subjects begin with; `None` as much as an empty one is refused.
    pub backplane_prefix: Option<String>,
    /// Certificates in PEM to trust the broker by, instead of those that the public trusts.
    pub backplane_ca_file: Option<String>,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    pub auth: Auth,
    pub callback: Callback,
    pub timing: Timing,
    pub limits: Limits,
    /// By name; always holds `""`. Ask [`Config::namespace`], which knows what an unlisted name means.
    pub namespaces: BTreeMap<String, Namespace>,
}

/// When something is due, or given up. All in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two signs of life on a quiet event stream or WebSocket. 25 s stays below the 60 s (and the rarer
    /// 30 s) after which proxies cut a silent connection.
    pub heartbeat_ms: u64,
    /// How long after a missed heartbeat a WebSocket without a sign of life is ended.
    pub pong_timeout_ms: u64,
    /// The longest `wait=` of a long poll.
    pub poll_wait_max_ms: u64,
    /// What an event stream, or a WebSocket that the server ends for a while, tells its client to wait before it comes
    /// back; jittered per connection.
    pub sse_retry_ms: u64,
    /// For how long newcomers beyond `accepts_per_second_max` are left waiting; 0 refuses them at once.
    pub accept_wait_max_ms: u64,
    /// From the accept until the header of the PROXY protocol is complete, where one is required.
    pub proxy_header_timeout_ms: u64,
    /// From the accept, or the end of the PROXY header, until TLS is agreed on, where it is spoken.
    pub handshake_timeout_ms: u64,
    /// From the first byte of a request until its head is complete.
    pub head_timeout_ms: u64,
    /// From the end of the head until the body is complete; from the first byte of a WebSocket message to its end.
    pub body_timeout_ms: u64,
    /// How long a kept-alive connection may wait for its next request. 75 s outlives the 60 s after which common
    /// balancers drop theirs, so that the side that reuses a connection is the side that closes it.
    pub idle_timeout_ms: u64,
    /// How long a refused client may go on sending before the close: closing on unread bytes resets the connection
    /// and loses the answer.
    pub linger_timeout_ms: u64,
    /// How long a WebSocket's closing handshake may take.
    pub close_timeout_ms: u64,
    /// How long a peer may take for 64 KiB of what waits for it, or for all of it.
    pub write_stall_timeout_ms: u64,
    /// How long a WebSocket may live; 0 is without a limit. Jittered per connection.
    pub websocket_age_max_ms: u64,
    /// How long an event stream may live; 0 is without a limit. Jittered per connection. A browser reconnects a
    /// stream by itself and without a loss, so the load spreads again within this time after a restart.
    pub event_stream_age_max_ms: u64,
    /// How long an unused channel keeps its epoch after its history is empty.
    pub channel_idle_timeout_ms: u64,
    /// How long the result of a publish is remembered under its `Idempotency-Key`.
    pub idempotency_window_ms: u64,
    /// Between two times that the history logs are brought to the disk: what a power loss may take. 0: before each
    /// answer.
    pub history_sync_interval_ms: u64,
    /// How long a write to a history log may take before publishes are refused.
    pub history_stall_timeout_ms: u64,
    /// For connecting to the broker, for any answer of it, and for whoever waits for one.
    pub backplane_timeout_ms: u64,
    /// How long a channel is still listened to at the broker after the last listener of this node has left.
    pub backplane_linger_ms: u64,
    /// Between two looks at where a channel stands at the broker, while somebody listens.
    pub backplane_check_interval_ms: u64,
    /// Between "not ready" and the first close at shutdown: the time a load balancer needs to notice.
    pub drain_delay_ms: u64,
    /// Over how long the closes at shutdown are spread.
    pub drain_period_ms: u64,
    /// How long connections have to finish once told; then they are cut.
    pub drain_timeout_ms: u64,
}

/// What a peer, a channel or a burst may grow to. Counts are plain numbers, sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sockets of the whole process. 0: as many as the descriptor limit allows.
    pub connections_max: usize,
    /// Connections of one client address. 0: any number, since one address may be a balancer, or the many behind a
    /// translating router.
    pub connections_per_address_max: usize,
    /// Connections on which one user listens. 0: any number, since what a user is (a person, a device, everybody of a
    /// customer) is for whoever signs the tokens to say.
    pub connections_per_user_max: usize,
    /// Newcomers that one shard takes in a second. 0: as many as come; a turn of the shard takes a few dozen at most.
    pub accepts_per_second_max: usize,
    /// WebSocket frames or HTTP requests of one connection in a second. 0: any number, since a backend that publishes
    /// over one connection sends tens of thousands.
    pub inbound_messages_per_second_max: usize,
    /// Bytes of them in a second. 0: any number.
    pub inbound_bytes_per_second_max: usize,
    /// Channels of the whole process.
    pub channels_max: usize,
    pub channels_per_connection_max: usize,
    /// Payload of one message.
    pub message_bytes_max: usize,
    /// Request line and header fields together.
    pub head_bytes_max: usize,
    /// Path and query.
    pub target_bytes_max: usize,
    pub headers_max: usize,
    /// Messages in one poll answer when the request does not say.
    pub poll_limit_default: usize,
    /// Messages in one poll answer at most.
    pub poll_limit_max: usize,
    /// Bytes that wait for one client to read them.
    pub outbox_bytes_max: usize,
    /// Bytes that wait for all clients of the process together.
    pub outbox_bytes_total_max: usize,
    /// Pipelined bytes kept while an answer is pending; beyond, the connection is not read.
    pub input_bytes_max: usize,
    /// Publishes of one WebSocket that await another shard, the disk or the broker; beyond, the connection is not read.
    pub publishes_in_flight_max: usize,
    /// All histories of the process together.
    pub history_bytes_total_max: usize,
    /// Records that wait for one shard's history log to be written.
    pub history_queue_bytes_max: usize,
    /// A shorter file of a history log is not rewritten, however little of it is needed.
    pub history_log_bytes_min: usize,
    /// Publishes on their way to the broker, of the whole process.
    pub backplane_queue_bytes_max: usize,
    /// Remembered publishes of the process.
    pub idempotency_keys_max: usize,
    /// Messages on their way to subscribers, per shard, counted before they are encoded.
    pub fanout_backlog_bytes_max: usize,
    /// Sends of one turn before the shard looks at its ring again. 64 take about half a millisecond, beside which
    /// looking costs nothing. Shards that share a core share this number, too.
    pub fanout_sends_per_turn: usize,
    /// Mails that wait for one shard.
    pub mailbox_max: usize,
}

/// How the channels of one namespace behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Messages kept per channel; 0 keeps none.
    pub history_messages: usize,
    /// How long a message is kept.
    pub history_age_ms: u64,
    /// Bytes of the messages kept per channel.
    pub history_bytes: usize,
    /// Whether a WebSocket client may publish to the channel it listens on.
    pub client_publish: bool,
    /// Who may listen.
    pub subscribe: Access,
    /// Who may publish beside those with an API key.
    pub publish: Access,
    /// Where the backend is asked whether somebody may listen, whom `subscribe` would let. `None`: it is not.
    pub authorize_url: Option<String>,
    /// What becomes of a client that reads more slowly than its channel speaks.
    pub slow_reader: SlowReader,
    /// What becomes of a publish while the broker is away.
    pub degraded: Degraded,
}

/// What becomes of a publish that the broker cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degraded {
    /// It is refused.
    Refuse,
    /// Whoever listens on this node gets it; nobody else does, ever.
    Local,
}

/// What gives way once more than `outbox_bytes_max` waits for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowReader {
    /// The connection: its cursor still holds, and the history has what it missed.
    Close,
    /// The oldest messages that wait, which is told as a gap.
    DropOldest,
    /// Every message but the newest of its channel, as soon as any has to wait; told as a gap, too.
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The least urgent line that is still written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Timing {
    /// A peer that acknowledges nothing for as long as a silent WebSocket may live is gone, whatever it listens by
    /// (tcp(7), `TCP_USER_TIMEOUT`).
    pub fn tcp_user_timeout_ms(&self) -> u32 {
        u32::try_from(self.heartbeat_ms + self.pong_timeout_ms).unwrap_or(u32::MAX)
    }
}

impl Config {
    /// The settings of namespace `name`: its own table, or that of `""` where it has none.
    pub fn namespace(&self, name: &str) -> &Namespace {
        self.namespaces
            .get(name)
            .unwrap_or_else(|| &self.namespaces[""])
    }

    /// The backend has a say in who somebody is, or in who may listen in some namespace at least.
    pub fn asks_backend(&self) -> bool {
        let mut namespaces = self.namespaces.values();
        self.auth.connect_url.is_some()
            || namespaces.any(|namespace| namespace.authorize_url.is_some())
    }

    /// How many shards to start: `threads`, or one for each core this process may use.
    pub fn shards(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(THREADS_MAX),
            n => n,
        }
    }
}

/// More threads than any host has cores for; what each shard keeps of the others stays small.
pub const THREADS_MAX: usize = 256;

/// A shard's equal part of what a limit allows the process. It is rounded up, so that a small limit leaves each shard
/// something.
pub fn share(limit: usize, n_shards: usize) -> usize {
    limit.div_ceil(n_shards)
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const GIB: usize = 1024 * MIB;
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            internal: None,
            internal_mode: 0o660,
            tls_certificate: None,
            tls_key: None,
            internal_tls_certificate: None,
            internal_tls_key: None,
            proxy_protocol: false,
            internal_proxy_protocol: false,
            proxy_sources: Vec::new(),
            threads: 0,
            pin_threads: false,
            insecure: false,
            allowed_origins: vec!["*".to_owned()],
            history_dir: None,
            backplane: None,
            backplane_prefix: Some("pushring".to_owned()),
            backplane_ca_file: None,
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            auth: Auth::default(),
            callback: Callback::default(),
            timing: Timing::default(),
            limits: Limits::default(),
            namespaces: BTreeMap::from([(String::new(), Namespace::default())]),
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 25 * SECOND_MS,
            pong_timeout_ms: 10 * SECOND_MS,
            poll_wait_max_ms: 60 * SECOND_MS,
            sse_retry_ms: 3 * SECOND_MS,
            accept_wait_max_ms: 0,
            proxy_header_timeout_ms: 5 * SECOND_MS,
            handshake_timeout_ms: 5 * SECOND_MS,
            head_timeout_ms: 10 * SECOND_MS,
            body_timeout_ms: 30 * SECOND_MS,
            idle_timeout_ms: 75 * SECOND_MS,
            linger_timeout_ms: 2 * SECOND_MS,
            close_timeout_ms: 5 * SECOND_MS,
            write_stall_timeout_ms: 30 * SECOND_MS,
            websocket_age_max_ms: 0,
            event_stream_age_max_ms: 60 * MINUTE_MS,
            channel_idle_timeout_ms: 10 * MINUTE_MS,
            idempotency_window_ms: 5 * MINUTE_MS,
            history_sync_interval_ms: SECOND_MS,
            history_stall_timeout_ms: SECOND_MS,
            backplane_timeout_ms: 5 * SECOND_MS,
            backplane_linger_ms: 10 * SECOND_MS,
            backplane_check_interval_ms: 10 * SECOND_MS,
            drain_delay_ms: 0,
            drain_period_ms: SECOND_MS,
            drain_timeout_ms: 10 * SECOND_MS,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 0,
            connections_per_address_max: 0,
            connections_per_user_max: 0,
            accepts_per_second_max: 0,
            inbound_messages_per_second_max: 0,
            inbound_bytes_per_second_max: 0,
            channels_max: 1_000_000,
            channels_per_connection_max: 64,
            message_bytes_max: 64 * KIB,
            head_bytes_max: 16 * KIB,
            target_bytes_max: 8 * KIB,
            headers_max: 64,
            poll_limit_default: 100,
            poll_limit_max: 1_000,
            outbox_bytes_max: MIB,
            outbox_bytes_total_max: GIB,
            input_bytes_max: 64 * KIB,
            publishes_in_flight_max: 32,
            history_bytes_total_max: GIB,
            history_queue_bytes_max: 16 * MIB,
            history_log_bytes_min: 64 * MIB,
            backplane_queue_bytes_max: 64 * MIB,
            idempotency_keys_max: 100_000,
            fanout_backlog_bytes_max: 64 * MIB,
            fanout_sends_per_turn: 64,
            mailbox_max: 65_536,
        }
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            history_messages: 100,
            history_age_ms: 10 * MINUTE_MS,
            history_bytes: MIB,
            client_publish: false,
            subscribe: Access::Public,
            publish: Access::Internal,
            authorize_url: None,
            slow_reader: SlowReader::Close,
            degraded: Degraded::Refuse,
        }
    }
}
