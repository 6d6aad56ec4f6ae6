//! Which nodes there are, and what they have counted together.

use std::collections::{BTreeMap, BTreeSet};

use crate::backplane::order::{ClusterCount, CountQuestion, NodeId, Ticket};
use crate::hub::ShardId;

/// Nodes that are known; another one is not taken up. Each answer of a count is read by all of them, so that counting
/// ends to make sense long before.
const NODES_MAX: usize = 1024;

/// The other nodes, as long as they are heard, and the questions of this one.
#[derive(Debug)]
pub(super) struct Roster {
    me: NodeId,
    /// A node that was not heard for this long is gone.
    silence_ms_max: u64,
    /// How long a question waits for answers.
    answers_ms_max: u64,
    /// Since when others can be heard, if they can.
    hearing_since_ms: Option<u64>,
    /// When each was heard last. Never this node itself.
    heard_ms: BTreeMap<NodeId, u64>,
    /// By number, which is the order of their ends. Bounded by what the shards have outstanding.
    questions: BTreeMap<u64, Question>,
    last_number: u64,
}

#[derive(Debug)]
struct Question {
    asker: Asker,
    end_ms: u64,
    /// Everybody was known when it was asked, and could hear it.
    is_complete: bool,
    awaited: BTreeSet<NodeId>,
    answered: BTreeSet<NodeId>,
    listeners: u32,
}

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) shard: ShardId,
    pub(super) ticket: Ticket,
}

/// A question that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) asker: Asker,
    pub(super) count: ClusterCount,
}

impl Roster {
    pub(super) fn new(me: NodeId, silence_ms_max: u64, answers_ms_max: u64) -> Self {
        Self {
            me,
            silence_ms_max,
            answers_ms_max,
            hearing_since_ms: None,
            heard_ms: BTreeMap::new(),
            questions: BTreeMap::new(),
            last_number: 0,
        }
    }

    /// From now on others are heard, and hear this node.
    pub(super) fn on_connected(&mut self, now_ms: u64) {
        self.hearing_since_ms = Some(now_ms);
    }

    /// Nobody is heard any more. Open questions end with what is there, once this node itself has answered.
    pub(super) fn on_broken(&mut self, out: &mut Vec<Counted>) {
        self.hearing_since_ms = None;
        self.heard_ms.clear();
        for question in self.questions.values_mut() {
            question.is_complete = false;
            question.awaited.retain(|node| *node == self.me);
        }
        self.take_answered(out);
    }

    /// `node` said something.
    pub(super) fn hear(&mut self, node: NodeId, now_ms: u64) {
        let has_room = self.heard_ms.len() < NODES_MAX || self.heard_ms.contains_key(&node);
        if node != self.me && has_room {
            self.heard_ms.insert(node, now_ms);
        }
    }

    /// `node` ends, and answers nothing any more.
    pub(super) fn forget(&mut self, node: NodeId, out: &mut Vec<Counted>) {
        self.heard_ms.remove(&node);
        for question in self.questions.values_mut() {
            question.awaited.remove(&node);
        }
        self.take_answered(out);
    }

    /// A new question, for all nodes that are known, this one among them.
    pub(super) fn ask(&mut self, asker: Asker, now_ms: u64) -> CountQuestion {
        self.forget_silent(now_ms);
        // Whoever is there has been heard once within that time.
        let is_complete = self
            .hearing_since_ms
            .is_some_and(|since_ms| now_ms >= since_ms + self.silence_ms_max);
        self.last_number += 1;
        let question = Question {
            asker,
            end_ms: now_ms + self.answers_ms_max,
            is_complete,
            awaited: self.heard_ms.keys().copied().chain([self.me]).collect(),
            answered: BTreeSet::new(),
            listeners: 0,
        };
        self.questions.insert(self.last_number, question);
        CountQuestion {
            node: self.me,
            number: self.last_number,
        }
    }

    /// The answer of `node`. A second one, or one that comes too late, is of no consequence.
    pub(super) fn answer(&mut self, number: u64, node: NodeId, listeners: u32) -> Option<Counted> {
        let question = self.questions.get_mut(&number)?;
        if question.answered.insert(node) {
            question.awaited.remove(&node);
            question.listeners = question.listeners.saturating_add(listeners);
        }
        if !question.awaited.is_empty() {
            return None;
        }
        self.questions
            .remove(&number)
            .map(|question| question.counted())
    }

    /// When the next question ends without all answers.
    pub(super) fn next_end_ms(&self) -> Option<u64> {
        self.questions
            .values()
            .next()
            .map(|question| question.end_ms)
    }

    /// Ends the questions that waited long enough.
    pub(super) fn expire(&mut self, now_ms: u64, out: &mut Vec<Counted>) {
        while let Some(first) = self.questions.first_entry()
            && first.get().end_ms <= now_ms
        {
            out.push(first.remove().counted());
        }
    }

    /// Nodes that are there, this one among them.
    pub(super) fn n_nodes(&mut self, now_ms: u64) -> usize {
        self.forget_silent(now_ms);
        self.heard_ms.len() + 1
    }

    fn forget_silent(&mut self, now_ms: u64) {
        let silence_ms_max = self.silence_ms_max;
        self.heard_ms
            .retain(|_, heard_ms| now_ms < *heard_ms + silence_ms_max);
    }

    fn take_answered(&mut self, out: &mut Vec<Counted>) {
        self.questions.retain(|_, question| {
            let is_over = question.awaited.is_empty();
            if is_over {
                out.push(question.counted());
            }
            !is_over
        });
    }
}

impl Question {
    fn counted(&self) -> Counted {
        Counted {
            asker: self.asker,
            count: ClusterCount {
                listeners: self.listeners,
                nodes: self.answered.len() as u32,
                is_complete: self.is_complete && self.awaited.is_empty(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);
    const THIRD: NodeId = NodeId(3);

    fn asker(ticket: u64) -> Asker {
        Asker {
            shard: ShardId(0),
            ticket: Ticket(ticket),
        }
    }

    fn count(listeners: u32, nodes: u32, is_complete: bool) -> ClusterCount {
        ClusterCount {
            listeners,
            nodes,
            is_complete,
        }
    }

    /// Connected at 0; who is there is heard at 4,900.
    fn roster(others: &[NodeId]) -> Roster {
        let mut roster = Roster::new(ME, 5_000, 500);
        roster.on_connected(0);
        for node in others {
            roster.hear(*node, 4_900);
        }
        roster
    }

    fn expired(roster: &mut Roster, now_ms: u64) -> Vec<ClusterCount> {
        let mut out = Vec::new();
        roster.expire(now_ms, &mut out);
        out.iter().map(|counted| counted.count).collect()
    }

    #[test]
    fn a_count_is_over_when_all_have_answered() {
        let mut roster = roster(&[OTHER, THIRD]);
        let number = roster.ask(asker(9), 5_000).number;
        assert_eq!(roster.answer(number, OTHER, 10), None);
        assert_eq!(roster.answer(number, OTHER, 10), None, "said twice");
        assert_eq!(roster.answer(number, ME, 1), None);
        let counted = roster.answer(number, THIRD, 100).unwrap();
        assert_eq!(counted.asker, asker(9));
        assert_eq!(counted.count, count(111, 3, true));
        assert_eq!(roster.answer(number, THIRD, 100), None, "said too late");
        assert_eq!(roster.next_end_ms(), None);
    }

    #[test]
    fn a_silent_node_makes_a_count_late_and_incomplete() {
        let mut roster = roster(&[OTHER]);
        let number = roster.ask(asker(1), 5_000).number;
        roster.answer(number, ME, 4);
        assert_eq!(roster.next_end_ms(), Some(5_500));
        assert_eq!(expired(&mut roster, 5_499), []);
        assert_eq!(expired(&mut roster, 5_500), [count(4, 1, false)]);
    }

    #[test]
    fn a_node_that_is_not_heard_is_gone() {
        let mut roster = roster(&[OTHER]);
        assert_eq!(roster.n_nodes(9_899), 2);
        assert_eq!(roster.n_nodes(9_900), 1);
        let number = roster.ask(asker(1), 9_900).number;
        let counted = roster.answer(number, ME, 4).unwrap();
        assert_eq!(counted.count, count(4, 1, true));
    }

    #[test]
    fn a_node_that_ends_is_not_waited_for() {
        let mut roster = roster(&[OTHER]);
        let number = roster.ask(asker(1), 5_000).number;
        assert_eq!(roster.answer(number, ME, 4), None);
        let mut out = Vec::new();
        roster.forget(OTHER, &mut out);
        assert_eq!(out[0].count, count(4, 1, true));
        assert_eq!(roster.n_nodes(5_000), 1);
    }

    #[test]
    fn whoever_cannot_know_all_others_counts_incompletely() {
        for (asked_ms, is_complete) in [(0, false), (4_999, false), (5_000, true)] {
            let mut roster = roster(&[]);
            let number = roster.ask(asker(1), asked_ms).number;
            let counted = roster.answer(number, ME, 4).unwrap();
            assert_eq!(counted.count, count(4, 1, is_complete), "{asked_ms}");
        }
        let mut roster = roster(&[OTHER]);
        let (first, second) = (roster.ask(asker(1), 5_000), roster.ask(asker(2), 5_000));
        roster.answer(first.number, ME, 4);
        let mut out = Vec::new();
        roster.on_broken(&mut out);
        assert_eq!(out.len(), 1, "the second waits for this node itself");
        assert_eq!((out[0].asker, out[0].count), (asker(1), count(4, 1, false)));
        let counted = roster.answer(second.number, ME, 4).unwrap();
        assert_eq!(counted.count, count(4, 1, false));
    }

    #[test]
    fn a_crowd_is_bounded() {
        let mut roster = roster(&[]);
        for node in 0..3_000 {
            roster.hear(NodeId(node), 4_900);
        }
        assert_eq!(roster.n_nodes(5_000), NODES_MAX + 1);
        roster.hear(NodeId(0), 9_000);
        assert_eq!(roster.n_nodes(9_900), 2, "one of them may still be heard");
    }
}
