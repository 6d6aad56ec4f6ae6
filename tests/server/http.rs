//! HTTP/1.1 as clients and proxies speak it: methods, versions, framing, many requests on one connection.

use std::thread;

use crate::client::{ws_frame, ws_handshake};
use crate::harness::{Server, Start, wait_until};

const MIB: usize = 1024 * 1024;
const REQUEST_BYTES: usize = 256;

/// A request of [`REQUEST_BYTES`].
fn padded_get(target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nX: ");
    let padded_bytes = REQUEST_BYTES - "\r\n\r\n".len();
    format!("{request:x<padded_bytes$}\r\n\r\n")
}

#[test]
fn head_gets_the_head_that_get_gets() {
    let server = Server::start("");
    server.publish("c", "x");
    for target in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/channels",
        "/channels/c",
        "/poll/c?since=earliest",
        "/",
        "/no",
    ] {
        let mut client = server.connect();
        client.request("HEAD", target, "", b"");
        client.get(target);
        let (head, get) = (client.response_head(), client.response());
        assert_eq!(head.status, get.status, "{target}");
        assert_eq!(
            head.field("content-type"),
            get.field("content-type"),
            "{target}"
        );
        assert!(
            head.field("content-length").is_some() && !get.body.is_empty(),
            "{target}"
        );
    }
    let mut client = server.connect();
    client.request("HEAD", "/sse/c", "", b"");
    let head = client.response_head();
    assert_eq!(
        (head.status, head.field("content-type")),
        (200, Some("text/event-stream"))
    );
    assert_eq!(
        client.read_to_end().unwrap(),
        b"",
        "a stream's head without its stream"
    );
}

#[test]
fn options_tells_the_methods_and_answers_a_preflight() {
    let server = Server::start("--allowed-origins https://a.example");
    for (target, allow) in [
        ("/poll/c", "GET, HEAD, OPTIONS"),
        ("/pub/c", "POST, OPTIONS"),
        ("/channels/c", "GET, HEAD, DELETE, OPTIONS"),
        ("*", "GET, HEAD, POST, DELETE, OPTIONS"),
    ] {
        let mut client = server.connect();
        client.request("OPTIONS", target, "Origin: https://a.example\r\n", b"");
        let response = client.response();
        assert_eq!(
            (response.status, response.field("allow")),
            (204, Some(allow)),
            "{target}"
        );
        assert_eq!(
            response.field("access-control-allow-origin"),
            Some("https://a.example")
        );
        assert_eq!(response.field("access-control-allow-methods"), Some(allow));
        let headers = response.field("access-control-allow-headers").unwrap();
        for header in ["*", "Authorization", "Last-Event-ID", "X-API-Key"] {
            assert!(headers.split(", ").any(|allowed| allowed == header));
        }
    }
    let mut client = server.connect();
    client.request("GET", "/poll/c", "Origin: https://b.example\r\n", b"");
    assert_eq!(client.response().code(), "origin_denied");
}

#[test]
fn http_10_gets_its_answer_and_the_end_of_the_connection() {
    let server = Server::start("");
    server.publish("c", "x");
    let mut client = server.connect();
    client.send("GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().text(), "ok\n");
    assert_eq!(client.read_to_end().unwrap(), b"");
    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!(response.field("connection"), Some("keep-alive"));
        assert_eq!(response.text(), "ok\n");
    }
    let mut client = server.connect();
    client.send("GET /sse/c?since=earliest HTTP/1.0\r\n\r\n");
    let head = client.response_head();
    assert_eq!((head.status, head.field("transfer-encoding")), (200, None));
    assert!(client.read_until("\n\n").ends_with("\ndata: x\n\n"));
    server.ask("DELETE", "/channels/c", b"");
    assert_eq!(
        client.read_to_end().unwrap(),
        b"",
        "the end of the stream is that of the connection"
    );
}

#[test]
fn a_connection_is_kept_until_its_client_says_close() {
    let server = Server::start("");
    let mut client = server.connect();
    for n in 0..50 {
        client.request("POST", &format!("/pub/c{n}"), "", b"x");
        assert_eq!(client.response().status, 202);
        client.get(&format!("/poll/c{n}?since=earliest"));
        assert_eq!(client.response().messages(), ["x"]);
        client.get(&format!("/poll/c{n}?wait=1&last=1"));
        assert_eq!(client.response().status, 200);
    }
    client.request("GET", "/healthz", "Connection: close\r\n", b"");
    assert_eq!(client.response().field("connection"), Some("close"));
    assert_eq!(client.read_to_end().unwrap(), b"");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = Server::start("");
    let mut client = server.connect();
    let mut requests = String::new();
    for n in 0..200 {
        // Homes on both shards: some are answered at once, some by mail.
        requests += &format!("POST /pub/p{n} HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx");
        requests += &format!("GET /poll/p{n}?since=earliest&wait=9 HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    client.send(&requests);
    for n in 0..200 {
        let published = client.response().json();
        assert_eq!(published["channel"], format!("p{n}"));
        assert_eq!(client.response().json()["cursor"], published["id"]);
    }
    // A request behind a long poll waits for it.
    client.get("/poll/p0?wait=60");
    client.get("/healthz");
    server.wait_subscribers("p0", 1);
    client.assert_silent();
    server.publish("p0", "news");
    assert_eq!(client.response().messages(), ["news"]);
    assert_eq!(client.response().text(), "ok\n");
}

#[test]
fn a_long_poll_keeps_only_so_much_of_what_is_behind_it() {
    let server = Server::start("--input-bytes-max 1KiB --threads 1");
    let rss = server.rss_bytes();
    let mut client = server.get("/poll/c?wait=60");
    let mut writer = client.another_handle();
    let requests = 4 * MIB / REQUEST_BYTES;
    let writing =
        thread::spawn(move || (0..requests).for_each(|_| writer.send(padded_get("/healthz"))));
    server.wait_subscribers("c", 1);
    // What is read is what came with one read of the socket.
    let read = server.metric("socket_in_bytes_total");
    assert!(
        read < MIB as u64 && server.rss_bytes() < rss + 16 * MIB,
        "{read}"
    );
    client.assert_silent();
    server.publish("c", "news");
    assert_eq!(client.response().messages(), ["news"]);
    for _ in 0..requests {
        assert_eq!(client.response().text(), "ok\n");
    }
    writing.join().unwrap();
}

#[test]
fn a_long_poll_without_news_ends_with_its_cursor() {
    let server = Server::start("--poll-wait-max 200ms");
    let id = server.publish("c", "x");
    for target in ["/poll/c?wait=0.1", "/poll/c?wait=3600"] {
        let response = server.get(target).response();
        assert_eq!(
            (response.status, response.field("pushring-cursor")),
            (204, Some(&*id)),
            "{target}"
        );
    }
}

#[test]
fn ten_megabytes_of_pipelined_requests_do_not_pile_up() {
    let server = Server::start("");
    const CHANNELS: usize = 100;
    let requests = 10 * MIB / REQUEST_BYTES;
    // Answers differ by their cursor, so that their order shows.
    let cursors: Vec<_> = (0..CHANNELS)
        .map(|n| server.publish(&format!("c{n}"), "x"))
        .collect();
    let rss = server.rss_bytes();
    let mut client = server.connect();
    let mut writer = client.another_handle();
    let writing = thread::spawn(move || {
        for n in 0..requests {
            writer.send(padded_get(&format!("/poll/c{}", n % CHANNELS)));
        }
    });
    // By then the server has stopped reading, since nobody reads its answers.
    wait_until("back-pressure", || {
        let before = server.metric("requests_total");
        thread::sleep(std::time::Duration::from_millis(100));
        server.metric("requests_total") - before <= 1
    });
    assert!(
        server.rss_bytes() < rss + 32 * MIB,
        "{} after {rss}",
        server.rss_bytes()
    );
    for n in 0..requests {
        let cursor = &cursors[n % CHANNELS];
        assert_eq!(
            client.response_head().field("pushring-cursor"),
            Some(&**cursor),
            "answer {n}"
        );
    }
    client.get("/healthz");
    assert_eq!(client.response().text(), "ok\n");
    writing.join().unwrap();
}

#[test]
fn a_body_that_nobody_needs_is_read_over() {
    let server = Server::start("");
    let mut client = server.connect();
    for target in ["/healthz", "/poll/c", "/metrics", "/channels"] {
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: t\r\nContent-Length: 14\r\n\r\nGET / HTTP/1.1"
        ));
        assert!(client.response().status < 300, "{target}");
        client.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"));
        assert!(client.response().status < 300, "{target}");
    }
    client.assert_silent();
}

#[test]
fn a_client_that_expects_100_is_told_to_go_on() {
    let server = Server::start("");
    let mut client = server.connect();
    client.send(
        "POST /pub/c HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    );
    assert_eq!(
        client.read_until("\r\n\r\n"),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.send("ab");
    assert_eq!(client.response().status, 202);
    // RFC 9110 §10.1.1: HTTP/1.0 knows no 100.
    let mut old = server.connect();
    old.send("POST /pub/c HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    server.ask("GET", "/healthz", b"");
    old.send("ab");
    assert_eq!(old.response().status, 202);
    // Refused before the body: no 100, and no body is waited for.
    client.send("POST /pub/c HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.status, response.field("connection")),
        (413, Some("close"))
    );
}

#[test]
fn a_chunked_publish_is_the_same_wherever_it_is_split() {
    // One thread: who is answered after the first half was sent knows that it has been read.
    let server = Server::start("--threads 1");
    let request = "POST /pub/c HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2;name=value\r\nab\r\n03\r\ncde\r\n0\r\nTrailer: t\r\n\r\n";
    let mut client = server.connect();
    for split in 1..request.len() {
        client.send(&request[..split]);
        server.ask("GET", "/healthz", b"");
        client.send(&request[split..]);
        assert_eq!(client.response().status, 202, "split at {split}");
    }
    for byte in request.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.response().status, 202);
    let messages = server
        .get("/poll/c?since=earliest&limit=1000")
        .response()
        .messages();
    assert!(
        messages.len() >= 100 && messages.iter().all(|message| message == "abcde"),
        "{messages:?}"
    );
}

#[test]
fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
    let file = "message_bytes_max = 1000\n[namespace.\"\"]\nclient_publish = true\n";
    let server = Start::new("").file(file).serve();
    for (bytes, status) in [
        (0, 202),
        (999, 202),
        (1000, 202),
        (1001, 413),
        (1_000_000, 413),
    ] {
        let body = vec![b'x'; bytes];
        assert_eq!(
            server.ask("POST", "/pub/c", &body).status,
            status,
            "{bytes} bytes with a length"
        );
        let mut client = server.connect();
        client.send("POST /pub/c HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(400) {
            let chunk = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
            if client.try_send(chunk).is_err() {
                break;
            }
        }
        let _ = client.try_send("0\r\n\r\n");
        assert_eq!(client.response().status, status, "{bytes} bytes in chunks");
        let mut ws = server.connect();
        ws.send(ws_handshake("/ws/own"));
        ws.read_until("\r\n\r\n");
        let _ = ws.try_send(ws_frame(0x81, &body));
        match status {
            413 => assert_eq!(
                ws.read_bytes(4)[2..],
                1009u16.to_be_bytes(),
                "{bytes} bytes in a frame"
            ),
            _ => assert_eq!(ws.read_bytes(1), [0x81], "{bytes} bytes in a frame"),
        }
    }
    assert_eq!(
        server.metric("refusals_total{code=\"body_too_large\",status=\"413\"}"),
        4
    );
}

#[test]
fn sixty_four_mebibytes_go_through_where_they_are_allowed() {
    let flags = "--message-bytes-max 64MiB --fanout-backlog-bytes-max 256MiB --body-timeout 60s";
    let server = Server::start(flags);
    let mut ws = server.ws("/ws/large");
    let mut client = server.connect();
    client.send("POST /pub/large HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [b"100000\r\n", &vec![b'y'; MIB][..], b"\r\n"].concat();
    for _ in 0..64 {
        client.send(&chunk);
    }
    client.send("0\r\n\r\n");
    let reading = thread::spawn(move || ws.text());
    let response = client.response();
    assert_eq!(
        (response.status, &response.json()["receivers"]),
        (201, &serde_json::json!(1))
    );
    let text = reading.join().unwrap();
    assert!(text == "y".repeat(64 * MIB));
}
