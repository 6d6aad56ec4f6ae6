//! Tables of heads to accept and to refuse; each is decoded whole, at every prefix, at every split and byte by byte.

mod every_way;
mod mutation;

use super::*;
use crate::proto::refused::Refused;
use every_way::{decode_every_way, refused};

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 1024,
    target_bytes_max: 128,
    headers_max: 12,
};

/// What `GET / HTTP/1.1` with `Host: a` says.
const PLAIN: RequestHead<'static> = RequestHead {
    method: Method::Get,
    version: Version::Http11,
    path: "/",
    query: "",
    body: BodyFraming::None,
    keep_alive: true,
    expect_continue: false,
    host: Some("a"),
    origin: None,
    content_type: None,
    authorization: None,
    api_key: None,
    cookie: None,
    last_event_id: None,
    idempotency_key: None,
    upgrade: None,
    lines: FieldLines::EMPTY,
};

const HTTP10: RequestHead<'static> = RequestHead {
    version: Version::Http10,
    keep_alive: false,
    ..PLAIN
};
const POST: RequestHead<'static> = RequestHead {
    method: Method::Post,
    ..PLAIN
};

#[test]
fn refuses_every_malformed_or_ambiguous_request() {
    let mut n_cases = 0;
    for (line, status, code, request) in refused() {
        match decode_every_way(&request) {
            Err(error) => {
                let refused = Refused::from(error);
                assert_eq!((refused.status, refused.code), (status, code), "{line}");
                assert!(
                    !refused.message.contains(['"', '\\']),
                    "{line}: to be escaped in JSON"
                );
            }
            Ok(head) => panic!("{line}\naccepted as {head:?}"),
        }
        n_cases += 1;
    }
    assert!(n_cases >= 150);
}

#[test]
fn accepts_request_lines() {
    accepts("GET / HTTP/1.1\r\nHost: a\r\n\r\n", PLAIN);
    accepts("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", PLAIN);
    accepts(
        "GET / HTTP/1.0\r\n\r\n",
        RequestHead {
            host: None,
            ..HTTP10
        },
    );
    accepts("GET / HTTP/1.0\r\nHost: a\r\n\r\n", HTTP10);
    for (name, method) in [
        ("HEAD", Method::Head),
        ("POST", Method::Post),
        ("PUT", Method::Put),
        ("DELETE", Method::Delete),
        ("OPTIONS", Method::Options),
        ("PATCH", Method::Patch),
        ("get", Method::Other),
        ("TRACE", Method::Other),
        ("PRI", Method::Other),
        ("!#$%&'*+-.^_`|~09", Method::Other),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF", Method::Other),
    ] {
        accepts(
            &format!("{name} / HTTP/1.1\r\nHost: a\r\n\r\n"),
            RequestHead { method, ..PLAIN },
        );
    }
    for (target, path, query) in [
        ("/sse/a%2Cb,c?since=now", "/sse/a%2Cb,c", "since=now"),
        ("/?", "/", ""),
        ("/a??b?c", "/a", "?b?c"),
        ("//b/../c", "//b/../c", ""),
        ("/a?u=http://b/", "/a", "u=http://b/"),
        ("/http://b/", "/http://b/", ""),
        ("/%00%zz{}|\\^[]`", "/%00%zz{}|\\^[]`", ""),
        ("http://a", "/", ""),
        ("HTTP://A/", "/", ""),
        ("https://a/b?c", "/b", "c"),
        ("http://a?b/c", "/", "b/c"),
    ] {
        accepts(
            &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
            RequestHead {
                path,
                query,
                ..PLAIN
            },
        );
    }
    let any = RequestHead {
        method: Method::Options,
        path: "*",
        ..PLAIN
    };
    accepts("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", any);
    accepts("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", any);
    accepts(
        "OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        RequestHead { path: "/", ..any },
    );
}

#[test]
fn accepts_hosts() {
    for host in [
        "a",
        "A.b-c_d.example",
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[::ffff:1.2.3.4]:80",
        "a:",
        "a.",
    ] {
        let want = RequestHead {
            host: Some(host),
            ..PLAIN
        };
        accepts(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), want);
        accepts(
            &format!("GET http://{host}/ HTTP/1.1\r\nHost:{host} \t\r\n\r\n"),
            want,
        );
    }
}

#[test]
fn accepts_framing() {
    for (lines, body) in [
        ("Content-Length: 0\r\n", BodyFraming::Length(0)),
        ("content-length:0005\r\n", BodyFraming::Length(5)),
        (
            "CONTENT-LENGTH: \t 18446744073709551615 \t \r\n",
            BodyFraming::Length(u64::MAX),
        ),
        ("Transfer-Encoding: chunked\r\n", BodyFraming::Chunked),
        ("transfer-encoding:CHUNKED\t\r\n", BodyFraming::Chunked),
        // Names that only look like framing.
        (
            "Content_Length: 5\r\nX-Content-Length: 5\r\nTE: trailers\r\n",
            BodyFraming::None,
        ),
    ] {
        accepts(
            &format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"),
            RequestHead { body, ..POST },
        );
        accepts(
            &format!("GET / HTTP/1.1\r\n{lines}Host: a\r\n\r\n"),
            RequestHead { body, ..PLAIN },
        );
    }
    let body = BodyFraming::Length(5);
    accepts(
        "GET / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        RequestHead { body, ..HTTP10 },
    );
}

#[test]
fn accepts_persistence_and_expectations() {
    for (lines, http11, http10) in [
        ("", true, false),
        ("Connection: close\r\n", false, false),
        ("Connection: CLOSE\r\n", false, false),
        ("Connection: keep-alive\r\n", true, true),
        ("Connection: , a ,\tKeep-Alive,,\r\n", true, true),
        ("Connection: keep-alive, close\r\n", false, false),
        (
            "Connection: close\r\nConnection: keep-alive\r\n",
            false,
            false,
        ),
        ("Connection: closed\r\n", true, false),
        ("Connection:\r\n", true, false),
    ] {
        let want = RequestHead {
            keep_alive: http11,
            ..PLAIN
        };
        accepts(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"), want);
        let want = RequestHead {
            keep_alive: http10,
            ..HTTP10
        };
        accepts(&format!("GET / HTTP/1.0\r\nHost: a\r\n{lines}\r\n"), want);
    }
    let body = BodyFraming::Length(1);
    let expecting = RequestHead {
        body,
        expect_continue: true,
        ..PLAIN
    };
    accepts(
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
        expecting,
    );
    // Nothing to wait for, and a version that does not know it.
    accepts(
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        PLAIN,
    );
    let http10 = RequestHead { body, ..HTTP10 };
    accepts(
        "GET / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        http10,
    );
}

#[test]
fn accepts_the_fields_it_reads() {
    accepts(
        "GET / HTTP/1.1\r\nHOST: a\r\norigin: http://b\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Authorization: Bearer x\r\nX-API-Key: k\r\nCookie: a=b; c=d\r\nLast-Event-ID: k-1,j-2\r\nIdempotency-Key: \"k\"\r\n\r\n",
        RequestHead {
            origin: Some("http://b"),
            content_type: Some("text/plain; charset=utf-8"),
            authorization: Some("Bearer x"),
            api_key: Some("k"),
            cookie: Some("a=b; c=d"),
            last_event_id: Some("k-1,j-2"),
            idempotency_key: Some("\"k\""),
            ..PLAIN
        },
    );
    accepts(
        "GET / HTTP/1.1\r\nHost: a\r\nLast-Event-ID: \r\n\r\n",
        RequestHead {
            last_event_id: Some(""),
            ..PLAIN
        },
    );
    accepts(
        "GET / HTTP/1.1\r\nHost: a\r\nX: \u{e4}\r\nX: b\r\nY:\r\n\r\n",
        PLAIN,
    );
}

#[test]
fn finds_any_field_by_its_name() {
    let request = "\r\nGET /a:b HTTP/1.1\r\nHost: a\r\nX-A: b : c \r\nx-a:\td\r\nX-AB:\r\nY: \u{e4}\r\n\r\nX-A: body\r\n";
    let head_bytes = request.find("X-A: body").unwrap();
    let (head, _) = decode_head(request.as_bytes(), &mut HeadProgress::default(), &LIMITS)
        .unwrap()
        .unwrap();
    decode_every_way(&request.as_bytes()[..head_bytes]).unwrap();
    for (name, want) in [
        ("X-a", &["b : c", "d"][..]),
        ("x-ab", &[""]),
        ("y", &["\u{e4}"]),
        ("host", &["a"]),
        ("X", &[]),
        ("", &[]),
    ] {
        let found: Vec<_> = head.lines.values(name).collect();
        let want: Vec<_> = want.iter().map(|value| value.as_bytes()).collect();
        assert_eq!(found, want, "{name}");
    }
}

#[test]
fn accepts_upgrades() {
    let none = UpgradeFields {
        key: None,
        version: None,
    };
    let websocket = RequestHead {
        upgrade: Some(none),
        ..PLAIN
    };
    accepts(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        websocket,
    );
    accepts(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: x, UPGRADE\r\nUpgrade: h2c, WebSocket\r\n\
         Sec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a, b\r\n\
         Sec-WebSocket-Protocol: c\r\nSec-WebSocket-Extensions: e; f\r\n\r\n",
        RequestHead {
            upgrade: Some(UpgradeFields {
                key: Some("k"),
                version: Some("13"),
            }),
            ..PLAIN
        },
    );
    for lines in [
        "Upgrade: websocket",
        "Connection: upgrade",
        "Upgrade: websockets\r\nConnection: upgrade",
        "Upgrade: h2c",
    ] {
        accepts(
            &format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"),
            PLAIN,
        );
    }
    accepts(
        "GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        HTTP10,
    );
}

#[test]
fn limits_hold_to_the_byte() {
    let with_target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(n - 1));
    assert!(decode_every_way(with_target(128).as_bytes()).is_ok());
    refuses(&with_target(129), HeadError::TargetTooLong);
    refuses(&with_target(900), HeadError::TargetTooLong);
    refuses(&with_target(2000), HeadError::TargetTooLong);
    // Neither of the two ever ends.
    refuses(
        &format!("GET /{}", "x".repeat(300)),
        HeadError::TargetTooLong,
    );
    refuses(
        &format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1100)),
        HeadError::HeadTooLarge,
    );
    refuses(
        &format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(13)),
        HeadError::TooManyHeaders,
    );

    let with_value =
        |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(n));
    let rest_bytes = with_value(0).len();
    assert!(decode_every_way(with_value(1024 - rest_bytes).as_bytes()).is_ok());
    refuses(&with_value(1025 - rest_bytes), HeadError::HeadTooLarge);
    // What lies past the limit is never looked at.
    refuses(
        &with_value(1100).replace("\r\n\r\n", "\n\0"),
        HeadError::HeadTooLarge,
    );

    let with_headers = |n: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(n - 1)
        )
    };
    assert!(decode_every_way(with_headers(12).as_bytes()).is_ok());
    refuses(&with_headers(13), HeadError::TooManyHeaders);
    let limits = HeadLimits {
        headers_max: 500,
        ..LIMITS
    };
    let decode = |n| {
        decode_head(
            with_headers(n).as_bytes(),
            &mut HeadProgress::default(),
            &limits,
        )
        .map(|_| ())
    };
    assert_eq!(decode(100), Ok(()));
    assert_eq!(decode(101), Err(HeadError::TooManyHeaders));
}

#[test]
fn limits_may_be_lowered_in_the_middle_of_a_head() {
    use HeadError::{HeadTooLarge, TargetTooLong};
    let long = "x".repeat(99);
    let request = format!("\r\nGET /{long} HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n");
    let request = request.as_bytes();
    let headers_start = 2 + "GET / HTTP/1.1\r\n".len() + long.len();
    for (head_bytes_max, target_bytes_max, in_request_line, in_headers) in [
        (1024, 8, TargetTooLong, TargetTooLong),
        (100, 8, TargetTooLong, HeadTooLarge),
        (20, 8, HeadTooLarge, HeadTooLarge),
        (1, 1, HeadTooLarge, HeadTooLarge),
    ] {
        let lower = HeadLimits {
            head_bytes_max,
            target_bytes_max,
            ..LIMITS
        };
        for n_bytes in 0..request.len() {
            let mut progress = HeadProgress::default();
            let begun = decode_head(&request[..n_bytes], &mut progress, &LIMITS);
            assert_eq!(begun, Ok(None));
            let want = match n_bytes < headers_start {
                true => in_request_line,
                false => in_headers,
            };
            assert_eq!(
                decode_head(request, &mut progress, &lower),
                Err(want),
                "{lower:?} behind {n_bytes} bytes"
            );
        }
    }
}

#[test]
fn garbage_is_refused_at_its_first_byte() {
    for (request, n_bytes) in [
        (&b"\x16\x03\x01"[..], 1),
        (b"\n", 1),
        (b" ", 1),
        (b"\rG", 2),
        (b"GET / HTTP/1.1\n", 15),
        (b"GET /\0", 6),
        (b"GET / HTTP/2.0\r\n", 16),
        (b"GET / HTTP/1.1\r\nHost: a\r\n ", 26),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01", 29),
    ] {
        let mut progress = HeadProgress::default();
        assert_eq!(
            decode_head(&request[..n_bytes - 1], &mut progress, &LIMITS),
            Ok(None)
        );
        assert!(
            decode_head(&request[..n_bytes], &mut progress, &LIMITS).is_err(),
            "{}",
            request.escape_ascii()
        );
    }
}

#[test]
fn every_byte_value_in_every_place() {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_value = |byte: u8| !byte.is_ascii_control() || byte == b'\t';
    type Place<'a> = (&'a str, &'a str, &'a dyn Fn(u8) -> bool);
    let places: [Place<'_>; 14] = [
        ("", "GET / HTTP/1.1", &is_tchar),
        ("G", "T / HTTP/1.1", &is_tchar),
        ("GET", "/ HTTP/1.1", &|byte| byte == b' '),
        ("GET /a", "b HTTP/1.1", &|byte| {
            byte.is_ascii_graphic() && !b"\"#<>".contains(&byte)
        }),
        ("GET / HTTP/1.", "", &|byte: u8| byte.is_ascii_digit()),
        ("GET / HTTP/1.1\r\n", "X: a", &is_tchar),
        ("GET / HTTP/1.1\r\nX", "Y: a", &|byte| {
            is_tchar(byte) || byte == b':'
        }),
        ("GET / HTTP/1.1\r\nX: a", "b", &is_value),
        ("GET / HTTP/1.1\r\nCookie: a", "b", &is_value),
        ("GET / HTTP/1.1\r\nOrigin: a", "b", &|byte| {
            is_value(byte) && byte.is_ascii()
        }),
        ("GET / HTTP/1.1\r\nContent-Length: 1", "2", &|byte| {
            byte.is_ascii_digit()
        }),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chun", "ed", &|byte| {
            byte == b'k' || byte == b'K'
        }),
        ("GET / HTTP/1.1", "\nX: a", &|byte| byte == b'\r'),
        ("GET / HTTP/1.1\r", "X: a", &|byte| byte == b'\n'),
    ];
    for byte in 0..=255u8 {
        for (before, after, is_accepted) in places {
            let request = [
                before.as_bytes(),
                &[byte],
                after.as_bytes(),
                b"\r\nHost: a\r\n\r\n",
            ]
            .concat();
            let is_decoded = decode_every_way(&request).is_ok();
            assert_eq!(
                is_decoded,
                is_accepted(byte),
                "{before:?} {byte:#x} {after:?}"
            );
        }
    }
}

#[track_caller]
fn accepts(request: &str, want: RequestHead<'_>) {
    let decoded = decode_every_way(request.as_bytes());
    let lines = decoded.map_or_else(|_| FieldLines::EMPTY, |head| head.lines);
    assert_eq!(decoded, Ok(RequestHead { lines, ..want }), "{request:?}");
}

#[track_caller]
fn refuses(request: &str, want: HeadError) {
    assert_eq!(
        decode_every_way(request.as_bytes()),
        Err(want),
        "{request:?}"
    );
}
