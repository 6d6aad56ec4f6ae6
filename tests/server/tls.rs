//! TLS on either listener: every transport through it, and every way in which it goes wrong.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use tungstenite::Message;

use crate::client::Client;
use crate::harness::{Server, Start, wait_until};
use crate::tls_client::{TlsClient, certificate, client_config, client_connection, tcp};

fn certificate_flags(prefix: &str, name: &str) -> String {
    let (pem, key) = (
        certificate(&format!("{name}.pem")),
        certificate(&format!("{name}.key")),
    );
    format!("--{prefix}tls-certificate {pem} --{prefix}tls-key {key}")
}

/// Clients speak TLS, the backend does not.
fn start(flags: &str) -> Server {
    let certificate = certificate_flags("", "one");
    Server::start(&format!("--internal 127.0.0.1:0 {certificate} {flags}"))
}

fn config() -> Arc<ClientConfig> {
    Arc::new(client_config(&TLS13))
}

#[track_caller]
fn handshakes(server: &Server, result: &str) -> u64 {
    server.metric(&format!("tls_handshakes_total{{result=\"{result}\"}}"))
}

#[track_caller]
fn wait_handshakes(server: &Server, result: &str, want: u64) {
    wait_until(&format!("{want} {result}"), || {
        handshakes(server, result) == want
    });
}

#[test]
fn every_transport_works_over_both_versions() {
    let big = "x".repeat(60_000);
    for version in [&TLS12, &TLS13] {
        let server = start("--namespace echo.client_publish=true");
        let config = Arc::new(client_config(version));
        let connect = || TlsClient::connect(server.address, &config);

        let mut events = connect();
        events.get("/sse/c");
        events.read_until("retry: ");
        let mut poll = connect();
        poll.get("/poll/c?wait=60&since=now");
        let url = format!("ws://{}/ws/echo:me", server.address);
        let (mut socket, _) = tungstenite::client(url, connect().stream).unwrap();
        server.wait_subscribers("c", 2);
        for payload in ["hello", &big] {
            server.publish("c", payload);
            events.read_until(&format!("data: {payload}\n"));
            socket.send(Message::text(payload)).unwrap();
            assert_eq!(socket.read().unwrap().into_text().unwrap(), payload);
        }
        let answer = poll.read_until("]}");
        assert!(answer.contains("\"data\":\"hello\""), "{answer}");
        assert_eq!(poll.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        // The connection is kept, and takes several requests at once.
        let request = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
        poll.send(request.repeat(100));
        for _ in 0..100 {
            poll.read_until("ok\n");
        }
        poll.close();
        let resumed = handshakes(&server, "resumed");
        assert_eq!(handshakes(&server, "full") + resumed, 3);
        assert_eq!(server.metric("panics_total"), 0);
    }
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    const MESSAGES: usize = 400;
    let server = start("--outbox-bytes-max 64MiB --history-bytes-total-max 64MiB");
    let filler = "y".repeat(50_000);
    let mut events = TlsClient::connect(server.address, &config());
    events.get("/sse/c");
    events.read_until("retry: ");
    for n in 0..MESSAGES {
        server.publish("c", format!("{n} {filler}"));
    }
    wait_until("bytes wait", || server.metric("outbox_bytes") > 1 << 20);
    for n in 0..MESSAGES {
        events.read_until(&format!("data: {n} {filler}\n"));
    }
    server.wait_metric("outbox_bytes", 0);
}

#[test]
fn who_does_not_read_is_closed_as_without_tls() {
    let server = start("--outbox-bytes-max 64KiB");
    let mut events = TlsClient::connect(server.address, &config());
    events.get("/sse/c");
    events.read_until("retry: ");
    let filler = "z".repeat(50_000);
    wait_until("too slow, and subscribed no more", || {
        let answer = server.ask("POST", "/pub/c", filler.as_bytes());
        answer.json()["receivers"] == 0
    });
    events.read_to_end().expect("an end that is announced");
    server.wait_metric("connections_closed_total{reason=\"slow_reader\"}", 1);
}

#[test]
fn a_handshake_may_come_byte_by_byte() {
    let server = start("");
    let mut stream = tcp(server.address);
    let mut tls = client_connection(&config());
    tls.writer()
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let mut is_over = false;
    while !is_over {
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).unwrap();
        }
        for byte in bytes {
            stream.write_all(&[byte]).unwrap();
        }
        if tls.wants_read() {
            is_over = tls.read_tls(&mut stream).unwrap() == 0;
            is_over |= tls.process_new_packets().unwrap().peer_has_closed();
        }
        let _ = tls.reader().read_to_end(&mut answer);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
}

#[test]
fn a_handshake_that_is_not_complete_in_time_is_cut() {
    let server = start("--handshake-timeout 200ms");
    let mut hello = Vec::new();
    client_connection(&config()).write_tls(&mut hello).unwrap();
    for part in [&b""[..], &hello[..1], &hello[..hello.len() - 1]] {
        let mut client = server.connect();
        client.send(part);
        assert_eq!(client.wait_end(), b"");
    }
    assert_eq!(handshakes(&server, "timed_out"), 3);
    let line = server.wait_log("a TLS handshake fails");
    assert!(line.contains("not complete in time"), "{line}");
}

#[test]
fn handshakes_that_go_wrong_end_their_connection_only() {
    let server = start("");
    let mut hello = Vec::new();
    client_connection(&config()).write_tls(&mut hello).unwrap();
    // Cut off.
    let mut client = server.connect();
    client.send(&hello[..hello.len() / 2]);
    client.finish_sending();
    assert_eq!(client.wait_end(), b"");
    wait_handshakes(&server, "failed", 1);
    // A message that does not begin a handshake; 21 is an alert.
    let mut client = server.connect();
    client.send(b"\x16\x03\x01\x00\x04\xff\x00\x00\x00");
    let alert = client.wait_end();
    assert_eq!(alert.first(), Some(&21), "{alert:?}");
    // No protocol in common.
    let mut other = client_config(&TLS13);
    other.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = TlsClient::connect(server.address, &Arc::new(other));
    assert!(client.stream.write_all(b"x").is_err());
    wait_handshakes(&server, "failed", 3);
    // HTTP without TLS is told so, what is neither is not.
    let mut client = server.get("/healthz");
    let response = client.response();
    assert_eq!(
        (response.status, response.code().as_str()),
        (400, "tls_required")
    );
    assert_eq!(client.read_to_end().unwrap(), b"");
    let mut client = server.connect();
    client.send(b"\x00\x01");
    assert_eq!(client.wait_end(), b"");
    assert_eq!(handshakes(&server, "plain_text"), 2);
    // Who just looks whether somebody listens is no failure.
    drop(server.connect());
    wait_until("nobody", || server.metric("connections{") == 1);
    assert_eq!(handshakes(&server, "failed"), 3);
    let mut client = TlsClient::connect(server.address, &config());
    client.get("/healthz");
    client.read_until("ok\n");
}

#[test]
fn ends_are_announced_and_an_unannounced_one_is_taken() {
    let server = start("");
    // The server's end.
    let mut client = TlsClient::connect(server.address, &config());
    client.send("GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    assert!(client.read_to_end().unwrap().ends_with(b"ok\n"));
    // The client's, with a request just before it: it gets its answer.
    let mut client = TlsClient::connect(server.address, &config());
    client.get("/healthz");
    client.read_until("ok\n");
    client.get("/poll/c?since=now");
    client.stream.conn.send_close_notify();
    client.stream.flush().unwrap();
    let answer = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer:?}");
    // Without a word, and with a reset.
    for end in [Shutdown::Write, Shutdown::Both] {
        let mut client = TlsClient::connect(server.address, &config());
        client.get("/sse/c");
        client.read_until("retry: ");
        client.stream.sock.shutdown(end).unwrap();
        drop(client);
    }
    wait_until("nobody", || server.metric("connections{") == 1);
}

#[test]
fn a_client_that_comes_back_resumes() {
    for version in [&TLS12, &TLS13] {
        let server = start("");
        let config = Arc::new(client_config(version));
        for (n, kind) in [HandshakeKind::Full, HandshakeKind::Resumed]
            .into_iter()
            .enumerate()
        {
            let mut client = TlsClient::connect(server.address, &config);
            client.get("/healthz");
            client.read_until("ok\n");
            assert_eq!(client.stream.conn.handshake_kind(), Some(kind), "{n}");
            client.close();
        }
        assert_eq!(handshakes(&server, "full"), 1);
        assert_eq!(handshakes(&server, "resumed"), 1);
    }
}

#[test]
fn the_proxy_header_comes_before_the_handshake() {
    let server = start("--proxy-protocol --proxy-sources 127.0.0.1");
    let mut tls = client_connection(&config());
    let mut first = b"PROXY TCP4 192.0.2.1 198.51.100.1 1 443\r\n".to_vec();
    tls.write_tls(&mut first).unwrap();
    for is_split in [true, false] {
        let mut stream = tcp(server.address);
        if is_split {
            stream.write_all(&first[..41]).unwrap();
            let mut client = TlsClient::over(stream, &config());
            client.get("/healthz");
            client.read_until("ok\n");
        } else {
            stream.write_all(&first).unwrap();
            while tls.is_handshaking() {
                tls.complete_io(&mut stream).unwrap();
            }
        }
    }
    wait_handshakes(&server, "full", 2);
    let mut client = server.get("/healthz");
    assert_eq!(client.wait_end(), b"", "neither header nor TLS");
}

#[test]
fn the_internal_listener_has_its_own_certificate() {
    let flags = certificate_flags("internal-", "two");
    let server = Server::start(&format!("--internal 127.0.0.1:0 {flags}"));
    assert_eq!(server.get("/healthz").response().status, 200);
    let mut backend = TlsClient::connect(server.internal, &config());
    backend.get("/metrics");
    backend.read_until("pushring_tls_handshakes_total{result=\"full\"} 1\n");
    let mut plain = Client::connect(server.internal);
    plain.get("/metrics");
    assert_eq!(plain.response().code(), "tls_required");
}

#[test]
fn who_is_turned_away_before_the_handshake_is_closed_and_counted() {
    let server = start("--connections-per-address-max 1");
    let mut first = TlsClient::connect(server.address, &config());
    first.get("/healthz");
    first.read_until("ok\n");
    let mut second = server.connect();
    assert_eq!(second.wait_end(), b"");
    assert_eq!(
        server.metric("refusals_total{code=\"address_connections_full\""),
        1
    );
}

#[test]
fn a_drain_ends_connections_and_handshakes() {
    let mut server = start("--drain-period 100ms --handshake-timeout 1h");
    let mut waiting = server.connect();
    waiting.send(b"\x16\x03");
    let mut events = TlsClient::connect(server.address, &config());
    events.get("/sse/c");
    events.read_until("retry: ");
    let url = format!("ws://{}/ws/c", server.address);
    let stream = TlsClient::connect(server.address, &config()).stream;
    let (mut socket, _) = tungstenite::client(url, stream).unwrap();
    server.signal(Signal::TERM);
    events.read_to_end().expect("an end that is announced");
    match socket.read().unwrap() {
        Message::Close(Some(close)) => assert_eq!(u16::from(close.code), 3001),
        other => panic!("{other:?}"),
    }
    let _ = socket.close(None);
    while socket.read().is_ok() {}
    drop(socket);
    assert_eq!(waiting.wait_end(), b"");
    assert!(server.wait_exit().success());
}

#[test]
fn new_certificates_come_by_a_reload() {
    let directory = format!(
        "{}/tls-reload-{}",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    std::fs::create_dir_all(&directory).unwrap();
    let put = |name: &str| {
        for kind in ["pem", "key"] {
            let from = certificate(&format!("{name}.{kind}"));
            std::fs::copy(from, format!("{directory}/now.{kind}")).unwrap();
        }
    };
    put("one");
    let file = format!(
        "internal = \"127.0.0.1:0\"\n\
         tls_certificate = \"{directory}/now.pem\"\ntls_key = \"{directory}/now.key\"\n"
    );
    let server = Start::new("").file(&file).serve();
    let connect = || {
        let mut client = TlsClient::connect(server.address, &config());
        client.get("/healthz");
        client.read_until("ok\n");
        client
    };
    let shows = |client: &TlsClient, name: &str| {
        let want = CertificateDer::from_pem_file(certificate(&format!("{name}.pem"))).unwrap();
        client.stream.conn.peer_certificates().unwrap()[0] == want
    };
    let mut before = connect();
    assert!(shows(&before, "one"));
    std::fs::write(format!("{directory}/now.key"), "nonsense").unwrap();
    server.reload(&file);
    server.wait_metric("reload_failures_total", 1);
    assert!(server.wait_log("not reloaded").contains("tls_key = "));
    assert!(shows(&connect(), "one"));
    put("two");
    server.reload(&file);
    wait_until("the other one", || shows(&connect(), "two"));
    before.get("/healthz");
    before.read_until("ok\n");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn files_that_cannot_be_used_keep_the_server_from_starting() {
    let (one, two) = (certificate("one.pem"), certificate("two.key"));
    for (flags, code, needles) in [
        (
            format!("--tls-certificate {one}"),
            2,
            ["tls_certificate", "tls_key"],
        ),
        (
            format!("--tls-certificate {one} --tls-key {two}"),
            1,
            ["tls_key = ", "cannot be used"],
        ),
        (
            format!("--tls-certificate /nonexistent --tls-key {two}"),
            1,
            ["tls_certificate = /nonexistent", "No such file"],
        ),
    ] {
        let (status, text) = Start::new(&flags).fail();
        assert_eq!(status.code(), Some(code), "{text}");
        for needle in needles {
            assert!(text.contains(needle), "no {needle:?} in: {text}");
        }
    }
}
