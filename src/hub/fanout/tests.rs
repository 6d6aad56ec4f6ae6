//! The fan-out against a naive twin.

use super::*;
use crate::hub::position::{Epoch, Position};
use crate::proto::payload::PayloadKind;

fn name(text: &str) -> ChannelName {
    ChannelName::parse(text).unwrap()
}

fn message(channel: &str, offset: u64, payload_bytes: usize) -> Arc<Message> {
    Arc::new(Message {
        channel: name(channel),
        position: Position {
            epoch: Epoch::from_random(1),
            offset,
        },
        previous: offset.saturating_sub(1),
        kind: PayloadKind::Text,
        event: None,
        payload: vec![b'x'; payload_bytes].into(),
        published_ms: 0,
        published_us: 0,
        expires_ms: 0,
    })
}

/// What one connection got, `None` for an end.
type Got = Vec<Option<u64>>;

/// Delivers until nothing is on its way; gives what each connection got, in order.
fn deliver_all(fanout: &mut Fanout, connections_max: usize) -> HashMap<u32, Got> {
    let mut got = HashMap::<u32, Got>::new();
    let mut connections = Vec::new();
    while let Some(slice) = fanout.next_slice(&mut connections, connections_max) {
        assert!(connections.len() <= connections_max);
        for &connection in &connections {
            got.entry(connection).or_default().extend(offsets(&slice));
        }
    }
    assert!(fanout.is_idle());
    assert_eq!(fanout.backlog_bytes(), 0);
    got
}

fn offsets(slice: &Slice) -> Got {
    match &slice.delivery {
        Delivery::Messages(batch) => batch
            .messages()
            .iter()
            .map(|message| Some(message.position.offset))
            .collect(),
        Delivery::Gap(..) | Delivery::End => vec![None],
    }
}

#[test]
fn messages_gather_until_the_pass_begins_or_somebody_comes() {
    let mut fanout = Fanout::default();
    let a = name("a");
    fanout.listen(&a, 1);
    fanout.enqueue(message("a", 1, 10));
    fanout.enqueue(message("a", 2, 10));
    fanout.listen(&a, 2);
    fanout.enqueue(message("a", 3, 10));
    let mut connections = Vec::new();
    let slice = fanout.next_slice(&mut connections, 9).unwrap();
    assert_eq!(
        (offsets(&slice), &connections[..]),
        (vec![Some(1), Some(2)], &[1][..])
    );
    let got = deliver_all(&mut fanout, 9);
    assert_eq!(got, HashMap::from([(1, vec![Some(3)]), (2, vec![Some(3)])]));
}

#[test]
fn a_pass_holds_a_bounded_number_of_bytes() {
    let mut fanout = Fanout::default();
    fanout.listen(&name("a"), 1);
    for offset in 1..=3 {
        fanout.enqueue(message("a", offset, BATCH_BYTES_MAX / 2));
    }
    fanout.enqueue(message("a", 4, 2 * BATCH_BYTES_MAX));
    let mut connections = Vec::new();
    for offset in 1..=4 {
        let slice = fanout.next_slice(&mut connections, 9).unwrap();
        assert_eq!(offsets(&slice), [Some(offset)]);
    }
    assert!(fanout.next_slice(&mut connections, 9).is_none());
}

#[test]
fn channels_take_turns() {
    let mut fanout = Fanout::default();
    for connection in 0..200 {
        fanout.listen(&name("many"), connection);
    }
    fanout.listen(&name("one"), 1000);
    fanout.enqueue(message("many", 1, 1));
    fanout.enqueue(message("one", 1, 1));
    let mut connections = Vec::new();
    fanout.next_slice(&mut connections, usize::MAX).unwrap();
    assert_eq!(connections.len(), SLICE_LISTENERS_MAX);
    fanout.next_slice(&mut connections, usize::MAX).unwrap();
    assert_eq!(connections, [1000]);
}

#[test]
fn an_end_reaches_those_who_listen_now_behind_what_is_on_its_way() {
    let mut fanout = Fanout::default();
    let a = name("a");
    fanout.listen(&a, 1);
    fanout.enqueue(message("a", 1, 1));
    fanout.enqueue_end(&a);
    fanout.enqueue_end(&name("unknown"));
    fanout.listen(&a, 2);
    fanout.enqueue(message("a", 1, 1));
    let got = deliver_all(&mut fanout, 9);
    assert_eq!(
        got,
        HashMap::from([(1, vec![Some(1), None, Some(1)]), (2, vec![Some(1)])])
    );
}

/// A channel that is always busy does not grow with those who come and go.
#[test]
fn slots_are_used_again_while_passes_run() {
    let mut fanout = Fanout::default();
    let a = name("a");
    let mut connections = Vec::new();
    let listeners: Vec<_> = (0..10)
        .map(|connection| fanout.listen(&a, connection))
        .collect();
    fanout.enqueue(message("a", 1, 1));
    fanout.next_slice(&mut connections, 1).unwrap();
    for subscription in listeners {
        fanout.unlisten(subscription);
    }
    for offset in 2..1000 {
        let subscription = fanout.listen(&a, 100);
        fanout.enqueue(message("a", offset, 1));
        let slice = fanout.next_slice(&mut connections, 1).unwrap();
        assert!(
            connections.is_empty() || offsets(&slice) == [Some(offset - 1)],
            "an old message for somebody new"
        );
        fanout.unlisten(subscription);
    }
    assert!(fanout.channels[0].slots.len() <= 10);
    deliver_all(&mut fanout, 1);
    assert_eq!(fanout.channels(), 0);
}

#[test]
fn numbers_of_passes_wrap_around() {
    let mut fanout = Fanout::default();
    let subscription = fanout.listen(&name("a"), 1);
    let listeners = &mut fanout.channels[subscription.channel.0 as usize];
    listeners.next_pass = u32::MAX;
    listeners.slots[0].next_pass = u32::MAX;
    let mut connections = Vec::new();
    for offset in 1..5 {
        fanout.enqueue(message("a", offset, 1));
        let slice = fanout.next_slice(&mut connections, 9).unwrap();
        assert_eq!(
            (offsets(&slice), &connections[..]),
            (vec![Some(offset)], &[1][..])
        );
    }
}

/// The naive twin's listener: everything that it is to get.
struct Listener {
    channel: usize,
    connection: u32,
    subscription: Subscription,
    due: VecDeque<Option<u64>>,
}

#[test]
fn everybody_gets_what_is_enqueued_while_listening_once_and_in_order() {
    const CHANNELS: [&str; 3] = ["a", "b", "c"];
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut fanout = Fanout::default();
        let mut listeners: Vec<Listener> = Vec::new();
        let mut connections = Vec::new();
        for step in 0..1000 {
            let channel = rng.usize(..CHANNELS.len());
            let channel_name = name(CHANNELS[channel]);
            let due = match rng.u32(..100) {
                0..20 => {
                    listeners.push(Listener {
                        channel,
                        connection: step,
                        subscription: fanout.listen(&channel_name, step),
                        due: VecDeque::new(),
                    });
                    continue;
                }
                20..38 if !listeners.is_empty() => {
                    let listener = listeners.swap_remove(rng.usize(..listeners.len()));
                    let left = fanout.unlisten(listener.subscription);
                    assert_eq!(left.as_str(), CHANNELS[listener.channel]);
                    continue;
                }
                38..65 => {
                    let payload_bytes = if rng.u8(..20) == 0 { 40_000 } else { 1 };
                    fanout.enqueue(message(CHANNELS[channel], step.into(), payload_bytes));
                    Some(step.into())
                }
                65..67 => {
                    fanout.enqueue_end(&channel_name);
                    None
                }
                _ => {
                    let Some(slice) = fanout.next_slice(&mut connections, rng.usize(1..5)) else {
                        continue;
                    };
                    for &connection in &connections {
                        let is_due = |it: &&mut Listener| {
                            it.connection == connection
                                && it.subscription.channel() == slice.channel
                        };
                        let listener = listeners.iter_mut().find(is_due).unwrap_or_else(|| {
                            panic!("seed {seed} step {step}: {connection} does not listen")
                        });
                        for offset in offsets(&slice) {
                            let due = listener.due.pop_front();
                            assert_eq!(due, Some(offset), "seed {seed} step {step}: {connection}");
                        }
                    }
                    continue;
                }
            };
            for listener in listeners.iter_mut().filter(|it| it.channel == channel) {
                listener.due.push_back(due);
            }
        }
        let got = deliver_all(&mut fanout, 3);
        for listener in &listeners {
            let got = got.get(&listener.connection).cloned().unwrap_or_default();
            assert_eq!(
                got,
                Vec::from(listener.due.clone()),
                "seed {seed}: the rest"
            );
        }
        for listener in listeners {
            fanout.unlisten(listener.subscription);
        }
        assert_eq!(fanout.channels(), 0, "seed {seed}: all is forgotten");
        assert!(fanout.by_name.is_empty());
    }
}

#[test]
fn places_that_are_vacant_take_turns_too() {
    let mut fanout = Fanout::default();
    let a = name("a");
    let crowd: Vec<_> = (0..2 * SLICE_SLOTS_MAX as u32)
        .map(|connection| fanout.listen(&a, connection))
        .collect();
    fanout.listen(&a, u32::MAX - 1);
    for subscription in crowd {
        fanout.unlisten(subscription);
    }
    fanout.enqueue(message("a", 1, 10));
    let (mut connections, mut slices) = (Vec::new(), 0);
    while fanout.next_slice(&mut connections, 64).is_some() {
        slices += 1;
    }
    assert_eq!((slices, fanout.is_idle()), (3, true));
    fanout.enqueue(message("a", 2, 10));
    let got = deliver_all(&mut fanout, 64);
    assert_eq!(got, HashMap::from([(u32::MAX - 1, vec![Some(2)])]));
}
