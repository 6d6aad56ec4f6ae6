//! The broker goes away, and comes back with its data or without.

use crate::broker::{Broker, KINDS, Kind, is_ready, wait_ready};
use crate::harness::{Server, wait_until};

fn wait_deaf(node: &Server) {
    wait_until("the node notices that it is deaf", || !is_ready(node));
}

fn check_pause(kind: Kind) {
    let broker = Broker::start(kind);
    let [one, two]: [Server; 2] = broker.nodes();
    let mut ws = two.ws("/ws/a?format=json");
    two.wait_subscribers("a", 1);
    one.publish("a", "before");
    assert!(ws.text().contains("before"));
    broker.pause();
    wait_deaf(&one);
    let refused = one.ask("POST", "/pub/a", b"during");
    assert_eq!(
        (refused.status, &*refused.code()),
        (503, "backplane_away"),
        "{kind:?}"
    );
    assert!(refused.field("retry-after").is_some());
    let unknown = one.ask("GET", "/poll/unknown", b"");
    assert_eq!(
        (unknown.status, &*unknown.code()),
        (503, "backplane_away"),
        "{kind:?}"
    );
    let asked = one.ask("GET", "/channels/unknown", b"");
    assert_eq!(
        (asked.status, &*asked.code()),
        (503, "backplane_away"),
        "{kind:?}"
    );
    broker.go_on();
    wait_ready(&one);
    wait_ready(&two);
    one.publish("a", "after");
    // The listener has stayed; what it missed, if it was taken, comes first.
    let text = ws.text();
    assert!(
        text.contains("during") || text.contains("after"),
        "{kind:?}: {text}"
    );
}

#[test]
fn a_broker_that_stops_is_noticed_and_waited_for() {
    KINDS.into_iter().for_each(check_pause);
}

fn check_restart_with_data(kind: Kind) {
    let mut broker = Broker::start(kind);
    let [one, two]: [Server; 2] = broker.nodes();
    let mut ws = two.ws("/ws/a?format=json");
    two.wait_subscribers("a", 1);
    let cursor = one.publish("a", "before");
    assert!(ws.text().contains("before"));
    broker.kill();
    wait_deaf(&one);
    wait_deaf(&two);
    broker.restart();
    wait_ready(&one);
    wait_ready(&two);
    one.publish("a", "after");
    let text = ws.text();
    assert!(
        text.contains("after"),
        "{kind:?}: no gap, since nothing is lost: {text}"
    );
    let response = two.ask("GET", &format!("/poll/a?since={cursor}"), b"");
    assert_eq!(response.json()["recovered"], true, "{kind:?}");
    assert_eq!(response.messages(), ["after"], "{kind:?}");
}

#[test]
fn a_broker_that_restarts_with_its_data_costs_nothing() {
    KINDS.into_iter().for_each(check_restart_with_data);
}

#[test]
fn what_the_broker_has_lost_is_told_on_every_transport() {
    let broker = Broker::start(Kind::Redis);
    let Broker::Redis(redis) = &broker else {
        unreachable!("it was started as one")
    };
    let [one, two]: [Server; 2] = broker.nodes();
    one.publish("a", "before");
    let mut raw = two.ws("/ws/a");
    let mut json = two.ws("/ws/a?format=json");
    let mut sse = one.sse("/sse/a");
    let mut poll = one.get("/poll/a?wait=60");
    two.wait_subscribers("a", 2);
    one.wait_subscribers("a", 2);
    redis.cli(&["FLUSHALL"]);
    one.publish("a", "after");
    assert_eq!(raw.close().0, 3010);
    assert!(json.text().starts_with("{\"gap\":"));
    assert!(json.text().contains("after"));
    sse.read_until("event: pushring.gap");
    sse.read_until("\ndata: after\n");
    assert_eq!(poll.response().json()["recovered"], false);
}

#[test]
fn a_local_publish_reaches_this_node_and_no_other() {
    for kind in KINDS {
        let broker = Broker::start(kind);
        let file = "[namespace.ticker]\ndegraded = \"local\"\n";
        let (one, two) = (broker.node_with(file), broker.node_with(file));
        let mut here = one.ws("/ws/ticker:a");
        let mut there = two.ws("/ws/ticker:a");
        one.wait_subscribers("ticker:a", 1);
        two.wait_subscribers("ticker:a", 1);
        one.publish("ticker:a", "everywhere");
        assert_eq!([here.text(), there.text()], ["everywhere", "everywhere"]);
        broker.pause();
        wait_deaf(&one);
        let answer = one.ask("POST", "/pub/ticker:a", b"here");
        assert_eq!(
            (answer.status, &answer.json()["degraded"]),
            (201, &"local".into()),
            "{kind:?}"
        );
        assert_eq!(here.text(), "here");
        broker.go_on();
        wait_ready(&one);
        wait_ready(&two);
        one.publish("ticker:a", "again");
        assert_eq!([here.text(), there.text()], ["again", "again"], "{kind:?}");
    }
}
