//! `floor`: servers that do nothing but the system calls, so that a figure can be set against what the kernel asks for.
//!
//! They answer the same clients as a real server does and are measured by the same scenarios. What they leave out
//! (parsing, time-outs, heartbeats but for `beat`, slow readers) is all that a server may add.

mod beat;
mod echo;
mod hold;

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

use crate::options::{Floor, FloorKind};

/// As long as the kernel allows: an overflow costs a second for each lost SYN.
const BACKLOG: i32 = 65_535;

/// The answer to the key that our clients send.
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";

/// Serves for ever.
pub(crate) fn run(floor: &Floor) -> io::Result<()> {
    match floor.kind {
        FloorKind::Hold => hold::serve(&listen(floor.listen, false)?),
        FloorKind::Echo => echo::serve(&listen(floor.listen, false)?),
        FloorKind::Beat => beat::serve(
            floor.listen,
            floor.threads as usize,
            (floor.heartbeat * 1e9) as u64,
        ),
    }
}

/// With `is_shared`, one of several listeners over which the kernel spreads the connections.
fn listen(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
