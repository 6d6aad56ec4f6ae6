//! Which epoch a channel's history gets, so that a channel without messages needs no memory.
//!
//! A channel's *first epoch* follows from its name and a number that the home has drawn: whoever asks where a channel
//! stands that the home does not know is told "before its first message", and that stays true when the channel comes
//! into being, without a trace of the question. A name whose first epoch has had messages and is over is *spent*: its
//! next history has another epoch.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::hub::message::ChannelName;
use crate::hub::position::{Epoch, Position};

#[derive(Debug)]
pub struct Epochs {
    random: fastrand::Rng,
    /// All first epochs follow from it. Nobody outside can know it.
    first: u64,
    /// First epochs, as numbers, of the spent names. Two names with one cost the second an entry in the hub, and
    /// nothing else.
    spent: HashSet<u64>,
    spent_max: usize,
}

impl Epochs {
    /// `seed` must differ from start to start and from home to home. Over `spent_max` names all first epochs change,
    /// and whoever holds a cursor of one is told of a loss that may be none.
    pub fn new(seed: u64, spent_max: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            first: random.u64(..),
            random,
            spent: HashSet::new(),
            spent_max,
        }
    }

    fn first_of(&self, name: &ChannelName) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.first, name).hash(&mut hasher);
        hasher.finish()
    }

    /// Where a channel stands that the home does not know; `None` if its name is spent.
    pub fn before_first(&self, name: &ChannelName) -> Option<Position> {
        let first = self.first_of(name);
        (!self.spent.contains(&first)).then(|| Position {
            epoch: Epoch::from_random(first),
            offset: 0,
        })
    }

    /// The epoch of a channel that comes into being.
    pub fn begin(&mut self, name: &ChannelName) -> Epoch {
        match self.before_first(name) {
            Some(position) => position.epoch,
            None => self.draw(),
        }
    }

    /// An epoch that no history had before.
    pub fn draw(&mut self) -> Epoch {
        Epoch::from_random(self.random.u64(..))
    }

    /// `epoch` of this channel is over, after messages or by an operator's word.
    pub fn end(&mut self, name: &ChannelName, epoch: Epoch) {
        let first = self.first_of(name);
        if epoch != Epoch::from_random(first) {
            return;
        }
        if self.spent.len() >= self.spent_max {
            self.first = self.random.u64(..);
            self.spent = HashSet::new();
            return;
        }
        self.spent.insert(first);
    }

    /// Forgotten, the channel at `head` would be found at the same position again.
    pub fn is_blank(&self, name: &ChannelName, head: Position) -> bool {
        head.offset == 0 && head.epoch == Epoch::from_random(self.first_of(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ChannelName {
        ChannelName::parse(text).unwrap()
    }

    #[test]
    fn no_two_histories_of_a_channel_share_an_epoch() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut epochs = Epochs::new(seed, 5);
        let names = ["a", "b", "c", "d", "e", "f", "g"].map(name);
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let name = rng.choice(&names).unwrap();
            let promised = epochs.before_first(name);
            let epoch = epochs.begin(name);
            assert!(
                promised.is_none_or(|promised| promised == Position { epoch, offset: 0 }),
                "what was told holds, seed {seed}"
            );
            assert!(seen.insert((name.clone(), epoch)), "seed {seed}");
            epochs.end(name, epoch);
            assert!(epochs.spent.len() <= 5);
        }
    }

    #[test]
    fn a_history_without_messages_leaves_nothing_behind() {
        let mut epochs = Epochs::new(1, 5);
        let epoch = epochs.begin(&name("a"));
        assert!(epochs.is_blank(&name("a"), Position { epoch, offset: 0 }));
        assert!(!epochs.is_blank(&name("a"), Position { epoch, offset: 1 }));
        assert_eq!(epochs.begin(&name("a")), epoch);
        let other = epochs.begin(&name("b"));
        assert_ne!(other, epoch, "a cursor of one channel is none of another");
        epochs.end(&name("a"), epoch);
        let second = epochs.begin(&name("a"));
        assert_ne!(second, epoch);
        let head = Position {
            epoch: second,
            offset: 0,
        };
        assert!(
            !epochs.is_blank(&name("a"), head),
            "it would not be found again"
        );
        assert_eq!(epochs.begin(&name("b")), other);
    }
}
