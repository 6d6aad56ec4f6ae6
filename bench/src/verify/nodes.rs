//! The nodes under test, what stands around them, and what happens to all of it. A server alone is one node.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use super::SHORT_HISTORY;
use super::broker::Broker;
use super::judge::{Finding, Findings};
use super::ledger::Ledger;
use super::network::Network;
use super::options::{Event, Verify};
use super::process::{Process, Program};
use super::proxy::Proxy;
use crate::metrics_page::MetricsPage;

/// For the last look at a node's counters.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(3);
/// How long a killed node is away where there are others, and a killed broker.
const AWAY: Duration = Duration::from_secs(1);
/// How long a broker is not heard: from a hiccup to more than a node waits for its canary and for an answer.
const SILENCE_MS: std::ops::Range<u64> = 1_000..9_000;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Fields go in this order: what is used by others goes after them.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    proxy: Option<Proxy>,
    broker: Option<Broker>,
    network: Option<Network>,
    folder: Folder,
    ledger: Arc<Ledger>,
    findings: Arc<Findings>,
    rng: Rng,
    histories_are_durable: bool,
    pub(super) processes: u32,
    pub(super) events: BTreeMap<Event, u32>,
}

/// The process under test, whichever it is now.
struct Node {
    program: Program,
    address: SocketAddr,
    process: Option<Process>,
}

impl Nodes {
    pub(super) fn start(
        verify: &Verify,
        ledger: &Arc<Ledger>,
        findings: &Arc<Findings>,
        seed: u64,
    ) -> Result<Self, String> {
        let folder = Folder::make(seed)?;
        let network = match verify.namespaces {
            true => Some(Network::make(verify.nodes)?),
            false => None,
        };
        let broker_address = network
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, Network::broker_address);
        let broker = match verify.broker {
            Some(kind) => Some(Broker::start(kind, broker_address, folder.path())?),
            None => None,
        };
        let config = folder.config(verify, broker.as_ref())?;
        let nodes = (0..verify.nodes).map(|node| Node {
            program: Program {
                prefix: network
                    .as_ref()
                    .map_or_else(Vec::new, |network| network.prefix(node)),
                path: verify.program.clone(),
                config: config.clone(),
                arguments: verify.server_arg.clone(),
            },
            address: SocketAddr::from((
                network
                    .as_ref()
                    .map_or(Ipv4Addr::LOCALHOST, |network| network.node_address(node)),
                0,
            )),
            process: None,
        });
        let mut nodes = Self {
            nodes: nodes.collect(),
            proxy: None,
            broker,
            network,
            folder,
            ledger: Arc::clone(ledger),
            findings: Arc::clone(findings),
            rng: Rng::with_seed(seed ^ 0x0E0D),
            histories_are_durable: verify.durable,
            processes: 0,
            events: BTreeMap::new(),
        };
        if nodes.keep_histories_elsewhere() {
            ledger.expect_epoch();
        }
        for node in 0..nodes.nodes.len() {
            nodes.start_node(node)?;
        }
        if verify.haproxy {
            let addresses = nodes.addresses();
            nodes.proxy = Some(Proxy::start(&addresses, nodes.folder.path())?);
        }
        Ok(nodes)
    }

    /// Of the nodes themselves.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// Where clients go, each as often as it is named.
    pub(super) fn targets(&self) -> Vec<SocketAddr> {
        let mut targets = self.addresses();
        if let Some(proxy) = &self.proxy {
            targets.extend(vec![proxy.address; targets.len()]);
        }
        targets
    }

    /// A process that ends takes no history with it.
    fn keep_histories_elsewhere(&self) -> bool {
        self.broker.is_some() || self.histories_are_durable
    }

    fn start_node(&mut self, node: usize) -> Result<(), String> {
        // Before it can begin an epoch.
        if !self.keep_histories_elsewhere() {
            self.ledger.expect_epoch();
        }
        if self.broker.is_none() {
            self.ledger.expect_new_memory();
        }
        self.processes += 1;
        let node = &mut self.nodes[node];
        let process = node.program.start(node.address)?;
        eprintln!(
            "verify: server process {} on {}",
            process.id(),
            process.address
        );
        node.address = process.address;
        node.process = Some(process);
        Ok(())
    }

    /// Lets the time of the run go by, with its events.
    pub(super) fn trouble(&mut self, verify: &Verify, begin: Instant) -> Result<(), String> {
        let events: Vec<_> = (0..verify.rounds)
            .flat_map(|_| &verify.events)
            .copied()
            .filter(|event| *event != Event::None)
            .collect();
        for (index, event) in events.iter().enumerate() {
            let share = (index + 1) as f64 / (events.len() + 1) as f64;
            sleep_until(begin + Duration::from_secs_f64(verify.duration * share));
            eprintln!("verify: {event:?}");
            *self.events.entry(*event).or_default() += 1;
            self.suffer(*event)?;
        }
        sleep_until(begin + Duration::from_secs_f64(verify.duration));
        Ok(())
    }

    fn suffer(&mut self, event: Event) -> Result<(), String> {
        let node = self.rng.usize(..self.nodes.len());
        let silence = Duration::from_millis(self.rng.u64(SILENCE_MS));
        let ends_epochs = match event {
            Event::BrokerLoss | Event::Flush | Event::FailOver => true,
            // A master that is silent for too long has its place taken.
            Event::BrokerStop => self.broker.as_ref().is_some_and(Broker::fails_over),
            _ => false,
        };
        if ends_epochs {
            self.ledger.expect_epoch();
            self.ledger.expect_new_memory();
        }
        match event {
            Event::None => Ok(()),
            Event::Takeover | Event::Restart | Event::Kill | Event::Stop => {
                self.suffer_at(node, event)
            }
            Event::Cut => {
                let network = self.network.as_ref().expect("the options were checked");
                network.pull(node as u8)?;
                thread::sleep(silence);
                network.plug(node as u8)
            }
            Event::BrokerStop => {
                self.broker().stop_for(silence);
                Ok(())
            }
            Event::BrokerRestart => self.broker().restart(AWAY, true),
            Event::BrokerLoss => self.broker().restart(AWAY, false),
            Event::Flush => self.broker().flush(),
            Event::FailOver => self.broker().fail_over(),
        }
    }

    fn suffer_at(&mut self, node: usize, event: Event) -> Result<(), String> {
        let before = self.nodes[node].process.take().expect("a process runs");
        let ended = match event {
            Event::Takeover => {
                self.start_node(node)?;
                self.judge_end(event, before.drain());
                return Ok(());
            }
            Event::Restart => before.drain(),
            Event::Kill => before.kill(),
            _ => {
                before.signal(Signal::STOP);
                thread::sleep(STOP);
                before.signal(Signal::CONT);
                self.nodes[node].process = Some(before);
                return Ok(());
            }
        };
        self.judge_end(event, ended);
        if event == Event::Kill && self.nodes.len() > 1 {
            thread::sleep(AWAY);
        }
        self.start_node(node)
    }

    fn broker(&mut self) -> &mut Broker {
        self.broker.as_mut().expect("the options were checked")
    }

    fn judge_end(&self, event: Event, ended: Result<(), String>) {
        if let Err(error) = ended {
            self.findings
                .add(Finding::Server, 1, || format!("{event:?}: {error}"));
        }
    }

    /// A counter of the processes that run now, summed. Tried again where one has no room for a newcomer.
    pub(super) fn counter(&self, name: &str) -> Result<u64, String> {
        let values = self.nodes.iter().map(|node| {
            let page = MetricsPage::new(&format!("http://{}/metrics", node.address))?;
            let end = Instant::now() + PAGE_TIMEOUT;
            loop {
                match page.value(name) {
                    Ok(Some(value)) => return Ok(value as u64),
                    Ok(None) => return Err(format!("the page of metrics has no {name}")),
                    Err(error) if Instant::now() > end => return Err(error),
                    Err(_) => thread::sleep(LOOK_AGAIN),
                }
            }
        });
        values.sum()
    }

    pub(super) fn end(&mut self) {
        for node in 0..self.nodes.len() {
            if let Some(process) = self.nodes[node].process.take() {
                self.judge_end(Event::Restart, process.drain());
            }
        }
    }
}

/// Where the configuration is, and what the broker writes. Dropped, it is removed.
struct Folder(PathBuf);

impl Folder {
    fn make(seed: u64) -> Result<Self, String> {
        let name = format!("pushring-verify-{}-{seed}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Limits that are hit within seconds, and histories that keep everything, but for those of `short`.
    fn config(&self, verify: &Verify, broker: Option<&Broker>) -> Result<PathBuf, String> {
        // A client that reads little, or nothing for a while, is closed and comes back.
        let mut text = "outbox_bytes_max = \"128KiB\"\nwrite_stall_timeout = \"2s\"\nheartbeat = \"1s\"\n\
             pong_timeout = \"2s\"\ndrain_period = \"500ms\"\ndrain_timeout = \"2s\"\nclose_timeout = \"1s\"\n\
             poll_limit_default = 20\n"
            .to_owned();
        if let Some(broker) = broker {
            // Channels are let go of and opened again, too; and what is missed shows before the run is over.
            text.push_str(&format!(
                "backplane = \"{}\"\nbackplane_prefix = \"verify\"\nbackplane_timeout = \"2s\"\n\
                 backplane_linger = \"500ms\"\nbackplane_check_interval = \"2s\"\n",
                broker.url()
            ));
        }
        if verify.namespaces {
            text.push_str("insecure = true\n");
        }
        text.push_str(&format!(
            "[namespace.\"\"]\nhistory_messages = {}\nhistory_age = \"1d\"\nhistory_bytes = \"1GiB\"\n\
             [namespace.short]\nhistory_messages = {SHORT_HISTORY}\n",
            verify.history
        ));
        let path = self.0.join(if verify.durable {
            "durable.toml"
        } else {
            "memory.toml"
        });
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}
