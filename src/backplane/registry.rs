//! The channels that this node's homes want to hear of: which are listened to, and what is to be done about the rest.

use std::collections::{BTreeMap, HashMap};

use crate::backplane::broker::Reading;
use crate::backplane::order::Keep;
use crate::hub::ShardId;
use crate::hub::message::ChannelName;
use crate::hub::position::Position;

/// Channels of one round of which all that there is is to be read: their histories are in memory at once.
const WHOLE_HISTORIES_MAX: usize = 128;

/// Every channel is there once, waiting or not, so the registry is bounded by the channels that the homes have.
#[derive(Debug, Default)]
pub(super) struct Registry {
    channels: HashMap<ChannelName, Channel>,
    /// The channels that the next rounds are made of, in the order in which they came.
    due: BTreeMap<u64, ChannelName>,
    last_due: u64,
    n_listened: usize,
}

#[derive(Debug)]
struct Channel {
    home: ShardId,
    keep: Keep,
    /// What the newest `Open` asked for, until it is answered.
    open: Option<After>,
    /// The home wants to hear no more.
    is_closed: bool,
    is_listened: bool,
    stage: Stage,
}

/// `None` for all that there is.
type After = Option<Position>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is nothing to do.
    Rest,
    /// Its key in `due`.
    Due(u64),
    /// A round is about the newest that its home has said.
    UnderWay,
    /// A round is about something that no longer holds; there is more to do when it ends.
    Outdated,
}

/// What to ask the broker for.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) unlisten: Vec<ChannelName>,
    /// Part of what is in `read`, and to be listened to before.
    pub(super) listen: Vec<ChannelName>,
    pub(super) read: Vec<Reading>,
}

impl Registry {
    /// A newer order for the same channel replaces what is not answered yet: there is one answer, for the last of them.
    pub(super) fn open(&mut self, home: ShardId, channel: ChannelName, after: After, keep: Keep) {
        let entry = self
            .channels
            .entry(channel.clone())
            .or_insert_with(|| Channel {
                home,
                keep,
                open: None,
                is_closed: false,
                is_listened: false,
                stage: Stage::Rest,
            });
        entry.home = home;
        entry.keep = keep;
        entry.open = Some(after);
        entry.is_closed = false;
        self.make_due(&channel);
    }

    pub(super) fn close(&mut self, channel: &ChannelName) {
        let Some(entry) = self.channels.get_mut(channel) else {
            return;
        };
        entry.open = None;
        entry.is_closed = true;
        if entry.is_listened || matches!(entry.stage, Stage::UnderWay | Stage::Outdated) {
            self.make_due(channel);
        } else {
            if let Stage::Due(key) = entry.stage {
                self.due.remove(&key);
            }
            self.channels.remove(channel);
        }
    }

    fn make_due(&mut self, channel: &ChannelName) {
        let Some(entry) = self.channels.get_mut(channel) else {
            return;
        };
        match entry.stage {
            Stage::Rest => {
                self.last_due += 1;
                entry.stage = Stage::Due(self.last_due);
                self.due.insert(self.last_due, channel.clone());
            }
            Stage::Due(_) => {}
            // Two rounds about one channel might read it before it is listened to.
            Stage::UnderWay | Stage::Outdated => entry.stage = Stage::Outdated,
        }
    }

    /// Whom an event of the channel is for.
    pub(super) fn home(&self, channel: &ChannelName) -> Option<ShardId> {
        let entry = self.channels.get(channel)?;
        (!entry.is_closed).then_some(entry.home)
    }

    /// Takes up to `channels_max` of the channels that wait. Each that is listened to or read is under way until
    /// [`on_read`](Self::on_read).
    pub(super) fn next_round(&mut self, channels_max: usize) -> Round {
        let mut round = Round::default();
        let mut n_whole = 0;
        for _ in 0..channels_max {
            let Some((_, channel)) = self.due.pop_first() else {
                break;
            };
            let Some(entry) = self.channels.get_mut(&channel) else {
                debug_assert!(false, "{channel} is due and not there");
                continue;
            };
            if entry.is_closed {
                self.channels.remove(&channel);
                self.n_listened -= 1;
                round.unlisten.push(channel);
                continue;
            }
            entry.stage = Stage::UnderWay;
            if !entry.is_listened {
                round.listen.push(channel.clone());
            }
            let after = entry.open.flatten();
            n_whole += usize::from(after.is_none());
            round.read.push(Reading {
                channel,
                after,
                keep: entry.keep,
            });
            if n_whole == WHOLE_HISTORIES_MAX {
                break;
            }
        }
        round
    }

    /// The channel is listened to and was read. Says whose question that answers, if it is one still.
    pub(super) fn on_read(&mut self, channel: &ChannelName) -> Option<ShardId> {
        let entry = self.channels.get_mut(channel)?;
        if !entry.is_listened {
            entry.is_listened = true;
            self.n_listened += 1;
        }
        let is_current = entry.stage == Stage::UnderWay;
        entry.stage = Stage::Rest;
        if is_current {
            entry.open = None;
            return Some(entry.home);
        }
        self.make_due(channel);
        None
    }

    /// The broker is lost: nothing is listened to. Channels with an open question wait for the next broker; `lost`
    /// hears of the others, which are forgotten.
    pub(super) fn interrupt(&mut self, mut lost: impl FnMut(ShardId, ChannelName)) {
        self.due.clear();
        self.n_listened = 0;
        let (due, last_due) = (&mut self.due, &mut self.last_due);
        self.channels.retain(|channel, entry| {
            entry.is_listened = false;
            if entry.open.is_some() {
                *last_due += 1;
                entry.stage = Stage::Due(*last_due);
                due.insert(*last_due, channel.clone());
            } else if !entry.is_closed {
                lost(entry.home, channel.clone());
            }
            entry.open.is_some()
        });
    }

    pub(super) fn n_waiting(&self) -> usize {
        self.due.len()
    }

    pub(super) fn n_listened(&self) -> usize {
        self.n_listened
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::position::Epoch;

    const HOME: ShardId = ShardId(1);

    const KEEP: Keep = Keep {
        history_messages: 1,
        history_age_ms: 1,
        idle_timeout_ms: 1,
        idempotency_window_ms: 1,
    };

    fn name(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn after(offset: u64) -> After {
        Some(Position {
            epoch: Epoch::from_random(1),
            offset,
        })
    }

    /// Does the steps, one a word, on the channel `a`, and compares what they say. `o5` opens after 5, `c` closes, `b`
    /// takes a round, `r` ends it, `i` interrupts.
    fn check(steps: &str, want: &str) {
        let mut registry = Registry::default();
        let a = name("a");
        let mut said = Vec::new();
        for step in steps.split(' ') {
            match step.split_at(1) {
                ("o", n) => registry.open(HOME, a.clone(), after(n.parse().unwrap()), KEEP),
                ("c", _) => registry.close(&a),
                ("b", _) => {
                    let round = registry.next_round(9);
                    let mut text = format!("U{}", round.unlisten.len());
                    text += &format!("L{}R", round.listen.len());
                    for reading in round.read {
                        text += &reading
                            .after
                            .map_or_else(|| "all".into(), |after| after.offset.to_string());
                    }
                    said.push(text);
                }
                ("r", _) => said.push(match registry.on_read(&a) {
                    Some(_) => "told".into(),
                    None => "-".into(),
                }),
                ("i", _) => registry.interrupt(|_, _| said.push("lost".into())),
                _ => panic!("{step}"),
            }
        }
        assert_eq!(said.join(" "), want, "{steps}");
        assert_eq!(
            registry.n_listened(),
            registry.channels.values().filter(|c| c.is_listened).count(),
            "{steps}"
        );
        for (key, channel) in &registry.due {
            assert_eq!(registry.channels[channel].stage, Stage::Due(*key));
        }
    }

    #[test]
    fn a_channel_is_listened_to_once_and_read_when_asked() {
        check("o1 b r b", "U0L1R1 told U0L0R");
        check("o1 b r o2 b r", "U0L1R1 told U0L0R2 told");
        check("o1 o2 b r b", "U0L1R2 told U0L0R");
    }

    #[test]
    fn the_last_order_alone_is_answered() {
        check("o1 b o2 b r b r", "U0L1R1 U0L0R - U0L0R2 told");
        check("o1 b c o2 b r b r", "U0L1R1 U0L0R - U0L0R2 told");
    }

    #[test]
    fn a_closed_channel_is_listened_to_no_more() {
        check("o1 c b", "U0L0R");
        check("o1 b r c b b", "U0L1R1 told U1L0R U0L0R");
        check("o1 b c r b b", "U0L1R1 - U1L0R U0L0R");
        check("o1 b r c o2 b r", "U0L1R1 told U0L0R2 told");
        check("o1 b r c b o2 b r", "U0L1R1 told U1L0R U0L1R2 told");
        check("c b", "U0L0R");
    }

    #[test]
    fn an_interruption_keeps_what_is_not_answered() {
        check("o1 b r i b", "U0L1R1 told lost U0L0R");
        check("o1 i b r", "U0L1R1 told");
        check("o1 b i b r", "U0L1R1 U0L1R1 told");
        check("o1 b r o2 i b r", "U0L1R1 told U0L1R2 told");
        check("o1 b c i b", "U0L1R1 U0L0R");
        check("o1 b r c i b", "U0L1R1 told U0L0R");
    }

    #[test]
    fn a_round_reads_few_whole_histories() {
        let mut registry = Registry::default();
        let known = Position {
            epoch: Epoch::from_random(1),
            offset: 1,
        };
        for n in 0..3 * WHOLE_HISTORIES_MAX {
            let after = (n % 3 > 0).then_some(known);
            registry.open(HOME, name(&format!("c{n}")), after, KEEP);
        }
        registry.open(HOME, name("one-more"), None, KEEP);
        let round = registry.next_round(usize::MAX);
        assert_eq!(round.read.len(), 3 * WHOLE_HISTORIES_MAX - 2);
        assert_eq!(registry.next_round(usize::MAX).read.len(), 3);
    }

    #[test]
    fn rounds_take_the_channels_in_the_order_in_which_they_came() {
        let mut registry = Registry::default();
        for n in 0..5 {
            registry.open(HOME, name(&format!("c{n}")), None, KEEP);
        }
        registry.close(&name("c1"));
        let names = |round: Round| -> Vec<String> {
            round.listen.iter().map(ToString::to_string).collect()
        };
        assert_eq!(registry.n_waiting(), 4);
        assert_eq!(names(registry.next_round(3)), ["c0", "c2", "c3"]);
        assert_eq!(names(registry.next_round(3)), ["c4"]);
        assert_eq!(registry.home(&name("c4")), Some(HOME));
        assert_eq!(registry.home(&name("c1")), None);
    }
}
