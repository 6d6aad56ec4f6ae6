//! Requests that wait until the backend has said who sends them, on every transport.

use super::token::frame;
use super::*;
use crate::api::callback::{About, Decision, Denial, Reply};
use crate::auth::sample::{authenticator, configure, token};
use crate::config::Namespace;
use crate::config::auth::Access;

/// `list:…` is for whom a list has it. Questions are kept.
fn peer(with_keys: bool) -> Peer {
    let mut config = Config::default();
    config.auth.connect_url = Some("http://who/".to_owned());
    if with_keys {
        configure(&mut config, false);
    }
    let namespace = Namespace {
        subscribe: Access::Token,
        publish: Access::Token,
        client_publish: true,
        ..Namespace::default()
    };
    config.namespaces.insert("list".to_owned(), namespace);
    let mut peer = Peer::with_config(config);
    peer.auth = authenticator(&peer.config);
    peer.holds_questions = true;
    peer
}

fn answered(body: &str, now_ms: u64) -> Decision {
    let json = Some("application/json");
    let reply = Reply::parse(About::Caller, 200, json, body.as_bytes());
    reply.unwrap().decide(now_ms)
}

/// The backend decides who it is, and the homes answer what is asked then.
#[track_caller]
fn decide(peer: &mut Peer, decision: Decision) -> String {
    match &peer.questions[..] {
        [(0, Question::Authorize(asked))] => assert_eq!(asked.about, About::Caller),
        questions => panic!("{questions:?}"),
    }
    peer.questions.clear();
    peer.holds_questions = false;
    let answer = Answer::Authorized(decision);
    let next = peer.step(|transport, context| transport.on_answer(0, answer, None, context));
    peer.settle(next);
    peer.offer_input();
    peer.take_output()
}

#[test]
fn an_answer_opens_what_a_token_would() {
    let lists = r#"{"user":"u","subscribe":["list:*"],"channels":["list:2","a"]}"#;
    for (target, fields, want) in [
        ("/poll/list:1", "", 204),
        ("/poll", "", 204),
        ("/poll/list:1?wait=30", "", 0),
        ("/poll?wait=30", "", 0),
        ("/sse/list:1", "", 200),
        ("/sse", "", 200),
        ("/ws/list:1", HANDSHAKE, 101),
        ("/ws", HANDSHAKE, 101),
    ] {
        let outcomes = [
            (answered(lists, 0), want),
            (answered("{}", 0), 401),
            (Decision::Denied(Denial::Unauthorized), 401),
            (Decision::Denied(Denial::Forbidden), 403),
            (Decision::Down, 503),
        ];
        for (decision, want) in outcomes {
            let mut peer = peer(false);
            assert_eq!(peer.get(target, fields), "", "{target}");
            assert!(!peer.transport.wants_input(&peer.config));
            let answer = decide(&mut peer, decision.clone());
            match want {
                0 => assert!(matches!(peer.transport, Transport::LongPoll(_))),
                _ => assert_eq!(status(&answer), want, "{target} {decision:?}"),
            }
            if want >= 400 {
                assert_eq!(peer.fanout.channels(), 0, "nobody listens");
            } else {
                let user = peer.transport.session().map(|it| it.grant.user.as_deref());
                let is_kept = want != 204;
                assert_eq!(user, is_kept.then_some(Some("u")), "{target}");
            }
        }
    }
}

#[test]
fn what_the_answer_lists_may_be_published() {
    let publishes = r#"{"publish":["a"]}"#;
    for (body, target, message, want) in [
        (publishes, "/ws/a", "x", None),
        (publishes, "/ws/b", "x", Some(CloseReason::Policy)),
        ("{}", "/ws/a", "x", Some(CloseReason::Policy)),
        (
            publishes,
            "/ws/a,b?format=json",
            r#"{"channel":"a","data":1}"#,
            None,
        ),
    ] {
        let mut peer = peer(false);
        peer.get(target, HANDSHAKE);
        assert_eq!(status(&decide(&mut peer, answered(body, 0))), 101);
        peer.send(&frame(message.as_bytes()));
        assert_eq!(peer.ended, want, "{body} {target}");
    }
}

#[test]
fn a_publish_keeps_its_body_until_it_is_known_whose_it_is() {
    for (decision, want) in [
        (answered(r#"{"publish":["list:1"]}"#, 0), 202),
        (answered(r#"{"user":"u"}"#, 0), 403),
        (Decision::Denied(Denial::Unauthorized), 401),
        (Decision::Busy, 503),
    ] {
        // Whole, and in two parts.
        for missing in [0, 3] {
            let mut peer = peer(false);
            let head = "POST /pub/list:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
            let text = format!("{head}hello");
            let (first, second) = text.split_at(text.len() - missing);
            peer.send(first.as_bytes());
            let is_asked = !peer.questions.is_empty();
            assert_eq!(is_asked, missing == 0, "the body comes first");
            peer.send(second.as_bytes());
            let answer = decide(&mut peer, decision.clone());
            assert_eq!(status(&answer), want, "{answer}");
            peer.holds_questions = true;
            peer.get("/poll/list:1?last=1", "");
            let answer = decide(&mut peer, answered(r#"{"subscribe":["*"]}"#, 0));
            assert_eq!(
                answer.contains(r#""data":"hello""#),
                want == 202,
                "{answer}"
            );
        }
    }
}

#[test]
fn the_end_of_the_answer_is_the_end_of_what_it_opened() {
    let body = r#"{"user":"u","expires_in":9}"#;
    for (target, fields, want) in [
        ("/sse/a", "", Some(CloseReason::TokenExpired)),
        ("/ws/a", HANDSHAKE, Some(CloseReason::TokenExpired)),
        // Answered, and the next one asks again.
        ("/poll/a?wait=60", "", None),
    ] {
        let mut peer = peer(false);
        peer.get(target, fields);
        decide(&mut peer, answered(body, 0));
        let mut output = String::new();
        while peer.ended.is_none() && peer.now_ms < 9_000 {
            output = peer.deadline();
        }
        assert_eq!((peer.now_ms, peer.ended), (9_000, want), "{target}");
        match target {
            "/poll/a?wait=60" => assert_eq!(status(&output), 204),
            "/ws/a" => assert!(output.contains("permission expired, reconnect"), "{output}"),
            _ => {}
        }
    }
}

#[test]
fn nobody_may_still_bring_a_token_where_a_key_can_judge_it() {
    let mut peer = peer(true);
    peer.get("/ws/list:1", HANDSHAKE);
    let answer = decide(&mut peer, answered("{}", 0));
    assert_eq!(status(&answer), 101);
    assert_eq!(field(&answer, "Pushring-Cursor"), None);
    let claims = serde_json::json!({ "sub": "t", "exp": 60, "subscribe": ["list:1"] });
    let token = token("main", 1, &claims);
    let answer = peer.send(&frame(format!(r#"{{"token":"{token}"}}"#).as_bytes()));
    assert!(answer.contains("cursor"), "{answer}");
    let session = peer.transport.session().unwrap();
    assert_eq!(session.grant.user.as_deref(), Some("t"));
}
