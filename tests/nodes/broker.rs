//! A broker of either kind, and nodes that share it.

use crate::harness::{Server, Start, wait_until};
use crate::nats_server::NatsServer;
use crate::redis_server::RedisServer;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Redis,
    Nats,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Redis, Kind::Nats];

/// Dropped, it is ended.
pub(crate) enum Broker {
    Redis(RedisServer),
    Nats(NatsServer),
}

impl Broker {
    /// One that has what it had after [`kill`](Self::kill) and [`restart`](Self::restart).
    pub(crate) fn start(kind: Kind) -> Self {
        match kind {
            Kind::Redis => Self::Redis(RedisServer::start(&["--appendonly", "yes"])),
            Kind::Nats => Self::Nats(NatsServer::start()),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Redis(server) => server.url(),
            Self::Nats(server) => server.url(),
        }
    }

    pub(crate) fn kill(&mut self) {
        match self {
            Self::Redis(server) => server.kill(),
            Self::Nats(server) => server.kill(),
        }
    }

    pub(crate) fn restart(&mut self) {
        match self {
            Self::Redis(server) => server.restart(),
            Self::Nats(server) => server.launch(),
        }
    }

    pub(crate) fn pause(&self) {
        match self {
            Self::Redis(server) => server.pause(),
            Self::Nats(server) => server.pause(),
        }
    }

    pub(crate) fn go_on(&self) {
        match self {
            Self::Redis(server) => server.go_on(),
            Self::Nats(server) => server.resume(),
        }
    }

    /// A node that hears the broker.
    pub(crate) fn node(&self) -> Server {
        self.node_with("")
    }

    /// The same with a configuration file.
    pub(crate) fn node_with(&self, file: &str) -> Server {
        let flags = format!("--backplane {} --backplane-timeout 1s", self.url());
        let node = Start::new(&flags).file(file).serve();
        wait_ready(&node);
        node
    }

    pub(crate) fn nodes<const N: usize>(&self) -> [Server; N] {
        std::array::from_fn(|_| self.node())
    }
}

pub(crate) fn is_ready(node: &Server) -> bool {
    node.ask("GET", "/readyz", b"").status == 200
}

pub(crate) fn wait_ready(node: &Server) {
    wait_until("the node hears its broker", || is_ready(node));
}
