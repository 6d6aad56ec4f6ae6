//! How far the broker's clock is ahead of the one by which the shards tell the age of messages: messages have the
//! broker's times, and clocks of two hosts differ, or are set while both run.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::link::Link;
use super::{Driver, Sink};
use crate::backplane::broker::{Broker, BrokerError};
use crate::backplane::calls::{Answer, CallKind};
use crate::backplane::order::News;

/// Between two looks at the broker's clock, beside the one when connecting.
const INTERVAL: Duration = Duration::from_secs(10);

/// A difference that differs by less from what the log says is not logged.
const LOGGED_MS_MIN: u64 = 1_000;

/// The clock of the shards: it showed `origin_ms` at the moment `started`.
#[derive(Clone, Copy, Debug)]
pub struct ShardClock {
    pub started: Instant,
    pub origin_ms: u64,
}

impl ShardClock {
    fn ms(&self, at: Instant) -> u64 {
        self.origin_ms + (at - self.started).as_millis() as u64
    }
}

/// What the broker's clock showed at some moment between two of this node's.
#[derive(Clone, Copy, Debug)]
pub(in crate::backplane) struct ClockReading {
    asked: Instant,
    broker_ms: u64,
    answered: Instant,
}

impl ClockReading {
    pub(super) async fn take<B: Broker>(broker: &B) -> Result<Self, BrokerError> {
        let asked = Instant::now();
        let broker_ms = broker.now_ms().await?;
        Ok(Self {
            asked,
            broker_ms,
            answered: Instant::now(),
        })
    }
}

/// What the shards go by: at first that both clocks are one.
#[derive(Debug, Default)]
pub(super) struct ClockDifference {
    ahead_ms: i64,
    logged_ms: i64,
}

impl ClockDifference {
    /// How far the broker's clock is ahead, if what was known cannot be. A reading says it only to within the time that
    /// it took, so most of them change nothing, however long they take.
    fn learn(&mut self, clock: &ShardClock, reading: &ClockReading) -> Option<i64> {
        let behind = |at: Instant| reading.broker_ms.wrapping_sub(clock.ms(at)) as i64;
        // Each of the clocks shows whole milliseconds.
        let (least, most) = (behind(reading.answered) - 1, behind(reading.asked) + 1);
        if (least..=most).contains(&self.ahead_ms) {
            return None;
        }
        self.ahead_ms = least + (most - least) / 2;
        Some(self.ahead_ms)
    }

    fn is_worth_a_line(&mut self) -> bool {
        let is_worth_it = self.ahead_ms.abs_diff(self.logged_ms) >= LOGGED_MS_MIN;
        if is_worth_it {
            self.logged_ms = self.ahead_ms;
        }
        is_worth_it
    }
}

impl<B: Broker, S: Sink> Driver<B, S> {
    /// Looks at the broker's clock now and then. That it cannot be seen is nothing: whether the broker is there is for
    /// the canary to say.
    pub(super) fn ask_for_time(&mut self, now: Instant) {
        let Link::Up(up) = &mut self.link else { return };
        let is_asking = up.calls.count(|kind| matches!(kind, CallKind::Clock)) > 0;
        if is_asking || now < up.clock_at + INTERVAL {
            return;
        }
        up.clock_at = now;
        let broker = Rc::clone(&up.broker);
        up.calls.begin(CallKind::Clock, async move {
            let reading = ClockReading::take(&*broker).await;
            Ok(reading.map_or(Answer::Done, Answer::Clock))
        });
    }

    pub(super) fn on_clock(&mut self, reading: &ClockReading) {
        let Some(ahead_ms) = self.clock.learn(&self.settings.clock, reading) else {
            return;
        };
        if self.clock.is_worth_a_line() {
            let seconds = ahead_ms as f64 / 1000.0;
            tracing::info!(
                "messages age by the broker's clock, which is {seconds:+.1} s off what this host's was at the start"
            );
        }
        for news in &mut self.news {
            news.push(News::Clock { ahead_ms });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings `asked..answered:broker`, in milliseconds; what is learned from each.
    fn check(origin_ms: u64, readings: &str, want: &[Option<i64>]) {
        let clock = ShardClock {
            started: Instant::now(),
            origin_ms,
        };
        let mut difference = ClockDifference::default();
        let learned: Vec<_> = readings
            .split(' ')
            .map(|text| {
                let (moments, broker) = text.split_once(':').unwrap();
                let (asked, answered) = moments.split_once("..").unwrap();
                let at = |ms: &str| clock.started + Duration::from_millis(ms.parse().unwrap());
                let reading = ClockReading {
                    asked: at(asked),
                    answered: at(answered),
                    broker_ms: broker.parse().unwrap(),
                };
                difference.learn(&clock, &reading)
            })
            .collect();
        assert_eq!(learned, want, "{readings}");
    }

    #[test]
    fn a_difference_is_learned_where_the_known_one_cannot_be() {
        check(0, "0..0:0 5..5:5 5..5:6 5..5:4", &[None; 4]);
        check(0, "5..5:7 9..9:11", &[Some(2), None]);
        check(1_000, "0..10:905 20..20:921", &[Some(-100), None]);
        check(0, "0..0:900000 7..7:7", &[Some(900_000), Some(0)]);
    }

    #[test]
    fn a_reading_is_as_good_as_the_time_that_it_took() {
        // It says from -1000 to 0, and later ones that it is -300.
        check(
            0,
            "0..1000:0 1000..1000:700 1000..9000:5000",
            &[None, Some(-300), None],
        );
        check(0, "0..1000:5500 1000..1020:6010", &[Some(5_000), None]);
        check(
            0,
            "0..1000:5500 1000..1020:6310",
            &[Some(5_000), Some(5_300)],
        );
    }

    #[test]
    fn small_differences_are_not_logged() {
        let mut difference = ClockDifference::default();
        for (ahead_ms, want) in [
            (0, false),
            (-999, false),
            (-1_000, true),
            (-1_500, false),
            (900_000, true),
            (0, true),
        ] {
            difference.ahead_ms = ahead_ms;
            assert_eq!(difference.is_worth_a_line(), want, "{ahead_ms}");
        }
    }
}
