//! The loop of the thread on which the broker's client lives: gathers the shards' orders into few calls, sends what the
//! broker says to the home shards, notices that nothing is heard, and connects anew.
//!
//! It goes in rounds. Each takes what has come from the shards, from the broker and from the clock, begins the calls
//! that are due, and posts its news to each shard at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::backplane::acknowledged::Acknowledged;
use crate::backplane::backoff::Backoff;
use crate::backplane::broker::{Broker, BrokerError, Event, Publishing, Trace};
use crate::backplane::calls::{Answer, CallKind, Write, Writes};
use crate::backplane::note::{self, Note};
use crate::backplane::order::{FromShard, Health, News, Order};
use crate::backplane::registry::Registry;
use crate::backplane::roster::{Asker, Roster};
use crate::hub::ShardId;
use crate::metrics::backplane::BackplaneStats;

mod asking;
mod clock;
mod link;
mod nodes;
mod settings;
mod trouble;

use clock::ClockDifference;
pub(super) use clock::ClockReading;
pub use clock::ShardClock;
use link::{Connected, Link};
pub use settings::DriverSettings;
use trouble::Trouble;

/// Orders of one round; the rest waits for the next.
const ORDERS_PER_ROUND: usize = 4096;

/// Events of one round; the rest waits in the broker's client, which bounds it.
const EVENTS_PER_ROUND: usize = 1024;

/// Notes that wait to be told, packed. What is beyond is not told, and some count is incomplete; a NATS server takes
/// 1 MiB at once.
const NOTES_BYTES_MAX: usize = 256 * 1024;

/// How long events stay with the broker's client after a shard was found to be behind.
const CONGESTION_PAUSE: Duration = Duration::from_millis(5);

/// For the last word to the other nodes.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the news go: the shards' mailboxes.
pub trait Sink {
    /// Takes all of one round's `news` for `shard`, in order.
    fn post(&mut self, shard: ShardId, news: &mut Vec<News>);

    /// Some shard has more mail than it should: what the broker says waits in the broker's client, whose bound then
    /// counts.
    fn is_congested(&self) -> bool {
        false
    }
}

/// Serves the shards until none of them holds a sender of `orders`. How many orders can wait is bounded by what the
/// shards have outstanding and by the number of their channels.
///
/// The shards begin as if they had been told [`Health::Deaf`].
pub async fn run<B: Broker>(
    settings: DriverSettings,
    orders: mpsc::UnboundedReceiver<FromShard>,
    sink: impl Sink,
) {
    let mut driver = Driver::<B, _>::new(settings, orders, sink);
    while driver.round().await {}
    driver.say_farewell().await;
}

struct Driver<B, S> {
    settings: Rc<DriverSettings>,
    sink: S,
    orders: mpsc::UnboundedReceiver<FromShard>,
    link: Link<B>,
    backoff: Backoff,
    /// The shards were told so. Changes are logged, attempts are not.
    is_hearing: bool,
    /// Since the broker was heard last.
    trouble: Trouble,
    registry: Registry,
    writes: Writes,
    acknowledged: Acknowledged,
    roster: Roster,
    clock: ClockDifference,
    /// A pack for the next [`Broker::tell`].
    notes: Vec<u8>,
    /// By shard.
    news: Vec<Vec<News>>,
    stats: BackplaneStats,
    started: Instant,
    /// When a canary came back last.
    heard_at: Instant,
    last_canary: u64,
    /// What the broker may have lost when it is back.
    trace: Option<Trace>,
    beat_at: Instant,
    /// Events were left with the broker's client since the last beat.
    was_congested: bool,
    timer: Pin<Box<Sleep>>,
    incoming: Incoming<B>,
}

/// What has come in one round.
struct Incoming<B> {
    is_over: bool,
    orders: Vec<FromShard>,
    events: Vec<Event>,
    /// No event will come any more.
    is_hung_up: bool,
    answers: Vec<(CallKind, Result<Answer, BrokerError>)>,
    connected: Option<Result<Connected<B>, BrokerError>>,
}

impl<B: Broker, S: Sink> Driver<B, S> {
    fn new(settings: DriverSettings, orders: mpsc::UnboundedReceiver<FromShard>, sink: S) -> Self {
        let now = Instant::now();
        Self {
            sink,
            orders,
            link: Link::Waiting(now),
            backoff: Backoff::new(settings.reconnect_first, settings.reconnect_cap),
            is_hearing: false,
            trouble: Trouble::default(),
            registry: Registry::default(),
            writes: Writes::default(),
            acknowledged: Acknowledged::default(),
            roster: Roster::new(
                settings.broker.node,
                settings.node_silence.as_millis() as u64,
                settings.count_timeout.as_millis() as u64,
            ),
            clock: ClockDifference::default(),
            notes: Vec::new(),
            news: (0..settings.n_shards).map(|_| Vec::new()).collect(),
            stats: BackplaneStats::default(),
            started: now,
            heard_at: now,
            last_canary: 0,
            trace: None,
            beat_at: now,
            was_congested: false,
            timer: Box::pin(sleep_until(now)),
            incoming: Incoming {
                is_over: false,
                orders: Vec::new(),
                events: Vec::new(),
                is_hung_up: false,
                answers: Vec::new(),
                connected: None,
            },
            settings: Rc::new(settings),
        }
    }

    /// `false` when the shards have gone.
    async fn round(&mut self) -> bool {
        let is_congested = self.sink.is_congested();
        self.was_congested |= is_congested;
        let mut deadline = self.next_deadline();
        if is_congested {
            deadline = deadline.min(Instant::now() + CONGESTION_PAUSE);
        }
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        poll_fn(|cx| self.poll(cx, is_congested)).await;

        let now = Instant::now();
        let lost = self.on_broker(now);
        if let Some(error) = lost {
            self.on_lost(&error, now);
        }
        match self.incoming.connected.take() {
            Some(Ok(connected)) => self.on_connected(connected, now),
            Some(Err(error)) => {
                self.stats.connect_failures_total += 1;
                self.connect_later(&error, now);
            }
            None => {}
        }
        let mut orders = std::mem::take(&mut self.incoming.orders);
        for from_shard in orders.drain(..) {
            self.on_order(from_shard, now);
        }
        self.incoming.orders = orders;
        self.on_time(now);
        self.begin_calls(now);
        self.post_news();
        !self.incoming.is_over
    }

    /// Polls everything, so that nothing that is always ready starves the rest.
    fn poll(&mut self, cx: &mut Context<'_>, is_congested: bool) -> Poll<()> {
        let Self {
            orders,
            link,
            incoming,
            timer,
            ..
        } = self;
        let mut is_ready = timer.as_mut().poll(cx).is_ready();
        if let Poll::Ready(n) = orders.poll_recv_many(cx, &mut incoming.orders, ORDERS_PER_ROUND) {
            incoming.is_over = n == 0;
            is_ready = true;
        }
        match link {
            Link::Waiting(_) => {}
            Link::Connecting(future) => {
                if let Poll::Ready(connected) = future.as_mut().poll(cx) {
                    incoming.connected = Some(connected);
                    is_ready = true;
                }
            }
            Link::Up(connection) => {
                // First, so that the events that a call has caused are taken in the round of its answer or before.
                is_ready |= connection.calls.poll(cx, &mut incoming.answers).is_ready();
                if !is_congested
                    && let Poll::Ready(n) =
                        connection
                            .events
                            .poll_recv_many(cx, &mut incoming.events, EVENTS_PER_ROUND)
                {
                    incoming.is_hung_up = n == 0;
                    is_ready = true;
                }
            }
        }
        if is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn next_deadline(&self) -> Instant {
        let count_end = self
            .roster
            .next_end_ms()
            .map(|end_ms| self.started + Duration::from_millis(end_ms));
        let connect_at = match &self.link {
            Link::Waiting(until) => Some(*until),
            _ => None,
        };
        [count_end, connect_at]
            .into_iter()
            .flatten()
            .fold(self.beat_at, Instant::min)
    }

    fn on_time(&mut self, now: Instant) {
        if let Link::Waiting(until) = &self.link
            && *until <= now
        {
            self.connect();
        }
        if self.beat_at <= now {
            self.beat_at = now + self.settings.beat;
            self.send_life_signs(now);
            self.ask_for_time(now);
            self.send_stats(now);
        }
        let mut counted = Vec::new();
        self.roster.expire(self.now_ms(now), &mut counted);
        self.tell_counted(&counted);
    }

    fn on_order(&mut self, FromShard { shard, order }: FromShard, now: Instant) {
        match order {
            Order::Publish {
                ticket,
                publish,
                keep,
                receivers,
            } => {
                let publishing = Publishing {
                    publish,
                    keep,
                    receivers,
                };
                self.write(Asker { shard, ticket }, Write::Publish(publishing));
            }
            Order::Delete {
                ticket,
                channel,
                keep,
            } => self.write(Asker { shard, ticket }, Write::Delete { channel, keep }),
            Order::Open {
                channel,
                after,
                keep,
            } => {
                self.registry.open(shard, channel, after, keep);
            }
            Order::Close(channel) => self.registry.close(&channel),
            Order::Count { ticket, channel } => {
                let question = self.roster.ask(Asker { shard, ticket }, self.now_ms(now));
                self.add_note(&Note::Asked {
                    question,
                    channel: channel.clone(),
                });
                self.tell(shard, News::CountWanted { question, channel });
            }
            Order::CountAnswer {
                question,
                listeners,
            } => {
                let me = self.settings.broker.node;
                if question.node == me {
                    let counted = self.roster.answer(question.number, me, listeners);
                    self.tell_counted(counted.as_slice());
                } else {
                    self.add_note(&Note::Answered {
                        question,
                        node: me,
                        listeners,
                    });
                }
            }
        }
    }

    fn write(&mut self, asker: Asker, write: Write) {
        if matches!(self.link, Link::Up(_)) {
            self.writes.push(asker, write);
        } else {
            self.answer_away(asker, &write);
        }
    }

    /// Takes what the broker has said and answered. Says why it is lost, if it is.
    fn on_broker(&mut self, now: Instant) -> Option<BrokerError> {
        let mut lost = None;
        let mut events = std::mem::take(&mut self.incoming.events);
        self.stats.events_total += events.len() as u64;
        if let Link::Up(up) = &mut self.link {
            up.events_taken += events.len() as u64;
        }
        for event in events.drain(..) {
            match event {
                Event::Broken(error) => {
                    lost.get_or_insert(error);
                }
                event => self.on_event(event, now),
            }
        }
        self.incoming.events = events;
        if std::mem::take(&mut self.incoming.is_hung_up) {
            lost.get_or_insert_with(|| BrokerError("the broker's client has ended".into()));
        }
        let mut answers = std::mem::take(&mut self.incoming.answers);
        for (kind, answer) in answers.drain(..) {
            match answer {
                Ok(answer) => self.on_answer(kind, answer, now),
                Err(error) => {
                    self.fail(kind);
                    lost.get_or_insert(error);
                }
            }
        }
        self.incoming.answers = answers;
        self.tell_standings();
        lost
    }

    fn on_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Arrival(arrival) => {
                if let Some(home) = self.registry.home(&arrival.message.channel) {
                    self.tell(home, News::Arrival(arrival));
                }
            }
            Event::Moved(channel) => {
                if let Some(home) = self.registry.home(&channel) {
                    self.tell(home, News::Moved(channel));
                }
            }
            Event::Ended(channel) => {
                self.acknowledged.forget(&channel);
                if let Some(home) = self.registry.home(&channel) {
                    self.tell(home, News::Ended(channel));
                }
            }
            Event::Canary { connection, number } => {
                let Link::Up(up) = &mut self.link else { return };
                if up.canary.on_return(connection, number) {
                    self.heard_at = now;
                    self.on_heard();
                }
            }
            Event::Note(pack) => note::read(&pack).for_each(|note| self.on_note(note, now)),
            // Its reader ends the connection before it comes here.
            Event::Broken(_) => {}
        }
    }

    /// A canary, and a note that this node is there.
    fn send_life_signs(&mut self, now: Instant) {
        let was_congested = std::mem::take(&mut self.was_congested);
        let Link::Up(up) = &mut self.link else { return };
        // A canary that was not looked at is not lost.
        if !was_congested {
            let Some(number) = up.canary.next(self.settings.canaries_lost_max) else {
                self.stats.deafnesses_total += 1;
                let error = BrokerError("what is sent to the broker does not come back".into());
                self.on_lost(&error, now);
                return;
            };
            let broker = Rc::clone(&up.broker);
            up.calls.begin(CallKind::Canary, async move {
                broker.canary(number).await.map(|()| Answer::Done)
            });
        }
        self.add_note(&Note::Here(self.settings.broker.node));
    }

    fn send_stats(&mut self, now: Instant) {
        self.stats.is_hearing = self.is_hearing;
        self.stats.canary_age_ms = (now - self.heard_at).as_millis() as u64;
        self.stats.nodes = self.roster.n_nodes(self.now_ms(now));
        self.stats.publishes_waiting = self.writes.len();
        self.stats.channels_listened = self.registry.n_listened();
        self.stats.channels_waiting = self.registry.n_waiting();
        let stats = Box::new(self.stats.clone());
        self.stats.publish_call_us_max = 0;
        self.tell(ShardId(0), News::Stats(stats));
    }

    fn tell_health(&mut self, health: Health) {
        for news in &mut self.news {
            news.push(News::Health(health));
        }
    }

    fn tell(&mut self, shard: ShardId, news: News) {
        self.news[usize::from(shard.0)].push(news);
    }

    fn post_news(&mut self) {
        for (index, news) in self.news.iter_mut().enumerate() {
            if !news.is_empty() {
                self.sink.post(ShardId(index as u16), news);
                news.clear();
            }
        }
    }

    fn now_ms(&self, now: Instant) -> u64 {
        (now - self.started).as_millis() as u64
    }
}

#[cfg(test)]
mod tests;
