//! Where the process listens, and how many connections its descriptors allow.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};

use super::ServeError;
use super::unix_socket::UnixSocket;
use crate::api::Side;
use crate::config::Config;
use crate::config::address::ListenAddress;
use crate::tls::TlsConfigs;

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 65_535;
/// Bytes that the kernel takes beyond what the peer has room for. More would wait there unseen and uncounted.
const NOTSENT_BYTES_MAX: u32 = 128 * 1024;
/// Descriptors of each thread that are not client sockets: entrances, rings, wake-ups, standard streams, refusals.
const DESCRIPTORS_RESERVED: usize = 96;
/// Descriptors that a shard itself takes, where all share a table.
const DESCRIPTORS_PER_SHARD: usize = 8;

/// Where every shard is to have an entrance, for whom, and how.
#[derive(Clone)]
pub(super) struct EntrancePlan {
    pub(super) address: ListenAddress,
    source: Source,
    pub(super) side: Side,
    pub(super) requires_preface: bool,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

/// Where a shard gets the socket of an entrance from.
#[derive(Clone)]
enum Source {
    /// It binds one of its own, beside the other shards'.
    Port(SocketAddr),
    /// The one that is there for all.
    Unix(Arc<Socket>),
}

/// What an entrance needs until the end of the process: the port, or the socket's file.
pub(super) enum Reserved {
    Port(#[expect(dead_code, reason = "it is bound")] Socket),
    Unix(#[expect(dead_code, reason = "its file goes with it")] UnixSocket),
}

/// Every entrance, with the port that it got. Until the shards listen there, and after, a bound socket that does not
/// listen keeps the port.
pub(super) fn plan_entrances(
    config: &Config,
    tls: &TlsConfigs,
) -> Result<(Vec<EntrancePlan>, Vec<Reserved>), ServeError> {
    let public = if config.internal.is_some() {
        Side::Public
    } else {
        Side::Both
    };
    let listen = config.listen.iter().copied().map(ListenAddress::from);
    let public = listen.map(|address| (address, public, config.proxy_protocol, &tls.listen));
    let internal = config.internal.iter().cloned();
    let internal = internal.map(|address| {
        let requires_preface = config.internal_proxy_protocol;
        (address, Side::Internal, requires_preface, &tls.internal)
    });
    let mut entrances = Vec::new();
    let mut reserved = Vec::new();
    for (address, side, requires_preface, tls) in public.chain(internal) {
        let (address, source) = match address {
            ListenAddress::Tcp(address) => {
                let (address, port) = hold_port(address)?;
                reserved.push(Reserved::Port(port));
                (address.into(), Source::Port(address))
            }
            ListenAddress::Unix(ref path) => {
                let unix = UnixSocket::listen(path, config.internal_mode)?;
                let socket = unix.socket();
                reserved.push(Reserved::Unix(unix));
                (address, Source::Unix(socket))
            }
        };
        entrances.push(EntrancePlan {
            address,
            source,
            side,
            requires_preface,
            tls: tls.clone(),
        });
    }
    Ok((entrances, reserved))
}

fn hold_port(address: SocketAddr) -> Result<(SocketAddr, Socket), ServeError> {
    let hold = || -> io::Result<_> {
        if address.port() != 0 && bind(address, false).is_err() && bind(address, true).is_ok() {
            tracing::warn!(%address, "another process listens here, too: the kernel shares the connections out");
        }
        let socket = bind(address, true)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok((address, socket))
    };
    hold().map_err(|error| ServeError::Listen { address, error })
}

impl EntrancePlan {
    /// A socket of the shard's own that listens.
    pub(super) fn open(&self, config: &Config) -> io::Result<OwnedFd> {
        match &self.source {
            Source::Port(address) => listen(*address, config),
            // It was open before the descriptor tables parted, so its number means the same in each.
            Source::Unix(socket) => Ok(fcntl_dupfd_cloexec(socket, 0)?),
        }
    }
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Listens on a port beside the other shards. What is set here, the accepted sockets inherit.
fn listen(address: SocketAddr, config: &Config) -> io::Result<OwnedFd> {
    let socket = bind(address, true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_BYTES_MAX)?;
    let timeout_ms = config.timing.tcp_user_timeout_ms();
    socket.set_tcp_user_timeout(Some(Duration::from_millis(timeout_ms.into())))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How many connections there may be: in all, and on each shard. The limit on descriptors counts for each table.
pub(super) fn connections_max(
    config: &Config,
    shards: usize,
    has_own_tables: bool,
) -> Result<(usize, usize), ServeError> {
    let limit = raise_descriptor_limit();
    let per_table = usize::try_from(limit).unwrap_or(usize::MAX);
    let (tables, reserved) = match has_own_tables {
        true => (shards, DESCRIPTORS_RESERVED),
        false => {
            let backend = match config.asks_backend() {
                true => config.callback.concurrency_max,
                false => 0,
            };
            (
                1,
                DESCRIPTORS_RESERVED + DESCRIPTORS_PER_SHARD * shards + backend,
            )
        }
    };
    let per_table = per_table.saturating_sub(reserved);
    let possible = per_table.saturating_mul(tables);
    if possible == 0 {
        return Err(ServeError::Descriptors { limit, reserved });
    }
    let in_all = match config.limits.connections_max {
        0 => possible,
        wanted if wanted > possible => {
            tracing::warn!(
                connections_max = wanted,
                possible,
                "the descriptor limit allows fewer connections: raise ulimit -n (LimitNOFILE), or threads"
            );
            possible
        }
        wanted => wanted,
    };
    Ok((in_all, per_table))
}

/// Takes all the descriptors that the process may have.
fn raise_descriptor_limit() -> u64 {
    let limits = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    let granted = if setrlimit(Resource::Nofile, wanted).is_ok() {
        limits.maximum
    } else {
        limits.current
    };
    granted.unwrap_or(u64::MAX)
}
