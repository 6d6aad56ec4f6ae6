//! Signs of life on connections that have nothing else to say.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::client::ws_handshake;
use crate::harness::{Server, wait_until};

#[test]
fn a_quiet_stream_shows_signs_of_life() {
    let server = Server::start("--heartbeat 100ms");
    let mut sse = server.sse("/sse/c");
    let mut ws = server.connect();
    ws.send(ws_handshake("/ws/c"));
    ws.read_until("\r\n\r\n");
    for _ in 0..5 {
        assert_eq!(sse.read_until("\r\n:\n\r\n"), "2\r\n:\n\r\n");
        assert_eq!(ws.read_bytes(2), [0x89, 0]);
        ws.send([0x8a, 0x80, 0, 0, 0, 0]);
    }
    assert!(server.metric("heartbeats_sent_total") >= 10);
    // In between messages come whole.
    server.publish("c", "news");
    assert!(sse.read_until("\n\n").ends_with("\ndata: news\n\n"));
}

#[test]
fn who_speaks_needs_no_ping() {
    let server = Server::start("--heartbeat 300ms --pong-timeout 300ms");
    let mut ws = server.connect();
    ws.send(ws_handshake("/ws/c"));
    ws.read_until("\r\n\r\n");
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        // An unsolicited pong is a sign of life, too, so it is a ping that says more.
        ws.send([0x89, 0x80, 0, 0, 0, 0]);
        assert_eq!(ws.read_bytes(1), [0x8a], "a pong and no ping");
        assert_eq!(ws.read_bytes(1), [0]);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_heartbeats_of_those_who_came_together_are_spread() {
    const CONNECTIONS: usize = 200;
    let server = Server::start("--heartbeat 1s");
    let mut streams: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = server.connect();
            client.send(ws_handshake("/ws/c"));
            client.read_until("\r\n\r\n");
            client.into_stream()
        })
        .collect();
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
    }
    let began = Instant::now();
    let mut buckets = BTreeSet::new();
    wait_until("a ping for each", || {
        streams.retain_mut(|stream| {
            let is_pinged = stream.read(&mut [0; 2]).is_ok();
            if is_pinged {
                buckets.insert(began.elapsed().as_millis() / 100);
            }
            !is_pinged
        });
        streams.is_empty()
    });
    assert!(buckets.len() >= 5, "{buckets:?}");
}

#[test]
fn streams_that_are_old_enough_are_sent_back() {
    let server = Server::start("--websocket-age-max 300ms --event-stream-age-max 300ms");
    let mut ws = server.ws("/ws/c");
    let mut sse = server.sse("/sse/c?since=earliest");
    let (code, reason) = ws.close();
    assert_eq!(code, 3001);
    assert!(
        reason.starts_with("maximum age, reconnect after "),
        "{reason}"
    );
    let end = String::from_utf8(sse.read_to_end().unwrap()).unwrap();
    assert!(
        end.contains("retry: ") && end.ends_with("\r\n0\r\n\r\n"),
        "{end}"
    );
    drop((ws, sse));
    server.wait_metric("connections_closed_total{reason=\"age_max\"}", 2);
}
