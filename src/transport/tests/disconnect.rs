//! The end of a connection by the operator, whatever it is in the middle of.

use super::*;
use crate::auth::sample::{MASTER_KEY, authenticator, configure};
use crate::config::Namespace;
use crate::config::auth::Access;

/// What is said to a client that has sent `request`; `holds` what it asks.
#[track_caller]
fn check(request: &str, holds: bool, want: &[u8]) {
    let mut config = Config::default();
    configure(&mut config, true);
    let namespace = Namespace {
        subscribe: Access::Token,
        ..Namespace::default()
    };
    config.namespaces.insert("chat".to_owned(), namespace);
    let auth = authenticator(&config);
    let mut peer = Peer::with_config(config);
    peer.auth = auth;
    peer.holds_questions = holds;
    peer.send(request.as_bytes());
    assert_eq!(peer.ended, None, "{request}");
    let next = peer.step(|transport, context| transport.on_disconnect(context));
    peer.settle(next);
    let said = std::mem::take(&mut peer.output);
    let is_said = match want {
        b"" => said.is_empty(),
        want => memchr::memmem::find(&said, want).is_some(),
    };
    assert!(is_said, "{request}: {:?}", String::from_utf8_lossy(&said));
    assert_eq!(peer.ended, Some(CloseReason::Disconnected), "{request}");
}

#[test]
fn a_stream_whose_client_lags_behind_is_just_cut_off() {
    let mut peer = Peer::new();
    peer.get("/sse/a,b", "");
    peer.has_backlog = true;
    let next = peer.step(|transport, context| transport.on_disconnect(context));
    peer.settle(next);
    assert_eq!(peer.output, b"", "it would go into the midst of a chunk");
    assert_eq!(peer.ended, Some(CloseReason::Disconnected));
}

#[test]
fn each_state_has_its_own_last_word() {
    let refusal = b"403 Forbidden\r\n";
    let close = b"\x88\x1e\x0d\xafdisconnected by the operator";
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let handshake = |target: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
    };
    let publish = format!(
        "POST /pub/a HTTP/1.1\r\nHost: a\r\nX-API-Key: {MASTER_KEY}\r\nContent-Length: 1\r\n\r\nx"
    );
    for (request, holds, want) in [
        (String::new(), false, &b""[..]),
        ("GET /po".to_owned(), false, b""),
        (get("/healthz"), false, b""),
        (get("/poll/a?wait=60"), false, refusal),
        (get("/poll/a?wait=60"), true, refusal),
        (get("/sse/a"), false, b"0\r\n\r\n"),
        (get("/sse/a"), true, refusal),
        (handshake("/ws/a"), false, close),
        (handshake("/ws/a"), true, refusal),
        // Its token is still to come.
        (handshake("/ws/chat:1"), false, close),
        // Perhaps the message is published, perhaps not: nothing is said of it.
        (publish, true, b""),
    ] {
        check(&request, holds, want);
    }
}
