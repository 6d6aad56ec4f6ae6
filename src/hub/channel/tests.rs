//! What a channel keeps, replays and forgets.

use super::*;
use crate::proto::payload::PayloadKind;

const EPOCH_SEED: u64 = 7;

fn channel(history_messages: usize, history_bytes: usize) -> Channel {
    let namespace = Namespace {
        history_messages,
        history_bytes,
        history_age_ms: 1000,
        ..Namespace::default()
    };
    Channel::new(
        ChannelName::parse("a").unwrap(),
        Arc::new(namespace),
        Epoch::from_random(EPOCH_SEED),
        0,
    )
}

fn publish(channel: &mut Channel, expires_ms: u64, store: bool) {
    let position = channel.take_position(0);
    channel.publish_position(position.offset);
    let message = Arc::new(Message {
        channel: channel.name.clone(),
        position,
        previous: position.offset - 1,
        kind: PayloadKind::Text,
        event: None,
        payload: (*b"hi").into(),
        published_ms: 0,
        published_us: 0,
        expires_ms,
    });
    if store {
        channel.store(message, 0);
    }
}

fn at(offset: u64) -> Position {
    Position {
        epoch: Epoch::from_random(EPOCH_SEED),
        offset,
    }
}

/// Replays from `since` and compares offsets, the new cursor, and the offsets up to which gaps are told.
#[track_caller]
fn check(
    channel: &Channel,
    since: Since,
    messages_max: usize,
    offsets: &[u64],
    end: u64,
    gaps: &[(usize, u64)],
) {
    let replay = channel.replay(since, messages_max, usize::MAX);
    let got: Vec<_> = replay
        .messages
        .iter()
        .map(|message| message.position.offset)
        .collect();
    assert_eq!(got, offsets, "messages");
    assert_eq!(replay.end, at(end), "end");
    let told: Vec<_> = replay
        .gaps(since)
        .iter()
        .map(|&(index, position)| (index, position.offset))
        .collect();
    assert_eq!(told, gaps, "gaps");
    assert_eq!(
        replay.lost,
        !gaps.is_empty(),
        "a loss is told as a gap, and only then"
    );
}

#[test]
fn a_listener_gets_what_it_asks_for() {
    let mut channel = channel(3, usize::MAX);
    check(&channel, Since::Now, 9, &[], 0, &[]);
    check(&channel, Since::After(at(0)), 9, &[], 0, &[]);
    for _ in 0..5 {
        publish(&mut channel, 1000, true);
    }
    check(&channel, Since::Now, 9, &[], 5, &[]);
    check(&channel, Since::Earliest, 9, &[3, 4, 5], 5, &[]);
    check(&channel, Since::Last(2), 9, &[4, 5], 5, &[]);
    check(&channel, Since::Last(9), 9, &[3, 4, 5], 5, &[]);
    check(&channel, Since::After(at(5)), 9, &[], 5, &[]);
    check(&channel, Since::After(at(4)), 9, &[5], 5, &[]);
    check(&channel, Since::After(at(2)), 9, &[3, 4, 5], 5, &[]);
    check(&channel, Since::After(at(2)), 2, &[3, 4], 4, &[]);
    check(&channel, Since::Earliest, 2, &[3, 4], 4, &[]);
}

#[test]
fn lost_history_is_told() {
    let mut channel = channel(3, usize::MAX);
    for _ in 0..5 {
        publish(&mut channel, 1000, true);
    }
    check(&channel, Since::After(at(1)), 9, &[3, 4, 5], 5, &[(0, 2)]);
    check(&channel, Since::After(at(6)), 9, &[3, 4, 5], 5, &[(0, 2)]);
    let other = Position {
        epoch: Epoch::from_random(8),
        offset: 4,
    };
    check(&channel, Since::After(other), 9, &[3, 4, 5], 5, &[(0, 2)]);
    check(&channel, Since::After(other), 1, &[3], 3, &[(0, 2)]);
    channel.expire(1000);
    check(&channel, Since::After(at(4)), 9, &[], 5, &[(0, 5)]);
    check(&channel, Since::After(other), 9, &[], 5, &[(0, 5)]);
    check(&channel, Since::After(at(5)), 9, &[], 5, &[]);
    check(&channel, Since::Earliest, 9, &[], 5, &[]);
}

#[test]
fn holes_are_told_where_they_are() {
    let mut channel = channel(9, usize::MAX);
    for (expires_ms, store) in [
        (1000, true),
        (10, true),
        (1000, true),
        (1000, false),
        (1000, true),
        (1000, false),
    ] {
        publish(&mut channel, expires_ms, store);
    }
    channel.expire(10);
    check(
        &channel,
        Since::After(at(0)),
        9,
        &[1, 3, 5],
        6,
        &[(1, 2), (2, 4), (3, 6)],
    );
    check(&channel, Since::After(at(0)), 1, &[1], 1, &[]);
    check(
        &channel,
        Since::After(at(1)),
        9,
        &[3, 5],
        6,
        &[(0, 2), (1, 4), (2, 6)],
    );
    check(&channel, Since::After(at(5)), 9, &[], 6, &[(0, 6)]);
    check(
        &channel,
        Since::Earliest,
        9,
        &[1, 3, 5],
        6,
        &[(1, 2), (2, 4), (3, 6)],
    );
    check(&channel, Since::Earliest, 1, &[1], 1, &[]);
    check(&channel, Since::Last(1), 9, &[5], 6, &[(1, 6)]);
    check(&channel, Since::Last(0), 9, &[], 6, &[]);
}

#[test]
fn history_is_bounded_by_count_and_bytes() {
    let mut by_count = channel(2, usize::MAX);
    publish(&mut by_count, 1000, true);
    let message_bytes = by_count.history_bytes();
    publish(&mut by_count, 1000, true);
    publish(&mut by_count, 1000, true);
    assert_eq!(
        (by_count.history_messages(), by_count.history_bytes()),
        (2, 2 * message_bytes)
    );
    let mut by_bytes = channel(100, 3 * message_bytes);
    for _ in 0..9 {
        publish(&mut by_bytes, 1000, true);
    }
    assert_eq!(by_bytes.history_messages(), 3);
    assert_eq!(by_bytes.info().oldest, at(7));
    let mut by_few_bytes = channel(100, 1);
    publish(&mut by_few_bytes, 1000, true);
    publish(&mut by_few_bytes, 1000, true);
    assert_eq!(
        (by_few_bytes.history_messages(), by_few_bytes.info().oldest),
        (1, at(2))
    );
    let mut none = channel(0, usize::MAX);
    publish(&mut none, 1000, true);
    assert_eq!((none.history_messages(), none.head()), (0, at(1)));
}

#[test]
fn a_replay_is_bounded_by_bytes_but_never_empty() {
    let mut channel = channel(9, usize::MAX);
    for _ in 0..4 {
        publish(&mut channel, 1000, true);
    }
    let message_bytes = channel.history_bytes() / 4;
    let replay = channel.replay(Since::Earliest, 9, 2 * message_bytes);
    assert_eq!((replay.messages.len(), replay.end), (2, at(2)));
    let replay = channel.replay(Since::After(at(1)), 9, 1);
    assert_eq!(
        (replay.messages.len(), replay.end, replay.lost),
        (1, at(2), false)
    );
}

#[test]
fn a_channel_is_forgotten_only_when_nobody_needs_it() {
    let mut channel = channel(9, usize::MAX);
    let (one, two) = (ShardId(1), ShardId(2));
    channel.listen(one, 0);
    channel.listen(two, 0);
    channel.listen(two, 5);
    assert_eq!(channel.listeners(), 3);
    channel.unlisten(one, 6);
    channel.unlisten(two, 6);
    assert_eq!(channel.listening_shards().collect::<Vec<_>>(), [two]);
    assert!(!channel.is_forgettable(100, 10));
    channel.unlisten(two, 100);
    assert!(!channel.is_forgettable(109, 10));
    assert!(channel.is_forgettable(110, 10));
    publish(&mut channel, 1000, true);
    assert!(!channel.is_forgettable(500, 10));
    channel.expire(1000);
    assert!(
        !channel.is_forgettable(1009, 10),
        "who has everything may still come back"
    );
    assert!(channel.is_forgettable(1010, 10));
}
