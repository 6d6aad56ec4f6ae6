//! The server is restarted, with its data, without, or with an older state; it is killed, paused, or loses its stream.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pushring::backplane::broker::{Broker, Event, Reading, Settings};
use pushring::backplane::nats::Nats;
use pushring::backplane::order::{Keep, NodeId, Standing};
use pushring::hub::position::Position;
use tokio::time::timeout;

use super::{KEEP, Node, channel, payloads, run, settings, text};
use crate::nats_server::NatsServer;

#[test]
fn a_restarted_server_has_everything_that_was_acknowledged() {
    let mut server = NatsServer::start();
    run(async {
        let mut node = Node::connect(&server, 1).await;
        node.listen("c").await;
        let last = node.publish("c", "1").await;
        node.arrival().await;
        server.stop();
        node.broken().await;
        assert!(node.nats.publish(vec![text("c", "lost")]).await.is_err());
        server.launch();
        let mut node = Node::connect(&server, 1).await;
        let many: Vec<_> = (0..500)
            .map(|number| text("c", &number.to_string()))
            .collect();
        let published = node.publish_all(many).await;
        assert!(published.is_sorted_by_key(|it| it.position.offset));
        assert!(published[0].position.offset > last.offset);
        server.kill();
        node.broken().await;
        server.launch();
        let node = Node::connect(&server, 1).await;
        let keep = Keep {
            history_messages: 1000,
            ..KEEP
        };
        let newest = published[499].position;
        let standing = node.read_keeping("c", Some(newest), keep).await;
        assert_eq!(
            standing,
            Standing {
                head: newest,
                is_used: true,
                messages: vec![]
            }
        );
        let standing = node.read_keeping("c", None, keep).await;
        assert_eq!(
            standing.messages[standing.messages.len() - 1]
                .message
                .position,
            newest
        );
        // A node keeps what the stream kept before it wanted more.
        assert!(standing.messages.len() >= 100);
        let mut previous = standing.messages[0].message.previous;
        for arrival in &standing.messages {
            assert_eq!(arrival.message.previous, previous);
            previous = arrival.message.position.offset;
        }
    });
}

#[test]
fn lost_data_is_another_epoch() {
    let mut server = NatsServer::start();
    run(async {
        let mut node = Node::connect(&server, 1).await;
        let before = node.publish("c", "1").await;
        server.stop();
        node.broken().await;
        server.wipe();
        server.launch();
        let node = Node::connect(&server, 1).await;
        let after = node.publish("c", "2").await;
        assert_ne!(after.epoch, before.epoch);
        let standing = node.read("c", Some(before)).await;
        assert_eq!((standing.head, payloads(&standing)), (after, vec!["2"]));
    });
}

/// What the server had stored when [`stop_and_copy`] was called, again.
fn bring_back(server: &mut NatsServer, copy: &Path) {
    server.wipe();
    std::fs::rename(copy, server.store()).expect("renamed");
    server.launch();
}

/// Starts it again, with all that it has.
fn stop_and_copy(server: &mut NatsServer) -> PathBuf {
    server.stop();
    let copy = server.store().with_extension("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(server.store())
        .arg(&copy)
        .status();
    assert!(copied.expect("cp runs").success());
    server.launch();
    copy
}

/// The loss of what was at `lost` is noticed by `finder`, and told to `other`.
async fn check_loss(mut finder: Node, mut other: Node, name: &str, lost: Position) {
    let reading = Reading {
        channel: channel(name),
        after: Some(lost),
        keep: KEEP,
    };
    let found = finder.nats.read(&[reading]).await;
    found.expect_err("messages are lost");
    finder.broken().await;
    other.broken().await;
}

#[test]
fn an_older_state_is_another_epoch_for_every_node() {
    let mut server = NatsServer::start();
    run(async {
        let mut a = Node::connect(&server, 1).await;
        let old = a.publish("c", "1").await;
        let copy = stop_and_copy(&mut server);
        a.broken().await;
        let mut a = Node::connect(&server, 1).await;
        let lost = a.publish("c", "2").await;
        server.stop();
        a.broken().await;
        bring_back(&mut server, &copy);

        let (a, b) = (
            Node::connect(&server, 1).await,
            Node::connect(&server, 2).await,
        );
        check_loss(a, b, "c", lost).await;
        let (a, b) = (
            Node::connect(&server, 1).await,
            Node::connect(&server, 2).await,
        );
        let standing = b.read("c", Some(lost)).await;
        assert_ne!(standing.head.epoch, old.epoch);
        assert_eq!(
            (standing.head.offset, payloads(&standing)),
            (old.offset, vec!["1"])
        );
        assert_eq!(a.publish("c", "3").await.epoch, standing.head.epoch);
    });
}

/// An older state comes back, and gets `publishes` beyond what was lost before anybody asks.
async fn check_numbers_given_out_again(publishes: &[&str]) {
    let mut server = NatsServer::start();
    let mut a = Node::connect(&server, 1).await;
    a.publish("c", "old").await;
    let copy = stop_and_copy(&mut server);
    a.broken().await;
    let mut a = Node::connect(&server, 1).await;
    a.publish("other", "lost").await;
    let lost = a.publish("c", "lost").await;
    a.publish("other", "lost").await;
    server.stop();
    a.broken().await;
    bring_back(&mut server, &copy);

    let b = Node::connect(&server, 2).await;
    for name in publishes {
        b.publish(name, "new").await;
    }
    check_loss(Node::connect(&server, 1).await, b, "c", lost).await;
    let a = Node::connect(&server, 1).await;
    let standing = a.read("c", Some(lost)).await;
    assert_ne!(standing.head.epoch, lost.epoch);
    assert!(payloads(&standing).starts_with(&["old"]));
}

#[test]
fn numbers_that_are_given_out_again_are_noticed() {
    run(async {
        check_numbers_given_out_again(&["c", "other", "other", "c"]).await;
        check_numbers_given_out_again(&["c", "other", "other", "other"]).await;
        check_numbers_given_out_again(&["other", "other", "c"]).await;
    });
}

#[test]
fn the_same_number_for_the_same_channel_is_noticed() {
    let mut server = NatsServer::start();
    run(async {
        let mut a = Node::connect(&server, 1).await;
        a.publish("c", "old").await;
        let copy = stop_and_copy(&mut server);
        a.broken().await;
        let mut a = Node::connect(&server, 1).await;
        a.listen("c").await;
        let lost = a.publish("c", "lost").await;
        a.arrival().await;
        let trace = a.nats.trace().expect("something was heard");
        assert_eq!(trace.position, lost);
        server.stop();
        a.broken().await;
        server.launch();
        let mut a = Node::connect(&server, 1).await;
        assert!(a.nats.look_for(trace).await.expect("an answer"));
        server.stop();
        a.broken().await;
        bring_back(&mut server, &copy);

        let mut b = Node::connect(&server, 2).await;
        while b.publish("c", "new").await != lost {}
        let mut a = Node::connect(&server, 1).await;
        let standing = a.read("c", Some(lost)).await;
        assert_eq!(standing.head, lost, "a position does not tell");
        assert!(!a.nats.look_for(trace).await.expect("an answer"));
        a.broken().await;
        b.broken().await;
        let a = Node::connect(&server, 1).await;
        // That is told already.
        assert!(a.nats.look_for(trace).await.expect("an answer"));
        assert_ne!(a.read("c", Some(lost)).await.head.epoch, lost.epoch);
    });
}

/// An older state comes back without anything of `name`, whose head `stand_there` has told.
async fn check_channel_is_gone(name: &str, stand_there: impl AsyncFn(&Node) -> Position) {
    let mut server = NatsServer::start();
    let mut a = Node::connect(&server, 1).await;
    a.publish("other", "old").await;
    let copy = stop_and_copy(&mut server);
    a.broken().await;
    let mut a = Node::connect(&server, 1).await;
    let lost = stand_there(&a).await;
    server.stop();
    a.broken().await;
    bring_back(&mut server, &copy);
    let b = Node::connect(&server, 2).await;
    b.publish("other", "new").await;
    b.publish("other", "new").await;
    check_loss(Node::connect(&server, 1).await, b, name, lost).await;
}

#[test]
fn a_channel_that_an_older_state_does_not_know_is_noticed() {
    run(async {
        check_channel_is_gone("c", async |a| a.publish("c", "1").await).await;
        check_channel_is_gone("quiet", async |a| a.read("quiet", None).await.head).await;
    });
}

#[test]
fn a_paused_server_is_an_error_in_time() {
    let server = NatsServer::start();
    run(async {
        let brief = Settings {
            timeout: Duration::from_secs(1),
            ..settings(&server, 1)
        };
        let mut node = Node::connect_by(&settings(&server, 2)).await;
        let mut hasty = Node::connect_by(&brief).await;
        hasty.listen("c").await;
        server.pause();
        let limit = Duration::from_secs(8);
        let published = timeout(limit, hasty.nats.publish(vec![text("c", "1")])).await;
        let error = published.expect("in time").expect_err("no answer");
        assert!(error.0.contains("backplane_timeout"), "{error}");
        assert!(
            timeout(limit, Nats::connect(&brief))
                .await
                .expect("in time")
                .is_err()
        );
        hasty.broken().await;
        server.resume();
        // Who has more patience has lost nothing. What was not answered may yet have been taken.
        node.listen("d").await;
        assert!(node.is_silent().await);
    });
}

#[test]
fn a_stream_that_is_gone_is_not_heard() {
    let server = NatsServer::start();
    run(async {
        let mut node = Node::connect(&server, 1).await;
        let before = node.publish("c", "1").await;
        assert!(node.is_silent().await);
        server.publish("$JS.API.STREAM.DELETE.pushring", &[], b"");
        node.nats.canary(1).await.expect("sent");
        let error = node
            .nats
            .publish(vec![text("c", "2")])
            .await
            .expect_err("nobody stores it");
        assert!(error.0.contains("the stream pushring"), "{error}");
        // Another node makes it anew: what comes then has another epoch, and this one does not hear its canary.
        let mut other = Node::connect(&server, 2).await;
        assert!(other.is_silent().await);
        node.nats.canary(2).await.expect("sent");
        node.nats.tell(b"last").await.expect("sent");
        assert!(matches!(node.event().await, Event::Note(note) if note == b"last"));
        assert!(matches!(other.event().await, Event::Note(note) if note == b"last"));
        assert_ne!(other.publish("c", "3").await.epoch, before.epoch);
        let reading = Reading {
            channel: channel("c"),
            after: None,
            keep: KEEP,
        };
        node.nats.read(&[reading]).await.expect_err("another epoch");
    });
}

#[test]
fn a_cluster_goes_on_without_one_of_its_servers() {
    let mut servers = NatsServer::cluster(3);
    run(async {
        let all: Vec<_> = servers
            .iter()
            .map(|server| server.url().replace("nats://", ""))
            .collect();
        let first = settings(&servers[0], 0);
        let at = |hosts: &str, node| Settings {
            url: format!("nats://{hosts}?replicas=3"),
            node: NodeId(node),
            ..first.clone()
        };
        let anywhere = at(&all.join(","), 1);
        // A new cluster takes a while to find a leader.
        drop(Node::connect_by_retrying(&anywhere).await);
        let (a, mut b) = (
            Node::connect_by(&at(&all[0], 1)).await,
            Node::connect_by(&at(&all[1], 2)).await,
        );
        b.listen("c").await;
        let mut published = Vec::new();
        for number in 0..50 {
            published.push(a.publish("c", &number.to_string()).await);
            // Whichever replica answers, it has what was acknowledged.
            assert_eq!(b.read("c", None).await.head, published[number]);
            let last = number.checked_sub(1).map(|last| published[last]);
            assert_eq!(b.read("c", last).await.messages.len(), 1);
            assert_eq!(b.arrival().await.message.position, published[number]);
        }
        drop((a, b));
        servers[0].kill();
        let rest = at(&all[1..].join(","), 3);
        let mut node = Node::connect_by_retrying(&rest).await;
        published.push(node.publish("c", "50").await);
        let standing = node.read("c", None).await;
        let positions: Vec<_> = standing
            .messages
            .iter()
            .map(|it| it.message.position)
            .collect();
        assert_eq!(positions, published);
        assert!(node.is_silent().await);
    });
}
