//! The shard as a home whose messages a broker numbers: its questions go to the relay, and what the relay wants done
//! is done here.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use crate::api::question::{Answer, Question};
use crate::backplane::order::{FromShard, News, Order};
use crate::backplane::relay::{Act, Relay, Tell};
use crate::config::Config;
use crate::hub::ShardId;
use crate::metrics::backplane::{Backplane, BackplaneStats};
use crate::shard::Shard;
use crate::shard::mailbox::Asker;
use crate::shard::mailbox::Mail;

/// A relay and its way to the broker's thread.
#[derive(Debug)]
pub(super) struct Relayed {
    pub(super) relay: Relay<Asker>,
    orders: UnboundedSender<FromShard>,
    /// Of this turn.
    pending: Vec<Order>,
    /// The acts are being done, further up the stack.
    is_acting: bool,
    /// What the broker's thread has counted; it tells the first shard.
    stats: BackplaneStats,
}

impl Relayed {
    pub(super) fn measure(&self) -> Box<Backplane> {
        Box::new(Backplane {
            holes_total: self.relay.holes_found_total,
            caught_up_messages_total: self.relay.caught_up_messages_total,
            losses_total: self.relay.gaps_total,
            queue_bytes: self.relay.queue_bytes() as u64,
            stats: self.stats.clone(),
        })
    }
}

impl Shard {
    /// From now on a broker numbers the messages of this home, reached by `orders`. What waits in that queue is
    /// bounded by the relay: publishes in bytes, openings by the number of channels.
    pub fn keep_relay(&mut self, orders: UnboundedSender<FromShard>) {
        let config: Arc<Config> = self.config.clone();
        self.relay = Some(Relayed {
            relay: Relay::new(config, self.post.n_shards()),
            orders,
            pending: Vec::new(),
            is_acting: false,
            stats: BackplaneStats::default(),
        });
    }

    /// Messages cannot be promised: a broker numbers them, and it cannot be heard.
    pub(super) fn is_deaf(&self) -> bool {
        (self.relay.as_ref()).is_some_and(|relayed| !relayed.relay.is_hearing())
    }

    /// Answers as the home, from what is here or once the broker has spoken.
    pub(super) fn ask_relay(&mut self, asker: Asker, question: Question) -> Option<Answer> {
        let now_ms = self.clock.hub_ms;
        let relay = &mut self.relay.as_mut()?.relay;
        match question {
            Question::Publish(publish) => relay.publish(asker, publish, false, now_ms),
            Question::PublishCounted(publish) => relay.publish(asker, publish, true, now_ms),
            Question::Listen(listen) => relay.listen(asker, listen, asker.shard, now_ms),
            Question::Info(channel) => relay.info(asker, &channel, now_ms),
            Question::Delete(channel) => relay.delete(asker, &channel),
            Question::List(list) => {
                let page = relay.list(&list.prefix, list.after.as_deref(), list.limit, now_ms);
                return Some(Answer::List(page));
            }
            Question::Authorize(_) | Question::Inquiry(_) | Question::Metrics => {
                unreachable!("about no channel")
            }
        }
        self.act(Some(asker))
    }

    pub(super) fn on_backplane_news(&mut self, news: News) {
        if let (News::Stats(stats), Some(relayed)) = (&news, &mut self.relay) {
            relayed.stats = BackplaneStats::clone(stats);
            return;
        }
        let is_congested =
            matches!(news, News::Arrival(_) | News::Standing { .. }) && self.is_congested();
        if let Some(relayed) = &mut self.relay {
            relayed.relay.on_news(news, is_congested, self.clock.hub_ms);
            self.act(None);
        }
    }

    pub(super) fn sweep_relay(&mut self) {
        if self.relay.is_some() {
            let is_congested = self.is_congested();
            if let Some(relayed) = &mut self.relay {
                relayed.relay.sweep(is_congested, self.clock.hub_ms);
                self.act(None);
            }
        }
    }

    /// Hands the turn's orders over.
    pub(super) fn send_orders(&mut self) {
        if let Some(relayed) = &mut self.relay {
            for order in relayed.pending.drain(..) {
                let shard = self.id;
                // The broker's thread outlives the shards; where it does not, the process is on its way down.
                let _ = relayed.orders.send(FromShard { shard, order });
            }
        }
    }

    /// Does what the relay wants done. Who asks at this moment gets its answer back, if it is there already.
    ///
    /// An answer may make its connection ask again, on this very stack. What the relay wants then comes behind what it
    /// wanted before: a message that a replay has must not come again.
    fn act(&mut self, asking: Option<Asker>) -> Option<Answer> {
        let relayed = self.relay.as_mut()?;
        if std::mem::replace(&mut relayed.is_acting, true) {
            return None;
        }
        let mut own = None;
        while let Some(act) = self.next_act() {
            let (asker, answer) = match act {
                Act::Order(order) => {
                    self.order(order);
                    continue;
                }
                Act::Tell(shard, tell) => {
                    self.pass_on(shard, tell);
                    continue;
                }
                Act::Replayed {
                    asker,
                    channel,
                    replay,
                    listening,
                } => {
                    let answer = Answer::Replay {
                        channel,
                        replay,
                        listening,
                    };
                    (asker, answer)
                }
                Act::Refused(asker, refusal) => {
                    (asker, Answer::Refused(self.complain_of_refusal(refusal)))
                }
                Act::Informed(asker, info) => (asker, Answer::Info(info)),
                Act::Published(asker, result) => {
                    let result = result.map_err(|refusal| self.complain_of_refusal(refusal));
                    (asker, Answer::Published(result))
                }
                Act::Deleted(asker, result) => {
                    let result = result.map_err(|refusal| self.complain_of_refusal(refusal));
                    (asker, Answer::Deleted(result))
                }
            };
            if asking == Some(asker) {
                own = Some(answer);
            } else {
                self.reply(asker, answer);
            }
        }
        if let Some(relayed) = &mut self.relay {
            relayed.is_acting = false;
        }
        own
    }

    fn next_act(&mut self) -> Option<Act<Asker>> {
        self.relay.as_mut()?.relay.next_act()
    }

    fn order(&mut self, order: Order) {
        if let Some(relayed) = &mut self.relay {
            relayed.pending.push(order);
        }
    }

    fn pass_on(&mut self, shard: ShardId, tell: Tell) {
        let mail = match tell {
            Tell::Message(message) => Mail::Publication(message),
            Tell::Gap(channel, position) => Mail::Gap(channel, position),
            Tell::End(channel) => Mail::EndListeners(channel),
        };
        self.tell(shard, mail);
    }
}
