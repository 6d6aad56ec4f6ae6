//! Servers that restart, hang, fail over: no offset twice, and no loss in silence.

use super::*;
use crate::redis_server::{Cluster, Sentinel, wait_until};

/// Publishes five, of which the last two are lost with the server's end.
async fn lose_two(server: &mut RedisServer, node: &mut Node) -> Vec<Position> {
    let mut positions = Vec::new();
    for i in 1..=3 {
        positions.push(node.publish("news", &i.to_string()).await);
    }
    server.cli(&["SAVE"]);
    for i in 4..=5 {
        positions.push(node.publish("news", &i.to_string()).await);
    }
    server.restart();
    node.broken().await;
    positions
}

#[test]
fn after_a_restart_without_loss_numbers_go_on_without_a_gap() {
    let mut server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let mut node = Node::connect(&server.url()).await;
        let lost = lose_two(&mut server, &mut node).await;
        // For who has what is there, nothing is lost.
        let node = Node::connect(&server.url()).await;
        let next = node.publish("news", "next").await;
        assert_eq!(next.epoch, lost[0].epoch);
        assert!(next.offset > 3 + JUMP, "{next}");
        let standing = node.read("news", Some(lost[2])).await;
        assert_eq!(payloads(&standing), ["next"]);
        assert_eq!(standing.messages[0].message.previous, 3);
        let second = node.publish("news", "second").await;
        assert_eq!(second.offset, next.offset + 1);
        assert_eq!(
            payloads(&node.read("news", Some(lost[1])).await),
            ["3", "next", "second"]
        );
    });
}

#[test]
fn who_has_a_lost_position_finds_another_epoch() {
    for is_published_first in [false, true] {
        let mut server = RedisServer::start(&["--save", "''"]);
        run(async || {
            let mut node = Node::connect(&server.url()).await;
            let lost = lose_two(&mut server, &mut node).await;
            let (node, mut other) = (
                Node::connect(&server.url()).await,
                Node::connect(&server.url()).await,
            );
            other.listen("news").await;
            if is_published_first {
                node.publish("news", "next").await;
                other.arrival().await;
            }
            let standing = node.read("news", Some(lost[4])).await;
            assert_ne!(standing.head.epoch, lost[4].epoch);
            assert_eq!((standing.head.offset, standing.messages.len()), (0, 0));
            assert!(matches!(other.event().await, Event::Moved(name) if name == channel("news")));
            let next = node.publish("news", "after").await;
            assert_eq!((next.epoch, next.offset), (standing.head.epoch, 1));
        });
    }
}

#[test]
fn a_server_is_reminded_of_what_it_has_lost_and_says_little() {
    let mut server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let mut node = Node::connect(&server.url()).await;
        let lost = lose_two(&mut server, &mut node).await;
        let node = Node::connect(&server.url()).await;
        let large = "x".repeat(64 << 10);
        for _ in 0..10 {
            node.publish("news", &large).await;
        }
        let bytes_sent = || -> u64 {
            let stats = server.cli(&["INFO", "stats"]);
            let (_, rest) = stats.split_once("total_net_output_bytes:").unwrap();
            rest.lines().next().unwrap().trim().parse().unwrap()
        };
        let remind = async |position| {
            let reading = Reading {
                channel: channel("news"),
                after: Some(position),
                keep: KEEP,
            };
            let before = bytes_sent();
            node.broker.remind(&[reading]).await.unwrap();
            assert!(bytes_sent() - before < 64 << 10);
        };
        remind(lost[2]).await;
        assert_eq!(node.read("news", None).await.messages.len(), 13);
        remind(lost[4]).await;
        let standing = node.read("news", None).await;
        assert_ne!(standing.head.epoch, lost[4].epoch);
    });
}

#[test]
fn a_server_that_hangs_is_an_error_in_time() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let patient = Node::connect(&server.url()).await;
        let mut settings = settings(&server.url());
        settings.timeout = Duration::from_secs(2);
        let broker = Node::with(&settings).await.unwrap().broker;
        server.pause();
        let news = [channel("news")];
        let (published, sent, listened, connected) = tokio::join!(
            broker.publish(vec![text("news", "x")]),
            broker.canary(1),
            broker.listen(&news),
            Redis::connect(&settings),
        );
        server.go_on();
        assert!(published.is_err() && sent.is_err() && listened.is_err() && connected.is_err());
        patient.publish("news", "y").await;
    });
}

#[test]
fn the_connection_for_histories_is_used_by_the_canary() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let node = Node::connect(&server.url()).await;
        node.broker.canary(1).await.unwrap();
        // Those with subscriptions stay.
        assert_eq!(server.cli(&["CLIENT", "KILL", "TYPE", "normal"]), "1");
        assert!(node.broker.canary(2).await.is_err());
    });
}

#[test]
fn a_server_that_was_a_replica_in_between_gives_no_number_twice() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let node = Node::connect(&server.url()).await;
        let mut newest = node.publish("news", "x").await;
        server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
        let error = node
            .broker
            .publish(vec![text("news", "y")])
            .await
            .unwrap_err();
        assert!(error.0.contains("READONLY"), "{error}");
        server.cli(&["REPLICAOF", "NO", "ONE"]);
        // A fail-over there and back takes longer than the time for which a server believes to be what it was.
        let before = newest.epoch;
        while newest.epoch == before {
            let next = node.publish("news", "z").await;
            assert!(next.offset > newest.offset || next.epoch != before);
            newest = next;
        }
        assert_eq!(newest.offset, 1);
    });
}

#[test]
fn a_master_with_a_replica_that_restarts_begins_again_where_messages_may_be_lost() {
    for (appendonly, goes_on) in [("no", false), ("yes", true)] {
        let mut args = vec!["--save", "''", "--repl-diskless-sync-delay", "0"];
        args.extend(["--appendonly", appendonly]);
        let mut server = RedisServer::start(&args);
        let master = format!("127.0.0.1 {}", server.port);
        let _replica = RedisServer::start(&["--save", "''", "--replicaof", &master]);
        wait_until("the replica is there", || {
            server
                .cli(&["INFO", "replication"])
                .contains("state=online")
        });
        run(async || {
            let mut node = Node::connect(&server.url()).await;
            let lost = lose_two(&mut server, &mut node).await;
            let node = Node::connect_at_last(&server.url()).await;
            let standing = node.read("news", None).await;
            assert_eq!(standing.head.epoch == lost[4].epoch, goes_on);
            assert_eq!(standing.messages.len(), if goes_on { 5 } else { 0 });
        });
    }
}

#[test]
fn with_a_promoted_replica_each_channel_begins_again_for_all() {
    let mut servers = Sentinel::start();
    run(async || {
        let mut node = Node::connect(&servers.url()).await;
        let mut before = Vec::new();
        for name in ["published", "read", "beyond"] {
            before.push(node.publish(name, "before").await);
        }
        servers.master.wait_for_replica();
        servers.master.kill();
        node.broken().await;
        let node = Node::connect_at_last(&servers.url()).await;
        let mut other = Node::connect_at_last(&servers.url()).await;
        other.listen("published").await;

        let after = node.publish("published", "after").await;
        assert_ne!(after.epoch, before[0].epoch);
        assert_eq!(after.offset, 1);
        let moved = channel("published");
        assert!(matches!(other.event().await, Event::Moved(name) if name == moved));
        assert_eq!(payload(&other.arrival().await), "after");

        // Its head is what the reading names, and may be less than what others have.
        let known = node.read("read", Some(before[1])).await;
        let beyond = Position {
            offset: before[2].offset + 1,
            ..before[2]
        };
        let unknown = node.read("beyond", Some(beyond)).await;
        for (standing, before) in [(known, before[1]), (unknown, before[2])] {
            assert_ne!(standing.head.epoch, before.epoch);
            assert_eq!((standing.head.offset, standing.messages.len()), (0, 0));
        }
        // Once for all.
        let again = node.read("published", Some(after)).await;
        assert_eq!(again.head, after);
        assert_eq!(node.publish("published", "next").await.offset, 2);
    });
}

#[test]
fn a_cluster_goes_on_after_the_end_of_a_master() {
    let mut cluster = Cluster::start();
    run(async || {
        let (mut a, mut b) = (
            Node::connect(&cluster.url()).await,
            Node::connect(&cluster.url()).await,
        );
        assert_eq!(a.broker.connections(), 3);
        a.broker.canary(1).await.unwrap();
        let mut heard = [false; 3];
        while heard != [true; 3] {
            match a.event().await {
                Event::Canary {
                    connection,
                    number: 1,
                } => heard[connection] = true,
                event => panic!("{event:?}"),
            }
        }
        a.broker.tell(b"note").await.unwrap();
        for node in [&mut a, &mut b] {
            assert!(matches!(node.event().await, Event::Note(note) if note == b"note"));
        }

        let names: Vec<_> = (0..30).map(|i| format!("c:{i}")).collect();
        let channels: Vec<_> = names.iter().map(|name| channel(name)).collect();
        b.broker.listen(&channels).await.unwrap();
        let publishes = names.iter().map(|name| text(name, name)).collect();
        let before = a.publish_all(publishes).await;
        for _ in &names {
            let arrival = b.arrival().await;
            assert_eq!(payload(&arrival), arrival.message.channel.as_str());
        }
        for server in &cluster.servers {
            if server.cli(&["INFO", "replication"]).contains("role:master") {
                server.wait_for_replica();
            }
        }

        cluster.master_of("test:{c:0}").kill();
        a.broken().await;
        let a = Node::connect_at_last(&cluster.url()).await;
        wait_until("every server knows that the cluster is whole", || {
            cluster.servers.iter().all(|server| {
                let said = server.cli(&["CLUSTER", "INFO"]);
                // One that was killed says nothing.
                said.is_empty() || said.contains("cluster_state:ok")
            })
        });
        for (name, before) in names.iter().zip(&before) {
            let after = a.publish(name, "after").await;
            let is_begun_again = after.epoch != before.position.epoch;
            assert_eq!(after.offset, if is_begun_again { 1 } else { 2 });
            assert!(is_begun_again || name != "c:0");
            let standing = a.read(name, Some(before.position)).await;
            assert_eq!(payloads(&standing), ["after"]);
        }
        assert!(a.broker.delete(&channels[0], KEEP).await.unwrap());
    });
}

#[test]
fn while_a_slot_is_moved_its_publishes_are_refused_and_all_others_go_on() {
    let mut cluster = Cluster::start();
    run(async || {
        let node = Node::connect(&cluster.url()).await;
        node.publish("a", "before").await;
        let slot = cluster.servers[0].cli(&["CLUSTER", "KEYSLOT", "test:{a}"]);
        let target = cluster.master_of("test:{b}").cli(&["CLUSTER", "MYID"]);
        let owner = cluster.master_of("test:{a}");
        let set_slot = |how: &[&str]| {
            let said = owner.cli(&[&["CLUSTER", "SETSLOT", &slot], how].concat());
            assert_eq!(said, "OK");
        };
        set_slot(&["MIGRATING", &target]);
        let both = vec![text("a", "x"), text("b", "x")];
        let results = node.broker.publish(both).await.unwrap();
        assert_eq!(results[0], Err(NotPublished::Refused));
        assert!(results[1].is_ok());
        set_slot(&["STABLE"]);
        assert_eq!(node.publish("a", "after").await.offset, 2);
    });
}
