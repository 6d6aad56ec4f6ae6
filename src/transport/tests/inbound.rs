//! Peers that send too fast, or too slowly.

use super::*;
use crate::config::Namespace;

/// May publish to `echo:…`; so many messages and bytes a second.
fn peer(messages: usize, bytes: usize) -> Peer {
    let mut config = Config::default();
    config.limits.inbound_messages_per_second_max = messages;
    config.limits.inbound_bytes_per_second_max = bytes;
    let echo = Namespace {
        client_publish: true,
        ..Namespace::default()
    };
    config.namespaces.insert("echo".to_owned(), echo);
    Peer::with_config(config)
}

fn websocket(messages: usize, bytes: usize) -> Peer {
    let mut peer = peer(messages, bytes);
    assert_eq!(status(&peer.get("/ws/echo:a", HANDSHAKE)), 101);
    // The handshake is long ago.
    peer.now_ms += 10_000;
    peer
}

/// A frame of a client with the mask 0.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];
const PONG: [u8; 6] = [0x8A, 0x80, 0, 0, 0, 0];

/// How many of `frames`, each after so many milliseconds, are taken before the connection is closed for its rate.
#[track_caller]
fn check(mut peer: Peer, frames: &[(u64, &[u8])], want: usize) {
    let mut taken = 0;
    for (after_ms, frame) in frames {
        peer.now_ms += after_ms;
        peer.send(frame);
        peer.deliver();
        if peer.ended.is_some() {
            break;
        }
        taken += 1;
    }
    assert_eq!(taken, want);
    let want = (want < frames.len()).then_some(CloseReason::RateExceeded);
    assert_eq!(peer.ended, want);
}

#[test]
fn a_websocket_that_sends_too_fast_is_closed() {
    let ping: (u64, &[u8]) = (0, &PING);
    // The first after a silence is free.
    check(websocket(3, 0), &[ping; 4], 4);
    check(websocket(3, 0), &[ping; 5], 4);
    check(websocket(3, 0), &[(334, &PING[..]); 50], 50);
    check(websocket(0, 0), &[ping; 50], 50);
    let message = frame(1, b"hello");
    check(websocket(3, 0), &[(0, &message[..]); 9], 3 + 1);
    let large = frame(2, &[7; 5000]);
    // A large one passes, and is paid for: 5000 bytes beyond the first second's 1000.
    check(
        websocket(0, 1000),
        &[(0, &large), (4000, &PING), (0, &PING)],
        2,
    );
    check(
        websocket(0, 1000),
        &[(0, &large), (4010, &PING), (0, &PING)],
        3,
    );
    check(
        websocket(0, 1000),
        &[(0, &PING), (0, &large), (0, &PING)],
        2,
    );
    let mut peer = websocket(1, 0);
    peer.input.extend_from_slice(&[PING, PING, PING].concat());
    peer.offer_input();
    let goodbye = [&1008u16.to_be_bytes()[..], b"messages come too fast"].concat();
    let output = peer.output.escape_ascii();
    assert!(peer.output.ends_with(&goodbye), "{output}");
}

#[test]
fn a_close_frame_is_never_too_fast() {
    let mut peer = websocket(1, 0);
    let close = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];
    peer.send(&[&PING[..], &PING, &close].concat());
    assert_eq!(peer.ended, Some(CloseReason::PeerClosed));
}

#[test]
fn the_answer_to_a_heartbeat_does_not_count() {
    let mut peer = websocket(1, 0);
    for _ in 0..3 {
        peer.now_ms += 1000;
        peer.send(&PONG);
        peer.send(&frame(1, b"hello"));
        peer.deliver();
        assert_eq!(peer.ended, None);
        peer.now_ms += 1000;
    }
    peer.send(&[PONG; 9].concat());
    assert_eq!(peer.ended, Some(CloseReason::RateExceeded), "a flood does");
}

#[test]
fn requests_that_come_too_fast_are_refused_and_the_connection_goes_on() {
    let mut peer = peer(3, 0);
    let mut get = |now_ms: u64| {
        peer.now_ms = now_ms;
        let answer = peer.get("/healthz", "");
        let is_told = field(&answer, "Retry-After").is_some()
            && body(&answer).contains("\"request_rate_exceeded\"");
        assert_eq!(is_told, status(&answer) == 429, "{answer}");
        assert_eq!(peer.ended, None);
        status(&answer)
    };
    assert_eq!([0, 0, 0, 0, 0].map(&mut get), [200, 200, 200, 429, 429]);
    assert_eq!([330, 330, 5000].map(&mut get), [200, 429, 200]);
}

#[test]
fn a_long_poll_that_was_answered_counts_like_any_request() {
    let mut peer = peer(3, 0);
    let mut poll = |now_ms: u64| {
        peer.now_ms = now_ms;
        let mut answer = peer.get("/poll/a?wait=0.001", "");
        if answer.is_empty() {
            answer = peer.deadline();
        }
        status(&answer)
    };
    assert_eq!([0, 1, 2, 3, 4].map(&mut poll), [204, 204, 204, 204, 429]);
    assert_eq!([338, 339].map(&mut poll), [204, 429]);
}

#[test]
fn bytes_of_a_request_are_paid_for_by_the_next() {
    let mut peer = peer(0, 1000);
    let post = format!(
        "POST /pub/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{}",
        "x".repeat(5000)
    );
    let (front, back) = post.split_at(3000);
    assert_eq!(peer.send(front.as_bytes()), "");
    assert_eq!(status(&peer.send(back.as_bytes())), 202);
    for (now_ms, want) in [(0, 429), (3900, 429), (4500, 200), (4500, 200)] {
        peer.now_ms = now_ms;
        assert_eq!(status(&peer.get("/healthz", "")), want, "at {now_ms} ms");
    }
}

#[test]
fn the_backend_on_its_own_side_may_send_as_fast_as_it_likes() {
    for (side, want) in [
        (Side::Internal, 200),
        (Side::Public, 429),
        (Side::Both, 429),
    ] {
        let mut peer = peer(1, 0);
        peer.side = side;
        peer.get("/healthz", "");
        assert_eq!(status(&peer.get("/healthz", "")), want, "{side:?}");
    }
}

#[test]
fn a_message_that_does_not_come_to_its_end_is_given_up() {
    let timeout_ms = Config::default().timing.body_timeout_ms;
    let whole = frame(1, b"hello");
    // The header of a frame; a part of its payload; a fragment.
    for begin in [&whole[..1], &whole[..10], &[0x01, 0x81, 0, 0, 0, 0, b'x']] {
        let mut peer = websocket(0, 0);
        let began_ms = peer.now_ms;
        peer.send(begin);
        while peer.ended.is_none() {
            peer.deadline();
            assert!(peer.now_ms <= began_ms + timeout_ms, "{begin:?}");
            // In sight, but no further.
            peer.send(&PONG[..if begin.len() == 7 { 6 } else { 0 }]);
        }
        assert_eq!(peer.ended, Some(CloseReason::RequestTimeout));
        assert_eq!(peer.now_ms, began_ms + timeout_ms, "{begin:?}");
    }
}

#[test]
fn a_slow_but_honest_message_gets_through() {
    let mut peer = websocket(0, 0);
    let payload = vec![b'x'; 60_000];
    let first = [&[0x01][..], &frame(1, &payload)[1..]].concat();
    let next = [&[0x00][..], &frame(1, &payload)[1..]].concat();
    peer.config.limits.message_bytes_max = 1 << 20;
    peer.send(&first);
    for _ in 0..10 {
        // Less than half of the time for each 60,000 bytes: every second one is 64 KiB further.
        peer.now_ms += 14_000;
        let next_step = peer.step(|transport, context| transport.on_deadline(context));
        peer.settle(next_step);
        peer.send(&next);
        assert_eq!(peer.ended, None);
    }
    peer.send(&[0x80, 0x80, 0, 0, 0, 0]);
    assert_eq!(peer.deliver().matches('x').count(), 11 * 60_000);
    let due_ms = peer.transport.next_deadline_ms(&peer.config);
    assert!(due_ms.unwrap() > peer.now_ms, "nothing is in the middle");
}
