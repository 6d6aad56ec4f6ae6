//! What waits for all of a shard's clients together, and whose share of it is too large.

use crate::shard::Shard;
use crate::transport::outbox::Outbox;

/// The sum over a shard's outboxes. What is left of a replay does not count: the histories had it when it began, and
/// clients who came together share it. A history goes on, but its old messages stay in memory until the last of them
/// has taken them, or has been cut for taking them too slowly (`write_stall_timeout`).
#[derive(Debug, Default)]
pub(super) struct Outboxes {
    bytes: usize,
    count: usize,
}

impl Outboxes {
    /// The counted bytes of a connection's outbox; `None` if it has none.
    fn weigh(outbox: Option<&Outbox>) -> Option<usize> {
        outbox.map(Outbox::live_bytes)
    }

    /// A connection's outbox weighs something else than before.
    fn change(&mut self, before: Option<usize>, after: Option<usize>) {
        self.bytes = self.bytes + after.unwrap_or(0) - before.unwrap_or(0);
        self.count = self.count + usize::from(after.is_some()) - usize::from(before.is_some());
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// More than `bytes_max` waits in all, and in this outbox more than an equal share of that. Those with less go
    /// on, until they have as much.
    pub(super) fn is_too_large(&self, outbox: &Outbox, bytes_max: usize) -> bool {
        self.bytes > bytes_max && outbox.live_bytes() > bytes_max / self.count.max(1)
    }
}

impl Shard {
    /// Changes what waits for a connection, and counts the change. Meanwhile the connection itself has no outbox.
    pub(super) fn with_outbox<R>(
        &mut self,
        index: u32,
        change: impl FnOnce(&mut Self, &mut Option<Box<Outbox>>) -> R,
    ) -> R {
        let mut outbox = self.connections[index as usize].outbox.take();
        let before = Outboxes::weigh(outbox.as_deref());
        let result = change(self, &mut outbox);
        let after = Outboxes::weigh(outbox.as_deref());
        self.outboxes.change(before, after);
        self.connections[index as usize].outbox = outbox;
        result
    }

    /// The connection has only a goodbye to say, and it does not wait behind what waits; see [`Outbox::keep_begun`].
    pub(super) fn keep_begun(&mut self, index: u32) {
        self.with_outbox(index, |_, outbox| {
            outbox.as_deref_mut().map(Outbox::keep_begun);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::outbox::Waiting;

    fn outbox(bytes: usize) -> Outbox {
        let mut outbox = Outbox::new(0);
        outbox.push(Waiting::Bytes {
            bytes: vec![0; bytes].into(),
            sent: 0,
        });
        outbox
    }

    #[test]
    fn over_the_total_those_with_more_than_their_share_are_found() {
        let mut outboxes = Outboxes::default();
        let [small, middle, large] = [10, 34, 60].map(outbox);
        for outbox in [&small, &middle, &large] {
            outboxes.change(None, Outboxes::weigh(Some(outbox)));
        }
        assert_eq!(outboxes.bytes(), 104);
        let over = |outboxes: &Outboxes, bytes_max| {
            [&small, &middle, &large].map(|outbox| outboxes.is_too_large(outbox, bytes_max))
        };
        assert_eq!(over(&outboxes, 104), [false; 3]);
        assert_eq!(over(&outboxes, 103), [false, false, true]);
        assert_eq!(over(&outboxes, 101), [false, true, true]);
        outboxes.change(Outboxes::weigh(Some(&large)), None);
        assert_eq!(over(&outboxes, 101), [false; 3]);
        outboxes.change(Some(10), Some(0));
        outboxes.change(Some(34), Some(34));
        assert_eq!((outboxes.bytes, outboxes.count), (34, 2));
    }
}
