//! From the entries of a channel's subject to where the channel stands. Claims that nothing is missing only where the
//! entries prove it.
//!
//! A channel always stands at an entry, or where an entry says: who reads a subject without any puts one there first
//! ([`beginning`]). So all nodes that ask are told the same, however often, while the stream's oldest entry moves on.
//!
//! The stream drops the oldest entries of a subject first, for their number or their age, and a deletion drops all that
//! were there. So nothing is missing behind a cursor
//! - whose own entry is still there, or
//! - which a touch names, or lies between what a touch names and the touch, or
//! - if nothing younger than the cursor has gone: neither for its age (the stream's oldest entry is not younger), nor
//!   for the number of entries (there have never been so many), nor by a deletion.
//!
//! The other way round, a cursor of which nothing is there although none of these can be why, names what is lost
//! ([`is_lost`]): the server has an older state, and gives numbers out again.

use crate::backplane::broker::Reading;
use crate::backplane::order::Standing;
use crate::hub::position::Position;

use super::entry::{Content, Entry};
use super::stream::Stream;

/// The offset behind which a reading wants everything, if it is one of this epoch.
pub fn cursor(reading: &Reading, stream: &Stream) -> Option<u64> {
    reading
        .after
        .filter(|after| after.epoch == stream.epoch)
        .map(|after| after.offset)
}

/// Whether what the cursor names is lost, by all of the subject's `entries` from the cursor on, which were read before
/// `stream`: nothing of it is there, and it can have gone neither for its age, nor for the number of entries, nor by a
/// deletion.
pub fn is_lost(reading: &Reading, entries: &[Entry], stream: &Stream) -> bool {
    let Some(cursor) = cursor(reading, stream) else {
        return false;
    };
    let is_explained = entries.first().is_some_and(|first| match first.content {
        Content::Touched { head } => head <= cursor,
        _ => first.sequence == cursor || first.is_cut,
    });
    !is_explained && stream.first <= cursor && (entries.len() as u64) < stream.always_kept
}

/// The entry that a subject without entries gets, to say where its channel stands: at the cursor, if nothing behind it
/// can have gone; otherwise at the new entry itself, so that whatever there was is before it.
pub fn beginning(reading: &Reading, stream: &Stream) -> Content {
    match cursor(reading, stream) {
        Some(head) if stream.first <= head + 1 => Content::Touched { head },
        _ => Content::Begun,
    }
}

/// Where the channel stands if its newest entry tells it all: nothing is behind the cursor, or nothing is there.
pub fn standing_at_once(reading: &Reading, newest: &Entry, stream: &Stream) -> Option<Standing> {
    let is_all = match cursor(reading, stream) {
        Some(cursor) => cursor == newest.head(),
        None => newest.content == Content::Begun,
    };
    is_all.then(|| Standing {
        head: Position {
            epoch: stream.epoch,
            offset: newest.head(),
        },
        is_used: newest.is_message(),
        messages: Vec::new(),
    })
}

/// Whether a touch has to keep the channel's head known: its newest entry will be gone before it may be forgotten.
pub fn needs_touch(reading: &Reading, newest: &Entry, stream: &Stream) -> bool {
    let age_ms = stream.now_ms.saturating_sub(newest.time_ms());
    age_ms.saturating_add(reading.keep.idle_timeout_ms) > stream.limits.age_ms
}

/// Where the channel stands, by its `entries` from the cursor on (all of them, if there is none), of which there is at
/// least one.
pub fn standing(reading: &Reading, entries: &[Entry], stream: &Stream) -> Standing {
    let mut previous = start(cursor(reading, stream), entries, stream);
    let mut messages = Vec::new();
    for entry in entries {
        match &entry.content {
            Content::Message(body) => {
                let published_ms = entry.time_ms();
                let age_ms = stream.now_ms.saturating_sub(published_ms);
                let is_given = body.is_stored
                    && age_ms < reading.keep.history_age_ms
                    && stream.now_ms < body.expires_ms(published_ms)
                    && cursor(reading, stream) != Some(entry.sequence);
                if is_given {
                    let position = Position {
                        epoch: stream.epoch,
                        offset: entry.sequence,
                    };
                    messages.push(body.arrival(
                        &reading.channel,
                        position,
                        previous,
                        entry.time_us,
                    ));
                }
                previous = entry.sequence;
            }
            Content::Begun | Content::Ended => previous = entry.sequence,
            // There was nothing in between, or it was seen already.
            Content::Touched { .. } => {}
        }
    }
    let surplus = messages.len().saturating_sub(reading.keep.history_messages);
    messages.drain(..surplus);
    Standing {
        head: Position {
            epoch: stream.epoch,
            offset: previous,
        },
        is_used: entries.iter().any(Entry::is_message),
        messages,
    }
}

/// An offset such that whoever has it, or more, misses nothing in front of the first of `entries`.
fn start(cursor: Option<u64>, entries: &[Entry], stream: &Stream) -> u64 {
    let Some(first) = entries.first() else {
        debug_assert!(false, "a channel stands at an entry");
        return stream.last;
    };
    if let Content::Touched { head } = first.content {
        return head;
    }
    let behind = entries
        .iter()
        .filter(|entry| Some(entry.sequence) > cursor)
        .count() as u64;
    let just_before = first.sequence - 1;
    // The entry in front of the first one can have been of this subject, and gone for another reason than its age.
    if first.is_cut || behind >= stream.always_kept {
        return just_before;
    }
    match cursor {
        Some(_) => just_before.min(stream.first - 1),
        // Whoever begins here is told so, and has to be told the same by all nodes, while the stream's oldest entry
        // moves on.
        None => just_before,
    }
}

#[cfg(test)]
mod tests;
