//! What a run is asked for.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::network::NODES_MAX;

#[derive(Args, Clone, Debug)]
pub(crate) struct Verify {
    /// The server's program.
    #[arg(long, value_name = "PATH")]
    pub(super) program: PathBuf,
    /// An argument for the server, such as --threads=3. May be repeated.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub(super) server_arg: Vec<String>,
    /// How long clients and server are troubled.
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub(super) duration: f64,
    /// Messages per second, of all publishers.
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND")]
    pub(super) rate: f64,
    /// What happens to the server, or to one of the nodes, and to their broker, at even intervals.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "EVENT,…",
        default_value = "takeover,restart,kill"
    )]
    pub(super) events: Vec<Event>,
    /// How often the events are gone through.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) rounds: u32,
    /// Mean life of a connection.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    pub(super) life: f64,
    /// Clients poll, and slow ones read, so many times more seldom; many of them take little CPU then.
    #[arg(long, default_value_t = 1, value_name = "FACTOR", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) ease: u32,
    /// Fail when there were fewer deliveries.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) deliveries_min: u64,
    /// Messages that histories keep, but for those of the namespace `short`; few enough to be full for most of a soak,
    /// and so many that nobody comes too late for them.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub(super) history: u64,
    /// Processes that share a broker. Clients go to any of them, and come back to any other.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) nodes: u8,
    /// The broker behind them, which the run starts and troubles, too; needed for more than one node.
    #[arg(long, value_enum)]
    pub(super) broker: Option<BrokerKind>,
    /// Every other client goes through an haproxy in front of all nodes, which passes the bytes on.
    #[arg(long, requires = "broker")]
    pub(super) haproxy: bool,
    /// Each node has a network namespace of its own, as the event `cut` needs it; this needs root.
    #[arg(long, requires = "broker")]
    pub(super) namespaces: bool,
    /// Nobody listens by raw WebSocket frames, whose positions are known by counting alone.
    #[arg(long)]
    pub(super) no_raw_frames: bool,
    /// Histories outlive the process (by --server-arg): then no epoch may ever change.
    #[arg(long)]
    pub(super) durable: bool,
    /// Repeats what was drawn by lot; threads and sockets keep their own time. A new one if not given.
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Event {
    /// Nothing; for a run without a restart.
    None,
    /// A second process listens on the same port, then the first one is drained (SIGTERM).
    Takeover,
    /// SIGTERM, and the next process when it has ended.
    Restart,
    /// SIGKILL, and the next process at once; a moment later where there are other nodes.
    Kill,
    /// SIGSTOP for three seconds.
    Stop,
    /// The network between one node and the broker takes nothing for some seconds.
    Cut,
    /// SIGSTOP of the broker, for longer than nodes wait for it.
    BrokerStop,
    /// SIGKILL of the broker, and a start with all that it had.
    BrokerRestart,
    /// SIGKILL of the broker, and a start with nothing.
    BrokerLoss,
    /// FLUSHALL.
    Flush,
    /// SIGKILL of the master, for whose replica the sentinel decides; then it comes back as a replica.
    FailOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BrokerKind {
    /// One redis-server that writes an append-only file.
    Redis,
    /// A master, a replica and a sentinel.
    RedisSentinel,
    /// One nats-server with JetStream.
    Nats,
}

impl Verify {
    /// Whether the run can be made at all.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.nodes > 1 && self.broker.is_none() {
            return Err("several --nodes need a --broker".into());
        }
        if self.nodes > NODES_MAX {
            return Err(format!("--nodes: at most {NODES_MAX}"));
        }
        if self.durable && self.broker.is_some() {
            return Err("--durable is for a server without a --broker".into());
        }
        let impossible = self.events.iter().find(|event| match event {
            Event::None | Event::Takeover | Event::Restart | Event::Kill | Event::Stop => false,
            Event::Cut => !self.namespaces,
            Event::BrokerStop | Event::BrokerRestart | Event::BrokerLoss => self.broker.is_none(),
            Event::Flush => !matches!(self.broker, Some(BrokerKind::Redis)),
            Event::FailOver => self.broker != Some(BrokerKind::RedisSentinel),
        });
        match impossible {
            Some(event) => Err(format!("{event:?} needs another --broker, or --namespaces")),
            None => Ok(()),
        }
    }
}
