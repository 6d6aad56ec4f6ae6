//! What the log says of a broker that is away.

use crate::backplane::broker::BrokerError;
use crate::logging::LineLimit;

/// Between two lines of one absence.
const LINE_INTERVAL_MS: u64 = 10_000;

/// One absence of the broker: its first reason is logged, and each one that takes the place of another. The reason may
/// well change while the operator mends the first.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    logged: Option<BrokerError>,
    lines: LineLimit,
}

impl Trouble {
    /// Whether to log it now.
    pub(super) fn is_news(&mut self, error: &BrokerError, now_ms: u64) -> bool {
        let is_known = self.logged.as_ref() == Some(error);
        if is_known || !self.lines.is_due(now_ms, LINE_INTERVAL_MS) {
            return false;
        }
        self.logged = Some(error.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors `letter@ms`; those that are logged.
    fn check(errors: &str, want: &str) {
        let mut trouble = Trouble::default();
        let is_logged = |error: &&str| {
            let (text, ms) = error.split_once('@').unwrap();
            trouble.is_news(&BrokerError(text.into()), ms.parse().unwrap())
        };
        let logged: Vec<_> = errors.split(' ').filter(is_logged).collect();
        assert_eq!(logged.join(" "), want, "{errors}");
    }

    #[test]
    fn a_reason_is_logged_when_it_is_another_one() {
        check("a@5", "a@5");
        check("a@0 a@5000 a@3600000", "a@0");
        check("a@0 b@20000 b@40000 a@60000", "a@0 b@20000 a@60000");
    }

    #[test]
    fn reasons_that_change_again_and_again_are_a_line_now_and_then() {
        check("a@0 b@100 a@200 b@9999 b@10000 a@10001", "a@0 b@10000");
    }
}
