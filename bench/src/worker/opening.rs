//! How a connection comes and goes: paced connects, the opening request, admission, the end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::event::epoll;
use rustix::io::Errno;
use socket2::{Domain, Protocol as IpProtocol, Socket, Type};

use super::connection::{Connection, State};
use super::{OPENING_MAX, Worker, add, elapsed_us};
use crate::kernel::{bind_address_no_port, now_ns};
use crate::plan::Protocol;

impl Worker {
    pub(super) fn open_due(&mut self) {
        while self.begun < self.to_open && self.opening < OPENING_MAX {
            let now_ns = now_ns();
            if now_ns < self.open_schedule.next_ns {
                return;
            }
            self.open_schedule.next_ns += self.open_schedule.interval_ns;
            let slot = self.begun as usize;
            self.begun += 1;
            if slot == self.connections.len() {
                self.connections.push(Connection::CLOSED);
            }
            match self.connect(slot) {
                Ok(socket) => {
                    self.opening += 1;
                    self.connections[slot] = Connection {
                        socket: Some(socket),
                        state: State::Connecting,
                        asked_us: (now_ns / 1000) as u32,
                        ..Connection::CLOSED
                    };
                }
                Err(error) => self.count_failure(format!("connect: {error}")),
            }
        }
    }

    pub(super) fn connect(&self, slot: usize) -> io::Result<OwnedFd> {
        let target = self.plan.target;
        let socket = Socket::new(
            Domain::for_address(target),
            Type::STREAM.nonblocking(),
            Some(IpProtocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = self.plan.receive_buffer_bytes(self.number(slot)) {
            socket.set_recv_buffer_size(bytes)?;
        }
        let socket = OwnedFd::from(socket);
        if let Some(source) = self.plan.source_of(self.number(slot), self.round) {
            bind_address_no_port(socket.as_fd())?;
            rustix::net::bind(&socket, &source)?;
        }
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.watch(&socket, slot)?;
        Ok(socket)
    }

    pub(super) fn watch(&self, socket: &OwnedFd, slot: usize) -> rustix::io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(slot as u64),
            flags,
        )
    }

    pub(super) fn on_connected(&mut self, slot: usize) {
        let channel = self.plan.channel_of(self.number(slot));
        self.connections[slot].state = State::Opening;
        if let Protocol::Publish { .. } = self.plan.protocol {
            self.on_opened(slot);
            return;
        }
        self.out.clear();
        self.plan
            .first_request
            .render(channel, "now", &mut self.out);
        if self.send_out(slot) && !self.plan.admitted_by_answer {
            self.on_opened(slot);
        }
    }

    pub(super) fn on_opened(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        connection.state = State::Open;
        self.opening -= 1;
        self.tally.opened += 1;
        self.tally
            .admission_us
            .saturating_record(elapsed_us(connection.asked_us, now_ns()));
        add(&self.progress.open, 1);
        add(&self.progress.settled, 1);
    }

    /// The connection is over without our doing; `reason` counts if it was never open.
    pub(super) fn on_end(&mut self, slot: usize, reason: &str) {
        let state = self.connections[slot].state;
        self.connections[slot] = Connection::CLOSED;
        self.rests.remove(&slot);
        match state {
            State::Closed => {}
            State::Connecting | State::Opening => {
                self.opening -= 1;
                self.count_failure(reason.to_owned());
            }
            State::Open | State::Paused => {
                self.tally.ended += 1;
                self.progress.open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn count_failure(&mut self, reason: String) {
        *self.tally.failures.entry(reason).or_default() += 1;
        add(&self.progress.settled, 1);
    }

    /// Closed records stay in place, since events for them may be on their way; the next `Open` fills them again.
    pub(super) fn shrink(&mut self, connections: u32) {
        let ended = u64::from(self.begun.saturating_sub(connections));
        for slot in connections as usize..self.begun as usize {
            self.connections[slot] = Connection::CLOSED;
            self.rests.remove(&slot);
        }
        (self.to_open, self.begun) = (connections, connections.min(self.begun));
        self.progress.settled.fetch_sub(ended, Ordering::Release);
        self.progress.open.fetch_sub(ended, Ordering::Release);
    }

    pub(super) fn close_all(&mut self) {
        self.connections
            .iter_mut()
            .for_each(|connection| *connection = Connection::CLOSED);
        self.rests.clear();
        self.round += 1;
        (self.to_open, self.begun, self.opening) = (0, 0, 0);
        self.progress.settled.store(0, Ordering::Release);
        self.progress.open.store(0, Ordering::Release);
    }
}
