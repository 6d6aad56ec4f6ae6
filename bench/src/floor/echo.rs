//! A bare epoll loop: what arrives in one read is one request, and its answer is a constant.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::ACCEPTED;

const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const EVENTS_PER_TURN: usize = 1024;
/// The listener's mark among the connections' indices.
const LISTENER: u64 = u64::MAX;

pub(super) fn serve(listener: &TcpListener) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = |socket: &dyn AsFd, data| {
        epoll::add(
            &epoll,
            socket.as_fd(),
            epoll::EventData::new_u64(data),
            epoll::EventFlags::IN,
        )
    };
    watch(listener, LISTENER)?;
    // A connection that has ended leaves its place empty; closing takes it out of the set.
    let mut connections: Vec<Option<OwnedFd>> = Vec::new();
    let mut events = Vec::with_capacity(EVENTS_PER_TURN);
    let mut input = [0; 64 * 1024];
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let data = event.data.u64();
            if data == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                watch(&stream, connections.len() as u64)?;
                connections.push(Some(stream.into()));
            } else if let Some(socket) = &connections[data as usize]
                && !answer(socket, &mut input)
            {
                connections[data as usize] = None;
            }
        }
    }
}

/// Whether the connection goes on.
fn answer(socket: &OwnedFd, input: &mut [u8]) -> bool {
    match recv(socket, &mut *input, RecvFlags::empty()) {
        Ok((0, _)) | Err(_) => false,
        Ok(_) => {
            let is_publish = input.starts_with(b"POST ");
            let answer = if is_publish { ACCEPTED } else { NO_CONTENT };
            send(socket, answer, SendFlags::NOSIGNAL).is_ok()
        }
    }
}
