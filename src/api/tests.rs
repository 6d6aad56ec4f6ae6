//! Every route, method, parameter and refusal, as tables of request heads.

use super::*;
use crate::api::refusal::Extra;
use crate::hub::ChannelInfo;
use crate::hub::batch::Format;
use crate::hub::position::{Epoch, Position, Since};
use crate::proto::http_request::{HeadLimits, HeadProgress, decode_head};

mod publish;

const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Parses `method target` with `fields` behind it.
fn parse_request(request: &str, fields: &str, side: Side) -> Result<Request, Refusal> {
    parse_request_with(&Config::default(), request, fields, side)
}

fn parse_request_with(
    config: &Config,
    request: &str,
    fields: &str,
    side: Side,
) -> Result<Request, Refusal> {
    let text = format!("{request} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let limits = HeadLimits {
        head_bytes_max: 16_384,
        target_bytes_max: 8192,
        headers_max: 64,
    };
    let decoded = decode_head(text.as_bytes(), &mut HeadProgress::default(), &limits);
    let (head, _) = decoded.unwrap().expect("a whole head");
    parse(&head, config, side)
}

/// What the request is, or the code of its refusal.
fn outcome(request: &str, fields: &str, side: Side) -> String {
    match parse_request(request, fields, side) {
        Ok(request) => {
            let text = format!("{request:?}");
            let end = text.find([' ', '(', '{']).unwrap_or(text.len());
            text[..end].to_owned()
        }
        Err(refusal) => format!("{} {}", refusal.status, refusal.code),
    }
}

#[track_caller]
fn check(request: &str, fields: &str, expected: &str) {
    assert_eq!(
        outcome(request, fields, Side::Both),
        expected,
        "{request} {fields}"
    );
}

const LENGTH: &str = "Content-Length: 1\r\n";

#[test]
fn every_route_knows_its_methods() {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    for (path, fields, known, allow) in [
        (
            "/poll/a",
            "",
            &[("GET", "Poll"), ("HEAD", "Poll")][..],
            Methods::Read,
        ),
        (
            "/sse/a",
            "",
            &[("GET", "EventStream"), ("HEAD", "EventStream")],
            Methods::Read,
        ),
        (
            "/ws/a",
            HANDSHAKE,
            &[("GET", "WebSocket"), ("HEAD", "426 upgrade_required")],
            Methods::Read,
        ),
        ("/pub/a", LENGTH, &[("POST", "Publish")], Methods::Write),
        (
            "/channels/a",
            "",
            &[
                ("GET", "ChannelInfo"),
                ("HEAD", "ChannelInfo"),
                ("DELETE", "ChannelDelete"),
            ],
            Methods::ReadDelete,
        ),
        (
            "/channels",
            "",
            &[("GET", "ChannelList"), ("HEAD", "ChannelList")],
            Methods::Read,
        ),
        (
            "/channels/a/subscribers",
            "",
            &[("GET", "Inquiry"), ("HEAD", "Inquiry")],
            Methods::Read,
        ),
        (
            "/users/u%2F/connections",
            "",
            &[
                ("GET", "Inquiry"),
                ("HEAD", "Inquiry"),
                ("DELETE", "Inquiry"),
            ],
            Methods::ReadDelete,
        ),
        (
            "/metrics",
            "",
            &[("GET", "Metrics"), ("HEAD", "Metrics")],
            Methods::Read,
        ),
        (
            "/healthz",
            "",
            &[("GET", "Health"), ("HEAD", "Health")],
            Methods::Read,
        ),
        (
            "/readyz",
            "",
            &[("GET", "Readiness"), ("HEAD", "Readiness")],
            Methods::Read,
        ),
        ("/", "", &[("GET", "Page"), ("HEAD", "Page")], Methods::Read),
        (
            "/pushring.js",
            "",
            &[("GET", "Page"), ("HEAD", "Page")],
            Methods::Read,
        ),
    ] {
        for method in METHODS {
            let expected = known
                .iter()
                .find(|(known, _)| *known == method)
                .map(|(_, expected)| *expected);
            let expected = match method {
                "OPTIONS" => "Preflight",
                _ => expected.unwrap_or("405 method_not_allowed"),
            };
            let request = format!("{method} {path}");
            check(&request, fields, expected);
            if let Err(refusal) = parse_request(&request, fields, Side::Both)
                && refusal.status == 405
            {
                assert_eq!(refusal.extra, Extra::Allow(allow.text()), "{request}");
            }
        }
    }
    check("OPTIONS *", "", "Preflight");
    check("get /healthz", "", "501 method_unsupported");
    check("TRACE /pub/c", "", "501 method_unsupported");
}

#[test]
fn other_paths_are_unknown() {
    for path in [
        "/poll",
        "/sse",
        "/ws",
        "/pub",
        "/users",
        "/users/a",
        "/users/a/b/connections",
        "/connections",
        "/metrics/",
        "/metrics/x",
        "/healthz/",
        "/x",
        "/Poll/a",
        "//poll/a",
        "/poll%2Fa",
        "/index.html",
        "/pushring.js/",
    ] {
        check(&format!("GET {path}"), "", "404 path_unknown");
    }
    check("GET /poll/", "", "400 channel_name_invalid");
    check("GET /channels/", "", "400 channel_name_invalid");
}

#[test]
fn what_is_the_backends_is_not_on_the_public_listener() {
    for (request, expected) in [
        ("GET /poll/a", "Poll"),
        ("GET /sse/a", "EventStream"),
        ("GET /healthz", "Health"),
        ("GET /readyz", "Readiness"),
        ("GET /", "Page"),
        ("POST /pub/a", "404 path_internal"),
        ("OPTIONS /pub/a", "404 path_internal"),
        ("GET /channels", "404 path_internal"),
        ("DELETE /channels/a", "404 path_internal"),
        ("GET /metrics", "404 path_internal"),
    ] {
        assert_eq!(
            outcome(request, LENGTH, Side::Public),
            expected,
            "{request}"
        );
    }
}

#[test]
fn channels_are_named_once_each_and_not_too_many() {
    check("GET /poll/a,b", "", "Poll");
    check("GET /poll/a%2Cb", "", "400 channel_name_invalid");
    check("GET /poll/a%3Ab%23c", "", "Poll");
    check("GET /poll/a,b,a", "", "400 channel_repeated");
    check("GET /poll/a,%61", "", "400 channel_repeated");
    check("GET /poll/a,", "", "400 channel_name_invalid");
    check("GET /poll/a/b", "", "400 channel_name_invalid");
    check("GET /poll/%zz", "", "400 target_invalid");
    check("GET /poll/%FF", "", "400 target_invalid");
    check(&format!("GET /poll/{}", "a".repeat(255)), "", "Poll");
    check(
        &format!("GET /poll/{}", "a".repeat(256)),
        "",
        "400 channel_name_invalid",
    );
    let names: Vec<_> = (0..65).map(|n| format!("c{n}")).collect();
    check(&format!("GET /poll/{}", names[..64].join(",")), "", "Poll");
    check(
        &format!("GET /poll/{}", names.join(",")),
        "",
        "400 channels_too_many",
    );
    check(
        &format!("POST /pub/{}", names.join(",")),
        LENGTH,
        "400 channels_too_many",
    );
}

fn position(offset: u64) -> Position {
    let epoch = Epoch::from_random(1);
    Position { epoch, offset }
}

fn listen(request: &str, fields: &str) -> ListenRequest {
    match parse_request(request, fields, Side::Both) {
        Ok(
            Request::Poll { listen, .. }
            | Request::EventStream(listen)
            | Request::WebSocket { listen, .. },
        ) => listen,
        other => panic!("{request}: {other:?}"),
    }
}

#[test]
fn where_to_start_is_said_in_one_of_these_ways() {
    use Since::{After, Earliest, Last, Now};
    let (one, two) = (position(1), position(2));
    for (query, expected) in [
        (String::new(), [Now, Now]),
        ("since=now".to_owned(), [Now, Now]),
        ("since=earliest".to_owned(), [Earliest, Earliest]),
        ("last=5".to_owned(), [Last(5), Last(5)]),
        (
            "last=99999999999999999".to_owned(),
            [Last(99999999999999999), Last(99999999999999999)],
        ),
        ("last=5&since=earliest".to_owned(), [Earliest, Earliest]),
        (format!("since={one},{two}"), [After(one), After(two)]),
        (format!("since={one}%2C{two}"), [After(one), After(two)]),
        ("unknown=1&=&".to_owned(), [Now, Now]),
    ] {
        let listen = listen(&format!("GET /poll/a,b?{query}"), "");
        let starts: Vec<_> = listen.channels.iter().map(|(_, since)| *since).collect();
        assert_eq!(starts, expected, "{query}");
    }
    for query in [
        format!("since={one}"),
        format!("since={one},{two},{two}"),
        "since=".into(),
        "since=x,y".into(),
        "since=Now".into(),
    ] {
        check(&format!("GET /poll/a,b?{query}"), "", "400 cursor_invalid");
    }
    for query in ["last=", "last=-1", "last=x", "format=xml", "format="] {
        check(&format!("GET /poll/a?{query}"), "", "400 parameter_invalid");
    }
}

#[test]
fn a_browsers_last_event_id_wins_on_streams_only() {
    let field = format!("Last-Event-ID: {}\r\n", position(7));
    let since = |target: &str, field: &str| listen(&format!("GET {target}"), field).channels[0].1;
    assert_eq!(
        since("/sse/a?since=earliest", &field),
        Since::After(position(7))
    );
    assert_eq!(since("/sse/a?last=3", &field), Since::After(position(7)));
    assert_eq!(
        since("/sse/a?since=earliest", "Last-Event-ID: \r\n"),
        Since::Earliest
    );
    assert_eq!(since("/poll/a?since=earliest", &field), Since::Earliest);
    check(
        "GET /sse/a",
        "Last-Event-ID: nonsense\r\n",
        "400 cursor_invalid",
    );
    // The same on the channels that the token names.
    let mut config = Config::default();
    config.auth.jwks = Some("keys.json".to_owned());
    let start = |target: &str, field: &str| {
        let request = format!("GET {target}");
        match parse_request_with(&config, &request, field, Side::Both).unwrap() {
            Request::Poll { listen, .. } | Request::EventStream(listen) => {
                listen.start_of_token.unwrap()
            }
            other => panic!("{target}: {other:?}"),
        }
    };
    let after = start(&format!("/sse?since={}", position(7)), "");
    let earliest = start("/sse?since=earliest", "");
    assert_ne!(after, earliest);
    assert_eq!(start("/sse?since=earliest", &field), after);
    assert_eq!(
        start("/sse?since=earliest", "Last-Event-ID: \r\n"),
        earliest
    );
    assert_eq!(start("/poll?since=earliest", &field), earliest);
}

#[test]
fn the_format_is_raw_for_one_channel_and_json_for_several() {
    for (target, expected) in [
        ("/sse/a", Format::Raw),
        ("/sse/a,b", Format::Json),
        ("/sse/a?format=json", Format::Json),
        ("/sse/a,b?format=raw", Format::Raw),
    ] {
        assert_eq!(
            listen(&format!("GET {target}"), "").format,
            expected,
            "{target}"
        );
    }
}

#[test]
fn a_poll_has_a_wait_and_a_limit() {
    let config = Config::default();
    let (default, max) = (
        config.limits.poll_limit_default,
        config.limits.poll_limit_max,
    );
    for (request, expected) in [
        ("GET /poll/a", (0, default)),
        ("GET /poll/a?wait=0", (0, default)),
        ("GET /poll/a?wait=1.5&limit=7", (1500, 7)),
        (
            "GET /poll/a?wait=9999&limit=999999",
            (config.timing.poll_wait_max_ms, max),
        ),
        (
            "GET /poll/a?wait=99999999999999999999&limit=99999999999999999999",
            (config.timing.poll_wait_max_ms, max),
        ),
        ("HEAD /poll/a?wait=9", (0, default)),
    ] {
        let got = match parse_request(request, "", Side::Both) {
            Ok(Request::Poll { wait_ms, limit, .. }) => (wait_ms, limit),
            other => panic!("{request}: {other:?}"),
        };
        assert_eq!(got, expected, "{request}");
    }
    for query in [
        "wait=", "wait=-1", "wait=1s", "limit=0", "limit=x", "limit=",
    ] {
        check(&format!("GET /poll/a?{query}"), "", "400 parameter_invalid");
    }
}

#[test]
fn a_handshake_has_to_be_one() {
    let without = |field: &str| {
        let lines = HANDSHAKE
            .split_inclusive("\r\n")
            .filter(|line| !line.starts_with(field));
        lines.collect::<String>()
    };
    check("GET /ws/a", "", "426 upgrade_required");
    check("GET /ws/a", &without("Upgrade"), "426 upgrade_required");
    check(
        "GET /ws/a",
        &without("Sec-WebSocket-Version"),
        "426 websocket_version_unsupported",
    );
    check(
        "GET /ws/a",
        &without("Sec-WebSocket-Key"),
        "400 websocket_key_missing",
    );
    check("GET /ws/a,a", HANDSHAKE, "400 channel_repeated");
}

#[test]
fn a_list_of_channels_goes_from_page_to_page() {
    let list = |request: &str| match parse_request(request, "", Side::Both) {
        Ok(Request::ChannelList(list)) => list,
        other => panic!("{request}: {other:?}"),
    };
    let parsed = list("GET /channels?prefix=a%3A&after=a:1&limit=5");
    assert_eq!(
        (&*parsed.prefix, parsed.after.as_deref(), parsed.limit),
        ("a:", Some("a:1"), 5)
    );
    assert_eq!(list("GET /channels").limit, 100);
    assert_eq!(list("GET /channels?limit=5000").limit, 1000);
    check("GET /channels?limit=0", "", "400 parameter_invalid");
    let info = |text: &&str| ChannelInfo {
        name: ChannelName::parse(text).unwrap(),
        position: position(2),
        oldest: position(1),
        messages: 2,
        bytes: 300,
        subscribers: 4,
    };
    let pages = || {
        [["a", "d"], ["b", "c"]]
            .map(|page| page.iter().map(info).collect())
            .to_vec()
    };
    for (limit, expected, next) in [
        (2, &["a", "b"][..], Some("b")),
        (3, &["a", "b", "c"], Some("c")),
        (4, &["a", "b", "c", "d"], None),
    ] {
        let mut body = Vec::new();
        channels::write_list(&mut body, pages(), limit);
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let names: Vec<_> = json["channels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["channel"].as_str().unwrap())
            .collect();
        assert_eq!(
            (&names[..], json.get("next").and_then(|it| it.as_str())),
            (expected, next)
        );
        assert_eq!(json["channels"][0]["subscribers"], 4);
    }
}

#[test]
fn every_refusal_says_what_to_do_in_text_that_needs_no_escape() {
    use crate::hub::HomeRefusal::{BacklogFull, ChannelsFull, DiskSlow, HistoryFull, WriteFailed};
    let mut refusals = vec![
        Refusal::NOT_FOUND,
        Refusal::INTERNAL_ONLY,
        Refusal::CHANNEL_UNKNOWN,
        Refusal::CHANNEL_NAME_INVALID,
        Refusal::CHANNEL_REPEATED,
        Refusal::CHANNELS_TOO_MANY,
        Refusal::CURSOR_INVALID,
        Refusal::PARAMETER_INVALID,
        Refusal::EVENT_NAME_INVALID,
        Refusal::IDEMPOTENCY_KEY_INVALID,
        Refusal::LENGTH_REQUIRED,
        Refusal::ORIGIN_DENIED,
        Refusal::UPGRADE_REQUIRED,
        Refusal::HEAD_TIMEOUT,
        Refusal::BODY_TIMEOUT,
        Refusal::NOT_READY,
        Refusal::CONNECTIONS_FULL,
        Refusal::method(Methods::Read.text()),
    ];
    refusals.extend(
        [
            ChannelsFull,
            HistoryFull,
            BacklogFull,
            DiskSlow,
            WriteFailed,
        ]
        .map(Refusal::from),
    );
    let mut codes = std::collections::HashSet::new();
    for refusal in refusals {
        assert!(codes.insert(refusal.code), "{} twice", refusal.code);
        assert!(
            refusal
                .code
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{}",
            refusal.code
        );
        let text = refusal.message.bytes();
        assert!(
            text.clone()
                .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'),
            "{}",
            refusal.code
        );
        assert_eq!(
            refusal.extra == Extra::RetryAfter,
            refusal.status == 503,
            "{}",
            refusal.code
        );
    }
}
