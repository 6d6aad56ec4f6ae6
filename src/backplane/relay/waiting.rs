//! Whoever asks about a channel: answered from what is here, or after a reading.

use super::feed::{Waiter, Waiting};
use super::{Act, Relay};
use crate::backplane::order::Order;
use crate::hub::{HomeRefusal, Listen, ShardId};

impl<A: Copy> Relay<A> {
    pub(super) fn wait(&mut self, index: usize, asker: A, question: Waiting, now_ms: u64) {
        let feed = &mut self.feeds[index];
        feed.waiters.push(Waiter {
            asker,
            question,
            needs: feed.next_reading(),
            since_ms: now_ms,
        });
        self.read(index);
    }

    pub(super) fn answer_waiters(&mut self, index: usize, is_congested: bool, now_ms: u64) {
        let mut waiters = std::mem::take(&mut self.feeds[index].waiters);
        for waiter in waiters.drain(..) {
            let feed = &mut self.feeds[index];
            match &waiter.question {
                Waiting::Info => self.inform(index, waiter.asker, now_ms),
                Waiting::Listen(listen, shard)
                    if feed.can_answer(listen.since)
                        || waiter.needs <= feed.reading && !is_congested =>
                {
                    self.replay(index, waiter.asker, listen, *shard, now_ms);
                }
                Waiting::Listen(..) => feed.waiters.push(waiter),
            }
        }
    }

    pub(super) fn refuse_waiters(&mut self, index: usize, is_over: impl Fn(&Waiter<A>) -> bool) {
        let waiters = &mut self.feeds[index].waiters;
        for waiter in waiters.extract_if(.., |waiter| is_over(waiter)) {
            let away = Act::Refused(waiter.asker, HomeRefusal::BrokerAway);
            self.acts.push_back(away);
        }
    }

    pub(super) fn replay(
        &mut self,
        index: usize,
        asker: A,
        listen: &Listen,
        shard: ShardId,
        now_ms: u64,
    ) {
        self.expire(index, now_ms);
        let feed = &mut self.feeds[index];
        feed.used_ms = now_ms;
        let replay = (feed.channel).replay(listen.since, listen.messages_max, listen.bytes_max);
        let listening = listen.mode.stays(&replay);
        if listening {
            feed.channel.listen(shard, now_ms);
        }
        self.acts.push_back(Act::Replayed {
            asker,
            channel: listen.channel.clone(),
            replay,
            listening,
        });
    }

    pub(super) fn inform(&mut self, index: usize, asker: A, now_ms: u64) {
        self.expire(index, now_ms);
        let feed = &mut self.feeds[index];
        feed.used_ms = now_ms;
        let info = feed.is_worth_telling().then(|| feed.channel.info());
        self.acts.push_back(Act::Informed(asker, info));
    }

    /// Orders a reading, unless one is under way. Whoever came meanwhile waits for the next one.
    pub(super) fn read(&mut self, index: usize) {
        let feed = &mut self.feeds[index];
        if feed.is_reading {
            return;
        }
        feed.is_reading = true;
        feed.is_in_doubt = false;
        feed.reading += 1;
        let after = feed.is_known.then(|| feed.channel.head());
        let channel = feed.channel.name.clone();
        let keep = self.keep(&self.namespaces.of(&channel));
        self.acts.push_back(Act::Order(Order::Open {
            channel,
            after,
            keep,
        }));
    }

    /// As [`read`](Self::read), and once more if one is under way, which may be from before.
    pub(super) fn read_anew(&mut self, index: usize) {
        let feed = &mut self.feeds[index];
        feed.is_in_doubt = true;
        self.read(index);
    }
}
