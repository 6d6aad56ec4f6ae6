//! Other keys for a server that runs, by SIGHUP.

use std::fs;

use serde_json::{Value, json};

use crate::auth::{NAMESPACES, NEW_SECRET, OLD_SECRET, now_s, sign};
use crate::client::Client;
use crate::harness::{Server, Start, wait_until};

const OLD_API_KEY: &str = "old-api-key-0123456789";
const NEW_API_KEY: &str = "new-api-key-0123456789";

/// A file for one test's keys.
fn key_file(name: &str, contents: &str) -> String {
    let path = format!(
        "{}/{name}-{}.key",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    fs::write(&path, contents).unwrap();
    path
}

fn token(kid: &str, secret: &str) -> String {
    let claims = json!({ "sub": "u", "exp": now_s() + 600.0, "subscribe": ["chat:1"] });
    sign(kid, &claims, secret)
}

/// Status and code of a poll with `token`.
fn poll(server: &Server, token: &str) -> (u16, String) {
    let mut client = server.get(&format!("/poll/chat:1?token={token}"));
    let response = client.response();
    let code = match response.status {
        204 => String::new(),
        _ => response.code(),
    };
    (response.status, code)
}

/// The status of a publish with the API key `secret`.
fn publish(server: &Server, secret: &str) -> u16 {
    let mut client = Client::connect(server.internal);
    client.request(
        "POST",
        "/pub/chat:1",
        &format!("X-API-Key: {secret}\r\n"),
        b"hello",
    );
    client.response().status
}

fn reloaded(server: &Server, text: &str, n: usize) {
    server.reload(text);
    wait_until("the reload", || {
        server.log_lines("the configuration is reloaded") == n
    });
}

/// Waits until every shard has other keys: a connection may land on any.
#[track_caller]
fn wait_poll(server: &Server, token: &str, want: (u16, &str)) {
    for _ in 0..8 {
        wait_until("other keys", || {
            let (status, code) = poll(server, token);
            (status, &*code) == want
        });
    }
}

#[test]
fn a_key_that_is_gone_is_honoured_no_more_and_who_is_in_stays_in() {
    let file = key_file("rotated", OLD_SECRET);
    let text = |api_key: &str| {
        format!(
            "internal = \"127.0.0.1:0\"\n{NAMESPACES}\n[token_key.main]\nsecret_file = \"{file}\"\n\
             [api_key.backend]\nsecret = \"{api_key}\"\nchannels = [\"*\"]\n"
        )
    };
    let server = Start::new("").file(&text(OLD_API_KEY)).serve();
    let (old, new) = (token("main", OLD_SECRET), token("main", NEW_SECRET));
    for _ in 0..8 {
        assert_eq!(poll(&server, &old).0, 204);
        assert_eq!(poll(&server, &new), (401, "bad_signature".to_owned()));
    }
    assert_eq!(
        [OLD_API_KEY, NEW_API_KEY].map(|key| publish(&server, key)),
        [202, 401]
    );
    let mut stream = server.sse(&format!("/sse/chat:1?token={old}"));
    // The same path, with something else in it; and another API key.
    fs::write(&file, NEW_SECRET).unwrap();
    reloaded(&server, &text(NEW_API_KEY), 1);
    wait_poll(&server, &old, (401, "bad_signature"));
    wait_poll(&server, &new, (204, ""));
    wait_until("the new API key", || publish(&server, NEW_API_KEY) == 201);
    stream.read_until("data: hello\n");
    wait_until("no old API key", || publish(&server, OLD_API_KEY) == 401);
    server.wait_log("reloaded api_key: (not shown) -> (not shown)");
    assert_eq!(
        server.log_lines(NEW_API_KEY) + server.log_lines(NEW_SECRET),
        0
    );
}

#[test]
fn two_keys_are_rotated_without_a_restart() {
    let key = |kid: &str, secret: &str| format!("[token_key.{kid}]\nsecret = \"{secret}\"\n");
    let (first, second) = (key("old", OLD_SECRET), key("new", NEW_SECRET));
    let server = Start::new("").file(&format!("{NAMESPACES}{first}")).serve();
    let (old, new) = (token("old", OLD_SECRET), token("new", NEW_SECRET));
    wait_poll(&server, &old, (204, ""));
    wait_poll(&server, &new, (401, "unknown_key"));
    reloaded(&server, &format!("{NAMESPACES}{first}{second}"), 1);
    wait_poll(&server, &new, (204, ""));
    wait_poll(&server, &old, (204, ""));
    reloaded(
        &server,
        &format!("token_audience = \"x\"\n{NAMESPACES}{second}"),
        2,
    );
    wait_poll(&server, &new, (401, "audience_denied"));
    reloaded(&server, &format!("{NAMESPACES}{second}"), 3);
    wait_poll(&server, &old, (401, "unknown_key"));
    wait_poll(&server, &new, (204, ""));
}

#[test]
fn a_key_that_is_none_leaves_the_old_ones_in_force() {
    let file = key_file("kept", OLD_SECRET);
    let text = format!("{NAMESPACES}[token_key.main]\nsecret_file = \"{file}\"\n");
    let server = Start::new("").file(&text).serve();
    let old = token("main", OLD_SECRET);
    assert_eq!(poll(&server, &old).0, 204);
    fs::write(&file, "too short").unwrap();
    server.reload(&text);
    let line = server.wait_log("the secret is too short");
    assert!(
        line.contains("the old configuration stays in force"),
        "{line}"
    );
    fs::remove_file(&file).unwrap();
    server.reload(&text);
    server.wait_log("cannot be read");
    // A namespace that wants tokens, and nothing to verify them with.
    server.reload(NAMESPACES);
    wait_until("three refusals", || server.log_lines("not reloaded") >= 3);
    wait_poll(&server, &old, (204, ""));
    assert_eq!(server.log_lines("the configuration is reloaded"), 0);
}

#[test]
fn a_server_does_not_become_open_by_mistake() {
    let key = format!("[api_key.backend]\nsecret = \"{OLD_API_KEY}\"\nchannels = [\"*\"]\n");
    let server = Start::new("")
        .file(&format!("internal = \"0.0.0.0:0\"\n{key}"))
        .serve();
    // The last would do for a start; but where the server listens, a reload does not change.
    for (n, text) in (1..).zip(["internal = \"0.0.0.0:0\"\n", "internal = \"127.0.0.1:0\"\n"]) {
        server.reload(text);
        wait_until("a refusal", || {
            server.log_lines("not a loopback address") == n
        });
    }
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.internal.port()));
    let mut client = Client::connect(address);
    client.get("/channels");
    assert_eq!(client.response().status, 401, "the key is still asked for");
    assert_eq!(server.log_lines("the configuration is reloaded"), 0);
}

#[test]
fn a_file_of_the_issuer_is_read_again() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/src/auth/testdata/jwks.json");
    let mut set: Value = serde_json::from_slice(&fs::read(data).unwrap()).unwrap();
    let file = key_file("issuer", &set.to_string());
    let text = format!("jwks = \"{file}\"\n{NAMESPACES}");
    let server = Start::new("").file(&text).serve();
    let keys = set["keys"].as_array_mut().unwrap();
    keys.retain(|key| key["kty"] == "OKP");
    fs::write(&file, set.to_string()).unwrap();
    reloaded(&server, &text, 1);
    assert!(server.wait_log("jwks has changed").contains("keys=1"));
}
