//! Connections that speak TLS: from the handshake on, their bytes pass through a session on the way in and out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::io::Errno;
use rustls::ServerConfig;

use crate::api::refusal::Refusal;
use crate::close_reason::CloseReason;
use crate::metrics::TlsHandshake;
use crate::shard::Shard;
use crate::shard::complaint::Complaint;
use crate::shard::connection::{Connection, Input, Marks, Phase};
use crate::tls::TlsConfigs;
use crate::tls::session::{RecordBuffer, Sent, TlsSession, TlsSessionError};
use crate::transport::Transport;
use crate::transport::outbox::Outbox;
use crate::transport::outgoing::Outgoing;

/// By the connection's index; beside the connections, so that one without TLS costs nothing.
#[derive(Default)]
pub(super) struct TlsSessions {
    slots: Vec<Option<Box<TlsSession>>>,
}

impl TlsSessions {
    fn set(&mut self, index: u32, session: TlsSession) {
        let index = index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(Box::new(session));
    }

    pub(super) fn get(&self, index: u32) -> Option<&TlsSession> {
        self.slots.get(index as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut TlsSession> {
        self.slots.get_mut(index as usize)?.as_deref_mut()
    }

    pub(super) fn forget(&mut self, index: u32) -> Option<Box<TlsSession>> {
        self.slots.get_mut(index as usize)?.take()
    }
}

/// Writes as much of `out` as the socket takes at once.
pub(super) fn transmit(
    connection: &Connection,
    session: Option<&mut TlsSession>,
    out: &Outgoing,
    buffer: &mut RecordBuffer,
) -> Result<Sent, Errno> {
    let Some(session) = session else {
        let taken = connection.transmit(out)?;
        return Ok(Sent {
            taken,
            wire_bytes: taken,
            is_full: taken < out.bytes(),
        });
    };
    session.transmit(out.slices(), buffer, |bytes| connection.send(bytes))
}

impl Shard {
    /// For those who come from now on; who is connected keeps what was agreed on.
    pub(super) fn reload_tls(&mut self, configs: &TlsConfigs) {
        for entrance in &mut self.door.entrances {
            let is_backends = entrance.side.is_backend();
            let config = if is_backends {
                &configs.internal
            } else {
                &configs.listen
            };
            entrance.tls = config.clone();
        }
    }

    /// The connection will speak TLS; `false` if it cannot, and it has ended.
    pub(super) fn add_tls(&mut self, index: u32, config: Arc<ServerConfig>) -> bool {
        match TlsSession::new(config) {
            Ok(session) => self.tls_sessions.set(index, session),
            Err(error) => {
                self.fail_handshake(index, TlsHandshake::Failed, &error.to_string());
                return false;
            }
        }
        true
    }

    /// Nothing comes before the connection's own bytes any more: requests, or where it speaks TLS, the handshake.
    /// `input` is what came together with the PROXY header.
    pub(super) fn begin_input(&mut self, index: u32, input: Option<Box<Input>>) {
        let has_session = self.tls_sessions.get(index).is_some();
        if has_session {
            self.connections[index as usize].phase = Phase::Handshake {
                until_ms: self.clock.now_ms + self.config.timing.handshake_timeout_ms,
            };
        }
        match input {
            Some(mut input) if has_session && !input.is_empty() => {
                self.on_ciphertext(index, input.unused());
            }
            Some(input) if !has_session => {
                self.connections[index as usize].set(Marks::HEARD, !input.is_empty());
                self.feed_kept(index, input);
                self.await_next(index);
            }
            _ => self.await_next(index),
        }
    }

    /// Bytes of a connection that speaks TLS. Says whether they have brought its transport anything.
    pub(super) fn on_ciphertext(&mut self, index: u32, bytes: &mut [u8]) -> bool {
        let mut plaintext = std::mem::take(&mut self.scratch.plaintext);
        let is_ok = self.decrypt(index, bytes, &mut plaintext);
        let has_input = is_ok && !plaintext.is_empty();
        if has_input {
            self.on_input(index, &mut plaintext);
        } else if is_ok {
            self.await_next(index);
        }
        plaintext.clear();
        self.scratch.plaintext = plaintext;
        let is_at_end = self
            .tls_sessions
            .get(index)
            .is_some_and(TlsSession::is_at_end);
        let connection = &self.connections[index as usize];
        if is_at_end && connection.is_open() && !connection.has(Marks::END_OF_INPUT) {
            self.on_end_of_input(index);
        }
        has_input
    }

    /// `false` if the connection has ended by that.
    fn decrypt(&mut self, index: u32, bytes: &mut [u8], plaintext: &mut Vec<u8>) -> bool {
        let connection = &mut self.connections[index as usize];
        let Some(session) = self.tls_sessions.get_mut(index) else {
            return false;
        };
        let was_handshaking = session.is_handshaking();
        // As with a step of a transport: a bug that a peer's bytes find costs this connection and no other.
        let received = catch_unwind(AssertUnwindSafe(|| session.receive(bytes, plaintext)));
        let Ok(received) = received else {
            self.metrics.panics_total += 1;
            self.tls_sessions.forget(index);
            self.end_now(index, CloseReason::Panicked);
            return false;
        };
        // What TLS itself has to say: its part of the handshake, or an alert.
        let flushed = session.flush(|bytes| connection.send(bytes));
        match (received, flushed) {
            (Err(error), _) => {
                self.fail_tls(index, error);
                return false;
            }
            (Ok(()), Err(_)) => {
                self.end_now(index, CloseReason::PeerReset);
                return false;
            }
            (Ok(()), Ok(sent)) => self.metrics.socket_bytes_out_total += sent as u64,
        }
        if was_handshaking && !session.is_handshaking() {
            let kind = if session.is_resumed() {
                TlsHandshake::Resumed
            } else {
                TlsHandshake::Full
            };
            self.metrics.tls_handshakes_total[kind as usize] += 1;
            connection.phase = Phase::Open;
            connection.transport = Transport::new(self.clock.now_ms);
        }
        if session.has_unsent() {
            self.await_room(index);
        }
        true
    }

    /// What is unsent waits for the socket: an outbox, if an empty one, says so.
    fn await_room(&mut self, index: u32) {
        self.with_outbox(index, |shard, outbox| {
            outbox.get_or_insert_with(|| Box::new(Outbox::new(shard.clock.now_ms)));
        });
    }

    fn fail_tls(&mut self, index: u32, error: TlsSessionError) {
        match error {
            // Somebody took https:// for http://, and can read the answer.
            TlsSessionError::PlainText { is_http: true } => {
                self.metrics.tls_handshakes_total[TlsHandshake::PlainText as usize] += 1;
                self.tls_sessions.forget(index);
                self.connections[index as usize].phase = Phase::Open;
                self.refuse_newcomer(index, Refusal::TLS_REQUIRED, CloseReason::Refused);
            }
            TlsSessionError::PlainText { is_http: false } => {
                self.fail_handshake(index, TlsHandshake::PlainText, "not TLS");
            }
            TlsSessionError::Tls(_) if self.connections[index as usize].is_open() => {
                self.end_now(index, CloseReason::TlsFailed);
            }
            TlsSessionError::Tls(error) => {
                self.fail_handshake(index, TlsHandshake::Failed, &error.to_string());
            }
        }
    }

    fn fail_handshake(&mut self, index: u32, result: TlsHandshake, found: &str) {
        self.metrics.tls_handshakes_total[result as usize] += 1;
        self.complain_of(index, Complaint::TlsHandshake, found);
        self.end_now(index, CloseReason::TlsFailed);
    }

    /// The peer has gone before the end of its handshake.
    pub(super) fn on_handshake_cut(&mut self, index: u32) {
        if self
            .tls_sessions
            .get(index)
            .is_some_and(TlsSession::has_input)
        {
            self.metrics.tls_handshakes_total[TlsHandshake::Failed as usize] += 1;
        }
        self.end_now(index, CloseReason::PeerClosed);
    }

    /// The time for the handshake is over.
    pub(super) fn on_handshake_timer(&mut self, index: u32, until_ms: u64) {
        if self.clock.now_ms >= until_ms {
            self.fail_handshake(index, TlsHandshake::TimedOut, "not complete in time");
        } else {
            self.await_next(index);
        }
    }

    /// Tells the peer's TLS that nothing follows; `false` while that waits for the socket.
    pub(super) fn close_tls(&mut self, index: u32) -> bool {
        let connection = &self.connections[index as usize];
        let Some(session) = self.tls_sessions.get_mut(index) else {
            return true;
        };
        session.close();
        // A socket that has failed waits for nothing.
        let is_out =
            session.flush(|bytes| connection.send(bytes)).is_err() || !session.has_unsent();
        if !is_out {
            self.await_room(index);
        }
        is_out
    }

    /// The connection ends here and now: the peer's TLS is told if the socket takes it at once.
    pub(super) fn drop_tls(&mut self, index: u32) {
        if let Some(mut session) = self.tls_sessions.forget(index)
            && !session.has_unsent()
        {
            session.close();
            let connection = &self.connections[index as usize];
            let _ = session.flush(|bytes| connection.send(bytes));
        }
    }
}
