//! What stands at which position: told by the publishers' answers and by every client, and never told in two ways.
//!
//! A position names one message for ever. Whoever is the first to learn of it, a publisher or a client, writes its
//! number down; everybody after that is compared with it. So there is nothing to keep for each delivery.
//!
//! A broker's numbers may have holes, and no client can tell a hole from a loss. So every leap over one is written
//! down, too, and in the end, when all is told, nothing may stand there.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use super::position::{Epoch, Position};

/// Marks a number whose publish was answered 2xx.
const ACKNOWLEDGED: u32 = 1 << 31;
/// Nobody has told yet.
const UNKNOWN: u32 = 0;
/// Further ahead than this is no position that the run could have reached, where each has a message.
const AHEAD_MAX: u64 = 1 << 20;
/// A history that keeps fewer messages than this forgets some of them while the run lasts.
const SHORT_HISTORY_MAX: u64 = 1_000;

pub(super) struct Ledger {
    pub(super) channels: Vec<Channel>,
    /// Epochs that a channel can have had so far. Whatever may begin one is counted before it happens.
    epochs_max: AtomicU32,
    /// How often the memory of keys may have begun anew so far, counted in the same way.
    memories: AtomicU32,
    numbers: Numbers,
    leaps: Mutex<HashMap<Leap, String>>,
    /// Where every client must come to in the end.
    pub(super) targets: OnceLock<Vec<Position>>,
}

pub(super) struct Channel {
    pub(super) name: String,
    /// Messages that its history keeps.
    kept: u64,
    numbers: Numbers,
    /// Publishes that were sent and not answered.
    in_flight: AtomicU64,
    histories: Mutex<Vec<History>>,
}

struct History {
    epoch: Epoch,
    /// By offset.
    numbers: BTreeMap<u64, u32>,
}

/// What offsets count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// The messages, from 1.
    Messages,
    /// They ascend, and some of them name nothing.
    WithHoles,
}

/// Nothing stands in a channel from one offset to another: somebody was led over them without a notice.
#[derive(PartialEq, Eq, Hash)]
struct Leap {
    channel: u16,
    epoch: Epoch,
    from: u64,
    to: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Disagreement {
    /// Another message stands there.
    OtherNumber(u32),
    /// No history of this run can be that long.
    TooFarAhead,
    /// The channel has more epochs than there were processes.
    EpochTooMany,
}

/// What the publishers' side of a channel comes to in the end.
#[derive(Debug, Default)]
pub(super) struct Audit {
    pub(super) acknowledged: u64,
    /// Messages that clients got and whose publish was never answered.
    pub(super) unacknowledged: u64,
    /// Offsets below the newest that nobody told of.
    pub(super) unknown: u64,
    /// Numbers that stand at two positions of one epoch.
    pub(super) twice: Vec<u32>,
    /// Acknowledged numbers that stand behind a later one of the same publisher.
    pub(super) swapped: Vec<u32>,
}

impl Ledger {
    pub(super) fn new(channels: impl Iterator<Item = (String, u64)>, numbers: Numbers) -> Self {
        let channels = channels.map(|(name, kept)| Channel {
            name,
            kept,
            numbers,
            in_flight: AtomicU64::new(0),
            histories: Mutex::default(),
        });
        Self {
            channels: channels.collect(),
            epochs_max: AtomicU32::new(0),
            memories: AtomicU32::new(0),
            numbers,
            leaps: Mutex::default(),
            targets: OnceLock::new(),
        }
    }

    /// Every channel may have one epoch more from now on.
    pub(super) fn expect_epoch(&self) {
        self.epochs_max.fetch_add(1, Ordering::AcqRel);
    }

    /// A publish under way may find that its key is forgotten.
    pub(super) fn expect_new_memory(&self) {
        self.memories.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn memories(&self) -> u32 {
        self.memories.load(Ordering::Acquire)
    }

    pub(super) fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Somebody was led over these offsets without a word. `false`: each of them has a message, so that is a loss.
    pub(super) fn leap(
        &self,
        channel: u16,
        epoch: Epoch,
        (from, to): (u64, u64),
        who: impl FnOnce() -> String,
    ) -> bool {
        if self.numbers == Numbers::Messages {
            return false;
        }
        let leap = Leap {
            channel,
            epoch,
            from,
            to,
        };
        let mut leaps = self.leaps.lock().expect("no thread panicked");
        leaps.entry(leap).or_insert_with(who);
        true
    }

    /// The leaps that led over messages: how many, and who says so. For the end of the run.
    pub(super) fn leaps_over_messages(&self) -> Vec<(u64, String)> {
        let leaps = self.leaps.lock().expect("no thread panicked");
        let over = leaps.iter().map(|(leap, who)| {
            let channel = self.channel(leap.channel);
            let messages = channel.told(leap.epoch, leap.from, leap.to);
            (messages, format!("{who}, from {}", channel.name))
        });
        over.filter(|(messages, _)| *messages > 0).collect()
    }

    /// A client stands at `position`: its epoch has to be one that may be there.
    pub(super) fn on_epoch(&self, channel: u16, epoch: Epoch) -> Result<(), Disagreement> {
        let mut histories = self.channel(channel).lock();
        self.history(&mut histories, epoch).map(drop)
    }

    /// Somebody says that `number` stands at `position`.
    pub(super) fn tell(
        &self,
        channel: u16,
        position: Position,
        number: u32,
        is_acknowledged: bool,
    ) -> Result<(), Disagreement> {
        let mut histories = self.channel(channel).lock();
        let history = self.history(&mut histories, position.epoch)?;
        let newest = history.newest();
        let is_possible = match self.numbers {
            Numbers::Messages => position.offset <= newest + AHEAD_MAX,
            Numbers::WithHoles => true,
        };
        if position.offset == 0 || !is_possible {
            return Err(Disagreement::TooFarAhead);
        }
        let known = history.numbers.entry(position.offset).or_insert(UNKNOWN);
        let (was, mark) = (*known & !ACKNOWLEDGED, *known & ACKNOWLEDGED);
        if was != UNKNOWN && was != number {
            return Err(Disagreement::OtherNumber(was));
        }
        *known = number | mark | if is_acknowledged { ACKNOWLEDGED } else { 0 };
        Ok(())
    }

    fn channel(&self, channel: u16) -> &Channel {
        &self.channels[usize::from(channel)]
    }

    fn history<'a>(
        &self,
        histories: &'a mut Vec<History>,
        epoch: Epoch,
    ) -> Result<&'a mut History, Disagreement> {
        let known = histories.iter().rposition(|history| history.epoch == epoch);
        let index = known.unwrap_or(histories.len());
        if known.is_none() {
            histories.push(History {
                epoch,
                numbers: BTreeMap::new(),
            });
            let epochs_max = self.epochs_max.load(Ordering::Acquire) as usize;
            if histories.len() > epochs_max {
                return Err(Disagreement::EpochTooMany);
            }
        }
        Ok(&mut histories[index])
    }
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, Vec<History>> {
        self.histories.lock().expect("no thread panicked")
    }

    pub(super) fn begin_publish(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn end_publish(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether the history may have let go of the message at `position` by now.
    pub(super) fn may_be_lost(&self, position: Position) -> bool {
        // In this order: a publish that is answered in between counts twice, which only makes more possible.
        let in_flight = self.in_flight.load(Ordering::Acquire);
        self.behind(position) + in_flight >= self.kept
    }

    /// Messages behind `position`, as far as it matters for what is kept. Where each offset has a message, those that
    /// nobody has told of yet count, too.
    fn behind(&self, position: Position) -> u64 {
        let histories = self.lock();
        let history = histories
            .iter()
            .find(|history| history.epoch == position.epoch);
        history.map_or(0, |history| match self.numbers {
            Numbers::Messages => history.newest().saturating_sub(position.offset),
            Numbers::WithHoles => {
                let behind = history.numbers.range(position.offset + 1..);
                behind.take(self.kept as usize).count() as u64
            }
        })
    }

    /// Whether clients that stay away for long lose messages here.
    pub(super) fn is_short(&self) -> bool {
        self.kept < SHORT_HISTORY_MAX
    }

    /// Offsets from `from` to `to` that anybody told of.
    pub(super) fn told(&self, epoch: Epoch, from: u64, to: u64) -> u64 {
        let histories = self.lock();
        let history = histories.iter().find(|history| history.epoch == epoch);
        history.map_or(0, |history| match from <= to {
            true => history.numbers.range(from..=to).count() as u64,
            false => 0,
        })
    }

    /// `publisher_of` says who sent a number.
    pub(super) fn audit(&self, publisher_of: impl Fn(u32) -> u32) -> Audit {
        let mut audit = Audit::default();
        for history in self.lock().iter() {
            let (mut seen, mut last) = (HashMap::new(), HashMap::new());
            audit.unknown += history.newest() - history.numbers.len() as u64;
            for &entry in history.numbers.values() {
                let number = entry & !ACKNOWLEDGED;
                if seen.insert(number, ()).is_some() {
                    audit.twice.push(number);
                }
                if entry & ACKNOWLEDGED == 0 {
                    audit.unacknowledged += 1;
                    continue;
                }
                audit.acknowledged += 1;
                if last
                    .insert(publisher_of(number), number)
                    .is_some_and(|last| last > number)
                {
                    audit.swapped.push(number);
                }
            }
        }
        audit
    }
}

impl History {
    /// The highest offset that anybody told of.
    fn newest(&self) -> u64 {
        self.numbers
            .last_key_value()
            .map_or(0, |(&offset, _)| offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(epochs: u32, numbers: Numbers) -> Ledger {
        let ledger = Ledger::new([("c".to_owned(), 3)].into_iter(), numbers);
        (0..epochs).for_each(|_| ledger.expect_epoch());
        ledger
    }

    fn at(text: &str) -> Position {
        Position::parse(text).unwrap()
    }

    #[test]
    fn a_position_names_one_message() {
        let ledger = ledger(1, Numbers::Messages);
        for (position, number, is_acknowledged, want) in [
            ("aaaaaaaa-2", 5, false, Ok(())),
            ("aaaaaaaa-2", 5, true, Ok(())),
            ("aaaaaaaa-2", 6, true, Err(Disagreement::OtherNumber(5))),
            ("aaaaaaaa-1", 4, true, Ok(())),
            ("aaaaaaaa-0", 4, true, Err(Disagreement::TooFarAhead)),
            ("aaaaaaaa-9999999", 4, true, Err(Disagreement::TooFarAhead)),
            ("bbbbbbbb-1", 7, true, Err(Disagreement::EpochTooMany)),
        ] {
            let got = ledger.tell(0, at(position), number, is_acknowledged);
            assert_eq!(got, want, "{position} {number}");
        }
    }

    #[test]
    fn no_epoch_that_nothing_explains() {
        for (epochs, want) in [(1, false), (2, true)] {
            let ledger = ledger(epochs, Numbers::Messages);
            assert_eq!(ledger.on_epoch(0, at("aaaaaaaa-0").epoch), Ok(()));
            assert_eq!(ledger.on_epoch(0, at("aaaaaaaa-9").epoch), Ok(()));
            let second = ledger.on_epoch(0, at("bbbbbbbb-0").epoch);
            assert_eq!(second.is_ok(), want, "{epochs}");
        }
    }

    #[test]
    fn a_leap_over_a_message_is_a_loss_whenever_that_is_told() {
        let epoch = at("aaaaaaaa-0").epoch;
        let counting = ledger(1, Numbers::Messages);
        assert!(!counting.leap(0, epoch, (2, 9), String::new));
        let ledger = ledger(1, Numbers::WithHoles);
        for position in ["aaaaaaaa-1", "aaaaaaaa-9000000000"] {
            ledger.tell(0, at(position), 1, true).unwrap();
        }
        assert!(ledger.leap(0, epoch, (2, 8_999_999_999), || "first".into()));
        assert!(ledger.leap(0, epoch, (2, 8_999_999_999), || "second".into()));
        assert_eq!(ledger.leaps_over_messages(), []);
        ledger.tell(0, at("aaaaaaaa-7"), 2, true).unwrap();
        assert_eq!(
            ledger.leaps_over_messages(),
            [(1, "first, from c".to_owned())]
        );
    }

    #[test]
    fn holes_do_not_count_as_messages_that_a_history_keeps() {
        let ledger = ledger(1, Numbers::WithHoles);
        for position in ["aaaaaaaa-5", "aaaaaaaa-100", "aaaaaaaa-200"] {
            ledger.tell(0, at(position), 1, true).unwrap();
        }
        let channel = &ledger.channels[0];
        assert!(channel.may_be_lost(at("aaaaaaaa-4")));
        assert!(!channel.may_be_lost(at("aaaaaaaa-5")));
    }

    #[test]
    fn a_history_lets_go_of_what_is_older_than_it_keeps() {
        let ledger = ledger(1, Numbers::Messages);
        ledger.tell(0, at("aaaaaaaa-5"), 1, true).unwrap();
        let channel = &ledger.channels[0];
        assert!(channel.may_be_lost(at("aaaaaaaa-2")));
        assert!(!channel.may_be_lost(at("aaaaaaaa-3")));
        channel.begin_publish();
        assert!(channel.may_be_lost(at("aaaaaaaa-3")));
        channel.end_publish();
        assert!(!channel.may_be_lost(at("aaaaaaaa-3")));
    }

    #[test]
    fn the_audit_finds_what_publishers_must_not_see() {
        let ledger = ledger(1, Numbers::Messages);
        for (position, number, is_acknowledged) in [
            ("aaaaaaaa-1", 2, true),
            ("aaaaaaaa-2", 1, true),
            ("aaaaaaaa-4", 3, false),
            ("aaaaaaaa-5", 3, true),
        ] {
            ledger
                .tell(0, at(position), number, is_acknowledged)
                .unwrap();
        }
        let audit = ledger.channels[0].audit(|_| 0);
        assert_eq!((audit.acknowledged, audit.unacknowledged), (3, 1));
        assert_eq!(audit.unknown, 1);
        assert_eq!((audit.twice, audit.swapped), (vec![3], vec![1]));
    }
}
