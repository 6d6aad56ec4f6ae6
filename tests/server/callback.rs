//! The operator's backend has a say in who may listen: what it is asked, what its answers do, and what becomes of those
//! who ask when it is slow or away.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::auth::{Stream, Wrap, plain, with_tls};
use crate::client::{Client, Response, Ws, ws_handshake};
use crate::harness::{Server, Start, wait_until};

/// One question, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: Value,
}

type Decide = dyn Fn(&Asked) -> String + Send + Sync;

/// A backend that keeps its connections, and notes what it is asked.
pub(crate) struct Backend {
    pub(crate) url: String,
    state: Arc<State>,
}

struct State {
    decide: Box<Decide>,
    asked: Mutex<Vec<Asked>>,
    n_connections: AtomicUsize,
    is_held: Mutex<bool>,
    released: Condvar,
}

impl Backend {
    pub(crate) fn start(decide: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Self {
        Self::serve("http", plain(), decide)
    }

    fn serve(
        scheme: &str,
        wrap: Wrap,
        decide: impl Fn(&Asked) -> String + Send + Sync + 'static,
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}/authorize", socket.local_addr().unwrap());
        let state = Arc::new(State {
            decide: Box::new(decide),
            asked: Mutex::default(),
            n_connections: AtomicUsize::new(0),
            is_held: Mutex::new(false),
            released: Condvar::new(),
        });
        let its_state = state.clone();
        thread::spawn(move || {
            for stream in socket.incoming() {
                its_state.n_connections.fetch_add(1, Ordering::SeqCst);
                let state = its_state.clone();
                let stream = wrap(stream.unwrap());
                thread::spawn(move || state.serve(stream));
            }
        });
        Self { url, state }
    }

    fn allowing() -> Self {
        Self::start(|_| answer("204 No Content", "", ""))
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// No question is answered until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        *self.state.is_held.lock().unwrap() = true;
    }

    pub(crate) fn release(&self) {
        *self.state.is_held.lock().unwrap() = false;
        self.state.released.notify_all();
    }
}

impl State {
    fn serve(&self, mut stream: Box<dyn Stream>) {
        let mut input = Vec::new();
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            input.extend_from_slice(&bytes[..n]);
            let Some((asked, length)) = whole(&input) else {
                continue;
            };
            input.drain(..length);
            self.asked.lock().unwrap().push(asked.clone());
            let mut is_held = self.is_held.lock().unwrap();
            while *is_held {
                is_held = self.released.wait(is_held).unwrap();
            }
            drop(is_held);
            let answer = (self.decide)(&asked);
            if answer.is_empty() || stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            stream.flush().unwrap();
        }
    }
}

/// The question at the beginning of `input`, and its bytes.
fn whole(input: &[u8]) -> Option<(Asked, usize)> {
    let text = String::from_utf8_lossy(input);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let head = head.to_ascii_lowercase();
    let length = head.split_once("content-length: ")?.1;
    let length: usize = length.split("\r\n").next()?.parse().ok()?;
    let body = serde_json::from_str(body.get(..length)?).unwrap();
    let bytes = head.len() + 4 + length;
    Some((Asked { head, body }, bytes))
}

/// `fields` are whole lines.
pub(crate) fn answer(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

pub(crate) const JSON: &str = "Content-Type: application/json\r\n";

/// A server that asks `backend` about `chat:…`.
fn server(backend: &Backend, settings: &str) -> Server {
    Start::new("").file(&file(&backend.url, settings)).serve()
}

fn file(url: &str, settings: &str) -> String {
    format!("{settings}\n[namespace.chat]\nauthorize_url = \"{url}\"\n")
}

fn request(server: &Server, target: &str, fields: &str) -> Client {
    let mut client = server.connect();
    client.request("GET", target, fields, b"");
    client
}

fn poll(server: &Server, channel: &str) -> Response {
    request(server, &format!("/poll/{channel}"), "").response()
}

pub(crate) fn outcome(response: &Response) -> (u16, String) {
    let code = match response.status {
        400.. => response.code(),
        _ => String::new(),
    };
    (response.status, code)
}

#[test]
fn the_backend_decides_on_every_transport() {
    let backend = Backend::start(|asked| {
        if asked.head.contains("cookie: session=good") {
            answer("200 OK", JSON, r#"{"user":"u-42"}"#)
        } else if asked.head.contains("cookie: ") {
            answer("403 Forbidden", "", "no")
        } else {
            answer("401 Unauthorized", "", "who?")
        }
    });
    let server = server(&backend, "callback_cache_ttl = \"0s\"");
    let good = "Cookie: session=good\r\n";
    assert_eq!(poll(&server, "news").status, 204);
    assert_eq!(backend.asked().len(), 0, "not about other namespaces");

    for path in [
        "/poll/chat:1",
        "/poll/chat:1?wait=9",
        "/sse/chat:1",
        "/ws/chat:1",
    ] {
        for (cookie, status) in [("", 401), ("Cookie: session=bad\r\n", 403)] {
            let mut client = server.connect();
            let head = match path {
                "/ws/chat:1" => ws_handshake(path),
                _ => format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"),
            };
            client.send(head.replace("Host: test\r\n", &format!("Host: test\r\n{cookie}")));
            let response = client.response();
            assert_eq!(
                outcome(&response),
                (status, "backend_denied".to_owned()),
                "{path}"
            );
            let has_challenge = response.field("www-authenticate").is_some();
            assert_eq!(has_challenge, status == 401);
        }
    }
    let mut stream = request(&server, "/sse/chat:1", good);
    assert!(stream.read_until("retry: ").starts_with("HTTP/1.1 200 "));
    let mut long = request(&server, "/poll/chat:1?wait=30", good);
    let mut ws = server.connect();
    ws.send(ws_handshake("/ws/chat:1").replace("Host: test\r\n", &format!("Host: test\r\n{good}")));
    ws.read_until("\r\n\r\n");
    server.wait_subscribers("chat:1", 3);
    server.publish("chat:1", "hello");
    stream.read_until("data: hello\n");
    assert_eq!(long.response().messages(), ["hello"]);
    assert_eq!(ws.read_bytes(7), b"\x81\x05hello");

    let asked = backend.asked();
    let transports: Vec<_> = asked
        .iter()
        .map(|it| it.body["transport"].clone())
        .collect();
    assert_eq!(
        transports[..8],
        [
            "poll",
            "poll",
            "poll",
            "poll",
            "sse",
            "sse",
            "websocket",
            "websocket"
        ]
    );
    let first = &asked[0];
    assert!(
        first.head.starts_with("post /authorize http/1.1\r\n"),
        "{}",
        first.head
    );
    assert!(
        first.head.contains("content-type: application/json"),
        "{}",
        first.head
    );
    assert_eq!(
        first.body,
        json!({ "channels": ["chat:1"], "transport": "poll", "address": "127.0.0.1" })
    );
    assert_eq!(server.metric("callback_calls_total{result=\"denied\"}"), 8);
    assert_eq!(server.metric("callback_calls_total{result=\"allowed\"}"), 3);
    assert_eq!(server.metric("callback_seconds_count"), 11);
}

#[test]
fn an_answer_is_asked_for_once_and_over_one_connection() {
    // (settings, what the answer says, calls of 5 requests, each on a connection of its own)
    for (settings, fields, calls) in [
        ("callback_cache_ttl = \"1h\"", "", 1),
        ("callback_cache_ttl = \"0s\"", "", 5),
        (
            "callback_cache_ttl = \"0s\"",
            "Cache-Control: max-age=3600\r\n",
            1,
        ),
        ("", "Cache-Control: no-store\r\n", 5),
        ("callback_cache_max = 0", "", 5),
    ] {
        for status in ["200 OK", "403 Forbidden"] {
            let backend = Backend::start(move |_| answer(status, fields, ""));
            let server = server(&backend, settings);
            for _ in 0..5 {
                let response = poll(&server, "chat:1");
                assert_eq!(response.status, if status == "200 OK" { 204 } else { 403 });
            }
            assert_eq!(backend.asked().len(), calls, "{settings} {fields} {status}");
            let hits = server.metric("callback_cache_hits_total");
            assert_eq!(hits as usize, 5 - calls);
            assert_eq!(backend.state.n_connections.load(Ordering::SeqCst), 1);
            // Somebody else is another question.
            request(&server, "/poll/chat:1", "Cookie: a=b\r\n").response();
            assert_eq!(backend.asked().len(), calls + 1);
        }
    }
}

#[test]
fn many_who_ask_the_same_cost_one_call() {
    let backend = Backend::allowing();
    backend.hold();
    let server = server(&backend, "");
    let clients: Vec<_> = (0..16).map(|_| server.get("/poll/chat:1")).collect();
    server.wait_metric("callback_joined_total", 15);
    assert_eq!(server.metric("callback_in_flight"), 1);
    backend.release();
    for mut client in clients {
        assert_eq!(client.response().status, 204);
    }
    assert_eq!(backend.asked().len(), 1);
}

#[test]
fn too_many_questions_are_refused() {
    let backend = Backend::allowing();
    backend.hold();
    let server = server(
        &backend,
        "callback_concurrency_max = 1\ncallback_queue_max = 1\ncallback_timeout = \"1m\"\n\
         callback_when_down = \"allow\"",
    );
    let mut first = server.get("/poll/chat:1");
    server.wait_metric("callback_in_flight", 1);
    let mut second = server.get("/poll/chat:2");
    server.wait_metric("callback_waiting", 1);
    let response = poll(&server, "chat:3");
    assert_eq!(outcome(&response), (503, "backend_busy".to_owned()));
    assert!(response.field("retry-after").is_some());
    server.wait_log("too many questions wait for the backend");
    assert_eq!(server.metric("callback_busy_total"), 1);
    assert_eq!(poll(&server, "news").status, 204, "nobody else waits");
    backend.release();
    for client in [&mut first, &mut second] {
        assert_eq!(client.response().status, 204);
    }
}

#[test]
fn a_backend_that_is_down_is_no_denial() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let elsewhere = Backend::allowing();
    let to_elsewhere = format!("Location: {}\r\n", elsewhere.url);
    let slow = Backend::allowing();
    slow.hold();
    let backends = [
        Backend::start(|_| answer("500 Internal Server Error", "", "")),
        Backend::start(|_| answer("404 Not Found", "", "")),
        Backend::start(move |_| answer("302 Found", &to_elsewhere, "")),
        Backend::start(|_| answer("200 OK", JSON, r#"{"expires_in":"soon"}"#)),
        Backend::start(|_| answer("200 OK", "", &"x".repeat(100_000))),
        Backend::start(|_| "this is no HTTP\r\n\r\n".to_owned()),
        Backend::start(|_| String::new()),
        slow,
    ];
    let urls = backends.iter().map(|backend| &backend.url).chain([&dead]);
    let urls: Vec<_> = urls.collect();
    let mut file = "callback_timeout = \"300ms\"\n".to_owned();
    for (n, url) in urls.iter().enumerate() {
        file += &format!("[namespace.n{n}]\nauthorize_url = \"{url}\"\n");
    }
    for when_down in ["refuse", "allow"] {
        let server = Start::new(&format!("--callback-when-down {when_down}"))
            .file(&file)
            .serve();
        for (n, url) in urls.iter().enumerate() {
            let response = poll(&server, &format!("n{n}:1"));
            let want = match when_down {
                "refuse" => (503, "backend_down".to_owned()),
                _ => (204, String::new()),
            };
            assert_eq!(outcome(&response), want, "{url}");
            assert_eq!(response.field("retry-after").is_some(), want.0 == 503);
        }
        let failed = server.metric("callback_calls_total{result=\"failed\"}");
        assert_eq!(failed, urls.len() as u64);
        server.wait_log("the backend does not say who somebody is, or may listen");
        if when_down == "refuse" {
            let mut ws = server.connect();
            ws.send(ws_handshake("/ws/n0:1"));
            assert_eq!(ws.response().code(), "backend_down");
        }
    }
    let n_connections = elsewhere.state.n_connections.load(Ordering::SeqCst);
    assert_eq!(n_connections, 0, "a redirect is not followed");
    backends.last().unwrap().release();
}

#[test]
fn a_kept_connection_that_is_closed_fails_nobody() {
    let asked = AtomicUsize::new(0);
    let backend = Backend::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        // Its idle time is over in the moment of the next question.
        1 => String::new(),
        _ => answer("204 No Content", "", ""),
    });
    let server = server(&backend, "callback_cache_ttl = \"0s\"");
    for channel in ["chat:1", "chat:2"] {
        assert_eq!(poll(&server, channel).status, 204);
    }
    assert_eq!(backend.asked().len(), 3);
    assert_eq!(backend.state.n_connections.load(Ordering::SeqCst), 2);
}

#[test]
fn the_backend_is_trusted_by_its_certificate() {
    let backend = Backend::serve("https", with_tls(), |_| answer("204 No Content", "", ""));
    let ca_file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/tls/ca.pem");
    for (settings, status) in [
        (format!("callback_ca_file = \"{ca_file}\""), 204),
        // To the public authorities it is unknown.
        (String::new(), 503),
    ] {
        let server = server(&backend, &settings);
        assert_eq!(poll(&server, "chat:1").status, status, "{settings}");
    }
    let file = file(&backend.url, "callback_ca_file = \"/nowhere.pem\"");
    let (status, log) = Start::new("").file(&file).fail();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("/nowhere.pem cannot be read"), "{log}");
}

#[test]
fn what_is_allowed_for_a_while_ends_then_and_is_asked_again() {
    let backend = Backend::start(|_| answer("200 OK", JSON, r#"{"user":"u","expires_in":0.5}"#));
    let server = server(&backend, "callback_cache_ttl = \"1h\"");
    let mut stream = server.get("/sse/chat:1");
    stream.read_until("retry: ");
    let mut ws = Ws::connect(server.address, "/ws/chat:1");
    let mut long = server.get("/poll/chat:1?wait=60");
    assert_eq!(
        ws.close(),
        (3005, "permission expired, reconnect".to_owned())
    );
    assert!(stream.wait_end().ends_with(b"\r\n0\r\n\r\n"));
    assert_eq!(long.response().status, 204);
    let before = backend.asked().len();
    assert_eq!(poll(&server, "chat:1").status, 204);
    assert_eq!(backend.asked().len(), before + 1);
}

#[test]
fn who_leaves_while_the_question_is_out_is_forgotten() {
    let backend = Backend::allowing();
    backend.hold();
    let server = server(&backend, "");
    let clients: Vec<_> = ["/poll/chat:1?wait=60", "/sse/chat:2", "/poll/chat:1,chat:3"]
        .map(|target| server.get(target))
        .into();
    wait_until("all are asked about", || backend.asked().len() == 3);
    for client in clients {
        client.reset();
    }
    backend.release();
    // The backend's own connection is all that is left.
    wait_until("the connections end", || server.metric("connections{") == 1);
    for channel in ["chat:1", "chat:2", "chat:3"] {
        wait_until("no listener", || {
            let info = server.ask("GET", &format!("/channels/{channel}"), b"");
            info.status == 404 || info.json()["subscribers"] == 0
        });
    }
    assert_eq!(server.metric("panics_total"), 0);
    assert_eq!(poll(&server, "chat:1").status, 204);
}

#[test]
fn a_drain_waits_for_the_answer() {
    let backend = Backend::allowing();
    backend.hold();
    let mut server = server(&backend, "drain_period = \"0s\"\ncallback_timeout = \"1m\"");
    let mut long = server.get("/poll/chat:1?wait=60");
    let mut stream = server.get("/sse/chat:2");
    wait_until("both are asked about", || backend.asked().len() == 2);
    server.signal(Signal::TERM);
    server.wait_log("draining");
    backend.release();
    let response = long.response();
    assert_eq!(
        (response.status, response.field("connection")),
        (204, Some("close"))
    );
    let stream = String::from_utf8(stream.wait_end()).unwrap();
    assert!(stream.ends_with("0\r\n\r\n"), "{stream}");
    assert!(server.wait_exit().success());
}

#[test]
fn a_reload_names_the_backend_and_takes_it_away() {
    let backend = Backend::start(|_| answer("403 Forbidden", "", ""));
    let with = file(
        &backend.url,
        "callback_concurrency_max = 2\ncallback_cache_ttl = \"1h\"",
    );
    let without = "callback_concurrency_max = 2\ncallback_cache_ttl = \"1h\"\n[namespace.chat]\nhistory_messages = 1\n";
    let server = Start::new("").file(without).serve();
    let mut stream = server.sse("/sse/chat:1");
    for (reloads, file, status) in [(1, &*with, 403), (2, without, 204), (3, &*with, 403)] {
        server.reload(file);
        server.wait_metric("reloads_total", reloads);
        assert_eq!(poll(&server, "chat:1").status, status);
    }
    assert_eq!(backend.asked().len(), 1, "the answer is still known");
    server.publish("chat:1", "who is in stays in");
    stream.read_until("who is in stays in");
    server.reload(&with.replace("= 2", "= 3"));
    server.wait_log("needs a restart, ignored until then: callback_concurrency_max: 2 -> 3");
}

#[test]
fn nothing_of_a_credential_is_logged() {
    let backend = Backend::start(|_| answer("500 Internal Server Error", "", ""));
    let mut server = server(&backend, "log_level = \"trace\"");
    for fields in [
        "Authorization: Bearer secret-7\r\n",
        "Cookie: session=secret-7\r\n",
    ] {
        assert_eq!(
            request(&server, "/poll/chat:1", fields).response().status,
            503
        );
    }
    assert_eq!(
        request(&server, "/poll/chat:1?token=secret-7", "")
            .response()
            .status,
        503
    );
    let asked = backend.asked();
    assert!(asked.iter().all(|asked| asked.head.contains("secret-7")));
    server.signal(Signal::TERM);
    server.wait_exit();
    server.wait_log("ended");
    assert_eq!(server.log_lines("secret-7"), 0);
}

#[test]
fn header_fields_are_passed_on_by_name() {
    let backend = Backend::allowing();
    let server = server(
        &backend,
        "callback_headers = [\"User-Agent\", \"X-Device\"]",
    );
    let fields = "User-Agent: tv/1\r\nx-device: a\r\nX-Device: b\r\nCookie: c=d\r\nAuthorization: Basic e\r\n";
    assert_eq!(
        request(&server, "/poll/chat:1", fields).response().status,
        204
    );
    let head = &backend.asked()[0].head;
    let passed_on = ["user-agent:", "x-device:", "cookie:", "authorization:"];
    let is_of_request = |line: &&str| passed_on.iter().any(|name| line.starts_with(name));
    let mut lines: Vec<_> = head.lines().filter(is_of_request).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["user-agent: tv/1", "x-device: a, b"]);
}

#[test]
fn strangers_may_come_where_the_backend_decides_on_all() {
    let backend = Backend::start(|_| answer("403 Forbidden", "", ""));
    let all = format!("[namespace.\"\"]\nauthorize_url = \"{}\"\n", backend.url);
    let internal = format!("internal = \"127.0.0.1:0\"\n{all}");
    let exposed = || Start::new("--listen 0.0.0.0:0");
    let (status, log) = exposed().file(&all).fail();
    assert_eq!(status.code(), Some(2), "{log}");
    let mut server = exposed().file(&internal).serve();
    server.address = (std::net::Ipv4Addr::LOCALHOST, server.address.port()).into();
    assert_eq!(poll(&server, "any:1").status, 403);
    let open = format!("{internal}[namespace.a]\nauthorize_url = \"none\"\n");
    let (status, log) = exposed().file(&open).fail();
    assert_eq!(status.code(), Some(2), "{log}");
}
