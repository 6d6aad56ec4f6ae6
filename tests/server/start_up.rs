//! What keeps a server from starting, and what it says then.

use std::net::TcpListener;

use crate::harness::Start;

/// The exit status, and every one of `needles` in what the server says.
#[track_caller]
fn check(start: Start, code: i32, needles: &[&str]) {
    let (status, said) = start.fail();
    assert_eq!(status.code(), Some(code), "{said}");
    for needle in needles {
        assert!(said.contains(needle), "no {needle:?} in: {said}");
    }
}

#[test]
fn wrong_usage_and_configuration_are_told_by_name() {
    for (flags, needles) in [
        ("--bogus", &["--bogus"][..]),
        ("--heartbeat", &["--heartbeat"]),
        ("--heartbeat soon", &["--heartbeat", "soon"]),
        ("--threads 9999", &["--threads", "256"]),
        ("--drain-period 30s", &["drain_timeout", "drain_period"]),
        ("--config /nonexistent/file", &["/nonexistent/file"]),
        (
            "--backplane-prefix p --backplane kafka://127.0.0.1:9092",
            &["backplane", "redis://", "nats://"],
        ),
        (
            "--backplane-prefix p --backplane redis://a,b",
            &["backplane"],
        ),
    ] {
        check(Start::new(flags), 2, needles);
    }
    for (file, needles) in [
        (
            "heartbeet = \"25s\"\n",
            &["heartbeet", "heartbeat", ".toml:1"][..],
        ),
        ("\nheartbeat = 25\n", &["heartbeat", ".toml:2"]),
        (
            "[namespace.echo]\nclient_publishes = true\n",
            &["client_publish"],
        ),
        ("heartbeat = \n", &[".toml:1"]),
    ] {
        check(Start::new("").file(file), 2, needles);
    }
    let variable = Start::new("").after("export PUSHRING_HEARTBEET=25s");
    check(variable, 2, &["PUSHRING_HEARTBEET", "PUSHRING_HEARTBEAT"]);
}

#[test]
fn an_address_that_cannot_be_had_is_told_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    check(
        Start::new(&format!("--listen {taken}")),
        1,
        &[&taken, "another program has this port", "--listen"],
    );
    check(
        Start::new(&format!("--internal {taken}")),
        1,
        &[&taken, "another program has this port"],
    );
    // RFC 5737: an address that no host has.
    check(
        Start::new("--insecure --listen 192.0.2.1:8080"),
        1,
        &["192.0.2.1:8080", "does not have that address"],
    );
}

#[test]
fn without_keys_strangers_are_not_listened_to() {
    for flags in [
        "--listen 0.0.0.0:0",
        "--internal 0.0.0.0:0",
        "--listen [::]:0",
    ] {
        check(
            Start::new(flags),
            2,
            &["is not a loopback address", "--insecure"],
        );
    }
    let server = Start::new("--listen 0.0.0.0:0 --insecure").serve();
    assert_ne!(server.address.port(), 0);
}

#[test]
fn too_few_descriptors_are_told_with_the_limit_to_raise() {
    check(
        Start::new("").after("ulimit -n 50"),
        1,
        &["the descriptor limit is 50", "ulimit -n"],
    );
}
