//! Whether a newcomer is let in: by how many there are, of all and of its address, and by how fast they come.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use crate::api::Side;
use crate::api::refusal::Refusal;
use crate::close_reason::CloseReason;
use crate::metrics::TransportKind;
use crate::shard::Shard;
use crate::shard::accept::Entrance;
use crate::shard::clients::counted_address;
use crate::shard::complaint::Complaint;
use crate::shard::connection::{Connection, GENERATION_MASK};
use crate::transport::Next;
use crate::transport::response::{Meta, refuse};
use crate::transport::token_bucket::TokenBucket;

/// Connections above `connections_max` that may exist for as long as their refusal takes.
const REFUSALS_MAX: usize = 64;
/// The same above `connections_per_address_max`.
const ADDRESS_REFUSALS_MAX: usize = 8;
/// Newcomers above `accepts_per_second_max` that are told so, in a second: each takes a place until it has read it.
const RATE_REFUSALS_PER_SECOND: usize = 1000;

/// How fast newcomers may come to a shard.
#[derive(Debug)]
pub(super) struct AcceptRate {
    accepts: TokenBucket,
    /// Refusals of those above.
    refusals: TokenBucket,
}

/// What becomes of a newcomer.
enum Verdict {
    Admit,
    Refuse(Refusal, Complaint),
    /// Closed without a word: what refusals take is bounded, too.
    Close,
}

impl AcceptRate {
    pub(super) fn new(accepts_per_second_max: usize, now_ms: u64) -> Self {
        Self {
            accepts: TokenBucket::new(accepts_per_second_max, now_ms),
            refusals: TokenBucket::new(RATE_REFUSALS_PER_SECOND, now_ms),
        }
    }

    /// One more may come in; 0 is any number.
    pub(super) fn has_room(&mut self, per_second_max: usize, now_ms: u64) -> bool {
        self.accepts.fill(per_second_max, now_ms);
        per_second_max == 0 || self.accepts.has_some()
    }

    fn judge(&mut self, per_second_max: usize, now_ms: u64) -> Verdict {
        if per_second_max == 0 || self.accepts.take(1, per_second_max, now_ms) {
            Verdict::Admit
        } else if self.refusals.take(1, RATE_REFUSALS_PER_SECOND, now_ms) {
            Verdict::Refuse(Refusal::ACCEPT_RATE_EXCEEDED, Complaint::AcceptRate)
        } else {
            Verdict::Close
        }
    }
}

impl Shard {
    /// Takes a connection in, or turns it away.
    pub(super) fn admit(&mut self, socket: OwnedFd, entrance: usize) {
        self.metrics.accepted_total += 1;
        let n_connections = self.shared.n_connections.fetch_add(1, Ordering::Relaxed);
        let Entrance {
            side,
            requires_preface,
            ref tls,
            ..
        } = self.door.entrances[entrance];
        let tls = tls.clone();
        let refusal = match self.judge(n_connections, side) {
            Verdict::Admit => None,
            Verdict::Refuse(refusal, complaint) => Some((refusal, complaint)),
            Verdict::Close => {
                self.shared.n_connections.fetch_sub(1, Ordering::Relaxed);
                self.metrics.rejected_total += 1;
                return;
            }
        };
        let generation = self.next_generation;
        self.next_generation = (generation + 1) & GENERATION_MASK;
        let connection = Connection::new(socket, generation, side, self.clock.now_ms);
        let index = self.connections.insert(connection) as u32;
        self.metrics.on_transport(None, Some(TransportKind::Http));
        self.arm_drain(index);
        if let Some(tls) = tls
            && !self.add_tls(index, tls)
        {
            return;
        }
        if let Some((refusal, complaint)) = refusal {
            self.complain(complaint);
            self.refuse_newcomer(index, refusal, CloseReason::TooManyConnections);
        } else if requires_preface {
            self.await_preface(index);
        } else if self.admit_client(index, None) {
            self.begin_input(index, None);
        }
    }

    /// Whether there is room for one more beside `n_connections` of the process.
    fn judge(&mut self, n_connections: usize, side: Side) -> Verdict {
        let connections_max = self.shared.connections_max.load(Ordering::Relaxed);
        let connections_per_shard_max = self.shared.connections_per_shard_max;
        // The whole process, and this shard's own descriptor table.
        let over = |refusals_max: usize| {
            n_connections >= connections_max.saturating_add(refusals_max)
                || self.connections.len() >= connections_per_shard_max.saturating_add(refusals_max)
        };
        if over(REFUSALS_MAX) {
            return Verdict::Close;
        }
        if over(0) {
            return Verdict::Refuse(Refusal::CONNECTIONS_FULL, Complaint::Connections);
        }
        if side.is_backend() {
            return Verdict::Admit;
        }
        let per_second_max = self.config.limits.accepts_per_second_max;
        self.accept_rate.judge(per_second_max, self.clock.now_ms)
    }

    /// Counts the connection among those of its client; `false` if there are too many of them. `client` is what a
    /// proxy has told; otherwise it is who is at the other end.
    pub(super) fn admit_client(&mut self, index: u32, client: Option<SocketAddr>) -> bool {
        let count_max = self.config.limits.connections_per_address_max;
        let side = self.connections[index as usize].side;
        if count_max == 0 || side.is_backend() {
            return true;
        }
        let client = client.or_else(|| self.connections[index as usize].peer_address());
        // Without an address it is gone already.
        let Some(client) = client else {
            return true;
        };
        let bound = count_max.saturating_add(ADDRESS_REFUSALS_MAX);
        let count = self
            .shared
            .address_counts
            .add(counted_address(client.ip()), bound);
        self.clients.set(index, client, count.is_some());
        if count.is_some_and(|count| count <= count_max) {
            return true;
        }
        self.complain_of(index, Complaint::AddressConnections, "one too many");
        if count.is_some() {
            let refusal = Refusal::ADDRESS_CONNECTIONS_FULL;
            self.refuse_newcomer(index, refusal, CloseReason::TooManyConnections);
        } else {
            self.metrics.rejected_total += 1;
            self.end_now(index, CloseReason::TooManyConnections);
        }
        false
    }

    /// Tells a newcomer why it is turned away. One that would have to agree on TLS first is just closed: a handshake
    /// costs more than what the refusal is to save.
    pub(super) fn refuse_newcomer(&mut self, index: u32, refusal: Refusal, reason: CloseReason) {
        self.metrics.rejected_total += 1;
        if self.tls_sessions.get(index).is_some() {
            self.metrics.on_refusal(refusal.code, refusal.status);
            return self.end_now(index, reason);
        }
        self.step(index, |_, context| {
            refuse(context, &Meta::UNKNOWN, &refusal);
            Next::End(reason)
        });
    }
}
