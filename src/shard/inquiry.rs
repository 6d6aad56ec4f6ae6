//! What the operator asks of a shard's connections, and their end by the operator.
//!
//! A question looks and ends nobody: it may come in the middle of another connection's step. Who is to end waits in
//! [`Farewells`] for the turn to come to it.

use std::collections::VecDeque;

use crate::api::connections::{
    ConnectionId, ConnectionInfo, ConnectionState, Finding, Inquiry, OutboxState, Page, PageMark,
};
use crate::close_reason::CloseReason;
use crate::shard::Shard;
use crate::shard::connection::{Connection, ConnectionKey, Phase};

/// Connections ended by the operator in one turn: each costs a write, and the others wait for it.
const FAREWELLS_PER_TURN: usize = 64;

/// Connections of a user that one question ends on one shard: to find so many takes a millisecond or two.
const USER_FAREWELLS_MAX: usize = 4096;

/// Connections that the operator wants ended, in the order in which that will be.
pub(super) type Farewells = VecDeque<ConnectionKey>;

impl Shard {
    pub(super) fn inquire(&mut self, inquiry: &Inquiry) -> Finding {
        match inquiry {
            Inquiry::Subscribers { channel, page } => self.list(page, |shard, begin| {
                let listeners = shard.fanout.listeners(channel, begin);
                listeners.take(page.limit).collect()
            }),
            Inquiry::OfUser { user, page } => self.list(page, |shard, begin| {
                let connections = shard.auth.users.connections(user, begin, page.limit);
                connections
                    .into_iter()
                    .map(|index| (index, index))
                    .collect()
            }),
            Inquiry::State(id) => {
                let index = self.find(*id);
                Finding::State(index.map(|index| Box::new(self.state(index))))
            }
            Inquiry::End(id) => {
                let Some(index) = self.find(*id) else {
                    return Finding::State(None);
                };
                if self.is_ending(index) {
                    return Finding::Ended(0);
                }
                let peer = self.peer(index);
                tracing::info!(connection = %id, %peer, "disconnected by the operator");
                // Ahead of those who end by the thousand.
                self.farewells.push_front(self.connection_key(index));
                Finding::Ended(1)
            }
            Inquiry::EndUser(user) => {
                let indices = self.auth.users.take(user, USER_FAREWELLS_MAX);
                if !indices.is_empty() {
                    let connections = indices.len();
                    let shard = self.id.0;
                    tracing::info!(shard, %user, connections, "disconnected by the operator");
                }
                for &index in &indices {
                    self.farewells.push_back(self.connection_key(index));
                }
                Finding::Ended(indices.len())
            }
        }
    }

    /// Ends the turn's share of those whom the operator wants ended; `false` if there is none.
    pub(super) fn say_farewell(&mut self) -> bool {
        for _ in 0..FAREWELLS_PER_TURN {
            let Some(key) = self.farewells.pop_front() else {
                break;
            };
            if self.is_current(key) {
                self.disconnect(key.index);
            }
        }
        !self.farewells.is_empty()
    }

    /// Each in the way of its transport.
    fn disconnect(&mut self, index: u32) {
        let reason = CloseReason::Disconnected;
        match self.connections[index as usize].phase {
            Phase::Preface { .. } | Phase::Handshake { .. } => self.end_now(index, reason),
            Phase::Open => {
                self.keep_begun(index);
                self.step(index, |transport, context| transport.on_disconnect(context));
            }
            Phase::Flushing(_) | Phase::Lingering { .. } | Phase::Closing => {}
        }
    }

    /// The part of a list that is here: `find` gives the marks from a number on, with their connections.
    fn list(&self, page: &Page, find: impl FnOnce(&Self, u32) -> Vec<(u32, u32)>) -> Finding {
        let found = page.begin_on(self.id).map(|begin| find(self, begin));
        let listed = found.into_iter().flatten().map(|(number, index)| {
            let mark = PageMark {
                shard: self.id,
                number,
            };
            (mark, self.info(index))
        });
        Finding::Listed(listed.collect())
    }

    fn info(&self, index: u32) -> ConnectionInfo {
        let connection = &self.connections[index as usize];
        let session = connection.transport.session();
        ConnectionInfo {
            id: self.id_of(index),
            user: session.and_then(|session| session.grant.user.clone()),
            transport: connection.transport.kind().label(),
            address: self.client(index),
            age_ms: self.age_ms(connection),
        }
    }

    fn state(&self, index: u32) -> ConnectionState {
        let connection = &self.connections[index as usize];
        let transport = &connection.transport;
        let outbox = connection.outbox.as_ref();
        let ends_ms = transport.session().and_then(|session| session.ends_ms);
        let channels = transport.listening().into_iter();
        let named = channels
            .map(|(subscription, position)| (self.fanout.name(subscription).clone(), position));
        ConnectionState {
            info: self.info(index),
            side: connection.side,
            is_ending: self.is_ending(index),
            silent_ms: transport.silent_ms(self.clock.now_ms),
            token_left_ms: ends_ms.map(|ends_ms| ends_ms.saturating_sub(self.clock.now_ms)),
            outbox: outbox.map_or_else(OutboxState::default, |outbox| OutboxState {
                bytes: outbox.bytes(),
                entries: outbox.entries(),
                since_ms: self.clock.now_ms - outbox.since_ms(),
            }),
            channels: named.collect(),
        }
    }

    /// A connection that is still there, at least with its goodbye.
    fn find(&self, id: ConnectionId) -> Option<u32> {
        let key = ConnectionKey {
            index: id.index,
            generation: id.generation,
        };
        let is_there = |&index: &u32| self.connections[index as usize].phase != Phase::Closing;
        self.is_current(key).then_some(id.index).filter(is_there)
    }

    fn is_ending(&self, index: u32) -> bool {
        let connection = &self.connections[index as usize];
        let ends = matches!(
            connection.phase,
            Phase::Flushing(_) | Phase::Lingering { .. }
        );
        ends || connection.transport.has_said_goodbye()
    }

    /// What the operator calls a connection.
    pub(super) fn id_of(&self, index: u32) -> ConnectionId {
        ConnectionId {
            shard: self.id,
            index,
            generation: self.connections[index as usize].generation,
        }
    }

    fn age_ms(&self, connection: &Connection) -> u64 {
        self.clock
            .now_ms
            .saturating_sub(u64::from(connection.since_s) * 1000)
    }
}
