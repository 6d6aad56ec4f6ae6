//! A node that takes events more slowly than they come.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pushring::backplane::broker::{Broker, Event, Publishing, Reading};
use tokio::select;
use tokio::time::timeout;

use super::{KEEP, Node, TIMEOUT, channel, run, text};
use crate::nats_server::NatsServer;

/// More than are with the receiver of events at a time.
const MESSAGES: usize = 10_000;

const PAUSE: Duration = Duration::from_secs(2);

/// Of 20 KiB each, more than may wait.
const TOO_MANY: usize = 4_000;

#[test]
fn where_a_channel_stands_is_said_behind_all_that_came_before() {
    let server = NatsServer::start();
    run(async {
        let (mut node, other) = (
            Node::connect(&server, 1).await,
            Node::connect(&server, 2).await,
        );
        node.listen("c").await;
        node.listen("quiet").await;
        let before = other.publish("c", "0").await;
        let quiet = other.read("quiet", None).await.head;
        let live = |number: usize| {
            let mut publishing = text("c", &number.to_string());
            publishing.publish.store = false;
            publishing
        };
        let mut live = (0..MESSAGES).map(live);
        let first: Vec<Publishing> = live.by_ref().take(MESSAGES / 2).collect();
        other.publish_all(first).await;
        // Brings about no event, so the turn of the subscription's task ends elsewhere from here on.
        let subject = format!("pushring.live.{}.msg.c", before.epoch);
        server.publish(&subject, &[], b"no message of the stream");
        let published = other.publish_all(live.collect()).await;
        let head = published[published.len() - 1].position;

        let reading = |name, after| Reading {
            channel: channel(name),
            after: Some(after),
            keep: KEEP,
        };
        let readings = [reading("quiet", quiet), reading("c", before)];
        let Node { nats, events } = &mut node;
        let mut newest = before;
        let mut take = |event| match event {
            Event::Arrival(arrival) => newest = arrival.message.position,
            other => panic!("{other:?}"),
        };
        let mut reading = std::pin::pin!(nats.read(&readings));
        // So long that it waits for nothing but events. Were it less, this would only show less.
        let standings = match timeout(PAUSE, &mut reading).await {
            Ok(standings) => standings,
            Err(_) => loop {
                // All that there is at once: then the subscription's task moves many in one turn.
                while let Ok(event) = events.try_recv() {
                    take(event);
                }
                select! {
                    biased;
                    standings = &mut reading => break standings,
                    event = events.recv() => take(event.expect("an event")),
                }
            },
        };
        let standings = standings.expect("standings");
        // Nothing else gets to do anything between the answer and this.
        while let Ok(event) = events.try_recv() {
            take(event);
        }
        assert_eq!((standings[0].head, standings[1].head), (quiet, head));
        assert_eq!(newest, head, "what is part of the answer has come");
    });
}

#[test]
fn whoever_is_too_far_behind_hears_that_messages_are_lost() {
    let server = NatsServer::start();
    run(async {
        let mut node = Node::connect(&server, 1).await;
        let mut anybody = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
        let note = "x".repeat(20 << 10);
        let pieces = format!("PUB pushring.note {}\r\n{note}\r\n", note.len());
        let pieces = pieces.repeat(TOO_MANY / 100);
        anybody
            .write_all(b"CONNECT {\"verbose\":false}\r\n")
            .expect("written");
        let writing = tokio::task::spawn_blocking(move || {
            for _ in 0..100 {
                anybody.write_all(pieces.as_bytes()).expect("written");
            }
            anybody.write_all(b"PING\r\n").expect("written");
            let mut answers = String::new();
            while !answers.contains("PONG") {
                let mut bytes = [0; 4096];
                let n = anybody.read(&mut bytes).expect("an answer");
                answers.push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        writing.await.expect("all is published");
        // No call is answered any more, taken events or not.
        let is_over = async { while node.nats.listen(&[channel("c")]).await.is_ok() {} };
        let is_over = timeout(TIMEOUT, is_over).await;
        is_over.expect("an error, since no more is taken");
        let error = loop {
            match node.event().await {
                Event::Note(_) => {}
                Event::Broken(error) => break error,
                other => panic!("{other:?}"),
            }
        };
        assert!(
            error
                .0
                .contains("more comes from NATS than this node takes"),
            "{error}"
        );
    });
}
