//! What stands at which position: told by the publishers' answers and by every client, and never told in two ways.
//!
//! A position names one message for ever. Whoever is the first to learn of it, a publisher or a client, writes its
//! number down; everybody after that is compared with it. So there is nothing to keep for each delivery.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use super::position::{Epoch, Position};

/// Marks a number whose publish was answered 2xx.
const ACKNOWLEDGED: u32 = 1 << 31;
/// Nobody has told yet.
const UNKNOWN: u32 = 0;
/// Further ahead than this is no position that the run could have reached.
const AHEAD_MAX: u64 = 1 << 20;
/// A history that keeps fewer messages than this forgets some of them while the run lasts.
const SHORT_HISTORY_MAX: u64 = 1_000;

pub(super) struct Ledger {
    pub(super) channels: Vec<Channel>,
    /// Server processes started so far. Each begins one epoch of each channel, if histories are not durable.
    pub(super) processes: AtomicU32,
    pub(super) histories_are_durable: bool,
    /// Where every client must come to in the end.
    pub(super) targets: OnceLock<Vec<Position>>,
}

pub(super) struct Channel {
    pub(super) name: String,
    /// Messages that its history keeps.
    kept: u64,
    /// Publishes that were sent and not answered.
    in_flight: AtomicU64,
    histories: Mutex<Vec<History>>,
}

struct History {
    epoch: Epoch,
    /// By offset, from 1.
    numbers: Vec<u32>,
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
    /// Positions below the newest that nobody told of.
    pub(super) unknown: u64,
    /// Numbers that stand at two positions of one epoch.
    pub(super) twice: Vec<u32>,
    /// Acknowledged numbers that stand behind a later one of the same publisher.
    pub(super) swapped: Vec<u32>,
}

impl Ledger {
    pub(super) fn new(channels: impl Iterator<Item = (String, u64)>, durable: bool) -> Self {
        let channels = channels.map(|(name, kept)| Channel {
            name,
            kept,
            in_flight: AtomicU64::new(0),
            histories: Mutex::default(),
        });
        Self {
            channels: channels.collect(),
            processes: AtomicU32::new(0),
            histories_are_durable: durable,
            targets: OnceLock::new(),
        }
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
        let length = history.numbers.len() as u64;
        if position.offset == 0 || position.offset > length + AHEAD_MAX {
            return Err(Disagreement::TooFarAhead);
        }
        if position.offset > length {
            history.numbers.resize(position.offset as usize, UNKNOWN);
        }
        let known = &mut history.numbers[position.offset as usize - 1];
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
                numbers: Vec::new(),
            });
            let epochs_max = match self.histories_are_durable {
                true => 1,
                false => self.processes.load(Ordering::Acquire) as usize,
            };
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
        self.newest(position.epoch) + in_flight >= position.offset + self.kept
    }

    /// Whether clients that stay away for long lose messages here.
    pub(super) fn is_short(&self) -> bool {
        self.kept < SHORT_HISTORY_MAX
    }

    /// The highest offset that anybody told of.
    pub(super) fn newest(&self, epoch: Epoch) -> u64 {
        let histories = self.lock();
        let history = histories.iter().find(|history| history.epoch == epoch);
        history.map_or(0, |history| history.numbers.len() as u64)
    }

    /// `publisher_of` says who sent a number.
    pub(super) fn audit(&self, publisher_of: impl Fn(u32) -> u32) -> Audit {
        let mut audit = Audit::default();
        for history in self.lock().iter() {
            let (mut seen, mut last) = (HashMap::new(), HashMap::new());
            for &entry in &history.numbers {
                let number = entry & !ACKNOWLEDGED;
                if number == UNKNOWN {
                    audit.unknown += 1;
                    continue;
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(processes: u32, durable: bool) -> Ledger {
        let ledger = Ledger::new([("c".to_owned(), 3)].into_iter(), durable);
        ledger.processes.store(processes, Ordering::Release);
        ledger
    }

    fn at(text: &str) -> Position {
        Position::parse(text).unwrap()
    }

    #[test]
    fn a_position_names_one_message() {
        let ledger = ledger(1, false);
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
    fn an_epoch_for_each_process_unless_histories_are_durable() {
        for (processes, durable, want) in [(1, false, false), (2, false, true), (2, true, false)] {
            let ledger = ledger(processes, durable);
            assert_eq!(ledger.on_epoch(0, at("aaaaaaaa-0").epoch), Ok(()));
            assert_eq!(
                ledger.on_epoch(0, at("bbbbbbbb-0").epoch).is_ok(),
                want,
                "{processes} {durable}"
            );
        }
    }

    #[test]
    fn a_history_lets_go_of_what_is_older_than_it_keeps() {
        let ledger = ledger(1, false);
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
        let ledger = ledger(1, false);
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
