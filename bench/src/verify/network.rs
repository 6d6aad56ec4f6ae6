//! A network namespace for each node, with two cables: one to the clients, one to the broker. The latter can be pulled.

use std::net::Ipv4Addr;
use std::process::Command;

/// Where the broker and the clients are is the host's own namespace. The broker has an address for itself, which each
/// node reaches by its cable alone.
pub(super) struct Network {
    /// Which share of the addresses is this run's: what else runs, or was killed and left its own behind, has another.
    place: u8,
    nodes: u8,
}

/// Runs that have room beside each other.
const PLACES: u8 = 15;
/// Two cables each, a third byte of the address for a cable: `PLACES` of them fit below that of the brokers.
pub(super) const NODES_MAX: u8 = 8;
const BROKERS: u8 = 254;
const _: () = assert!(PLACES as u16 * NODES_MAX as u16 * 2 <= BROKERS as u16);

/// Addresses on the clients' end of a cable, so that their ports don't run short.
pub(super) const SOURCES: u8 = 32;
const NODE_HOST: u8 = 200;

impl Network {
    pub(super) fn make(nodes: u8) -> Result<Self, String> {
        let network = Self {
            place: claim_place()?,
            nodes,
        };
        for node in 0..nodes {
            network.make_node(node)?;
        }
        Ok(network)
    }

    fn make_node(&self, node: u8) -> Result<(), String> {
        let broker = self.broker_address();
        let (space, clients, cable) = (self.space(node), self.clients(node), self.cable(node));
        let to_clients = |host| self.address(2 * node, host);
        let to_broker = |host| self.address(2 * node + 1, host);
        ip(&format!("netns add {space}"))?;
        for device in [&clients, &cable] {
            ip(&format!(
                "link add {device} type veth peer name {device}n netns {space}"
            ))?;
            ip(&format!("link set {device} up"))?;
            ip(&format!("-n {space} link set {device}n up"))?;
        }
        ip(&format!("-n {space} link set lo up"))?;
        for host in 1..=SOURCES {
            ip(&format!(
                "address add {}/24 dev {clients}",
                to_clients(host)
            ))?;
        }
        ip(&format!("address add {}/24 dev {cable}", to_broker(1)))?;
        ip(&format!(
            "-n {space} address add {}/24 dev {clients}n",
            to_clients(NODE_HOST)
        ))?;
        ip(&format!(
            "-n {space} address add {}/24 dev {cable}n",
            to_broker(NODE_HOST)
        ))?;
        ip(&format!(
            "-n {space} route add {broker}/32 via {}",
            to_broker(1)
        ))
    }

    /// Where the broker listens.
    pub(super) fn broker_address(&self) -> Ipv4Addr {
        broker_address(self.place)
    }

    /// Where clients reach the node.
    pub(super) fn node_address(&self, node: u8) -> Ipv4Addr {
        self.address(2 * node, NODE_HOST)
    }

    /// Begins the node's command line.
    pub(super) fn prefix(&self, node: u8) -> Vec<String> {
        ["ip", "netns", "exec", &self.space(node)]
            .map(str::to_owned)
            .to_vec()
    }

    /// Whatever the node sends to the broker goes nowhere from now on, and the other way round; nobody is told.
    pub(super) fn pull(&self, node: u8) -> Result<(), String> {
        ip(&format!("link set {} down", self.cable(node)))
    }

    pub(super) fn plug(&self, node: u8) -> Result<(), String> {
        ip(&format!("link set {} up", self.cable(node)))
    }

    fn address(&self, cable: u8, host: u8) -> Ipv4Addr {
        let third = self.place * NODES_MAX * 2 + cable;
        Ipv4Addr::new(10, 213, third, host)
    }

    fn space(&self, node: u8) -> String {
        format!("pv{}-{node}", self.place)
    }

    fn clients(&self, node: u8) -> String {
        format!("pv{}c{node}", self.place)
    }

    fn cable(&self, node: u8) -> String {
        format!("pv{}b{node}", self.place)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            // A namespace's own devices outlive it for a moment, in which the next run would find their names taken.
            for device in [self.clients(node), self.cable(node)] {
                let _ = ip(&format!("link delete {device}"));
            }
            let _ = ip(&format!("netns delete {}", self.space(node)));
        }
        let _ = ip(&format!(
            "address delete {}/32 dev lo",
            self.broker_address()
        ));
    }
}

/// The first place that nobody has: whose broker's address can be added is alone there.
fn claim_place() -> Result<u8, String> {
    let mut error = String::new();
    for place in 0..PLACES {
        match ip(&format!("address add {}/32 dev lo", broker_address(place))) {
            Ok(()) => return Ok(place),
            Err(why) => error = why,
        }
    }
    Err(format!(
        "{error}; what killed runs left behind goes with `ip netns delete pvN-M` and `ip address delete ADDRESS dev lo`"
    ))
}

fn broker_address(place: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, BROKERS, place)
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("ip (Debian package iproute2): {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "ip {arguments}: {} (network namespaces need root)",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
