//! A rate: so much a second, and what one second brings at once.

/// Fills with the time, and is emptied by what is let through. It may go below empty, so that something larger than
/// a second's worth passes, too; what comes after it waits until that is paid for.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// Thousandths of a token.
    level: i64,
    filled_ms: u64,
}

impl TokenBucket {
    /// A full one.
    pub fn new(per_second: usize, now_ms: u64) -> Self {
        Self {
            level: thousandths(per_second),
            filled_ms: now_ms,
        }
    }

    /// Takes `tokens` if there is at least something; `false` when there is nothing left.
    pub fn take(&mut self, tokens: usize, per_second: usize, now_ms: u64) -> bool {
        self.fill(per_second, now_ms);
        let is_let_through = self.has_some();
        if is_let_through {
            self.charge(tokens);
        }
        is_let_through
    }

    /// There is at least something.
    pub fn has_some(&self) -> bool {
        self.level > 0
    }

    /// Takes `tokens`, whether they are there or not.
    pub fn charge(&mut self, tokens: usize) {
        self.level = self.level.saturating_sub(thousandths(tokens));
    }

    /// Adds what the time has brought: a token a second is one thousandth of it a millisecond.
    pub fn fill(&mut self, per_second: usize, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.filled_ms) as i64;
        let filled = elapsed_ms.saturating_mul(per_second as i64);
        self.level = self
            .level
            .saturating_add(filled)
            .min(thousandths(per_second));
        self.filled_ms = now_ms;
    }
}

/// Rates and sizes are far below 2^50.
fn thousandths(tokens: usize) -> i64 {
    (tokens as i64).saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many single tokens are let through at each time.
    #[track_caller]
    fn check(per_second: usize, want: &[(u64, usize)]) {
        let mut bucket = TokenBucket::new(per_second, want[0].0);
        for &(now_ms, want) in want {
            let taken = std::iter::from_fn(|| bucket.take(1, per_second, now_ms).then_some(()));
            assert_eq!(taken.take(1_000_000).count(), want, "at {now_ms} ms");
        }
    }

    #[test]
    fn a_second_brings_its_tokens_and_no_time_more() {
        check(10, &[(0, 10), (99, 1), (100, 0), (200, 1), (1_200, 10)]);
        check(10, &[(5, 10), (u64::MAX / 2, 10), (u64::MAX / 2, 0)]);
        check(1, &[(0, 1), (999, 1), (1_000, 0), (2_000, 1)]);
        check(100_000, &[(0, 100_000), (1, 100), (2, 100)]);
    }

    #[test]
    fn what_is_larger_than_a_second_passes_and_is_paid_for() {
        let mut bucket = TokenBucket::new(1000, 0);
        assert!(bucket.take(5000, 1000, 0));
        for now_ms in [0, 1000, 4000] {
            assert!(!bucket.take(1, 1000, now_ms), "{now_ms}");
        }
        assert!(bucket.take(1, 1000, 4001));
        assert!(!bucket.take(1, 1000, 4001));
    }

    #[test]
    fn a_changed_rate_counts_from_then_on() {
        let mut bucket = TokenBucket::new(1000, 0);
        assert!(bucket.take(1, 10, 0), "no more than the new rate is left");
        for _ in 0..9 {
            assert!(bucket.take(1, 10, 0));
        }
        assert!(!bucket.take(1, 10, 0));
    }
}
