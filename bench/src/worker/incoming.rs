//! What arrives on an open connection: it is decoded, counted, and answered where it asks for an answer.

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::connection::{Connection, State};
use super::{Worker, add, elapsed_us};
use crate::clients::{ClientError, Event, http, poll, sse, ws};
use crate::kernel::now_ns;
use crate::plan::{Plan, Protocol};
use crate::stamp::Stamp;
use crate::tally::Tally;

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

    fn on_bytes(&mut self, slot: usize, received: usize) {
        let number = self.number(slot);
        let connection = &mut self.connections[slot];
        let mut joined: Vec<u8>;
        let mut bytes = &self.input[..received];
        if connection.has_rest {
            joined = self.rests.remove(&slot).unwrap_or_default();
            joined.extend_from_slice(bytes);
            bytes = &joined;
        }
        let (messages_before, answers_before) = (self.tally.messages, self.tally.answers);
        self.out.clear();
        let mut reading = connection.reading;
        let mut arrival = Arrival {
            plan: &self.plan,
            channel: self.plan.channel_of(number),
            loop_runs: self.loop_runs,
            now_ns: now_ns(),
            connection,
            tally: &mut self.tally,
            out: &mut self.out,
            opens: false,
        };
        let decode = match self.plan.protocol {
            Protocol::WebSocket => ws::decode,
            Protocol::EventStream => sse::decode,
            Protocol::Poll | Protocol::Publish { .. } => poll::decode,
        };
        let result = decode(&mut reading, bytes, &mut |event| arrival.on_event(event));
        let opens = arrival.opens;
        connection.reading = reading;
        let consumed = *result.as_ref().unwrap_or(&bytes.len());
        connection.has_rest = consumed < bytes.len();
        if connection.has_rest {
            self.rests.insert(slot, bytes[consumed..].to_vec());
        }
        add(
            &self.progress.messages,
            self.tally.messages - messages_before,
        );
        add(&self.progress.answers, self.tally.answers - answers_before);
        if opens {
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

/// The bytes of one read, and all that they may change.
struct Arrival<'a> {
    plan: &'a Plan,
    connection: &'a mut Connection,
    channel: u32,
    loop_runs: bool,
    now_ns: u64,
    tally: &'a mut Tally,
    /// What the client sends back.
    out: &'a mut Vec<u8>,
    /// The connection is admitted by what has arrived.
    opens: bool,
}

impl Arrival<'_> {
    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::Opened => self.opens = true,
            Event::Message(payload) => match Stamp::decode(payload) {
                Some(stamp) => {
                    let last_sequence = &mut self.connection.last_sequence;
                    self.tally
                        .on_message(stamp, payload.len(), last_sequence, self.now_ns);
                }
                None => self.tally.foreign += 1,
            },
            Event::KeepAlive => self.tally.heartbeats += 1,
            Event::Ping(payload) => {
                self.tally.heartbeats += 1;
                ws::encode_pong(payload, self.out);
            }
            Event::Gap => self.tally.gaps_told += 1,
            Event::Close(code) => *self.tally.close_codes.entry(code).or_default() += 1,
            Event::Answer { status, head } => {
                self.tally.answers += 1;
                // 304 is how some servers answer a poll that has nothing.
                if !(200..300).contains(&status) && status != 304 {
                    *self.tally.refusals.entry(status).or_default() += 1;
                }
                match self.plan.protocol {
                    Protocol::Poll => self.on_poll_answer(status, head),
                    _ => self.on_publish_answer(),
                }
            }
        }
    }

    fn on_poll_answer(&mut self, status: u16, head: &[u8]) {
        self.opens |= self.connection.state == State::Opening;
        self.tally.heartbeats += u64::from(status != 200);
        if let Some(cursor) = cursor(self.plan, head) {
            self.connection.cursor = Some(cursor);
        }
        if self.loop_runs {
            let cursor = self.connection.cursor.as_deref().unwrap_or("now");
            self.plan
                .next_request
                .render(self.channel, cursor, self.out);
        }
    }

    fn on_publish_answer(&mut self) {
        let asked_us =
            std::mem::replace(&mut self.connection.asked_us, (self.now_ns / 1000) as u32);
        self.tally
            .latency_us
            .saturating_record(elapsed_us(asked_us, self.now_ns));
        if self.loop_runs {
            let stamp = Stamp {
                intended_ns: self.now_ns,
                sequence: 0,
            };
            self.plan.publish_request(self.channel, stamp, self.out);
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
