//! The driver on a clock that stands still until nothing else is to do, with brokers in memory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::*;
use crate::backplane::broker::Settings;
use crate::backplane::memory::tests::run_paused;
use crate::backplane::memory::{Fate, Kept, Memory, MemoryServer};
use crate::backplane::order::{CountQuestion, Keep, NodeId, Ticket};
use crate::hub::Publish;
use crate::hub::message::ChannelName;
use crate::hub::position::Position;
use crate::proto::payload::PayloadKind;

mod clock;
mod counts;
mod outages;

const URL: &str = "memory://broker";
const N_SHARDS: u16 = 2;
const KEEP: Keep = Keep {
    history_messages: 1000,
    history_age_ms: 3_600_000,
    idle_timeout_ms: 3_600_000,
    idempotency_window_ms: 300_000,
};

/// Until everybody has done what there is to do, which takes no time.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

async fn sleep_ms(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

fn name(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn settings(id: u64) -> Settings {
    Settings {
        url: URL.into(),
        prefix: String::new(),
        ca_file: None,
        timeout: Duration::from_secs(1),
        node: NodeId(id),
    }
}

/// Shards that count from now on.
fn clock() -> ShardClock {
    ShardClock {
        started: Instant::now(),
        origin_ms: 0,
    }
}

struct Node {
    orders: mpsc::UnboundedSender<FromShard>,
    mailboxes: Rc<Mailboxes>,
}

#[derive(Default)]
struct Mailboxes {
    news: RefCell<Vec<(ShardId, News)>>,
    stats: RefCell<BackplaneStats>,
    posts: Cell<usize>,
    /// By shard, how far the broker's clock is ahead, whenever it was told.
    ahead_ms: RefCell<[Vec<i64>; N_SHARDS as usize]>,
    is_congested: Cell<bool>,
}

impl Sink for Rc<Mailboxes> {
    fn post(&mut self, shard: ShardId, news: &mut Vec<News>) {
        self.posts.set(self.posts.get() + 1);
        for news in news.drain(..) {
            match news {
                News::Stats(stats) => *self.stats.borrow_mut() = *stats,
                News::Clock { ahead_ms } => {
                    self.ahead_ms.borrow_mut()[usize::from(shard.0)].push(ahead_ms);
                }
                news => self.news.borrow_mut().push((shard, news)),
            }
        }
    }

    fn is_congested(&self) -> bool {
        self.is_congested.get()
    }
}

impl Node {
    fn start(id: u64) -> Self {
        let (sender, orders) = mpsc::unbounded_channel();
        let mailboxes = Rc::new(Mailboxes::default());
        let settings = DriverSettings::new(settings(id), N_SHARDS, clock());
        spawn_local(run::<Memory>(settings, orders, Rc::clone(&mailboxes)));
        Self {
            orders: sender,
            mailboxes,
        }
    }

    /// It has heard its canary, and the news of that are read.
    async fn start_hearing(id: u64) -> Self {
        let node = Self::start(id);
        settle().await;
        assert_eq!(node.told(), ["0 Hearing", "1 Hearing"]);
        node
    }

    /// The first letter says at which shard a channel is at home: `a` at 0, `b` at 1, `c` at 0 again.
    fn order(&self, channel: &str, order: Order) {
        let shard = ShardId(u16::from(channel.as_bytes()[0] - b'a') % N_SHARDS);
        self.orders.send(FromShard { shard, order }).unwrap();
    }

    fn publish(&self, channel: &str, ticket: u64) {
        let publish = Publish {
            channel: name(channel),
            kind: PayloadKind::Text,
            event: None,
            payload: ticket.to_string().into_bytes().into(),
            ttl_ms: None,
            store: true,
            idempotency_key: None,
        };
        self.order(
            channel,
            Order::Publish {
                ticket: Ticket(ticket),
                publish,
                keep: KEEP,
                receivers: 0,
            },
        );
    }

    fn open(&self, channel: &str, after: Option<Position>) {
        let order = Order::Open {
            channel: name(channel),
            after,
            keep: KEEP,
        };
        self.order(channel, order);
    }

    fn close(&self, channel: &str) {
        self.order(channel, Order::Close(name(channel)));
    }

    fn take(&self) -> Vec<(ShardId, News)> {
        self.mailboxes.news.take()
    }

    /// The news since the last time, in words.
    fn told(&self) -> Vec<String> {
        let words = |(shard, news): &(ShardId, News)| format!("{} {}", shard.0, words(news));
        self.take().iter().map(words).collect()
    }

    fn stats(&self) -> BackplaneStats {
        self.mailboxes.stats.borrow().clone()
    }
}

fn words(news: &News) -> String {
    match news {
        News::Published { ticket, result } => match result {
            Ok(published) => format!("published {} at {}", ticket.0, published.position.offset),
            Err(error) => format!("published {} {error:?}", ticket.0),
        },
        News::Deleted { ticket, result } => format!("deleted {} {result:?}", ticket.0),
        News::Counted { ticket, count } => format!(
            "counted {} {} by {} {}",
            ticket.0, count.listeners, count.nodes, count.is_complete
        ),
        News::CountWanted { channel, .. } => format!("count {channel}"),
        News::Standing { channel, standing } => {
            let offsets = standing.messages.iter();
            let offsets: Vec<_> = offsets
                .map(|a| a.message.position.offset.to_string())
                .collect();
            format!(
                "{channel} is at {}: {}",
                standing.head.offset,
                offsets.join(" ")
            )
        }
        News::Arrival(arrival) => {
            let message = &arrival.message;
            format!("{} {}", message.channel, message.position.offset)
        }
        News::Moved(channel) => format!("{channel} moved"),
        News::Ended(channel) => format!("{channel} ended"),
        News::Interrupted(channels) => {
            let channels: BTreeSet<_> = channels.iter().map(ChannelName::as_str).collect();
            let channels: Vec<_> = channels.into_iter().collect();
            format!("lost {}", channels.join(" "))
        }
        News::Health(health) => format!("{health:?}"),
        News::Clock { .. } | News::Stats(_) => unreachable!("the mailboxes keep them apart"),
    }
}

/// The head of the channel's newest standing among `news`.
fn head(news: &[(ShardId, News)], of: &str) -> Position {
    let head = |(_, news): &(ShardId, News)| match news {
        News::Standing { channel, standing } if channel.as_str() == of => Some(standing.head),
        _ => None,
    };
    let head = news.iter().rev().find_map(head);
    head.expect("the channel stands somewhere")
}

#[test]
fn publishes_are_gathered_and_answered_in_order() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        server.set_answer_delay(Duration::from_millis(10));
        let node = Node::start(1);
        sleep_ms(100).await;
        node.take();
        let posts_before = node.mailboxes.posts.get();
        for ticket in 0..5_000 {
            node.publish(if ticket % 2 == 0 { "a" } else { "b" }, ticket);
        }
        sleep_ms(900).await;
        let mut offsets = [0; 2];
        let mut answers = Vec::new();
        for (shard, news) in node.take() {
            let News::Published { ticket, result } = news else {
                panic!("{news:?}");
            };
            let offset = &mut offsets[usize::from(shard.0)];
            *offset += 1;
            assert_eq!(result.unwrap().position.offset, *offset, "{ticket:?}");
            answers.push((shard, ticket));
        }
        assert_eq!(answers.len(), 5_000);
        answers.sort_by_key(|(shard, _)| shard.0);
        assert!(answers.is_sorted_by_key(|(shard, ticket)| (shard.0, ticket.0)));
        sleep_ms(200).await;
        let stats = node.stats();
        assert_eq!(stats.publish_calls_total, 10, "512 in a call");
        let call_us = stats.publish_calls_us_total / stats.publish_calls_total;
        assert!((10_000..=12_000).contains(&call_us), "{call_us}");
        let posts = node.mailboxes.posts.get() - posts_before;
        assert!(
            posts < 20,
            "each round posts once to a shard, not {posts} times"
        );
    });
}

#[test]
fn a_delete_keeps_its_place_among_the_publishes() {
    run_paused(async {
        let _server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        node.open("a", None);
        settle().await;
        node.publish("a", 1);
        let ticket = Ticket(2);
        let channel = name("a");
        let keep = KEEP;
        node.order(
            "a",
            Order::Delete {
                ticket,
                channel,
                keep,
            },
        );
        node.publish("a", 3);
        settle().await;
        let told = node.told();
        let events: Vec<_> = told.iter().filter(|text| text.starts_with("0 a")).collect();
        assert_eq!(events, ["0 a is at 0: ", "0 a 1", "0 a ended", "0 a 1"]);
        let answers: Vec<_> = told.iter().filter(|text| text.contains("ed ")).collect();
        assert_eq!(
            answers,
            [
                "0 published 1 at 1",
                "0 deleted 2 Ok(true)",
                "0 published 3 at 1"
            ]
        );
    });
}

#[test]
fn what_is_published_while_a_channel_is_opened_is_not_missed() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let (speaker, listener) = (Node::start_hearing(1).await, Node::start_hearing(2).await);
        server.set_answer_delay(Duration::from_millis(7));
        for ticket in 1..=50 {
            speaker.publish("a", ticket);
            if ticket == 20 {
                listener.open("a", None);
            }
            settle().await;
        }
        sleep_ms(50).await;
        let mut seen = BTreeSet::new();
        for (_, news) in listener.take() {
            match news {
                News::Arrival(arrival) => {
                    seen.insert(arrival.message.position.offset);
                }
                News::Standing { standing, .. } => {
                    assert!(
                        standing.head.offset > 20,
                        "it is read after it is listened to"
                    );
                    seen.extend(standing.messages.iter().map(|a| a.message.position.offset));
                }
                news => panic!("{news:?}"),
            }
        }
        assert!(seen.into_iter().eq(1..=50));
        assert_eq!(
            speaker.told().len(),
            50,
            "whoever opens nothing hears of its answers alone"
        );
    });
}

#[test]
fn where_a_channel_stands_is_told_behind_all_that_was_said_before() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let (speaker, listener) = (Node::start_hearing(1).await, Node::start_hearing(2).await);
        listener.open("a", None);
        settle().await;
        listener.take();
        server.hold(NodeId(2));
        for ticket in 1..=5_000 {
            speaker.publish("a", ticket);
        }
        settle().await;
        server.release(NodeId(2));
        listener.open("a", None);
        settle().await;
        let news = listener.take();
        assert_eq!(news.len(), 5_001);
        assert!(matches!(news[5_000].1, News::Standing { .. }));
    });
}

#[test]
fn a_channel_is_listened_to_for_as_long_as_it_is_open() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        node.open("a", None);
        node.open("b", None);
        node.close("b");
        settle().await;
        assert_eq!(server.listened(NodeId(1)), [name("a")]);
        assert_eq!(node.told(), ["0 a is at 0: "]);
        node.publish("a", 1);
        settle().await;
        node.open("a", None);
        settle().await;
        assert_eq!(
            node.told(),
            ["0 a 1", "0 published 1 at 1", "0 a is at 1: 1"]
        );
        node.close("a");
        settle().await;
        assert_eq!(server.listened(NodeId(1)), []);
        node.publish("a", 2);
        settle().await;
        assert_eq!(node.told(), ["0 published 2 at 2"]);
    });
}

#[test]
fn many_opens_go_in_rounds_and_starve_no_publish() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        server.set_answer_delay(Duration::from_millis(10));
        for n in 0..20_000 {
            node.open(&format!("a{n}"), None);
        }
        node.publish("b", 1);
        sleep_ms(15).await;
        assert_eq!(node.told(), ["1 published 1 at 1"]);
        // 157 rounds, 4 of them at once, each of two calls: 800 ms and what the clock rounds.
        sleep_ms(900).await;
        assert_eq!(node.take().len(), 20_000);
        sleep_ms(1_000).await;
        assert_eq!(
            (node.stats().reads_total, node.stats().channels_listened),
            (20_000, 20_000)
        );
        assert_eq!(server.listened(NodeId(1)).len(), 20_000);
    });
}

#[test]
fn events_wait_while_a_shard_is_behind() {
    run_paused(async {
        let _server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        node.open("a", None);
        settle().await;
        node.take();
        node.mailboxes.is_congested.set(true);
        for ticket in 1..=3 {
            node.publish("a", ticket);
        }
        settle().await;
        node.open("a", None);
        sleep_ms(20_000).await;
        let answers = node.told();
        assert_eq!(answers.len(), 3, "answers are not events: {answers:?}");
        node.mailboxes.is_congested.set(false);
        sleep_ms(10).await;
        let wanted = ["0 a 1", "0 a 2", "0 a 3", "0 a is at 3: 1 2 3"];
        assert_eq!(node.told(), wanted);
        sleep_ms(20_000).await;
        assert_eq!(node.told(), [""; 0], "nobody was deaf");
    });
}
