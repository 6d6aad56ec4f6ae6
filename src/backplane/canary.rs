//! Whether what is sent through every connection to the broker comes back.

/// The canaries of one connected broker. They are counted, not timed: while this thread itself stands still none is
/// sent, and none is lost.
#[derive(Debug)]
pub(super) struct Canary {
    sent: u64,
    /// The newest number that came back, by connection.
    returned: Vec<u64>,
    /// The newest that came back through all of them.
    heard: u64,
}

impl Canary {
    /// Numbers go on from `sent`, the last one of the broker's client before, so that none of its canaries counts here.
    pub(super) fn new(connections: usize, sent: u64) -> Self {
        Self {
            sent,
            returned: vec![sent; connections],
            heard: sent,
        }
    }

    /// The number to send now; `None` when `lost_max` in a row did not come back.
    pub(super) fn next(&mut self, lost_max: u64) -> Option<u64> {
        if self.sent - self.heard >= lost_max {
            return None;
        }
        self.sent += 1;
        Some(self.sent)
    }

    /// Whether one more has now come back through every connection.
    pub(super) fn on_return(&mut self, connection: usize, number: u64) -> bool {
        let Some(returned) = self.returned.get_mut(connection) else {
            return false;
        };
        if number <= self.sent {
            *returned = number.max(*returned);
        }
        let heard = self.returned.iter().copied().min().unwrap_or(self.heard);
        let is_news = heard > self.heard;
        self.heard = heard;
        is_news
    }

    pub(super) fn last_number(&self) -> u64 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_heard_when_it_came_through_every_connection() {
        let mut canary = Canary::new(2, 40);
        assert_eq!(canary.next(3), Some(41));
        assert!(!canary.on_return(0, 40), "of a connection before");
        assert!(!canary.on_return(0, 41));
        assert!(!canary.on_return(0, 41));
        assert!(!canary.on_return(2, 41), "there is no such connection");
        assert!(!canary.on_return(1, 99), "never sent");
        assert!(canary.on_return(1, 41));
        assert!(!canary.on_return(1, 41), "no news");
    }

    #[test]
    fn three_in_a_row_without_a_return_are_deafness() {
        let mut canary = Canary::new(2, 0);
        for number in 1..=3 {
            assert_eq!(canary.next(3), Some(number));
            canary.on_return(0, number);
        }
        assert_eq!(canary.next(3), None, "one connection is not enough");
        assert!(canary.on_return(1, 2), "late is not lost");
        assert_eq!(canary.next(3), Some(4));
        assert_eq!(canary.last_number(), 4);
    }
}
