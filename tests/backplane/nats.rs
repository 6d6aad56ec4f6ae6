//! The NATS broker against a real server: what the contract of `Broker` says. Bad days are in [`trouble`], slow nodes
//! in [`behind`].

use std::time::Duration;

use pushring::backplane::broker::{Broker, BrokerError, Event, Publishing, Reading, Settings};
use pushring::backplane::nats::Nats;
use pushring::backplane::order::{Arrival, Keep, NodeId, Standing};
use pushring::hub::message::ChannelName;
use pushring::hub::position::{Epoch, Position};
use pushring::hub::{Publish, Published};
use pushring::proto::payload::PayloadKind;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::nats_server::NatsServer;

mod behind;
mod trouble;

/// Of a broker's answer, on a machine that has much else to do.
const TIMEOUT: Duration = Duration::from_secs(10);

const KEEP: Keep = Keep {
    history_messages: 100,
    history_age_ms: 600_000,
    idle_timeout_ms: 600_000,
    idempotency_window_ms: 300_000,
};

/// A connected node.
struct Node {
    nats: Nats,
    events: mpsc::Receiver<Event>,
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(test);
}

fn settings(server: &NatsServer, node: u64) -> Settings {
    Settings {
        url: server.url(),
        prefix: "pushring".into(),
        ca_file: None,
        timeout: TIMEOUT,
        node: NodeId(node),
    }
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).expect("a name")
}

fn text(name: &str, payload: &str) -> Publishing {
    Publishing {
        publish: Publish {
            channel: channel(name),
            kind: PayloadKind::Text,
            event: None,
            payload: payload.as_bytes().into(),
            ttl_ms: None,
            store: true,
            idempotency_key: None,
        },
        keep: KEEP,
        receivers: 0,
    }
}

impl Node {
    async fn connect(server: &NatsServer, node: u64) -> Self {
        Self::connect_by(&settings(server, node)).await
    }

    async fn connect_by(settings: &Settings) -> Self {
        let (nats, events) = Nats::connect(settings).await.expect("connected");
        Self { nats, events }
    }

    /// With a stream that has a leader.
    async fn connect_by_retrying(settings: &Settings) -> Self {
        first_success(async || {
            let (nats, events) = Nats::connect(settings).await?;
            nats.listen(&[channel("any")]).await?;
            Ok(Self { nats, events })
        })
        .await
    }

    async fn listen(&self, name: &str) {
        self.nats.listen(&[channel(name)]).await.expect("listening");
    }

    async fn publish(&self, name: &str, payload: &str) -> Position {
        self.publish_all(vec![text(name, payload)]).await[0].position
    }

    async fn publish_all(&self, publishes: Vec<Publishing>) -> Vec<Published> {
        let results = self.nats.publish(publishes).await.expect("answers");
        results
            .into_iter()
            .map(|result| result.expect("published"))
            .collect()
    }

    async fn read(&self, name: &str, after: Option<Position>) -> Standing {
        self.read_keeping(name, after, KEEP).await
    }

    async fn read_keeping(&self, name: &str, after: Option<Position>, keep: Keep) -> Standing {
        let reading = Reading {
            channel: channel(name),
            after,
            keep,
        };
        let mut standings = self.nats.read(&[reading]).await.expect("a standing");
        assert_eq!(standings.len(), 1);
        standings.remove(0)
    }

    async fn event(&mut self) -> Event {
        let event = timeout(TIMEOUT, self.events.recv()).await;
        event.expect("an event in time").expect("an event")
    }

    async fn arrival(&mut self) -> Arrival {
        match self.event().await {
            Event::Arrival(arrival) => arrival,
            other => panic!("{other:?}"),
        }
    }

    async fn broken(&mut self) -> BrokerError {
        match self.event().await {
            Event::Broken(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that was on its way has come.
    async fn is_silent(&mut self) -> bool {
        self.nats.canary(u64::MAX).await.expect("sent");
        matches!(
            self.event().await,
            Event::Canary {
                connection: 0,
                number: u64::MAX
            }
        )
    }
}

fn offsets(standing: &Standing) -> Vec<(u64, u64)> {
    let offsets = |it: &Arrival| (it.message.previous, it.message.position.offset);
    standing.messages.iter().map(offsets).collect()
}

fn payloads(standing: &Standing) -> Vec<&str> {
    let payload = |it| str::from_utf8(it).expect("text");
    standing
        .messages
        .iter()
        .map(|it| payload(&it.message.payload))
        .collect()
}

/// Of a call that fails while a cluster sorts itself out.
async fn first_success<T>(mut call: impl AsyncFnMut() -> Result<T, BrokerError>) -> T {
    let began = std::time::Instant::now();
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_server_says_what_time_it_is() {
    let server = NatsServer::start();
    run(async {
        let node = Node::connect(&server, 1).await;
        node.publish("news", "x").await;
        let published_ms = node.read("news", None).await.messages[0]
            .message
            .published_ms;
        let now_ms = node.nats.now_ms().await.expect("a time");
        let passed = published_ms..published_ms + TIMEOUT.as_millis() as u64;
        assert!(passed.contains(&now_ms), "{now_ms} {passed:?}");
    });
}

#[test]
fn a_message_comes_to_every_node_as_it_stands_in_the_history() {
    let server = NatsServer::start();
    run(async {
        let (mut a, mut b) = (
            Node::connect(&server, 1).await,
            Node::connect(&server, 2).await,
        );
        a.listen("chat:a.b").await;
        b.listen("chat:a.b").await;
        let mut publishes = vec![
            text("chat:a.b", "1"),
            text("other", "x"),
            text("chat:a.b", "2"),
            text("chat:a.b", "3"),
        ];
        publishes[2].publish.event = Some("created".into());
        publishes[2].publish.ttl_ms = Some(60_000);
        publishes[3].publish.kind = PayloadKind::Json;
        let published = a.publish_all(publishes).await;
        let mut previous = 0;
        let mut arrivals = Vec::new();
        for index in [0, 2, 3] {
            let arrival = a.arrival().await;
            assert_eq!(b.arrival().await, arrival);
            assert_eq!(arrival.message.position, published[index].position);
            assert_eq!(arrival.message.previous, previous);
            previous = arrival.message.position.offset;
            arrivals.push(arrival);
        }
        assert_eq!(arrivals[1].message.event.as_deref(), Some("created"));
        assert_eq!(
            arrivals[1].message.expires_ms,
            arrivals[1].message.published_ms + 60_000
        );
        assert_eq!(arrivals[2].message.kind, PayloadKind::Json);
        assert!(a.is_silent().await && b.is_silent().await);

        let head = published[3].position;
        let all = b.read("chat:a.b", None).await;
        // Since when that is all that there is: at the latest since the position before the first one.
        assert!(all.messages[0].message.previous < published[0].position.offset);
        assert_eq!((all.head, &all.messages[1..]), (head, &arrivals[1..]));
        assert_eq!(all.messages[0].message.position, published[0].position);
        let rest = b.read("chat:a.b", Some(published[0].position)).await;
        assert_eq!((rest.head, &rest.messages[..]), (head, &arrivals[1..]));
        let nothing = b.read("chat:a.b", Some(head)).await;
        assert_eq!((nothing.head, nothing.messages), (head, Vec::new()));

        a.nats
            .unlisten(&[channel("chat:a.b")])
            .await
            .expect("unlistened");
        a.publish("chat:a.b", "4").await;
        assert!(a.is_silent().await);
        assert_eq!(&*b.arrival().await.message.payload, b"4");
    });
}

#[test]
fn a_backend_publishes_without_any_header() {
    let server = NatsServer::start();
    run(async {
        let mut node = Node::connect(&server, 1).await;
        node.listen("news").await;
        server.publish("pushring.msg.news", &[], b"{\"a\":1}");
        let headers = [
            "content-type: application/json",
            "Pushring-Event: created",
            "Pushring-TTL-Ms: 5000",
        ];
        server.publish("pushring.msg.news", &headers, b"{\"a\":1}");
        server.publish(
            "pushring.msg.news",
            &["Nats-Sequence: 99", "Pushring-Store: false"],
            b"\xFF",
        );
        let first = node.arrival().await.message;
        assert_eq!(
            (first.kind, &*first.payload),
            (PayloadKind::Text, &b"{\"a\":1}"[..])
        );
        let second = node.arrival().await.message;
        assert_eq!(
            (second.kind, second.event.as_deref()),
            (PayloadKind::Json, Some("created"))
        );
        assert_eq!(second.expires_ms, second.published_ms + 5000);
        let third = node.arrival().await;
        assert_eq!(
            (third.message.kind, third.is_stored),
            (PayloadKind::Binary, false)
        );
        assert_eq!(third.message.previous, second.position.offset);
        let standing = node.read("news", None).await;
        assert_eq!(standing.head, third.message.position);
        assert_eq!(payloads(&standing), ["{\"a\":1}", "{\"a\":1}"]);
    });
}

#[test]
fn a_repeat_under_a_key_gets_the_first_result() {
    let server = NatsServer::start();
    run(async {
        let (mut a, b) = (
            Node::connect(&server, 1).await,
            Node::connect(&server, 2).await,
        );
        a.listen("c").await;
        let keyed = |name: &str, receivers| {
            let mut publishing = text(name, "x");
            publishing.publish.idempotency_key = Some("key 1".into());
            Publishing {
                receivers,
                ..publishing
            }
        };
        let first = a
            .publish_all(vec![keyed("c", 7), keyed("c", 8), keyed("other", 9)])
            .await;
        assert_eq!((first[0].receivers, first[2].receivers), (7, 9));
        assert_eq!(first[1], first[0]);
        assert_ne!(first[2].position, first[0].position);
        assert_eq!(b.publish_all(vec![keyed("c", 1)]).await, &first[..1]);
        a.arrival().await;
        assert!(a.is_silent().await);
    });
}

#[test]
fn only_what_is_to_be_kept_is_given_out() {
    let server = NatsServer::start();
    run(async {
        let node = Node::connect(&server, 1).await;
        let mut publishes: Vec<_> = ["0", "1", "2", "3", "4"].map(|it| text("c", it)).into();
        publishes[1].publish.store = false;
        publishes[2].publish.ttl_ms = Some(1);
        let published = node.publish_all(publishes).await;
        let offset = |index: usize| published[index].position.offset;
        // The server's clock goes on by more than a millisecond while it answers this.
        while node.read("c", None).await.messages.len() > 3 {}
        let standing = node.read("c", None).await;
        assert_eq!(payloads(&standing), ["0", "3", "4"]);
        assert_eq!(
            offsets(&standing)[1..],
            [(offset(2), offset(3)), (offset(3), offset(4))]
        );
        let few = Keep {
            history_messages: 1,
            ..KEEP
        };
        let standing = node
            .read_keeping("c", Some(published[0].position), few)
            .await;
        assert_eq!(
            (payloads(&standing), standing.head),
            (vec!["4"], published[4].position)
        );
        let brief = Keep {
            history_age_ms: 0,
            ..KEEP
        };
        let standing = node.read_keeping("c", None, brief).await;
        assert_eq!(
            (payloads(&standing), standing.head),
            (vec![], published[4].position)
        );
    });
}

#[test]
fn a_deletion_ends_listeners_and_is_a_loss_for_cursors() {
    let server = NatsServer::start();
    run(async {
        let (a, mut b) = (
            Node::connect(&server, 1).await,
            Node::connect(&server, 2).await,
        );
        assert!(!a.nats.delete(&channel("c"), KEEP).await.expect("an answer"));
        let before = a.publish("c", "1").await;
        b.listen("c").await;
        assert!(a.nats.delete(&channel("c"), KEEP).await.expect("an answer"));
        assert!(matches!(b.event().await, Event::Ended(ended) if ended == channel("c")));
        assert!(!a.nats.delete(&channel("c"), KEEP).await.expect("an answer"));
        assert!(matches!(b.event().await, Event::Ended(_)));
        let standing = a.read("c", Some(before)).await;
        assert!(standing.head.offset > before.offset && standing.messages.is_empty());
        let deleted = standing.head;
        let all = a.read("c", None).await;
        assert_eq!((all.head, all.messages), (deleted, vec![]));
        let after = a.publish("c", "2").await;
        let standing = a.read("c", Some(before)).await;
        assert_eq!(offsets(&standing), [(deleted.offset, after.offset)]);
        assert_eq!(b.arrival().await.message.previous, deleted.offset);
    });
}

#[test]
fn a_deletion_keeps_its_place_among_publishes() {
    let server = NatsServer::start();
    run(async {
        let node = Node::connect(&server, 1).await;
        let c = channel("c");
        node.publish("c", "1").await;
        let (deleted, published) = tokio::join!(
            node.nats.delete(&c, KEEP),
            node.nats.publish(vec![text("c", "2")])
        );
        assert!(deleted.expect("an answer") && published.is_ok());
        assert_eq!(payloads(&node.read("c", None).await), ["2"]);
        let (published, deleted) = tokio::join!(
            node.nats.publish(vec![text("c", "3")]),
            node.nats.delete(&c, KEEP)
        );
        assert!(deleted.expect("an answer") && published.is_ok());
        assert!(node.read("c", None).await.messages.is_empty());
    });
}

#[test]
fn a_publish_that_has_to_wait_is_not_overtaken() {
    let server = NatsServer::start();
    run(async {
        let node = Node::connect(&server, 1).await;
        // The stream has to keep more first.
        let patient = Publishing {
            keep: Keep {
                history_messages: 1000,
                ..KEEP
            },
            ..text("c", "1")
        };
        let (first, second) = tokio::join!(
            node.nats.publish(vec![patient]),
            node.nats.publish(vec![text("c", "2")])
        );
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(payloads(&node.read("c", None).await), ["1", "2"]);
    });
}

#[test]
fn a_channel_without_messages_stands_somewhere_and_stays_there() {
    let server = NatsServer::start();
    run(async {
        let (mut a, mut b) = (
            Node::connect(&server, 1).await,
            Node::connect(&server, 2).await,
        );
        a.publish("other", "x").await;
        a.listen("quiet").await;
        let head = a.read("quiet", None).await.head;
        let silent = Standing {
            head,
            is_used: false,
            messages: vec![],
        };
        for _ in 0..3 {
            // Each sign of life takes the place of the one before, so the stream's oldest entry moves on.
            assert!(a.is_silent().await && b.is_silent().await);
            a.publish("other", "y").await;
            a.nats.delete(&channel("other"), KEEP).await.expect("gone");
            for node in [&a, &b] {
                for after in [None, Some(head)] {
                    assert_eq!(node.read("quiet", after).await, silent);
                }
            }
        }
        b.listen("quiet").await;
        let first = b.publish("quiet", "1").await;
        for node in [&mut a, &mut b] {
            assert_eq!(node.arrival().await.message.previous, head.offset);
        }
        for after in [None, Some(head)] {
            let standing = b.read("quiet", after).await;
            assert_eq!(offsets(&standing), [(head.offset, first.offset)]);
        }
    });
}

#[test]
fn nodes_that_open_a_channel_at_once_agree_where_it_stands() {
    const CHANNELS: usize = 200;
    let server = NatsServer::start();
    run(async {
        let (a, b) = (
            Node::connect(&server, 1).await,
            Node::connect(&server, 2).await,
        );
        let reading = |number: usize| Reading {
            channel: channel(&format!("user:{number}")),
            after: None,
            keep: KEEP,
        };
        let readings: Vec<_> = (0..CHANNELS).map(reading).collect();
        let published = a.publish("user:7", "1").await;
        let (of_a, of_b) = tokio::join!(a.nats.read(&readings), b.nats.read(&readings));
        let (of_a, of_b) = (of_a.expect("standings"), of_b.expect("standings"));
        assert_eq!(of_a, of_b);
        assert_eq!(of_a[7].head, published);
        assert_eq!(a.nats.read(&readings).await.expect("standings"), of_a);
    });
}

#[test]
fn many_channels_and_long_histories_are_read_whole() {
    const CHANNELS: usize = 3000;
    const MESSAGES: usize = 2500;
    let server = NatsServer::start();
    run(async {
        let mut node = Node::connect(&server, 1).await;
        let keep = Keep {
            history_messages: MESSAGES,
            ..KEEP
        };
        let names: Vec<_> = (0..CHANNELS)
            .map(|number| channel(&format!("user:{number}")))
            .collect();
        node.nats.listen(&names).await.expect("listening");
        let one_each = names
            .iter()
            .map(|name| text(name.as_str(), name.as_str()))
            .collect();
        let published = node.publish_all(one_each).await;
        for _ in 0..CHANNELS {
            node.arrival().await;
        }
        let reading = |(index, name): (usize, &ChannelName)| Reading {
            channel: name.clone(),
            // Every other one has it already.
            after: (index % 2 == 0).then(|| published[index].position),
            keep,
        };
        let readings: Vec<_> = names.iter().enumerate().map(reading).collect();
        let standings = node.nats.read(&readings).await.expect("standings");
        for (index, standing) in standings.iter().enumerate() {
            assert_eq!(standing.head, published[index].position);
            let expected: &[&str] = if index % 2 == 0 {
                &[]
            } else {
                &[names[index].as_str()]
            };
            assert_eq!(payloads(standing), expected);
        }
        let long = (0..MESSAGES).map(|number| Publishing {
            keep,
            ..text("long", &number.to_string())
        });
        let published = node.publish_all(long.collect()).await;
        let standing = node.read_keeping("long", None, keep).await;
        assert_eq!(standing.messages.len(), MESSAGES);
        assert_eq!(standing.head, published[MESSAGES - 1].position);
    });
}

#[test]
fn a_server_wants_to_know_who_comes() {
    let server = NatsServer::start_with(&["--user", "pushring", "--pass", "p@ss"]);
    run(async {
        let with = |user: &str| Settings {
            url: format!("nats://{user}127.0.0.1:{}", server.port()),
            ..settings(&server, 1)
        };
        for user in ["", "pushring:wrong@"] {
            let Err(error) = Nats::connect(&with(user)).await else {
                panic!("connected as {user}");
            };
            assert!(
                error.0.contains("authorization") && !error.0.contains("wrong"),
                "{error}"
            );
        }
        let mut node = Node::connect_by(&with("pushring:p%40ss@")).await;
        assert!(node.is_silent().await);
    });
}

#[test]
fn a_server_is_spoken_to_by_tls() {
    let file = |name: &str| format!("{}/tests/server/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (certificate, key) = (file("localhost.pem"), file("localhost.key.pem"));
    let server = NatsServer::start_with(&["--tls", "--tlscert", &certificate, "--tlskey", &key]);
    run(async {
        let trusting = Settings {
            url: format!("tls://localhost:{}", server.port()),
            ca_file: Some(file("ca.pem")),
            ..settings(&server, 1)
        };
        let mut node = Node::connect_by(&trusting).await;
        assert!(node.is_silent().await);
        let doubting = Settings {
            ca_file: None,
            ..trusting
        };
        assert!(Nats::connect(&doubting).await.is_err());
    });
}

#[test]
fn no_epoch_is_like_another() {
    let (a, b) = (NatsServer::start(), NatsServer::start());
    run(async {
        let mut epochs: Vec<Epoch> = Vec::new();
        for (server, prefix) in [(&a, "pushring"), (&a, "other.one"), (&b, "pushring")] {
            let settings = Settings {
                prefix: prefix.into(),
                ..settings(server, 1)
            };
            // Of two that make it at once, one finds what the other has made.
            let (one, two) = tokio::join!(Node::connect_by(&settings), Node::connect_by(&settings));
            let epoch = one.publish("c", "1").await.epoch;
            assert_eq!(two.publish("c", "2").await.epoch, epoch);
            assert!(!epochs.contains(&epoch));
            epochs.push(epoch);
        }
    });
}
