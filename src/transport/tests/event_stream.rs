//! Event streams, and what holds for every stream that begins.

use super::*;
use crate::config::{Namespace, SlowReader};
use crate::hub::message::Message;

/// The data of chunks.
fn dechunk(mut chunks: &str) -> String {
    let mut data = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        data += &rest[..size];
        chunks = rest[size..].strip_prefix("\r\n").unwrap();
    }
    data
}

#[test]
fn a_stream_opens_with_a_comment_and_the_retry_delay() {
    let mut peer = Peer::new();
    let answer = peer.get("/sse/a", "");
    for (name, value) in [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-store"),
        ("X-Accel-Buffering", "no"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
    ] {
        assert_eq!(field(&answer, name), Some(value));
    }
    let opening = dechunk(body(&answer));
    let retry_ms = opening
        .strip_prefix(":ok\nretry: ")
        .and_then(|rest| rest.strip_suffix('\n'));
    let retry_ms: u64 = retry_ms.expect("no empty line").parse().unwrap();
    assert!((1500..=4500).contains(&retry_ms), "{retry_ms}");
    let event = peer.publish("a", "hi");
    assert_eq!(
        dechunk(&event),
        format!("id: {}\ndata: hi\n\n", peer.head("a"))
    );
    assert_eq!(peer.send(b"whatever"), "");
    assert_eq!(peer.input, b"", "nobody's bytes");
}

#[test]
fn an_old_client_gets_a_stream_that_ends_with_the_connection() {
    let mut peer = Peer::new();
    let answer = peer.send(b"GET /sse/a HTTP/1.0\r\n\r\n");
    assert_eq!(field(&answer, "Transfer-Encoding"), None);
    assert!(body(&answer).starts_with(":ok\n"));
    let event = peer.publish("a", "hi");
    assert_eq!(event, format!("id: {}\ndata: hi\n\n", peer.head("a")));
    assert!(peer.drain().starts_with("retry: "), "no last chunk");
    assert_eq!(peer.ended, Some(CloseReason::Shutdown));
}

#[test]
fn a_quiet_stream_is_kept_alive_by_comments() {
    let mut peer = Peer::new();
    let beats = peer.beats();
    peer.get("/sse/a", "");
    assert_eq!(peer.deadline(), "2\r\n:\n\r\n");
    let first_ms = peer.now_ms;
    assert!(first_ms <= peer.config.timing.heartbeat_ms);
    peer.has_backlog = true;
    assert_eq!(peer.deadline(), "", "nothing behind a backlog");
    peer.has_backlog = false;
    assert_eq!(peer.deadline(), "2\r\n:\n\r\n");
    assert_eq!(peer.now_ms, beats.next_ms(beats.next_ms(first_ms)));
}

#[test]
fn a_stream_ends_with_its_channel_and_with_the_server() {
    let mut peer = Peer::new();
    peer.get("/sse/a", "");
    assert_eq!(peer.delete("a"), "0\r\n\r\n");
    assert_eq!(
        (peer.ended, peer.fanout.channels()),
        (Some(CloseReason::ChannelDeleted), 0)
    );
    let mut peer = Peer::new();
    peer.get("/sse/a", "");
    let goodbye = peer.drain();
    assert!(
        dechunk(&goodbye).starts_with("retry: ") && goodbye.ends_with("0\r\n\r\n"),
        "{goodbye}"
    );
    assert_eq!(
        (peer.ended, peer.fanout.channels()),
        (Some(CloseReason::Shutdown), 0)
    );
}

#[test]
fn a_stream_on_several_channels_has_the_whole_cursor_in_every_id() {
    let mut peer = Peer::new();
    peer.get("/sse/a,b", "");
    let (a, b) = (peer.head("a"), peer.head("b"));
    let event = dechunk(&peer.publish("b", "1"));
    let b1 = peer.head("b");
    assert_ne!(b, b1);
    let data = format!(r#"{{"channel":"b","id":"{b1}","data":"1"}}"#);
    assert_eq!(event, format!("id: {a},{b1}\ndata: {data}\n\n"));
    // Behind a backlog the id is made when the event's turn comes, be it after the end of the listening.
    peer.has_backlog = true;
    assert_eq!(peer.publish("a", "2"), "");
    assert_eq!(peer.publish("b", "3"), "");
    peer.drain();
    assert_eq!(peer.fanout.channels(), 0);
    let behind = std::mem::take(&mut peer.behind);
    assert_eq!(behind.len(), 2);
    let mut out = Outgoing::default();
    for waiting in behind {
        peer.transport.encode(waiting, &mut out);
    }
    let text: Vec<u8> = out.slices().flatten().copied().collect();
    let text = dechunk(std::str::from_utf8(&text).unwrap());
    let (a1, b2) = (peer.head("a"), peer.head("b"));
    assert!(
        text.contains(&format!("id: {a1},{b1}\n")) && text.contains(&format!("id: {a1},{b2}\n")),
        "{text}"
    );
}

#[test]
fn a_stream_tells_of_every_gap_before_its_ids_pass_it() {
    let mut peer = Peer::new();
    peer.publish("b", "old");
    peer.now_ms = 5;
    peer.publish("a", "new");
    let cursor = foreign_cursor();
    let target = "/sse/a,b?since=now";
    let answer = peer.get(target, &format!("Last-Event-ID: {cursor},{cursor}\r\n"));
    let text = dechunk(body(&answer));
    let (a1, b1) = (peer.head("a"), peer.head("b"));
    let (a0, b0) = (a1.replace("-1", "-0"), b1.replace("-1", "-0"));
    let ids: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect();
    let expected =
        [(&cursor, &b0), (&cursor, &b1), (&a0, &b1), (&a1, &b1)].map(|(a, b)| format!("{a},{b}"));
    assert_eq!(ids, expected);
    let gap = format!("event: pushring.gap\ndata: {{\"channel\":\"a\",\"position\":\"{a0}\"}}\n\n");
    assert!(text.contains(&gap), "{text}");
}

#[test]
fn a_stream_of_one_channel_tells_its_gap_first() {
    let mut peer = Peer::new();
    peer.publish("a", "1");
    let answer = peer.get(&format!("/sse/a?since={}", foreign_cursor()), "");
    let a1 = peer.head("a");
    let a0 = a1.replace("-1", "-0");
    let text = dechunk(body(&answer));
    let events = format!(
        "id: {a0}\nevent: pushring.gap\ndata: {{\"channel\":\"a\",\"position\":\"{a0}\"}}\n\nid: {a1}\ndata: 1\n\n"
    );
    assert!(text.ends_with(&events), "{text}");
}

#[test]
fn what_a_channel_says_before_the_last_answer_joins_the_replay() {
    for target in ["/sse/a,b", "/ws/a,b", "/poll/a,b?wait=9"] {
        let mut peer = Peer::new();
        peer.holds_questions = true;
        assert_eq!(
            peer.get(
                target,
                if target.starts_with("/ws") {
                    HANDSHAKE
                } else {
                    ""
                }
            ),
            ""
        );
        let mut questions = std::mem::take(&mut peer.questions).into_iter();
        let (slot, question) = questions.next_back().unwrap();
        peer.answer(slot, question);
        assert_eq!(peer.publish("b", "early"), "");
        let (slot, question) = questions.next().unwrap();
        peer.answer(slot, question);
        let answer = peer.take_output();
        assert_eq!(answer.matches("early").count(), 1, "{answer}");
        assert!(
            !answer.contains("ecovered: false") && !answer.contains("gap"),
            "{answer}"
        );
    }
}

#[test]
fn what_a_channel_loses_before_the_last_answer_is_told() {
    let epoch = Epoch::from_random(12345);
    for (target, told) in [
        ("/sse/a,b", "event: pushring.gap\ndata: {\"channel\":\"b\""),
        ("/ws/a,b", "{\"gap\":{\"channel\":\"b\""),
        ("/poll/a,b?wait=9", "\"recovered\":false"),
    ] {
        for (early, late) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut peer = Peer::new();
            peer.holds_questions = true;
            let fields = if told.starts_with("{") { HANDSHAKE } else { "" };
            peer.get(target, fields);
            let (slot, question) = peer.questions.pop().unwrap();
            peer.answer(slot, question);
            if early {
                peer.publish("b", "early");
            }
            let lost = Position { epoch, offset: 3 };
            peer.fanout.enqueue_gap(&name("b"), lost);
            if late {
                let position = Position { epoch, offset: 4 };
                peer.fanout.enqueue(Arc::new(Message {
                    channel: name("b"),
                    position,
                    previous: 3,
                    kind: PayloadKind::Text,
                    event: None,
                    payload: (*b"late").into(),
                    published_ms: 0,
                    published_us: 0,
                    expires_ms: u64::MAX,
                }));
            }
            assert_eq!((peer.deliver(), peer.ended), (String::new(), None));
            let (slot, question) = peer.questions.pop().unwrap();
            peer.answer(slot, question);
            let answer = peer.take_output();
            let mut want: Vec<&str> = vec![told];
            want.splice(0..0, early.then_some("early"));
            want.extend(late.then_some("late"));
            let at: Vec<_> = want.iter().map(|part| answer.find(part)).collect();
            let is_poll = target.starts_with("/poll");
            assert!(
                at.iter().all(Option::is_some) && (is_poll || at.is_sorted()),
                "{want:?} in {answer}"
            );
            assert_eq!(answer.matches(told).count(), 1, "{answer}");
            let end = Position {
                epoch,
                offset: 3 + u64::from(late),
            };
            assert!(answer.contains(&end.to_string()), "{answer}");
        }
    }
}

#[test]
fn a_channel_deleted_before_the_last_answer_turns_the_listener_away() {
    let mut peer = Peer::new();
    peer.holds_questions = true;
    peer.get("/sse/a,b", "");
    let (slot, question) = peer.questions.remove(0);
    peer.answer(slot, question);
    assert_eq!(status(&peer.delete("a")), 503);
    assert_eq!(
        (peer.ended, peer.fanout.channels()),
        (Some(CloseReason::Unavailable), 0)
    );
}

/// What is published while something waits already: for itself, where it may give way and the client can be told.
#[test]
fn a_message_waits_for_itself_where_it_may_give_way() {
    let mut config = Config::default();
    for (name, slow_reader) in [
        ("oldest", SlowReader::DropOldest),
        ("latest", SlowReader::Latest),
    ] {
        let namespace = Namespace {
            slow_reader,
            ..Namespace::default()
        };
        config.namespaces.insert(name.to_owned(), namespace);
    }
    for (target, fields, wanted) in [
        ("/sse/a", "", None),
        ("/sse/oldest:a", "", Some((0, SlowReader::DropOldest))),
        ("/sse/latest:a", "", Some((0, SlowReader::Latest))),
        ("/sse/a,latest:a", "", Some((1, SlowReader::Latest))),
        ("/sse/latest:a,a", "", Some((1, SlowReader::Close))),
        ("/ws/a?format=json", HANDSHAKE, None),
        ("/ws/latest:a?format=raw", HANDSHAKE, None),
        (
            "/ws/latest:a?format=json",
            HANDSHAKE,
            Some((0, SlowReader::Latest)),
        ),
        ("/ws/latest:a,a", HANDSHAKE, None),
        (
            "/ws/a,oldest:a",
            HANDSHAKE,
            Some((1, SlowReader::DropOldest)),
        ),
    ] {
        let mut peer = Peer::with_config(config.clone());
        peer.get(target, fields);
        peer.has_backlog = true;
        let path = target.split('?').next().unwrap();
        let last = path.rsplit(['/', ',']).next().unwrap();
        let sent = peer.publish(last, "hi");
        let waits: Vec<_> = peer
            .behind
            .iter()
            .map(|waiting| match waiting {
                Waiting::Message {
                    place, slow_reader, ..
                } => (*place, *slow_reader),
                other => panic!("{target}: {other:?}"),
            })
            .collect();
        assert_eq!(waits, Vec::from_iter(wanted), "{target}");
        assert_eq!(sent.is_empty(), wanted.is_some(), "{target}: {sent:?}");
    }
}

#[test]
fn a_stream_that_nobody_could_take_up_without_a_loss_has_no_age() {
    for (target, has_history) in [
        ("/sse/a", true),
        ("/sse/a?since=now", true),
        ("/sse/a?last=3", false),
        ("/sse/a?last=3", true),
    ] {
        let mut config = Config::default();
        config.timing.event_stream_age_max_ms = 100_000;
        let mut peer = Peer::with_config(config);
        if has_history {
            peer.publish("a", "an id, for who asks for it");
        }
        let has_id = peer.get(target, "").contains("id: ");
        if !has_id {
            for _ in 0..20 {
                peer.deadline();
            }
            assert_eq!(peer.ended, None, "{target}");
        }
        assert_eq!(has_id, has_history && target.contains("last"), "{target}");
        let begun_ms = peer.now_ms;
        if !has_id {
            peer.publish("a", "an id");
        }
        while peer.ended.is_none() && peer.now_ms < begun_ms + 200_000 {
            peer.deadline();
        }
        let age_ms = peer.now_ms - begun_ms;
        assert!((90_000..=110_064).contains(&age_ms), "{target}: {age_ms}");
    }
}

#[test]
fn a_stream_that_is_old_enough_ends_with_a_short_retry() {
    let mut config = Config::default();
    config.timing.event_stream_age_max_ms = 100_000;
    let mut peer = Peer::with_config(config);
    peer.get("/sse/a?since=earliest", "");
    let mut sent = peer.deadline();
    while peer.ended.is_none() {
        assert_eq!(dechunk(&sent), ":\n");
        sent = peer.deadline();
    }
    assert!((90_000..=110_064).contains(&peer.now_ms), "{}", peer.now_ms);
    assert_eq!(peer.ended, Some(CloseReason::AgeMax));
    let (retry, end) = sent.split_at(sent.len() - 5);
    assert_eq!(end, "0\r\n\r\n");
    let retry = dechunk(retry);
    let retry_ms = retry
        .strip_prefix("retry: ")
        .and_then(|it| it.strip_suffix('\n'));
    assert!(retry_ms.unwrap().parse::<u64>().unwrap() <= 1000, "{retry}");
}
