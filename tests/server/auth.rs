//! Who gets in: tokens and API keys over real sockets, by every way to bring them, on every transport.
#![allow(unreachable_pub, reason = "the modules beside this one use it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;

use crate::client::{Client, Response, Ws, ws_handshake};
use crate::harness::{Server, Start, wait_until};

pub(crate) const OLD_SECRET: &str = "old-secret-of-32-bytes-0123456789";
pub(crate) const NEW_SECRET: &str = "new-secret-of-32-bytes-0123456789";
const API_KEY: &str = "backend-0123456789abcdef";

/// `chat:…` wants a token that lists the channel; anybody with a token may publish on `echo:…`.
pub(crate) const NAMESPACES: &str = r#"
    [namespace.chat]
    subscribe = "token"
    publish = "token"
    [namespace.echo]
    subscribe = "authenticated"
    publish = "authenticated"
    client_publish = true
"#;

const ED25519: &[u8] = include_bytes!("../../src/auth/testdata/ed25519.pem");

/// A server with two keys, and an internal address that asks for nothing.
pub(crate) fn server(settings: &str) -> Server {
    let file = format!(
        "internal = \"127.0.0.1:0\"\n{settings}\n{NAMESPACES}\n\
         [token_key.old]\nsecret = \"{OLD_SECRET}\"\n[token_key.new]\nsecret = \"{NEW_SECRET}\"\n"
    );
    Start::new("").file(&file).serve()
}

pub(crate) fn now_s() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

pub(crate) fn sign(kid: &str, claims: &Value, secret: &str) -> String {
    let header = Header {
        kid: Some(kid.to_owned()),
        ..Header::new(Algorithm::HS256)
    };
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

/// Of a user who may listen on `chat:1`, for `seconds` from now.
fn claims(seconds: f64) -> Value {
    json!({ "sub": "u", "exp": now_s() + seconds, "subscribe": ["chat:1"], "channels": ["chat:1", "news"] })
}

fn token() -> String {
    sign("new", &claims(600.0), NEW_SECRET)
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// `GET target` with whole lines of fields.
fn get(address: SocketAddr, target: &str, fields: &str) -> Client {
    let mut client = Client::connect(address);
    client.request("GET", target, fields, b"");
    client
}

fn ask(address: SocketAddr, method: &str, target: &str, fields: &str) -> Response {
    let mut client = Client::connect(address);
    client.request(method, target, fields, b"hello");
    client.response()
}

fn handshake(target: &str, fields: &str) -> String {
    ws_handshake(target).replace("Host: test\r\n", &format!("Host: test\r\n{fields}"))
}

/// A WebSocket whose handshake has one more field, or none.
fn ws_with(server: &Server, target: &str, field: &str) -> Ws {
    let url = format!("ws://{}{target}", server.address);
    let mut request = url.into_client_request().unwrap();
    if let Some((name, value)) = field.trim_end().split_once(": ") {
        let name: tungstenite::http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let stream = Client::connect(server.address).into_stream();
    let (socket, _) = tungstenite::client(request, stream).unwrap();
    Ws {
        socket,
        cursor: String::new(),
    }
}

/// A WebSocket that has brought `token` as its first message, and the answer.
pub(crate) fn ws_with_first_message(server: &Server, target: &str, token: &str) -> (Ws, String) {
    let url = format!("ws://{}{target}", server.address);
    let stream = Client::connect(server.address).into_stream();
    let (socket, response) = tungstenite::client(url, stream).unwrap();
    assert!(!response.headers().contains_key("pushring-cursor"));
    let mut ws = Ws {
        socket,
        cursor: String::new(),
    };
    ws.send(&json!({ "token": token }).to_string());
    let answer = ws.text();
    (ws, answer)
}

#[test]
fn a_token_is_brought_in_every_way_on_every_transport() {
    let server = server("token_cookie = \"session\"");
    let token = token();
    for (query, fields) in [
        (String::new(), bearer(&token)),
        (format!("?token={token}"), String::new()),
        (
            String::new(),
            format!("Cookie: theme=dark; session={token}\r\n"),
        ),
    ] {
        for channels in ["/chat:1", ""] {
            let response = ask(
                server.address,
                "GET",
                &format!("/poll{channels}{query}"),
                &fields,
            );
            assert_eq!(response.status, 204, "{response:?}");
            let cursor = response.field("pushring-cursor").unwrap();
            assert_eq!(
                cursor.split(',').count(),
                if channels.is_empty() { 2 } else { 1 }
            );

            let mut stream = get(server.address, &format!("/sse{channels}{query}"), &fields);
            assert!(stream.read_until("retry: ").starts_with("HTTP/1.1 200 "));
            let mut ws = ws_with(&server, &format!("/ws{channels}{query}"), &fields);
            let mut poll = get(
                server.address,
                &format!("/poll{channels}?wait=30&{}", query.trim_start_matches('?')),
                &fields,
            );
            server.wait_subscribers("chat:1", 3);
            server.publish("chat:1", "for the user");
            stream.read_until("for the user");
            assert!(ws.text().contains("for the user"));
            assert_eq!(poll.response().messages(), ["for the user"]);
        }
    }
    let (mut ws, answer) = ws_with_first_message(&server, "/ws/chat:1", &token);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let response = ask(server.address, "GET", "/poll/chat:1", &bearer(&token));
    let cursor = response.field("pushring-cursor");
    assert_eq!(
        (answer["cursor"].as_str(), &answer["recovered"]),
        (cursor, &json!(true))
    );
    server.publish("chat:1", "first");
    assert_eq!(ws.text(), "first");
    // One token, brought many times, was verified by each shard at most once.
    let verifications = server.metric("token_verifications_total");
    assert!((1..=2).contains(&verifications), "{verifications}");
    assert!(server.metric("token_cache_hits_total") >= 20);
}

#[test]
fn a_bad_credential_is_refused_by_its_own_code() {
    let server = server("token_leeway = \"0s\"\ntoken_audience = \"push\"\ntoken_issuer = \"us\"");
    let good =
        json!({ "exp": now_s() + 600.0, "aud": "push", "iss": "us", "subscribe": ["chat:1"] });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        sign("new", &claims, NEW_SECRET)
    };
    for (token, status, code) in [
        (with("exp", json!(now_s() - 1.0)), 401, "token_expired"),
        (with("exp", Value::Null), 401, "token_exp_missing"),
        (
            with("nbf", json!(now_s() + 60.0)),
            401,
            "token_not_yet_valid",
        ),
        (with("aud", json!("others")), 401, "audience_denied"),
        (with("iss", json!("them")), 401, "issuer_denied"),
        (with("subscribe", json!(["chat:2"])), 403, "channel_denied"),
        (with("subscribe", json!("chat:1")), 401, "token_malformed"),
        (sign("new", &good, OLD_SECRET), 401, "bad_signature"),
        (sign("lost", &good, NEW_SECRET), 401, "unknown_key"),
        ("e30.e30.".to_owned(), 401, "token_malformed"),
    ] {
        let mut counted = 0;
        for path in ["/poll/chat:1", "/sse/chat:1", "/ws/chat:1"] {
            let mut client = Client::connect(server.address);
            client.send(handshake(path, &bearer(&token)));
            let response = client.response();
            assert_eq!(
                (response.status, &*response.code()),
                (status, code),
                "{path}"
            );
            assert_eq!(
                response.field("www-authenticate").is_some(),
                status == 401,
                "{path}"
            );
            counted += 1;
        }
        let counter = format!("refusals_total{{code=\"{code}\",status=\"{status}\"}}");
        assert!(server.metric(&counter) >= counted, "{counter}");
    }
    let response = ask(server.address, "GET", "/poll/chat:1", "");
    assert_eq!(
        (response.status, &*response.code()),
        (401, "credentials_missing")
    );
    assert_eq!(response.field("www-authenticate"), Some("Bearer"));
    // Bad is not nobody: also where nobody would get in.
    let response = ask(server.address, "GET", "/poll/news?token=e30.e30.", "");
    assert_eq!(
        (response.status, &*response.code()),
        (401, "token_malformed")
    );
    assert_eq!(ask(server.address, "GET", "/poll/news", "").status, 204);
}

#[test]
fn the_console_is_there_without_keys_only() {
    let (open, keyed) = (Server::start(""), server(""));
    for (target, wanted) in [("/", 404), ("/pushring.js", 200)] {
        assert_eq!(ask(keyed.address, "GET", target, "").status, wanted);
        assert_eq!(open.get(target).response().status, 200);
    }
}

#[test]
fn a_cookie_of_another_origins_page_is_not_taken() {
    let server =
        server("token_cookie = \"session\"\nallowed_origins = \"https://app.example.com,*\"");
    let cookie = format!("Cookie: session={}\r\n", token());
    let from = |origin: &str| format!("{cookie}Origin: {origin}\r\n");
    let response = ask(
        server.address,
        "GET",
        "/poll/chat:1",
        &from("https://evil.example"),
    );
    assert_eq!((response.status, &*response.code()), (403, "origin_denied"));
    for (origin, is_listed) in [("https://app.example.com", true), ("http://test", false)] {
        let response = ask(server.address, "GET", "/poll/chat:1", &from(origin));
        assert_eq!(response.status, 204, "{response:?}");
        let allowed = response.field("access-control-allow-origin").unwrap();
        assert_eq!(allowed, if is_listed { origin } else { "*" });
        let credentials = response.field("access-control-allow-credentials");
        assert_eq!(credentials, is_listed.then_some("true"));
    }
}

#[test]
fn a_live_connection_ends_with_its_token() {
    let server = server("token_leeway = \"0s\"\ntoken_expiry_grace = \"0s\"");
    let short = sign("new", &claims(2.0), NEW_SECRET);
    let (mut ws, _) = ws_with_first_message(&server, "/ws/chat:1", &short);
    let (mut kept, _) = ws_with_first_message(&server, "/ws/chat:1?format=json", &short);
    kept.send(&json!({ "token": token() }).to_string());
    assert_eq!(kept.text(), r#"{"refreshed":true}"#);
    let mut stream = get(server.address, &format!("/sse/chat:1?token={short}"), "");
    stream.read_until("retry: ");
    let mut poll = get(
        server.address,
        &format!("/poll/chat:1?wait=60&token={short}"),
        "",
    );
    assert_eq!(ws.close(), (3005, "token expired".to_owned()));
    assert!(
        String::from_utf8(stream.wait_end())
            .unwrap()
            .ends_with("\r\n0\r\n\r\n")
    );
    assert_eq!(poll.response().status, 204);
    poll.request(
        "GET",
        &format!("/poll/chat:1?wait=60&token={short}"),
        "",
        b"",
    );
    assert_eq!(poll.response().code(), "token_expired");
    server.publish("chat:1", "still here");
    assert!(kept.text().contains("still here"));
    server.wait_metric("connections_closed_total{reason=\"token_expired\"}", 2);
}

#[test]
fn a_websocket_is_closed_for_what_its_messages_bring() {
    let server = server("auth_timeout = \"200ms\"");
    let open = |target: &str| ws_with(&server, target, "");
    let mut late = open("/ws/chat:1");
    assert_eq!(late.close().0, 3500);
    let denied = sign(
        "new",
        &json!({ "exp": now_s() + 600.0, "subscribe": ["chat:2"] }),
        NEW_SECRET,
    );
    let expired = sign("new", &claims(-600.0), NEW_SECRET);
    let forged = sign("new", &claims(600.0), OLD_SECRET);
    for (token, code) in [(&denied, 3507), (&expired, 3005), (&forged, 3500)] {
        let mut ws = open("/ws/chat:1");
        ws.send(&json!({ "token": token }).to_string());
        assert_eq!(ws.close().0, code);
    }
    // A user may publish where the namespace wants users only.
    let (mut ws, _) = ws_with_first_message(&server, "/ws/echo:1", &token());
    ws.send("hello");
    assert_eq!(ws.text(), "hello");
    let (mut ws, _) = ws_with_first_message(&server, "/ws/chat:1", &token());
    ws.send("hello");
    assert_eq!(ws.close().0, 1008);
    server.wait_metric("connections_closed_total{reason=\"credential_refused\"}", 4);
}

#[test]
fn two_keys_are_good_while_they_are_rotated() {
    let server = server("");
    for (kid, secret) in [("old", OLD_SECRET), ("new", NEW_SECRET)] {
        let token = sign(kid, &claims(600.0), secret);
        assert_eq!(
            ask(server.address, "GET", "/poll/chat:1", &bearer(&token)).status,
            204
        );
        let key = EncodingKey::from_secret(secret.as_bytes());
        let nameless =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(600.0), &key).unwrap();
        assert_eq!(
            ask(server.address, "GET", "/poll/chat:1", &bearer(&nameless)).status,
            204
        );
    }
}

#[test]
fn the_backend_shows_its_key() {
    let file = format!(
        "{NAMESPACES}\n[token_key.new]\nsecret = \"{NEW_SECRET}\"\n[api_key.all]\nsecret = \"{API_KEY}\"\n\
         channels = [\"*\"]\n[api_key.chat]\nsecret = \"chat-{API_KEY}\"\nchannels = [\"chat:*\"]\n"
    );
    // One address for all, and one that strangers can reach.
    let mut server = Start::new("--listen 0.0.0.0:0").file(&file).serve();
    server.address = (std::net::Ipv4Addr::LOCALHOST, server.address.port()).into();
    let (all, chat) = (bearer(API_KEY), format!("X-API-Key: chat-{API_KEY}\r\n"));
    let user = bearer(&token());
    for (method, target, by_all, by_chat, by_user, by_nobody) in [
        ("POST", "/pub/news", 202, 403, 403, 401),
        ("POST", "/pub/chat:1", 202, 202, 403, 401),
        ("POST", "/pub/echo:1", 202, 403, 202, 401),
        ("GET", "/channels/chat:1", 200, 200, 403, 401),
        ("GET", "/channels/news", 200, 403, 403, 401),
        ("GET", "/channels", 200, 403, 403, 401),
        ("GET", "/channels?prefix=chat:", 200, 200, 403, 401),
        ("GET", "/metrics", 200, 200, 403, 401),
        ("DELETE", "/channels/chat:1", 204, 404, 403, 401),
    ] {
        for (fields, want) in [
            (&all, by_all),
            (&chat, by_chat),
            (&user, by_user),
            (&String::new(), by_nobody),
        ] {
            let response = ask(server.address, method, target, fields);
            assert_eq!(
                response.status, want,
                "{method} {target} {fields} {response:?}"
            );
        }
    }
    let wrong = ask(
        server.address,
        "POST",
        "/pub/news",
        "X-API-Key: backend-0123456789abcdee\r\n",
    );
    assert_eq!((wrong.status, &*wrong.code()), (401, "api_key_unknown"));
}

/// An issuer that serves a set of keys, and counts how often it was asked.
struct Issuer {
    url: String,
    body: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

/// A socket, as it is or with TLS on it.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// What makes one of a socket.
pub type Wrap = Box<dyn Fn(TcpStream) -> Box<dyn Stream> + Send>;

pub fn plain() -> Wrap {
    Box::new(|stream| Box::new(stream))
}

/// By the certificate of `tests/server/tls`.
pub fn with_tls() -> Wrap {
    use rustls::pki_types::pem::PemObject;
    let chain = CertificateDer::pem_slice_iter(include_bytes!("tls/localhost.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/localhost.key.pem")).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let config = Arc::new(config);
    Box::new(move |stream| {
        let tls = rustls::ServerConnection::new(config.clone()).unwrap();
        Box::new(rustls::StreamOwned::new(tls, stream))
    })
}

impl Issuer {
    fn start(body: &str) -> Self {
        Self::serve(body, "http", plain())
    }

    fn start_with_tls(body: &str) -> Self {
        Self::serve(body, "https", with_tls())
    }

    fn serve(body: &str, scheme: &str, wrap: Wrap) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}/keys", socket.local_addr().unwrap());
        let body = Arc::new(Mutex::new(body.to_owned()));
        let asked = Arc::new(AtomicUsize::new(0));
        let (its_body, its_asked) = (body.clone(), asked.clone());
        thread::spawn(move || {
            for stream in socket.incoming() {
                let mut stream = wrap(stream.unwrap());
                let mut request = Vec::new();
                let mut bytes = [0; 1024];
                // A client that does not trust the certificate says no more.
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    request.extend_from_slice(&bytes[..n]);
                    if request.ends_with(b"\r\n\r\n") {
                        break;
                    }
                }
                its_asked.fetch_add(1, Ordering::SeqCst);
                let body = its_body.lock().unwrap().clone();
                let status = match body.is_empty() {
                    true => "503 Service Unavailable",
                    false => "200 OK",
                };
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
                let _ = stream.flush();
            }
        });
        Self { url, body, asked }
    }

    fn set(&self, body: &str) {
        body.clone_into(&mut self.body.lock().unwrap());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The one key of the set of the tests that a test can sign with, under another name.
fn jwks(kid: &str) -> String {
    let set: Value =
        serde_json::from_str(include_str!("../../src/auth/testdata/jwks.json")).unwrap();
    let keys = set["keys"].as_array().unwrap();
    let mut key = keys.iter().find(|key| key["kid"] == "ed").unwrap().clone();
    key["kid"] = json!(kid);
    json!({ "keys": [key] }).to_string()
}

fn sign_by_issuer(kid: &str) -> String {
    let header = Header {
        kid: Some(kid.to_owned()),
        ..Header::new(Algorithm::EdDSA)
    };
    jsonwebtoken::encode(
        &header,
        &claims(600.0),
        &EncodingKey::from_ed_pem(ED25519).unwrap(),
    )
    .unwrap()
}

#[test]
fn a_new_key_of_the_issuer_is_looked_up_once() {
    let issuer = Issuer::start(&jwks("one"));
    let server = server(&format!("jwks = \"{}\"", issuer.url));
    let poll = |kid: &str| {
        ask(
            server.address,
            "GET",
            "/poll/chat:1",
            &bearer(&sign_by_issuer(kid)),
        )
    };
    assert_eq!(poll("one").status, 204);
    assert_eq!(issuer.asked(), 1, "at the start");
    issuer.set(&jwks("two"));
    // Several at once, and by several shards: one look is for all of them.
    let token = sign_by_issuer("two");
    let waiting: Vec<_> = (0..16)
        .map(|_| get(server.address, "/poll/chat:1", &bearer(&token)))
        .collect();
    for mut client in waiting {
        assert_eq!(client.response().status, 204);
    }
    assert_eq!(issuer.asked(), 2, "for the first that came");
    // What is still not known is refused, without another look.
    for _ in 0..8 {
        assert_eq!(poll("three").code(), "unknown_key");
    }
    assert_eq!(
        poll("one").code(),
        "unknown_key",
        "the issuer has taken it back"
    );
    assert_eq!(
        ask(
            server.address,
            "GET",
            "/poll/chat:1",
            &bearer(&self::token())
        )
        .status,
        204
    );
    assert_eq!(issuer.asked(), 2);
    assert_eq!(server.metric("jwks_reads_total"), 1);
}

#[test]
fn the_keys_stay_when_the_issuer_is_away() {
    let issuer = Issuer::start(&jwks("one"));
    let server = server(&format!("jwks = \"{}\"\njwks_refresh = \"1s\"", issuer.url));
    issuer.set("");
    wait_until("a refresh that fails", || {
        server.metric("jwks_read_failures_total") > 0
    });
    server.wait_log("the keys from before stay");
    let poll = |kid: &str| {
        ask(
            server.address,
            "GET",
            "/poll/chat:1",
            &bearer(&sign_by_issuer(kid)),
        )
    };
    assert_eq!(poll("one").status, 204);
    // A first message that waits for the keys in vain.
    let mut ws = ws_with(&server, "/ws/chat:1", "");
    ws.send(&json!({ "token": sign_by_issuer("two") }).to_string());
    assert_eq!(ws.close().0, 3500);
    issuer.set(&jwks("two"));
    wait_until("a refresh that brings the new key", || {
        poll("two").status == 204
    });
}

#[test]
fn the_issuer_is_trusted_by_its_certificate() {
    let issuer = Issuer::start_with_tls(&jwks("one"));
    let ca_file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/tls/ca.pem");
    let file = format!("jwks = \"{}\"\njwks_ca_file = \"{ca_file}\"", issuer.url);
    let server = server(&file);
    let token = bearer(&sign_by_issuer("one"));
    let response = ask(server.address, "GET", "/poll/chat:1", &token);
    assert_eq!(response.status, 204);
    // To the public authorities it is unknown.
    let file = format!("jwks = \"{}\"", issuer.url);
    let (status, log) = Start::new("").file(&file).fail();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("certificate"), "{log}");
}

#[test]
fn without_its_issuer_the_server_does_not_start() {
    let issuer = Issuer::start("");
    let file = format!("jwks = \"{}\"", issuer.url);
    let (status, log) = Start::new("").file(&file).fail();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("jwks: ") && log.contains(&issuer.url), "{log}");
    let (status, log) = Start::new("")
        .file("[token_key.a]\nsecret = \"too-short-to-be-shown\"")
        .fail();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(
        log.contains("token_key \"a\"") && !log.contains("shown"),
        "{log}"
    );
}

#[test]
fn nothing_of_a_token_or_a_secret_is_logged() {
    let server = server("log_level = \"trace\"\ntoken_cookie = \"session\"");
    let token = token();
    let signature = token.rsplit_once('.').unwrap().1.to_owned();
    let forged = format!("{}x", &token[..token.len() - 1]);
    for token in [&token, &forged] {
        for (query, fields) in [
            (format!("?token={token}"), String::new()),
            (String::new(), bearer(token)),
            (String::new(), format!("Cookie: session={token}\r\n")),
        ] {
            for path in ["/poll/chat:1", "/poll/chat:1/x", "/pub/chat:1", "/nothing"] {
                ask(server.address, "GET", &format!("{path}{query}"), &fields);
            }
            let mut broken = Client::connect(server.address);
            broken.send(format!(
                "GET /poll/chat:1{query} HTTP/1.1\r\nHost: test\r\n{fields}bad header\r\n\r\n"
            ));
            broken.response();
        }
    }
    let (mut ws, _) = ws_with_first_message(&server, "/ws/chat:1?format=json", &token);
    ws.send(&json!({ "token": forged }).to_string());
    assert_eq!(ws.close().0, 3500);
    let mut server = server;
    server.signal(rustix::process::Signal::TERM);
    server.wait_exit();
    server.wait_log("ended");
    for secret in [&signature[..signature.len() - 1], OLD_SECRET, NEW_SECRET] {
        assert_eq!(server.log_lines(secret), 0);
    }
}

#[test]
fn the_programs_own_clients_show_a_token() {
    let server = server("");
    let run = |arguments: &[&str], token: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_pushring"))
            .args(arguments)
            .args(["--server", &format!("http://{}", server.address)])
            .env("PUSHRING_TOKEN", token)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let publisher = sign(
        "new",
        &json!({ "exp": now_s() + 600.0, "publish": ["chat:1"] }),
        NEW_SECRET,
    );
    let (is_done, shown) = run(&["pub", "chat:1", "hello"], &publisher);
    assert!(is_done && shown.starts_with("chat:1 "), "{shown}");
    for transport in ["ws", "sse", "long", "short"] {
        let listen = [
            "sub",
            "chat:1",
            "--last",
            "1",
            "--count",
            "1",
            "--transport",
            transport,
        ];
        assert_eq!(
            run(&listen, &token()),
            (true, "hello\n".to_owned()),
            "{transport}"
        );
        let (is_done, shown) = run(&listen, "e30.e30.");
        assert!(
            !is_done && shown.contains("token_malformed"),
            "{transport} {shown}"
        );
    }
}
