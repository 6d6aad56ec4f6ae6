//! Users: how many connections one may have, on whichever transport and shard.

use serde_json::json;
use tungstenite::client::IntoClientRequest;

use crate::auth::{NEW_SECRET, now_s, server, sign, ws_with_first_message};
use crate::client::{Client, Response, Ws, ws_handshake};
use crate::harness::{Server, wait_until};

const FULL: &str = "refusals_total{code=\"user_connections_full\",status=\"429\"}";

pub(crate) fn token_of(user: &str) -> String {
    let claims = json!({ "sub": user, "exp": now_s() + 600.0, "subscribe": ["chat:1"] });
    sign("new", &claims, NEW_SECRET)
}

pub(crate) fn bearer_of(user: &str) -> String {
    format!("Authorization: Bearer {}\r\n", token_of(user))
}

fn get(server: &Server, target: &str, user: &str) -> Client {
    let mut client = server.connect();
    client.request("GET", target, &bearer_of(user), b"");
    client
}

/// A WebSocket of `user`, or the refusal of its handshake.
pub(crate) fn ws(server: &Server, user: &str) -> Result<Ws, Response> {
    let mut client = server.connect();
    let fields = format!("Host: test\r\n{}", bearer_of(user));
    client.send(ws_handshake("/ws/chat:1").replace("Host: test\r\n", &fields));
    let response = client.response();
    if response.status != 101 {
        return Err(response);
    }
    let socket = tungstenite::WebSocket::from_raw_socket(
        client.into_stream(),
        tungstenite::protocol::Role::Client,
        None,
    );
    Ok(Ws {
        socket,
        cursor: String::new(),
    })
}

/// Once as many are there as may be, each transport refuses one more, and goes on with the others.
#[track_caller]
fn check_full(server: &Server, user: &str) {
    let before = server.metric(FULL);
    for target in ["/poll/chat:1", "/poll/chat:1?wait=30", "/sse/chat:1"] {
        let mut client = get(server, target, user);
        let response = client.response();
        assert_eq!(
            (response.status, response.code().as_str()),
            (429, "user_connections_full"),
            "{target}"
        );
        assert!((1..=5).contains(&response.field("retry-after").unwrap().parse().unwrap()));
        // It is the request that is too much.
        client.get("/healthz");
        assert_eq!(client.response().status, 200);
    }
    let refused = ws(server, user).err().expect("a refusal");
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "user_connections_full")
    );
    assert_eq!(server.metric(FULL), before + 4);
}

#[test]
fn beyond_connections_per_user_max_that_user_is_refused_on_every_transport_and_shard() {
    let server = server("threads = 4\nconnections_per_user_max = 3\nlinger_timeout = \"100ms\"");
    for user in ["ann", "bob"] {
        let mut socket = ws(&server, user).unwrap();
        let mut stream = get(&server, "/sse/chat:1", user);
        stream.read_until("retry: ");
        let mut poll = get(&server, "/poll/chat:1?wait=30", user);
        server.wait_subscribers("chat:1", 3);
        check_full(&server, user);
        server.publish("chat:1", "for all three");
        assert_eq!(socket.text(), "for all three");
        stream.read_until("for all three");
        assert_eq!(poll.response().messages(), ["for all three"]);
        // An answered poll is no longer one of them; its connection may ask again.
        poll.request("GET", "/poll/chat:1?wait=30", &bearer_of(user), b"");
        server.wait_subscribers("chat:1", 3);
        check_full(&server, user);
        // Who leaves makes room.
        drop(stream);
        server.wait_subscribers("chat:1", 2);
        wait_until("room", || {
            get(&server, "/poll/chat:1", user).response().status == 204
        });
        drop((socket, poll));
        server.wait_subscribers("chat:1", 0);
    }
}

#[test]
fn a_token_that_comes_later_counts_then() {
    let settings = "connections_per_user_max = 1\nlinger_timeout = \"100ms\"";
    let server = server(settings);
    let (_kept, answer) = ws_with_first_message(&server, "/ws/chat:1", &token_of("ann"));
    assert!(answer.contains("cursor"), "{answer}");
    let full = "Too many connections of this user (setting connections_per_user_max). Close some, or come back later.";
    // As the first message, and in band on a channel that asks for none.
    for target in ["/ws/chat:1", "/ws/news?format=json"] {
        let url = format!("ws://{}{target}", server.address).into_client_request();
        let (socket, _) =
            tungstenite::client(url.unwrap(), server.connect().into_stream()).unwrap();
        let mut later = Ws {
            socket,
            cursor: String::new(),
        };
        later.send(&json!({ "token": token_of("ann") }).to_string());
        assert_eq!(later.close(), (1008, full.to_owned()), "{target}");
    }
    server.wait_metric(FULL, 2);
    server.wait_metric(
        "connections_closed_total{reason=\"too_many_connections\"}",
        2,
    );
    // Once more the same user, in band, is no further connection.
    let mut kept = ws(&server, "bob").unwrap();
    kept.send(&json!({ "token": token_of("bob") }).to_string());
    server.publish("chat:1", "still there");
    assert_eq!(kept.text(), "still there");
    assert_eq!(
        ws(&server, "bob").err().map(|refused| refused.status),
        Some(429)
    );
}

#[test]
fn tokens_without_a_user_are_not_counted() {
    let server = server("connections_per_user_max = 1");
    let claims = json!({ "exp": now_s() + 600.0, "subscribe": ["chat:1"] });
    let token = sign("new", &claims, NEW_SECRET);
    let polls: Vec<_> = (0..5)
        .map(|_| server.get(&format!("/poll/chat:1?wait=30&token={token}")))
        .collect();
    server.wait_subscribers("chat:1", polls.len());
}
