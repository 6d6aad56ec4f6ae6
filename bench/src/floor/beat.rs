//! Heartbeats and nothing else: a ping to each held connection in each interval, and its pong read and thrown away.
//!
//! As many threads as asked for, each with a descriptor table, an edge-triggered epoll set and its share of the
//! connections. An interval has 64 beats, as pushring's has; a connection is in the same one each time.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::hold::{self, Request};
use super::{ACCEPTED, SWITCHING, listen};
use crate::kernel::{now_ns, own_descriptor_table};

/// FIN, ping, no payload (RFC 6455 §5.2).
const PING: [u8; 2] = [0x89, 0x00];
const BEATS: usize = 64;
const EVENTS_PER_TURN: usize = 1024;
/// The listener's mark among the connections' indices.
const LISTENER: u64 = u64::MAX;

/// Frames for everybody. Each thread looks at its beats whether there is another one.
type Publications = Arc<Mutex<Vec<Arc<[u8]>>>>;

pub(super) fn serve(address: SocketAddr, threads: usize, heartbeat_ns: u64) -> io::Result<()> {
    let publications = Publications::default();
    let mut others = Vec::new();
    for thread in 0..threads {
        let publications = publications.clone();
        let beat_ns = heartbeat_ns / BEATS as u64;
        others.push(thread::spawn(move || {
            own_descriptor_table()?;
            let listener = listen(address, true)?;
            listener.set_nonblocking(true)?;
            let server = Server {
                epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
                listener,
                connections: Vec::new(),
                publications,
                published: 0,
                beat_ns,
            };
            // Threads take turns, rather than to beat all at once.
            server.run(now_ns() + beat_ns * thread as u64 / threads as u64)
        }));
    }
    for other in others {
        other
            .join()
            .expect("a thread of the floor does not panic")?;
    }
    Ok(())
}

struct Server {
    epoll: OwnedFd,
    listener: TcpListener,
    /// A connection that has ended leaves its place empty.
    connections: Vec<Option<Held>>,
    publications: Publications,
    /// How many of them have been sent.
    published: usize,
    beat_ns: u64,
}

struct Held {
    socket: OwnedFd,
    /// Has been answered; what it sends from then on are pongs.
    is_open: bool,
}

impl Server {
    fn run(mut self, mut next_ns: u64) -> io::Result<()> {
        self.watch(&self.listener, LISTENER)?;
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        let mut beat = 0;
        loop {
            let wait_ns = next_ns.saturating_sub(now_ns());
            let timeout = Timespec {
                tv_sec: (wait_ns / 1_000_000_000) as i64,
                tv_nsec: (wait_ns % 1_000_000_000) as i64,
            };
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    index => self.on_readable(index as usize),
                }
            }
            if now_ns() >= next_ns {
                self.ping(beat);
                self.publish();
                beat = (beat + 1) % BEATS;
                next_ns += self.beat_ns;
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            self.watch(&stream, self.connections.len() as u64)?;
            self.connections.push(Some(Held {
                socket: stream.into(),
                is_open: false,
            }));
        }
    }

    fn watch(&self, socket: &impl AsFd, index: u64) -> rustix::io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(index), flags)
    }

    fn on_readable(&mut self, index: usize) {
        let Some(held) = &mut self.connections[index] else {
            return;
        };
        let mut input = [0; 4096];
        let is_kept = match recv(&held.socket, &mut input, RecvFlags::DONTWAIT) {
            Ok((0, _)) => false,
            Ok(_) if held.is_open => true,
            Ok((bytes, _)) => match hold::decode(&input[..bytes]) {
                Some((
                    Request {
                        is_publish: false, ..
                    },
                    _,
                )) => {
                    held.is_open = true;
                    send(&held.socket, SWITCHING, SendFlags::NOSIGNAL).is_ok()
                }
                Some((Request { body, .. }, _)) => {
                    let frame = hold::text_frame(&body).into();
                    self.publications.lock().expect("no poison").push(frame);
                    send(&held.socket, ACCEPTED, SendFlags::NOSIGNAL).is_ok()
                }
                None => false,
            },
            Err(error) => error == Errno::AGAIN,
        };
        if !is_kept {
            self.connections[index] = None;
        }
    }

    fn ping(&self, beat: usize) {
        let due = self.connections.iter().skip(beat).step_by(BEATS);
        for held in due.flatten().filter(|held| held.is_open) {
            let _ = send(
                &held.socket,
                &PING,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            );
        }
    }

    fn publish(&mut self) {
        let all = self.publications.lock().expect("no poison");
        let new = all[self.published..].to_vec();
        self.published = all.len();
        drop(all);
        for frame in new {
            for held in self
                .connections
                .iter()
                .flatten()
                .filter(|held| held.is_open)
            {
                // What a subscriber that has left does not get shows in the clients' count.
                let _ = send(
                    &held.socket,
                    &frame,
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                );
            }
        }
    }
}
