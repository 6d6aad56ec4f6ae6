//! What Redis makes of the promises of a broker.

mod failures;
mod runs;

use std::pin::pin;
use std::time::Duration;

use pushring::backplane::broker::{Broker, BrokerError, Event, Publishing, Reading, Settings};
use pushring::backplane::order::{Arrival, Keep, NodeId, NotPublished, Standing};
use pushring::backplane::redis::Redis;
use pushring::hub::message::ChannelName;
use pushring::hub::position::Position;
use pushring::hub::{Publish, Published};
use pushring::proto::payload::PayloadKind;
use tokio::sync::mpsc;

use crate::redis_server::{DEADLINE, RedisServer};

const KEEP: Keep = Keep {
    history_messages: 100,
    history_age_ms: 600_000,
    idle_timeout_ms: 600_000,
    idempotency_window_ms: 300_000,
};

/// How far offsets jump when another server goes on.
const JUMP: u64 = 1_000_000_000;

struct Node {
    broker: Redis,
    events: mpsc::Receiver<Event>,
}

fn run(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let test = tokio::time::timeout(3 * DEADLINE, test());
        test.await.expect("the test hangs");
    });
}

fn settings(url: &str) -> Settings {
    Settings {
        url: url.into(),
        prefix: "test".into(),
        ca_file: None,
        timeout: Duration::from_secs(10),
        node: NodeId(fastrand::u64(..)),
    }
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
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

fn payload(arrival: &Arrival) -> &str {
    str::from_utf8(&arrival.message.payload).unwrap()
}

fn heard_position(event: &Event) -> Position {
    match event {
        Event::Arrival(arrival) => arrival.message.position,
        event => panic!("{event:?}"),
    }
}

fn payloads(standing: &Standing) -> Vec<&str> {
    standing.messages.iter().map(payload).collect()
}

impl Node {
    async fn connect(url: &str) -> Self {
        Self::with(&settings(url)).await.unwrap()
    }

    async fn with(settings: &Settings) -> Result<Self, BrokerError> {
        let (broker, events) = Redis::connect(settings).await?;
        Ok(Self { broker, events })
    }

    /// As the driver does: until it can be.
    async fn connect_at_last(url: &str) -> Self {
        let start = std::time::Instant::now();
        let mut settings = settings(url);
        settings.timeout = Duration::from_secs(2);
        loop {
            match Self::with(&settings).await {
                Ok(node) => return node,
                Err(error) => assert!(start.elapsed() < DEADLINE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn publish(&self, name: &str, payload: &str) -> Position {
        self.publish_all(vec![text(name, payload)]).await[0].position
    }

    async fn publish_all(&self, publishes: Vec<Publishing>) -> Vec<Published> {
        let results = self.broker.publish(publishes).await.unwrap();
        results.into_iter().map(Result::unwrap).collect()
    }

    async fn read(&self, name: &str, after: Option<Position>) -> Standing {
        self.read_keeping(name, after, KEEP).await
    }

    async fn read_keeping(&self, name: &str, after: Option<Position>, keep: Keep) -> Standing {
        let channel = channel(name);
        let reading = Reading {
            channel,
            after,
            keep,
        };
        self.broker.read(&[reading]).await.unwrap().remove(0)
    }

    /// Takes events meanwhile, as the driver does: all those that are here by the time of the answer.
    async fn read_and_hear(&mut self, readings: &[Reading]) -> (Vec<Standing>, Vec<Event>) {
        let mut reading = pin!(self.broker.read(readings));
        let mut heard = Vec::new();
        let standings = loop {
            tokio::select! {
                biased;
                standings = &mut reading => break standings.unwrap(),
                Some(event) = self.events.recv() => heard.push(event),
            }
        };
        while let Ok(event) = self.events.try_recv() {
            heard.push(event);
        }
        (standings, heard)
    }

    async fn listen(&self, name: &str) {
        self.broker.listen(&[channel(name)]).await.unwrap();
    }

    async fn event(&mut self) -> Event {
        self.events.recv().await.expect("an event")
    }

    async fn arrival(&mut self) -> Arrival {
        match self.event().await {
            Event::Arrival(arrival) => arrival,
            event => panic!("{event:?}"),
        }
    }

    async fn broken(&mut self) {
        while !matches!(self.event().await, Event::Broken(_)) {}
    }
}

#[test]
fn what_one_node_publishes_another_hears_and_reads() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let (a, mut b) = (
            Node::connect(&server.url()).await,
            Node::connect(&server.url()).await,
        );
        b.listen("news").await;
        let mut json = text("news", "{\"a\":1}");
        json.publish.kind = PayloadKind::Json;
        json.publish.event = Some("created".into());
        let mut live = text("news", "live");
        live.publish.store = false;
        let mut binary = text("news", "binary");
        binary.publish.kind = PayloadKind::Binary;
        binary.publish.payload = (*b"\x00\r\n\xff").into();
        binary.publish.ttl_ms = Some(5000);
        let published = a
            .publish_all(vec![json, text("other", "x"), live, binary])
            .await;
        let positions = [published[0], published[2], published[3]].map(|it| it.position);
        assert_eq!(positions.map(|position| position.offset), [1, 2, 3]);

        let heard = [b.arrival().await, b.arrival().await, b.arrival().await];
        for (index, arrival) in heard.iter().enumerate() {
            assert_eq!(arrival.message.position, positions[index]);
            assert_eq!(arrival.message.previous, index as u64);
            assert_eq!(arrival.message.channel, channel("news"));
        }
        assert_eq!(heard[0].message.kind, PayloadKind::Json);
        assert_eq!(heard[0].message.event.as_deref(), Some("created"));
        assert!(heard[0].is_stored && !heard[1].is_stored && heard[2].is_stored);
        assert_eq!(&*heard[2].message.payload, b"\x00\r\n\xff");
        let message = &heard[2].message;
        assert_eq!(message.expires_ms, message.published_ms + 5000);

        let all = b.read("news", None).await;
        assert_eq!(all.head, positions[2]);
        assert_eq!(all.messages, [heard[0].clone(), heard[2].clone()]);
        let after = b.read("news", Some(positions[0])).await;
        assert_eq!(after.messages, [heard[2].clone()]);
        let after = b.read("news", Some(positions[2])).await;
        assert_eq!((after.head, after.messages), (positions[2], vec![]));

        b.broker.unlisten(&[channel("news")]).await.unwrap();
        a.publish("news", "unheard").await;
        b.broker.canary(7).await.unwrap();
        assert!(matches!(
            b.event().await,
            Event::Canary {
                connection: 0,
                number: 7
            }
        ));
    });
}

#[test]
fn what_a_reading_includes_is_heard_before_its_answer() {
    const MESSAGES: u64 = 3000;
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let mut node = Node::connect(&server.url()).await;
        node.listen("news").await;
        let live = |_| {
            format!(
                "FCALL pushring_publish 1 test:{{news}} {} text \"\" \"\" 0\n",
                "x".repeat(2000)
            )
        };
        // Nobody takes what is announced as long as the process waits.
        server.cli_lines(&(0..MESSAGES).map(live).collect::<String>());
        let reading = Reading {
            channel: channel("news"),
            after: None,
            keep: KEEP,
        };
        let (standings, heard) = node.read_and_hear(&[reading]).await;
        assert_eq!(
            (standings[0].head.offset, standings[0].messages.len()),
            (MESSAGES, 0)
        );
        let offsets = heard.iter().map(|event| heard_position(event).offset);
        assert!(offsets.eq(1..=MESSAGES), "{} came", heard.len());
    });
}

#[test]
fn a_channel_that_nobody_knows_begins_and_stays() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let node = Node::connect(&server.url()).await;
        let first = node.read("new", None).await;
        assert_eq!((first.head.offset, first.messages.len()), (0, 0));
        assert_eq!(node.read("new", Some(first.head)).await, first);
        let position = node.publish("new", "x").await;
        assert_eq!((position.epoch, position.offset), (first.head.epoch, 1));
        assert_eq!(payloads(&node.read("new", Some(first.head)).await), ["x"]);
        let other = node.read("other", Some(position)).await;
        assert_ne!(other.head.epoch, position.epoch);
    });
}

#[test]
fn a_repeat_gets_the_first_result_from_any_node() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let (a, b) = (
            Node::connect(&server.url()).await,
            Node::connect(&server.url()).await,
        );
        let mut publishing = text("news", "once");
        publishing.publish.idempotency_key = Some("key {1} \u{e9}".into());
        publishing.receivers = 5;
        let first = a.publish_all(vec![publishing]).await[0];
        assert_eq!(first.receivers, 5);
        for (name, key, is_repeat) in [
            ("news", "key {1} \u{e9}", true),
            ("news", "other", false),
            ("olds", "key {1} \u{e9}", false),
        ] {
            let mut again = text(name, "again");
            again.publish.idempotency_key = Some(key.into());
            let result = b.publish_all(vec![again]).await[0];
            assert_eq!(result == first, is_repeat, "{name} {key}");
        }
        assert_eq!(payloads(&a.read("news", None).await), ["once", "again"]);

        let mut brief = text("brief", "x");
        brief.publish.idempotency_key = Some("key".into());
        brief.keep.idempotency_window_ms = 1;
        let publish = async || {
            a.broker
                .publish(vec![Publishing {
                    publish: brief.publish.clone(),
                    ..brief
                }])
                .await
        };
        let first = publish().await.unwrap();
        while publish().await.unwrap() == first {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
}

#[test]
fn a_history_ends_by_count_and_by_age() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let node = Node::connect(&server.url()).await;
        let few = Keep {
            history_messages: 3,
            ..KEEP
        };
        let publishes = (0..500).map(|i| Publishing {
            keep: few,
            ..text("few", &format!("{i} {}", "x".repeat(100)))
        });
        node.publish_all(publishes.collect()).await;
        let standing = node.read_keeping("few", None, few).await;
        let offsets = standing
            .messages
            .iter()
            .map(|it| it.message.position.offset);
        assert_eq!(offsets.collect::<Vec<_>>(), [498, 499, 500]);
        let kept: u32 = server.cli(&["XLEN", "test:{few}:log"]).parse().unwrap();
        assert!(kept < 100, "{kept} messages are kept");

        let brief = Keep {
            history_age_ms: 30,
            ..KEEP
        };
        let publishing = Publishing {
            keep: brief,
            ..text("brief", "x")
        };
        let position = node.publish_all(vec![publishing]).await[0].position;
        loop {
            let standing = node.read_keeping("brief", None, brief).await;
            assert_eq!(standing.head, position);
            if standing.messages.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        crate::redis_server::wait_until("the log is gone", || {
            server.cli(&["EXISTS", "test:{brief}:log"]) == "0"
        });

        let idle = Keep {
            history_age_ms: 0,
            idle_timeout_ms: 30,
            ..KEEP
        };
        let first = node.read_keeping("idle", None, idle).await.head;
        loop {
            tokio::time::sleep(Duration::from_millis(40)).await;
            if node.read_keeping("idle", None, idle).await.head.epoch != first.epoch {
                break;
            }
        }
    });
}

#[test]
fn a_deleted_channel_ends_everywhere() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let (a, mut b) = (
            Node::connect(&server.url()).await,
            Node::connect(&server.url()).await,
        );
        b.listen("news").await;
        let position = a.publish("news", "x").await;
        b.arrival().await;
        assert!(a.broker.delete(&channel("news"), KEEP).await.unwrap());
        assert!(matches!(b.event().await, Event::Ended(name) if name == channel("news")));
        assert!(!a.broker.delete(&channel("news"), KEEP).await.unwrap());
        let standing = b.read("news", Some(position)).await;
        assert_ne!(standing.head.epoch, position.epoch);
        assert_eq!((standing.head.offset, standing.messages.len()), (0, 0));
    });
}

#[test]
fn data_that_is_gone_is_another_epoch() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let (a, mut b) = (
            Node::connect(&server.url()).await,
            Node::connect(&server.url()).await,
        );
        b.listen("news").await;
        let before = a.publish("news", "before").await;
        b.arrival().await;
        server.cli(&["FLUSHALL"]);
        let after = a.publish("news", "after").await;
        assert_ne!(after.epoch, before.epoch);
        assert_eq!(b.arrival().await.message.position, after);
        assert_eq!(payloads(&b.read("news", Some(before)).await), ["after"]);
    });
}

#[test]
fn a_position_that_was_never_given_out_ends_nothing() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let node = Node::connect(&server.url()).await;
        let head = node.publish("news", "x").await;
        for offset in [head.offset + 1, head.offset + JUMP, u64::MAX] {
            let standing = node.read("news", Some(Position { offset, ..head })).await;
            assert_eq!(standing.head, head);
            assert_eq!(payloads(&standing), ["x"]);
        }
    });
}

#[test]
fn a_user_who_may_do_little_more_than_this_can_do_it() {
    let server = RedisServer::start(&["--save", "''"]);
    let rights = "on >pw ~test:* &test:* +fcall +function|list +function|load +info +time +get +set +del +pexpire \
                  +xadd +xtrim +xrevrange +publish +subscribe +unsubscribe";
    let mut acl = vec!["ACL", "SETUSER", "node"];
    acl.extend(rights.split_ascii_whitespace());
    assert_eq!(server.cli(&acl), "OK");
    run(async || {
        let url = format!("redis://node:pw@{}", server.address());
        let mut node = Node::connect(&url).await;
        node.listen("news").await;
        let mut publishing = text("news", "x");
        publishing.publish.idempotency_key = Some("key".into());
        node.publish_all(
            (0..40)
                .map(|_| text("news", "y"))
                .chain([publishing])
                .collect(),
        )
        .await;
        for _ in 0..41 {
            node.arrival().await;
        }
        assert_eq!(node.read("news", None).await.messages.len(), 41);
        assert!(node.broker.delete(&channel("news"), KEEP).await.unwrap());
        node.broker.unlisten(&[channel("news")]).await.unwrap();
        node.broker.canary(1).await.unwrap();
        node.broker.tell(b"note").await.unwrap();
    });
}

#[test]
fn a_backend_publishes_by_redis_cli() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let mut node = Node::connect(&server.url()).await;
        node.listen("news").await;
        let publish = |args: &[&str]| {
            let mut all = vec!["FCALL", "pushring_publish", "1", "test:{news}"];
            all.extend(args);
            server.cli(&all)
        };
        let said = publish(&["{\"a\":1}", "json", "created", "60000", "1", "order-17"]);
        let heard = node.arrival().await;
        assert_eq!(said, format!("{}\n0", heard.message.position));
        assert_eq!(heard.message.kind, PayloadKind::Json);
        assert_eq!(heard.message.event.as_deref(), Some("created"));
        let again = publish(&["{\"a\":1}", "json", "created", "60000", "1", "order-17"]);
        assert_eq!(said, again);

        // Neither what is no message nor what is another than it says is in anybody's way.
        server.cli(&["PUBLISH", "test:{news}", "junk"]);
        publish(&["{", "json"]);
        let heard = node.arrival().await;
        assert_eq!(
            (heard.message.kind, payload(&heard)),
            (PayloadKind::Text, "{")
        );
        assert_eq!(heard.message.previous, 1);
        publish(&["plain"]);
        assert_eq!(payload(&node.arrival().await), "plain");

        for wrong in [
            &["x", "yaml"][..],
            &["x", "text", "a\nb"],
            &["x", "text", "", "soon"],
            &[],
        ] {
            assert!(publish(wrong).starts_with("ERR"), "{wrong:?}");
        }
        assert_eq!(node.read("news", None).await.head.offset, 3);
    });
}

#[test]
fn a_backend_leaves_a_channel_kept_as_its_nodes_say() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let node = Node::connect(&server.url()).await;
        let many = Keep {
            history_messages: 300,
            ..KEEP
        };
        node.read_keeping("news", None, many).await;
        for _ in 0..2 {
            let all: String = (0..150)
                .map(|i| format!("FCALL pushring_publish 1 test:{{news}} {i}\n"))
                .collect();
            server.cli_lines(&all);
        }
        let standing = node.read_keeping("news", None, many).await;
        assert_eq!(standing.messages.len(), 300);
    });
}

#[test]
fn all_nodes_hear_a_note_and_each_its_own_canary() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let (mut a, mut b) = (
            Node::connect(&server.url()).await,
            Node::connect(&server.url()).await,
        );
        a.broker.canary(3).await.unwrap();
        a.broker.tell(b"hello\n\0").await.unwrap();
        assert!(matches!(
            a.event().await,
            Event::Canary {
                connection: 0,
                number: 3
            }
        ));
        for node in [&mut a, &mut b] {
            assert!(matches!(node.event().await, Event::Note(note) if note == b"hello\n\0"));
        }
    });
}

#[test]
fn a_server_says_what_time_it_is() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let node = Node::connect(&server.url()).await;
        node.publish("news", "x").await;
        let published_ms = node.read("news", None).await.messages[0]
            .message
            .published_ms;
        let now_ms = node.broker.now_ms().await.unwrap();
        let passed = published_ms..published_ms + DEADLINE.as_millis() as u64;
        assert!(passed.contains(&now_ms), "{now_ms} {passed:?}");
    });
}

#[test]
fn a_full_server_refuses_and_goes_on() {
    let server = RedisServer::start(&["--save", "''", "--maxmemory-policy", "noeviction"]);
    run(async || {
        let node = Node::connect(&server.url()).await;
        let head = node.publish("news", "x").await;
        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        let refused = node
            .broker
            .publish(vec![text("news", "y"), text("other", "y")])
            .await;
        assert_eq!(refused.unwrap(), [Err(NotPublished::Refused); 2]);
        let standing = node.read("news", None).await;
        assert_eq!((standing.head, payloads(&standing)), (head, vec!["x"]));
        // Whoever connects then finds the functions there.
        Node::connect(&server.url()).await;
        server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_eq!(node.publish("news", "z").await.offset, 2);
    });
}

#[test]
fn a_password_and_tls_are_taken_from_the_url_and_not_shown() {
    let server = RedisServer::start_tls(&["--save", "''", "--requirepass", "s3/cr@t"]);
    run(async || {
        let mut settings = settings(&format!("rediss://:s3%2Fcr%40t@{}", server.address()));
        let ca = format!(
            "{}/tests/server/certificates/ca.pem",
            env!("CARGO_MANIFEST_DIR")
        );
        settings.ca_file = Some(ca);
        let node = Node::with(&settings).await.unwrap();
        assert_eq!(node.publish("news", "x").await.offset, 1);

        // What is wrong: the certificate's issuer, the password, the protocol.
        let mut errors = Vec::new();
        for (url, ca_file) in [
            (settings.url.clone(), None),
            (
                settings.url.replace("s3%2F", "s3"),
                settings.ca_file.clone(),
            ),
            (settings.url.replace("rediss", "redis"), None),
        ] {
            let settings = Settings {
                url,
                ca_file,
                timeout: Duration::from_secs(2),
                ..settings.clone()
            };
            errors.push(Redis::connect(&settings).await.err().unwrap().0);
        }
        for error in &errors {
            assert!(!error.contains("s3"), "{error}");
            assert!(error.contains(&server.address()), "{error}");
        }
    });
}

#[test]
fn histories_may_be_larger_than_what_a_listener_may_leave_with_the_server() {
    const WIDE: usize = 40;
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let mut node = Node::connect(&server.url()).await;
        let large = "x".repeat(64 << 10);
        let deep = Keep {
            history_messages: 1000,
            ..KEEP
        };
        let names: Vec<_> = (0..WIDE).map(|i| format!("wide:{i}")).collect();
        for _ in 0..16 {
            let wide = names.iter().map(|name| text(name, &large));
            node.publish_all(wide.collect()).await;
            let publishes = (0..WIDE).map(|_| Publishing {
                keep: deep,
                ..text("deep", &large)
            });
            node.publish_all(publishes.collect()).await;
        }
        // 40 MiB in one reply, and 40 MiB in many.
        let standing = node.read_keeping("deep", None, deep).await;
        assert_eq!(standing.messages.len(), 16 * WIDE);
        let reading = |name: &String| Reading {
            channel: channel(name),
            after: None,
            keep: KEEP,
        };
        let readings: Vec<_> = names.iter().map(reading).collect();
        let standings = node.broker.read(&readings).await.unwrap();
        assert!(standings.iter().all(|it| it.messages.len() == 16));
        node.broker.canary(1).await.unwrap();
        assert!(matches!(node.event().await, Event::Canary { .. }));
    });
}

#[test]
fn many_channels_are_listened_to_and_read_at_once() {
    const CHANNELS: usize = 2000;
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let mut node = Node::connect(&server.url()).await;
        let channels: Vec<_> = (0..CHANNELS).map(|i| channel(&format!("c:{i}"))).collect();
        node.broker.listen(&channels).await.unwrap();
        let publishes = (0..CHANNELS).map(|i| text(&format!("c:{i}"), &i.to_string()));
        let published = node.publish_all(publishes.collect()).await;
        let reading = |channel: &ChannelName| Reading {
            channel: channel.clone(),
            after: None,
            keep: KEEP,
        };
        let readings: Vec<_> = channels.iter().map(reading).collect();
        let (standings, heard) = node.read_and_hear(&readings).await;
        for (i, standing) in standings.iter().enumerate() {
            assert_eq!(standing.head, published[i].position);
            assert_eq!(payloads(standing), [i.to_string()]);
        }
        let heard: Vec<_> = heard.iter().map(heard_position).collect();
        assert!(heard.into_iter().eq(published.iter().map(|it| it.position)));
        node.broker.unlisten(&channels).await.unwrap();
        node.publish("c:7", "unheard").await;
        node.broker.canary(1).await.unwrap();
        assert!(matches!(node.event().await, Event::Canary { .. }));
    });
}
