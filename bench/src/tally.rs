//! What the clients of a worker counted, and the sum over all workers.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::stamp::Stamp;

/// Microseconds with three digits; values above the highest trackable are counted as it.
const LATENCY_US_MAX: u64 = 600_000_000;

#[derive(Debug)]
pub(crate) struct Tally {
    /// Connections that were admitted.
    pub(crate) opened: u64,
    /// Connections that could not be opened, by reason.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Admitted connections that the server ended.
    pub(crate) ended: u64,
    pub(crate) close_codes: BTreeMap<u16, u64>,
    /// Messages with a stamp, and the bytes of their payloads.
    pub(crate) messages: u64,
    pub(crate) payload_bytes: u64,
    /// Messages without a stamp: somebody else publishes, or the server speaks.
    pub(crate) foreign: u64,
    /// Messages that a channel's sequence shows to be lost, or delivered twice or late.
    pub(crate) missing: u64,
    pub(crate) repeated: u64,
    /// Losses the server told of.
    pub(crate) gaps_told: u64,
    /// Pings answered, keep-alive comments, polls answered without a message.
    pub(crate) heartbeats: u64,
    /// Answers to requests, and those of them that were refusals, by status.
    pub(crate) answers: u64,
    pub(crate) refusals: BTreeMap<u16, u64>,
    /// Chat messages sent.
    pub(crate) said: u64,
    /// From connect to admission.
    pub(crate) admission_us: Histogram<u64>,
    /// From a stamp's intended time to the delivery; in a closed loop, from request to answer.
    pub(crate) latency_us: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are valid");
        Self {
            opened: 0,
            failures: BTreeMap::new(),
            ended: 0,
            close_codes: BTreeMap::new(),
            messages: 0,
            payload_bytes: 0,
            foreign: 0,
            missing: 0,
            repeated: 0,
            gaps_told: 0,
            heartbeats: 0,
            answers: 0,
            refusals: BTreeMap::new(),
            said: 0,
            admission_us: histogram(),
            latency_us: histogram(),
        }
    }
}

impl Tally {
    /// Counts a delivery. `last_sequence` is the connection's; sequence 0 has no order.
    pub(crate) fn on_message(
        &mut self,
        stamp: Stamp,
        payload_bytes: usize,
        last_sequence: &mut u32,
        now_ns: u64,
    ) {
        self.messages += 1;
        self.payload_bytes += payload_bytes as u64;
        self.latency_us
            .saturating_record(now_ns.saturating_sub(stamp.intended_ns) / 1000);
        if stamp.sequence == 0 {
            return;
        }
        if stamp.sequence <= *last_sequence {
            self.repeated += 1;
            return;
        }
        // A connection's first message may be any: it came in the middle.
        if *last_sequence != 0 {
            self.missing += u64::from(stamp.sequence - *last_sequence - 1);
        }
        *last_sequence = stamp.sequence;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.ended += other.ended;
        self.messages += other.messages;
        self.payload_bytes += other.payload_bytes;
        self.foreign += other.foreign;
        self.missing += other.missing;
        self.repeated += other.repeated;
        self.gaps_told += other.gaps_told;
        self.heartbeats += other.heartbeats;
        self.answers += other.answers;
        self.said += other.said;
        add_counts(&mut self.failures, &other.failures);
        add_counts(&mut self.close_codes, &other.close_codes);
        add_counts(&mut self.refusals, &other.refusals);
        self.admission_us
            .add(&other.admission_us)
            .expect("all histograms have the same bounds");
        self.latency_us
            .add(&other.latency_us)
            .expect("all histograms have the same bounds");
    }
}

fn add_counts<K: Ord + Clone>(sum: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        *sum.entry(key.clone()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_show_what_is_missing_or_repeated() {
        check(&[5, 6, 7], (0, 0));
        check(&[1, 3, 7], (4, 0));
        check(&[1, 1, 2, 1], (0, 2));
        check(&[0, 0, 4, 0, 5], (0, 0));
    }

    #[track_caller]
    fn check(sequences: &[u32], (missing, repeated): (u64, u64)) {
        let (mut tally, mut last) = (Tally::default(), 0);
        for &sequence in sequences {
            tally.on_message(
                Stamp {
                    intended_ns: 0,
                    sequence,
                },
                40,
                &mut last,
                1_000_000,
            );
        }
        let mut sum = Tally::default();
        sum.add(&tally);
        assert_eq!((sum.missing, sum.repeated), (missing, repeated));
        assert_eq!(
            (sum.messages, sum.payload_bytes),
            (sequences.len() as u64, 40 * sequences.len() as u64)
        );
        assert_eq!(sum.latency_us.min(), 1000);
    }
}
