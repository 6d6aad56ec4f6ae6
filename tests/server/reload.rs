//! Another configuration for a server that runs, by SIGHUP.

use rustix::process::Signal;

use crate::harness::{Server, Start, wait_until};

fn start(flags: &str, file: &str) -> Server {
    Start::new(flags).file(file).serve()
}

#[test]
fn what_can_be_reloaded_is_in_force_and_no_socket_is_touched() {
    let server = start("", "heartbeat = \"1h\"\n");
    for n in 0..9 {
        server.publish("c", format!("{n}"));
    }
    let mut ws = server.ws("/ws/c");
    let mut echo = server.ws("/ws/echo:c");
    let mut sse = server.sse("/sse/c");
    let mut poll = server.get("/poll/other?wait=60");
    server.wait_subscribers("other", 1);
    server.reload(
        "heartbeat = \"100ms\"\nmessage_bytes_max = \"1KiB\"\nlog_level = \"debug\"\n\
         allowed_origins = \"https://a.example\"\nconnections_max = 7\n\
         [namespace.\"\"]\nhistory_messages = 2\n[namespace.echo]\nclient_publish = true\n",
    );
    server.wait_metric("reloads_total", 1);
    for change in [
        "reloaded heartbeat: 1h -> 100ms",
        "reloaded message_bytes_max: 64KiB -> 1KiB",
        "reloaded allowed_origins: * -> https://a.example",
        "reloaded namespace \"\" history_messages: 100 -> 2",
        "reloaded namespace \"echo\" client_publish: false -> true",
        "connections_max=7",
    ] {
        server.wait_log(change);
    }
    wait_until("a shorter history", || {
        server.ask("GET", "/channels/c", b"").json()["messages"] == 2
    });
    assert_eq!(
        server.ask("POST", "/pub/c", &[b'x'; 1025]).code(),
        "body_too_large"
    );
    let mut page = server.connect();
    page.request("GET", "/healthz", "Origin: https://b.example\r\n", b"");
    assert_eq!(page.response().code(), "origin_denied");
    // Those who were there listen on, and their hearts beat faster.
    assert_eq!(sse.read_until("\r\n:\n\r\n"), "2\r\n:\n\r\n");
    server.publish("c", "go on");
    assert_eq!(ws.text(), "go on");
    sse.read_until("data: go on\n");
    echo.send("hello");
    assert_eq!(echo.text(), "hello");
    server.publish("other", "x");
    assert_eq!(poll.response().messages(), ["x"]);
    // Six are there, with the backend's.
    let mut seventh = server.get("/healthz");
    assert_eq!(seventh.response().status, 200);
    assert_eq!(server.get("/healthz").response().code(), "connections_full");
    assert_eq!(server.metric("connections_closed_total{reason=\"peer"), 0);
}

#[test]
fn a_file_that_is_wrong_leaves_the_old_one_in_force() {
    let server = start("", "message_bytes_max = \"1KiB\"\n");
    for (failures, (contents, needle)) in (1..).zip([
        ("message_bytes_max = 5 KiB\n", ".toml:1"),
        (
            "\nmessage_bites_max = \"2KiB\"\n",
            "did you mean message_bytes_max?",
        ),
        (
            "message_bytes_max = \"2KiB\"\npoll_limit_max = 1\n",
            "poll_limit_max (1) is below",
        ),
        (
            "message_bytes_max = \"2KiB\"\ninternal = \"0.0.0.0:0\"\n",
            "not a loopback address",
        ),
    ]) {
        server.reload(contents);
        server.wait_metric("reload_failures_total", failures);
        let line = server.wait_log(needle);
        assert!(
            line.contains("ERROR") && line.contains("the old configuration stays in force"),
            "{line}"
        );
        assert_eq!(server.ask("POST", "/pub/c", &[b'x'; 1025]).status, 413);
    }
    assert_eq!(server.metric("reloads_total"), 0);
    server.reload("message_bytes_max = \"2KiB\"\n");
    server.wait_metric("reloads_total", 1);
    assert_eq!(server.ask("POST", "/pub/c", &[b'x'; 1025]).status, 202);
}

#[test]
fn what_stays_until_a_restart_may_not_contradict_what_is_new() {
    let server = start("", "message_bytes_max = \"1KiB\"\n");
    // Tokens are asked for at once, and the keys for them are not read before a restart.
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/src/auth/testdata/jwks.json");
    server.reload(&format!(
        "jwks = \"{keys}\"\n[namespace.\"\"]\nsubscribe = \"token\"\n"
    ));
    server.wait_metric("reload_failures_total", 1);
    server.wait_log("needs a restart: jwks: none -> ");
    let line = server.wait_log("namespace \"\" asks for tokens");
    assert!(
        line.contains("the old configuration stays in force"),
        "{line}"
    );
    assert_eq!(server.ask("POST", "/pub/c", &[b'x'; 1025]).status, 413);
    assert_eq!(server.get("/poll/c").response().status, 204);
}

#[test]
fn what_needs_a_restart_is_named_and_flags_still_win() {
    let server = start("--message-bytes-max 1KiB", "threads = 2\n");
    server.reload("message_bytes_max = \"2KiB\"\nlog_format = \"json\"\npin_threads = true\n");
    server.wait_metric("reloads_total", 1);
    for change in ["log_format: text -> json", "pin_threads: false -> true"] {
        let line = server.wait_log(change);
        assert!(
            line.contains("WARN") && line.contains("needs a restart"),
            "{line}"
        );
    }
    assert!(server.wait_log("is reloaded").contains("changes=0"));
    assert_eq!(server.ask("POST", "/pub/c", &[b'x'; 1025]).status, 413);
}

#[test]
fn the_log_level_follows() {
    let server = start("", "log_level = \"info\"\n");
    server.reload("log_level = \"error\"\n");
    server.wait_metric("reloads_total", 1);
    server.reload("log_level = \"error\"\nheartbeat = \"1s\"\n");
    server.wait_metric("reloads_total", 2);
    server.reload("log_level = \"info\"\nheartbeat = \"1s\"\n");
    server.wait_log("reloaded log_level: error -> info");
    assert_eq!(server.log_lines("reloaded heartbeat"), 0);
}

#[test]
fn a_server_that_is_ending_reads_nothing_anew() {
    let server = start("--drain-delay 60s", "threads = 2\n");
    server.signal(Signal::TERM);
    server.wait_log("not ready");
    server.reload("threads = 3\n");
    server.wait_log("not reloaded: the server is ending");
    assert_eq!(server.ask("GET", "/healthz", b"").status, 200);
}
