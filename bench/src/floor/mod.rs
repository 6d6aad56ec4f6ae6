//! `floor`: servers that do nothing but the system calls, so that a figure can be set against what the kernel asks for.
//!
//! They answer the same clients as a real server does and are measured by the same scenarios. What they leave out
//! (parsing, time-outs, heartbeats, slow readers) is all that a server may add.

mod echo;
mod hold;

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

use crate::options::{Floor, FloorKind};

/// As long as the kernel allows: an overflow costs a second for each lost SYN.
const BACKLOG: i32 = 65_535;

/// Serves for ever.
pub(crate) fn run(floor: &Floor) -> io::Result<()> {
    let listener = listen(floor.listen)?;
    match floor.kind {
        FloorKind::Hold => hold::serve(&listener),
        FloorKind::Echo => echo::serve(&listener),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
