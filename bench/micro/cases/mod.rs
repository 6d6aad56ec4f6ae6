//! What is measured, in groups. A naive twin says the same as its fast path in the shortest way that is right; it is
//! what one would write without a thought of speed.

mod fanout;
mod http;
mod hub;
mod publish;
mod text;
mod timers;
mod websocket;

use crate::harness::Case;

pub(crate) struct Group {
    pub(crate) name: &'static str,
    /// Made anew for each run.
    pub(crate) cases: fn() -> Vec<Case>,
    /// Panics where fast path and twin differ on random input.
    pub(crate) agree: fn(&mut fastrand::Rng),
}

pub(crate) const GROUPS: [Group; 7] = [
    websocket::GROUP,
    text::GROUP,
    http::GROUP,
    hub::GROUP,
    fanout::GROUP,
    timers::GROUP,
    publish::GROUP,
];
