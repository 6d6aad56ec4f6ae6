//! Newcomers: accepting them, and turning them away when the system has no room.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, accept_with, recv, send, shutdown};
use rustls::ServerConfig;
use socket2::{SockFilter, SockRef};

use crate::api::Side;
use crate::api::refusal::Refusal;
use crate::shard::Shard;
use crate::shard::complaint::Complaint;
use crate::shard::completion::Completion;
use crate::transport::response::write_unread_refusal;

/// Newcomers taken in one turn, before the others get theirs.
const ACCEPTS_PER_TURN: usize = 64;
/// How long an entrance rests when the system has no descriptor or no memory for another connection.
const REST_MS: u64 = 100;
/// How long it rests at least for the sake of the rate: several come in at once then.
const REST_MS_MIN: u64 = 5;

/// How long a handshake may take that began before the door began to close. Less than the second after which a SYN is
/// repeated for the first time (RFC 6298 §2), so whoever repeats it finds the door closed.
const HANDSHAKE_MS: u64 = 250;

/// Drops a segment that has SYN and not ACK. Byte 13 of a TCP header has the flags (RFC 9293 §3.1).
const DROP_SYN: [SockFilter; 5] = {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};

/// A socket that newcomers come to.
#[derive(Debug)]
pub struct Entrance {
    pub socket: OwnedFd,
    pub side: Side,
    /// Its connections begin with a header of the PROXY protocol.
    pub requires_preface: bool,
    /// Its connections speak TLS.
    pub tls: Option<Arc<ServerConfig>>,
}

/// Where newcomers come in.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) entrances: Vec<Entrance>,
    /// Entrances that rest, since the system could not accept, and until when.
    resting: Vec<usize>,
    retry_ms: Option<u64>,
    /// Of each entrance: since when somebody is left waiting there, whom the rate has yet to let in.
    waiting_since_ms: Vec<Option<u64>>,
    /// Nobody knocks any more, and who already has is let in until then.
    closes_ms: Option<u64>,
    pub(super) is_closed: bool,
    /// Given up for a moment to accept, refuse and close when there is no descriptor left: a newcomer who is told is
    /// better off than one who waits.
    spare: Option<OwnedFd>,
}

impl Door {
    pub(super) fn new(entrances: Vec<Entrance>) -> Self {
        Self {
            waiting_since_ms: vec![None; entrances.len()],
            entrances,
            resting: Vec::new(),
            retry_ms: None,
            closes_ms: None,
            is_closed: false,
            spare: None,
        }
    }

    /// When there is something to do at the door if nobody comes.
    pub(super) fn next_ms(&self) -> Option<u64> {
        [self.retry_ms, self.closes_ms].into_iter().flatten().min()
    }

    fn rest(&mut self, entrance: usize, until_ms: u64) {
        self.resting.push(entrance);
        let retry_ms = self.retry_ms.unwrap_or(u64::MAX);
        self.retry_ms = Some(retry_ms.min(until_ms));
    }

    /// Accepts with the descriptor kept for this, refuses, closes.
    fn turn_away(&mut self, entrance: usize, rng: &mut fastrand::Rng) -> u64 {
        let Entrance { socket, tls, .. } = &self.entrances[entrance];
        let is_plain = tls.is_none();
        let mut refusal = Vec::new();
        write_unread_refusal(&mut refusal, &Refusal::CONNECTIONS_FULL, rng);
        let mut turned_away = 0;
        let mut request = [0; 4096];
        for _ in 0..ACCEPTS_PER_TURN {
            drop(self.spare.take());
            let Ok(newcomer) = accept_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
            else {
                break;
            };
            // Closing on unread bytes would reset the connection and lose the answer. What comes later still may.
            let _ = recv(&newcomer, &mut request[..], RecvFlags::DONTWAIT);
            // Over TLS it would take a handshake to be understood.
            if is_plain {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let _ = send(&newcomer, &refusal, flags);
            }
            let _ = shutdown(&newcomer, Shutdown::Write);
            turned_away += 1;
        }
        self.keep_spare();
        turned_away
    }

    fn keep_spare(&mut self) {
        if self.spare.is_none() {
            self.spare = self
                .entrances
                .first()
                .and_then(|entrance| rustix::io::dup(&entrance.socket).ok());
        }
    }
}

impl Shard {
    pub(super) fn arm_entrance(&mut self, entrance: usize) -> io::Result<()> {
        self.door.keep_spare();
        let user_data = Completion::Acceptable(entrance as u32).pack();
        self.ring
            .poll_readable(&self.door.entrances[entrance].socket, user_data)
    }

    /// Somebody is at the door.
    pub(super) fn on_acceptable(&mut self, entrance: usize) {
        if self.door.is_closed {
            return;
        }
        self.accept_from(entrance);
        if !self.door.resting.contains(&entrance)
            && let Err(error) = self.arm_entrance(entrance)
        {
            self.abort_without_ring(&error);
        }
    }

    /// Accepts until nobody waits, or is to wait (`true`), or enough for this turn.
    pub(super) fn accept_from(&mut self, entrance: usize) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            if self.leaves_waiting(entrance) {
                return true;
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match accept_with(&self.door.entrances[entrance].socket, flags) {
                Ok(socket) => self.admit(socket, entrance),
                // A unix socket is all shards', and another one may have shut it down.
                Err(Errno::AGAIN | Errno::INVAL) => {
                    self.door.waiting_since_ms[entrance] = None;
                    return true;
                }
                // The system lacks something that may come back.
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    self.rest_entrance(entrance, error);
                    return true;
                }
                // The newcomer was gone before we got there (accept(2), "Error handling").
                Err(_) => {}
            }
        }
        false
    }

    /// Leaves newcomers in the kernel's queue until the rate lets them in, or they have come too fast for too long.
    fn leaves_waiting(&mut self, entrance: usize) -> bool {
        let now_ms = self.clock.now_ms;
        let per_second_max = self.config.limits.accepts_per_second_max;
        let wait_max_ms = self.config.timing.accept_wait_max_ms;
        let side = self.door.entrances[entrance].side;
        // Who waits at a door that closes would be reset.
        let is_exempt = side.is_backend() || self.door.closes_ms.is_some();
        if wait_max_ms == 0 || is_exempt || self.accept_rate.has_room(per_second_max, now_ms) {
            return false;
        }
        let since_ms = *self.door.waiting_since_ms[entrance].get_or_insert(now_ms);
        let end_ms = since_ms + wait_max_ms;
        let is_left = now_ms < end_ms;
        if is_left {
            let next_ms = now_ms + (1000 / per_second_max as u64).clamp(REST_MS_MIN, REST_MS);
            self.door.rest(entrance, next_ms.min(end_ms));
        }
        is_left
    }

    /// The entrance rests, so that a lasting lack does not become a busy loop; those who are connected go on.
    fn rest_entrance(&mut self, entrance: usize, error: Errno) {
        self.metrics.accept_errors_total += 1;
        let turned_away = self.door.turn_away(entrance, &mut self.rng);
        self.metrics.rejected_total += turned_away;
        let Refusal { code, status, .. } = Refusal::CONNECTIONS_FULL;
        self.metrics.on_refusals(code, status, turned_away);
        self.door.rest(entrance, self.clock.now_ms + REST_MS);
        self.complain(Complaint::Descriptors);
        tracing::debug!(shard = self.id.0, %error, "accept failed");
    }

    /// Entrances that have rested long enough try again.
    pub(super) fn retry_accept(&mut self) {
        if self
            .door
            .retry_ms
            .is_some_and(|retry_ms| self.clock.now_ms >= retry_ms)
        {
            self.door.retry_ms = None;
            for entrance in std::mem::take(&mut self.door.resting) {
                self.on_acceptable(entrance);
            }
        }
    }

    /// From now on nobody new knocks here: a SYN is dropped, and its sender repeats it to whoever has the port by then.
    /// The door itself stays open for handshakes that are under way, since closing it would reset them.
    pub(super) fn begin_to_close_door(&mut self) {
        let ignore_newcomers =
            |entrance: &Entrance| SockRef::from(&entrance.socket).attach_filter(&DROP_SYN);
        if self
            .door
            .entrances
            .iter()
            .all(|it| ignore_newcomers(it).is_ok())
        {
            self.door.closes_ms = Some(self.clock.now_ms + HANDSHAKE_MS);
        } else {
            self.close_door();
        }
    }

    pub(super) fn close_door_if_due(&mut self) {
        if self
            .door
            .closes_ms
            .is_some_and(|closes_ms| self.clock.now_ms >= closes_ms)
        {
            self.close_door();
        }
    }

    /// Takes those who have already been let in by the kernel, then closes the door.
    pub(super) fn close_door(&mut self) {
        if self.door.is_closed {
            return;
        }
        self.door.closes_ms = Some(self.clock.now_ms);
        for entrance in 0..self.door.entrances.len() {
            while !self.accept_from(entrance) {}
        }
        // Brings the armed polls home; they find nobody. One may still wait to be submitted, so the descriptors stay.
        for entrance in &self.door.entrances {
            let _ = shutdown(&entrance.socket, Shutdown::Both);
        }
        self.door.retry_ms = None;
        self.door.closes_ms = None;
        self.door.is_closed = true;
    }
}
