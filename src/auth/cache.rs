//! What was found out already: which tokens are good, and what the backend has answered.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

/// SHA-256: whoever finds two texts of one digest could get in with what is known of the other's.
pub type CacheKey = [u8; 32];

pub fn digest(token: &str) -> CacheKey {
    Sha256::digest(token.as_bytes()).into()
}

/// Bounded; the oldest entries go first. Whether what it gives still holds is for the caller to see.
#[derive(Debug)]
pub struct Cache<V> {
    entries: HashMap<CacheKey, V>,
    /// In the order of their coming; what was removed is still in here until its turn comes.
    order: VecDeque<CacheKey>,
    entries_max: usize,
}

impl<V> Cache<V> {
    pub fn new(entries_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            entries_max,
        }
    }

    pub fn get(&self, key: &CacheKey) -> Option<&V> {
        self.entries.get(key)
    }

    /// Makes room at the end with the oldest entries, where those that are over go for nothing.
    pub fn insert(&mut self, key: CacheKey, value: V, is_over: impl Fn(&V) -> bool) {
        if self.entries_max == 0 {
            return;
        }
        while let Some(oldest) = self.order.front() {
            let is_over = self.entries.get(oldest).is_none_or(&is_over);
            if !is_over && self.order.len() < self.entries_max {
                break;
            }
            self.entries.remove(oldest);
            self.order.pop_front();
        }
        if self.entries.insert(key, value).is_none() {
            self.order.push_back(key);
        }
    }

    pub fn remove(&mut self, key: &CacheKey) {
        self.entries.remove(key);
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> (usize, usize) {
        (self.entries.len(), self.order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values are the times at which they are over.
    fn insert(cache: &mut Cache<u64>, key: CacheKey, end_ms: u64, now_ms: u64) {
        cache.insert(key, end_ms, |end_ms| *end_ms <= now_ms);
    }

    #[test]
    fn the_oldest_make_room_and_so_do_those_that_are_over() {
        let mut cache = Cache::new(3);
        let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(digest);
        for (key, end_ms) in [(a, 10), (b, 20), (c, 30)] {
            insert(&mut cache, key, end_ms, 5);
        }
        insert(&mut cache, d, 40, 6);
        assert_eq!(cache.get(&a), None, "the oldest makes room");
        assert_eq!(
            [b, c, d].map(|key| cache.get(&key).copied()),
            [Some(20), Some(30), Some(40)]
        );
        insert(&mut cache, e, 50, 30);
        assert_eq!(cache.len(), (2, 2), "what is over goes, too");
        cache.remove(&d);
        insert(&mut cache, d, 40, 32);
        assert!(cache.get(&d).is_some() && cache.get(&e).is_some());
        cache.clear();
        assert_eq!(cache.len(), (0, 0));
    }

    #[test]
    fn neither_list_outgrows_the_limit() {
        let mut cache = Cache::new(10);
        for n in 0..1000u64 {
            let key = digest(&(n % 37).to_string());
            insert(&mut cache, key, u64::MAX, n);
            if n % 3 == 0 {
                cache.remove(&key);
            }
            let (entries, order) = cache.len();
            assert!(entries <= 10 && order <= 10, "{entries} {order}");
        }
        let mut none = Cache::new(0);
        insert(&mut none, digest("a"), 1, 0);
        assert_eq!(none.len(), (0, 0));
    }
}
