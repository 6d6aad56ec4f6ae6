//! The header of the PROXY protocol, with which connections begin where an entrance requires it. Whoever is not one of
//! `proxy_sources` is refused; so is whoever begins otherwise, since nobody guesses.

use crate::api::refusal::Refusal;
use crate::close_reason::CloseReason;
use crate::proto::proxy_header::{self, ProxyHeader};
use crate::shard::Shard;
use crate::shard::complaint::Complaint;
use crate::shard::connection::{Input, Phase};
use crate::transport::Transport;

impl Shard {
    /// Waits for the header, if the connection comes from one who may send it.
    pub(super) fn await_preface(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let is_source = connection.peer_address().is_some_and(|peer| {
            let sources = &self.config.proxy_sources;
            sources.iter().any(|source| source.contains(peer.ip()))
        });
        if !is_source {
            self.complain_of(index, Complaint::ProxySource, "not in proxy_sources");
            return self.refuse_preface(index, Refusal::PROXY_SOURCE_DENIED, CloseReason::Refused);
        }
        connection.phase = Phase::Preface {
            until_ms: self.clock.now_ms + self.config.timing.proxy_header_timeout_ms,
        };
        self.await_next(index);
    }

    /// Bytes of a connection whose header is not complete.
    pub(super) fn on_preface(&mut self, index: u32, bytes: &[u8]) {
        let connection = &mut self.connections[index as usize];
        let mut input = connection.input.take().unwrap_or_default();
        input.extend(bytes);
        match proxy_header::decode(input.unused()) {
            Ok(None) => {
                connection.input = Some(input);
                self.await_next(index);
            }
            Ok(Some((header, header_bytes))) => {
                input.mark_used(header_bytes);
                self.on_proxy_header(index, header, input);
            }
            Err(error) => {
                self.complain_of(index, Complaint::ProxyHeader, error.reason());
                let refusal = Refusal::PROXY_HEADER_INVALID;
                self.refuse_preface(index, refusal, CloseReason::Refused);
            }
        }
    }

    /// From here on it is a connection like any other, of the client that the header tells.
    fn on_proxy_header(&mut self, index: u32, header: ProxyHeader, input: Box<Input>) {
        let connection = &mut self.connections[index as usize];
        connection.phase = Phase::Open;
        connection.transport = Transport::new(self.clock.now_ms);
        let is_admitted = match header {
            ProxyHeader::Client(client) => {
                self.clients.set(index, client, false);
                self.admit_client(index, Some(client))
            }
            ProxyHeader::Own => {
                let peer = connection.peer_address();
                self.admit_client(index, peer)
            }
        };
        if is_admitted {
            self.begin_input(index, Some(input));
        }
    }

    /// The time for the header is over.
    pub(super) fn on_preface_timer(&mut self, index: u32, until_ms: u64) {
        if self.clock.now_ms >= until_ms {
            self.complain_of(
                index,
                Complaint::ProxyHeader,
                "no whole PROXY header in time",
            );
            let refusal = Refusal::PROXY_HEADER_TIMEOUT;
            self.refuse_preface(index, refusal, CloseReason::RequestTimeout);
        } else {
            self.await_next(index);
        }
    }

    /// Says so in HTTP: who meets this has, as a rule, a client that reads it and a balancer that is set up otherwise.
    fn refuse_preface(&mut self, index: u32, refusal: Refusal, reason: CloseReason) {
        self.connections[index as usize].phase = Phase::Open;
        self.refuse_newcomer(index, refusal, reason);
    }
}
