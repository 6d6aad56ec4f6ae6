//! Bytes that nobody meant: whatever comes in, the server goes on, and nothing of it stays behind.

use fastrand::Rng;
use rustix::process::Signal;

use crate::client::{Client, ws_frame, ws_handshake};
use crate::harness::{Server, Start, wait_until};

const MIB: usize = 1024 * 1024;
const STEPS: usize = 30_000;
/// Connections that are open at the same time.
const PEERS_MAX: usize = 50;
const CHANNELS: &[&str] = &["a", "b", "echo:c", "d", "e", "f"];

/// What a connection says when nobody spoils it.
fn script(rng: &mut Rng) -> Vec<u8> {
    let channel = rng.choice(["a", "b", "echo:c", "d,e,f", "%61:x"]).unwrap();
    let mut bytes = Vec::new();
    match rng.u8(0..8) {
        0..4 => {
            for _ in 0..rng.usize(1..6) {
                let body = "x".repeat(rng.usize(0..300));
                let request = match rng.u8(0..8) {
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
                    5 => format!("GET /poll/{channel}?last=1 HTTP/1.0\r\n\r\n"),
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

/// One peer with what it has still to say.
struct Peer {
    client: Client,
    script: Vec<u8>,
}

impl Peer {
    fn new(server: &Server, rng: &mut Rng) -> Self {
        let mut script = script(rng);
        spoil(&mut script, rng);
        Self {
            client: server.connect(),
            script,
        }
    }

    /// Says a little more. A server that has had enough may have closed.
    fn speak(&mut self, rng: &mut Rng) {
        let bytes = rng.usize(0..=self.script.len());
        let piece: Vec<_> = self.script.drain(..bytes).collect();
        if self.client.try_send(piece).is_err() {
            self.script.clear();
        }
    }

    fn leave(self, rng: &mut Rng) {
        match rng.u8(0..3) {
            0 => self.client.reset(),
            1 => drop(self.client.try_finish_sending()),
            _ => {}
        }
    }
}

fn seeded() -> Rng {
    let seed = std::env::var("PUSHRING_TEST_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("PUSHRING_TEST_SEED={seed}");
    Rng::with_seed(seed)
}

fn start(flags: &str) -> Server {
    let file = "head_timeout = \"1s\"\nbody_timeout = \"1s\"\nidle_timeout = \"5s\"\nlinger_timeout = \"200ms\"\n\
                heartbeat = \"100ms\"\n[namespace.echo]\nclient_publish = true\n";
    let server = Start::new(flags).file(file).serve();
    server.publish("a", "warm");
    server
}

/// Peers come, speak, read and leave in any order, while their channels speak and are deleted. Gives those that stay.
fn crowd(server: &Server, steps: usize, rng: &mut Rng) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..steps {
        let at = rng.usize(0..PEERS_MAX);
        match rng.u8(0..10) {
            _ if at >= peers.len() => peers.push(Peer::new(server, rng)),
            0..6 => peers[at].speak(rng),
            6 => peers[at].client.read_what_is_there(),
            7 => peers.swap_remove(at).leave(rng),
            8 => drop(server.publish(rng.choice(CHANNELS).unwrap(), "news")),
            _ => {
                // Now and then it is there.
                let channel = rng.choice(CHANNELS).unwrap();
                server.ask("DELETE", &format!("/channels/{channel}"), b"");
            }
        }
    }
    peers
}

#[test]
fn a_crowd_of_spoiled_peers_does_not_keep_the_server_from_its_end() {
    let mut rng = seeded();
    for _ in 0..3 {
        let mut server =
            start("--threads 3 --drain-period 100ms --drain-timeout 60s --close-timeout 200ms");
        let peers = crowd(&server, 1000, &mut rng);
        server.signal(Signal::TERM);
        assert!(server.wait_exit().success());
        drop(peers);
        assert_eq!(
            (server.log_lines("panicked"), server.log_lines("cutting")),
            (0, 0)
        );
        server.wait_log("ended");
    }
}

#[test]
fn spoiled_bytes_leave_nothing_behind() {
    let mut rng = seeded();
    let server = start("");
    let descriptors = server.descriptors();
    let rss = server.rss_bytes();
    let peers = crowd(&server, STEPS, &mut rng);
    assert_eq!(server.ask("GET", "/healthz", b"").status, 200);
    drop(peers);
    server.wait_metric("connections{", 1);
    assert_eq!(server.metric("panics_total"), 0);
    assert_eq!(server.metric("channels_listened"), 0);
    assert_eq!(
        server.metric("connections_accepted_total"),
        server.metric("connections_closed_total") + 1
    );
    wait_until("descriptors", || server.descriptors() == descriptors);
    assert!(
        server.rss_bytes() < rss + 32 * MIB,
        "{} after {rss}",
        server.rss_bytes()
    );
    // The peers got far enough to be ended in all these ways.
    for reason in [
        "answered",
        "refused",
        "peer_closed",
        "peer_reset",
        "websocket_protocol",
        "policy",
        "channel_deleted",
    ] {
        assert!(
            server.metric(&format!("connections_closed_total{{reason=\"{reason}\"}}")) > 0,
            "{reason}"
        );
    }
    for channel in CHANNELS {
        let info = server.ask("GET", &format!("/channels/{channel}"), b"");
        assert!(
            info.status == 404 || info.json()["subscribers"] == 0,
            "{info:?}"
        );
    }
    let mut ws = server.ws("/ws/echo:end");
    ws.send("fine");
    assert_eq!(ws.text(), "fine");
}
