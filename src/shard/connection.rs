//! One connection of a shard: its socket, what it speaks, what it still has to send, and how far its end has come.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown,
};

use crate::api::Side;
use crate::close_reason::CloseReason;
use crate::config::Config;
use crate::transport::Transport;
use crate::transport::outbox::Outbox;
use crate::transport::outgoing::Outgoing;

/// Stretches handed to one write.
const SLICES_MAX: usize = 64;

/// A slab entry. Idle, all of it is here: no buffer, no task, no timer object.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    pub generation: u32,
    pub transport: Transport,
    /// What did not fit into the socket. Exists only while there is something.
    pub outbox: Option<Box<Outbox>>,
    /// What came in and could not be used yet: the beginning of a head, or requests behind the one being answered.
    pub input: Option<Box<Input>>,
    pub phase: Phase,
    /// A poll is with the kernel. The entry is freed only when both have come home (see [`Phase::Closing`]).
    pub read_armed: bool,
    pub write_armed: bool,
    marks: Marks,
    pub side: Side,
    /// When it came, in seconds of the process's monotonic clock.
    pub since_s: u32,
}

// A million of them are to fit beside their sockets.
const _: () = assert!(size_of::<Connection>() <= 104);

/// Names one connection of one shard for as long as it lives, and never another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionKey {
    pub index: u32,
    /// Differs from that of every other connection that had or will have this index.
    pub generation: u32,
}

/// Generations have the 30 bits that a [`Completion`](super::completion::Completion) has for them: the number of a
/// connection comes again after a billion.
pub(super) const GENERATION_MASK: u32 = (1 << 30) - 1;

/// What is true of a connection, in the one byte that its record has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u8);

impl Marks {
    /// The peer sends no more.
    pub const END_OF_INPUT: Self = Self(1);
    /// Something has come from it.
    pub const HEARD: Self = Self(2);
    /// Has been told that the server shuts down.
    pub const DRAINED: Self = Self(4);
}

/// How far a connection has come. Every one goes through these in order; some skip to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The header of the PROXY protocol is still to come.
    Preface {
        until_ms: u64,
    },
    /// TLS is not yet agreed on.
    Handshake {
        until_ms: u64,
    },
    Open,
    /// No new work; what is in the outbox goes out first.
    Flushing(CloseReason),
    /// All is sent and the peer knows that nothing follows. What it still sends is read over until it closes, since
    /// closing on unread bytes resets the connection and loses the answer.
    Lingering {
        reason: CloseReason,
        until_ms: u64,
    },
    /// Shut down; freed as soon as the polls are home.
    Closing,
}

/// Bytes that a peer has sent and nobody has used yet.
#[derive(Debug, Default)]
pub struct Input {
    bytes: Vec<u8>,
    /// Bytes at the front that are used: taking many small requests out moves nothing.
    used: usize,
}

impl Input {
    /// `None` when there is nothing to keep.
    pub fn new(bytes: &[u8]) -> Option<Box<Self>> {
        let input = || {
            Box::new(Self {
                bytes: bytes.to_vec(),
                used: 0,
            })
        };
        (!bytes.is_empty()).then(input)
    }

    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub fn unused(&mut self) -> &mut [u8] {
        &mut self.bytes[self.used..]
    }

    pub fn mark_used(&mut self, bytes: usize) {
        self.used += bytes;
    }

    /// Bytes that are not yet used.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.used
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Connection {
    pub fn new(socket: OwnedFd, generation: u32, side: Side, now_ms: u64) -> Self {
        Self {
            socket,
            generation,
            transport: Transport::new(now_ms),
            outbox: None,
            input: None,
            phase: Phase::Open,
            read_armed: false,
            write_armed: false,
            marks: Marks::default(),
            side,
            since_s: (now_ms / 1000) as u32,
        }
    }

    pub fn has(&self, mark: Marks) -> bool {
        self.marks.0 & mark.0 != 0
    }

    pub fn set(&mut self, mark: Marks, is_set: bool) {
        match is_set {
            true => self.marks.0 |= mark.0,
            false => self.marks.0 &= !mark.0,
        }
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Reads once; 0 is the end of the input, `None` that there is nothing now.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        match recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes as much of `bytes` as the socket takes at once, and says how much that was.
    pub fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&self.socket, bytes, flags) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            result => result,
        }
    }

    /// Writes as much of `out` as the socket takes at once, and says how much that was.
    pub fn transmit(&self, out: &Outgoing) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut sent = 0;
        let mut slices = out.slices();
        while slices.len() > 0 {
            let result = if slices.len() == 1 {
                let slice = slices.next().expect("one slice");
                send(&self.socket, slice, flags).map(|bytes| (bytes, slice.len()))
            } else {
                let mut batch = [IoSlice::new(&[]); SLICES_MAX];
                let mut n = 0;
                let mut bytes = 0;
                for (place, slice) in batch.iter_mut().zip(&mut slices) {
                    *place = IoSlice::new(slice);
                    bytes += slice.len();
                    n += 1;
                }
                sendmsg(
                    &self.socket,
                    &batch[..n],
                    &mut SendAncillaryBuffer::default(),
                    flags,
                )
                .map(|sent| (sent, bytes))
            };
            match result {
                Ok((bytes, of)) => {
                    sent += bytes;
                    if bytes < of {
                        break;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Tells the peer that nothing more is sent.
    pub fn finish_sending(&self) {
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    /// Ends both directions, which brings armed polls home.
    pub fn shut_down(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// Whether to wait for the peer's bytes, or for its end.
    pub fn wants_read(&self, config: &Config) -> bool {
        if self.has(Marks::END_OF_INPUT) || self.read_armed {
            return false;
        }
        match (self.phase, &self.transport) {
            (Phase::Preface { .. } | Phase::Handshake { .. } | Phase::Lingering { .. }, _) => true,
            // Who does not read the answers gets no more of them.
            (Phase::Open, Transport::Http(_)) if self.outbox.is_some() => false,
            // What comes behind its request is kept, and its end is to be heard of.
            (Phase::Open, Transport::LongPoll(_)) => {
                let kept_bytes = self.input.as_ref().map_or(0, |input| input.len());
                kept_bytes < config.limits.input_bytes_max
            }
            (Phase::Open, transport) => transport.wants_input(config),
            (Phase::Flushing(_) | Phase::Closing, _) => false,
        }
    }

    /// When something is to be done if nothing happens before.
    pub fn deadline_ms(&self, config: &Config) -> Option<u64> {
        let stalled_ms = self
            .outbox
            .as_ref()
            .map(|outbox| outbox.progress_ms() + config.timing.write_stall_timeout_ms);
        match self.phase {
            Phase::Open => [self.transport.next_deadline_ms(config), stalled_ms]
                .into_iter()
                .flatten()
                .min(),
            Phase::Flushing(_) => stalled_ms,
            Phase::Preface { until_ms } | Phase::Handshake { until_ms } => Some(until_ms),
            Phase::Lingering { until_ms, .. } => Some(until_ms),
            Phase::Closing => None,
        }
    }

    /// The outbox has hardly moved for too long.
    pub fn is_stalled(&self, config: &Config, now_ms: u64) -> bool {
        let timeout_ms = config.timing.write_stall_timeout_ms;
        self.outbox
            .as_ref()
            .is_some_and(|outbox| now_ms >= outbox.progress_ms() + timeout_ms)
    }

    /// Nothing of it is with the kernel.
    pub fn is_joined(&self) -> bool {
        !self.read_armed && !self.write_armed
    }

    /// Who is at the other end of the socket. It knows; a record that kept it would keep it a million times.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        rustix::net::getpeername(&self.socket)
            .ok()
            .flatten()
            .and_then(|address| SocketAddr::try_from(address).ok())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
