//! Requests that wait for the backend's leave, on every transport.

use super::token::frame;
use super::*;
use crate::api::callback::{Consultation, Decision, Denial, Permit};
use crate::api::credentials::Credentials;
use crate::auth::sample::{authenticator, configure, token};
use crate::config::Namespace;
use crate::config::auth::Access;

/// The backend is asked about `ask:…`; `both:…` needs a token, too. Questions are kept.
fn peer() -> Peer {
    let mut config = Config::default();
    configure(&mut config, false);
    for (name, subscribe) in [("ask", Access::Public), ("both", Access::Authenticated)] {
        let namespace = Namespace {
            subscribe,
            publish: Access::Authenticated,
            client_publish: true,
            authorize_url: Some("http://backend/".to_owned()),
            ..Namespace::default()
        };
        config.namespaces.insert(name.to_owned(), namespace);
    }
    let mut peer = Peer::with_config(config);
    peer.auth = authenticator(&peer.config);
    peer.holds_questions = true;
    peer
}

/// What the backend is asked; it has nothing else to be answered first.
#[track_caller]
fn consultation(peer: &Peer) -> &Consultation {
    match &peer.questions[..] {
        [(0, Question::Authorize(consultation))] => consultation,
        questions => panic!("{questions:?}"),
    }
}

/// The backend decides, and the homes answer what is asked then.
fn decide(peer: &mut Peer, decision: Decision) -> String {
    consultation(peer);
    peer.questions.clear();
    peer.holds_questions = false;
    let answer = Answer::Authorized(decision);
    let next = peer.step(|transport, context| transport.on_answer(0, answer, None, context));
    peer.settle(next);
    peer.offer_input();
    peer.take_output()
}

fn allowed() -> Decision {
    Decision::Allowed(Permit::of(None, None))
}

fn until(until_ms: u64) -> Decision {
    Decision::Allowed(Permit::of(Some("b"), Some(until_ms)))
}

const DENIED: Decision = Decision::Denied(Denial::Forbidden);

#[test]
fn a_request_waits_for_the_decision_and_then_goes_on_or_not() {
    for (target, fields, want) in [
        ("/poll/ask:1", "", 204),
        ("/poll/ask:1?wait=30", "", 0),
        ("/sse/ask:1", "", 200),
        ("/ws/ask:1", HANDSHAKE, 101),
    ] {
        let outcomes = [
            (allowed(), want),
            (DENIED, 403),
            (Decision::Denied(Denial::Unauthorized), 401),
            (Decision::Down, 503),
            (Decision::Busy, 503),
        ];
        for (decision, want) in outcomes {
            let mut peer = peer();
            assert_eq!(peer.get(target, fields), "", "{target}");
            assert_eq!(consultation(&peer).channels, [name("ask:1")]);
            assert_eq!(peer.transport.next_deadline_ms(&peer.config), None);
            assert!(!peer.transport.wants_input(&peer.config));
            let answer = decide(&mut peer, decision.clone());
            match want {
                0 => assert!(matches!(peer.transport, Transport::LongPoll(_))),
                _ => assert_eq!(status(&answer), want, "{target} {decision:?}"),
            }
            let has_retry = want == 503;
            assert!(answer.is_empty() || field(&answer, "Retry-After").is_some() == has_retry);
            if want >= 400 {
                assert_eq!(peer.fanout.channels(), 0, "nobody listens");
                // The connection is good for another request.
                assert_eq!(status(&peer.get("/poll/news", "")), 204);
            }
        }
    }
}

#[test]
fn a_first_message_is_passed_on_as_a_token() {
    for (decision, want) in [
        (allowed(), None),
        (DENIED, Some((3507, CloseReason::CredentialRefused))),
        (Decision::Down, Some((1011, CloseReason::Unavailable))),
    ] {
        let mut peer = peer();
        assert_eq!(status(&peer.get("/ws/both:1", HANDSHAKE)), 101);
        assert_eq!(peer.questions.len(), 0, "its token is due first");
        let token = token("main", 1, &serde_json::json!({ "sub": "u", "exp": 60 }));
        peer.send(&frame(format!(r#"{{"token":"{token}"}}"#).as_bytes()));
        let asked = consultation(&peer);
        assert_eq!(asked.user.as_deref(), Some("u"));
        let shown = [("Authorization", &*format!("Bearer {token}"))];
        assert!(*asked.credentials == Credentials::of(&shown));
        decide_quietly(&mut peer, decision);
        assert_eq!(peer.ended, want.map(|(_, reason)| reason));
        if let Some((code, _)) = want {
            let code = u16::to_be_bytes(code);
            assert_eq!(peer.output[2..4], code, "{:?}", peer.output);
        }
    }
}

fn decide_quietly(peer: &mut Peer, decision: Decision) {
    peer.questions.clear();
    peer.holds_questions = false;
    let answer = Answer::Authorized(decision);
    let next = peer.step(|transport, context| transport.on_answer(0, answer, None, context));
    peer.settle(next);
}

#[test]
fn what_is_allowed_for_a_while_ends_then() {
    // An event stream.
    let mut peer = peer();
    peer.get("/sse/ask:1", "");
    decide(&mut peer, until(9_000));
    while peer.ended.is_none() {
        peer.deadline();
    }
    let ended = Some(CloseReason::TokenExpired);
    assert_eq!((peer.now_ms, peer.ended), (9_000, ended));

    // A long poll is answered, and the next one asks again.
    let mut peer = self::peer();
    peer.get("/poll/ask:1?wait=60", "");
    decide(&mut peer, until(9_000));
    assert_eq!(status(&peer.deadline()), 204);
    assert_eq!(peer.now_ms, 9_000);

    // A WebSocket, though a new token comes before.
    let mut peer = self::peer();
    peer.get("/ws/ask:1?format=json", HANDSHAKE);
    decide(&mut peer, until(9_000));
    let token = token("main", 1, &serde_json::json!({ "sub": "b", "exp": 600 }));
    peer.now_ms = 1;
    let answer = peer.send(&frame(format!(r#"{{"token":"{token}"}}"#).as_bytes()));
    assert!(answer.contains("refreshed"), "{answer}");
    let mut output = String::new();
    while peer.ended.is_none() {
        output = peer.deadline();
    }
    assert_eq!((peer.now_ms, peer.ended), (9_000, ended));
    assert!(output.contains("permission expired, reconnect"), "{output}");
}

#[test]
fn whom_the_backend_names_is_a_user() {
    for (user, want) in [(Some("b"), None), (None, Some(CloseReason::Policy))] {
        let mut peer = peer();
        peer.get("/ws/ask:1", HANDSHAKE);
        decide(&mut peer, Decision::Allowed(Permit::of(user, Some(9_000))));
        peer.send(&frame(b"hello"));
        assert_eq!(peer.ended, want, "{user:?}");
    }
}

#[test]
fn a_drain_waits_for_the_decision() {
    let mut peer = peer();
    peer.get("/poll/ask:1?wait=30", "");
    assert_eq!(peer.drain(), "");
    let answer = decide(&mut peer, allowed());
    assert_eq!(status(&answer), 204);
    assert_eq!(field(&answer, "Connection"), Some("close"));
}
