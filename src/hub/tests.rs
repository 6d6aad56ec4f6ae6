//! The hub as a home: positions, histories, listeners, limits.

use super::*;
use crate::config::Namespace;
use crate::hub::position::Epoch;

const ONE: ShardId = ShardId(1);
const TWO: ShardId = ShardId(2);

fn name(text: &str) -> ChannelName {
    ChannelName::parse(text).unwrap()
}

fn hub_with(change: impl FnOnce(&mut Config)) -> Hub {
    let mut config = Config::default();
    config.namespaces.insert(
        "none".to_owned(),
        Namespace {
            history_messages: 0,
            ..Namespace::default()
        },
    );
    change(&mut config);
    Hub::new(Arc::new(config), 1, 1)
}

fn hub() -> Hub {
    hub_with(|_| ())
}

fn publish(channel: &str) -> Publish {
    Publish {
        channel: name(channel),
        kind: PayloadKind::Text,
        event: None,
        payload: (*b"0123456789").into(),
        ttl_ms: None,
        store: true,
        idempotency_key: None,
    }
}

fn listen(channel: &str, since: Since, mode: ListenMode) -> Listen {
    Listen {
        channel: name(channel),
        since,
        mode,
        messages_max: usize::MAX,
        bytes_max: usize::MAX,
    }
}

/// Publishes at `now_ms`; gives the offset, the receivers, and the shards to deliver to.
fn take(
    hub: &mut Hub,
    publish: Publish,
    now_ms: u64,
) -> Result<(u64, u32, Vec<ShardId>), HomeRefusal> {
    let mut listening = vec![ShardId(99)];
    let (published, message) = hub.publish(publish, now_ms, &mut listening)?;
    if let Some(message) = message {
        assert_eq!(message.position, published.position);
    }
    Ok((published.position.offset, published.receivers, listening))
}

/// The offsets that are there from `since` on.
fn history(hub: &mut Hub, channel: &str, now_ms: u64) -> Vec<u64> {
    let once = listen(channel, Since::Earliest, ListenMode::Once);
    let (replay, _) = hub.listen(&once, ONE, now_ms).unwrap();
    replay
        .messages
        .iter()
        .map(|message| message.position.offset)
        .collect()
}

#[test]
fn a_publish_is_numbered_stored_and_sent_to_the_shards_that_listen() {
    let mut hub = hub();
    assert_eq!(take(&mut hub, publish("a"), 0), Ok((1, 0, vec![])));
    let stream = listen("a", Since::Now, ListenMode::Stream);
    hub.listen(&stream, ONE, 0).unwrap();
    hub.listen(&stream, ONE, 0).unwrap();
    hub.listen(&stream, TWO, 0).unwrap();
    assert_eq!(take(&mut hub, publish("a"), 0), Ok((2, 3, vec![ONE, TWO])));
    hub.unlisten(&name("a"), ONE, 0);
    hub.unlisten(&name("a"), TWO, 0);
    assert_eq!(take(&mut hub, publish("a"), 0), Ok((3, 1, vec![ONE])));
    assert_eq!(take(&mut hub, publish("b"), 0), Ok((1, 0, vec![])));
    assert_eq!(history(&mut hub, "a", 0), [1, 2, 3]);
}

#[test]
fn what_is_not_stored_takes_a_position_all_the_same() {
    let mut hub = hub();
    let live_only = Publish {
        store: false,
        ..publish("a")
    };
    let expired = Publish {
        ttl_ms: Some(0),
        ..publish("a")
    };
    assert_eq!(take(&mut hub, live_only, 0).unwrap().0, 1);
    assert_eq!(take(&mut hub, expired, 0).unwrap().0, 2);
    assert_eq!(take(&mut hub, publish("a"), 0).unwrap().0, 3);
    assert_eq!(history(&mut hub, "a", 0), [3]);
    assert_eq!(take(&mut hub, publish("none:a"), 0).unwrap().0, 1);
    assert_eq!(history(&mut hub, "none:a", 0), Vec::<u64>::new());
}

#[test]
fn a_ttl_shortens_the_namespaces_age_and_never_lengthens_it() {
    let mut hub = hub();
    let age_ms = Namespace::default().history_age_ms;
    for ttl_ms in [None, Some(100), Some(2 * age_ms)] {
        let publish = Publish {
            ttl_ms,
            ..publish("a")
        };
        take(&mut hub, publish, 0).unwrap();
    }
    assert_eq!(history(&mut hub, "a", 99), [1, 2, 3]);
    assert_eq!(history(&mut hub, "a", 100), [1, 3]);
    assert_eq!(history(&mut hub, "a", age_ms), Vec::<u64>::new());
    assert_eq!(hub.history_bytes(), 0);
}

#[test]
fn who_stays_is_decided_by_mode_and_news() {
    use ListenMode::{Once, Stream, UntilFirst};
    let mut hub = hub();
    take(&mut hub, publish("a"), 0).unwrap();
    let other_epoch = Since::After(Position {
        epoch: Epoch::from_random(99),
        offset: 7,
    });
    for (mode, since, stays) in [
        (Once, Since::Now, false),
        (Once, Since::Earliest, false),
        (UntilFirst, Since::Now, true),
        (UntilFirst, Since::Earliest, false),
        (UntilFirst, other_epoch, false),
        (Stream, Since::Now, true),
        (Stream, Since::Earliest, true),
        (Stream, other_epoch, true),
    ] {
        let before = hub.info(&name("a"), 0).unwrap().subscribers;
        let (_, listening) = hub.listen(&listen("a", since, mode), ONE, 0).unwrap();
        let after = hub.info(&name("a"), 0).unwrap().subscribers;
        assert_eq!(
            (listening, after - before),
            (stays, u32::from(stays)),
            "{mode:?} {since:?}"
        );
    }
}

#[test]
fn a_key_counts_once_within_its_channel_and_window() {
    let mut hub = hub();
    let keyed = |channel| Publish {
        idempotency_key: Some("k".into()),
        ..publish(channel)
    };
    let window_ms = hub.config.timing.idempotency_window_ms;
    hub.listen(&listen("a", Since::Now, ListenMode::Stream), ONE, 0)
        .unwrap();
    assert_eq!(take(&mut hub, keyed("a"), 0), Ok((1, 1, vec![ONE])));
    assert_eq!(
        take(&mut hub, keyed("a"), window_ms - 1),
        Ok((1, 1, vec![]))
    );
    assert_eq!(take(&mut hub, keyed("b"), 1), Ok((1, 0, vec![])));
    assert_eq!(take(&mut hub, keyed("a"), window_ms), Ok((2, 1, vec![ONE])));
}

#[test]
fn limits_refuse_what_is_new_and_keep_what_is_there() {
    let mut hub = hub_with(|config| config.limits.channels_max = 2);
    take(&mut hub, publish("a"), 0).unwrap();
    hub.listen(&listen("b", Since::Now, ListenMode::Stream), ONE, 0)
        .unwrap();
    assert_eq!(
        take(&mut hub, publish("c"), 0),
        Err(HomeRefusal::ChannelsFull)
    );
    let refused = hub.listen(&listen("c", Since::Now, ListenMode::Stream), ONE, 0);
    assert_eq!(refused, Err(HomeRefusal::ChannelsFull));
    assert_eq!(take(&mut hub, publish("a"), 0).unwrap().0, 2);
}

#[test]
fn over_the_total_a_channel_makes_room_out_of_its_own_past_only() {
    let mut hub = hub();
    take(&mut hub, publish("a"), 0).unwrap();
    let message_bytes = hub.history_bytes();
    let mut hub = hub_with(|config| config.limits.history_bytes_total_max = 3 * message_bytes);
    for _ in 0..5 {
        take(&mut hub, publish("a"), 0).unwrap();
    }
    assert_eq!(history(&mut hub, "a", 0), [3, 4, 5]);
    assert_eq!(
        take(&mut hub, publish("b"), 0),
        Err(HomeRefusal::HistoryFull)
    );
    let live_only = Publish {
        store: false,
        ..publish("b")
    };
    assert_eq!(take(&mut hub, live_only, 0).unwrap().0, 1);
    assert_eq!(take(&mut hub, publish("none:b"), 0).unwrap().0, 1);
    assert_eq!(hub.history_bytes(), 3 * message_bytes);
}

#[test]
fn who_asks_about_an_unknown_channel_leaves_no_trace_and_misses_nothing() {
    let mut hub = hub();
    let now = listen("a", Since::Now, ListenMode::Once);
    let (first, stays) = hub.listen(&now, ONE, 0).unwrap();
    assert_eq!((first.lost, stays, hub.channels()), (false, false, 0));
    let after = |cursor, mode| listen("a", Since::After(cursor), mode);
    let again = after(first.end, ListenMode::Once);
    assert_eq!(
        hub.listen(&again, ONE, 1).unwrap().0,
        first,
        "nothing moves"
    );
    // A stream or a long poll has it in being while it is there.
    for mode in [ListenMode::Stream, ListenMode::UntilFirst] {
        let (replay, stays) = hub.listen(&after(first.end, mode), ONE, 2).unwrap();
        assert_eq!((replay.lost, replay.start, stays), (false, first.end, true));
        assert_eq!(hub.channels(), 1);
        hub.unlisten(&name("a"), ONE, 3);
        assert_eq!(hub.channels(), 0);
    }
    take(&mut hub, publish("a"), 4).unwrap();
    let (replay, _) = hub.listen(&again, ONE, 5).unwrap();
    assert_eq!((replay.lost, replay.messages.len()), (false, 1));
    // Its history ends, and so does what was promised about it.
    let cursor = replay.end;
    let over_ms = 10 * hub.config.timing.channel_idle_timeout_ms;
    hub.sweep(9, over_ms);
    assert_eq!(hub.channels(), 0);
    for cursor in [first.end, cursor] {
        let (replay, _) = hub
            .listen(&after(cursor, ListenMode::Once), ONE, over_ms)
            .unwrap();
        assert!(replay.lost, "{cursor}");
    }
}

#[test]
fn a_long_poll_with_a_cursor_of_another_epoch_leaves_no_trace() {
    let mut hub = hub();
    let foreign = Position {
        epoch: Epoch::from_random(99),
        offset: 3,
    };
    let poll = listen("a", Since::After(foreign), ListenMode::UntilFirst);
    let (replay, stays) = hub.listen(&poll, ONE, 0).unwrap();
    assert_eq!((replay.lost, stays, hub.channels()), (true, false, 0));
    assert_eq!(replay.gaps(poll.since), [(0, replay.end)]);
}

#[test]
fn a_deleted_channel_is_gone_and_begins_another_epoch() {
    let mut hub = hub();
    let mut listening = Vec::new();
    assert!(!hub.delete(&name("a"), 0, &mut listening));
    take(&mut hub, publish("a"), 0).unwrap();
    hub.listen(&listen("a", Since::Now, ListenMode::Stream), TWO, 0)
        .unwrap();
    let cursor = Since::After(hub.info(&name("a"), 0).unwrap().position);
    assert!(hub.delete(&name("a"), 0, &mut listening));
    assert_eq!(listening, [TWO]);
    assert!(
        !hub.delete(&name("a"), 0, &mut listening),
        "it is gone already"
    );
    assert_eq!(hub.info(&name("a"), 0), None);
    assert_eq!(hub.list("", None, 9, 0), []);
    assert_eq!(hub.history_bytes(), 0);
    // Somebody comes while the old listener is still being ended.
    let (replay, _) = hub
        .listen(&listen("a", cursor, ListenMode::Stream), ONE, 0)
        .unwrap();
    assert!(replay.lost);
    assert_eq!(take(&mut hub, publish("a"), 0).unwrap().0, 1);
    hub.unlisten(&name("a"), TWO, 0);
    assert_eq!(take(&mut hub, publish("a"), 0), Ok((2, 1, vec![ONE])));
}

#[test]
fn a_deleted_channel_is_forgotten_with_its_last_listener() {
    let mut hub = hub();
    let mut listening = Vec::new();
    hub.listen(&listen("a", Since::Now, ListenMode::Stream), ONE, 0)
        .unwrap();
    hub.delete(&name("a"), 0, &mut listening);
    assert_eq!(hub.channels(), 1);
    hub.unlisten(&name("a"), ONE, 0);
    assert_eq!(hub.channels(), 0);
    hub.unlisten(&name("a"), ONE, 0);
}

#[test]
fn channels_are_listed_in_pages_by_prefix() {
    let mut hub = hub();
    for channel in ["b", "a:2", "a:1", "a:3", "a", "c"] {
        take(&mut hub, publish(channel), 0).unwrap();
    }
    let mut check = |prefix: &str, after: Option<&str>, limit, expected: &[&str]| {
        let page = hub.list(prefix, after, limit, 0);
        let names: Vec<_> = page.iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names, expected, "{prefix:?} after {after:?}");
    };
    check("", None, 9, &["a", "a:1", "a:2", "a:3", "b", "c"]);
    check("", None, 2, &["a", "a:1"]);
    check("", Some("a:1"), 2, &["a:2", "a:3"]);
    check("a:", None, 9, &["a:1", "a:2", "a:3"]);
    check("a:", Some("a:2"), 9, &["a:3"]);
    check("a:", Some("a:25"), 9, &["a:3"]);
    check("a:", Some("0"), 9, &["a:1", "a:2", "a:3"]);
    check("a:", Some("b"), 9, &[]);
    check("x", None, 9, &[]);
}

#[test]
fn what_is_told_of_a_channel() {
    let mut hub = hub();
    for _ in 0..3 {
        take(&mut hub, publish("a"), 0).unwrap();
    }
    hub.listen(&listen("a", Since::Now, ListenMode::Stream), ONE, 0)
        .unwrap();
    let info = hub.info(&name("a"), 0).unwrap();
    let numbers = (
        info.oldest.offset,
        info.position.offset,
        info.messages,
        info.subscribers,
    );
    assert_eq!(numbers, (1, 3, 3, 1));
    assert_eq!(info.bytes, hub.history_bytes());
    let age_ms = Namespace::default().history_age_ms;
    let info = hub.info(&name("a"), age_ms).unwrap();
    assert_eq!(
        (info.oldest.offset, info.position.offset, info.messages),
        (3, 3, 0)
    );
}

#[test]
fn sweeping_goes_round_and_forgets_what_nobody_needs() {
    let mut hub = hub();
    let idle_ms = hub.config.timing.channel_idle_timeout_ms;
    for n in 0..20 {
        take(&mut hub, publish(&format!("none:{n}")), 0).unwrap();
    }
    hub.listen(&listen("none:7", Since::Now, ListenMode::Stream), ONE, 0)
        .unwrap();
    hub.sweep(usize::MAX, idle_ms - 1);
    assert_eq!(hub.channels(), 20);
    for _ in 0..20 {
        hub.sweep(3, idle_ms);
    }
    let left = hub.list("", None, 99, idle_ms);
    assert_eq!((left.len(), left[0].name.as_str()), (1, "none:7"));
}

#[test]
fn messages_of_one_millisecond_have_an_order() {
    let mut hub = hub();
    hub.observe_us(5_200);
    let times: Vec<_> = ["b", "a", "b"]
        .into_iter()
        .map(|name| {
            let (_, message) = hub.publish(publish(name), 5, &mut Vec::new()).unwrap();
            message.expect("new").published_us
        })
        .collect();
    assert_eq!(times, [5_200, 5_201, 5_202]);
}

#[test]
fn other_settings_shorten_histories_and_keep_positions() {
    let mut hub = hub();
    let channels = ["a", "b", "x:a", "x:b"];
    for now_ms in 0..10 {
        for channel in channels {
            take(&mut hub, publish(channel), now_ms).unwrap();
        }
    }
    let reload = |hub: &mut Hub, change: &dyn Fn(&mut Namespace)| {
        let mut config = Config::default();
        let mut namespace = Namespace::default();
        change(&mut namespace);
        config.namespaces.insert("x".to_owned(), namespace);
        hub.reload(Arc::new(config), 1, 0);
        hub.sweep(1, 10);
        let bytes = channels.map(|channel| hub.info(&name(channel), 10).unwrap().bytes);
        assert_eq!(hub.history_bytes(), bytes.iter().sum::<usize>());
    };
    reload(&mut hub, &|namespace| namespace.history_messages = 3);
    assert_eq!(history(&mut hub, "a", 10).len(), 10, "another namespace");
    assert_eq!(history(&mut hub, "x:a", 10), [8, 9, 10]);
    assert_eq!(history(&mut hub, "x:b", 10), [8, 9, 10]);
    // Two milliseconds: what was published at 8 is too old at 10.
    reload(&mut hub, &|namespace| namespace.history_age_ms = 2);
    assert_eq!(history(&mut hub, "x:a", 10), [10]);
    assert_eq!(take(&mut hub, publish("x:a"), 10).unwrap().0, 11);
    assert_eq!(history(&mut hub, "x:a", 11), [11]);
    reload(&mut hub, &|namespace| namespace.history_age_ms = 60_000);
    take(&mut hub, publish("x:a"), 11).unwrap();
    // What was stored for two milliseconds is not kept for longer.
    assert_eq!(history(&mut hub, "x:a", 11), [11, 12]);
    assert_eq!(history(&mut hub, "x:a", 12), [12]);
    reload(&mut hub, &|namespace| namespace.history_messages = 0);
    assert!(history(&mut hub, "x:a", 12).is_empty());
}

#[test]
fn other_limits_hold_at_once() {
    let mut hub = hub();
    take(&mut hub, publish("a"), 0).unwrap();
    let mut config = Config::default();
    config.limits.channels_max = 1;
    hub.reload(Arc::new(config.clone()), 1, 0);
    assert_eq!(
        take(&mut hub, publish("b"), 0),
        Err(HomeRefusal::ChannelsFull)
    );
    config.limits.channels_max = 2;
    config.limits.history_bytes_total_max = hub.history_bytes();
    hub.reload(Arc::new(config), 1, 0);
    assert_eq!(
        take(&mut hub, publish("b"), 0),
        Err(HomeRefusal::HistoryFull)
    );
}

#[test]
fn many_channels_get_other_settings_by_and_by() {
    const CHANNELS: usize = RELOADS_PER_SWEEP + 10;
    let mut hub = hub();
    for channel in 0..CHANNELS {
        take(&mut hub, publish(&format!("c{channel}")), 0).unwrap();
    }
    let mut config = Config::default();
    config.namespaces.get_mut("").unwrap().history_messages = 0;
    hub.reload(Arc::new(config), 1, 0);
    assert!(hub.history_bytes() > 0);
    hub.sweep(1, 0);
    assert!(hub.history_bytes() > 0, "not all in one turn");
    hub.sweep(1, 0);
    assert_eq!(hub.history_bytes(), 0);
}
