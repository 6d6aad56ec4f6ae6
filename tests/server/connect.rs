//! The operator's backend says who somebody is: a session cookie in place of a token, on every transport.

use rustix::process::Signal;
use serde_json::json;
use tungstenite::protocol::Role;

use crate::callback::{Asked, Backend, JSON, answer, outcome};
use crate::client::{Client, Ws, ws_handshake};
use crate::harness::{Server, Start, wait_until};

const ANN: &str = "Cookie: theme=dark; session=7f3a\r\n";
const NAMESPACES: &str = "[namespace.user]\nsubscribe = \"authenticated\"\n\
                          [namespace.list]\nsubscribe = \"token\"\npublish = \"token\"\n";

/// Knows Ann by her session, lets guests in as such, and nobody else.
fn who(asked: &Asked) -> String {
    let ann = r#"{"user":"ann","subscribe":["list:*"],"publish":["list:1"],"channels":["list:1","news"]}"#;
    if asked.head.contains("session=7f3a") {
        answer("200 OK", JSON, ann)
    } else if asked.head.contains("session=guest") {
        answer("204 No Content", "", "")
    } else if asked.head.contains("session=") {
        answer("403 Forbidden", "", "")
    } else {
        answer("401 Unauthorized", "", "")
    }
}

fn file(url: &str, settings: &str) -> String {
    format!("internal = \"127.0.0.1:0\"\nconnect_url = \"{url}\"\n{settings}\n{NAMESPACES}")
}

fn server(backend: &Backend, settings: &str) -> Server {
    Start::new("").file(&file(&backend.url, settings)).serve()
}

fn request(server: &Server, target: &str, fields: &str) -> Client {
    let mut client = server.connect();
    if target.starts_with("/ws") {
        let fields = format!("Host: test\r\n{fields}");
        client.send(ws_handshake(target).replace("Host: test\r\n", &fields));
    } else {
        client.request("GET", target, fields, b"");
    }
    client
}

fn ws(server: &Server, target: &str, fields: &str) -> Ws {
    let mut client = request(server, target, fields);
    assert_eq!(client.response().status, 101, "{target}");
    let socket = tungstenite::WebSocket::from_raw_socket(client.into_stream(), Role::Client, None);
    let cursor = String::new();
    Ws { socket, cursor }
}

#[test]
fn a_session_opens_on_every_transport_what_a_token_would() {
    let backend = Backend::start(who);
    let server = server(&backend, "");
    for target in [
        "/poll/list:7",
        "/poll/user:1?wait=9",
        "/sse/news",
        "/ws/list:7",
    ] {
        for (fields, status) in [("", 401), ("Cookie: session=other\r\n", 403)] {
            let response = request(&server, target, fields).response();
            let want = (status, "backend_denied".to_owned());
            assert_eq!(outcome(&response), want, "{target}");
            let has_challenge = response.field("www-authenticate").is_some();
            assert_eq!(has_challenge, status == 401);
        }
    }
    // The channels of the answer, where the path names none.
    let mut stream = request(&server, "/sse", ANN);
    assert!(stream.read_until("retry: ").starts_with("HTTP/1.1 200 "));
    let mut long = request(&server, "/poll?wait=30", ANN);
    let mut socket = ws(&server, "/ws", ANN);
    let mut raw = ws(&server, "/ws/list:1", ANN);
    server.wait_subscribers("list:1", 4);
    // What the answer lets a client publish, all of them get.
    raw.send("hello");
    stream.read_until(r#""channel":"list:1""#);
    assert_eq!(long.response().messages(), ["hello"]);
    assert!(socket.text().contains(r#""data":"hello""#));
    assert_eq!(raw.text(), "hello");
    // So does a request.
    let origin = "Origin: https://evil.example\r\n";
    for (channel, fields, want) in [
        ("list:1", ANN.to_owned(), (201, "")),
        ("list:2", ANN.to_owned(), (403, "channel_denied")),
        ("list:1", String::new(), (401, "backend_denied")),
        ("list:1", format!("{ANN}{origin}"), (401, "backend_denied")),
        ("news", ANN.to_owned(), (404, "path_internal")),
    ] {
        let mut client = server.connect();
        let target = format!("/pub/{channel}");
        client.request("POST", &target, &fields, "x".repeat(50_000).as_bytes());
        let (status, code) = outcome(&client.response());
        assert_eq!((status, &*code), want, "{channel} {fields}");
    }
    assert_eq!(raw.text().len(), 50_000);
    let asked = backend.asked();
    let body = &asked.last().unwrap().body;
    assert_eq!(body["transport"], "publish", "{body}");
    // Guests are let in where nobody is enough.
    let guest = "Cookie: session=guest\r\n";
    for (target, want) in [
        ("/poll/news", (204, "")),
        ("/poll/user:1", (401, "credentials_missing")),
        ("/poll", (401, "credentials_missing")),
    ] {
        let (status, code) = outcome(&request(&server, target, guest).response());
        assert_eq!((status, &*code), want, "{target}");
    }
    let response = request(&server, "/poll/other:1,list:1,user:1", ANN).response();
    assert_eq!(response.status, 204);
}

#[test]
fn the_operator_sees_whom_the_backend_has_named() {
    let backend = Backend::start(who);
    let server = server(&backend, "connections_per_user_max = 2");
    let mut stream = request(&server, "/sse/user:1", ANN);
    stream.read_until("retry: ");
    let mut socket = ws(&server, "/ws/user:1", ANN);
    server.wait_subscribers("user:1", 2);
    let response = request(&server, "/poll/user:1", ANN).response();
    assert_eq!(
        outcome(&response),
        (429, "user_connections_full".to_owned())
    );
    let list = server.ask("GET", "/users/ann/connections", b"").json();
    let connections = list["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 2, "{list}");
    let id = connections[0]["id"].as_str().unwrap();
    let state = server.ask("GET", &format!("/connections/{id}"), b"").json();
    assert_eq!(state["user"], "ann", "{state}");
    let ended = server.ask("DELETE", "/users/ann/connections", b"").json();
    assert_eq!(ended, json!({ "ended": 2 }));
    assert_eq!(socket.close().0, 3503);
}

#[test]
fn a_session_is_asked_about_once_as_long_as_its_answer_is_good() {
    let backend = Backend::start(who);
    let server = server(&backend, "callback_cache_ttl = \"1h\"");
    for _ in 0..3 {
        assert_eq!(request(&server, "/poll/user:1", ANN).response().status, 204);
        assert_eq!(request(&server, "/poll/user:1", "").response().status, 401);
    }
    let asked = backend.asked();
    assert_eq!(asked.len(), 2);
    let body = json!({ "channels": ["user:1"], "transport": "poll", "address": "127.0.0.1" });
    assert_eq!(asked[0].body, body);
    assert!(asked[0].head.contains("cookie: theme=dark; session=7f3a"));
    // A page that nobody named does not act for the user of its browser.
    let foreign = format!("{ANN}Origin: https://evil.example\r\n");
    assert_eq!(
        request(&server, "/poll/user:1", &foreign).response().status,
        401
    );
    assert!(!backend.asked()[2].head.contains("7f3a"));
}

#[test]
fn the_end_of_an_answer_ends_what_it_opened() {
    let ending = r#"{"user":"ann","expires_in":0.5}"#;
    let backend = Backend::start(|_| answer("200 OK", JSON, ending));
    let server = server(&backend, "callback_cache_ttl = \"1h\"");
    let mut stream = request(&server, "/sse/user:1", ANN);
    stream.read_until("retry: ");
    let mut socket = ws(&server, "/ws/user:1", ANN);
    let mut long = request(&server, "/poll/user:1?wait=60", ANN);
    let want = (3005, "permission expired, reconnect".to_owned());
    assert_eq!(socket.close(), want);
    assert!(stream.wait_end().ends_with(b"\r\n0\r\n\r\n"));
    assert_eq!(long.response().status, 204);
    let before = backend.asked().len();
    let again = request(&server, "/poll/user:1?wait=60", ANN).response();
    assert_eq!((again.status, backend.asked().len()), (204, before + 1));
}

#[test]
fn a_backend_that_is_down_names_nobody() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let page =
        Backend::start(|_| answer("200 OK", "Content-Type: text/html\r\n", "<h1>Sign in</h1>"));
    for url in [&dead, &page.url] {
        for (when_down, news) in [("refuse", 503), ("allow", 204)] {
            let settings = format!("callback_when_down = \"{when_down}\"\nlog_level = \"trace\"");
            let mut server = Start::new("").file(&file(url, &settings)).serve();
            for (target, status) in [("/poll/news", news), ("/poll/user:1", 503), ("/poll", 503)] {
                let response = request(&server, target, ANN).response();
                assert_eq!(response.status, status, "{when_down} {target}");
                assert!(status != 503 || response.code() == "backend_down");
            }
            server.wait_log("the backend does not say who somebody is, or may listen");
            server.signal(Signal::TERM);
            server.wait_exit();
            server.wait_log("ended");
            assert_eq!(server.log_lines("7f3a"), 0);
        }
    }
}

#[test]
fn connect_url_is_no_open_mode_and_may_come_and_go_by_a_reload() {
    let backend = Backend::start(who);
    let with = format!("connect_url = \"{}\"\n", backend.url);
    let mut server = Start::new("--listen 0.0.0.0:0").file(&with).serve();
    server.address = (std::net::Ipv4Addr::LOCALHOST, server.address.port()).into();
    server.wait_log("nobody may publish by POST /pub");
    assert_eq!(request(&server, "/poll/news", "").response().status, 401);
    assert_eq!(request(&server, "/poll/news", ANN).response().status, 204);
    for (method, target) in [
        ("POST", "/pub/news"),
        ("GET", "/channels"),
        ("GET", "/metrics"),
    ] {
        let mut client = server.connect();
        client.request(method, target, ANN, b"");
        let want = (401, "credentials_missing".to_owned());
        assert_eq!(outcome(&client.response()), want, "{target}");
    }
    drop(server);
    let without = "internal = \"127.0.0.1:0\"\n";
    let server = Start::new("").file(without).serve();
    for (reloads, file, status) in [(1, &*format!("{without}{with}"), 401), (2, without, 204)] {
        server.reload(file);
        server.wait_metric("reloads_total", reloads);
        assert_eq!(request(&server, "/poll/news", "").response().status, status);
    }
    let namespace = "[namespace.a]\nsubscribe = \"token\"\n";
    let (status, log) = Start::new("").file(namespace).fail();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("connect_url"), "{log}");
}

#[test]
fn who_leaves_while_it_is_asked_about_is_forgotten() {
    let backend = Backend::start(who);
    backend.hold();
    let server = server(&backend, "");
    let clients: Vec<_> = ["/poll/user:1?wait=60", "/sse", "/ws/list:1"]
        .map(|target| request(&server, target, ANN))
        .into();
    wait_until("all are asked about", || backend.asked().len() == 3);
    for client in clients {
        client.reset();
    }
    backend.release();
    wait_until("the connections end", || server.metric("connections{") == 1);
    assert_eq!(server.metric("panics_total"), 0);
    let list = server.ask("GET", "/users/ann/connections", b"").json();
    assert_eq!(list, json!({ "connections": [] }));
}
