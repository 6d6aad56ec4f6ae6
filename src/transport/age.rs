//! How long a stream may live: ended ones come back and spread over all servers again, also over one that has just
//! been started.

use crate::close_reason::CloseReason;

/// Resolution. 2^32 of these are eight years of uptime.
const TICK_MS: u64 = 64;

/// Who is ended for its age comes back soon, and not all within the same moment.
const RECONNECT_MS_MAX: u64 = 1000;

/// When a stream has lived long enough, in the four bytes that a record has left for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfLife(u32);

impl EndOfLife {
    pub const REASON: CloseReason = CloseReason::AgeMax;
    const NEVER: Self = Self(u32::MAX);
    /// For a stream that nobody could take up yet: its age begins with [`begin`](Self::begin).
    pub const NOT_BEGUN: Self = Self(u32::MAX - 1);

    /// For a stream that begins now. `age_max_ms` is jittered by up to a tenth; 0 is without a limit.
    pub fn new(age_max_ms: u64, now_ms: u64, rng: &mut fastrand::Rng) -> Self {
        if age_max_ms == 0 {
            return Self::NEVER;
        }
        let age_ms = age_max_ms - age_max_ms / 10 + rng.u64(0..=age_max_ms / 5);
        Self(((now_ms + age_ms).div_ceil(TICK_MS)) as u32)
    }

    /// The stream has given its client something to take it up by, if it had not before.
    pub fn begin(&mut self, age_max_ms: u64, now_ms: u64, rng: &mut fastrand::Rng) {
        if *self == Self::NOT_BEGUN {
            *self = Self::new(age_max_ms, now_ms, rng);
        }
    }

    pub fn is_here(self, now_ms: u64) -> bool {
        now_ms >= self.at_ms()
    }

    /// The time of the end, or one that does not come.
    pub fn at_ms(self) -> u64 {
        match self {
            Self::NEVER | Self::NOT_BEGUN => u64::MAX,
            Self(ticks) => u64::from(ticks) * TICK_MS,
        }
    }

    /// What the client is told to wait before it comes back.
    pub fn reconnect_ms(rng: &mut fastrand::Rng) -> u64 {
        rng.u64(0..=RECONNECT_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_within_a_tenth_of_the_age() {
        let mut rng = fastrand::Rng::with_seed(1);
        for age_max_ms in [1, 640, 3_600_000, 365 * 24 * 3_600_000] {
            for now_ms in [0, 1_000_000_007] {
                for _ in 0..100 {
                    let end = EndOfLife::new(age_max_ms, now_ms, &mut rng);
                    let age_ms = end.at_ms() - now_ms;
                    assert!(age_ms >= age_max_ms * 9 / 10, "{age_ms} of {age_max_ms}");
                    assert!(
                        age_ms <= age_max_ms * 11 / 10 + TICK_MS,
                        "{age_ms} of {age_max_ms}"
                    );
                    assert!(end.is_here(end.at_ms()) && !end.is_here(end.at_ms() - 1));
                }
            }
        }
        let never = EndOfLife::new(0, 5, &mut rng);
        assert_eq!(never.at_ms(), u64::MAX);
        let mut end = EndOfLife::NOT_BEGUN;
        assert_eq!(end.at_ms(), u64::MAX);
        end.begin(640, 5, &mut rng);
        let begun = end;
        assert!(begun.at_ms() < 1000);
        end.begin(640, 500, &mut rng);
        assert_eq!(end, begun);
    }
}
