//! What clients send of their own accord: chat messages on schedule, the first requests of a closed loop.

use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::connection::State;
use super::{Worker, add};
use crate::clients::ws;
use crate::kernel::now_ns;
use crate::plan::Protocol;
use crate::stamp::Stamp;

impl Worker {
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
            let stamp = Stamp {
                intended_ns,
                sequence: 0,
            };
            let mut payload = Vec::with_capacity(self.plan.payload_bytes);
            stamp.encode_payload(self.plan.payload_bytes, &mut payload);
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
            let stamp = Stamp {
                intended_ns: now_ns,
                sequence: 0,
            };
            self.out.clear();
            for _ in 0..pipeline {
                self.plan.publish_request(channel, stamp, &mut self.out);
            }
            self.send_out(slot);
        }
    }
}
