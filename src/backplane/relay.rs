//! A home whose channels are numbered by a broker: it takes what comes from there in order, without a hole and without
//! a repeat, keeps it for those who come back, and asks the broker for what it misses.
//!
//! A channel is *opened* when somebody asks about it: the broker is listened to and says where the channel stands. From
//! then on the history here is the broker's, so that ten thousand clients who come back cost the broker one reading.
//! It is closed when nobody has listened for a while.
//!
//! A *reading* is under way at most once for each channel. It settles what was in doubt when it was ordered: the first
//! standing, a hole in front of a message, a cursor that is ahead of what is known here, another epoch, a connection
//! that was lost. What is still not there after it is lost, and listeners are told. What has come into doubt since, and
//! all of it if this node is behind with its sends when the answer comes, is for the next reading.

mod feed;
mod incoming;
mod sweep;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use crate::backplane::order::{Health, Keep, News, NotPublished, Order, Ticket};
use crate::config::{self, Config, Degraded, Namespace};
use crate::hub::channel::Channel;
use crate::hub::histories::Histories;
use crate::hub::message::{ChannelName, Message};
use crate::hub::namespaces::{Namespaces, page};
use crate::hub::position::Position;
use crate::hub::replay::Replay;
use crate::hub::{ChannelInfo, HomeRefusal, Listen, Publish, Published, Scope, ShardId};
use feed::{Feed, UNKNOWN, Waiting};

/// Bytes that a publish on its way to the broker counts for, beside its payload.
const PUBLISH_BYTES: usize = 256;

/// What the owner of a relay has to do, in this order. `A` names whoever asked.
#[derive(Debug)]
pub enum Act<A> {
    Order(Order),
    Replayed {
        asker: A,
        channel: ChannelName,
        replay: Replay,
        listening: bool,
    },
    /// Of whoever wanted to listen, or to be informed.
    Refused(A, HomeRefusal),
    Informed(A, Option<ChannelInfo>),
    Published(A, Result<(Published, Scope), HomeRefusal>),
    Deleted(A, Result<bool, HomeRefusal>),
    Tell(ShardId, Tell),
}

/// What a shard with listeners is told.
#[derive(Clone, Debug)]
pub enum Tell {
    Message(Arc<Message>),
    Gap(ChannelName, Position),
    End(ChannelName),
}

/// A question that the broker, or other nodes, have to answer.
#[derive(Debug)]
enum Ticketed<A> {
    Publish {
        asker: A,
        bytes: usize,
        counts: bool,
        channel: ChannelName,
    },
    Count {
        asker: A,
        published: Published,
    },
    Delete(A),
}

#[derive(Debug)]
pub struct Relay<A> {
    config: Arc<Config>,
    namespaces: Namespaces,
    feeds: Slab<Feed<A>>,
    by_name: BTreeMap<ChannelName, u32>,
    tickets: Slab<Ticketed<A>>,
    channels_max: usize,
    histories: Histories,
    /// Of publishes that the broker has not answered yet.
    queue_bytes: usize,
    queue_bytes_max: usize,
    health: Health,
    /// The times that messages have are by the broker's clock, all others by the owner's.
    broker_ahead_ms: i64,
    sweep_next: usize,
    acts: VecDeque<Act<A>>,
    /// Messages in front of which another one was missing.
    pub holes_found_total: u64,
    /// Messages that came with a reading while somebody listened, and not by themselves.
    pub caught_up_messages_total: u64,
    /// Losses that listeners were told of.
    pub gaps_total: u64,
}

impl<A: Copy> Relay<A> {
    /// A relay that holds its share, one of `n_shards`, of the process's limits.
    pub fn new(config: Arc<Config>, n_shards: usize) -> Self {
        let share = |limit| config::share(limit, n_shards);
        Self {
            namespaces: Namespaces::new(&config),
            feeds: Slab::new(),
            by_name: BTreeMap::new(),
            tickets: Slab::new(),
            channels_max: share(config.limits.channels_max),
            histories: Histories::new(share(config.limits.history_bytes_total_max)),
            queue_bytes: 0,
            queue_bytes_max: share(config.limits.backplane_queue_bytes_max),
            health: Health::Deaf,
            broker_ahead_ms: 0,
            sweep_next: 0,
            acts: VecDeque::new(),
            holes_found_total: 0,
            caught_up_messages_total: 0,
            gaps_total: 0,
            config,
        }
    }

    /// Another configuration from now on. The channels get their settings by and by, from [`sweep`](Self::sweep).
    pub fn reload(&mut self, config: Arc<Config>, n_shards: usize) {
        let share = |limit| config::share(limit, n_shards);
        self.channels_max = share(config.limits.channels_max);
        self.histories
            .set_limit(share(config.limits.history_bytes_total_max));
        self.queue_bytes_max = share(config.limits.backplane_queue_bytes_max);
        if config.namespaces != self.config.namespaces {
            self.namespaces = Namespaces::new(&config);
        }
        self.config = config;
    }

    /// What is to be done next.
    pub fn next_act(&mut self) -> Option<Act<A>> {
        self.acts.pop_front()
    }

    /// The broker can be heard, so publishes can be promised.
    pub fn is_hearing(&self) -> bool {
        self.health == Health::Hearing
    }

    /// Channels that are opened.
    pub fn channels(&self) -> usize {
        self.feeds.len()
    }

    pub fn history_bytes(&self) -> usize {
        self.histories.bytes()
    }

    pub fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Takes a publish to the broker; the answer comes as [`Act::Published`]. `counts`: with the listeners of all
    /// nodes.
    pub fn publish(&mut self, asker: A, publish: Publish, counts: bool, now_ms: u64) {
        let feed = self.index_of(&publish.channel);
        let feed = feed.map(|index| &self.feeds[index]);
        let receivers = feed.map_or(0, |feed| feed.channel.listeners());
        let namespace = self.namespaces.of(&publish.channel);
        if self.health == Health::Deaf {
            let known = feed.filter(|feed| feed.is_known && namespace.degraded == Degraded::Local);
            let result = match known.map(|feed| feed.channel.head()) {
                Some(head) => Ok(self.publish_here(publish, head, receivers, now_ms)),
                None => Err(HomeRefusal::BrokerAway),
            };
            return self.acts.push_back(Act::Published(asker, result));
        }
        let bytes = PUBLISH_BYTES + publish.payload.len();
        if self.queue_bytes + bytes > self.queue_bytes_max {
            let slow = Err(HomeRefusal::BrokerSlow);
            return self.acts.push_back(Act::Published(asker, slow));
        }
        self.queue_bytes += bytes;
        let ticket = self.ticket(Ticketed::Publish {
            asker,
            bytes,
            counts,
            channel: publish.channel.clone(),
        });
        let keep = self.keep(&namespace);
        self.acts.push_back(Act::Order(Order::Publish {
            ticket,
            publish,
            keep,
            receivers,
        }));
    }

    /// Brings a message to those who listen on this node, and nowhere else. It has the position of the last one before
    /// it, so that the cursors of its listeners still say what they have of the broker's.
    fn publish_here(
        &mut self,
        publish: Publish,
        head: Position,
        receivers: u32,
        now_ms: u64,
    ) -> (Published, Scope) {
        let now_ms = self.broker_ms(now_ms);
        let message = Arc::new(Message {
            channel: publish.channel,
            position: head,
            previous: head.offset,
            kind: publish.kind,
            event: publish.event,
            payload: publish.payload,
            published_ms: now_ms,
            published_us: now_ms * 1000,
            expires_ms: now_ms,
        });
        if let Some(index) = self.index_of(&message.channel) {
            self.tell(index, Tell::Message(message));
        }
        let published = Published {
            position: head,
            receivers,
        };
        (published, Scope::Local)
    }

    /// The answer comes as [`Act::Replayed`] or [`Act::Refused`]. Whoever stays is counted as listening on
    /// `shard` until [`unlisten`](Self::unlisten).
    pub fn listen(&mut self, asker: A, listen: Listen, shard: ShardId, now_ms: u64) {
        let Some(index) = self.feed_or_new(&listen.channel, now_ms) else {
            return self
                .acts
                .push_back(Act::Refused(asker, HomeRefusal::ChannelsFull));
        };
        let feed = &mut self.feeds[index];
        if feed.can_answer(listen.since) {
            return self.replay(index, asker, &listen, shard, now_ms);
        }
        if !feed.is_known && self.health == Health::Deaf {
            return self
                .acts
                .push_back(Act::Refused(asker, HomeRefusal::BrokerAway));
        }
        self.wait(index, asker, Waiting::Listen(listen, shard), now_ms);
    }

    /// The answer comes as [`Act::Informed`], or as [`Act::Refused`].
    pub fn info(&mut self, asker: A, name: &ChannelName, now_ms: u64) {
        match self.feed_or_new(name, now_ms) {
            Some(index) if self.feeds[index].is_known => self.inform(index, asker, now_ms),
            Some(_) if self.health == Health::Deaf => {
                let away = Act::Refused(asker, HomeRefusal::BrokerAway);
                self.acts.push_back(away);
            }
            Some(index) => self.wait(index, asker, Waiting::Info, now_ms),
            None => {
                let full = Act::Refused(asker, HomeRefusal::ChannelsFull);
                self.acts.push_back(full);
            }
        }
    }

    /// The answer comes as [`Act::Deleted`]; the listeners' end as news.
    pub fn delete(&mut self, asker: A, channel: &ChannelName) {
        if self.health == Health::Deaf {
            let away = Err(HomeRefusal::BrokerAway);
            return self.acts.push_back(Act::Deleted(asker, away));
        }
        let ticket = self.ticket(Ticketed::Delete(asker));
        let keep = self.keep(&self.namespaces.of(channel));
        let channel = channel.clone();
        self.acts.push_back(Act::Order(Order::Delete {
            ticket,
            channel,
            keep,
        }));
    }

    /// One listener on `shard` less.
    pub fn unlisten(&mut self, name: &ChannelName, shard: ShardId, now_ms: u64) {
        if let Some(index) = self.index_of(name) {
            let feed = &mut self.feeds[index];
            feed.channel.unlisten(shard, now_ms);
            feed.used_ms = now_ms;
        }
    }

    /// As [`Hub::list`](crate::hub::Hub::list), of the channels that are opened here.
    pub fn list(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now_ms: u64,
    ) -> Vec<ChannelInfo> {
        let indices: Vec<_> = page(&self.by_name, prefix, after)
            .filter(|&index| self.feeds[index].is_worth_telling())
            .take(limit)
            .collect();
        let info = |index: usize| {
            self.expire(index, now_ms);
            self.feeds[index].channel.info()
        };
        indices.into_iter().map(info).collect()
    }

    /// Something has come from the broker. `is_congested`: this node is behind with its sends, and takes no messages.
    pub fn on_news(&mut self, news: News, is_congested: bool, now_ms: u64) {
        match news {
            News::Published { ticket, result } => self.on_published(ticket, result),
            News::Deleted { ticket, result } => {
                if let Some(Ticketed::Delete(asker)) = self.redeem(ticket) {
                    let result = result.map_err(HomeRefusal::from);
                    self.acts.push_back(Act::Deleted(asker, result));
                }
            }
            News::Counted { ticket, count } => {
                if let Some(Ticketed::Count { asker, published }) = self.redeem(ticket) {
                    let receivers = count.listeners;
                    let published = Published {
                        receivers,
                        ..published
                    };
                    let result = Ok((
                        published,
                        Scope::Cluster {
                            nodes: count.nodes,
                            is_complete: count.is_complete,
                        },
                    ));
                    self.acts.push_back(Act::Published(asker, result));
                }
            }
            News::CountWanted { question, channel } => {
                let feed = self.index_of(&channel).map(|index| &self.feeds[index]);
                let listeners = feed.map_or(0, |feed| feed.channel.listeners());
                self.acts.push_back(Act::Order(Order::CountAnswer {
                    question,
                    listeners,
                }));
            }
            News::Standing { channel, standing } => {
                if let Some(index) = self.index_of(&channel) {
                    self.on_standing(index, standing, is_congested, now_ms);
                }
            }
            News::Arrival(arrival) => {
                if let Some(index) = self.index_of(&arrival.message.channel) {
                    self.on_arrival(index, arrival, is_congested, now_ms);
                }
            }
            News::Moved(channel) => {
                if let Some(index) = self.index_of(&channel) {
                    self.read_anew(index);
                }
            }
            News::Ended(channel) => {
                if let Some(index) = self.index_of(&channel) {
                    self.on_ended(index);
                }
            }
            News::Interrupted(channels) => {
                for channel in channels {
                    if let Some(index) = self.index_of(&channel) {
                        self.on_interrupted(index);
                    }
                }
            }
            News::Health(health) => self.on_health(health),
            News::Clock { ahead_ms } => self.broker_ahead_ms = ahead_ms,
            // For the owner.
            News::Stats(_) => {}
        }
    }

    fn on_published(&mut self, ticket: Ticket, result: Result<Published, NotPublished>) {
        let Some(Ticketed::Publish {
            asker,
            bytes,
            counts,
            channel,
        }) = self.redeem(ticket)
        else {
            return;
        };
        self.queue_bytes -= bytes;
        match result {
            Ok(published) if counts => {
                let ticket = self.ticket(Ticketed::Count { asker, published });
                self.acts
                    .push_back(Act::Order(Order::Count { ticket, channel }));
            }
            Ok(published) => {
                let result = Ok((published, Scope::Node));
                self.acts.push_back(Act::Published(asker, result));
            }
            Err(reason) => self
                .acts
                .push_back(Act::Published(asker, Err(reason.into()))),
        }
    }

    fn on_health(&mut self, health: Health) {
        self.health = health;
        if health == Health::Deaf {
            let waited_for: Vec<_> = (self.feeds.iter())
                .filter(|(_, feed)| !feed.waiters.is_empty())
                .map(|(index, _)| index)
                .collect();
            for index in waited_for {
                self.refuse_waiters(index, |_| true);
            }
        }
    }

    fn index_of(&self, name: &ChannelName) -> Option<usize> {
        self.by_name.get(name).map(|&index| index as usize)
    }

    fn feed_or_new(&mut self, name: &ChannelName, now_ms: u64) -> Option<usize> {
        if let Some(index) = self.index_of(name) {
            return Some(index);
        }
        if self.feeds.len() >= self.channels_max {
            return None;
        }
        let namespace = self.namespaces.of(name);
        let index = self.feeds.insert(Feed {
            channel: Channel::new(name.clone(), namespace, UNKNOWN.epoch, now_ms),
            is_known: false,
            is_used: false,
            is_reading: false,
            reading: 0,
            is_in_doubt: false,
            held: Vec::new(),
            waiters: Vec::new(),
            read_ms: now_ms,
            used_ms: now_ms,
        });
        self.by_name.insert(name.clone(), index as u32);
        Some(index)
    }

    fn close(&mut self, index: usize) {
        let name = self.feeds[index].channel.name.clone();
        self.acts.push_back(Act::Order(Order::Close(name)));
        self.forget(index);
    }

    fn forget(&mut self, index: usize) {
        let feed = self.feeds.remove(index);
        self.histories.remove(&feed.channel);
        self.by_name.remove(&feed.channel.name);
    }

    /// What the broker's clock shows at `now_ms`.
    fn broker_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.broker_ahead_ms)
    }

    fn expire(&mut self, index: usize, now_ms: u64) {
        let now_ms = self.broker_ms(now_ms);
        let channel = &mut self.feeds[index].channel;
        self.histories
            .change(channel, |channel, _| channel.expire(now_ms));
    }

    fn tell(&mut self, index: usize, tell: Tell) {
        for shard in self.feeds[index].channel.listening_shards() {
            self.acts.push_back(Act::Tell(shard, tell.clone()));
        }
    }

    fn ticket(&mut self, ticketed: Ticketed<A>) -> Ticket {
        Ticket(self.tickets.insert(ticketed) as u64)
    }

    fn redeem(&mut self, ticket: Ticket) -> Option<Ticketed<A>> {
        self.tickets.try_remove(ticket.0 as usize)
    }

    fn keep(&self, namespace: &Namespace) -> Keep {
        let timing = &self.config.timing;
        Keep::new(
            namespace,
            timing.channel_idle_timeout_ms,
            timing.idempotency_window_ms,
        )
    }
}

impl From<NotPublished> for HomeRefusal {
    fn from(reason: NotPublished) -> Self {
        match reason {
            NotPublished::Away => Self::BrokerAway,
            NotPublished::Refused => Self::BrokerRefused,
        }
    }
}

#[cfg(test)]
mod tests;
