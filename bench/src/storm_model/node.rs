//! One node that stays, as newcomers see it: the kernel's queue, the time that each of them takes, the limits.

/// Refusals that are told, in a second and thread; those above are closed without a word.
const TOLD_PER_SECOND: u64 = 1_000;
const SECOND_US: u64 = 1_000_000;

/// What all nodes are able to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Door {
    /// Newcomers that the whole node can take in a second.
    pub(super) admissions_per_second: u64,
    /// What turning one away costs, as a share of taking it in.
    pub(super) refusal_share: f64,
    /// Newcomers that wait in the kernel, at all listeners; those above are not answered.
    pub(super) backlog: u64,
    pub(super) threads: u64,
    /// The setting `accepts_per_second_max`; 0 is any number.
    pub(super) accepts_per_second_max: u64,
}

#[derive(Debug)]
pub(super) struct Node {
    /// When it will have dealt with all who have come.
    free_us: f64,
    accepts: Bucket,
    refusals: Bucket,
    /// Who came, by the second.
    arrivals: Vec<u32>,
}

/// What becomes of a newcomer, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Admitted(u64),
    /// 503.
    Refused(u64),
    Closed(u64),
    /// The queue is full: the kernel says nothing.
    Dropped,
}

/// A second's worth at once, and so much a second from then on, as the server's own.
#[derive(Debug)]
struct Bucket {
    level: f64,
    per_second: f64,
    filled_us: u64,
}

impl Node {
    pub(super) fn new(door: &Door) -> Self {
        Self {
            free_us: 0.0,
            accepts: Bucket::new(door.accepts_per_second_max * door.threads),
            refusals: Bucket::new(TOLD_PER_SECOND * door.threads),
            arrivals: Vec::new(),
        }
    }

    /// Somebody's SYN has come. Calls are in the order of time.
    pub(super) fn arrive(&mut self, now_us: u64, door: &Door) -> Verdict {
        let second = (now_us / SECOND_US) as usize;
        if self.arrivals.len() <= second {
            self.arrivals.resize(second + 1, 0);
        }
        self.arrivals[second] += 1;
        let admission_us = SECOND_US as f64 / door.admissions_per_second as f64;
        let begin_us = self.free_us.max(now_us as f64);
        if (begin_us - now_us as f64) / admission_us >= door.backlog as f64 {
            return Verdict::Dropped;
        }
        let is_admitted = door.accepts_per_second_max == 0 || self.accepts.take(begin_us as u64);
        let share = if is_admitted { 1.0 } else { door.refusal_share };
        self.free_us = begin_us + admission_us * share;
        let end_us = self.free_us as u64;
        if is_admitted {
            Verdict::Admitted(end_us)
        } else if self.refusals.take(begin_us as u64) {
            Verdict::Refused(end_us)
        } else {
            Verdict::Closed(end_us)
        }
    }

    /// The most that came within one second.
    pub(super) fn arrivals_peak(&self) -> u32 {
        self.arrivals.iter().copied().max().unwrap_or(0)
    }
}

impl Bucket {
    fn new(per_second: u64) -> Self {
        Self {
            level: per_second as f64,
            per_second: per_second as f64,
            filled_us: 0,
        }
    }

    fn take(&mut self, now_us: u64) -> bool {
        let elapsed_s = now_us.saturating_sub(self.filled_us) as f64 / SECOND_US as f64;
        self.level = (self.level + elapsed_s * self.per_second).min(self.per_second);
        self.filled_us = self.filled_us.max(now_us);
        let is_there = self.level > 0.0;
        if is_there {
            self.level -= 1.0;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOOR: Door = Door {
        admissions_per_second: 1_000,
        refusal_share: 0.5,
        backlog: 10,
        threads: 1,
        accepts_per_second_max: 0,
    };

    /// What becomes of `count` who come at once, at second 1: admitted, refused, closed, dropped.
    #[track_caller]
    fn check(door: Door, count: u32, want: [u32; 4]) -> Node {
        let mut node = Node::new(&door);
        let mut got = [0; 4];
        for _ in 0..count {
            got[match node.arrive(SECOND_US, &door) {
                Verdict::Admitted(_) => 0,
                Verdict::Refused(_) => 1,
                Verdict::Closed(_) => 2,
                Verdict::Dropped => 3,
            }] += 1;
        }
        assert_eq!(got, want);
        assert_eq!(node.arrivals_peak(), count);
        node
    }

    #[test]
    fn who_does_not_fit_into_the_queue_is_not_answered() {
        let mut node = check(DOOR, 15, [10, 0, 0, 5]);
        // A millisecond each: the next one waits for the ten before it.
        let at = node.arrive(SECOND_US + 5_000, &DOOR);
        assert_eq!(at, Verdict::Admitted(SECOND_US + 11_000));
    }

    #[test]
    fn the_limit_refuses_and_then_says_nothing() {
        let door = Door {
            accepts_per_second_max: 100,
            backlog: 1_000_000,
            ..DOOR
        };
        check(door, 100, [100, 0, 0, 0]);
        let mut node = Node::new(&door);
        let verdicts: Vec<_> = (0..5_000).map(|_| node.arrive(SECOND_US, &door)).collect();
        let count = |is: fn(&Verdict) -> bool| verdicts.iter().filter(|one| is(one)).count();
        let admitted = count(|one| matches!(one, Verdict::Admitted(_)));
        let refused = count(|one| matches!(one, Verdict::Refused(_)));
        assert_eq!(
            admitted + refused + count(|one| matches!(one, Verdict::Closed(_))),
            5_000
        );
        // 100 at once; then 100 a second, with 0.5 ms for each of the others.
        assert!((350..=380).contains(&admitted), "{admitted}");
        assert!(refused > 3_000, "{refused}");
    }
}
