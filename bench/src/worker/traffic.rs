//! What goes over an open connection: events in, pongs and requests and chat out, and readers that stop.

use std::sync::atomic::Ordering;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::connection::State;
use super::{Worker, add, elapsed_us};
use crate::clients::{ClientError, Event, http, poll, sse, ws};
use crate::kernel::now_ns;
use crate::plan::{Plan, Protocol};
use crate::stamp::Stamp;

impl Worker {
    pub(super) fn on_readable(&mut self, slot: usize, hangup: bool) {
        loop {
            let Some(socket) = &self.connections[slot].socket else {
                return;
            };
            match recv(socket, &mut self.input[..], RecvFlags::empty()) {
                Ok((0, _)) => return self.on_end(slot, "closed before it opened"),
                Ok((received, _)) => {
                    self.on_bytes(slot, received);
                    // A short read has emptied the socket (epoll(7)), unless an end is behind it.
                    if received < self.input.len() && !hangup {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(error) => return self.on_end(slot, &format!("read: {error}")),
            }
        }
    }

    /// Decodes what has arrived, counts it and sends what it asks for: pongs, the next request.
    pub(super) fn on_bytes(&mut self, slot: usize, received: usize) {
        let now_ns = now_ns();
        let number = self.number(slot);
        let Self {
            plan,
            connections,
            rests,
            input,
            out,
            tally,
            progress,
            loop_runs,
            ..
        } = self;
        let connection = &mut connections[slot];
        let mut joined = if connection.has_rest {
            rests.remove(&slot).unwrap_or_default()
        } else {
            Vec::new()
        };
        let bytes = if connection.has_rest {
            joined.extend_from_slice(&input[..received]);
            &joined[..]
        } else {
            &input[..received]
        };
        let decode = match plan.protocol {
            Protocol::WebSocket => ws::decode,
            Protocol::EventStream => sse::decode,
            Protocol::Poll | Protocol::Publish { .. } => poll::decode,
        };
        out.clear();
        let (messages_before, answers_before) = (tally.messages, tally.answers);
        let mut opened = false;
        let mut reading = connection.reading;
        let result = decode(&mut reading, bytes, &mut |event| match event {
            Event::Opened => opened = true,
            Event::Message(payload) => match Stamp::decode(payload) {
                Some(stamp) => {
                    tally.on_message(stamp, payload.len(), &mut connection.last_sequence, now_ns)
                }
                None => tally.foreign += 1,
            },
            Event::KeepAlive => tally.heartbeats += 1,
            Event::Ping(payload) => {
                tally.heartbeats += 1;
                ws::encode_pong(payload, out);
            }
            Event::Gap => tally.gaps_told += 1,
            Event::Close(code) => *tally.close_codes.entry(code).or_default() += 1,
            Event::Answer { status, head } => {
                tally.answers += 1;
                // 304 is how some servers answer a poll that has nothing.
                if !(200..300).contains(&status) && status != 304 {
                    *tally.refusals.entry(status).or_default() += 1;
                }
                let is_poll = plan.protocol == Protocol::Poll;
                if is_poll {
                    opened |= connection.state == State::Opening;
                    tally.heartbeats += u64::from(status != 200);
                    if let Some(cursor) = cursor(plan, head) {
                        connection.cursor = Some(cursor);
                    }
                }
                if !*loop_runs {
                    return;
                }
                let channel = plan.channel_of(number);
                if is_poll {
                    let cursor = connection.cursor.as_deref().unwrap_or("now");
                    plan.next_request.render(channel, cursor, out);
                } else {
                    plan.publish_request(
                        channel,
                        Stamp {
                            intended_ns: now_ns,
                            sequence: 0,
                        },
                        out,
                    );
                    tally
                        .latency_us
                        .saturating_record(elapsed_us(connection.asked_us, now_ns));
                    connection.asked_us = (now_ns / 1000) as u32;
                }
            }
        });
        connection.reading = reading;
        let consumed = *result.as_ref().unwrap_or(&bytes.len());
        connection.has_rest = consumed < bytes.len();
        if connection.has_rest {
            rests.insert(slot, bytes[consumed..].to_vec());
        }
        add(&progress.messages, tally.messages - messages_before);
        add(&progress.answers, tally.answers - answers_before);
        if opened && connection.state == State::Opening {
            self.on_opened(slot);
        }
        match result {
            Ok(_) if self.out.is_empty() => {}
            Ok(_) => {
                self.send_out(slot);
            }
            Err(ClientError::Refused(status)) => {
                self.on_end(slot, &format!("refused with {status}"))
            }
            Err(ClientError::Malformed) => self.on_end(slot, "an answer that cannot be read"),
        }
    }

    /// Sends `out`, and ends the connection if it does not fit: what a client sends is small, and a server that
    /// takes none of it is not serving.
    pub(super) fn send_out(&mut self, slot: usize) -> bool {
        let Some(socket) = &self.connections[slot].socket else {
            return false;
        };
        match send(socket, &self.out, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == self.out.len() => return true,
            Ok(_) | Err(Errno::AGAIN) => self.on_end(slot, "the server stopped reading"),
            Err(error) => self.on_end(slot, &format!("write: {error}")),
        }
        false
    }

    pub(super) fn say_due(&mut self) {
        while self.say_until_ns != 0 {
            let intended_ns = self.say_schedule.next_ns;
            if intended_ns >= self.say_until_ns || self.connections.is_empty() {
                self.say_until_ns = 0;
                self.progress.is_saying.store(0, Ordering::Release);
                return;
            }
            if now_ns() < intended_ns {
                return;
            }
            self.say_schedule.next_ns += self.say_schedule.interval_ns.max(1);
            let slot = self.next_to_say % self.connections.len();
            self.next_to_say += 1;
            if self.connections[slot].state != State::Open {
                continue;
            }
            let mut payload = Vec::with_capacity(self.plan.payload_bytes);
            Stamp {
                intended_ns,
                sequence: 0,
            }
            .encode_payload(self.plan.payload_bytes, &mut payload);
            self.out.clear();
            ws::encode_text(&payload, &mut self.out);
            if self.send_out(slot) {
                self.tally.said += 1;
                add(&self.progress.said, 1);
            }
        }
    }

    pub(super) fn begin_loop(&mut self) {
        let Protocol::Publish { pipeline } = self.plan.protocol else {
            return;
        };
        self.loop_runs = true;
        for slot in 0..self.connections.len() {
            if self.connections[slot].state != State::Open {
                continue;
            }
            let (now_ns, channel) = (now_ns(), self.plan.channel_of(self.number(slot)));
            self.connections[slot].asked_us = (now_ns / 1000) as u32;
            self.out.clear();
            for _ in 0..pipeline {
                self.plan.publish_request(
                    channel,
                    Stamp {
                        intended_ns: now_ns,
                        sequence: 0,
                    },
                    &mut self.out,
                );
            }
            self.send_out(slot);
        }
    }

    pub(super) fn pause(&mut self, share: u32) {
        for slot in 0..self.connections.len() {
            let is_chosen = self.plan.is_slow(self.number(slot), share);
            let connection = &mut self.connections[slot];
            let Some(socket) = &connection.socket else {
                continue;
            };
            if is_chosen
                && connection.state == State::Open
                && epoll::delete(&self.epoll, socket).is_ok()
            {
                connection.state = State::Paused;
            }
        }
    }

    pub(super) fn resume(&mut self) {
        for slot in 0..self.connections.len() {
            if self.connections[slot].state != State::Paused {
                continue;
            }
            self.connections[slot].state = State::Open;
            let socket = self.connections[slot]
                .socket
                .as_ref()
                .expect("a paused client has a socket");
            // Adding reports what is already there, so the backlog is read in the next turn.
            if let Err(error) = self.watch(socket, slot) {
                self.on_end(slot, &format!("epoll: {error}"));
            }
        }
    }
}

/// The cursor in a poll's answer, one line per configured header; `None` if it has none of them.
fn cursor(plan: &Plan, head: &[u8]) -> Option<Box<str>> {
    let values = plan
        .cursor_headers
        .iter()
        .map(|name| http::header_value(head, name));
    let values: Vec<_> = values.map(Option::unwrap_or_default).collect();
    values
        .iter()
        .any(|value| !value.is_empty())
        .then(|| values.join("\n").into())
}
