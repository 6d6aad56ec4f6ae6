//! Peers that are slow, rude or gone: each costs its own connection, and nobody else's.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, ws_frame, ws_handshake};
use crate::harness::{Server, Start, wait_until};

const MIB: usize = 1024 * 1024;

fn closed(reason: &str) -> String {
    format!("connections_closed_total{{reason=\"{reason}\"}}")
}

/// An open WebSocket of raw bytes.
fn raw_ws(server: &Server, target: &str) -> Client {
    let mut client = server.connect();
    client.send(ws_handshake(target));
    assert!(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    client
}

#[test]
fn who_never_completes_a_request_is_told_so() {
    let server = Server::start("--head-timeout 300ms --body-timeout 300ms");
    for (begin, drop, code) in [
        ("", b'G', "head_timeout"),
        ("GET / HTTP/1.1\r\n", b'X', "head_timeout"),
        (
            "POST /pub/c HTTP/1.1\r\nHost: t\r\nContent-Length: 9999\r\n\r\n",
            b'x',
            "body_timeout",
        ),
        (
            "POST /pub/c HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n9999\r\n",
            b'x',
            "body_timeout",
        ),
    ] {
        let mut client = server.connect();
        client.send(begin);
        let mut dripping = client.another_handle();
        let drip = thread::spawn(move || {
            while dripping.try_send([drop]).is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        });
        let response = client.response();
        assert_eq!(
            (response.status, response.code().as_str()),
            (408, code),
            "{begin}"
        );
        client.finish_sending();
        drip.join().unwrap();
    }
    server.wait_metric(&closed("request_timeout"), 4);
}

#[test]
fn a_kept_connection_without_a_request_is_closed() {
    let server = Server::start("--idle-timeout 200ms");
    let mut fresh = server.connect();
    let mut used = server.get("/healthz");
    used.response();
    for client in [&mut fresh, &mut used] {
        assert_eq!(client.read_to_end().unwrap(), b"");
    }
    server.wait_metric(&closed("idle"), 2);
}

#[test]
fn a_connection_whose_requests_are_refused_is_not_idle() {
    let server = Server::start("--idle-timeout 1s");
    let mut client = server.connect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        client.get("/nowhere");
        assert_eq!(client.response().status, 404);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_reset_in_any_phase_ends_that_connection_only() {
    let server = Server::start("");
    let mut witness = server.ws("/ws/c");
    let begins: [(&str, &str); 6] = [
        ("", ""),
        ("GET /poll/c HT", ""),
        (
            "POST /pub/c HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nab",
            "",
        ),
        ("GET /poll/c?wait=60 HTTP/1.1\r\nHost: t\r\n\r\n", ""),
        ("GET /sse/c HTTP/1.1\r\nHost: t\r\n\r\n", "retry: "),
        (&ws_handshake("/ws/c"), "\r\n\r\n"),
    ];
    for round in 1..=5 {
        let reset = |(begin, answer): &(&str, &str)| {
            let mut client = server.connect();
            client.send(begin);
            if !answer.is_empty() {
                client.read_until(answer);
            }
            client
        };
        let clients: Vec<_> = begins.iter().map(reset).collect();
        // All of them are known to the server, the parked ones as listeners.
        wait_until("listeners", || {
            server.ask("GET", "/channels/c", b"").json()["subscribers"] == 4
                && server.metric("connections{") == 2 + begins.len() as u64
        });
        clients.into_iter().for_each(Client::reset);
        server.wait_metric("connections{", 2);
        assert_eq!(
            server.publish("c", "still here").split('-').nth(1),
            Some(&*round.to_string())
        );
        assert_eq!(witness.text(), "still here");
    }
    assert_eq!(
        server.ask("GET", "/channels/c", b"").json()["subscribers"],
        1
    );
    assert_eq!(
        server.metric(&closed("peer_reset")),
        5 * begins.len() as u64
    );
}

#[test]
fn a_websocket_that_answers_no_ping_is_closed() {
    let server = Server::start("--heartbeat 200ms --pong-timeout 200ms --linger-timeout 100ms");
    let mut dead = raw_ws(&server, "/ws/c");
    let mut alive = server.ws("/ws/c");
    let living = thread::spawn(move || {
        let text = alive.text();
        (text, alive)
    });
    let bytes = dead.wait_end();
    let close = [&[0x88, 9][..], &3012u16.to_be_bytes(), b"no pong"].concat();
    assert!(
        bytes.starts_with(&[0x89, 0]) && bytes.ends_with(&close),
        "{bytes:?}"
    );
    server.wait_metric(&closed("no_pong"), 1);
    server.publish("c", "alive");
    assert_eq!(living.join().unwrap().0, "alive");
}

#[test]
fn who_reads_nothing_of_a_channel_that_speaks_is_closed_and_the_others_hear_all() {
    let file = "outbox_bytes_max = \"64KiB\"\nwrite_stall_timeout = \"1s\"\nlinger_timeout = \"100ms\"\n\
                [namespace.\"\"]\nhistory_bytes = \"64KiB\"\n";
    let server = Start::new("").file(file).serve();
    let rss = server.rss_bytes();
    let mut lazy_sse = server.connect();
    lazy_sse.get("/sse/c");
    lazy_sse.read_until("retry: ");
    let mut lazy_ws = raw_ws(&server, "/ws/c");
    let mut both_ws = raw_ws(&server, "/ws/c,d");
    let mut keen = server.ws("/ws/c");
    // Until the sockets and then the outboxes are full.
    let payload = "x".repeat(32 * 1024);
    let mut published = 0;
    while server.metric(&closed("slow_reader")) < 3 {
        server.publish("c", &payload);
        assert_eq!(keen.text(), payload);
        published += 1;
        assert!(published < 10_000, "nobody is found too slow");
    }
    assert!(
        server.rss_bytes() < rss + 64 * MIB,
        "{} after {rss}",
        server.rss_bytes()
    );
    let line = server.wait_log("slow reader");
    assert!(
        line.contains("WARN") && line.contains("policy=\"close\""),
        "{line}"
    );
    // Who reads at last finds the messages in order, and then an end.
    assert!(lazy_sse.wait_end().windows(4).any(|bytes| bytes == b"xxxx"));
    lazy_ws.wait_end();
    both_ws.wait_end();
}

#[test]
fn a_slow_websocket_that_reads_at_last_is_told_why() {
    let server = Server::start("--outbox-bytes-max 64KiB --linger-timeout 100ms");
    let mut lazy = server.ws("/ws/c");
    let payload = "x".repeat(60 * 1024);
    let mut published = 0;
    while server.metric("messages_dropped_total") == 0 {
        server.publish("c", &payload);
        published += 1;
        assert!(published < 10_000, "nobody is found too slow");
    }
    assert_eq!(lazy.close(), (3008, "slow reader".to_owned()));
    server.wait_metric(&closed("slow_reader"), 1);
}

#[test]
fn who_takes_nothing_of_what_waits_is_closed_as_stalled() {
    let flags = "--write-stall-timeout 300ms --message-bytes-max 16MiB --outbox-bytes-max 64MiB";
    let file = "[namespace.\"\"]\nhistory_bytes = \"64MiB\"\n";
    let server = Start::new(flags).file(file).serve();
    server.publish("c", vec![b'x'; 16 * MIB]);
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    clients[0].get("/poll/c?since=earliest");
    clients[1].get("/sse/c?since=earliest");
    clients[2].send(ws_handshake("/ws/c?since=earliest"));
    server.wait_metric(&closed("write_stalled"), 3);
    server.wait_metric("connections{", 1);
}

#[test]
fn after_a_half_close_the_answer_still_comes() {
    let server = Server::start("");
    for n in 0..40 {
        let mut client = server.connect();
        client.request("POST", &format!("/pub/c{n}"), "", b"x");
        client.finish_sending();
        assert_eq!(client.response().status, 202);
        assert_eq!(client.read_to_end().unwrap(), b"");
        let mut client = server.get(&format!("/poll/c{n}?since=earliest"));
        client.finish_sending();
        assert_eq!(client.response().messages(), ["x"]);
        assert_eq!(client.read_to_end().unwrap(), b"");
    }
}

#[test]
fn a_parked_long_poll_is_answered_when_its_client_half_closes() {
    let server = Server::start("");
    let cursor = server.publish("c", "x");
    let mut client = server.get(&format!("/poll/c?since={cursor}&wait=60"));
    client.get("/healthz");
    server.wait_subscribers("c", 1);
    client.finish_sending();
    let response = client.response();
    assert_eq!(
        (response.status, response.field("pushring-cursor")),
        (204, Some(&*cursor))
    );
    assert_eq!(client.response().text(), "ok\n", "what is behind it, too");
    assert_eq!(client.read_to_end().unwrap(), b"");
    // Who is gone is not waited for.
    drop(server.get("/poll/c?wait=60"));
    server.wait_subscribers("c", 0);
    server.wait_metric("connections{", 1);
}

#[test]
fn pipelined_requests_before_a_half_close_are_all_answered() {
    let server = Server::start("");
    let mut client = server.connect();
    for n in 0..40 {
        client.request("POST", &format!("/pub/c{n}"), "", b"x");
    }
    client.finish_sending();
    for _ in 0..40 {
        assert_eq!(client.response().status, 202);
    }
    assert_eq!(client.read_to_end().unwrap(), b"");
}

#[test]
fn a_half_close_that_is_noticed_early_cuts_no_answer() {
    let file = "message_bytes_max = \"8MiB\"\noutbox_bytes_max = \"64MiB\"\n[namespace.\"\"]\nhistory_bytes = \"64MiB\"\n";
    let server = Start::new("--threads 1").file(file).serve();
    server.publish("large", vec![b'x'; 8 * MIB]);
    // A long poll looks out for its client's end, and what is behind it fills the socket.
    let mut client = server.get("/poll/c?wait=60");
    for _ in 0..3 {
        client.get("/poll/large?since=earliest");
    }
    server.wait_subscribers("c", 1);
    server.publish("c", "go on");
    assert_eq!(client.response().messages(), ["go on"]);
    client.finish_sending();
    server.ask("GET", "/healthz", b"");
    for n in 0..3 {
        let response = client.response();
        assert_eq!(
            (response.status, response.messages()[0].len()),
            (200, 8 * MIB),
            "answer {n}"
        );
    }
    assert_eq!(client.read_to_end().unwrap(), b"");
}

#[test]
fn pings_without_a_reader_cost_one_pong() {
    let file = "write_stall_timeout = \"60s\"\n[namespace.\"\"]\nhistory_bytes = \"8MiB\"\n";
    let server = Start::new("--message-bytes-max 8MiB").file(file).serve();
    server.publish("c", vec![b'x'; 8 * MIB]);
    // The replay fills the socket; from then on pongs would have to wait.
    let mut client = raw_ws(&server, "/ws/c?since=earliest");
    wait_until("the socket is full", || {
        server.metric("socket_out_bytes_total") > MIB as u64 / 16
    });
    let rss = server.rss_bytes();
    let pings = ws_frame(0x89, &[b'p'; 100]).repeat(1000);
    let read = server.metric("socket_in_bytes_total") + 200 * pings.len() as u64;
    for _ in 0..200 {
        client.send(&pings);
    }
    client.send(ws_frame(0x89, b"last"));
    wait_until("all pings are read", || {
        server.metric("socket_in_bytes_total") >= read
    });
    assert!(
        server.rss_bytes() < rss + 16 * MIB,
        "{} after {rss}",
        server.rss_bytes()
    );
    let pong = [&[0x8a, 4][..], b"last"].concat();
    let bytes = client.read_bytes(8 * MIB);
    assert!(
        bytes.starts_with(&[0x82, 127]) || bytes.starts_with(&[0x81, 127]),
        "{:?}",
        &bytes[..4]
    );
    let mut tail = Vec::new();
    while !tail.ends_with(&pong) {
        tail.extend(client.read_bytes(1));
    }
    assert!(tail.len() < MIB, "{} bytes of pongs", tail.len());
}
