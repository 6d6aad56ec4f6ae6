//! What time it is for a shard: read once in a turn, and the same for everything in it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::proto::http_response::http_date;

/// One moment, on every clock that somebody asks for.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    history_origin_ms: u64,
    /// Since the start of the process; never goes back.
    pub(super) now_ms: u64,
    /// On the clock of the histories.
    pub(super) hub_ms: u64,
    /// On the same clock, as finely as it can be had.
    pub(super) hub_us: u64,
    /// Since 1970.
    pub(super) unix_ms: u64,
    /// The value of `Date`, and the second that it stands for.
    pub(super) date: [u8; 29],
    date_second: u64,
}

impl Clock {
    /// `started` is where `now_ms` begins, and `history_origin_ms` what the clock of the histories said then.
    pub(super) fn new(started: Instant, history_origin_ms: u64) -> Self {
        let mut clock = Self {
            started,
            history_origin_ms,
            now_ms: 0,
            hub_ms: 0,
            hub_us: 0,
            unix_ms: 0,
            date: http_date(0),
            date_second: 0,
        };
        clock.read();
        clock
    }

    pub(super) fn read(&mut self) {
        let elapsed = self.started.elapsed();
        self.now_ms = elapsed.as_millis() as u64;
        self.hub_ms = self.now_ms + self.history_origin_ms;
        self.hub_us = elapsed.as_micros() as u64 + self.history_origin_ms * 1000;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        self.unix_ms = since_1970.map_or(0, |since| since.as_millis() as u64);
        let second = self.unix_ms / 1000;
        if second != self.date_second {
            self.date_second = second;
            self.date = http_date(second);
        }
    }
}
