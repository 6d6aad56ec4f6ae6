//! One deadline for each connection, by its slab index: a wheel of lists, with no object per timer.

/// Resolution: deadlines are met up to this much late, never early.
const TICK_MS: u64 = 16;
/// One turn of the wheel is 65.5 s; what is due later stays in its bucket for another turn.
const BUCKETS: usize = 4096;
const NONE: u32 = u32::MAX;

/// Deadlines by index. Arming an armed index for later costs one look: it fires early, and its owner arms it anew.
#[derive(Debug)]
pub struct TimerWheel {
    /// First node of each bucket's list.
    heads: Box<[u32]>,
    /// A bit for each bucket that is not empty.
    occupied: Box<[u64]>,
    /// By index. 12 bytes for each connection that ever was.
    nodes: Vec<Node>,
    /// Everything due before this tick has fired.
    now_tick: u64,
    /// Something in the bucket of `now_tick` may be due, and not a turn of the wheel later.
    is_now_due: bool,
    armed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    next: u32,
    previous: u32,
    /// When it is due; [`NONE`] while it is not armed. 2^32 ticks are two years of uptime.
    tick: u32,
}

const IDLE: Node = Node {
    next: NONE,
    previous: NONE,
    tick: NONE,
};

impl TimerWheel {
    pub fn new(now_ms: u64) -> Self {
        Self {
            heads: vec![NONE; BUCKETS].into(),
            occupied: vec![0; BUCKETS / 64].into(),
            nodes: Vec::new(),
            now_tick: now_ms / TICK_MS,
            is_now_due: false,
            armed: 0,
        }
    }

    /// `index` fires at `deadline_ms` at the latest, or earlier if it was armed for earlier.
    pub fn arm(&mut self, index: u32, deadline_ms: u64) {
        let tick = deadline_ms.div_ceil(TICK_MS).max(self.now_tick) as u32;
        if self.nodes.len() <= index as usize {
            self.nodes.resize(index as usize + 1, IDLE);
        }
        let armed = self.nodes[index as usize].tick;
        if armed != NONE {
            if armed <= tick {
                return;
            }
            self.unlink(index);
        }
        self.link(index, tick);
    }

    /// `index` does not fire.
    pub fn disarm(&mut self, index: u32) {
        if self
            .nodes
            .get(index as usize)
            .is_some_and(|node| node.tick != NONE)
        {
            self.unlink(index);
        }
    }

    /// Puts what is due at `now_ms` into `due`, at most `due_max`; the rest comes with the next call.
    pub fn expire(&mut self, now_ms: u64, due: &mut Vec<u32>, due_max: usize) {
        due.clear();
        let end_tick = now_ms / TICK_MS;
        // However long nobody looked, one turn of the wheel meets everything that is due.
        let turn_start = (end_tick + 1).saturating_sub(BUCKETS as u64);
        self.now_tick = self.now_tick.max(turn_start);
        while self.now_tick <= end_tick {
            let mut index = self.heads[self.now_tick as usize % BUCKETS];
            while index != NONE {
                let Node { next, tick, .. } = self.nodes[index as usize];
                if u64::from(tick) <= self.now_tick {
                    if due.len() == due_max {
                        self.is_now_due = true;
                        return;
                    }
                    self.unlink(index);
                    due.push(index);
                }
                index = next;
            }
            if self.now_tick == end_tick {
                self.is_now_due = false;
                return;
            }
            self.now_tick += 1;
        }
    }

    /// When [`expire`](Self::expire) may next have something to say; `None` when nothing is armed.
    pub fn next_ms(&self) -> Option<u64> {
        if self.armed == 0 {
            return None;
        }
        if self.is_now_due {
            return Some(self.now_tick * TICK_MS);
        }
        let start = self.now_tick as usize % BUCKETS;
        let is_occupied = |bucket: usize| self.occupied[bucket / 64] & (1 << (bucket % 64)) != 0;
        let mut ahead = 1;
        while ahead < BUCKETS {
            let bucket = (start + ahead) % BUCKETS;
            if bucket.is_multiple_of(64) && self.occupied[bucket / 64] == 0 {
                ahead += 64;
            } else if is_occupied(bucket) {
                break;
            } else {
                ahead += 1;
            }
        }
        Some((self.now_tick + ahead as u64) * TICK_MS)
    }

    fn link(&mut self, index: u32, tick: u32) {
        let bucket = tick as usize % BUCKETS;
        let next = self.heads[bucket];
        if next != NONE {
            self.nodes[next as usize].previous = index;
        }
        self.nodes[index as usize] = Node {
            next,
            previous: NONE,
            tick,
        };
        self.heads[bucket] = index;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.is_now_due |= u64::from(tick) == self.now_tick;
        self.armed += 1;
    }

    fn unlink(&mut self, index: u32) {
        let Node {
            next,
            previous,
            tick,
        } = self.nodes[index as usize];
        let bucket = tick as usize % BUCKETS;
        match previous {
            NONE => self.heads[bucket] = next,
            _ => self.nodes[previous as usize].next = next,
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if self.heads[bucket] == NONE {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
        self.nodes[index as usize] = IDLE;
        self.armed -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn what_is_due_a_turn_later_wakes_nobody_now() {
        let turn_ms = TICK_MS * BUCKETS as u64;
        let (mut wheel, mut due) = (TimerWheel::new(0), Vec::new());
        for (index, deadline_ms) in [(0, turn_ms), (1, TICK_MS), (2, TICK_MS)] {
            wheel.arm(index, deadline_ms);
        }
        wheel.expire(0, &mut due, 1);
        assert_eq!((&*due, wheel.next_ms()), (&[][..], Some(TICK_MS)));
        wheel.expire(TICK_MS, &mut due, 1);
        assert_eq!((due.len(), wheel.next_ms()), (1, Some(TICK_MS)));
        wheel.expire(TICK_MS, &mut due, 1);
        assert_eq!((due.len(), wheel.next_ms()), (1, Some(turn_ms)));
        wheel.arm(1, 0);
        assert_eq!(wheel.next_ms(), Some(TICK_MS), "overdue already");
    }

    /// The wheel against a map of deadlines, step by random step.
    #[track_caller]
    fn check(seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now_ms = rng.u64(0..1_000_000);
        let mut wheel = TimerWheel::new(now_ms);
        let mut naive: HashMap<u32, u64> = HashMap::new();
        let mut due = Vec::new();
        for step in 0..2000 {
            let index = rng.u32(0..50);
            match rng.u32(0..10) {
                0..6 => {
                    let horizon_ms = rng.choice([100, 10_000, 200_000]).unwrap();
                    let deadline_ms = now_ms + rng.u64(0..horizon_ms);
                    wheel.arm(index, deadline_ms);
                    let entry = naive.entry(index).or_insert(deadline_ms);
                    *entry = deadline_ms.min(*entry);
                }
                6 => {
                    wheel.disarm(index);
                    naive.remove(&index);
                }
                _ => {
                    let horizon_ms = rng.choice([50, 5_000, 100_000]).unwrap();
                    now_ms += rng.u64(0..horizon_ms);
                    assert!(
                        naive.is_empty()
                            || wheel.next_ms().unwrap() <= naive.values().min().unwrap() + TICK_MS,
                        "wakes in time, seed {seed} step {step}"
                    );
                    loop {
                        wheel.expire(now_ms, &mut due, 3);
                        for index in &due {
                            let deadline_ms =
                                naive.remove(index).expect("fires only what is armed");
                            assert!(
                                deadline_ms <= now_ms,
                                "never early, seed {seed} step {step}"
                            );
                        }
                        if due.len() < 3 {
                            break;
                        }
                    }
                    for (index, deadline_ms) in &naive {
                        assert!(
                            deadline_ms + TICK_MS > now_ms,
                            "{index} is late, seed {seed} step {step}"
                        );
                    }
                }
            }
            assert_eq!(wheel.armed, naive.len(), "seed {seed} step {step}");
        }
    }

    #[test]
    fn every_deadline_fires_once_and_in_time() {
        for _ in 0..50 {
            check(fastrand::u64(..));
        }
    }

    #[test]
    fn a_long_sleep_costs_one_turn_of_the_wheel() {
        const YEAR_MS: u64 = 365 * 24 * 60 * 60 * 1000;
        let mut wheel = TimerWheel::new(0);
        for (index, deadline_ms) in [100, 70_000, YEAR_MS, YEAR_MS + 1000]
            .into_iter()
            .enumerate()
        {
            wheel.arm(index as u32, deadline_ms);
        }
        let mut due = Vec::new();
        wheel.expire(YEAR_MS, &mut due, 9);
        due.sort_unstable();
        assert_eq!(due, [0, 1, 2]);
        assert_eq!(wheel.next_ms(), Some(YEAR_MS + 1008));
    }

    #[test]
    fn an_empty_wheel_waits_for_nothing() {
        let mut wheel = TimerWheel::new(5);
        assert_eq!(wheel.next_ms(), None);
        wheel.arm(0, 1000);
        assert_eq!(wheel.next_ms(), Some(1008));
        wheel.disarm(0);
        wheel.disarm(7);
        assert_eq!(wheel.next_ms(), None);
    }
}
