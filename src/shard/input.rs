//! What a peer sends: from the socket into the connection's transport, as far as that wants it.

use crate::close_reason::CloseReason;
use crate::shard::Shard;
use crate::shard::connection::{Input, Marks, Phase};
use crate::transport::Transport;

/// Bytes of answers made from one read before they are sent: pipelined requests must not pile up answers.
const ANSWERS_BYTES_MAX: usize = 256 * 1024;

impl Shard {
    /// The socket has bytes, or is at its end.
    pub(super) fn on_readable(&mut self, index: u32) {
        let mut buffer = std::mem::take(&mut self.scratch.read_buffer);
        let connection = &mut self.connections[index as usize];
        let received = connection.receive(&mut buffer);
        match (received, connection.phase) {
            (Ok(Some(bytes @ 1..)), Phase::Preface { .. }) => {
                self.metrics.socket_bytes_in_total += bytes as u64;
                self.on_preface(index, &buffer[..bytes]);
            }
            (Ok(Some(0)), Phase::Preface { .. }) => self.end_now(index, CloseReason::PeerClosed),
            (Ok(Some(bytes @ 1..)), Phase::Handshake { .. }) => {
                self.metrics.socket_bytes_in_total += bytes as u64;
                self.on_ciphertext(index, &mut buffer[..bytes]);
            }
            (Ok(Some(0)) | Err(_), Phase::Handshake { .. }) => self.on_handshake_cut(index),
            // Behind the end that its TLS has announced.
            (Ok(Some(_)), Phase::Open) if connection.has(Marks::END_OF_INPUT) => {
                self.await_next(index)
            }
            (Ok(Some(bytes @ 1..)), Phase::Open) => {
                self.on_bytes(index, &mut buffer[..bytes]);
            }
            (Ok(Some(0)), Phase::Open) => self.on_end_of_input(index),
            (Ok(None), Phase::Open | Phase::Preface { .. } | Phase::Handshake { .. }) => {
                self.await_next(index)
            }
            (Err(_), Phase::Open | Phase::Preface { .. }) => {
                self.end_now(index, CloseReason::PeerReset)
            }
            // What a refused peer still sends is read over.
            (Ok(Some(1..) | None), Phase::Lingering { .. }) => self.await_next(index),
            (_, Phase::Lingering { reason, .. }) => self.end_now(index, reason),
            (_, Phase::Flushing(_)) => {}
            (_, Phase::Closing) => self.free_if_joined(index),
        }
        self.scratch.read_buffer = buffer;
    }

    /// Reads what is there before the ring has said so; `false` if that is nothing.
    pub(super) fn read_ahead(&mut self, index: u32) -> bool {
        let mut buffer = std::mem::take(&mut self.scratch.read_buffer);
        let received = self.connections[index as usize].receive(&mut buffer);
        let has_input = if let Ok(Some(bytes @ 1..)) = received {
            self.on_bytes(index, &mut buffer[..bytes])
        } else {
            false
        };
        self.scratch.read_buffer = buffer;
        has_input
    }

    /// Bytes of an open connection. Says whether its transport gets any of them.
    fn on_bytes(&mut self, index: u32, bytes: &mut [u8]) -> bool {
        self.metrics.socket_bytes_in_total += bytes.len() as u64;
        if self.tls_sessions.get(index).is_some() {
            return self.on_ciphertext(index, bytes);
        }
        self.on_input(index, bytes);
        true
    }

    /// New bytes go behind those that are kept; without any, they are used where they are.
    pub(super) fn on_input(&mut self, index: u32, bytes: &mut [u8]) {
        self.connections[index as usize].set(Marks::HEARD, true);
        match self.connections[index as usize].input.take() {
            None => {
                let consumed = self.feed(index, bytes);
                self.keep(index, Input::new(&bytes[consumed..]));
            }
            Some(mut input) => {
                input.extend(bytes);
                self.feed_kept(index, input);
            }
        }
        self.await_next(index);
    }

    /// Goes on with what came in while the connection was busy, and ends when that was all.
    pub(super) fn resume(&mut self, index: u32) {
        let connection = &self.connections[index as usize];
        let was_asking = !matches!(connection.transport, Transport::Http(_));
        if connection.is_open() && connection.has(Marks::END_OF_INPUT) && was_asking {
            // The end came while the request was asking; what has come of it ends by it as if it had come now.
            return self.on_end_of_input(index);
        }
        if !self.takes_input(index) {
            return;
        }
        if let Some(input) = self.connections[index as usize].input.take() {
            self.feed_kept(index, input);
        }
        // Asked behind the input: it may have made an answer that waits for the socket.
        let connection = &self.connections[index as usize];
        if connection.has(Marks::END_OF_INPUT)
            && connection.outbox.is_none()
            && self.takes_input(index)
        {
            self.end_now(index, CloseReason::PeerClosed);
        }
    }

    pub(super) fn feed_kept(&mut self, index: u32, mut input: Box<Input>) {
        let consumed = self.feed(index, input.unused());
        input.mark_used(consumed);
        self.keep(index, Some(input));
    }

    fn keep(&mut self, index: u32, input: Option<Box<Input>>) {
        let connection = &mut self.connections[index as usize];
        if connection.is_open() {
            connection.input = input.filter(|input| !input.is_empty());
        }
    }

    fn takes_input(&self, index: u32) -> bool {
        let connection = &self.connections[index as usize];
        connection.is_open() && connection.transport.wants_input(&self.config)
    }

    /// Hands input to the transport, as far as it wants it. Says how much it took.
    fn feed(&mut self, index: u32, input: &mut [u8]) -> usize {
        let mut consumed = 0;
        while consumed < input.len() && self.takes_input(index) {
            let connection = &self.connections[index as usize];
            // Who does not read the answers gets no more of them.
            if connection.outbox.is_some() && matches!(connection.transport, Transport::Http(_)) {
                break;
            }
            let mut taken = 0;
            self.advance(index, |transport, context| {
                let (bytes, next) = transport.on_bytes(&mut input[consumed..], context);
                taken = bytes;
                next
            });
            consumed += taken;
            let connection = &self.connections[index as usize];
            let is_parked = matches!(connection.transport, Transport::LongPoll(_));
            if is_parked && connection.is_open() && connection.has(Marks::END_OF_INPUT) {
                self.advance(index, |transport, context| {
                    transport.on_end_of_input(context)
                });
            }
            self.release_all();
            let effects = &self.scratch.effects;
            if effects.out.bytes() >= ANSWERS_BYTES_MAX || !effects.replay.is_empty() {
                self.send(index);
            }
            if taken == 0 {
                break;
            }
        }
        self.release_all();
        self.send(index);
        consumed
    }

    pub(super) fn on_end_of_input(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        connection.set(Marks::END_OF_INPUT, true);
        if matches!(connection.transport, Transport::LongPoll(_)) {
            // Perhaps it still reads, perhaps it is gone: answered as if its time were over, it is no longer waited
            // for in either case.
            return self.step(index, |transport, context| {
                transport.on_end_of_input(context)
            });
        }
        let is_answering = connection.transport.survives_end_of_input()
            || (connection.outbox.is_some() && matches!(connection.transport, Transport::Http(_)));
        if !is_answering {
            self.end_now(index, CloseReason::PeerClosed);
        }
    }
}
