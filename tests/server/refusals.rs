//! What is refused: status, code, the field that belongs to it, and its counter; and that its sender can read it.

use std::collections::BTreeMap;

use crate::client::ws_handshake;
use crate::harness::{Server, Start, wait_until};
use crate::strictness::unescape;

/// The heads that the parser refuses, one a line; its own tests say how they are written.
const HEADS: &str = include_str!("../../src/proto/http_request/refused.txt");

const GET: &str = "HTTP/1.1\r\nHost: t\r\n";

/// Sends each request over a connection of its own and checks the answers and the counters.
#[track_caller]
fn check(server: &Server, requests: impl IntoIterator<Item = (Vec<u8>, u16, String)>) {
    let mut counts: BTreeMap<_, u64> = BTreeMap::new();
    for (request, status, code) in requests {
        let shown = String::from_utf8_lossy(&request).into_owned();
        let mut client = server.connect();
        client.send(&request);
        let response = client.response();
        assert_eq!(
            (response.status, response.code()),
            (status, code.clone()),
            "{shown}"
        );
        assert!(
            response.json()["error"]["message"]
                .as_str()
                .unwrap()
                .ends_with(['.', ')']),
            "{shown}"
        );
        let belongs = match status {
            405 => Some("allow"),
            426 => Some("sec-websocket-version"),
            429 | 503 => Some("retry-after"),
            _ => None,
        };
        for field in ["allow", "sec-websocket-version", "retry-after"] {
            assert_eq!(
                response.field(field).is_some(),
                belongs == Some(field),
                "{field}: {shown}"
            );
        }
        match response.field("connection") {
            Some("close") => assert_eq!(client.read_to_end().unwrap(), b"", "{shown}"),
            _ => {
                client.get("/healthz");
                assert_eq!(client.response().text(), "ok\n", "{shown}");
            }
        }
        *counts
            .entry(format!(
                "refusals_total{{code=\"{code}\",status=\"{status}\"}}"
            ))
            .or_default() += 1;
    }
    for (counter, want) in counts {
        assert_eq!(server.metric(&counter), want, "{counter}");
    }
}

#[test]
fn a_head_that_is_against_the_rules_is_refused_and_counted() {
    let lines = HEADS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let requests = lines.map(|line| {
        let columns: Vec<_> = line.splitn(3, "  ").collect();
        let (status, code) = columns[0].split_once(' ').unwrap();
        (
            unescape(columns[2]),
            status.parse().unwrap(),
            code.to_owned(),
        )
    });
    check(&Server::start(""), requests);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let long = |n: usize| "x".repeat(n);
    check(
        &Server::start("--headers-max 10 --target-bytes-max 1KiB --head-bytes-max 2KiB"),
        [
            (
                format!("GET /poll/{} {GET}\r\n", long(1100)),
                414,
                "target_too_long",
            ),
            (
                format!("GET / {GET}X: {}\r\n\r\n", long(2100)),
                431,
                "head_too_large",
            ),
            (
                format!("GET / {GET}{}\r\n", "X: y\r\n".repeat(10)),
                431,
                "too_many_headers",
            ),
        ]
        .map(|(request, status, code)| (request.into_bytes(), status, code.to_owned())),
    );
}

#[test]
fn a_request_that_makes_no_sense_is_refused_and_counted() {
    let get = |target: &str| format!("GET {target} {GET}\r\n");
    let post = |target: &str, fields: &str, body: &str| {
        format!(
            "POST {target} {GET}{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let chunked = |body: &str| format!("POST /pub/c {GET}Transfer-Encoding: chunked\r\n\r\n{body}");
    let long = "x".repeat(200);
    let rows = [
        (get("/nothing"), 404, "path_unknown"),
        (get("/poll"), 404, "path_unknown"),
        (get("/channels/nobody"), 404, "channel_unknown"),
        (get("/poll/a%2Fb"), 400, "channel_name_invalid"),
        (get("/poll/a,,b"), 400, "channel_name_invalid"),
        (
            get(&format!("/sse/{long}{long}")),
            400,
            "channel_name_invalid",
        ),
        (get("/poll/%zz"), 400, "target_invalid"),
        (get("/poll/c?since=%zz"), 400, "target_invalid"),
        (get("/poll/a,b,a"), 400, "channel_repeated"),
        (get("/sse/a,b,c,d"), 400, "channels_too_many"),
        (get("/poll/c?since=yesterday"), 400, "cursor_invalid"),
        (get("/poll/a,b?since=AAAAAAAA-1"), 400, "cursor_invalid"),
        (get("/poll/c?limit=0"), 400, "parameter_invalid"),
        (get("/poll/c?wait=soon"), 400, "parameter_invalid"),
        (get("/sse/c?format=xml"), 400, "parameter_invalid"),
        (get("/channels?limit=-1"), 400, "parameter_invalid"),
        (post("/pub/c?store=maybe", "", ""), 400, "parameter_invalid"),
        (post("/pub/c?ttl=long", "", ""), 400, "parameter_invalid"),
        (
            post("/pub/c?event=pushring.gap", "", ""),
            400,
            "event_name_invalid",
        ),
        (
            post("/pub/c?event=a%0Ab", "", ""),
            400,
            "event_name_invalid",
        ),
        (
            post("/pub/c", &format!("Idempotency-Key: {long}\r\n"), ""),
            400,
            "idempotency_key_invalid",
        ),
        (format!("POST /pub/c {GET}\r\n"), 411, "length_required"),
        (
            post("/pub/c", "Content-Type: application/json\r\n", "{1}"),
            400,
            "payload_json_invalid",
        ),
        (
            post(
                "/pub/c",
                "Content-Type: text/plain; charset=koi8-r\r\n",
                "x",
            ),
            415,
            "payload_charset_unsupported",
        ),
        (post("/poll/c", "", ""), 405, "method_not_allowed"),
        (get("/pub/c"), 405, "method_not_allowed"),
        (
            format!("DELETE /metrics {GET}\r\n"),
            405,
            "method_not_allowed",
        ),
        (post("/pub/c", "", &"x".repeat(101)), 413, "body_too_large"),
        (chunked("65\r\n"), 413, "body_too_large"),
        (chunked("x\r\n"), 400, "chunk_size_invalid"),
        (chunked("1\r\nxy\r\n"), 400, "chunk_end_invalid"),
        (chunked("1;\"\r\n"), 400, "chunk_extension_invalid"),
        (chunked("0\r\nno trailer\r\n\r\n"), 400, "trailer_invalid"),
        (get("/ws/c"), 426, "upgrade_required"),
        (
            ws_handshake("/ws/c").replace("Version: 13", "Version: 8"),
            426,
            "websocket_version_unsupported",
        ),
        (
            ws_handshake("/ws/c").replace("Sec-WebSocket-Key", "X"),
            400,
            "websocket_key_missing",
        ),
        (
            ws_handshake("/ws/c").replace("AAAA", ""),
            400,
            "websocket_key_invalid",
        ),
        (ws_handshake("/ws/c?since=x"), 400, "cursor_invalid"),
        (
            format!("GET / {GET}Origin: https://elsewhere\r\n\r\n"),
            403,
            "origin_denied",
        ),
    ];
    let mut requests: Vec<_> = rows
        .map(|(request, status, code)| (request.into_bytes(), status, code.to_owned()))
        .into();
    let mut not_utf8 = post("/pub/c", "Content-Type: text/plain\r\n", "x").into_bytes();
    *not_utf8.last_mut().unwrap() = 0xff;
    requests.push((not_utf8, 400, "payload_text_invalid".to_owned()));
    let file = "message_bytes_max = 100\nchannels_per_connection_max = 3\nallowed_origins = [\"https://here\"]\n";
    check(&Start::new("").file(file).serve(), requests);
}

#[test]
fn a_refusal_is_read_although_its_client_goes_on_sending() {
    let server = Server::start("--linger-timeout 10s");
    for request in [
        format!("POST /pub/c {GET}Content-Length: 100000000\r\n\r\n"),
        format!("POST /pub/c {GET}Transfer-Encoding: chunked\r\n\r\n5F5E100\r\n"),
        format!("POST /nowhere {GET}Content-Length: 100000000\r\n\r\n"),
    ] {
        let mut client = server.connect();
        client.send(request);
        // More than the buffers between hold: without a reader at the other end this would not return.
        for _ in 0..16 {
            client.send(vec![b'x'; 1024 * 1024]);
        }
        let response = client.response();
        assert!(matches!(response.status, 413 | 404), "{response:?}");
        assert_eq!(client.read_to_end().unwrap(), b"", "an end in order");
    }
}

#[test]
fn a_refused_client_that_never_stops_is_cut() {
    let server = Server::start("--linger-timeout 200ms");
    let mut client = server.connect();
    client.send(format!(
        "POST /pub/c {GET}Content-Length: 100000000\r\n\r\n"
    ));
    assert_eq!(client.response().status, 413);
    wait_until("cut", || client.try_send([b'x'; 1024]).is_err());
    server.wait_metric("connections_closed_total{reason=\"refused\"}", 1);
}
