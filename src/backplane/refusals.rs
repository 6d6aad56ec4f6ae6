//! What the log says of messages that the broker does not take.

use std::cell::Cell;
use std::fmt::Display;

use tokio::time::Instant;

use crate::logging::LineLimit;

/// Between two lines; each refused publish is answered and counted.
const LINE_INTERVAL_MS: u64 = 10_000;

/// Logs a sample: a broker that is full refuses all of a flood.
#[derive(Debug)]
pub(super) struct Refusals {
    started: Instant,
    lines: Cell<LineLimit>,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            lines: Cell::default(),
        }
    }

    pub(super) fn log(&self, why: impl Display) {
        if self.is_line_due() {
            tracing::warn!("the broker does not take a message: {why}");
        }
    }

    fn is_line_due(&self) -> bool {
        let mut lines = self.lines.get();
        let is_due = lines.is_due(self.started.elapsed().as_millis() as u64, LINE_INTERVAL_MS);
        self.lines.set(lines);
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_a_line_now_and_then() {
        let refusals = Refusals::new();
        let mut lines = 0;
        for _ in 0..1000 {
            lines += u32::from(refusals.is_line_due());
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        assert_eq!(lines, 2);
    }
}
