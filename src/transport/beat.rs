//! When what is due at intervals is due: heartbeats together, clients spread out.

use crate::hub::ShardId;

/// The times at which a shard's heartbeats go out: what is due around the same time goes out in one turn, and the pongs
/// come back together, instead of waking the shard for each. Shards beat in turn, or those that share a core would all
/// want it at once, while others wait.
#[derive(Clone, Copy, Debug)]
pub struct Beats {
    heartbeat_ms: u64,
    beat_ms: u64,
    /// When the first one is, and at this distance from each multiple of `beat_ms`.
    phase_ms: u64,
}

impl Beats {
    /// Those of `shard` among `n_shards`.
    pub fn new(heartbeat_ms: u64, shard: ShardId, n_shards: usize) -> Self {
        const BEAT_MS_MAX: u64 = 512;
        // Less than a fiftieth of the interval, so that the load stays even.
        let beat_ms = (heartbeat_ms / 64).clamp(1, BEAT_MS_MAX);
        Self {
            heartbeat_ms,
            beat_ms,
            phase_ms: beat_ms * u64::from(shard.0) / n_shards as u64,
        }
    }

    /// The first heartbeat of a connection that begins: a random one, which spreads those who came together.
    pub fn first_ms(self, now_ms: u64, rng: &mut fastrand::Rng) -> u64 {
        // Two beats ahead, one may be rounded off.
        let soonest_ms = self.heartbeat_ms.min(2 * self.beat_ms);
        self.on_beat(now_ms + rng.u64(soonest_ms..=self.heartbeat_ms))
    }

    /// The one after a heartbeat at `now_ms`.
    pub fn next_ms(self, now_ms: u64) -> u64 {
        self.on_beat(now_ms + self.heartbeat_ms)
    }

    /// Any within the interval that begins, for a connection whose interval has changed.
    pub fn any_ms(self, now_ms: u64, rng: &mut fastrand::Rng) -> u64 {
        self.on_beat(now_ms + rng.u64(1..=self.heartbeat_ms))
    }

    /// The last beat until `due_ms`.
    fn on_beat(self, due_ms: u64) -> u64 {
        due_ms.saturating_sub((due_ms + self.beat_ms - self.phase_ms) % self.beat_ms)
    }
}

/// A wait around `ms`, by up to a half less or more: those whom one restart cut off come back spread out.
pub fn jittered_around(ms: u64, rng: &mut fastrand::Rng) -> u64 {
    rng.u64(ms / 2..=ms + ms / 2)
}

/// A wait of `ms` jittered down by up to a tenth, so that a herd spreads out.
pub fn jittered_down(ms: u64, rng: &mut fastrand::Rng) -> u64 {
    ms - rng.u64(0..=ms / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_heartbeat_is_within_an_interval_and_on_a_beat_of_its_shard() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..1000 {
            let n_shards = rng.u16(1..100);
            let shard = ShardId(rng.u16(0..n_shards));
            let heartbeat_ms = rng.u64(1..100_000);
            let beats = Beats::new(heartbeat_ms, shard, usize::from(n_shards));
            let now_ms = rng.u64(1_000..1_000_000_000);
            let case = format!("{beats:?} at {now_ms}, seed {seed}");
            let first_ms = beats.first_ms(now_ms, &mut rng);
            assert!(first_ms > now_ms, "{first_ms}: {case}");
            for due_ms in [
                first_ms,
                beats.next_ms(now_ms),
                beats.any_ms(now_ms, &mut rng),
            ] {
                assert!(due_ms <= now_ms + heartbeat_ms, "{due_ms}: {case}");
                assert!(due_ms + beats.beat_ms > now_ms, "{due_ms}: {case}");
                assert_eq!(due_ms % beats.beat_ms, beats.phase_ms, "{due_ms}: {case}");
            }
            assert!(
                beats.next_ms(now_ms) + beats.beat_ms > now_ms + heartbeat_ms,
                "{case}"
            );
        }
    }

    #[test]
    fn shards_beat_in_turn() {
        let phases_ms = [0, 1, 2, 3].map(|shard| Beats::new(25_600, ShardId(shard), 4).phase_ms);
        assert_eq!(phases_ms, [0, 100, 200, 300]);
    }
}
