//! When to connect again: capped exponential back-off with jitter.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
    has_started_over: bool,
}

impl Backoff {
    pub(super) fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            failures: 0,
            has_started_over: false,
        }
    }

    /// The broker answers: the delays start over. Not again before a connection has lasted: a broker may well answer at
    /// first and fail at what comes next, over and over.
    pub(super) fn on_heard(&mut self) {
        if !self.has_started_over {
            self.has_started_over = true;
            self.failures = 0;
        }
    }

    /// A connection has lasted: the delays start over.
    pub(super) fn on_lasted(&mut self) {
        self.has_started_over = false;
        self.failures = 0;
    }

    /// The delay before the next attempt, in the upper half of the back-off; `random` is from 0 to 1. Many nodes lose
    /// one broker at the same moment, and are not to come back at one.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let backoff = self
            .first
            .saturating_mul(1 << self.failures.min(16))
            .min(self.cap);
        self.failures = self.failures.saturating_add(1);
        backoff.mul_f64(0.5 + random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_double_the_delay_up_to_the_cap_and_success_starts_over_once() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(5_000));
        for want_ms in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            assert_eq!(backoff.next(1.0), ms(want_ms));
        }
        for _ in 0..100 {
            assert_eq!(backoff.next(0.0), ms(2_500));
        }
        backoff.on_heard();
        assert_eq!(backoff.next(0.5), ms(75));
        backoff.on_heard();
        assert_eq!(backoff.next(0.5), ms(150));
        backoff.on_lasted();
        assert_eq!(backoff.next(0.5), ms(75));
        backoff.on_heard();
        assert_eq!(backoff.next(0.5), ms(75));
    }
}
