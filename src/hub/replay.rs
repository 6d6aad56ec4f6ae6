//! What a listener is given first: what was kept of the channel behind its cursor, and where something is lost.

use std::sync::Arc;

use crate::hub::kept::Kept;
use crate::hub::message::{Message, fits_within};
use crate::hub::position::{Position, Since};

/// A part of a channel's history, as one listener gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// What the listener has before the first of `messages`: its own cursor, or a later one when something in
    /// between is lost.
    pub start: Position,
    /// What it has after the last of them.
    pub end: Position,
    /// Something between the listener's cursor and `end` is lost; where, [`gaps`](Self::gaps) tells.
    pub lost: bool,
    /// Oldest first.
    pub messages: Vec<Arc<Message>>,
}

impl Replay {
    /// What a listener gets of a channel at `head` that starts at `since`: at most `messages_max` of what is kept, and
    /// about `bytes_max`.
    pub(super) fn new(
        head: Position,
        kept: &Kept,
        since: Since,
        messages_max: usize,
        bytes_max: usize,
    ) -> Self {
        let (skip, wanted_from) = match since {
            Since::Now => (kept.len(), None),
            Since::Earliest => (0, None),
            Since::Last(n) => (kept.len().saturating_sub(n), None),
            Since::After(cursor) if cursor.epoch == head.epoch && cursor.offset <= head.offset => {
                (kept.place_behind(cursor.offset), Some(cursor))
            }
            Since::After(_) => (0, None),
        };
        let mut fits = fits_within(bytes_max);
        let messages: Vec<_> = (kept.iter().skip(skip).take(messages_max))
            .take_while(|message| fits(message))
            .cloned()
            .collect();
        let is_cut = skip + messages.len() < kept.len();
        let end = if is_cut {
            messages.last().map_or(head, |message| message.position)
        } else {
            head
        };
        let first = messages
            .first()
            .map_or(end.offset, |message| message.previous);
        let start = match wanted_from {
            Some(cursor) if first <= cursor.offset => cursor,
            _ => Position {
                epoch: head.epoch,
                offset: first,
            },
        };
        // Who asks for what there is has lost nothing in front of it, but perhaps something in the midst of it.
        let lost_in_front = matches!(since, Since::After(cursor) if cursor != start);
        let lost =
            since != Since::Now && (lost_in_front || has_hole(start.offset, &messages, end.offset));
        Self {
            start,
            end,
            lost,
            messages,
        }
    }

    /// The positions up to which something is lost, each with the index of the message that it precedes
    /// (`messages.len()` for a loss behind the last one).
    pub fn gaps(&self, since: Since) -> Vec<(usize, Position)> {
        let mut gaps = Vec::new();
        let mut has = self.start;
        let lost_in_front = matches!(since, Since::After(position) if position != self.start);
        for (index, message) in self.messages.iter().enumerate() {
            let before = Position {
                offset: message.previous,
                ..message.position
            };
            if !before.is_within(has) || (index == 0 && lost_in_front) {
                gaps.push((index, before));
            }
            has = message.position;
        }
        if self.lost && (!self.end.is_within(has) || (self.messages.is_empty() && lost_in_front)) {
            gaps.push((self.messages.len(), self.end));
        }
        gaps
    }
}

/// Whoever has everything up to `start`, and gets `messages`, misses something up to `end`.
fn has_hole(start: u64, messages: &[Arc<Message>], end: u64) -> bool {
    let mut has = start;
    for message in messages {
        if message.previous > has {
            return true;
        }
        has = message.position.offset;
    }
    has < end
}
