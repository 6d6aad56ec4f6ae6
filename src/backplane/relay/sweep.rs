//! What is to be done now and then: expiry, refusals, checks against the broker, closing.

use std::sync::Arc;

use super::Relay;

/// A relay goes round all of its channels in this many sweeps.
pub(super) const SWEEPS_PER_ROUND: usize = 50;

impl<A: Copy> Relay<A> {
    /// Looks at some of the channels: what is old goes, who has waited too long is refused, what nobody needs is
    /// closed, and what is listened to is checked against the broker now and then. Goes round all of them.
    pub fn sweep(&mut self, is_congested: bool, now_ms: u64) {
        // The slab keeps the places of as many feeds as there ever were.
        let n_places = self.feeds.capacity();
        for _ in 0..n_places.div_ceil(SWEEPS_PER_ROUND).max(64).min(n_places) {
            let index = self.sweep_next;
            self.sweep_next = (index + 1) % n_places;
            if self.feeds.contains(index) {
                self.sweep_feed(index, is_congested, now_ms);
            }
        }
    }

    fn sweep_feed(&mut self, index: usize, is_congested: bool, now_ms: u64) {
        let namespace = self.namespaces.of(&self.feeds[index].channel.name);
        let timing = &self.config.timing;
        let (linger_ms, check_ms) = (
            timing.backplane_linger_ms,
            timing.backplane_check_interval_ms,
        );
        let broker_ms = self.broker_ms(now_ms);
        let waited_since_ms = now_ms.saturating_sub(timing.backplane_timeout_ms);
        let feed = &mut self.feeds[index];
        if !Arc::ptr_eq(&feed.channel.namespace, &namespace) {
            self.histories.change(&mut feed.channel, |channel, _| {
                channel.set_namespace(namespace, broker_ms);
            });
        }
        self.refuse_waiters(index, |waiter| waiter.since_ms < waited_since_ms);
        self.expire(index, now_ms);
        let feed = &self.feeds[index];
        let is_idle = feed.channel.listeners() == 0 && feed.waiters.is_empty();
        // What is being read would be taken for the answer to the next opening.
        if is_idle && !feed.is_reading && now_ms >= feed.used_ms + linger_ms {
            self.close(index);
        } else if !is_idle
            && !feed.is_reading
            && (now_ms >= feed.read_ms + check_ms || feed.is_in_doubt && !is_congested)
        {
            self.read(index);
        }
    }
}
