//! WebSockets.

use super::*;
use crate::config::Namespace;
use crate::hub::Published;

fn echo_peer() -> Peer {
    let mut config = Config::default();
    let echo = Namespace {
        client_publish: true,
        ..Namespace::default()
    };
    config.namespaces.insert("echo".to_owned(), echo);
    Peer::with_config(config)
}

/// A frame of a client with the mask 0, which leaves the payload readable.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    [
        &[0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0],
        payload,
    ]
    .concat()
}

fn close_code(output: &[u8]) -> u16 {
    assert_eq!(output[0], 0x88, "a close frame: {output:?}");
    u16::from_be_bytes([output[2], output[3]])
}

/// The last frame of the output, which is a close frame.
fn take_close_code(peer: &mut Peer) -> u16 {
    close_code(&std::mem::take(&mut peer.output))
}

/// Of the server's frames, none of which is long.
fn opcodes(mut frames: &[u8]) -> Vec<u8> {
    let mut opcodes = Vec::new();
    while let [first, payload_bytes, rest @ ..] = frames {
        opcodes.push(first & 0x0F);
        frames = &rest[usize::from(*payload_bytes)..];
    }
    opcodes
}

#[test]
fn a_websocket_echoes_where_clients_may_publish() {
    let mut peer = echo_peer();
    let answer = peer.get("/ws/echo:a", HANDSHAKE);
    assert_eq!(status(&answer), 101);
    assert_eq!(
        field(&answer, "Sec-WebSocket-Accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    let cursor = peer.head("echo:a");
    assert_eq!(field(&answer, "Pushring-Cursor"), Some(&*cursor));
    for at in 0..=frame(1, b"hello").len() {
        let frame = frame(1, b"hello");
        let (front, back) = frame.split_at(at);
        peer.send(front);
        peer.send(back);
        assert_eq!(peer.deliver(), "\u{FFFD}\u{5}hello", "split at {at}");
    }
    let mut peer = echo_peer();
    peer.get("/ws/echo:a,echo:b", HANDSHAKE);
    peer.send(&frame(1, br#"{"channel":"echo:b","data":[1]}"#));
    let id = peer.head("echo:b");
    let object = format!(r#"{{"channel":"echo:b","id":"{id}","data":[1]}}"#);
    assert!(peer.deliver().ends_with(&object));
}

#[test]
fn an_echo_may_come_before_the_answer() {
    let mut peer = echo_peer();
    peer.get("/ws/echo:a", HANDSHAKE);
    peer.holds_questions = true;
    peer.send(&frame(1, b"hello"));
    peer.send(&frame(8, &1000u16.to_be_bytes()));
    assert_eq!(peer.ended, None, "its echo comes first");
    let Some((slot, Question::Publish(publish))) = peer.questions.pop() else {
        panic!("a publish")
    };
    let (published, message) = peer.hub.publish(publish, 0, &mut Vec::new()).unwrap();
    peer.fanout.enqueue(message.unwrap());
    assert_eq!(peer.deliver(), "\u{FFFD}\u{5}hello");
    let answer = Answer::Published(Ok((published, Scope::Alone)));
    let next = peer.step(|transport, context| transport.on_answer(slot, answer, None, context));
    peer.settle(next);
    assert_eq!(take_close_code(&mut peer), 1000);
    assert_eq!(peer.ended, Some(CloseReason::PeerClosed));
}

#[test]
fn who_leaves_does_not_wait_for_an_echo_that_is_lost() {
    let epoch = Epoch::from_random(12345);
    for (echo_is_lost, closes_before) in [(true, true), (true, false), (false, false)] {
        let mut peer = echo_peer();
        peer.get("/ws/echo:a?format=json", HANDSHAKE);
        peer.holds_questions = true;
        peer.send(&frame(1, br#"{"channel":"echo:a","data":1}"#));
        let (slot, _) = peer.questions.remove(0);
        let old_epoch = Position::parse(&peer.head("echo:a")).unwrap().epoch;
        let position = Position {
            epoch: if echo_is_lost { old_epoch } else { epoch },
            offset: 100,
        };
        let published = Published {
            position,
            receivers: 1,
        };
        let answer = Answer::Published(Ok((published, Scope::Alone)));
        let next = peer.step(|transport, context| transport.on_answer(slot, answer, None, context));
        peer.settle(next);
        let close = frame(8, &1000u16.to_be_bytes());
        if closes_before {
            peer.send(&close);
            assert_eq!(peer.ended, None, "its echo comes first");
        }
        // What has the message is no more; others number from here on.
        let gap = Position { epoch, offset: 7 };
        peer.fanout.enqueue_gap(&name("echo:a"), gap);
        assert!(peer.deliver().contains("gap"));
        if !closes_before {
            peer.send(&close);
        }
        let want = echo_is_lost.then_some(CloseReason::PeerClosed);
        assert_eq!(peer.ended, want, "{echo_is_lost} {closes_before}");
    }
}

#[test]
fn every_end_of_a_websocket_has_its_code() {
    let check = |target: &str, input: &[u8], code: u16, reason: CloseReason| {
        let mut peer = echo_peer();
        assert_eq!(status(&peer.get(target, HANDSHAKE)), 101);
        peer.input.extend_from_slice(input);
        peer.offer_input();
        assert_eq!(take_close_code(&mut peer), code, "{target} {input:?}");
        assert_eq!(
            (peer.ended, peer.fanout.channels()),
            (Some(reason), 0),
            "{target} {input:?}"
        );
    };
    let json = "/ws/echo:a?format=json";
    check("/ws/a", &frame(1, b"x"), 1008, CloseReason::Policy);
    check(
        "/ws/echo:a,echo:b?format=raw",
        &frame(1, b"x"),
        1008,
        CloseReason::Policy,
    );
    check(json, &frame(1, b"x"), 1008, CloseReason::Policy);
    check(
        json,
        &frame(1, br#"{"channel":"echo:b","data":1}"#),
        1008,
        CloseReason::Policy,
    );
    check(
        json,
        &frame(
            1,
            br#"{"channel":"echo:a","event":"pushring.gap","data":1}"#,
        ),
        1008,
        CloseReason::Policy,
    );
    check(
        "/ws/echo:a",
        &frame(1, b"\xFF"),
        1007,
        CloseReason::WebSocketProtocol,
    );
    check(
        "/ws/echo:a",
        &[0x81, 1, b'x'],
        1002,
        CloseReason::WebSocketProtocol,
    );
    let too_big = [&[0x82, 0xFF][..], &70_000u64.to_be_bytes(), &[0; 4]].concat();
    check("/ws/echo:a", &too_big, 1009, CloseReason::WebSocketProtocol);
    check(
        "/ws/echo:a",
        &frame(8, &3999u16.to_be_bytes()),
        3999,
        CloseReason::PeerClosed,
    );
}

/// `message_bytes_max` counts the payload, however its sender escapes it.
#[test]
fn a_payload_of_the_greatest_size_may_be_escaped() {
    let bytes_max = Config::default().limits.message_bytes_max;
    for (text, chars_max) in [("\\u0001", bytes_max), ("\\u0436", bytes_max / 2)] {
        let publish = |chars: usize| {
            let object = format!(r#"{{"channel":"echo:a","data":"{}"}}"#, text.repeat(chars));
            let mut peer = echo_peer();
            peer.get("/ws/echo:a?format=json", HANDSHAKE);
            let length = (object.len() as u64).to_be_bytes();
            peer.input = [&[0x81, 0xFF][..], &length, &[0; 4], object.as_bytes()].concat();
            peer.offer_input();
            peer
        };
        assert_eq!(publish(chars_max).ended, None, "{text}");
        assert_eq!(take_close_code(&mut publish(chars_max + 1)), 1009, "{text}");
    }
}

#[test]
fn a_close_frame_without_a_code_is_answered_without_one() {
    let mut peer = Peer::new();
    peer.get("/ws/a", HANDSHAKE);
    peer.input = frame(8, b"");
    peer.offer_input();
    assert_eq!(peer.output, [0x88, 0]);
    assert_eq!(peer.ended, Some(CloseReason::PeerClosed));
}

#[test]
fn a_ping_is_answered_at_once_or_ahead_of_the_backlog() {
    let mut peer = Peer::new();
    peer.get("/ws/a", HANDSHAKE);
    assert_eq!(peer.send(&frame(9, b"hi")), "\u{FFFD}\u{2}hi");
    peer.has_backlog = true;
    assert_eq!(peer.send(&frame(9, b"ho")), "");
    assert_eq!(peer.pong.take(), Some(b"\x8A\x02ho".to_vec()));
}

/// Runs to the end of a WebSocket; gives the times of pings and of the end.
fn heartbeats(peer: &mut Peer, mut at_ping: impl FnMut(&mut Peer)) -> (Vec<u64>, u64) {
    let mut pings = Vec::new();
    for _ in 0..1000 {
        peer.deadline();
        if peer.ended.is_some() {
            break;
        }
        if peer.metrics.heartbeats_sent_total > pings.len() as u64 {
            pings.push(peer.now_ms);
            at_ping(peer);
        }
    }
    (pings, peer.now_ms)
}

#[test]
fn who_gives_no_sign_of_life_is_pinged_and_then_ended() {
    let mut peer = Peer::new();
    let (heartbeat_ms, pong_timeout_ms) = (
        peer.config.timing.heartbeat_ms,
        peer.config.timing.pong_timeout_ms,
    );
    peer.get("/ws/a", HANDSHAKE);
    let (pings, end_ms) = heartbeats(&mut peer, |_| ());
    assert!(!pings.is_empty());
    assert_eq!(
        (end_ms, peer.ended),
        (heartbeat_ms + pong_timeout_ms, Some(CloseReason::NoPong))
    );
}

#[test]
fn who_spoke_is_pinged_before_its_silence_is_an_end() {
    let timing = Config::default().timing;
    for spoke_ms in (0..60_000).step_by(777) {
        let mut peer = Peer::new();
        peer.get("/ws/a", HANDSHAKE);
        while peer.transport.next_deadline_ms(&peer.config).unwrap() < spoke_ms {
            peer.deadline();
            peer.send(&frame(10, b""));
        }
        peer.now_ms = spoke_ms;
        peer.send(&frame(9, b""));
        let before = peer.metrics.heartbeats_sent_total;
        let (_, end_ms) = heartbeats(&mut peer, |_| ());
        assert!(
            peer.metrics.heartbeats_sent_total > before,
            "spoke at {spoke_ms} and was never asked"
        );
        assert_eq!(
            end_ms,
            spoke_ms + timing.heartbeat_ms + timing.pong_timeout_ms
        );
    }
}

#[test]
fn who_answers_every_ping_stays() {
    let mut peer = Peer::new();
    peer.get("/ws/a", HANDSHAKE);
    let mut answered = 0;
    let (pings, _) = heartbeats(&mut peer, |peer| {
        answered += 1;
        if answered < 50 {
            peer.send(&frame(10, b""));
        }
    });
    assert!(pings.len() >= 50);
    let beats = peer.beats();
    let is_on_beat = |pair: &[u64]| pair[1] == beats.next_ms(pair[0]);
    assert!(pings.windows(2).take(48).all(is_on_beat));
}

#[test]
fn who_could_not_be_asked_is_not_ended_for_it() {
    for has_spoken in [false, true] {
        for answers in [false, true] {
            let mut peer = Peer::new();
            peer.get("/ws/a", HANDSHAKE);
            if has_spoken {
                peer.send(&frame(9, b""));
            }
            let timing = peer.config.timing.clone();
            // The process was stopped.
            let woken_ms = peer.now_ms + timing.heartbeat_ms + timing.pong_timeout_ms + 60_000;
            peer.deadline_at(woken_ms);
            assert_eq!(peer.ended, None);
            assert_eq!(peer.metrics.heartbeats_sent_total, 1);
            if answers {
                peer.send(&frame(10, b""));
            }
            let (_, end_ms) = heartbeats(&mut peer, |_| ());
            assert_eq!(peer.ended, Some(CloseReason::NoPong));
            let silent_ms = if answers { timing.heartbeat_ms } else { 0 } + timing.pong_timeout_ms;
            assert_eq!(end_ms, woken_ms + silent_ms);
        }
    }
}

#[test]
fn who_reads_a_long_backlog_is_not_asked_for_a_pong() {
    let mut peer = Peer::new();
    peer.get("/ws/a", HANDSHAKE);
    peer.has_backlog = true;
    for _ in 0..20 {
        assert_eq!(peer.deadline(), "");
        assert_eq!(peer.ended, None);
    }
    peer.has_backlog = false;
    let (pings, _) = heartbeats(&mut peer, |_| ());
    assert_eq!((pings.len(), peer.ended), (1, Some(CloseReason::NoPong)));
}

#[test]
fn a_shutdown_says_when_to_come_back_and_waits_for_the_goodbye() {
    let mut peer = Peer::new();
    peer.get("/ws/a", HANDSHAKE);
    let goodbye = peer.drain();
    assert!(goodbye.contains("shutdown, reconnect after "), "{goodbye}");
    assert_eq!(peer.ended, None);
    assert_eq!(
        peer.publish("a", "late"),
        "",
        "nothing behind the close frame"
    );
    assert_eq!(peer.send(&frame(9, b"")), "");
    assert_eq!(peer.drain(), "", "once");
    peer.send(&frame(8, &3001u16.to_be_bytes()));
    assert_eq!(peer.ended, Some(CloseReason::Shutdown));

    let mut silent = Peer::new();
    silent.get("/ws/a", HANDSHAKE);
    silent.drain();
    silent.now_ms = 1000;
    silent.send(&frame(9, b"still here"));
    silent.deadline();
    assert_eq!(
        (silent.now_ms, silent.ended),
        (
            silent.config.timing.close_timeout_ms,
            Some(CloseReason::Shutdown)
        )
    );
}

#[test]
fn who_leaves_during_a_shutdown_is_told_goodbye_once() {
    for close in [frame(8, b""), frame(8, &1000u16.to_be_bytes())] {
        for drains_first in [false, true] {
            let mut peer = echo_peer();
            peer.get("/ws/echo:a", HANDSHAKE);
            peer.holds_questions = true;
            peer.send(&frame(1, b"hello"));
            for is_drain in [drains_first, !drains_first] {
                if is_drain {
                    peer.is_draining = true;
                    let next = peer.step(|transport, context| transport.on_drain(context));
                    peer.settle(next);
                } else {
                    peer.input.extend_from_slice(&close);
                    peer.offer_input();
                }
            }
            let mut opcodes = opcodes(&std::mem::take(&mut peer.output));
            if peer.ended.is_none() {
                let (slot, question) = peer.questions.remove(0);
                peer.answer(slot, question);
                peer.deliver_quietly();
                opcodes.extend(self::opcodes(&peer.output));
            }
            let expected: &[u8] = if drains_first { &[8] } else { &[1, 8] };
            assert_eq!(opcodes, expected, "{close:?}");
            assert!(peer.ended.is_some());
        }
    }
}

#[test]
fn a_deleted_channel_and_a_slow_reader_are_told() {
    let mut peer = Peer::new();
    peer.get("/ws/a", HANDSHAKE);
    assert!(peer.delete("a").contains("the channel was deleted"));
    assert_eq!(peer.ended, Some(CloseReason::ChannelDeleted));
    let mut peer = Peer::new();
    peer.get("/ws/a", HANDSHAKE);
    peer.step(Transport::on_slow_reader);
    peer.settle(Next::Stay);
    assert_eq!(take_close_code(&mut peer), 3008);
}

#[test]
fn a_websocket_tells_of_its_losses() {
    let mut peer = Peer::new();
    peer.publish("a", "1");
    let cursor = foreign_cursor();
    let raw = peer.get(&format!("/ws/a?since={cursor}"), HANDSHAKE);
    assert_eq!(field(&raw, "Pushring-Recovered"), Some("false"));
    assert!(
        raw.ends_with("\u{FFFD}\u{1}1") && !raw.contains("gap"),
        "{raw}"
    );
    let a0 = peer.head("a").replace("-1", "-0");
    assert_eq!(field(&raw, "Pushring-Cursor"), Some(&*a0));
    let mut json = Peer::new();
    json.publish("a", "1");
    let answer = json.get(&format!("/ws/a?format=json&since={cursor}"), HANDSHAKE);
    let a0 = json.head("a").replace("-1", "-0");
    assert!(
        answer.contains(&format!(r#"{{"gap":{{"channel":"a","position":"{a0}"}}}}"#)),
        "{answer}"
    );
}

#[test]
fn publishes_in_flight_hold_the_input_back() {
    let mut peer = echo_peer();
    peer.config.limits.publishes_in_flight_max = 2;
    peer.get("/ws/echo:a", HANDSHAKE);
    peer.holds_questions = true;
    for _ in 0..3 {
        peer.send(&frame(1, b"x"));
    }
    assert_eq!((peer.questions.len(), peer.input.is_empty()), (2, false));
    let (slot, question) = peer.questions.remove(0);
    peer.answer(slot, question);
    assert_eq!((peer.questions.len(), peer.input.is_empty()), (2, true));
}

#[test]
fn a_websocket_that_is_old_enough_is_sent_back() {
    let mut config = Config::default();
    config.timing.websocket_age_max_ms = 100_000;
    let mut peer = Peer::with_config(config);
    peer.get("/ws/a", HANDSHAKE);
    while peer.ended.is_none() {
        peer.send(&frame(10, b""));
        peer.output.clear();
        peer.now_ms = peer.transport.next_deadline_ms(&peer.config).unwrap();
        let next = peer.step(|transport, context| transport.on_deadline(context));
        peer.settle(next);
    }
    assert!((90_000..=110_064).contains(&peer.now_ms), "{}", peer.now_ms);
    assert_eq!(peer.ended, Some(CloseReason::AgeMax));
    let reason = String::from_utf8_lossy(&peer.output[4..]).into_owned();
    assert_eq!(take_close_code(&mut peer), 3001);
    let delay_ms = reason
        .strip_prefix("maximum age, reconnect after ")
        .and_then(|rest| rest.strip_suffix(" ms"));
    assert!(
        delay_ms.unwrap().parse::<u64>().unwrap() <= 1000,
        "{reason}"
    );
}

#[test]
fn who_is_not_read_is_not_late() {
    for has_begun in [false, true] {
        let mut peer = echo_peer();
        peer.config.limits.publishes_in_flight_max = 1;
        let timing = peer.config.timing.clone();
        peer.get("/ws/echo:a", HANDSHAKE);
        peer.holds_questions = true;
        let mut input = frame(1, b"x");
        if has_begun {
            peer.send(&frame(1, b"y")[..3]);
            input = frame(1, b"y")[3..].to_vec();
        }
        peer.send(&input);
        peer.input.extend_from_slice(&frame(10, b""));
        let (place, question) = peer.questions.remove(0);
        for _ in 0..20 {
            peer.deadline();
        }
        assert!(
            peer.now_ms > timing.heartbeat_ms + timing.pong_timeout_ms + timing.body_timeout_ms
        );
        assert_eq!(peer.ended, None);
        peer.answer(place, question);
        peer.offer_input();
        let read_ms = peer.now_ms;
        peer.deadline();
        assert_eq!(peer.ended, None, "silence counts from now on");
        while peer.ended.is_none() {
            peer.deadline();
        }
        assert_eq!(peer.ended, Some(CloseReason::NoPong));
        assert!(peer.now_ms >= read_ms + timing.heartbeat_ms + timing.pong_timeout_ms);
    }
}

#[test]
fn a_shorter_heartbeat_holds_from_the_next_ping_on() {
    let mut peer = Peer::new();
    peer.get("/ws/a", HANDSHAKE);
    peer.now_ms += 20_000;
    peer.send(&frame(10, b""));
    peer.now_ms += 20_000;
    peer.config.timing.heartbeat_ms = 1000;
    peer.config.timing.pong_timeout_ms = 1000;
    let beats = peer.beats();
    peer.transport
        .beat_anew(beats, peer.now_ms, &mut fastrand::Rng::with_seed(1));
    let began_ms = peer.now_ms;
    peer.deadline();
    assert_eq!(peer.ended, None, "nobody asked it yet");
    while peer.ended.is_none() {
        peer.deadline();
    }
    assert_eq!(peer.ended, Some(CloseReason::NoPong));
    assert!(peer.now_ms - began_ms <= 2000);
}
