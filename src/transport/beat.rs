//! When what is due at intervals is due: heartbeats together, clients spread out.

/// A heartbeat's time on its beat: what is due at the same beat goes out in one turn of the shard, and the pongs come
/// back together, instead of waking it for each.
pub fn on_beat(due_ms: u64, heartbeat_ms: u64) -> u64 {
    due_ms - due_ms % beat_ms(heartbeat_ms)
}

/// The first heartbeat of a connection that begins: a random phase spreads those who came together.
pub fn first_beat(now_ms: u64, heartbeat_ms: u64, rng: &mut fastrand::Rng) -> u64 {
    // Two beats ahead, one may be rounded off.
    let soonest_ms = heartbeat_ms.min(2 * beat_ms(heartbeat_ms));
    on_beat(now_ms + rng.u64(soonest_ms..=heartbeat_ms), heartbeat_ms)
}

/// Less than a fiftieth of the interval, so that the load stays even.
fn beat_ms(heartbeat_ms: u64) -> u64 {
    const BEAT_MS_MAX: u64 = 512;
    (heartbeat_ms / 64).clamp(1, BEAT_MS_MAX)
}

/// A wait around `ms`, by up to a half less or more: those whom one restart cut off come back spread out.
pub fn jittered_around(ms: u64, rng: &mut fastrand::Rng) -> u64 {
    rng.u64(ms / 2..=ms + ms / 2)
}

/// A wait of `ms` jittered down by up to a tenth, so that a herd spreads out.
pub fn jittered_down(ms: u64, rng: &mut fastrand::Rng) -> u64 {
    ms - rng.u64(0..=ms / 10)
}
