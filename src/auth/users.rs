//! Whose the connections of a shard are: those that listen with a token which names a user (`sub`).
//!
//! A connection without a user has no entry anywhere, and costs nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// Counts the connections of each user over all shards.
pub trait UserCounts: fmt::Debug + Send + Sync {
    /// One more; `false`, and no change, if there are `count_max` already.
    fn add(&self, user: &Arc<str>, count_max: usize) -> bool;
    /// One less of those that were added.
    fn remove(&self, user: &Arc<str>);
}

/// The connections of one shard that have a user.
#[derive(Debug, Default)]
pub struct Users(Rc<RefCell<Register>>);

#[derive(Debug, Default)]
struct Register {
    /// Users with the indices of their connections, in this order: a user's are found together, and one after another.
    connections: BTreeSet<(Arc<str>, u32)>,
    /// `None` where nobody counts.
    counts: Option<Arc<dyn UserCounts>>,
}

/// One connection's seat among those of its user. It is given back when it is dropped, whichever way that comes.
#[derive(Debug)]
pub struct Seat {
    user: Arc<str>,
    connection: u32,
    is_counted: bool,
    register: Rc<RefCell<Register>>,
}

impl Users {
    /// Counts with `counts` from now on, where a number is limited.
    pub fn count_with(&mut self, counts: Arc<dyn UserCounts>) {
        self.0.borrow_mut().counts = Some(counts);
    }

    /// A seat for `connection`; `None` if the user has `count_max` already. 0 is any number.
    pub fn claim(&self, user: &Arc<str>, connection: u32, count_max: usize) -> Option<Seat> {
        let mut register = self.0.borrow_mut();
        let counts = register.counts.as_ref().filter(|_| count_max > 0);
        if counts.is_some_and(|counts| !counts.add(user, count_max)) {
            return None;
        }
        let is_counted = counts.is_some();
        register.connections.insert((user.clone(), connection));
        Some(Seat {
            user: user.clone(),
            connection,
            is_counted,
            register: self.0.clone(),
        })
    }

    /// At most `limit` connections of `user`, by their indices, from `begin` on.
    pub fn connections(&self, user: &str, begin: u32, limit: usize) -> Vec<u32> {
        let user: Arc<str> = user.into();
        let register = self.0.borrow();
        let own = register
            .connections
            .range((user.clone(), begin)..=(user, u32::MAX));
        own.map(|&(_, connection)| connection).take(limit).collect()
    }

    /// At most `limit` connections of `user`, which are the user's no more: they are about to end, and are found once.
    pub fn take(&mut self, user: &str, limit: usize) -> Vec<u32> {
        let connections = self.connections(user, 0, limit);
        let user: Arc<str> = user.into();
        let mut register = self.0.borrow_mut();
        for &connection in &connections {
            register.connections.remove(&(user.clone(), connection));
        }
        connections
    }
}

impl Seat {
    pub fn user(&self) -> &Arc<str> {
        &self.user
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut register = self.register.borrow_mut();
        let entry = (self.user.clone(), self.connection);
        register.connections.remove(&entry);
        if self.is_counted
            && let Some(counts) = &register.counts
        {
            counts.remove(&self.user);
        }
    }
}

/// Two of one connection are one and the same.
impl PartialEq for Seat {
    fn eq(&self, other: &Self) -> bool {
        (&self.user, self.connection) == (&other.user, other.connection)
    }
}

impl Eq for Seat {}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn a_user_s_connections_are_found_until_their_seats_are_given_back() {
        let mut users = Users::default();
        let seats: Vec<_> = [("b", 3), ("a", 7), ("b", 1), ("b", 2), ("", 9)]
            .map(|(name, connection)| users.claim(&user(name), connection, 1).unwrap())
            .into();
        assert_eq!(seats[0].user(), &user("b"));
        for (name, begin, limit, want) in [
            ("b", 0, 9, &[1, 2, 3][..]),
            ("b", 2, 9, &[2, 3]),
            ("b", 0, 2, &[1, 2]),
            ("b", 4, 9, &[]),
            ("a", 0, 9, &[7]),
            ("", 0, 9, &[9]),
            ("c", 0, 9, &[]),
        ] {
            assert_eq!(users.connections(name, begin, limit), want, "{name:?}");
        }
        for want in [&[1, 2][..], &[3], &[]] {
            assert_eq!(users.take("b", 2), want, "found once");
        }
        let again = users.claim(&user("a"), 3, 0).unwrap();
        drop(seats);
        assert_eq!(users.connections("a", 0, 9), [3]);
        drop(again);
        assert!(users.0.borrow().connections.is_empty());
    }
}
