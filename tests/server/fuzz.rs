//! Bytes that nobody meant: whatever comes in, the server goes on, and nothing of it stays behind.

use fastrand::Rng;

use crate::harness::{Client, Server, Start, ws_frame, ws_handshake};

const MIB: usize = 1024 * 1024;
const CONNECTIONS: usize = 1500;
/// Connections that are open at the same time.
const TOGETHER: usize = 30;

/// What a connection says when nobody spoils it.
fn script(rng: &mut Rng) -> Vec<u8> {
    let channel = rng.choice(["a", "b", "echo:c", "d,e,f", "%61:x"]).unwrap();
    let mut bytes = Vec::new();
    match rng.u8(0..8) {
        0..4 => {
            for _ in 0..rng.usize(1..6) {
                let body = "x".repeat(rng.usize(0..300));
                let request = match rng.u8(0..7) {
                    0 => format!(
                        "GET /poll/{channel}?since=earliest&limit=2 HTTP/1.1\r\nHost: t\r\n\r\n"
                    ),
                    1 => format!("GET /poll/{channel}?wait=5&last=1 HTTP/1.1\r\nHost: t\r\n\r\n"),
                    2 => format!(
                        "GET /sse/{channel}?last=3 HTTP/1.1\r\nHost: t\r\nLast-Event-ID: x-1\r\n\r\n"
                    ),
                    3 => "GET /channels?limit=3 HTTP/1.1\r\nHost: t\r\nOrigin: http://o\r\n\r\n"
                        .to_owned(),
                    4 => format!(
                        "POST /pub/{channel} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                        body.len().max(1)
                    ),
                    _ => format!(
                        "POST /pub/{channel} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    ),
                };
                bytes.extend_from_slice(request.as_bytes());
            }
        }
        _ => {
            bytes.extend_from_slice(ws_handshake(&format!("/ws/{channel}?last=2")).as_bytes());
            for _ in 0..rng.usize(1..10) {
                let first = *rng
                    .choice(&[0x81, 0x82, 0x01, 0x00, 0x80, 0x89, 0x8a, 0x88])
                    .unwrap();
                let payload = "{\"channel\":\"d\",\"data\":1}".repeat(rng.usize(0..12));
                bytes.extend(ws_frame(first, payload.as_bytes()));
            }
        }
    }
    bytes
}

/// Some bytes changed, lost, doubled or put in.
fn spoil(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..rng.usize(0..5) {
        let at = rng.usize(0..bytes.len());
        let upto = rng.usize(at..bytes.len().min(at + 40));
        match rng.u8(0..6) {
            0 => bytes[at] ^= 1 << rng.u8(0..8),
            1 => bytes[at] = rng.u8(..),
            2 => drop(bytes.drain(at..upto)),
            3 => bytes.insert(at, *rng.choice(b"\r\n\0 :,-\xff\x7f09").unwrap()),
            4 => bytes.extend_from_within(at..upto),
            _ => bytes.truncate(at),
        }
        if bytes.is_empty() {
            return;
        }
    }
}

/// Sends in pieces, reads a little or nothing, and leaves in one way or another.
fn play(server: &Server, bytes: &[u8], rng: &mut Rng) -> Option<Client> {
    let mut client = server.connect();
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = rng.usize(1..=rest.len());
        // A server that has had enough may have closed.
        if client.try_send(&rest[..n]).is_err() {
            return None;
        }
        rest = &rest[n..];
    }
    match rng.u8(0..3) {
        0 => client.reset(),
        1 => drop(client),
        _ => return Some(client),
    }
    None
}

#[test]
fn spoiled_bytes_leave_nothing_behind() {
    let seed = std::env::var("PUSHRING_TEST_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("PUSHRING_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let file = "head_timeout = \"1s\"\nbody_timeout = \"1s\"\nidle_timeout = \"5s\"\nlinger_timeout = \"200ms\"\n\
                [namespace.echo]\nclient_publish = true\n";
    let server = Start::new("").file(file).serve();
    server.publish("a", "warm");
    let descriptors = server.descriptors();
    let rss = server.rss_bytes();
    let mut open: Vec<Client> = Vec::new();
    for n in 0..CONNECTIONS {
        let mut bytes = script(&mut rng);
        spoil(&mut bytes, &mut rng);
        open.extend(play(&server, &bytes, &mut rng));
        if open.len() > TOGETHER {
            drop(open.swap_remove(rng.usize(0..open.len())));
        }
        if n % 100 == 0 {
            assert_eq!(server.ask("GET", "/healthz", b"").status, 200);
        }
    }
    drop(open);
    server.wait_metric("connections{", 1);
    assert_eq!(server.metric("panics_total"), 0);
    assert_eq!(server.metric("channels_listened"), 0);
    assert_eq!(
        server.metric("connections_accepted_total"),
        server.metric("connections_closed_total") + 1
    );
    crate::harness::wait_until("descriptors", || server.descriptors() == descriptors);
    assert!(
        server.rss_bytes() < rss + 32 * MIB,
        "{} after {rss}",
        server.rss_bytes()
    );
    let mut ws = server.ws("/ws/echo:end");
    ws.send("fine");
    assert_eq!(ws.text(), "fine");
}
