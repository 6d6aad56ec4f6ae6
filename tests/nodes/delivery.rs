//! While all is well: one service on several nodes.

use crate::broker::{Broker, KINDS, Kind};
use crate::harness::{Server, wait_until};

/// Where a poll at `node` stands, and what it brings.
fn poll(node: &Server, target: &str) -> (String, Vec<String>, bool) {
    let response = node.ask("GET", target, b"");
    let cursor = response
        .field("pushring-cursor")
        .expect("a cursor")
        .to_owned();
    let is_recovered = response.status == 204 || response.json()["recovered"] == true;
    let messages = if response.status == 204 {
        Vec::new()
    } else {
        response.messages()
    };
    (cursor, messages, is_recovered)
}

fn check_every_node(kind: Kind) {
    let broker = Broker::start(kind);
    let nodes: [Server; 3] = broker.nodes();
    let mut listeners: Vec<Box<dyn FnMut() -> String>> = Vec::new();
    for node in &nodes {
        let mut ws = node.ws("/ws/news");
        let mut sse = node.sse("/sse/news");
        node.wait_subscribers("news", 2);
        listeners.push(Box::new(move || ws.text()));
        listeners.push(Box::new(move || {
            sse.read_until("\ndata: ");
            sse.read_until("\n").trim_end().to_owned()
        }));
    }
    for (n, node) in nodes.iter().enumerate() {
        let payload = format!("from {n}");
        let answer = node.ask("POST", "/pub/news?count=cluster", payload.as_bytes());
        assert_eq!(answer.status, 201, "{kind:?}: {}", answer.text());
        let answer = answer.json();
        assert_eq!(
            (&answer["receivers"], &answer["scope"], &answer["nodes"]),
            (&6.into(), &"cluster".into(), &3.into()),
            "{kind:?}: {answer}"
        );
        for listener in &mut listeners {
            assert_eq!(listener(), payload, "{kind:?}");
        }
    }
    let answer = nodes[0].ask("POST", "/pub/news", b"x").json();
    assert_eq!(
        (&answer["receivers"], &answer["scope"]),
        (&2.into(), &"node".into())
    );
}

#[test]
fn a_message_reaches_every_transport_on_every_node() {
    KINDS.into_iter().for_each(check_every_node);
}

fn check_wandering(kind: Kind) {
    let broker = Broker::start(kind);
    let nodes: [Server; 3] = broker.nodes();
    let (mut cursor, ..) = poll(&nodes[0], "/poll/chat:1");
    let mut wanted = Vec::new();
    for n in 0..12 {
        let payload = format!("m{n}");
        nodes[n % 2].publish("chat:1", &payload);
        wanted.push(payload);
        if n % 3 == 2 {
            // A node may be a moment behind the one that has answered.
            let mut got = Vec::new();
            while got.len() < wanted.len() {
                let target = format!("/poll/chat:1?since={cursor}&wait=10");
                let (next, messages, is_recovered) = poll(&nodes[(n + 1) % 3], &target);
                assert!(is_recovered && !messages.is_empty(), "{kind:?}");
                got.extend(messages);
                cursor = next;
            }
            assert_eq!(got, wanted, "{kind:?}");
            wanted.clear();
        }
    }
    // By another transport, at a node that has come since.
    let late = broker.node();
    nodes[0].publish("chat:1", "last");
    assert_eq!(
        late.ws(&format!("/ws/chat:1?since={cursor}")).text(),
        "last",
        "{kind:?}"
    );
    let mut sse = late.sse(&format!("/sse/chat:1?since={cursor}"));
    sse.read_until("\ndata: last\n");
}

#[test]
fn a_client_wanders_over_nodes_with_its_cursor() {
    KINDS.into_iter().for_each(check_wandering);
}

fn check_idempotency(kind: Kind) {
    let broker = Broker::start(kind);
    let [one, two]: [Server; 2] = broker.nodes();
    let mut ws = two.ws("/ws/a");
    two.wait_subscribers("a", 1);
    let publish = |node: &Server, key: &str| {
        let mut client = node.connect();
        client.request(
            "POST",
            "/pub/a",
            &format!("Idempotency-Key: {key}\r\n"),
            key.as_bytes(),
        );
        client.response().json()["id"].to_string()
    };
    let first = publish(&one, "k1");
    assert_eq!(publish(&two, "k1"), first, "{kind:?}");
    assert_ne!(publish(&two, "k2"), first, "{kind:?}");
    assert_eq!([ws.text(), ws.text()], ["k1", "k2"], "{kind:?}");
}

#[test]
fn a_repeat_at_another_node_is_published_once() {
    KINDS.into_iter().for_each(check_idempotency);
}

fn check_deletion(kind: Kind) {
    let broker = Broker::start(kind);
    let [one, two]: [Server; 2] = broker.nodes();
    let cursor = one.publish("a", "before");
    let mut ws = two.ws("/ws/a");
    two.wait_subscribers("a", 1);
    assert_eq!(one.ask("DELETE", "/channels/a", b"").status, 204);
    assert_eq!(ws.close().0, 1000, "{kind:?}");
    let (_, messages, is_recovered) = poll(&two, &format!("/poll/a?since={cursor}"));
    assert_eq!((messages, is_recovered), (vec![], false), "{kind:?}");
    assert_eq!(
        one.ask("DELETE", "/channels/nobody", b"").status,
        404,
        "{kind:?}"
    );
}

#[test]
fn a_deletion_holds_on_every_node() {
    KINDS.into_iter().for_each(check_deletion);
}

#[test]
fn what_is_told_of_a_channel_is_the_brokers() {
    for kind in KINDS {
        let broker = Broker::start(kind);
        let [one, two]: [Server; 2] = broker.nodes();
        assert_eq!(two.ask("GET", "/channels/a", b"").status, 404, "{kind:?}");
        let id = one.publish("a", "x");
        one.publish("a", "y");
        let ask = || two.ask("GET", "/channels/a", b"").json();
        wait_until("the other node has both", || ask()["messages"] == 2);
        assert_eq!(ask()["oldest"], id, "{kind:?}");
    }
}
