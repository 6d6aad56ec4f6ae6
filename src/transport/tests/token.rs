//! Tokens on every transport: in the request, in the first message, in band, and their end.

use serde_json::json;

use super::*;
use crate::auth::sample::{authenticator, configure, key, token};
use crate::config::Namespace;
use crate::config::auth::Access;

/// Tokens of these tests end 60 s after the start, and the connections 10 s later.
const LIFETIME_MS: u64 = 60_000;
const GRACE_MS: u64 = 10_000;

/// `chat:…` wants a token that lists the channel; `echo:…` wants any, and lets clients publish.
fn peer() -> Peer {
    peer_with(|_| {})
}

fn peer_with(change: impl FnOnce(&mut Config)) -> Peer {
    let mut config = Config::default();
    configure(&mut config, false);
    config.auth.token_expiry_grace_ms = GRACE_MS;
    for (name, access) in [("chat", Access::Token), ("echo", Access::Authenticated)] {
        let namespace = Namespace {
            subscribe: access,
            publish: access,
            client_publish: name == "echo",
            ..Namespace::default()
        };
        config.namespaces.insert(name.to_owned(), namespace);
    }
    change(&mut config);
    let mut peer = Peer::with_config(config);
    peer.auth = authenticator(&peer.config);
    peer
}

/// Of user `u`, for `chat:1`, ending in `lifetime_ms` after the start.
fn token_for(lifetime_ms: u64) -> String {
    let exp = lifetime_ms as f64 / 1000.0;
    token(
        "main",
        1,
        &json!({ "sub": "u", "exp": exp, "subscribe": ["chat:1"], "channels": ["chat:1", "news"] }),
    )
}

pub(super) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match payload.len() {
        n @ 0..=125 => frame.push(0x80 | n as u8),
        n => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fn token_frame(token: &str) -> Vec<u8> {
    frame(json!({ "token": token }).to_string().as_bytes())
}

fn authorization(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn handshake(token: &str) -> String {
    format!("{HANDSHAKE}{}", authorization(token))
}

/// The payloads of the server's short text frames.
fn texts(output: &[u8]) -> Vec<String> {
    let (mut texts, mut rest) = (Vec::new(), output);
    while let [0x81, bytes, tail @ ..] = rest {
        let (text, tail) = tail.split_at(usize::from(*bytes));
        texts.push(String::from_utf8(text.to_vec()).unwrap());
        rest = tail;
    }
    assert_eq!(rest, b"", "text frames only");
    texts
}

/// Code and reason of the close frame that is all of the output.
#[track_caller]
fn check_close(peer: &mut Peer, code: u16, reason: &str, ended: CloseReason) {
    let output = std::mem::take(&mut peer.output);
    assert_eq!(output[0], 0x88, "a close frame: {output:?}");
    assert_eq!(u16::from_be_bytes([output[2], output[3]]), code);
    let text = String::from_utf8_lossy(&output[4..]);
    assert!(text.contains(reason), "{text}");
    assert_eq!(peer.ended, Some(ended));
}

/// Sends a frame and leaves the answer in `output`.
fn send_quietly(peer: &mut Peer, bytes: &[u8]) {
    peer.input.extend_from_slice(bytes);
    peer.offer_input();
}

#[test]
fn a_websocket_ends_with_its_token_and_the_grace() {
    let mut peer = peer();
    let answer = peer.get("/ws/chat:1", &handshake(&token_for(LIFETIME_MS)));
    assert_eq!(status(&answer), 101);
    peer.publish("chat:1", "hello");
    while peer.ended.is_none() {
        assert!(peer.now_ms < LIFETIME_MS + GRACE_MS);
        peer.output.clear();
        let next_ms = peer.transport.next_deadline_ms(&peer.config).unwrap();
        peer.now_ms = next_ms;
        let next = peer.step(|transport, context| transport.on_deadline(context));
        peer.settle(next);
        // Who answers every ping stays until then.
        if peer.ended.is_none() {
            send_quietly(&mut peer, &[0x8A, 0x80, 0, 0, 0, 0]);
        }
    }
    assert_eq!(peer.now_ms, LIFETIME_MS + GRACE_MS);
    check_close(&mut peer, 3005, "token expired", CloseReason::TokenExpired);
}

#[test]
fn a_new_token_in_band_moves_the_end() {
    let mut peer = peer();
    peer.get(
        "/ws/chat:1?format=json",
        &handshake(&token_for(LIFETIME_MS)),
    );
    peer.now_ms = LIFETIME_MS + 1;
    send_quietly(&mut peer, &token_frame(&token_for(2 * LIFETIME_MS)));
    let output = std::mem::take(&mut peer.output);
    assert_eq!(texts(&output), [r#"{"refreshed":true}"#]);
    peer.now_ms = LIFETIME_MS + GRACE_MS;
    let next = peer.step(|transport, context| transport.on_deadline(context));
    peer.settle(next);
    assert_eq!(peer.ended, None);
    peer.now_ms = 2 * LIFETIME_MS + GRACE_MS;
    peer.output.clear();
    let next = peer.step(|transport, context| transport.on_deadline(context));
    peer.settle(next);
    check_close(&mut peer, 3005, "token expired", CloseReason::TokenExpired);
}

#[test]
fn a_new_token_that_is_no_good_ends_the_connection() {
    let main = |claims| token("main", 1, &claims);
    for (bad, code, reason) in [
        (
            main(json!({ "sub": "u", "exp": 0, "subscribe": ["chat:1"] })),
            3005,
            "expired",
        ),
        (token("main", 2, &json!({ "exp": 99 })), 3500, "not signed"),
        ("x".to_owned(), 3500, "no token"),
        (main(json!({ "sub": "u", "exp": 99 })), 3507, "not allow"),
        (
            main(json!({ "sub": "v", "exp": 99, "subscribe": ["chat:1"] })),
            3507,
            "another user",
        ),
        (
            main(json!({ "exp": 99, "subscribe": ["chat:1"] })),
            3507,
            "another user",
        ),
    ] {
        let mut peer = peer();
        peer.get(
            "/ws/chat:1?format=json",
            &handshake(&token_for(LIFETIME_MS)),
        );
        // Beyond the leeway of what ended at the start.
        peer.now_ms = 9_000;
        send_quietly(&mut peer, &token_frame(&bad));
        check_close(&mut peer, code, reason, CloseReason::CredentialRefused);
        assert_eq!(peer.metrics.refusals_total.len(), 1);
    }
}

#[test]
fn a_raw_frame_is_a_token_only_where_it_is_no_publish() {
    let mut peer = peer();
    let token = token_for(LIFETIME_MS);
    peer.get("/ws/chat:1", &handshake(&token));
    send_quietly(&mut peer, &token_frame(&token_for(2 * LIFETIME_MS)));
    assert_eq!(
        (&peer.output[..], peer.ended),
        (&b""[..], None),
        "no answer in raw"
    );
    send_quietly(&mut peer, &frame(b"not a token"));
    check_close(&mut peer, 1008, "may not publish", CloseReason::Policy);

    let mut peer = self::peer();
    peer.get("/ws/echo:1", &handshake(&token));
    let message = json!({ "token": "x" }).to_string();
    send_quietly(&mut peer, &frame(message.as_bytes()));
    peer.deliver_quietly();
    let output = std::mem::take(&mut peer.output);
    assert_eq!(texts(&output), [message], "an echo");
}

#[test]
fn an_anonymous_websocket_may_show_a_token_later() {
    let mut peer = peer();
    peer.get("/ws/news?format=json", HANDSHAKE);
    send_quietly(&mut peer, &token_frame(&token_for(LIFETIME_MS)));
    assert_eq!(
        texts(&std::mem::take(&mut peer.output)),
        [r#"{"refreshed":true}"#]
    );
    // Without keys it is a publish of the wrong form, as ever.
    let mut peer = Peer::new();
    peer.get("/ws/news?format=json", HANDSHAKE);
    send_quietly(&mut peer, &token_frame("x"));
    check_close(&mut peer, 1008, "channel, data", CloseReason::Policy);
}

#[test]
fn the_first_message_brings_the_token() {
    for (target, n_positions) in [("/ws/chat:1?format=json", 1), ("/ws/chat:1", 1), ("/ws", 2)] {
        let message = token_frame(&token_for(LIFETIME_MS));
        for at in [0, 1, 7, message.len() / 2, message.len()] {
            let mut peer = peer();
            let answer = peer.get(target, HANDSHAKE);
            assert_eq!(
                (status(&answer), field(&answer, "Pushring-Cursor")),
                (101, None)
            );
            assert_eq!(peer.publish("chat:1", "too early"), "");
            send_quietly(&mut peer, &message[..at]);
            send_quietly(&mut peer, &message[at..]);
            let [answer] = &texts(&std::mem::take(&mut peer.output))[..] else {
                panic!("one frame")
            };
            let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
            assert_eq!(answer["recovered"], true);
            let cursor = answer["cursor"].as_str().unwrap();
            assert_eq!(cursor.split(',').count(), n_positions);
            assert!(cursor.starts_with(&peer.head("chat:1")));
            assert!(peer.publish("chat:1", "hello").contains("hello"));
        }
    }
}

#[test]
fn the_first_message_tells_of_a_loss() {
    let mut peer = peer();
    let target = format!("/ws/chat:1?format=json&since={}", foreign_cursor());
    peer.publish("chat:1", "one");
    peer.get(&target, HANDSHAKE);
    send_quietly(&mut peer, &token_frame(&token_for(LIFETIME_MS)));
    let frames = texts(&std::mem::take(&mut peer.output));
    assert!(frames[0].ends_with(r#","recovered":false}"#), "{frames:?}");
    assert!(
        frames[1].starts_with(r#"{"gap":"#) && frames[2].contains("one"),
        "{frames:?}"
    );
}

#[test]
fn a_first_message_that_is_no_good_token_ends_the_connection() {
    let opened = |config: fn(&mut Config)| {
        let mut peer = peer_with(config);
        peer.get("/ws/chat:1", HANDSHAKE);
        peer
    };
    let other = token("main", 1, &json!({ "exp": 99, "subscribe": ["chat:2"] }));
    for (bytes, code, reason, ended) in [
        (
            token_frame(&token("main", 1, &json!({ "exp": 0 }))),
            3005,
            "expired",
            CloseReason::CredentialRefused,
        ),
        (
            token_frame(&token("main", 2, &json!({ "exp": 99 }))),
            3500,
            "not signed",
            CloseReason::CredentialRefused,
        ),
        (
            token_frame(&token("new", 2, &json!({ "exp": 99 }))),
            3500,
            "No key",
            CloseReason::CredentialRefused,
        ),
        (
            token_frame(&other),
            3507,
            "not allow",
            CloseReason::CredentialRefused,
        ),
        (
            frame(b"hello"),
            3500,
            "first message",
            CloseReason::CredentialRefused,
        ),
        (
            frame(&[b'x'; 9000]),
            1009,
            "",
            CloseReason::WebSocketProtocol,
        ),
        (vec![0x81, 0x00], 1002, "", CloseReason::WebSocketProtocol),
        (
            vec![0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8],
            1000,
            "",
            CloseReason::PeerClosed,
        ),
    ] {
        let mut peer = opened(|_| {});
        // Beyond the leeway of what ended at the start.
        peer.now_ms = 9_000;
        send_quietly(&mut peer, &bytes);
        check_close(&mut peer, code, reason, ended);
    }
    let mut peer = opened(|config| config.auth.auth_timeout_ms = 777);
    send_quietly(&mut peer, &[0x89, 0x80, 0, 0, 0, 0]);
    assert_eq!(std::mem::take(&mut peer.output), [0x8A, 0x00], "a pong");
    peer.deadline();
    assert_eq!(peer.now_ms, 777);
    assert_eq!(peer.ended, Some(CloseReason::CredentialRefused));
    let mut peer = opened(|_| {});
    assert!(peer.drain().contains("shutdown, reconnect after"));
    assert_eq!(peer.ended, Some(CloseReason::Shutdown));
}

#[test]
fn streams_and_long_polls_end_with_their_token() {
    let mut peer = peer();
    peer.get("/sse/chat:1", &authorization(&token_for(LIFETIME_MS)));
    let mut output = String::new();
    while peer.ended.is_none() {
        output = peer.deadline();
    }
    assert_eq!(
        (peer.now_ms, peer.ended),
        (LIFETIME_MS + GRACE_MS, Some(CloseReason::TokenExpired))
    );
    assert_eq!(output, "0\r\n\r\n", "the end of the body");

    let mut peer = self::peer();
    peer.get("/poll/chat:1?wait=60", &authorization(&token_for(5_000)));
    let answer = peer.deadline();
    // A poll behind this one is refused, and not answered at once again and again until it would be.
    let refused_ms = 5_000 + peer.config.auth.token_leeway_ms;
    assert_eq!((peer.now_ms, status(&answer)), (refused_ms, 204));
    let answer = peer.get("/poll/chat:1?wait=60", &authorization(&token_for(5_000)));
    assert_eq!(status(&answer), 401);
    assert_eq!(
        field(&answer, "WWW-Authenticate"),
        Some(r#"Bearer error="invalid_token""#)
    );
    assert_eq!(peer.metrics.token_verifications_total, 1);
    assert_eq!(peer.metrics.token_cache_hits_total, 1);
}

/// The keys of the issuer are there: `new` among them, or not.
fn fetch(peer: &mut Peer, is_there: bool) {
    assert!(
        std::mem::take(&mut peer.effects.awaits_keys),
        "keys are asked for"
    );
    peer.auth.on_waiting(peer.now_ms);
    let keys = match is_there {
        true => [key("new", 9)].into(),
        false => Arc::default(),
    };
    peer.auth.on_fetched(keys);
    let next = peer.step(|transport, context| transport.on_keys(context));
    peer.settle(next);
    peer.offer_input();
}

#[test]
fn what_brings_a_token_of_an_unknown_key_waits_for_the_keys() {
    let claims = json!({ "sub": "u", "exp": 60, "subscribe": ["chat:1"], "publish": ["chat:1"] });
    let new = token("new", 9, &claims);
    let with_issuer = || peer_with(|config| config.auth.jwks = Some("k".to_owned()));
    for is_there in [true, false] {
        // A request, and what was sent behind it.
        let mut peer = with_issuer();
        let requests = format!(
            "POST /pub/chat:1 HTTP/1.1\r\nHost: a\r\n{}Content-Length: 2\r\n\r\nhiGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            authorization(&new)
        );
        assert_eq!(peer.send(requests.as_bytes()), "");
        assert!(!peer.transport.wants_input(&peer.config));
        fetch(&mut peer, is_there);
        let answers = peer.take_output();
        assert_eq!(status(&answers), if is_there { 202 } else { 401 });
        assert_eq!(answers.contains("ok\n"), is_there, "a refused body closes");

        // The first message.
        let mut peer = with_issuer();
        peer.get("/ws/chat:1", HANDSHAKE);
        send_quietly(&mut peer, &token_frame(&new));
        fetch(&mut peer, is_there);
        assert_eq!(peer.ended.is_none(), is_there);

        // A new token in band.
        let mut peer = with_issuer();
        peer.get(
            "/ws/chat:1?format=json",
            &handshake(&token_for(LIFETIME_MS)),
        );
        send_quietly(&mut peer, &token_frame(&new));
        assert_eq!(peer.output, b"");
        fetch(&mut peer, is_there);
        assert_eq!(peer.ended.is_none(), is_there);
    }
    // Keys that never come.
    let mut peer = with_issuer();
    peer.get("/poll/chat:1", &authorization(&new));
    peer.deadline();
    // What is still to be sent before its answer may take long, and a time that is over is not waited for again.
    assert_eq!(peer.transport.next_deadline_ms(&peer.config), None);
    peer.offer_input();
    assert_eq!(status(&peer.take_output()), 401);
}
