//! The command line. The defaults speak pushring's paths; the options below "Server" make any other server measurable.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::storm_model::StormModel;
use crate::verify::Verify;

/// Load generator for push servers: many cheap clients, counted deliveries, memory and CPU of both sides.
#[derive(Clone, Debug, Parser)]
#[command(name = "pushring-bench", version, about, max_term_width = 100)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) probe: Probe,
}

impl Options {
    pub(crate) fn connections(&self) -> u32 {
        let default = match &self.scenario {
            Scenario::Publish(_) | Scenario::Poll(_) => 64,
            Scenario::Idle(Idle { steps, .. }) | Scenario::Leave(Leave { steps, .. }) => {
                steps.iter().copied().max().unwrap_or(10_000)
            }
            Scenario::Saturate(_) => 1_000,
            Scenario::Verify(_) => 4_000,
            _ => 10_000,
        };
        self.load.connections.unwrap_or(default)
    }

    /// The modes that workers take in turn.
    pub(crate) fn modes(&self) -> Vec<Mode> {
        if self.load.mix.is_empty() {
            return vec![self.load.mode];
        }
        let turns = self.load.mix.iter();
        turns
            .flat_map(|&(mode, weight)| std::iter::repeat_n(mode, weight as usize))
            .collect()
    }
}

/// `MODE=WEIGHT` of `--mix`.
fn parse_share(text: &str) -> Result<(Mode, u32), String> {
    let (mode, weight) = text.split_once('=').ok_or("must be MODE=WEIGHT")?;
    let weight = weight
        .parse()
        .ok()
        .filter(|weight| (1..=100).contains(weight));
    Ok((
        Mode::from_str(mode, false)?,
        weight.ok_or("the weight must be 1 to 100")?,
    ))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// WebSocket.
    Ws,
    /// Server-Sent Events.
    Sse,
    /// Long polling: the next request follows the answer at once.
    Long,
    /// Short polling without a pause: the next request follows the answer at once.
    Short,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct Server {
    /// Where clients connect.
    #[arg(
        long,
        global = true,
        default_value = "127.0.0.1:8080",
        value_name = "ADDR"
    )]
    pub(crate) target: SocketAddr,
    /// Where messages are published; the target if not given.
    #[arg(long, global = true, value_name = "ADDR")]
    pub(crate) publish_target: Option<SocketAddr>,
    /// Path of a subscription, with {channel} and, for polls, {cursor}; pushring's path of the mode if not given.
    #[arg(long, global = true, value_name = "TEMPLATE")]
    pub(crate) subscribe_path: Option<String>,
    /// Path of a poll's first request, which gets the cursor. Empty: there is none, and a client counts as admitted
    /// when its request is written.
    #[arg(
        long,
        global = true,
        default_value = "/poll/{channel}?since=now",
        value_name = "TEMPLATE"
    )]
    pub(crate) start_path: String,
    #[arg(
        long,
        global = true,
        default_value = "/pub/{channel}",
        value_name = "TEMPLATE"
    )]
    pub(crate) publish_path: String,
    /// Body of a publish, with {payload} and {channel}; the payload alone if not given.
    #[arg(long, global = true, value_name = "TEMPLATE")]
    pub(crate) publish_body: Option<String>,
    /// Open a new connection for each message of `broadcast`, for servers that close after an answer.
    #[arg(long, global = true)]
    pub(crate) publish_reconnect: bool,
    /// Header of a poll's answer that holds the cursor, and after `=` the header that gives it back (without `=` it
    /// goes where the path says {cursor}). May be repeated.
    #[arg(
        long,
        global = true,
        default_value = "Pushring-Cursor",
        value_name = "ANSWER[=REQUEST]"
    )]
    pub(crate) cursor_header: Vec<String>,
    /// Header to add to every subscription, "Name: value". May be repeated.
    #[arg(long, global = true, value_name = "HEADER")]
    pub(crate) header: Vec<String>,
    /// Header to add to every publish, "Name: value". May be repeated.
    #[arg(long, global = true, value_name = "HEADER")]
    pub(crate) publish_header: Vec<String>,
    /// Name of channel i.
    #[arg(
        long,
        global = true,
        default_value = "bench-{i}",
        value_name = "TEMPLATE"
    )]
    pub(crate) channel: String,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub(crate) struct Load {
    #[arg(long, global = true, value_enum, default_value = "ws")]
    pub(crate) mode: Mode,
    /// Several modes at once by small weights, such as sse=5,ws=3,long=2, instead of --mode. A worker has one mode, so
    /// there are as many workers as the weights, or a multiple of that.
    #[arg(long, global = true, value_delimiter = ',', value_parser = parse_share, value_name = "MODE=WEIGHT,…")]
    pub(crate) mix: Vec<(Mode, u32)>,
    /// Connections; 10,000 if not given, and 64 for the closed loops of `publish` and `poll`.
    #[arg(long, short = 'n', global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: Option<u32>,
    /// Distinct channels: connection i listens on channel i mod N.
    #[arg(long, global = true, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) channels: u32,
    /// Connects per second; 0 is as fast as possible.
    #[arg(long, global = true, default_value_t = 0.0, value_name = "PER_SECOND")]
    pub(crate) connect_rate: f64,
    /// Threads with an event loop and a descriptor table each; as many as there are cores if not given, or as many
    /// as the connections need tables.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: Option<u32>,
    #[arg(long, global = true, default_value_t = 128, value_name = "N")]
    pub(crate) payload_bytes: usize,
    /// Receive buffer of each client socket (SO_RCVBUF), in `slow` of the slow ones only; the kernel's choice if not
    /// given.
    #[arg(long, global = true, value_name = "N")]
    pub(crate) receive_buffer_bytes: Option<usize>,
    /// Connections from one loopback source address, 127.0.0.2 and up.
    #[arg(long, global = true, default_value_t = 12_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections_per_source: u32,
    /// Give up when nothing has moved for this long.
    #[arg(long, global = true, default_value_t = 30.0, value_name = "SECONDS")]
    pub(crate) stall_timeout: f64,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Measurement")]
pub(crate) struct Probe {
    /// Process of the server, for its memory and CPU. May be repeated, the processes are summed.
    #[arg(long, global = true, value_name = "PID")]
    pub(crate) server_pid: Vec<u32>,
    /// The server's page of counters, such as http://127.0.0.1:8080/metrics; its number of connections must agree
    /// with ours.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) metrics_url: Option<String>,
    /// Gauge of open connections in that page, summed over its labels.
    #[arg(
        long,
        global = true,
        default_value = "pushring_connections",
        value_name = "NAME"
    )]
    pub(crate) metrics_connections: String,
    /// Counter of messages handed to subscribers in that page; must agree with ours.
    #[arg(
        long,
        global = true,
        default_value = "pushring_messages_delivered_total",
        value_name = "NAME"
    )]
    pub(crate) metrics_deliveries: String,
    /// Counter of connections that ended in that page, labelled by reason; looked at where none may end.
    #[arg(
        long,
        global = true,
        default_value = "pushring_connections_closed_total",
        value_name = "NAME"
    )]
    pub(crate) metrics_closed: String,
    /// The reason in that page of connections that ended because they were not to be kept. Our own requests of the page
    /// are among them.
    #[arg(long, global = true, default_value = "answered", value_name = "REASON")]
    pub(crate) metrics_closed_answered: String,
    /// Write the report for machines.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Open all connections: rate, admitted count, time from connect to admission.
    Connect,
    /// Hold connections: memory per connection, heartbeats; at the end one message to each.
    Idle(Idle),
    /// One message to all, repeated: first, median, p99 and last delivery of each.
    Broadcast(Broadcast),
    /// Publish on a fixed schedule: latency from the intended time.
    Steady(Steady),
    /// Publish to one channel as fast as messages are delivered: deliveries per second.
    Saturate(Saturate),
    /// Clients publish over their WebSockets on a fixed schedule; every member of a channel gets every message.
    Chat(Steady),
    /// Publish as fast as answers come, over keep-alive connections.
    Publish(Publish),
    /// Poll as fast as answers come, over keep-alive connections.
    Poll(Poll),
    /// All leave at once and all come back.
    Storm(Storm),
    /// Some leave while few or many are open, then all at once: what an end costs the server.
    Leave(Leave),
    /// A share of the readers stops reading.
    Slow(Slow),
    /// Time polls of one channel while a message goes to all subscribers of another.
    Fairness(Fairness),
    /// Run a server, trouble it and its clients, and check that every client gets each message once and in order, or
    /// is told of its loss.
    Verify(Verify),
    /// Reckon how the clients of a lost node come back to the others. Needs no server.
    StormModel(StormModel),
    /// Be a server that does nothing but the system calls, to compare with; runs until it is killed.
    Floor(Floor),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    /// Numbers of connections to stop at and measure, such as 10000,30000,60000; --connections if not given.
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    pub(crate) steps: Vec<u32>,
    /// Quiet time at each step before it is measured.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub(crate) settle: f64,
    /// How long to hold all connections after the last step.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    pub(crate) hold: f64,
    /// Fail when the server's user memory per connection (slope of Pss) is above this.
    #[arg(long, value_name = "N")]
    pub(crate) server_bytes_max: Option<u64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Broadcast {
    /// Messages, one after the other.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) messages: u32,
    /// Quiet time between the last delivery and the next message.
    #[arg(long, default_value_t = 0.2, value_name = "SECONDS")]
    pub(crate) pause: f64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Steady {
    /// Messages per second.
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND")]
    pub(crate) rate: f64,
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) duration: f64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Saturate {
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) duration: f64,
    /// Messages that may be on their way, published and not yet delivered to all.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) window: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Publish {
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) duration: f64,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) pipeline: u16,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Poll {
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) duration: f64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Storm {
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) rounds: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Leave {
    /// Numbers of open connections at which some leave, rising, such as 10000,100000; --connections if not given.
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    pub(crate) steps: Vec<u32>,
    /// How many leave at each step.
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) leaving: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Slow {
    /// Readers that stop, in percent; with 0 the run is one to compare with.
    #[arg(long, default_value_t = 10, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..100))]
    pub(crate) share: u32,
    #[command(flatten)]
    pub(crate) schedule: Steady,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Fairness {
    #[command(flatten)]
    pub(crate) broadcast: Broadcast,
    /// Polls per second, over all of their connections.
    #[arg(long, default_value_t = 200.0, value_name = "PER_SECOND")]
    pub(crate) poll_rate: f64,
    /// Connections that poll; several, so that they land on several of the server's threads.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) poll_connections: u32,
    /// Short poll of a channel that nobody else uses; {i} is the number of the polling connection, so that the channels
    /// have different homes.
    #[arg(
        long,
        default_value = "/poll/bench-bystander-{i}",
        value_name = "TEMPLATE"
    )]
    pub(crate) poll_path: String,
    /// Fail when the 99th percentile of the polls during a broadcast is above this.
    #[arg(long, value_name = "MS")]
    pub(crate) poll_p99_ms_max: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Floor {
    #[arg(value_enum)]
    pub(crate) kind: FloorKind,
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Threads of `beat`, with a descriptor table each.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) threads: u32,
    /// Between two pings of `beat` to the same connection.
    #[arg(long, default_value_t = 25.0, value_name = "SECONDS")]
    pub(crate) heartbeat: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FloorKind {
    /// Accept, answer the handshake with a constant, hold; a publish is a bare loop of `send` over all of them.
    Hold,
    /// A constant answer to whatever one read brings, on an epoll set.
    Echo,
    /// As `hold` on several threads, with pings and their pongs read from an epoll set.
    Beat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_gives_each_worker_a_mode() {
        use Mode::{Long, Sse, Ws};
        check(&["--mode", "sse"], Some(&[Sse]));
        check(&["--mix", "sse=2,ws=1,long=1"], Some(&[Sse, Sse, Ws, Long]));
        check(&["--mix", "sse"], None);
        check(&["--mix", "sse=0"], None);
        check(&["--mix", "tcp=1"], None);
    }

    #[track_caller]
    fn check(arguments: &[&str], want: Option<&[Mode]>) {
        let words = ["pushring-bench", "idle"].iter().chain(arguments);
        let modes = Options::try_parse_from(words).ok().map(|got| got.modes());
        assert_eq!(modes.as_deref(), want);
    }
}
