//! The end of the process, in order or not, and the next one on the same port.

use rustix::process::Signal;

use crate::client::Client;
use crate::harness::{Server, Start, wait_until};

/// A server that takes its time before it closes anything.
const DELAYED: &str =
    "--drain-delay 500ms --drain-period 100ms --drain-timeout 20s --linger-timeout 100ms";

/// A publish whose head the server has read and whose body it waits for.
fn begin_upload(server: &Server, channels: &str, bytes: usize) -> Client {
    let mut client = server.connect();
    client.send(format!(
        "POST /pub/{channels} HTTP/1.1\r\nHost: t\r\nContent-Length: {bytes}\r\nExpect: 100-continue\r\n\r\n"
    ));
    client.read_until("100 Continue\r\n\r\n");
    client
}

#[test]
fn everybody_is_told_in_the_way_of_their_transport() {
    let mut server = Server::start(DELAYED);
    server.publish("c", "x");
    let mut idle = server.get("/healthz");
    idle.response();
    let mut polls: Vec<_> = (0..4)
        .map(|n| server.get(&format!("/poll/c{n}?wait=60")))
        .collect();
    let mut sse = server.sse("/sse/c");
    let mut old_sse = server.connect();
    old_sse.send("GET /sse/c HTTP/1.0\r\n\r\n");
    old_sse.read_until("retry: ");
    old_sse.read_until("\n");
    let mut ws = server.ws("/ws/c");
    let mut upload = begin_upload(&server, "upload", 50_000);
    server.wait_metric("connections{", 10);
    (0..4).for_each(|n| server.wait_subscribers(&format!("c{n}"), 1));
    server.wait_subscribers("c", 3);

    server.signal(Signal::TERM);
    server.wait_log("not ready");
    let mut ready = server.get("/readyz");
    wait_until("not ready", || {
        let response = ready.response();
        ready = server.get("/readyz");
        response.status == 503
            && response.code() == "not_ready"
            && response.field("retry-after").is_some()
    });
    assert_eq!(server.get("/healthz").response().status, 200);
    server.publish("c", "still served");

    for poll in &mut polls {
        let response = poll.response();
        assert_eq!(
            (response.status, response.field("connection")),
            (204, Some("close"))
        );
        assert!(response.field("pushring-cursor").is_some());
        assert_eq!(poll.read_to_end().unwrap(), b"");
    }
    assert_eq!(idle.read_to_end().unwrap(), b"");
    let stream = String::from_utf8(sse.read_to_end().unwrap()).unwrap();
    assert!(
        stream.contains("data: still served") && stream.contains("retry: "),
        "{stream}"
    );
    assert!(stream.ends_with("\r\n0\r\n\r\n"), "{stream}");
    let stream = String::from_utf8(old_sse.read_to_end().unwrap()).unwrap();
    assert!(
        stream.lines().last().unwrap().starts_with("retry: "),
        "{stream}"
    );
    assert_eq!(ws.text(), "still served");
    let (code, reason) = ws.close();
    assert_eq!(code, 3001);
    let delay = reason
        .strip_prefix("shutdown, reconnect after ")
        .and_then(|rest| rest.strip_suffix(" ms"));
    assert!(
        (1_500..=4_500).contains(&delay.unwrap().parse().unwrap()),
        "{reason}"
    );

    // The upload goes on, slowly, and is answered.
    for _ in 0..50 {
        upload.send([b'y'; 1000]);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let response = upload.response();
    assert_eq!(
        (response.status, response.field("connection")),
        (202, Some("close"))
    );
    drop((upload, ws));
    assert!(server.wait_exit().success());
    server.wait_log("ended");
}

#[test]
fn a_shard_with_nobody_left_still_answers_for_its_channels() {
    let mut server =
        Server::start("--threads 4 --drain-period 0s --drain-timeout 60s --linger-timeout 100ms");
    let mut upload = begin_upload(&server, "c1,c2,c3,c4,c5,c6,c7,c8,c9", 1);
    server.publish("c", "x");
    server.signal(Signal::TERM);
    server.wait_log("draining");
    // The backend's connection ends, and with it all that three of the shards have.
    server.wait_backend_end();
    upload.send("b");
    assert_eq!(upload.response().status, 202);
    drop(upload);
    assert!(server.wait_exit().success());
}

#[test]
fn sixty_four_shards_end_together() {
    let mut server = Server::start("--threads 64 --drain-period 200ms --drain-timeout 60s");
    let mut listeners: Vec<_> = (0..200).map(|n| server.ws(&format!("/ws/c{n}"))).collect();
    server.signal(Signal::TERM);
    for listener in &mut listeners {
        assert_eq!(listener.close().0, 3001);
    }
    drop(listeners);
    assert!(server.wait_exit().success());
    assert_eq!(server.log_lines("cutting"), 0);
}

#[test]
fn an_idle_server_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start("--drain-timeout 30s --threads 3");
        server.signal(signal);
        assert!(server.wait_exit().success());
    }
}

#[test]
fn a_second_signal_cuts_a_third_ends() {
    // Each signal skips one wait: the delay, the drain.
    let mut server = Server::start("--drain-delay 60s --drain-timeout 60s --drain-period 0s");
    let mut upload = begin_upload(&server, "c", 50);
    let mut ws = server.ws("/ws/c");
    server.signal(Signal::TERM);
    server.wait_log("not ready");
    server.signal(Signal::TERM);
    server.wait_log("draining");
    assert_eq!(ws.close().0, 3001);
    server.signal(Signal::TERM);
    server.wait_log("cutting");
    assert_eq!(upload.wait_end(), b"");
    assert!(server.wait_exit().success());
}

#[test]
fn who_does_not_finish_in_time_is_cut() {
    let mut server = Server::start("--drain-period 0s --drain-timeout 300ms");
    let mut upload = begin_upload(&server, "c", 50);
    server.signal(Signal::TERM);
    assert_eq!(upload.wait_end(), b"");
    assert!(server.wait_exit().success());
}

#[test]
fn after_a_kill_the_next_one_serves_on_the_same_port() {
    let mut server = Server::start("");
    let address = server.address;
    let flags = format!("--listen {address}");
    for _ in 0..3 {
        let cursor = server.publish("c", "x");
        let mut clients: Vec<_> = (0..20).map(|_| server.sse("/sse/c")).collect();
        server.signal(Signal::KILL);
        assert!(!server.wait_exit().success());
        clients.iter_mut().map(Client::wait_end).for_each(drop);
        server = Server::start(&flags);
        assert_eq!(server.log_lines("WARN"), 0, "the port is free");
        // The history is lost, and that is told.
        server.publish("c", "y");
        let poll = server.get(&format!("/poll/c?since={cursor}")).response();
        assert_eq!(poll.json()["recovered"], false);
        assert_eq!(poll.messages(), ["y"]);
    }
}

#[test]
fn a_second_server_on_the_same_port_says_so() {
    let first = Server::start("");
    let second = Start::new(&format!("--listen {}", first.address)).serve();
    assert!(
        second
            .wait_log("another process listens here")
            .contains("WARN")
    );
    assert_eq!(first.address, second.address);
    // Both are reached: the kernel shares the connections out, and neither knows the other's channels.
    let mut seen = Vec::new();
    wait_until("answers of both", || {
        let mut probe = first.connect();
        probe.request("POST", "/pub/c", "", b"x");
        let epoch = probe.response().json()["id"]
            .as_str()
            .unwrap()
            .split('-')
            .next()
            .unwrap()
            .to_owned();
        if !seen.contains(&epoch) {
            seen.push(epoch);
        }
        seen.len() == 2
    });
}
