//! At a limit newcomers are told, and whoever is already there goes on.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, prlimit};

use crate::client::Client;
use crate::harness::{Server, Start, wait_until};

fn refused(code: &str) -> String {
    format!("refusals_total{{code=\"{code}\",status=\"503\"}}")
}

#[test]
fn beyond_connections_max_a_newcomer_is_refused() {
    let server = Server::start("--connections-max 10 --linger-timeout 100ms");
    let mut listeners: Vec<_> = (0..9).map(|_| server.ws("/ws/c")).collect();
    // The tenth is the backend's own.
    server.publish("c", "before");
    for n in 1..=20 {
        let mut newcomer = server.connect();
        let response = newcomer.response();
        assert_eq!(
            (response.status, response.code().as_str()),
            (503, "connections_full")
        );
        assert!((1..=5).contains(&response.field("retry-after").unwrap().parse().unwrap()));
        assert_eq!(newcomer.read_to_end().unwrap(), b"");
        assert_eq!(server.metric("connections_rejected_total"), n);
    }
    assert_eq!(server.metric(&refused("connections_full")), 20);
    // One line a minute from each shard that turned somebody away.
    assert!((1..=2).contains(&server.log_lines("turned away")));
    server.publish("c", "after");
    for listener in &mut listeners {
        assert_eq!(
            (listener.text(), listener.text()),
            ("before".to_owned(), "after".to_owned())
        );
    }
    // Who leaves makes room.
    drop(listeners.pop());
    wait_until("room", || {
        let mut newcomer = server.get("/healthz");
        newcomer.response().status == 200
    });
}

#[test]
fn a_flood_of_newcomers_beyond_the_limit_is_closed_without_a_word() {
    let server = Server::start("--connections-max 2 --linger-timeout 60s");
    let mut listener = server.ws("/ws/c");
    server.publish("c", "before");
    let mut flood: Vec<_> = (0..200).map(|_| server.connect()).collect();
    server.wait_metric("connections_rejected_total", 200);
    let told = flood
        .iter_mut()
        .filter_map(|newcomer| newcomer.has_answer("HTTP/1.1 503 ").then_some(()))
        .count();
    // What a refusal takes, is bounded, too.
    assert_eq!(told, 64);
    assert_eq!(server.metric("connections{"), 2 + 64);
    server.publish("c", "after");
    assert_eq!(
        (listener.text(), listener.text()),
        ("before".to_owned(), "after".to_owned())
    );
    drop(flood);
    server.wait_metric("connections{", 2);
}

#[test]
fn without_descriptors_newcomers_are_refused_and_the_server_rests() {
    let server = Server::start("--threads 1");
    let mut listener = server.ws("/ws/c");
    server.publish("c", "before");
    let limit = |soft: u64| {
        let limits = Rlimit {
            current: Some(soft),
            maximum: Some(soft),
        };
        prlimit(Some(server.pid()), Resource::Nofile, limits).unwrap()
    };
    // Six more, then accept(2) fails: below the reserve that `connections_max` leaves. The shard's own table counts.
    let shard = std::fs::read_dir(format!("/proc/{}/task", server.pid()))
        .unwrap()
        .map(|thread| thread.unwrap().path());
    let shard = shard
        .into_iter()
        .find(|thread| std::fs::read_to_string(thread.join("comm")).unwrap() == "shard-0\n");
    let table = shard.unwrap().join("fd");
    let lowest_free =
        (0..).find(|n: &u64| std::fs::symlink_metadata(table.join(n.to_string())).is_err());
    limit(lowest_free.unwrap() + 6);
    let mut admitted: Vec<Client> = Vec::new();
    let mut refused = 0;
    while refused < 20 {
        let mut newcomer = server.connect();
        // Nobody lingers for them, so the refusal may be lost to a reset.
        let is_admitted = newcomer
            .try_send("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n")
            .is_ok()
            && newcomer.has_answer("HTTP/1.1 200 ");
        if is_admitted {
            admitted.push(newcomer);
        } else {
            refused += 1;
        }
        assert!(admitted.len() < 10, "accept does not fail");
    }
    assert!(server.metric("accept_errors_total") > 0);
    assert!(server.metric("connections_rejected_total") >= 20);
    assert_eq!(server.log_lines("cannot accept"), 1);
    // Newcomers at the door all the time, and no busy loop: half a core would be 50 ticks a second.
    let ticks = server.cpu_ticks();
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        drop(server.connect());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(
        server.cpu_ticks() - ticks < 50,
        "{} ticks",
        server.cpu_ticks() - ticks
    );
    server.publish("c", "after");
    assert_eq!(
        (listener.text(), listener.text()),
        ("before".to_owned(), "after".to_owned())
    );
    drop(admitted);
    wait_until("room", || {
        server.get("/healthz").has_answer("HTTP/1.1 200 ")
    });
}

#[test]
fn beyond_channels_max_a_new_channel_is_refused() {
    let server = Server::start("--channels-max 4 --threads 1 --channel-idle-timeout 100ms");
    let mut listeners: Vec<_> = (0..4).map(|n| server.ws(&format!("/ws/c{n}"))).collect();
    // Who only asks needs none.
    assert_eq!(server.get("/poll/new").response().status, 204);
    for target in ["/poll/new?wait=9", "/sse/new", "/sse/c0,new"] {
        let response = server.get(target).response();
        assert_eq!(
            (response.status, response.code().as_str()),
            (503, "channels_full"),
            "{target}"
        );
        assert!(response.field("retry-after").is_some());
    }
    assert_eq!(server.ask("POST", "/pub/new", b"").code(), "channels_full");
    // Of several channels, some may be refused.
    let several = server.ask("POST", "/pub/c0,new", b"x");
    assert_eq!(
        (several.status, several.field("retry-after").is_some()),
        (503, true)
    );
    assert_eq!(several.json()[0]["receivers"], 1);
    assert_eq!(several.json()[1]["error"]["code"], "channels_full");
    assert_eq!(listeners[0].text(), "x");
    assert_eq!(server.metric(&refused("channels_full")), 5);
    assert_eq!(server.publish("c0", "x").split('-').nth(1), Some("2"));
    assert_eq!(listeners[0].text(), "x");
    // A channel without listener and history is forgotten, which makes room.
    listeners.pop();
    wait_until("room", || server.ask("POST", "/pub/new", b"").status == 202);
}

#[test]
fn a_publish_that_cannot_be_delivered_in_time_is_refused_and_the_others_arrive() {
    const PUBLISHES: usize = 300;
    let flags = "--fanout-backlog-bytes-max 1KiB --fanout-sends-per-turn 1";
    let server = Server::start(flags);
    let mut listeners: Vec<_> = (0..20).map(|_| server.ws("/ws/c")).collect();
    let mut publisher = server.connect();
    for n in 0..PUBLISHES {
        publisher.request("POST", "/pub/c", "", format!("{n:0500}").as_bytes());
    }
    let mut promised = Vec::new();
    for n in 0..PUBLISHES {
        let response = publisher.response();
        match response.status {
            201 => promised.push(format!("{n:0500}")),
            _ => assert_eq!(
                (response.status, response.code().as_str()),
                (503, "backlog_full")
            ),
        }
    }
    let refused = server.metric(&refused("backlog_full"));
    assert!(
        refused > 0 && refused as usize == PUBLISHES - promised.len(),
        "{refused}"
    );
    for listener in &mut listeners {
        for want in &promised {
            assert_eq!(&listener.text(), want);
        }
        Client::of(listener.socket.get_ref()).assert_silent();
    }
    server.wait_metric("fanout_backlog_bytes", 0);
}

#[test]
fn over_the_total_of_histories_a_channel_gives_up_its_own_past() {
    let server = Server::start("--threads 1 --history-bytes-total-max 10KiB");
    for n in 0..20 {
        server.publish("large", [b'a' + n; 1000]);
    }
    let kept = server
        .get("/poll/large?since=earliest")
        .response()
        .messages();
    assert!(
        (5..=10).contains(&kept.len()) && kept.last().unwrap().starts_with('t'),
        "{kept:?}"
    );
    assert!(server.metric("history_bytes") <= 10 * 1024);
    // Nothing to give up: refused, unless it need not be kept.
    assert_eq!(
        server.ask("POST", "/pub/other", &[b'x'; 9000]).code(),
        "history_full"
    );
    assert_eq!(
        server
            .ask("POST", "/pub/other?store=false", &[b'x'; 9000])
            .status,
        202
    );
    assert_eq!(server.metric(&refused("history_full")), 1);
}

#[test]
fn over_the_count_of_keys_the_oldest_is_forgotten() {
    let server = Server::start("--threads 1 --idempotency-keys-max 3");
    let publish = |key: &str| {
        let mut client = server.connect();
        client.request(
            "POST",
            "/pub/c",
            &format!("Idempotency-Key: {key}\r\n"),
            b"x",
        );
        let json = client.response().json();
        json["id"]
            .as_str()
            .unwrap()
            .rsplit('-')
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!(["a", "b", "c", "a", "d"].map(publish), [1, 2, 3, 1, 4]);
    assert_eq!(["b", "c", "d"].map(publish), [2, 3, 4]);
    assert_eq!(publish("a"), 5, "forgotten for d");
}

#[test]
fn more_descriptors_than_there_are_is_said_at_the_start() {
    let server = Start::new("--connections-max 1000")
        .after("ulimit -n 130")
        .serve();
    assert!(server.wait_log("raise ulimit -n").contains("possible=68"));
}
