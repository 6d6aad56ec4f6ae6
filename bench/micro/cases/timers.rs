//! Deadlines of 100,000 connections that are told of life every 25 s.

use std::collections::{BTreeSet, HashMap};
use std::hint::black_box;

use pushring::shard::timers::TimerWheel;

use super::Group;
use crate::harness::Case;

pub(crate) const GROUP: Group = Group {
    name: "timers",
    cases,
    agree,
};

const N_CONNECTIONS: u32 = 100_000;
const HEARTBEAT_MS: u64 = 25_000;
/// The wheel's resolution; deadlines are multiples of it here, so that both are exact.
const TICK_MS: u64 = 16;

fn cases() -> Vec<Case> {
    vec![
        later_case("timer: a later deadline"),
        earlier_case("timer: an earlier deadline"),
        come_and_go_case("timer: arm and disarm"),
        heartbeats_case("timers: 16 ms of heartbeats (64)"),
    ]
}

/// The rule at every sign of life.
fn later_case(name: &'static str) -> Case {
    let (mut wheel, mut naive) = armed();
    let (mut next, mut next_naive) = (0, 0);
    Case::pair(
        name,
        move || {
            next = (next + 7919) % N_CONNECTIONS;
            wheel.arm(black_box(next), black_box(3 * HEARTBEAT_MS));
        },
        move || {
            next_naive = (next_naive + 7919) % N_CONNECTIONS;
            naive.arm(black_box(next_naive), black_box(3 * HEARTBEAT_MS));
        },
    )
}

fn earlier_case(name: &'static str) -> Case {
    let (mut wheel, mut naive) = armed();
    let (mut next, mut next_naive) = (0, 0);
    // Each connection's deadline is brought forward, and put back in the same step.
    Case::pair(
        name,
        move || {
            next = (next + 7919) % N_CONNECTIONS;
            wheel.arm(black_box(next), black_box(TICK_MS));
            wheel.disarm(next);
            wheel.arm(next, deadline_ms(next));
        },
        move || {
            next_naive = (next_naive + 7919) % N_CONNECTIONS;
            naive.arm(black_box(next_naive), black_box(TICK_MS));
            naive.disarm(next_naive);
            naive.arm(next_naive, deadline_ms(next_naive));
        },
    )
}

fn come_and_go_case(name: &'static str) -> Case {
    let (mut wheel, mut naive) = armed();
    Case::pair(
        name,
        move || {
            wheel.arm(black_box(N_CONNECTIONS), black_box(HEARTBEAT_MS));
            wheel.disarm(black_box(N_CONNECTIONS));
        },
        move || {
            naive.arm(black_box(N_CONNECTIONS), black_box(HEARTBEAT_MS));
            naive.disarm(black_box(N_CONNECTIONS));
        },
    )
}

/// Each step is a tick: what is due fires and is armed for the next heartbeat.
fn heartbeats_case(name: &'static str) -> Case {
    let (mut wheel, mut naive) = armed();
    let (mut now_ms, mut now_naive_ms) = (0, 0);
    let mut due = Vec::new();
    Case::pair(
        name,
        move || {
            now_ms += TICK_MS;
            wheel.expire(now_ms, &mut due, usize::MAX);
            for &index in &due {
                wheel.arm(index, now_ms + HEARTBEAT_MS);
            }
            due.len()
        },
        move || {
            now_naive_ms += TICK_MS;
            let due = naive.expire(now_naive_ms);
            for &index in &due {
                naive.arm(index, now_naive_ms + HEARTBEAT_MS);
            }
            due.len()
        },
    )
}

/// Spread evenly over the next heartbeat.
fn deadline_ms(index: u32) -> u64 {
    let ticks = HEARTBEAT_MS / TICK_MS;
    (1 + u64::from(index) % ticks) * TICK_MS
}

fn armed() -> (TimerWheel, TimersNaive) {
    let mut wheel = TimerWheel::new(0);
    let mut naive = TimersNaive::default();
    for index in 0..N_CONNECTIONS {
        wheel.arm(index, deadline_ms(index));
        naive.arm(index, deadline_ms(index));
    }
    (wheel, naive)
}

fn agree(random: &mut fastrand::Rng) {
    let mut now_ms = random.u64(0..1000) * TICK_MS;
    let mut wheel = TimerWheel::new(now_ms);
    let mut naive = TimersNaive::default();
    let mut due = Vec::new();
    for _ in 0..5000 {
        let index = random.u32(0..100);
        match random.u32(0..10) {
            0..6 => {
                let deadline_ms = now_ms + random.u64(1..10_000) * TICK_MS;
                wheel.arm(index, deadline_ms);
                naive.arm(index, deadline_ms);
            }
            6 => {
                wheel.disarm(index);
                naive.disarm(index);
            }
            _ => {
                now_ms += random.u64(0..500) * TICK_MS;
                wheel.expire(now_ms, &mut due, usize::MAX);
                due.sort_unstable();
                let mut expected = naive.expire(now_ms);
                expected.sort_unstable();
                assert_eq!(due, expected, "at {now_ms} ms");
            }
        }
    }
}

/// Deadlines in order; the same rule, that an armed index keeps the earlier one.
#[derive(Default)]
struct TimersNaive {
    by_deadline: BTreeSet<(u64, u32)>,
    by_index: HashMap<u32, u64>,
}

impl TimersNaive {
    fn arm(&mut self, index: u32, deadline_ms: u64) {
        let armed_ms = self.by_index.get(&index).copied();
        if armed_ms.is_some_and(|armed_ms| armed_ms <= deadline_ms) {
            return;
        }
        self.disarm(index);
        self.by_index.insert(index, deadline_ms);
        self.by_deadline.insert((deadline_ms, index));
    }

    fn disarm(&mut self, index: u32) {
        if let Some(deadline_ms) = self.by_index.remove(&index) {
            self.by_deadline.remove(&(deadline_ms, index));
        }
    }

    fn expire(&mut self, now_ms: u64) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some(&(deadline_ms, index)) = self.by_deadline.first()
            && deadline_ms <= now_ms
        {
            self.disarm(index);
            due.push(index);
        }
        due
    }
}
