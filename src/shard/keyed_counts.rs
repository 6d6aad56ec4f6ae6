//! How many there are of each key, over all shards: connections of an address, of a user.
//!
//! Touched when something begins and when it ends, never on the path of a message. A key exists only while its count
//! is above 0, so there are no more of them than of what is counted.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth::users::UserCounts;

/// Maps that the keys are spread over, so that shards seldom wait for each other.
const STRIPES: usize = 64;
/// A map with room for more entries than this gives it back when it is mostly empty.
const CAPACITY_KEPT_MAX: usize = 64;

#[derive(Debug)]
pub struct KeyedCounts<K> {
    stripes: [Mutex<HashMap<K, u32>>; STRIPES],
    /// Unpredictable: a peer that may choose its key must not choose its stripe.
    hasher: RandomState,
}

impl<K> Default for KeyedCounts<K> {
    fn default() -> Self {
        Self {
            stripes: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }
}

impl<K: Hash + Eq> KeyedCounts<K> {
    /// One more of `key`, and how many that makes; `None`, and no change, if there are `count_max` already.
    pub fn add(&self, key: K, count_max: usize) -> Option<usize> {
        let mut stripe = self.stripe(&key);
        let count = stripe.get(&key).copied().unwrap_or(0) as usize;
        if count >= count_max.min(u32::MAX as usize) {
            return None;
        }
        stripe.insert(key, count as u32 + 1);
        Some(count + 1)
    }

    /// One less. To be called once for each [`add`](Self::add) that gave a number.
    pub fn remove(&self, key: &K) {
        let mut stripe = self.stripe(key);
        match stripe.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                let was_there = stripe.remove(key).is_some();
                debug_assert!(was_there, "what is removed was added");
                if stripe.capacity() > CAPACITY_KEPT_MAX && stripe.len() < stripe.capacity() / 8 {
                    let room = stripe.len() * 2;
                    stripe.shrink_to(room);
                }
            }
        }
    }

    fn stripe(&self, key: &K) -> MutexGuard<'_, HashMap<K, u32>> {
        let stripe = self.hasher.hash_one(key) as usize % STRIPES;
        // A shard that panics aborts the process, so nobody meets a half-changed map.
        self.stripes[stripe]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl UserCounts for KeyedCounts<Arc<str>> {
    fn add(&self, user: &Arc<str>, count_max: usize) -> bool {
        Self::add(self, user.clone(), count_max).is_some()
    }

    fn remove(&self, user: &Arc<str>) {
        Self::remove(self, user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries, and room for them.
    fn size(counts: &KeyedCounts<u32>) -> (usize, usize) {
        let sizes = counts.stripes.iter().map(|stripe| {
            let stripe = stripe.lock().unwrap();
            (stripe.len(), stripe.capacity())
        });
        sizes.fold((0, 0), |(len, room), (l, r)| (len + l, room + r))
    }

    #[test]
    fn each_key_is_counted_alone_and_bounded() {
        let counts = KeyedCounts::default();
        assert_eq!(
            [2, 2, 2].map(|max| counts.add("a", max)),
            [Some(1), Some(2), None]
        );
        assert_eq!(counts.add("b", 1), Some(1));
        counts.remove(&"a");
        assert_eq!(counts.add("a", 2), Some(2), "a refused one took no place");
        assert_eq!(counts.add("a", 0), None);
        for key in ["a", "a", "b"] {
            counts.remove(&key);
        }
        assert_eq!(counts.add("a", 1), Some(1));
    }

    #[test]
    fn a_key_without_a_count_takes_no_memory() {
        let counts = KeyedCounts::default();
        for key in 0..100_000 {
            assert_eq!(counts.add(key, 1), Some(1));
        }
        assert_eq!(size(&counts).0, 100_000);
        for key in 0..100_000 {
            counts.remove(&key);
        }
        let (entries, room) = size(&counts);
        assert_eq!(entries, 0);
        assert!(room <= STRIPES * 2 * CAPACITY_KEPT_MAX, "room for {room}");
    }

    #[test]
    fn threads_agree_on_the_count() {
        let counts = KeyedCounts::default();
        let added = std::thread::scope(|scope| {
            let add = || (0..500).filter(|_| counts.add("a", 1000).is_some()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
            threads
                .into_iter()
                .map(|it| it.join().unwrap())
                .sum::<usize>()
        });
        assert_eq!(added, 1000);
    }
}
