//! Requests and polls.

use super::*;

const PIPELINE: &[u8] = b"POST /pub/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\
    POST /pub/a?store=false HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n2\r\nyz\r\n0\r\n\r\n\
    GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n\
    GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n\
    HEAD /readyz HTTP/1.1\r\nHost: a\r\n\r\n\
    GET /poll/a?since=earliest HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
    DELETE /channels/a HTTP/1.1\r\nHost: a\r\n\r\n\
    GET /channels/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn a_pipeline_is_answered_the_same_however_it_is_split() {
    let mut whole = Peer::new();
    let expected = whole.send(PIPELINE);
    let statuses: Vec<_> = expected
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| status(&expected[at..]))
        .collect();
    assert_eq!(statuses, [202, 202, 200, 404, 200, 200, 204, 404]);
    assert_eq!(whole.ended, Some(CloseReason::Refused));
    let send_parts = |parts: &[&[u8]]| {
        let mut peer = Peer::new();
        let output: String = parts.iter().map(|part| peer.send(part)).collect();
        assert_eq!(peer.ended, Some(CloseReason::Refused));
        output
    };
    for at in 0..PIPELINE.len() {
        let (front, back) = PIPELINE.split_at(at);
        assert_eq!(send_parts(&[front, back]), expected, "split at {at}");
    }
    let bytes: Vec<_> = PIPELINE.chunks(1).collect();
    assert_eq!(send_parts(&bytes), expected, "byte by byte");
}

#[test]
fn a_connection_is_kept_if_both_sides_can() {
    for (head, is_kept) in [
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", true),
        (
            "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            false,
        ),
        ("GET /healthz HTTP/1.0\r\n\r\n", false),
        (
            "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            true,
        ),
        ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", true),
        // Where the body of a refused request ends nobody knows.
        (
            "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            false,
        ),
        (
            "POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            true,
        ),
        ("nonsense\r\n\r\n", false),
        (
            "POST /pub/a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n",
            false,
        ),
        (
            "POST /pub/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            false,
        ),
    ] {
        let mut peer = Peer::new();
        assert!(!peer.send(head.as_bytes()).is_empty(), "{head}");
        assert_eq!(peer.ended.is_none(), is_kept, "{head}");
    }
}

/// RFC 9110 §6.6.1: a server with a clock dates every answer, refusals included.
#[test]
fn every_answer_is_dated() {
    for (input, want) in [
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET /poll/a HTTP/1.1\r\nHost: a\r\n\r\n", 204),
        ("GET /sse/a HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET /ws/a HTTP/1.1\r\nHost: a\r\n\r\n", 426),
        ("nonsense\r\n\r\n", 400),
    ] {
        let answer = Peer::new().send(input.as_bytes());
        assert_eq!(status(&answer), want, "{input}");
        assert_eq!(
            field(&answer, "Date").map(str::as_bytes),
            Some(DATE),
            "{input}"
        );
    }
}

/// RFC 9110 §15.5.22, §7.8.
#[test]
fn who_has_to_upgrade_is_told_to_what() {
    let answer = Peer::new().send(b"GET /ws/a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(status(&answer), 426);
    for (name, value) in [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
    ] {
        assert_eq!(field(&answer, name), Some(value), "{answer}");
    }
}

#[test]
fn head_gets_the_head_that_get_would_get() {
    for target in [
        "/healthz",
        "/channels",
        "/poll/a?since=earliest",
        "/nothing",
        "/poll/a?wait=9",
    ] {
        let mut peer = Peer::new();
        peer.publish("a", "hi");
        let get = match target {
            "/poll/a?wait=9" => peer.get("/poll/a", ""),
            target => peer.get(target, ""),
        };
        let head = peer.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(head, get[..get.len() - body(&get).len()], "{target}");
    }
    let mut peer = Peer::new();
    let head = peer.send(b"HEAD /sse/a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (field(&head, "Content-Type"), body(&head)),
        (Some("text/event-stream"), "")
    );
    assert_eq!(peer.ended, Some(CloseReason::Answered));
}

#[test]
fn a_client_that_expects_it_is_told_to_go_on() {
    let head =
        b"POST /pub/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut peer = Peer::new();
    assert_eq!(peer.send(head), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(status(&peer.send(b"hi")), 202);
    let with_body = [&head[..], b"h"].concat();
    assert_eq!(Peer::new().send(&with_body), "", "it did not wait");
    let too_large = b"POST /pub/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n";
    assert_eq!(status(&Peer::new().send(too_large)), 413);
}

#[test]
fn every_phase_has_its_deadline() {
    let timing = Config::default().timing;
    for (input, due_ms, answer, reason) in [
        (&b""[..], timing.idle_timeout_ms, None, CloseReason::Idle),
        (
            b"GET / HT",
            timing.head_timeout_ms,
            Some(408),
            CloseReason::RequestTimeout,
        ),
        (
            b"POST /pub/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh",
            timing.body_timeout_ms,
            Some(408),
            CloseReason::RequestTimeout,
        ),
        // An answer, whichever it is, begins the wait for the next request.
        (
            b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            1000 + timing.idle_timeout_ms,
            None,
            CloseReason::Idle,
        ),
        (
            b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
            1000 + timing.idle_timeout_ms,
            None,
            CloseReason::Idle,
        ),
    ] {
        let mut peer = Peer::new();
        peer.now_ms = if due_ms > timing.idle_timeout_ms {
            1000
        } else {
            0
        };
        peer.send(input);
        let output = peer.deadline();
        assert_eq!(peer.now_ms, due_ms, "{input:?}");
        assert_eq!(
            (!output.is_empty()).then(|| status(&output)),
            answer,
            "{input:?}"
        );
        assert_eq!(peer.ended, Some(reason), "{input:?}");
    }
}

#[test]
fn a_page_of_a_denied_origin_gets_403() {
    let config = Config {
        allowed_origins: vec!["https://a.net".to_owned()],
        ..Config::default()
    };
    let mut peer = Peer::with_config(config);
    assert_eq!(
        status(&peer.get("/poll/a", "Origin: https://b.net\r\n")),
        403
    );
    let allowed = peer.get("/poll/a", "Origin: https://a.net\r\n");
    assert_eq!(status(&allowed), 204);
    assert_eq!(
        field(&allowed, "Access-Control-Allow-Origin"),
        Some("https://a.net")
    );
    assert_eq!(field(&allowed, "Vary"), Some("Origin"));
    let preflight =
        peer.send(b"OPTIONS /pub/a HTTP/1.1\r\nHost: a\r\nOrigin: https://a.net\r\n\r\n");
    assert_eq!(
        field(&preflight, "Access-Control-Allow-Methods"),
        Some("POST, OPTIONS")
    );
}

#[test]
fn readiness_and_keeping_end_with_the_drain() {
    let mut peer = Peer::new();
    peer.is_draining = true;
    let answer = peer.get("/readyz", "");
    assert_eq!(
        (status(&answer), field(&answer, "Connection")),
        (503, Some("close"))
    );
    assert!(field(&answer, "Retry-After").is_some());
    let mut idle = Peer::new();
    idle.drain();
    assert_eq!(idle.ended, Some(CloseReason::Shutdown));
}

#[test]
fn a_short_poll_tells_where_now_is() {
    let mut peer = Peer::new();
    peer.publish("a", "1");
    let now = peer.head("a");
    let answer = peer.get("/poll/a", "");
    assert_eq!(
        (status(&answer), field(&answer, "Pushring-Cursor")),
        (204, Some(&*now))
    );
    assert_eq!(field(&answer, "Cache-Control"), Some("no-store"));
    peer.publish("a", "2");
    let answer = peer.get(&format!("/poll/a?since={now}"), "");
    let id = peer.head("a");
    let expected = format!(
        r#"{{"cursor":"{id}","recovered":true,"messages":[{{"channel":"a","id":"{id}","data":"2"}}]}}"#
    );
    assert_eq!((status(&answer), body(&answer)), (200, &*expected));
    let lost = peer.get(&format!("/poll/a?limit=1&since={}", foreign_cursor()), "");
    assert!(body(&lost).contains(r#""recovered":false"#), "{lost}");
    assert!(
        body(&lost).contains(r#""data":"1""#) && !body(&lost).contains(r#""data":"2""#),
        "{lost}"
    );
}

#[test]
fn a_long_poll_is_answered_by_the_first_message() {
    let mut peer = Peer::new();
    assert_eq!(peer.get("/poll/a,b?wait=9", ""), "");
    // The next request waits for its turn.
    assert_eq!(peer.get("/healthz", ""), "");
    let answer = peer.publish("b", "hi");
    let cursor = format!("{},{}", peer.head("a"), peer.head("b"));
    assert_eq!(field(&answer, "Pushring-Cursor"), Some(&*cursor));
    assert!(answer.ends_with("ok\n"), "and then the next one: {answer}");
    assert_eq!(
        (peer.fanout.channels(), peer.transport.kind()),
        (0, TransportKind::Http)
    );
}

#[test]
fn a_long_poll_without_a_message_ends_in_204_with_the_same_cursor() {
    let mut peer = Peer::new();
    peer.get("/poll/a?wait=10", "");
    let answer = peer.deadline();
    assert!(
        (9_000..=10_000).contains(&peer.now_ms),
        "jittered down by a tenth at most"
    );
    let now = peer.head("a");
    assert_eq!(
        (status(&answer), field(&answer, "Pushring-Cursor")),
        (204, Some(&*now))
    );
    assert_eq!(peer.ended, None);
    assert_eq!(peer.fanout.channels(), 0);

    peer.get("/poll/a?wait=10", "");
    let answer = peer.drain();
    assert_eq!(
        (status(&answer), field(&answer, "Connection")),
        (204, Some("close"))
    );
    assert_eq!(
        (peer.ended, peer.fanout.channels()),
        (Some(CloseReason::Shutdown), 0)
    );

    let mut peer = Peer::new();
    peer.get("/poll/a?wait=10", "");
    assert_eq!(status(&peer.delete("a")), 204);
    assert_eq!(
        (peer.ended, peer.fanout.channels()),
        (Some(CloseReason::ChannelDeleted), 0)
    );
}

#[test]
fn a_poll_of_many_channels_takes_no_more_bytes_than_a_poll_of_one() {
    let mut peer = Peer::new();
    peer.config.limits.outbox_bytes_max = 10_000;
    let payload = "x".repeat(4_000);
    let channels = ["a", "b", "c"];
    for channel in channels.repeat(2) {
        peer.publish(channel, &payload);
    }
    let mut target = "/poll/a,b,c?since=earliest".to_owned();
    for _ in 0..3 {
        let answer = peer.get(&target, "");
        assert_eq!(answer.matches(&payload).count(), 2, "two fit");
        let cursor = field(&answer, "Pushring-Cursor").unwrap();
        target = format!("/poll/a,b,c?since={cursor}");
    }
    assert_eq!(status(&peer.get(&target, "")), 204);
}

#[test]
fn a_long_poll_takes_no_more_than_its_limit() {
    let mut peer = Peer::new();
    peer.get("/poll/a?wait=9&limit=1", "");
    for text in ["1", "2"] {
        let publish = format!("POST /pub/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{text}");
        let mut other = Peer::new();
        std::mem::swap(&mut other.hub, &mut peer.hub);
        std::mem::swap(&mut other.fanout, &mut peer.fanout);
        other.send(publish.as_bytes());
        std::mem::swap(&mut other.hub, &mut peer.hub);
        std::mem::swap(&mut other.fanout, &mut peer.fanout);
    }
    let answer = peer.deliver();
    assert!(body(&answer).contains(r#""data":"1"}]"#), "{answer}");
    let cursor = field(&answer, "Pushring-Cursor").unwrap().to_owned();
    let rest = peer.get(&format!("/poll/a?since={cursor}"), "");
    assert!(
        body(&rest).contains(r#""recovered":true,"messages":[{"channel":"a""#),
        "{rest}"
    );
    assert!(body(&rest).contains(r#""data":"2"}]"#), "{rest}");
}
