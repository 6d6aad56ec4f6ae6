//! The relay against a broker that may lose, repeat and delay what it says by itself, and whose readings are right.

use super::*;
use crate::backplane::order::{Arrival, Standing};
use crate::hub::ListenMode;
use crate::hub::position::{Epoch, Since};
use crate::proto::payload::PayloadKind;

const SHARD: ShardId = ShardId(3);

fn name() -> ChannelName {
    ChannelName::parse("a").unwrap()
}

/// The broker's side of one channel.
struct Broker {
    epoch: Epoch,
    head: u64,
    history: Vec<Arrival>,
    keeps: usize,
    n_published: u64,
}

impl Broker {
    fn new(keeps: usize) -> Self {
        Self {
            epoch: Epoch::from_random(1),
            head: 0,
            history: Vec::new(),
            keeps,
            n_published: 0,
        }
    }

    fn message(&self, offset: u64, previous: u64, published_us: u64) -> Arc<Message> {
        Arc::new(Message {
            channel: name(),
            position: Position {
                epoch: self.epoch,
                offset,
            },
            previous,
            kind: PayloadKind::Text,
            event: None,
            payload: (*b"x").into(),
            published_ms: 0,
            published_us,
            expires_ms: u64::MAX,
        })
    }

    /// Offsets have holes now and then, as a broker's may.
    fn publish(&mut self, skip: u64, is_stored: bool) -> Arrival {
        let previous = self.head;
        self.head += 1 + skip;
        self.n_published += 1;
        let message = self.message(self.head, previous, self.n_published);
        let arrival = Arrival { message, is_stored };
        if is_stored {
            self.history.push(arrival.clone());
        }
        let surplus = self.history.len().saturating_sub(self.keeps);
        self.history.drain(..surplus);
        arrival
    }

    fn lose_everything(&mut self, random: u64) {
        self.epoch = Epoch::from_random(random);
        self.head = 0;
        self.history.clear();
    }

    /// What is left keeps its numbers.
    fn lose_newest(&mut self, lost: usize, random: u64) {
        self.epoch = Epoch::from_random(random);
        self.head = 0;
        let mut left = std::mem::take(&mut self.history);
        left.truncate(left.len() - lost);
        for arrival in &mut left {
            let old = &arrival.message;
            self.head = old.position.offset;
            arrival.message = self.message(self.head, old.previous, old.published_us);
        }
        self.history = left;
    }

    fn standing(&self, after: Option<Position>) -> Standing {
        let after = after.filter(|after| after.epoch == self.epoch);
        let after = after.map_or(0, |after| after.offset);
        let is_behind = |it: &&Arrival| it.message.position.offset > after;
        Standing {
            head: Position {
                epoch: self.epoch,
                offset: self.head,
            },
            is_used: self.head > 0,
            messages: self.history.iter().filter(is_behind).cloned().collect(),
        }
    }
}

/// What one listener was told, in the order in which a shard would bring it.
#[derive(Debug, Default)]
struct Log {
    /// Everything up to there is here, or was told to be lost.
    has: Option<Position>,
    got: Vec<Position>,
    gaps: u32,
    /// Those that were told while it listened.
    gaps_told: u32,
}

impl Log {
    fn message(&mut self, message: &Message) {
        let has = self.has.expect("a start");
        assert_eq!(
            message.position.epoch, has.epoch,
            "another epoch is told as a gap"
        );
        assert!(
            message.position.offset > has.offset,
            "repeated: {message:?} behind {has}"
        );
        assert!(
            message.previous <= has.offset,
            "silent loss: {message:?} behind {has}"
        );
        self.has = Some(message.position);
        self.got.push(message.position);
    }

    fn gap(&mut self, position: Position) {
        self.gaps += 1;
        self.has = Some(position);
    }

    fn replay(&mut self, replay: &Replay, since: Since) {
        let gaps = replay.gaps(since);
        let mut gaps = gaps.iter().peekable();
        self.has = Some(match since {
            Since::After(cursor) => cursor,
            _ => replay.start,
        });
        for (index, message) in replay.messages.iter().enumerate() {
            if let Some((_, position)) = gaps.next_if(|(before, _)| *before == index) {
                self.gap(*position);
            }
            self.message(message);
        }
        for (_, position) in gaps {
            self.gap(*position);
        }
        let has = self.has.expect("a start");
        assert!(
            has.epoch == replay.end.epoch && has.offset >= replay.end.offset,
            "the replay ends at {}, and its listener at {has}",
            replay.end
        );
        self.has = Some(replay.end);
    }
}

struct World {
    relay: Relay<usize>,
    broker: Broker,
    is_open: bool,
    /// Announcements and standings on their way; in order.
    on_the_way: VecDeque<News>,
    opens: VecDeque<Option<Position>>,
    /// By asker: how it asked, and what it has had since it was answered.
    asked: Vec<Since>,
    logs: Vec<Option<Log>>,
    now_ms: u64,
}

impl World {
    fn new(keeps: usize) -> Self {
        let mut relay = Relay::new(Arc::new(Config::default()), 1);
        relay.on_news(News::Health(Health::Hearing), false, 0);
        Self {
            relay,
            broker: Broker::new(keeps),
            is_open: false,
            on_the_way: VecDeque::new(),
            opens: VecDeque::new(),
            asked: Vec::new(),
            logs: Vec::new(),
            now_ms: 0,
        }
    }

    fn listen(&mut self, since: Since) -> usize {
        let asker = self.asked.len();
        self.asked.push(since);
        self.logs.push(None);
        let listen = Listen {
            channel: name(),
            since,
            mode: ListenMode::Stream,
            messages_max: usize::MAX,
            bytes_max: usize::MAX,
        };
        self.relay.listen(asker, listen, SHARD, self.now_ms);
        self.act();
        asker
    }

    fn act(&mut self) {
        while let Some(act) = self.relay.next_act() {
            match act {
                Act::Order(Order::Open { after, .. }) => self.opens.push_back(after),
                Act::Order(Order::Close(_)) => {
                    self.is_open = false;
                    self.on_the_way.clear();
                }
                Act::Order(order) => panic!("{order:?}"),
                Act::Replayed {
                    asker,
                    replay,
                    listening,
                    ..
                } => {
                    assert!(listening);
                    let mut log = Log::default();
                    log.replay(&replay, self.asked[asker]);
                    self.logs[asker] = Some(log);
                }
                Act::Tell(shard, tell) => {
                    assert_eq!(shard, SHARD);
                    for log in self.logs.iter_mut().flatten() {
                        match &tell {
                            Tell::Message(message) => log.message(message),
                            Tell::Gap(_, position) => {
                                log.gap(*position);
                                log.gaps_told += 1;
                            }
                            Tell::End(_) => panic!("nobody deletes"),
                        }
                    }
                }
                act => panic!("{act:?}"),
            }
        }
    }

    /// The broker carries out the oldest opening.
    fn read(&mut self) {
        if let Some(after) = self.opens.pop_front() {
            self.is_open = true;
            let standing = self.broker.standing(after);
            self.on_the_way.push_back(News::Standing {
                channel: name(),
                standing,
            });
        }
    }

    /// Something that is in no history waits, which congestion would lose.
    fn is_live_waiting(&self) -> bool {
        let feeds = self.relay.feeds.iter();
        let mut held = feeds.flat_map(|(_, feed)| &feed.held);
        held.any(|held| !held.arrival.is_stored) || self.on_the_way.iter().any(is_live)
    }

    fn arrive(&mut self, is_congested: bool) {
        if let Some(news) = self.on_the_way.pop_front() {
            self.relay.on_news(news, is_congested, self.now_ms);
            self.act();
        }
    }

    /// Everything that is on its way arrives, the channel is checked, and whatever that brings about.
    fn settle(&mut self) {
        for check_interval_ms in [0, Config::default().timing.backplane_check_interval_ms] {
            self.now_ms += check_interval_ms;
            self.relay.sweep(false, self.now_ms);
            self.act();
            while !self.opens.is_empty() || !self.on_the_way.is_empty() {
                self.read();
                self.arrive(false);
            }
        }
    }
}

fn is_live(news: &News) -> bool {
    matches!(news, News::Arrival(arrival) if !arrival.is_stored)
}

#[test]
fn whatever_is_lost_or_repeated_on_the_way_listeners_have_all_or_are_told() {
    for seed in 0..3_000 {
        check(seed, Loss::Anything);
    }
}

#[test]
fn what_the_broker_still_has_is_not_told_as_lost() {
    for seed in 0..3_000 {
        check(seed, Loss::Stored);
    }
}

#[test]
fn what_has_come_is_not_told_as_lost() {
    for seed in 0..3_000 {
        check(seed, Loss::StoredAmongLive);
    }
}

#[test]
fn a_round_takes_no_longer_where_there_were_more_channels_once() {
    let mut relay = Relay::new(Arc::new(Config::default()), 1);
    for number in 0..10_000 {
        let name = ChannelName::parse(&format!("c{number}")).unwrap();
        relay.info(number, &name, 0);
    }
    let timing = Config::default().timing;
    let mut now_ms = timing.backplane_linger_ms;
    while relay.channels() > 0 {
        relay.sweep(false, now_ms);
    }
    while relay.next_act().is_some() {}

    relay.on_news(News::Health(Health::Hearing), false, now_ms);
    relay.info(7, &name(), now_ms);
    now_ms += timing.backplane_timeout_ms + 1;
    for _ in 0..sweep::SWEEPS_PER_ROUND {
        relay.sweep(false, now_ms);
    }
    let acts: Vec<_> = std::iter::from_fn(|| relay.next_act()).collect();
    let is_refused = |act: &Act<usize>| matches!(act, Act::Refused(7, HomeRefusal::BrokerAway));
    assert!(acts.iter().any(is_refused), "{acts:?}");
}

/// Of seven messages, `lost` are lost, and whoever listens hears so, and then what is new.
fn check_another_epoch(lost: usize, is_new: bool) {
    let mut world = World::new(usize::MAX);
    world.listen(Since::Now);
    world.settle();
    for _ in 0..7 {
        let arrival = world.broker.publish(2, true);
        world.on_the_way.push_back(News::Arrival(arrival));
        world.arrive(false);
    }
    world.broker.lose_newest(lost, 2);
    let mut want = Vec::new();
    if is_new {
        want.push(world.broker.publish(2, true).message.position);
    }
    let moved = News::Moved(name());
    world.relay.on_news(moved, false, 0);
    world.act();
    world.settle();
    let log = world.logs[0].as_ref().unwrap();
    assert_eq!((&log.got[7..], log.gaps), (&want[..], 1), "{lost}");
    let cursor = Position {
        offset: 1,
        ..log.got[0]
    };
    let late = world.listen(Since::After(cursor));
    world.settle();
    let log = world.logs[late].as_ref().unwrap();
    let left = 7 - lost + want.len();
    assert_eq!((log.got.len(), log.gaps), (left, 1), "{lost}");
}

#[test]
fn what_outlives_its_epoch_is_not_repeated_for_those_who_had_it() {
    for lost in 0..=7 {
        check_another_epoch(lost, false);
        check_another_epoch(lost, true);
    }
}

/// Of two messages that were published when the broker's clock showed 0, whether who has the first gets the second.
fn check_age(now_ms: u64, ahead_ms: i64, gets_it: bool) {
    let mut world = World::new(usize::MAX);
    world.now_ms = now_ms;
    world.relay.on_news(News::Clock { ahead_ms }, false, now_ms);
    world.listen(Since::Now);
    world.settle();
    for _ in 0..2 {
        let arrival = world.broker.publish(0, true);
        world.on_the_way.push_back(News::Arrival(arrival));
        world.arrive(false);
    }
    world.settle();
    let late = world.listen(Since::After(world.logs[0].as_ref().unwrap().got[0]));
    world.settle();
    let log = world.logs[late].as_ref().unwrap();
    let want = if gets_it { (1, 0) } else { (0, 1) };
    assert_eq!((log.got.len(), log.gaps), want, "{now_ms} {ahead_ms}");
}

#[test]
fn messages_age_by_the_brokers_clock() {
    let age_ms = Namespace::default().history_age_ms;
    check_age(0, 0, true);
    check_age(9 * age_ms, 0, false);
    check_age(9 * age_ms, -(9 * age_ms as i64), true);
    check_age(0, 9 * age_ms as i64, false);
}

/// What may be lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The broker keeps a short history, and loses all of it now and then.
    Anything,
    /// On the way, of messages that the broker keeps; it keeps all.
    Stored,
    /// The same; others, which it does not keep, arrive.
    StoredAmongLive,
}

fn check(seed: u64, loss: Loss) {
    let forgets = loss == Loss::Anything;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::new(if forgets {
        rng.usize(0..20)
    } else {
        usize::MAX
    });
    for _ in 0..rng.usize(1..120) {
        world.now_ms += rng.u64(0..20);
        match rng.u32(0..20) {
            0..8 => {
                let skip = if rng.u32(0..20) == 0 { 1000 } else { 0 };
                let is_live = match loss {
                    Loss::Anything => rng.u32(0..10) == 0,
                    Loss::Stored => false,
                    Loss::StoredAmongLive => world.is_open && rng.u32(0..3) == 0,
                };
                let arrival = world.broker.publish(skip, !is_live);
                let is_spared = is_live && !forgets;
                if world.is_open && (is_spared || rng.u32(0..10) > 0) {
                    for _ in 0..1 + rng.u32(0..10) / 9 {
                        world.on_the_way.push_back(News::Arrival(arrival.clone()));
                    }
                }
            }
            8..10 => {
                let head = Position {
                    epoch: world.broker.epoch,
                    offset: world.broker.head,
                };
                let known = world
                    .logs
                    .iter()
                    .flatten()
                    .filter_map(|log| log.has)
                    .next_back();
                let since = match (rng.u32(0..5), known) {
                    (0, _) => Since::Now,
                    (1, _) => Since::Earliest,
                    (2, _) => Since::After(head),
                    (_, Some(has)) => Since::After(has),
                    _ => Since::Last(3),
                };
                world.listen(since);
            }
            10..13 => world.read(),
            13..18 => {
                let may_be_congested = forgets || !world.is_live_waiting();
                world.arrive(may_be_congested && rng.u32(0..10) == 0);
            }
            18 if forgets && rng.u32(0..4) == 0 => world.broker.lose_everything(rng.u64(2..)),
            _ if rng.u32(0..3) == 0
                && world.is_open
                && (forgets || !world.on_the_way.iter().any(is_live)) =>
            {
                // The connection is lost with all that was on its way; what was ordered stays ordered.
                let lost = world.on_the_way.drain(..);
                let standings = lost
                    .filter(|news| matches!(news, News::Standing { .. }))
                    .count();
                for _ in 0..standings {
                    world.opens.push_front(None);
                }
                world.is_open = false;
                let interrupted = News::Interrupted(vec![name()]);
                world.relay.on_news(interrupted, false, world.now_ms);
                world.act();
            }
            _ => {}
        }
    }
    world.settle();
    let head = Position {
        epoch: world.broker.epoch,
        offset: world.broker.head,
    };
    for (asker, log) in world.logs.iter().enumerate() {
        let log = log
            .as_ref()
            .unwrap_or_else(|| panic!("seed {seed}: {asker} waits for ever"));
        assert_eq!(
            log.has,
            Some(head),
            "seed {seed}: {asker} is left behind: {log:?}"
        );
        assert!(
            match loss {
                Loss::Anything => true,
                Loss::Stored => log.gaps == 0,
                Loss::StoredAmongLive => log.gaps_told == 0,
            },
            "seed {seed}: {asker} was told of a loss: {log:?}"
        );
    }
}
