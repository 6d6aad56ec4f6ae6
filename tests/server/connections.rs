//! The operator looks at connections and ends them, over all shards and transports.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::auth::server;
use crate::client::{Client, Response, ws_handshake};
use crate::harness::{Server, Start, wait_until};
use crate::users::{bearer_of, ws};

const DISCONNECTED: &str = "connections_closed_total{reason=\"disconnected\"}";

#[track_caller]
fn get(server: &Server, target: &str) -> Value {
    let response = server.ask("GET", target, b"");
    assert_eq!(response.status, 200, "{target}: {response:?}");
    response.json()
}

/// All pages of a list.
#[track_caller]
fn list(server: &Server, path: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let mut page = get(server, &format!("{path}?limit={limit}{after}"));
        let connections = page["connections"].as_array_mut().unwrap();
        assert!(connections.len() <= limit);
        all.append(connections);
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return all,
        }
    }
}

fn id(connection: &Value) -> &str {
    connection["id"].as_str().unwrap()
}

#[track_caller]
fn end(server: &Server, path: &str) -> Response {
    server.ask("DELETE", path, b"")
}

#[track_caller]
fn check_refused(response: &Response, status: u16, code: &str) {
    assert_eq!((response.status, response.code().as_str()), (status, code));
}

#[test]
fn a_channels_subscribers_are_listed_each_once() {
    let server = server("threads = 4");
    let sockets: Vec<_> = (0..9).map(|_| server.ws("/ws/c")).collect();
    let _other = server.ws("/ws/d");
    let _stream = server.sse("/sse/c,d");
    let mut poll = server.connect();
    poll.request("GET", "/poll/c?wait=60", &bearer_of("ann"), b"");
    server.wait_subscribers("c", 11);
    for limit in [1, 2, 3, 10, 11, 1000] {
        let all = list(&server, "/channels/c/subscribers", limit);
        let ids: BTreeSet<_> = all.iter().map(id).collect();
        assert_eq!((all.len(), ids.len()), (11, 11), "{limit} a page");
        let count = |transport| all.iter().filter(|it| it["transport"] == transport).count();
        assert_eq!(
            [count("websocket"), count("sse"), count("long_poll")],
            [9, 1, 1]
        );
        let addresses: BTreeSet<_> = all
            .iter()
            .map(|it| it["address"].as_str().unwrap())
            .collect();
        for socket in &sockets {
            let address = socket.socket.get_ref().local_addr().unwrap().to_string();
            assert!(addresses.contains(&*address), "{address} in {addresses:?}");
        }
        let users: Vec<_> = all.iter().filter_map(|it| it["user"].as_str()).collect();
        assert_eq!(users, ["ann"]);
        assert!(
            all.iter()
                .all(|it| it["age_seconds"].as_u64().unwrap() < 60)
        );
    }
    // Of a channel that nobody listens on, there are none.
    assert_eq!(
        list(&server, "/channels/nobody/subscribers", 9),
        [Value::Null; 0]
    );
    server.publish("c", "x");
    assert_eq!(poll.response().messages(), ["x"]);
    assert_eq!(
        list(&server, "/channels/c/subscribers", 1000).len(),
        10,
        "the poll has its answer"
    );
}

#[test]
fn the_state_of_a_connection_is_told_as_long_as_it_is_there() {
    let server = server("");
    let start = server.publish("chat:1", "first");
    let socket = ws(&server, "ann").unwrap();
    let mut poll = server.connect();
    let bearer = bearer_of("ann");
    poll.request(
        "GET",
        &format!("/poll/chat:1?wait=60&since={start}"),
        &bearer,
        b"",
    );
    server.wait_subscribers("chat:1", 2);
    let all = list(&server, "/users/ann/connections", 9);
    assert_eq!(all.len(), 2);
    for connection in &all {
        assert_eq!(connection["user"], "ann");
        let state = get(&server, &format!("/connections/{}", id(connection)));
        for name in ["id", "user", "transport", "address"] {
            assert_eq!(state[name], connection[name]);
        }
        assert_eq!(
            (&state["listener"], &state["ending"]),
            (&"public".into(), &false.into())
        );
        assert_eq!(
            state["shard"].as_u64().unwrap().to_string(),
            id(connection).split('-').next().unwrap()
        );
        assert_eq!([&state["outbox_bytes"], &state["outbox_entries"]], [0, 0]);
        assert!((500..=620).contains(&state["token_left_seconds"].as_u64().unwrap()));
        assert_eq!(state["channels"][0]["channel"], "chat:1");
        if state["transport"] == "websocket" {
            assert!(state["silent_seconds"].as_u64().unwrap() < 60);
        } else {
            assert_eq!(state["channels"][0]["position"].as_str(), Some(&*start));
        }
    }
    drop((socket, poll));
    server.wait_subscribers("chat:1", 0);
    for connection in &all {
        let path = format!("/connections/{}", id(connection));
        wait_until("its end", || server.ask("GET", &path, b"").status == 404);
        check_refused(&end(&server, &path), 404, "connection_unknown");
    }
    // Its slot is somebody else's now; its id is not.
    let mut newcomers: Vec<_> = (0..8).map(|_| server.ws("/ws/c")).collect();
    for connection in &all {
        let path = format!("/connections/{}", id(connection));
        check_refused(&server.ask("GET", &path, b""), 404, "connection_unknown");
        check_refused(&end(&server, &path), 404, "connection_unknown");
    }
    server.publish("c", "all there");
    for newcomer in &mut newcomers {
        assert_eq!(newcomer.text(), "all there");
    }
}

#[test]
fn one_connection_is_ended_in_the_way_of_its_transport() {
    let server = Server::start("--threads 2 --linger-timeout 200ms");
    let mut witness = server.ws("/ws/c");
    let mut socket = server.ws("/ws/c");
    let mut stream = server.sse("/sse/c");
    let mut poll = server.get("/poll/c?wait=60");
    server.wait_subscribers("c", 4);
    let address = |client: &Client| client.another_handle().into_stream().local_addr().unwrap();
    let of_socket = socket.socket.get_ref().local_addr().unwrap();
    for (address, transport) in [
        (of_socket, "websocket"),
        (address(&stream), "sse"),
        (address(&poll), "long_poll"),
    ] {
        let all = list(&server, "/channels/c/subscribers", 9);
        let found = all.iter().find(|it| it["address"] == address.to_string());
        let found = found.expect("a subscriber");
        assert_eq!(found["transport"], transport);
        let response = end(&server, &format!("/connections/{}", id(found)));
        assert_eq!(
            (response.status, &*response.text()),
            (200, r#"{"ended":1}"#)
        );
        server.wait_log(&format!(
            "disconnected by the operator connection={}",
            id(found)
        ));
    }
    assert_eq!(
        socket.close(),
        (3503, "disconnected by the operator".to_owned())
    );
    stream.read_until("0\r\n\r\n");
    assert_eq!(stream.read_to_end().unwrap(), b"");
    let answer = poll.response();
    check_refused(&answer, 403, "disconnected_by_operator");
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(poll.read_to_end().unwrap(), b"");
    drop(socket);
    server.wait_metric(DISCONNECTED, 3);
    server.wait_subscribers("c", 1);
    server.publish("c", "still there");
    assert_eq!(witness.text(), "still there");
}

#[test]
fn all_connections_of_a_user_are_ended_and_no_others() {
    const SOCKETS: usize = 150;
    let server = server("threads = 3\nlinger_timeout = \"200ms\"");
    let mut anns: Vec<_> = (0..SOCKETS).map(|_| ws(&server, "a/nn").unwrap()).collect();
    let mut poll = server.connect();
    poll.request("GET", "/poll/chat:1?wait=60", &bearer_of("a/nn"), b"");
    let mut bob = ws(&server, "bob").unwrap();
    let mut nobody = server.ws("/ws/news");
    server.wait_subscribers("chat:1", SOCKETS + 2);
    let path = "/users/a%2Fnn/connections";
    assert_eq!(list(&server, path, 40).len(), SOCKETS + 1);
    assert_eq!(end(&server, path).json()["ended"], SOCKETS + 1);
    for socket in &mut anns {
        assert_eq!(
            socket.close(),
            (3503, "disconnected by the operator".to_owned())
        );
    }
    check_refused(&poll.response(), 403, "disconnected_by_operator");
    drop(anns);
    server.wait_metric(DISCONNECTED, SOCKETS as u64 + 1);
    assert_eq!(end(&server, path).json()["ended"], 0);
    assert_eq!(list(&server, path, 9), [Value::Null; 0]);
    // The token is as good as before: to keep a user out is for whoever signs it.
    let mut again = ws(&server, "a/nn").unwrap();
    server.wait_subscribers("chat:1", 2);
    server.publish("chat:1", "hello");
    server.publish("news", "hello");
    for socket in [&mut bob, &mut nobody, &mut again] {
        assert_eq!(socket.text(), "hello");
    }
}

#[test]
fn who_does_not_read_is_ended_too() {
    let server = Start::new("--threads 1 --linger-timeout 100ms --outbox-bytes-max 64MiB")
        .file("[namespace.\"\"]\nhistory_bytes = \"64KiB\"\n")
        .serve();
    let mut lazy = server.connect();
    lazy.send(ws_handshake("/ws/c"));
    lazy.read_until("\r\n\r\n");
    let state = || {
        let connection = list(&server, "/channels/c/subscribers", 1).remove(0);
        get(&server, &format!("/connections/{}", id(&connection)))
    };
    let payload = "x".repeat(60_000);
    while state()["outbox_bytes"].as_u64().unwrap() < 1_000_000 {
        server.publish("c", &payload);
    }
    assert!(state()["outbox_entries"].as_u64().unwrap() > 0);
    let path = format!("/connections/{}", state()["id"].as_str().unwrap());
    assert_eq!(end(&server, &path).status, 200);
    wait_until("the end of what waits", || {
        server.metric("outbox_bytes") < 1_000_000
    });
    // What was begun is whole, and the goodbye follows it.
    let read = lazy.wait_end();
    let goodbye = [&[0x88, 30, 0x0d, 0xaf][..], b"disconnected by the operator"].concat();
    assert!(read.ends_with(&goodbye));
    server.wait_metric(DISCONNECTED, 1);
}

#[test]
fn only_the_backend_asks_and_only_with_a_key_for_all() {
    let keys = "[api_key.all]\nsecret = \"key-for-all-0123456789\"\nchannels = [\"*\"]\n\
                [api_key.chat]\nsecret = \"key-for-chat-0123456789\"\nchannels = [\"chat:*\"]\n";
    let server = server(keys);
    let _socket = ws(&server, "ann").unwrap();
    let all = "X-API-Key: key-for-all-0123456789\r\n";
    let chat = "X-API-Key: key-for-chat-0123456789\r\n";
    let ask = |address, method: &str, target: &str, fields: &str| {
        let mut client = Client::connect(address);
        client.request(method, target, fields, b"");
        client.response()
    };
    for target in [
        "/users/ann/connections",
        "/connections/0-0-0",
        "/channels/news/subscribers",
    ] {
        let code = |fields: &str| ask(server.internal, "GET", target, fields).code();
        let denied = if target.starts_with("/channels") {
            "channel_denied"
        } else {
            "api_key_limited"
        };
        assert_eq!(code(""), "credentials_missing");
        assert_eq!(code(&bearer_of("ann")), "api_key_required");
        assert_eq!(code(chat), denied, "{target}");
        check_refused(
            &ask(server.address, "GET", target, all),
            404,
            "path_internal",
        );
    }
    let listed = ask(server.internal, "GET", "/channels/chat:1/subscribers", chat);
    assert_eq!(listed.json()["connections"][0]["user"], "ann");
    let listed = ask(server.internal, "GET", "/users/ann/connections", all);
    assert_eq!(listed.json()["connections"].as_array().unwrap().len(), 1);
    let denied = ask(server.internal, "DELETE", "/users/ann/connections", chat);
    check_refused(&denied, 403, "api_key_limited");
    let ended = ask(server.internal, "DELETE", "/users/ann/connections", all);
    assert_eq!(ended.json()["ended"], 1);
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let server = Server::start("");
    for (method, target, status, code) in [
        ("GET", "/connections", 404, "path_unknown"),
        ("GET", "/users/ann", 404, "path_unknown"),
        ("GET", "/users/a/b/connections", 404, "path_unknown"),
        ("GET", "/connections/1", 404, "connection_unknown"),
        ("GET", "/connections/0-0-0-0", 404, "connection_unknown"),
        ("DELETE", "/connections/x", 404, "connection_unknown"),
        ("GET", "/connections/65535-0-0", 404, "connection_unknown"),
        (
            "GET",
            "/connections/0-4294967295-0",
            404,
            "connection_unknown",
        ),
        ("GET", "/connections/%zz", 400, "target_invalid"),
        ("GET", "/users/%ff/connections", 400, "target_invalid"),
        (
            "GET",
            "/users/a/connections?limit=0",
            400,
            "parameter_invalid",
        ),
        (
            "GET",
            "/users/a/connections?after=x",
            400,
            "parameter_invalid",
        ),
        (
            "GET",
            "/channels/a%20b/subscribers",
            400,
            "channel_name_invalid",
        ),
        (
            "GET",
            "/channels/a/b/subscribers",
            400,
            "channel_name_invalid",
        ),
        (
            "GET",
            "/channels/a/subscribers?after=1",
            400,
            "parameter_invalid",
        ),
        ("POST", "/connections/0-0-0", 405, "method_not_allowed"),
        ("POST", "/users/a/connections", 405, "method_not_allowed"),
        (
            "DELETE",
            "/channels/a/subscribers",
            405,
            "method_not_allowed",
        ),
    ] {
        let response = server.ask(method, target, b"");
        assert_eq!(
            (response.status, &*response.code()),
            (status, code),
            "{method} {target}"
        );
    }
    for (target, allow) in [
        ("/connections/0-0-0", "GET, HEAD, DELETE, OPTIONS"),
        ("/users/a/connections", "GET, HEAD, DELETE, OPTIONS"),
        ("/channels/a/subscribers", "GET, HEAD, OPTIONS"),
    ] {
        assert_eq!(server.ask("PATCH", target, b"").status, 405);
        assert_eq!(
            server.ask("OPTIONS", target, b"").field("allow"),
            Some(allow)
        );
    }
}
