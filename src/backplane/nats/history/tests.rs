//! Every way in which entries can be gone, and what may be claimed then.

use super::*;
use crate::backplane::nats::entry::Body;
use crate::backplane::nats::stream::{Limits, new_config};
use crate::backplane::nats::subject::Subjects;
use crate::backplane::order::Keep;
use crate::hub::message::ChannelName;
use crate::hub::position::Epoch;
use crate::proto::payload::PayloadKind;

const NOW_MS: u64 = 10_000_000;

fn epoch() -> Epoch {
    Epoch::from_random(7)
}

/// A stream whose oldest entry is `first`.
fn stream(first: u64, last: u64) -> Stream {
    let subjects = Subjects::new("p");
    let config = new_config(&subjects, epoch(), Limits::INITIAL, 1);
    let mut answer = serde_json::json!({ "config": config, "state": {} });
    answer["state"]["first_seq"] = first.into();
    answer["state"]["last_seq"] = last.into();
    let mut stream = Stream::parse(&answer, &subjects).unwrap();
    stream.now_ms = NOW_MS;
    stream.always_kept = 4;
    stream
}

fn reading(after: Option<u64>) -> Reading {
    Reading {
        channel: ChannelName::parse("a").unwrap(),
        after: after.map(|offset| Position {
            epoch: epoch(),
            offset,
        }),
        keep: Keep {
            history_messages: 3,
            history_age_ms: 1000,
            idle_timeout_ms: 1000,
            idempotency_window_ms: 0,
        },
    }
}

fn body(is_stored: bool, ttl_ms: Option<u64>) -> Content {
    Content::Message(Body {
        kind: PayloadKind::Text,
        event: None,
        payload: b"x"[..].into(),
        ttl_ms,
        is_stored,
    })
}

fn entry(sequence: u64, content: Content) -> Entry {
    Entry {
        sequence,
        time_us: NOW_MS * 1000,
        is_cut: content == Content::Ended,
        content,
    }
}

fn message(sequence: u64) -> Entry {
    entry(sequence, body(true, None))
}

/// The head and, for each message, what was before it and its own offset.
#[track_caller]
fn check(after: Option<u64>, first: u64, entries: &[Entry], head: u64, messages: &[(u64, u64)]) {
    let standing = standing(&reading(after), entries, &stream(first, 100));
    let told: Vec<_> = standing
        .messages
        .iter()
        .map(|arrival| (arrival.message.previous, arrival.message.position.offset))
        .collect();
    assert_eq!((standing.head.offset, &told[..]), (head, messages));
}

#[test]
fn an_entry_that_is_there_proves_what_is_behind_it() {
    let entries = [message(5), message(9), message(12)];
    check(Some(5), 1, &entries, 12, &[(5, 9), (9, 12)]);
    // However much has gone elsewhere.
    check(Some(5), 5, &entries, 12, &[(5, 9), (9, 12)]);
}

#[test]
fn a_cursor_without_entry_is_honoured_if_nothing_younger_has_gone() {
    // The stream still has all since 7.
    check(
        Some(6),
        7,
        &[message(9), message(12)],
        12,
        &[(6, 9), (9, 12)],
    );
    check(
        Some(7),
        7,
        &[message(9), message(12)],
        12,
        &[(6, 9), (9, 12)],
    );
    // It has not: something between 6 and 9 may have been on this subject.
    check(
        Some(6),
        8,
        &[message(9), message(12)],
        12,
        &[(7, 9), (9, 12)],
    );
    // As many as were kept at all times: others may have gone for their number.
    let many = [message(9), message(12), message(13), message(14)];
    check(Some(6), 7, &many, 14, &[(9, 12), (12, 13), (13, 14)]);
    let standing = standing(
        &Reading {
            keep: Keep {
                history_messages: 9,
                ..reading(None).keep
            },
            ..reading(Some(6))
        },
        &many,
        &stream(7, 100),
    );
    assert_eq!(standing.messages[0].message.previous, 8);
}

#[test]
fn all_that_there_is_begins_at_one_place_for_every_node() {
    for first in 1..=5 {
        check(None, first, &[message(5), message(9)], 9, &[(4, 5), (5, 9)]);
    }
    let other_epoch = Reading {
        after: Some(Position {
            epoch: Epoch::from_random(8),
            offset: 5,
        }),
        ..reading(None)
    };
    let standing = standing(&other_epoch, &[message(5)], &stream(5, 100));
    assert_eq!(standing.messages.len(), 1);
}

#[test]
fn a_deletion_is_a_loss_for_every_cursor_before_it() {
    let ended = entry(6, Content::Ended);
    for after in [4, 5] {
        check(Some(after), 1, std::slice::from_ref(&ended), 6, &[]);
        check(Some(after), 1, &[ended.clone(), message(9)], 9, &[(6, 9)]);
    }
    check(Some(6), 1, &[ended.clone(), message(9)], 9, &[(6, 9)]);
    check(None, 1, &[ended, message(9)], 9, &[(6, 9)]);
    // Somebody else's rollup: what it replaced may have been behind the cursor.
    let cut = Entry {
        is_cut: true,
        ..message(9)
    };
    check(Some(6), 1, &[cut], 9, &[(8, 9)]);
}

#[test]
fn a_touch_keeps_what_it_names() {
    let touch = |head| entry(8, Content::Touched { head });
    check(Some(5), 8, &[touch(5)], 5, &[]);
    check(Some(5), 8, &[touch(5), message(9)], 9, &[(5, 9)]);
    check(
        Some(5),
        1,
        &[message(5), touch(5), message(9)],
        9,
        &[(5, 9)],
    );
    check(Some(7), 8, &[touch(5), message(9)], 9, &[(5, 9)]);
    check(Some(3), 8, &[touch(5), message(9)], 9, &[(5, 9)]);
    check(None, 8, &[touch(5)], 5, &[]);
}

#[test]
fn what_is_not_given_out_leaves_a_hole() {
    let old = Entry {
        time_us: (NOW_MS - 1000) * 1000,
        ..message(6)
    };
    let expired = Entry {
        time_us: (NOW_MS - 10) * 1000,
        content: body(true, Some(10)),
        ..message(7)
    };
    let unstored = entry(8, body(false, None));
    check(
        Some(5),
        1,
        &[message(5), old, expired, unstored.clone(), message(9)],
        9,
        &[(8, 9)],
    );
    check(Some(5), 1, &[message(5), unstored], 8, &[]);
}

#[test]
fn no_more_than_the_history_is_given_out() {
    let entries: Vec<_> = (5..10).map(message).collect();
    check(Some(5), 1, &entries, 9, &[(6, 7), (7, 8), (8, 9)]);
}

#[test]
fn a_channel_stands_where_its_first_entry_is() {
    let begun = entry(8, Content::Begun);
    check(None, 1, std::slice::from_ref(&begun), 8, &[]);
    check(None, 1, &[begun.clone(), message(9)], 9, &[(8, 9)]);
    check(Some(8), 1, &[begun.clone(), message(9)], 9, &[(8, 9)]);
    // Whatever was before it may be lost.
    check(Some(7), 1, &[begun.clone(), message(9)], 9, &[(8, 9)]);
    // However many come then.
    let mut many = vec![begun];
    many.extend((9..20).map(message));
    let standing = standing(
        &Reading {
            keep: Keep {
                history_messages: 99,
                ..reading(None).keep
            },
            ..reading(Some(8))
        },
        &many,
        &stream(1, 100),
    );
    assert_eq!(standing.messages[0].message.previous, 8);
}

#[test]
fn what_is_not_there_without_a_reason_is_lost() {
    #[track_caller]
    fn check(after: Option<u64>, first: u64, entries: &[Entry], expected: bool) {
        assert_eq!(
            is_lost(&reading(after), entries, &stream(first, 100)),
            expected
        );
    }
    let cut = Entry {
        is_cut: true,
        ..message(9)
    };
    let touch = |head| entry(9, Content::Touched { head });
    check(Some(5), 1, &[message(5), message(9)], false);
    check(Some(5), 1, &[message(9)], true);
    check(Some(5), 5, &[message(9)], true);
    check(Some(5), 1, &[], true);
    check(Some(5), 1, &[entry(9, Content::Begun)], true);
    check(None, 1, &[message(9)], false);
    // For its age.
    check(Some(5), 6, &[message(9)], false);
    check(Some(5), 6, &[], false);
    // By a deletion.
    check(Some(5), 1, &[entry(9, Content::Ended)], false);
    check(Some(5), 1, &[cut], false);
    // For the number of entries.
    let many: Vec<_> = (9..13).map(message).collect();
    check(Some(5), 1, &many[..3], true);
    check(Some(5), 1, &many, false);
    // A touch has taken its place.
    check(Some(5), 1, &[touch(5)], false);
    check(Some(7), 1, &[touch(5)], false);
    check(Some(5), 1, &[touch(7)], true);
}

#[test]
fn a_subject_without_entries_gets_one_that_claims_what_is_proven() {
    #[track_caller]
    fn check(after: Option<u64>, first: u64, expected: Content) {
        assert_eq!(beginning(&reading(after), &stream(first, 20)), expected);
    }
    check(Some(5), 6, Content::Touched { head: 5 });
    // Something behind the cursor may have gone for its age.
    check(Some(5), 7, Content::Begun);
    check(None, 1, Content::Begun);
}

#[test]
fn an_unchanged_channel_needs_no_history() {
    #[track_caller]
    fn check(after: Option<u64>, newest: Entry, head: Option<u64>) {
        let standing = standing_at_once(&reading(after), &newest, &stream(1, 20));
        assert_eq!(standing.map(|standing| standing.head.offset), head);
    }
    check(Some(5), message(5), Some(5));
    check(Some(5), entry(8, Content::Touched { head: 5 }), Some(5));
    check(Some(5), message(6), None);
    check(None, message(6), None);
    check(None, entry(8, Content::Touched { head: 5 }), None);
    check(None, entry(8, Content::Begun), Some(8));
    check(Some(8), entry(8, Content::Begun), Some(8));
    check(Some(5), entry(8, Content::Begun), None);
}

#[test]
fn a_quiet_channel_in_use_is_touched_in_time() {
    #[track_caller]
    fn check(age_ms: u64, expected: bool) {
        let newest = Entry {
            time_us: (NOW_MS - age_ms) * 1000,
            ..message(5)
        };
        for after in [None, Some(5)] {
            let is_touched = needs_touch(&reading(after), &newest, &stream(1, 20));
            assert_eq!(is_touched, expected);
        }
    }
    check(0, false);
    check(Limits::INITIAL.age_ms - 1000, false);
    check(Limits::INITIAL.age_ms - 999, true);
}
