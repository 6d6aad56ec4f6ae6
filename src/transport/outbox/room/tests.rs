//! What gives way to what, told by a picture of the queue.

use std::sync::Arc;

use super::*;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::{Epoch, Position};
use crate::proto::payload::PayloadKind;
use SlowReader::{Close, DropOldest, Latest};

const PAYLOAD_BYTES: usize = 1000;

fn message(channel: u16, offset: u64) -> Arc<Message> {
    Arc::new(Message {
        channel: ChannelName::parse(&format!("c{channel}")).unwrap(),
        position: Position {
            epoch: Epoch::from_random(1),
            offset,
        },
        previous: offset.saturating_sub(1),
        kind: PayloadKind::Text,
        event: None,
        payload: vec![b'x'; PAYLOAD_BYTES].into(),
        published_ms: 0,
        published_us: 0,
        expires_ms: 0,
    })
}

fn waiting(place: u16, offset: u64, slow_reader: SlowReader) -> Waiting {
    Waiting::Message {
        place,
        message: message(place, offset),
        slow_reader,
    }
}

/// A limit that `n` messages just do not exceed.
fn room_for(n: usize) -> usize {
    n * message(0, 1).bytes()
}

/// `0:3` is a message of the first channel, `(0:3)` the notice of a loss up to it, `-` what is encoded.
fn picture(outbox: &Outbox) -> String {
    let item = |waiting: &Waiting| match waiting {
        Waiting::Bytes { .. } => "-".to_owned(),
        Waiting::Message { place, message, .. } => format!("{place}:{}", message.position.offset),
        Waiting::Gap {
            place, position, ..
        } => format!("({place}:{})", position.offset),
    };
    let items: Vec<_> = outbox.queue.iter().map(item).collect();
    items.join(" ")
}

/// Adds messages (place, offset, policy) with room for `n`; compares the queue, and what is counted.
#[track_caller]
fn check(n: usize, live: &[(u16, u64, SlowReader)], want: &str, dropped: [u64; 3], told: u64) {
    let (mut outbox, mut metrics) = (Outbox::new(0), Metrics::default());
    for &(place, offset, policy) in live {
        outbox.push_live(waiting(place, offset, policy), room_for(n), &mut metrics);
    }
    assert_eq!(picture(&outbox), want);
    assert_eq!(metrics.dropped_messages_total, dropped, "dropped");
    assert_eq!(metrics.gaps_told_total, told, "notices");
    let bytes: usize = outbox.queue.iter().map(Waiting::bytes).sum();
    assert_eq!(outbox.bytes, bytes, "bytes");
    let droppable = outbox.queue.iter().filter(|it| it.may_give_way()).count();
    assert_eq!(outbox.droppable, droppable, "droppable");
}

#[test]
fn what_is_too_much_gives_way_and_is_told() {
    let of = |place, policy| move |offset| (place, offset, policy);
    let close: Vec<_> = (1..=5).map(of(0, Close)).collect();
    check(2, &close, "0:1 0:2 0:3 0:4 0:5", [0, 0, 0], 0);
    let oldest: Vec<_> = (1..=6).map(of(0, DropOldest)).collect();
    check(9, &oldest, "0:1 0:2 0:3 0:4 0:5 0:6", [0, 0, 0], 0);
    check(3, &oldest, "(0:3) 0:4 0:5 0:6", [0, 3, 0], 1);
    check(0, &oldest, "(0:5) 0:6", [0, 5, 0], 1);
    let latest: Vec<_> = (1..=6).map(of(0, Latest)).collect();
    check(9, &latest, "(0:5) 0:6", [0, 0, 5], 1);
    check(9, &latest[..1], "0:1", [0, 0, 0], 0);
}

#[test]
fn channels_with_different_policies_share_a_connection() {
    // Each channel's notice stands before its own next message.
    let mixed = [
        (0, 1, DropOldest),
        (1, 1, Latest),
        (2, 1, Close),
        (1, 2, Latest),
        (0, 2, DropOldest),
    ];
    check(9, &mixed, "0:1 (1:1) 2:1 1:2 0:2", [0, 0, 1], 1);
    check(2, &mixed, "(0:1) (1:2) 2:1 0:2", [0, 1, 2], 2);
    // What may not give way does not, and what may is not pushed out by it alone.
    let fixed: Vec<_> = (1..=5).map(|offset| (0, offset, Close)).collect();
    let mixed = [&[(1, 1, DropOldest)], &fixed[..], &[(1, 2, DropOldest)]].concat();
    check(9, &mixed, "1:1 0:1 0:2 0:3 0:4 0:5 1:2", [0, 0, 0], 0);
    check(2, &mixed, "(1:1) 0:1 0:2 0:3 0:4 0:5 1:2", [0, 1, 0], 1);
}

#[test]
fn room_is_made_of_what_may_give_way() {
    let (mut outbox, mut metrics) = (Outbox::new(0), Metrics::default());
    for offset in 1..=4 {
        outbox.push(waiting(0, offset, DropOldest));
        outbox.push(waiting(1, offset, Close));
    }
    outbox.make_room(room_for(6), &mut metrics);
    assert_eq!(picture(&outbox), "(0:3) 1:1 1:2 1:3 0:4 1:4");
}

#[test]
fn a_notice_is_not_told_ahead_of_what_is_encoded() {
    let (mut outbox, mut metrics) = (Outbox::new(0), Metrics::default());
    let encoded = || Waiting::Bytes {
        bytes: (*b"frame").into(),
        sent: 0,
    };
    outbox.push(encoded());
    outbox.push_live(waiting(0, 1, Latest), 0, &mut metrics);
    outbox.push_live(waiting(0, 2, Latest), 0, &mut metrics);
    outbox.push(encoded());
    outbox.push_live(waiting(0, 3, Latest), 0, &mut metrics);
    outbox.push_live(waiting(0, 4, Latest), 0, &mut metrics);
    assert_eq!(picture(&outbox), "- (0:2) - (0:3) 0:4");
}

#[test]
fn what_is_begun_stays() {
    let (mut outbox, mut metrics) = (Outbox::new(0), Metrics::default());
    outbox.put_back(vec![((*b"half a frame").into(), 4)], true);
    for offset in 1..=3 {
        outbox.push_live(waiting(0, offset, DropOldest), 0, &mut metrics);
    }
    outbox.set_pong((*b"pong").into());
    assert_eq!(picture(&outbox), "- (0:2) 0:3");
    let Some(Waiting::Bytes { sent: 4, .. }) = outbox.take_front(0) else {
        panic!("the begun frame comes first")
    };
    outbox.put_back(vec![], true);
    let front = outbox.take_front(0);
    assert!(
        matches!(front, Some(Waiting::Bytes { sent: 0, .. })),
        "{front:?}"
    );
    assert!(matches!(outbox.take_front(0), Some(Waiting::Gap { .. })));
    assert!(matches!(
        outbox.take_front(0),
        Some(Waiting::Message { .. })
    ));
    assert!(outbox.is_empty());
}
