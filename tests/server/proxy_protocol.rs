//! Connections that begin with a header of the PROXY protocol: whose it is believed, and what follows from it.

use std::net::{SocketAddr, SocketAddrV4};

use crate::client::{Client, ws_frame, ws_handshake};
use crate::harness::{Server, wait_until};

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Believes headers of 127.0.0.1 and of 127.0.0.4 to 127.0.0.7; the backend comes without one.
fn start(flags: &str) -> Server {
    Server::start(&format!(
        "--internal 127.0.0.1:0 --proxy-protocol --proxy-sources 127.0.0.1,127.0.0.4/30 {flags}"
    ))
}

fn v1(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (family, server) = match client {
        SocketAddr::V4(_) => ("TCP4", "198.51.100.1"),
        SocketAddr::V6(_) => ("TCP6", "2001:db8::"),
    };
    let (address, port) = (client.ip(), client.port());
    format!("PROXY {family} {address} {server} {port} 443\r\n").into_bytes()
}

/// Version 2, with two extensions behind the addresses.
fn v2(client: &str) -> Vec<u8> {
    let client: SocketAddrV4 = client.parse().unwrap();
    let block = [
        &client.ip().octets()[..],
        &[198, 51, 100, 1],
        &client.port().to_be_bytes(),
        &443u16.to_be_bytes(),
        &[0x04, 0, 2, 7, 7, 0x03, 0, 4, 1, 2, 3, 4],
    ]
    .concat();
    let length = (block.len() as u16).to_be_bytes();
    [V2_SIGNATURE, &[0x21, 0x11], &length[..], &block].concat()
}

fn local() -> Vec<u8> {
    [V2_SIGNATURE, &[0x20, 0, 0, 0][..]].concat()
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes()
}

/// The status of the answer to `bytes`, and the code of a refusal, which ends the connection.
#[track_caller]
fn answer(server: &Server, source: &str, bytes: &[u8]) -> (u16, String) {
    let mut client = Client::connect_from(source, server.address);
    let _ = client.try_send(bytes);
    let response = client.response();
    if response.status < 400 {
        return (response.status, String::new());
    }
    assert_eq!(client.read_to_end().unwrap(), b"");
    (response.status, response.code())
}

#[test]
fn a_header_is_read_however_it_comes() {
    let server = start("");
    for header in [
        v1("192.0.2.1:1"),
        v1("[2001:db8::1]:1"),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2("192.0.2.1:1"),
        local(),
    ] {
        let whole = [&header[..], &get("/healthz"), &get("/readyz")].concat();
        for at in 0..=header.len() + 1 {
            let mut client = server.connect();
            let (front, back) = whole.split_at(at);
            client.send(front);
            client.send(back);
            assert_eq!(client.response().text(), "ok\n");
            assert_eq!(client.response().text(), "ready\n");
        }
        let mut client = server.connect();
        for byte in &whole {
            client.send([*byte]);
        }
        assert_eq!(client.response().text(), "ok\n");
        assert_eq!(client.response().text(), "ready\n");
    }
    assert_eq!(server.metric("refusals_total"), 0);
}

#[test]
fn who_is_no_proxy_or_sends_no_header_is_refused_and_counted() {
    let server = start("--proxy-header-timeout 200ms");
    let with_header = [v1("192.0.2.1:1"), get("/healthz")].concat();
    let refused = |status: u16, code: &str| (status, code.to_owned());
    for source in ["127.0.0.1", "127.0.0.4", "127.0.0.7"] {
        assert_eq!(answer(&server, source, &with_header).0, 200, "{source}");
    }
    for source in ["127.0.0.2", "127.0.0.8"] {
        for bytes in [&with_header, &get("/healthz")] {
            let want = refused(403, "proxy_source_denied");
            assert_eq!(answer(&server, source, bytes), want, "{source}");
        }
    }
    for bytes in [
        get("/healthz"),
        b"PROXY TCP4 nonsense\r\n".to_vec(),
        [V2_SIGNATURE, &[0x21, 0x11, 0, 0][..]].concat(),
        [V2_SIGNATURE, &[0x21, 0x11, 0xFF, 0xFF][..]].concat(),
    ] {
        let want = refused(400, "proxy_header_invalid");
        assert_eq!(answer(&server, "127.0.0.1", &bytes), want);
    }
    for bytes in [&b""[..], b"PROXY", &v2("192.0.2.1:1")[..20]] {
        let want = refused(408, "proxy_header_timeout");
        assert_eq!(answer(&server, "127.0.0.1", bytes), want);
    }
    for (code, status, count) in [
        ("proxy_source_denied", 403, 4),
        ("proxy_header_invalid", 400, 4),
        ("proxy_header_timeout", 408, 3),
    ] {
        let counter = format!("refusals_total{{code=\"{code}\",status=\"{status}\"}}");
        assert_eq!(server.metric(&counter), count);
    }
    assert_eq!(server.metric("connections_rejected_total"), 11);
    assert!(server.wait_log("not a proxy").contains("peer=127.0.0.2:"));
    assert!(
        server
            .wait_log("does not begin with a PROXY header")
            .contains("peer=127.0.0.1:")
    );
    // A balancer that looks whether somebody listens.
    drop(server.connect());
    wait_until("nobody", || server.metric("connections{") == 1);
}

#[test]
fn the_address_in_the_header_is_the_one_that_is_limited_and_logged() {
    let flags = "--connections-per-address-max 2 --inbound-messages-per-second-max 5";
    let server = start(flags);
    let connect = |header: Vec<u8>| {
        let mut client = server.connect();
        client.send([header, get("/healthz")].concat());
        let status = client.response().status;
        (client, status)
    };
    let mut kept = Vec::new();
    for (header, want) in [
        (v1("192.0.2.1:1"), 200),
        (v2("192.0.2.1:2"), 200),
        (v1("192.0.2.1:3"), 429),
        (v1("[::ffff:192.0.2.1]:3"), 429),
        (v2("192.0.2.2:1"), 200),
        (v1("[2001:db8:0:1::1]:1"), 200),
        (v1("[2001:db8:0:1::2]:1"), 200),
        (v1("[2001:db8:0:1:ffff::]:1"), 429),
        (v1("[2001:db8:0:2::1]:1"), 200),
        // What a proxy says for itself counts for its own address.
        (local(), 200),
        (local(), 200),
        (b"PROXY UNKNOWN\r\n".to_vec(), 429),
    ] {
        let (client, status) = connect(header);
        assert_eq!(status, want);
        kept.push(client);
    }
    drop(kept);
    wait_until("room", || connect(v1("192.0.2.1:4")).1 == 200);

    let mut fast = server.connect();
    fast.send([v2("192.0.2.77:4711"), ws_handshake("/ws/c").into()].concat());
    assert!(fast.read_until("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    let _ = fast.try_send(ws_frame(0x89, b"").repeat(20));
    let line = server.wait_log("rate_exceeded");
    assert!(line.contains("peer=192.0.2.77:4711"), "{line}");
}

#[test]
fn each_listener_has_its_own_rule() {
    let server =
        Server::start("--internal 127.0.0.1:0 --internal-proxy-protocol --proxy-sources 127.0.0.1");
    assert_eq!(server.get("/healthz").response().status, 200);
    let mut backend = Client::connect(server.internal);
    backend.send([v1("192.0.2.1:1"), get("/metrics")].concat());
    assert_eq!(backend.response().status, 200);
    let mut backend = Client::connect(server.internal);
    backend.send(get("/metrics"));
    assert_eq!(backend.response().code(), "proxy_header_invalid");
}

#[test]
fn a_server_that_nobody_could_reach_does_not_start() {
    let start = crate::harness::Start::new("--proxy-protocol");
    let (status, text) = start.fail();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("proxy_sources"), "{text}");
}

#[test]
fn who_has_not_sent_its_header_does_not_hold_up_the_end() {
    let mut server = start("--proxy-header-timeout 1h --drain-timeout 1h");
    let mut waiting = server.connect();
    waiting.send("PROXY ");
    server.wait_metric("connections{", 2);
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait_exit().success());
    assert_eq!(waiting.wait_end(), b"");
}
