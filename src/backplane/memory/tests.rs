//! The contract, clause by clause.

use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::advance;

use super::*;
use crate::backplane::order::Arrival;
use crate::hub::Publish;
use crate::hub::position::Position;
use crate::proto::payload::PayloadKind;

const KEEP: Keep = Keep {
    history_messages: 3,
    history_age_ms: 60_000,
    idle_timeout_ms: 120_000,
    idempotency_window_ms: 10_000,
};

/// Runs the test on a clock that moves only when nothing else is to do.
pub(in crate::backplane) fn run_paused(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn news() -> ChannelName {
    ChannelName::parse("news").unwrap()
}

struct Node {
    broker: Memory,
    events: mpsc::Receiver<Event>,
}

impl Node {
    async fn connect(id: u64) -> Self {
        let settings = Settings {
            url: "memory://contract".into(),
            prefix: String::new(),
            ca_file: None,
            timeout: Duration::from_secs(1),
            node: NodeId(id),
        };
        let (broker, events) = Memory::connect(&settings).await.unwrap();
        Self { broker, events }
    }

    async fn listening(id: u64) -> Self {
        let node = Self::connect(id).await;
        node.broker.listen(&[news()]).await.unwrap();
        node
    }

    async fn publish_with(&self, change: impl FnOnce(&mut Publish)) -> Position {
        let mut publish = Publish {
            channel: news(),
            kind: PayloadKind::Text,
            event: None,
            payload: b"hi"[..].into(),
            ttl_ms: None,
            store: true,
            idempotency_key: None,
        };
        change(&mut publish);
        let publishing = Publishing {
            publish,
            keep: KEEP,
            receivers: 5,
        };
        let mut results = self.broker.publish(vec![publishing]).await.unwrap();
        results.remove(0).unwrap().position
    }

    async fn publish(&self) -> Position {
        self.publish_with(|_| {}).await
    }

    async fn read(&self, after: Option<Position>) -> (Position, Vec<u64>) {
        let reading = Reading {
            channel: news(),
            after,
            keep: KEEP,
        };
        let standing = self.broker.read(&[reading]).await.unwrap().remove(0);
        let messages = standing.messages.iter();
        let offsets = messages.map(|arrival| arrival.message.position.offset);
        (standing.head, offsets.collect())
    }

    /// What came since the last time: `7<5` is the message 7 behind 5.
    fn heard(&mut self) -> String {
        let mut heard = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            heard.push(match event {
                Event::Arrival(Arrival { message, .. }) => {
                    format!("{}<{}", message.position.offset, message.previous)
                }
                Event::Moved(_) => "moved".into(),
                Event::Ended(_) => "ended".into(),
                Event::Canary { connection, number } => format!("canary {connection} {number}"),
                Event::Note(note) => format!("note {}", note.len()),
                Event::Broken(_) => "broken".into(),
            });
        }
        heard.join(" ")
    }
}

#[test]
fn messages_are_numbered_kept_and_announced() {
    run_paused(async {
        let _server = MemoryServer::new("memory://contract", 1);
        let (mut first, mut second) = (Node::listening(1).await, Node::connect(2).await);
        let (begun, none) = first.read(None).await;
        assert_eq!((begun.offset, none), (0, vec![]));
        for _ in 0..4 {
            second.publish().await;
        }
        let fifth = second.publish_with(|publish| publish.store = false).await;
        assert_eq!(fifth, Position { offset: 5, ..begun });
        assert_eq!(first.heard(), "1<0 2<1 3<2 4<3 5<4");
        assert_eq!(second.heard(), "");
        let at = |offset| Some(Position { offset, ..begun });
        assert_eq!(first.read(None).await, (fifth, vec![2, 3, 4]), "by count");
        assert_eq!(first.read(at(3)).await, (fifth, vec![4]));
        assert_eq!(first.read(at(5)).await, (fifth, vec![]));
        advance(Duration::from_secs(30)).await;
        let sixth = second
            .publish_with(|publish| publish.ttl_ms = Some(100))
            .await;
        advance(Duration::from_millis(99)).await;
        assert_eq!(first.read(at(4)).await, (sixth, vec![6]));
        advance(Duration::from_millis(1)).await;
        assert_eq!(first.read(None).await, (sixth, vec![3, 4]), "by ttl");
        advance(Duration::from_secs(30)).await;
        assert_eq!(first.read(None).await, (sixth, vec![]), "by age");
        first.broker.unlisten(&[news()]).await.unwrap();
        first.heard();
        second.publish().await;
        assert_eq!(first.heard(), "");
    });
}

#[test]
fn a_repeat_gets_the_first_result_and_is_not_announced() {
    run_paused(async {
        let _server = MemoryServer::new("memory://contract", 1);
        let mut node = Node::listening(1).await;
        let key = |publish: &mut Publish| publish.idempotency_key = Some("k".into());
        let first = node.publish_with(key).await;
        node.publish().await;
        assert_eq!(node.publish_with(key).await, first);
        assert_eq!(node.heard(), "1<0 2<1");
        advance(Duration::from_secs(10)).await;
        assert_eq!(node.publish_with(key).await.offset, 3);
    });
}

#[test]
fn no_number_is_given_twice_after_a_loss() {
    run_paused(async {
        let server = MemoryServer::new("memory://contract", 1);
        let node = Node::connect(1).await;
        node.publish().await;
        let second = node.publish().await;
        let third = node.publish().await;
        server.restart(Kept::AllBut(1));
        assert!(node.broker.read(&[]).await.is_err(), "it is disconnected");

        let mut node = Node::listening(1).await;
        assert_eq!(
            node.read(Some(second)).await,
            (second, vec![]),
            "nothing is lost to it"
        );
        let fourth = node.publish().await;
        assert_eq!(fourth.epoch, third.epoch);
        assert!(fourth.offset > third.offset);
        assert_eq!(node.heard(), format!("{}<2", fourth.offset));
        assert_eq!(node.read(Some(second)).await, (fourth, vec![fourth.offset]));
        let (head, messages) = node.read(Some(third)).await;
        assert_ne!(head.epoch, third.epoch, "a message is lost");
        assert_eq!((head.offset, messages), (0, vec![]));
        assert_eq!(node.heard(), "moved");
    });
}

#[test]
fn a_position_that_is_ahead_of_the_broker_changes_the_epoch() {
    run_paused(async {
        let server = MemoryServer::new("memory://contract", 1);
        let third = {
            let node = Node::connect(1).await;
            node.publish().await;
            node.publish().await
        };
        server.restart(Kept::AllBut(1));
        let node = Node::connect(1).await;
        assert_eq!(node.read(None).await.0, Position { offset: 1, ..third });
        assert_ne!(node.read(Some(third)).await.0.epoch, third.epoch);
    });
}

#[test]
fn data_that_is_gone_has_another_epoch() {
    run_paused(async {
        let server = MemoryServer::new("memory://contract", 1);
        let mut node = Node::listening(1).await;
        let mut epochs = HashSet::new();
        epochs.insert(node.publish().await.epoch);
        server.flush();
        epochs.insert(node.publish().await.epoch);
        assert!(node.broker.delete(&news(), KEEP).await.unwrap());
        assert!(!node.broker.delete(&news(), KEEP).await.unwrap());
        epochs.insert(node.read(None).await.0.epoch);
        advance(Duration::from_millis(KEEP.idle_timeout_ms)).await;
        epochs.insert(node.read(None).await.0.epoch);
        assert_eq!(node.heard(), "1<0 1<0 ended");
        server.restart(Kept::Nothing);
        assert_eq!(node.heard(), "broken");
        epochs.insert(Node::connect(1).await.read(None).await.0.epoch);
        assert_eq!(epochs.len(), 5);
    });
}

#[test]
fn events_can_be_lost_doubled_held_and_silenced() {
    run_paused(async {
        let server = MemoryServer::new("memory://contract", 1);
        server.set_connections(2);
        let mut node = Node::listening(1).await;
        node.broker.canary(9).await.unwrap();
        node.broker.tell(b"abc").await.unwrap();
        assert_eq!(node.heard(), "canary 0 9 canary 1 9 note 3");
        server.set_fate(|_, event| match event {
            Event::Arrival(arrival) if arrival.message.position.offset == 1 => Fate::IsLost,
            _ => Fate::ArrivesTwice,
        });
        node.publish().await;
        node.publish().await;
        assert_eq!(node.heard(), "2<1 2<1");
        server.set_fate(|_, _| Fate::Arrives);
        server.hold(NodeId(1));
        node.publish().await;
        node.publish().await;
        assert_eq!(node.heard(), "");
        server.release(NodeId(1));
        assert_eq!(node.heard(), "3<2 4<3");
        server.silence(NodeId(1));
        node.publish().await;
        node.broker.canary(10).await.unwrap();
        assert_eq!(node.heard(), "");
    });
}

#[test]
fn calls_are_carried_out_in_the_order_of_their_first_polls() {
    run_paused(async {
        let server = MemoryServer::new("memory://contract", 1);
        server.set_answer_delay(Duration::from_millis(5));
        let node = Node::connect(1).await;
        server.pause();
        let resume = async {
            sleep(Duration::from_millis(50)).await;
            server.resume();
        };
        let began = Instant::now();
        let (first, second, (head, _), ()) =
            tokio::join!(biased; node.publish(), node.publish(), node.read(None), resume);
        assert_eq!((first.offset, second.offset, head.offset), (1, 2, 2));
        assert!(began.elapsed() >= Duration::from_millis(50));
    });
}

#[test]
fn whoever_is_too_far_behind_is_cut_off() {
    run_paused(async {
        let _server = MemoryServer::new("memory://contract", 1);
        let mut node = Node::listening(1).await;
        for _ in 0..=EVENTS_MAX {
            node.broker.tell(b"").await.unwrap();
        }
        let mut n_events = 0;
        while node.events.recv().await.is_some() {
            n_events += 1;
        }
        assert_eq!(n_events, EVENTS_MAX);
    });
}
