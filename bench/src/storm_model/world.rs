//! One node is lost, and its clients come back to the others: events in the order of their time, drawn from a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

use super::client::{After, Client, End, Kind};
use super::node::{Door, Node, Verdict};

const MILLISECOND_US: u64 = 1_000;
const SECOND_US: u64 = 1_000_000;
/// `Retry-After`, in seconds.
const RETRY_AFTER_S: std::ops::RangeInclusive<u64> = 1..=5;
/// A client's kernel repeats a SYN after one second, and after twice as long each time (RFC 6298).
const SYN_REPEAT_US: u64 = SECOND_US;
/// Whoever is not back by then never will be.
const END_US: u64 = 3_600 * SECOND_US;

/// How the node goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// All connections end, and their clients notice within so many microseconds.
    Killed { notice_us: u64 },
    /// Connections are ended one by one over the setting `drain_period`.
    Drained { period_us: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// Clients of the node that is lost.
    pub(super) clients: u32,
    /// Nodes that stay.
    pub(super) nodes: u16,
    pub(super) kind: Kind,
    pub(super) loss: Loss,
    pub(super) round_trip_us: u64,
    pub(super) door: Door,
}

/// What it came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Milliseconds that each of those who are back was away, ascending.
    pub(super) away_ms: Vec<u32>,
    /// From the loss, or the beginning of the drain, until the last one was back.
    pub(super) all_back_ms: u64,
    /// Clients that took a refusal as final.
    pub(super) stay_away: u64,
    /// Clients that still try after an hour.
    pub(super) still_out: u64,
    pub(super) attempts: u64,
    pub(super) refused: u64,
    pub(super) closed: u64,
    /// SYNs that were not answered.
    pub(super) dropped: u64,
    /// The most that came to one node within one second.
    pub(super) arrivals_peak: u32,
}

/// One client that is out.
struct Outcast {
    client: Client,
    left_us: u64,
    /// When the attempt began that is under way, and whom it goes to.
    asked_us: u64,
    node: u16,
    /// SYNs of this attempt that were not answered.
    syns: u8,
    /// What it will have seen, when that is not an answer to a SYN.
    next: Next,
}

#[derive(Clone, Copy)]
enum Next {
    /// It begins an attempt.
    Ask,
    /// Its SYN comes to the node.
    Arrive,
    Answer(Answer),
}

#[derive(Clone, Copy)]
enum Answer {
    Admitted,
    Refused { retry_after_s: u64 },
    Nothing,
}

struct World {
    case: Case,
    rng: Rng,
    outcasts: Vec<Outcast>,
    nodes: Vec<Node>,
    /// The next event of each client, the earliest first. A client has one at a time.
    events: BinaryHeap<Reverse<(u64, u32)>>,
    outcome: Outcome,
}

/// The same case and seed give the same outcome.
pub(super) fn run(case: Case, seed: u64) -> Outcome {
    let mut world = World::new(case, seed);
    while let Some(Reverse((now_us, index))) = world.events.pop() {
        if now_us > END_US {
            world.outcome.still_out += 1;
            continue;
        }
        world.step(now_us, index);
    }
    let World {
        mut outcome, nodes, ..
    } = world;
    outcome.away_ms.sort_unstable();
    outcome.arrivals_peak = nodes.iter().map(Node::arrivals_peak).max().unwrap_or(0);
    outcome
}

impl World {
    fn new(case: Case, seed: u64) -> Self {
        let mut world = Self {
            case,
            rng: Rng::with_seed(seed),
            outcasts: Vec::with_capacity(case.clients as usize),
            nodes: (0..case.nodes).map(|_| Node::new(&case.door)).collect(),
            events: BinaryHeap::with_capacity(case.clients as usize),
            outcome: Outcome::default(),
        };
        for index in 0..case.clients {
            let (end, within_us) = match case.loss {
                Loss::Killed { notice_us } => (End::Lost, notice_us),
                Loss::Drained { period_us } => (End::Drained, period_us),
            };
            let left_us = world.rng.u64(0..=within_us);
            let client = Client::connected(case.kind, &mut world.rng);
            world.outcasts.push(Outcast {
                client,
                left_us,
                asked_us: 0,
                node: 0,
                syns: 0,
                next: Next::Ask,
            });
            world.on_end(index, end, left_us);
        }
        world
    }

    fn step(&mut self, now_us: u64, index: u32) {
        let (nodes, rng) = (self.case.nodes, &mut self.rng);
        let outcast = &mut self.outcasts[index as usize];
        match outcast.next {
            Next::Ask => {
                self.outcome.attempts += 1;
                outcast.asked_us = now_us;
                outcast.syns = 0;
                // The balancer knows nothing about the nodes but that they are there.
                outcast.node = rng.u16(..nodes);
                self.then(index, Next::Arrive, now_us + self.case.round_trip_us / 2);
            }
            Next::Arrive => self.arrive(index, now_us),
            Next::Answer(Answer::Admitted) => match outcast.client.on_admitted() {
                true => self.on_back(index, now_us),
                false => self.then(index, Next::Ask, now_us),
            },
            Next::Answer(Answer::Refused { retry_after_s }) => {
                self.on_end(index, End::Refused { retry_after_s }, now_us);
            }
            Next::Answer(Answer::Nothing) => self.on_end(index, End::Unanswered, now_us),
        }
    }

    fn arrive(&mut self, index: u32, now_us: u64) {
        let outcast = &mut self.outcasts[index as usize];
        let node = &mut self.nodes[usize::from(outcast.node)];
        let gives_up_us = outcast.asked_us + self.case.kind.patience_ms() * MILLISECOND_US;
        let (answer, at_us) = match node.arrive(now_us, &self.case.door) {
            Verdict::Dropped => {
                self.outcome.dropped += 1;
                let again_us = now_us + (SYN_REPEAT_US << outcast.syns.min(6));
                outcast.syns = outcast.syns.saturating_add(1);
                return match again_us < gives_up_us {
                    true => self.then(index, Next::Arrive, again_us),
                    false => self.then(index, Next::Answer(Answer::Nothing), gives_up_us),
                };
            }
            Verdict::Admitted(at_us) => (Answer::Admitted, at_us),
            Verdict::Refused(at_us) => {
                self.outcome.refused += 1;
                let retry_after_s = self.rng.u64(RETRY_AFTER_S);
                (Answer::Refused { retry_after_s }, at_us)
            }
            Verdict::Closed(at_us) => {
                self.outcome.closed += 1;
                (Answer::Nothing, at_us)
            }
        };
        // The SYN's answer, the request and its own.
        let at_us = at_us + self.case.round_trip_us * 3 / 2;
        match at_us <= gives_up_us {
            true => self.then(index, Next::Answer(answer), at_us),
            // The node has worked for nobody.
            false => self.then(index, Next::Answer(Answer::Nothing), gives_up_us),
        }
    }

    fn on_end(&mut self, index: u32, end: End, now_us: u64) {
        let client = &mut self.outcasts[index as usize].client;
        match client.on_end(self.case.kind, end, &mut self.rng) {
            After::Wait(ms) => self.then(index, Next::Ask, now_us + ms * MILLISECOND_US),
            After::Back => self.on_back(index, now_us),
            After::Never => self.outcome.stay_away += 1,
        }
    }

    fn on_back(&mut self, index: u32, now_us: u64) {
        let away_us = now_us - self.outcasts[index as usize].left_us;
        self.outcome.away_ms.push((away_us / MILLISECOND_US) as u32);
        self.outcome.all_back_ms = now_us / MILLISECOND_US;
    }

    fn then(&mut self, index: u32, next: Next, at_us: u64) {
        self.outcasts[index as usize].next = next;
        self.events.push(Reverse((at_us, index)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case {
        clients: 3_000,
        nodes: 3,
        kind: Kind::Page,
        loss: Loss::Killed { notice_us: 100_000 },
        round_trip_us: 50_000,
        door: Door {
            admissions_per_second: 10_000,
            refusal_share: 0.5,
            backlog: 4_096,
            threads: 2,
            accepts_per_second_max: 0,
        },
    };

    /// Runs the case; nobody may get lost or be counted twice, and the same seed has to give the same.
    #[track_caller]
    fn check(case: Case) -> Outcome {
        let outcome = run(case, 5);
        let accounted = outcome.away_ms.len() as u64 + outcome.stay_away + outcome.still_out;
        assert_eq!(accounted, u64::from(case.clients), "{case:?}");
        assert_eq!(outcome, run(case, 5), "{case:?}");
        assert_ne!(outcome.away_ms, run(case, 6).away_ms, "{case:?}");
        outcome
    }

    #[test]
    fn with_room_everybody_is_back_after_the_first_wait() {
        let outcome = check(CASE);
        assert_eq!((outcome.attempts, outcome.refused), (3_000, 0));
        assert_eq!((outcome.closed, outcome.dropped), (0, 0));
        // Noticed within 0.1 s, waited 1 to 2 s, two round trips; the queue is short.
        assert!((1_100..2_500).contains(&outcome.all_back_ms), "{outcome:?}");
        // About 1,000 for each of the three nodes, within one second.
        assert!((700..1_200).contains(&outcome.arrivals_peak));
    }

    #[test]
    fn every_kind_is_accounted_for_at_every_door() {
        for kind in [Kind::Page, Kind::Command, Kind::EventSource] {
            for (accepts_per_second_max, backlog, admissions_per_second) in [
                (0, 4_096, 10_000),
                (50, 4_096, 10_000),
                (0, 20, 100),
                (50, 20, 100),
            ] {
                let case = Case {
                    kind,
                    door: Door {
                        accepts_per_second_max,
                        backlog,
                        admissions_per_second,
                        ..CASE.door
                    },
                    ..CASE
                };
                let outcome = check(case);
                let has_limit = accepts_per_second_max > 0;
                let has_room = backlog == 4_096;
                assert_eq!(outcome.dropped == 0, has_room, "{case:?} {outcome:?}");
                assert!(has_limit || outcome.refused == 0, "{case:?}");
                if has_limit && has_room {
                    let is_final = kind == Kind::EventSource;
                    assert_eq!(outcome.stay_away > 0, is_final, "{case:?}");
                    assert!(outcome.refused > 0, "{case:?}");
                }
                assert_eq!(outcome.still_out, 0, "{case:?}");
            }
        }
    }

    #[test]
    fn a_drain_spreads_them() {
        let killed = check(CASE);
        let drained = check(Case {
            loss: Loss::Drained {
                period_us: 30 * SECOND_US,
            },
            ..CASE
        });
        assert!(drained.arrivals_peak * 5 < killed.arrivals_peak);
        assert!((25_000..36_000).contains(&drained.all_back_ms));
        // Each waits its own delay only.
        assert!(drained.away_ms.last() < Some(&5_000));
    }
}
