//! What becomes of a connection: how long it lives, how it is treated meanwhile, how it ends.

use fastrand::Rng;

use super::transport::Transport;

const MILLISECOND_NS: u64 = 1_000_000;

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Closes; the kernel sends FIN, or RST if something was not read.
    Close,
    /// As a killed host's neighbour does: RST (SO_LINGER 0).
    Reset,
    /// After some bytes of what comes next, wherever they end.
    MidFrame,
    /// With the closing handshake.
    Goodbye,
}

#[derive(Clone, Debug)]
pub(super) struct Fate {
    pub(super) ends_ns: u64,
    pub(super) exit: Exit,
    /// From and until when it reads nothing.
    pub(super) pause_ns: Option<(u64, u64)>,
    /// Reads a few bytes now and then.
    pub(super) is_slow: bool,
    /// Only the front of its request is sent before it leaves.
    pub(super) is_half_asked: bool,
    pub(super) has_small_buffer: bool,
}

impl Fate {
    pub(super) fn draw(rng: &mut Rng, transport: Transport, now_ns: u64, life_ns: u64) -> Self {
        let lives_ns = rng.u64(life_ns / 20..life_ns * 2);
        let pause_ns = (rng.u32(..10) == 0).then(|| {
            let from_ns = now_ns + rng.u64(..lives_ns);
            (from_ns, from_ns + rng.u64(50..3_000) * MILLISECOND_NS)
        });
        let is_half_asked = rng.u32(..40) == 0;
        Self {
            ends_ns: now_ns
                + if is_half_asked {
                    20 * MILLISECOND_NS
                } else {
                    lives_ns
                },
            exit: match rng.u32(..8) {
                0..2 => Exit::Close,
                2..4 => Exit::Reset,
                4 if transport.is_websocket() => Exit::Goodbye,
                _ => Exit::MidFrame,
            },
            pause_ns,
            is_slow: rng.u32(..20) == 0,
            is_half_asked,
            has_small_buffer: rng.u32(..4) == 0,
        }
    }

    /// Nothing happens to this one any more.
    pub(super) fn calm() -> Self {
        Self {
            ends_ns: u64::MAX,
            exit: Exit::Close,
            pause_ns: None,
            is_slow: false,
            is_half_asked: false,
            has_small_buffer: false,
        }
    }
}

/// How long a client stays away before it comes back: mostly a moment, sometimes long enough to lose something where
/// histories are short.
pub(super) fn absence_ns(rng: &mut Rng) -> u64 {
    match rng.u32(..20) {
        0 => rng.u64(1_000..6_000) * MILLISECOND_NS,
        _ => rng.u64(..250) * MILLISECOND_NS,
    }
}
