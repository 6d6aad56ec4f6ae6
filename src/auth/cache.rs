//! Tokens that were verified already.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::auth::grant::Grant;

/// SHA-256: whoever finds two texts of one digest could get in with the other's token.
pub type TokenDigest = [u8; 32];

pub fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token.as_bytes()).into()
}

/// Bounded; the oldest entries go first. What it gives has a good signature and the right audience; whether it is still
/// valid is for the caller to see.
#[derive(Debug)]
pub struct TokenCache {
    grants: HashMap<TokenDigest, Rc<Grant>>,
    /// In the order of their coming; what was removed is still in here until its turn comes.
    order: VecDeque<TokenDigest>,
    entries_max: usize,
}

impl TokenCache {
    pub fn new(entries_max: usize) -> Self {
        Self {
            grants: HashMap::new(),
            order: VecDeque::new(),
            entries_max,
        }
    }

    pub fn get(&self, digest: &TokenDigest) -> Option<Rc<Grant>> {
        self.grants.get(digest).cloned()
    }

    /// Makes room at the end with the oldest entries, where those that have expired go for nothing.
    pub fn insert(&mut self, digest: TokenDigest, grant: Rc<Grant>, unix_ms: u64) {
        if self.entries_max == 0 {
            return;
        }
        while let Some(oldest) = self.order.front() {
            let is_over = self.grants.get(oldest).is_none_or(|grant| {
                grant
                    .expires_unix_ms
                    .is_some_and(|expires_ms| expires_ms < unix_ms)
            });
            if !is_over && self.order.len() < self.entries_max {
                break;
            }
            self.grants.remove(oldest);
            self.order.pop_front();
        }
        if self.grants.insert(digest, grant).is_none() {
            self.order.push_back(digest);
        }
    }

    pub fn remove(&mut self, digest: &TokenDigest) {
        self.grants.remove(digest);
    }

    pub fn clear(&mut self) {
        self.grants.clear();
        self.order.clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> (usize, usize) {
        (self.grants.len(), self.order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiring(unix_ms: u64) -> Rc<Grant> {
        Rc::new(Grant {
            expires_unix_ms: Some(unix_ms),
            ..Grant::default()
        })
    }

    #[test]
    fn the_oldest_make_room_and_so_do_those_that_are_over() {
        let mut cache = TokenCache::new(3);
        let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(digest);
        for (digest, expires_ms) in [(a, 10), (b, 20), (c, 30)] {
            cache.insert(digest, expiring(expires_ms), 5);
        }
        cache.insert(d, expiring(40), 6);
        assert!(cache.get(&a).is_none(), "the oldest makes room");
        assert!([b, c, d].iter().all(|digest| cache.get(digest).is_some()));
        cache.insert(e, expiring(50), 31);
        assert_eq!(cache.len(), (2, 2), "what has expired goes, too");
        cache.remove(&d);
        cache.insert(d, expiring(40), 32);
        assert!(cache.get(&d).is_some() && cache.get(&e).is_some());
        cache.clear();
        assert_eq!(cache.len(), (0, 0));
    }

    #[test]
    fn neither_list_outgrows_the_limit() {
        let mut cache = TokenCache::new(10);
        for n in 0..1000u64 {
            let digest = digest(&(n % 37).to_string());
            cache.insert(digest, expiring(u64::MAX), n);
            if n % 3 == 0 {
                cache.remove(&digest);
            }
            let (grants, order) = cache.len();
            assert!(grants <= 10 && order <= 10, "{grants} {order}");
        }
        let mut none = TokenCache::new(0);
        none.insert(digest("a"), expiring(1), 0);
        assert_eq!(none.len(), (0, 0));
    }
}
