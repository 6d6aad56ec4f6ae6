//! When to try again: capped exponential back-off with jitter, or later if the server asks for it.

use std::time::Duration;

/// The delays of one client. A connection that worked starts them over.
#[derive(Debug, Default)]
pub struct ReconnectDelay {
    failures: u32,
}

const FIRST: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_secs(30);

/// A server may ask for more than our cap, but not for a day.
const HINT_CAP: Duration = Duration::from_secs(300);

impl ReconnectDelay {
    pub fn on_connected(&mut self) {
        self.failures = 0;
    }

    /// The delay before the next attempt. `hint` is what the server asked for; `random` is from 0 to 1.
    ///
    /// The back-off is spread over its upper half. A hint is kept, and spread upwards by up to a quarter, so that
    /// clients that were told the same do not come back together; from the second failure on it no longer shortens
    /// the back-off.
    pub fn next(&mut self, hint: Option<Duration>, random: f64) -> Duration {
        let backoff = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(CAP)
            .mul_f64(0.5 + random / 2.0);
        let is_first = self.failures == 0;
        self.failures = self.failures.saturating_add(1);
        match hint.map(|hint| hint.min(HINT_CAP).mul_f64(1.0 + random / 4.0)) {
            Some(hint) if is_first => hint,
            Some(hint) => hint.max(backoff),
            None => backoff,
        }
    }
}

/// `Retry-After: 5` (RFC 9110 §10.2.3). The form with a date is not something our server sends.
pub fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The milliseconds in a close frame's reason: `shutdown, reconnect after 1500 ms`.
pub fn delay_in_reason(reason: &str) -> Option<Duration> {
    let number = &reason[reason.find(|c: char| c.is_ascii_digit())?..];
    let digits_bytes = number
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(number.len());
    number[..digits_bytes]
        .parse()
        .ok()
        .map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_double_the_delay_up_to_the_cap_and_success_starts_over() {
        let mut delay = ReconnectDelay::default();
        for want_ms in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert_eq!(delay.next(None, 1.0), Duration::from_millis(want_ms));
        }
        for _ in 0..100 {
            assert_eq!(delay.next(None, 0.0), CAP / 2);
        }
        delay.on_connected();
        assert_eq!(delay.next(None, 1.0), FIRST);
    }

    #[test]
    fn a_hint_is_never_undercut_and_is_capped() {
        let second = Duration::from_secs(1);
        for (hint, random, want) in [
            (second * 4, 0.0, second * 4),
            (second * 4, 1.0, second * 5),
            (Duration::ZERO, 1.0, Duration::ZERO),
            (second * 86_400, 0.0, HINT_CAP),
        ] {
            assert_eq!(ReconnectDelay::default().next(Some(hint), random), want);
        }
    }

    #[test]
    fn a_hint_does_not_stop_the_back_off() {
        let mut delay = ReconnectDelay::default();
        let hint = Some(Duration::from_millis(100));
        for want_ms in [100, 500, 1_000, 2_000] {
            assert_eq!(delay.next(hint, 0.0), Duration::from_millis(want_ms));
        }
    }

    #[test]
    fn delays_are_read_from_headers_and_reasons() {
        for (value, want) in [
            ("5", Some(5)),
            (" 0 ", Some(0)),
            ("", None),
            ("-1", None),
            ("Mon, 01 Jan", None),
        ] {
            assert_eq!(
                retry_after(value),
                want.map(Duration::from_secs),
                "{value:?}"
            );
        }
        for (reason, want_ms) in [
            ("shutdown, reconnect after 1500 ms", Some(1_500)),
            ("1500", Some(1_500)),
            ("shutdown", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(
                delay_in_reason(reason),
                want_ms.map(Duration::from_millis),
                "{reason:?}"
            );
        }
    }
}
