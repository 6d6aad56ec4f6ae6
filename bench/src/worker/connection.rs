//! The record of one client.

use std::os::fd::OwnedFd;

use crate::clients::Reading;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Connecting,
    /// The opening request is written.
    Opening,
    Open,
    /// Open, but out of the epoll set.
    Paused,
}

/// One client. Its place in the worker's vector gives its number, and the number its channel.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Option<OwnedFd>,
    pub(super) state: State,
    pub(super) reading: Reading,
    /// Bytes of a unit that has not come whole wait in `rests` of the worker.
    pub(super) has_rest: bool,
    pub(super) last_sequence: u32,
    /// When the connect or the last request began; wraps after 71 minutes.
    pub(super) asked_us: u32,
    /// One line per cursor header.
    pub(super) cursor: Option<Box<str>>,
}

const _: () = assert!(size_of::<Connection>() <= 40);

impl Connection {
    pub(super) const CLOSED: Self = Self {
        socket: None,
        state: State::Closed,
        reading: Reading::Head,
        has_rest: false,
        last_sequence: 0,
        asked_us: 0,
        cursor: None,
    };
}
