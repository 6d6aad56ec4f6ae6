//! Each limit on what clients may do is hit by one who does too much; the others go on.

use std::time::Instant;

use rustix::process::Signal;

use crate::client::{Client, ws_frame, ws_handshake};
use crate::harness::{Server, Start, wait_until};

fn closed(reason: &str) -> String {
    format!("connections_closed_total{{reason=\"{reason}\"}}")
}

fn refused(code: &str, status: u16) -> String {
    format!("refusals_total{{code=\"{code}\",status=\"{status}\"}}")
}

/// A connection from `source` that has asked whether the server lives.
fn asking_from(server: &Server, source: &str) -> Client {
    let mut client = Client::connect_from(source, server.address);
    let _ = client.try_send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    client
}

#[test]
fn beyond_connections_per_address_max_that_address_is_refused_on_every_shard() {
    let flags =
        "--threads 4 --internal 127.0.0.1:0 --connections-per-address-max 3 --linger-timeout 100ms";
    let server = Server::start(flags);
    let mut kept = Vec::new();
    for source in ["127.0.0.2", "127.0.0.3"] {
        for _ in 0..3 {
            let mut client = asking_from(&server, source);
            assert_eq!(client.response().status, 200);
            kept.push(client);
        }
        for _ in 0..5 {
            let mut client = asking_from(&server, source);
            let response = client.response();
            assert_eq!(
                (response.status, response.code().as_str()),
                (429, "address_connections_full")
            );
            assert!((1..=5).contains(&response.field("retry-after").unwrap().parse().unwrap()));
            assert_eq!(client.read_to_end().unwrap(), b"");
        }
    }
    assert_eq!(server.metric(&refused("address_connections_full", 429)), 10);
    server.wait_metric(&closed("too_many_connections"), 10);
    assert!(server.wait_log("of one address").contains("peer=127.0.0."));
    // The backend has a listener of its own, and as many connections as it likes.
    let mut backend: Vec<_> = (0..9).map(|_| Client::connect(server.internal)).collect();
    for client in &mut backend {
        client.get("/healthz");
        assert_eq!(client.response().status, 200);
    }
    // Who leaves makes room, for that address.
    drop(kept.remove(0));
    wait_until("room", || {
        asking_from(&server, "127.0.0.2").has_answer("HTTP/1.1 200 ")
    });
    assert!(asking_from(&server, "127.0.0.3").has_answer("HTTP/1.1 429 "));
}

#[test]
fn a_flood_of_one_address_is_closed_without_a_word() {
    let flags = "--internal 127.0.0.1:0 --connections-per-address-max 2 --linger-timeout 60s";
    let server = Server::start(flags);
    let mut flood: Vec<_> = (0..100)
        .map(|_| asking_from(&server, "127.0.0.2"))
        .collect();
    server.wait_metric("connections_rejected_total", 98);
    let mut statuses = [0; 3];
    for client in &mut flood {
        let begin = client.begin(12);
        statuses[match &begin[..] {
            b"HTTP/1.1 200" => 0,
            b"HTTP/1.1 429" => 1,
            _ => 2,
        }] += 1;
    }
    assert_eq!(statuses, [2, 8, 90]);
    assert!(asking_from(&server, "127.0.0.3").has_answer("HTTP/1.1 200 "));
}

#[test]
fn newcomers_beyond_the_rate_are_refused() {
    const PER_SECOND: usize = 5;
    let server = Server::start(&format!(
        "--threads 1 --internal 127.0.0.1:0 --accepts-per-second-max {PER_SECOND}"
    ));
    let mut listener = server.ws("/ws/c");
    let began = Instant::now();
    let (mut admitted, mut refused_here) = (1, 0);
    while refused_here < 20 {
        let mut client = server.get("/healthz");
        let response = client.response();
        if response.status == 200 {
            admitted += 1;
            assert!(admitted < 1000, "nobody is refused");
            continue;
        }
        refused_here += 1;
        assert_eq!(
            (response.status, response.code().as_str()),
            (503, "accept_rate_exceeded")
        );
        assert!((1..=5).contains(&response.field("retry-after").unwrap().parse().unwrap()));
    }
    let elapsed_s = began.elapsed().as_secs_f64();
    let most = PER_SECOND as f64 * (1.0 + elapsed_s) + 2.0;
    assert!(
        admitted >= PER_SECOND && admitted as f64 <= most,
        "{admitted} in {elapsed_s} s"
    );
    assert_eq!(server.metric(&refused("accept_rate_exceeded", 503)), 20);
    server.wait_log("accepts_per_second_max");
    server.publish("c", "still there");
    assert_eq!(listener.text(), "still there");
    wait_until("room", || {
        server.get("/healthz").has_answer("HTTP/1.1 200 ")
    });
}

#[test]
fn newcomers_beyond_the_rate_wait_where_they_may() {
    const PER_SECOND: usize = 20;
    const NEWCOMERS: usize = 60;
    let flags = |wait: &str| {
        format!(
            "--threads 1 --internal 127.0.0.1:0 --accepts-per-second-max {PER_SECOND} --accept-wait-max {wait}"
        )
    };
    let server = Server::start(&flags("1m"));
    let began = Instant::now();
    let mut crowd: Vec<_> = (0..NEWCOMERS).map(|_| server.get("/healthz")).collect();
    assert_eq!(
        server.ask("GET", "/healthz", b"").status,
        200,
        "the backend does not wait"
    );
    for client in &mut crowd {
        assert_eq!(client.response().status, 200);
    }
    let most = PER_SECOND as f64 * (1.0 + began.elapsed().as_secs_f64()) + 2.0;
    assert!(NEWCOMERS as f64 <= most, "they came faster than that");
    assert_eq!(server.metric(&refused("accept_rate_exceeded", 503)), 0);

    // Not for ever; and those who come later wait anew.
    let server = Server::start(&flags("100ms"));
    let mut crowd: Vec<_> = (0..500).map(|_| server.get("/healthz")).collect();
    let statuses: Vec<_> = crowd.iter_mut().map(|it| it.response().status).collect();
    let n_refused = statuses.iter().filter(|status| **status == 503).count();
    assert!((1..=500 - PER_SECOND).contains(&n_refused), "{n_refused}");
    let refusals = server.metric(&refused("accept_rate_exceeded", 503));
    assert_eq!(refusals as usize, n_refused);
    assert_eq!(server.get("/healthz").response().status, 200);
}

#[test]
fn a_door_that_closes_leaves_nobody_waiting() {
    let mut server = Server::start(
        "--threads 1 --accepts-per-second-max 1 --accept-wait-max 1m --drain-period 0s",
    );
    let mut crowd: Vec<_> = (0..5).map(|_| server.get("/healthz")).collect();
    assert_eq!(crowd[0].response().status, 200);
    server.signal(Signal::TERM);
    for client in &mut crowd[1..] {
        assert!([200, 503].contains(&client.response().status));
    }
    assert!(server.wait_exit().success());
}

#[test]
fn who_sends_too_fast_is_refused_or_closed_and_the_others_go_on() {
    let server = Server::start(
        "--internal 127.0.0.1:0 --inbound-messages-per-second-max 10 --linger-timeout 100ms",
    );
    let mut witness = server.ws("/ws/c");
    let mut fast = server.connect();
    fast.send(ws_handshake("/ws/c"));
    fast.read_until("\r\n\r\n");
    let _ = fast.try_send(ws_frame(0x89, b"").repeat(100));
    let end = fast.wait_end();
    assert!(memchr::memmem::find(&end, b"messages come too fast").is_some());
    server.wait_metric(&closed("rate_exceeded"), 1);

    let mut requests = server.connect();
    requests.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n".repeat(30));
    let responses: Vec<_> = (0..30).map(|_| requests.response()).collect();
    assert!(
        responses[..10]
            .iter()
            .all(|response| response.status == 200)
    );
    let last = responses.last().unwrap();
    assert_eq!(
        (last.status, last.code().as_str()),
        (429, "request_rate_exceeded")
    );
    assert!(last.field("retry-after").is_some());
    assert!(server.metric(&refused("request_rate_exceeded", 429)) > 0);
    // The same connection is heard again.
    wait_until("its second", || {
        requests.get("/healthz");
        requests.response().status == 200
    });
    for n in 0..50 {
        server.publish("c", n.to_string());
        assert_eq!(witness.text(), n.to_string());
    }
}

#[test]
fn who_sends_too_many_bytes_is_refused_or_closed() {
    let file = "[namespace.echo]\nclient_publish = true\n";
    let flags = "--internal 127.0.0.1:0 --inbound-bytes-per-second-max 1KiB";
    let server = Start::new(flags).file(file).serve();
    let mut fast = server.ws("/ws/echo:a");
    let large = "x".repeat(60_000);
    fast.send(&large);
    assert_eq!(fast.text(), large, "a single one passes");
    fast.send("one more");
    assert_eq!(fast.close(), (1008, "messages come too fast".to_owned()));
    server.wait_metric(&closed("rate_exceeded"), 1);
    let mut requests = server.connect();
    let padding = "x".repeat(5000);
    for want in [200, 429] {
        let fields = format!("X-Padding: {padding}\r\n");
        requests.request("GET", "/healthz", &fields, b"");
        assert_eq!(requests.response().status, want);
    }
}

#[test]
fn a_websocket_message_that_never_ends_is_given_up() {
    let server = Server::start("--body-timeout 200ms --linger-timeout 100ms");
    let whole = ws_frame(0x81, b"hello");
    for begin in [&whole[..1], &whole[..9]] {
        let mut client = server.connect();
        client.send(ws_handshake("/ws/c"));
        client.read_until("\r\n\r\n");
        client.send(begin);
        let end = client.wait_end();
        assert!(memchr::memmem::find(&end, b"the message took too long").is_some());
    }
    server.wait_metric(&closed("request_timeout"), 2);
}

#[test]
fn over_the_total_of_outboxes_those_with_the_most_are_closed() {
    const LAZY: usize = 8;
    const PAYLOAD_BYTES: usize = 32 * 1024;
    const TOTAL_MAX: usize = 1024 * 1024;
    let flags = format!(
        "--threads 1 --outbox-bytes-max 1MiB --outbox-bytes-total-max {TOTAL_MAX} --linger-timeout 100ms"
    );
    let file = "[namespace.\"\"]\nhistory_bytes = \"64KiB\"\n";
    let server = Start::new(&flags).file(file).serve();
    let mut keen = server.ws("/ws/c");
    let lazy: Vec<_> = (0..LAZY).map(|_| server.ws("/ws/c")).collect();
    let payload = "x".repeat(PAYLOAD_BYTES);
    let mut published = 0;
    while server.metric("messages_dropped_total") == 0 {
        server.publish("c", &payload);
        assert_eq!(keen.text().len(), PAYLOAD_BYTES);
        let waiting = server.metric("outbox_bytes");
        assert!(
            waiting <= (TOTAL_MAX + (LAZY + 1) * 2 * PAYLOAD_BYTES) as u64,
            "{waiting}"
        );
        published += 1;
        assert!(published < 10_000, "nobody is found too slow");
    }
    server.wait_log("outbox_bytes_total_max");
    server.publish("c", "end");
    assert_eq!(keen.text(), "end");
    drop(lazy);
    server.wait_metric("connections{", 2);
    assert_eq!(server.metric("outbox_bytes"), 0);
    assert!(server.metric(&closed("outboxes_full")) > 0);
    let by_their_own_limit = server.metric(&closed("slow_reader"));
    assert_eq!(by_their_own_limit, 0);
}

#[test]
fn where_one_shards_table_is_full_newcomers_are_told() {
    const THREADS: usize = 8;
    // 34 descriptors for connections in each of the tables.
    const CONNECTIONS_MAX: usize = 34 * THREADS;
    let flags = format!("--threads {THREADS} --internal 127.0.0.1:0 --linger-timeout 100ms");
    let server = Start::new(&flags).after("ulimit -n 130").serve();
    // The backend's own connection, while there is room.
    server.metric("connections{");
    let mut kept = Vec::new();
    loop {
        let mut client = server.get("/healthz");
        let response = client.response();
        if response.status == 200 {
            kept.push(client);
            continue;
        }
        assert_eq!(
            (response.status, response.code().as_str()),
            (503, "connections_full")
        );
        break;
    }
    // The kernel spreads them by a hash: one table is full well before all are.
    assert!(kept.len() + 1 < CONNECTIONS_MAX, "{}", kept.len());
    assert_eq!(server.metric("accept_errors_total"), 0);
    assert_eq!(server.metric(&refused("connections_full", 503)), 1);
}
