//! Who on this shard listens to what, and which messages are on their way to them.
//!
//! A broadcast is a *pass* over the channel's listeners in slices, so that a message to 100,000 of them does not keep
//! the others waiting. Messages that come while a pass runs are gathered into the next one: the busier the channel,
//! the more messages each listener gets with one write.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use slab::Slab;

use crate::hub::batch::Batch;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::Position;

/// The connection of a free slot.
const VACANT: u32 = u32::MAX;

/// Listeners that one channel gets in one slice before the next channel's turn: a message to one listener does not
/// wait for a message to many.
const SLICE_LISTENERS_MAX: usize = 64;

/// Places looked at for one slice: after a crowd has left, most are vacant.
const SLICE_SLOTS_MAX: usize = 4096;

/// Bytes of messages gathered into one pass. One message may be larger.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// A channel with listeners on this shard, for as long as it has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelIndex(u32);

/// One connection's listening on one channel; valid until it is given to [`Fanout::unlisten`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    channel: ChannelIndex,
    slot: u32,
}

impl Subscription {
    /// As in a [`Slice`].
    pub fn channel(self) -> ChannelIndex {
        self.channel
    }
}

/// One delivery to some of a channel's listeners.
#[derive(Clone, Debug)]
pub struct Slice {
    pub channel: ChannelIndex,
    pub delivery: Delivery,
}

/// What a pass brings to the listeners.
#[derive(Clone, Debug)]
pub enum Delivery {
    Messages(Rc<Batch>),
    /// Messages up to this position are lost for everybody who listens.
    Gap(ChannelName, Position),
    /// The channel was deleted: its listeners are to be ended.
    End,
}

/// What is still on its way, oldest first.
#[derive(Debug)]
enum Load {
    /// Takes further messages until somebody starts to listen, who must not get them twice.
    Gathering {
        messages: Vec<Arc<Message>>,
        bytes: usize,
    },
    Ready(Delivery),
}

/// One listener of a channel.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Its index, or [`VACANT`].
    connection: u32,
    /// The first pass that it has not had; what was on its way before it came, it has from the history. Moves on
    /// with every visit, so that numbers which wrap around stay comparable.
    next_pass: u32,
}

#[derive(Debug)]
struct Pass {
    /// Counts the channel's passes, wrapping around.
    number: u32,
    load: Load,
    /// What this pass adds to the backlog.
    bytes: usize,
    /// Slots from here on were made later.
    slots_end: usize,
    /// The first slot to visit; the pass wraps around, so that no listener is always the last one.
    slots_start: usize,
    visited: usize,
}

/// One channel's listeners on this shard. A slot never moves, so a connection may keep its number.
#[derive(Debug)]
struct Listeners {
    name: ChannelName,
    slots: Vec<Slot>,
    /// Slots that somebody left, to be used again.
    vacant: Vec<u32>,
    passes: VecDeque<Pass>,
    /// The number of the pass that starts next.
    next_pass: u32,
    /// Where the next pass starts.
    rotation: usize,
}

/// The listeners and deliveries of one shard.
#[derive(Debug, Default)]
pub struct Fanout {
    channels: Slab<Listeners>,
    by_name: HashMap<ChannelName, ChannelIndex>,
    /// Channels with a pass, in turn.
    active: VecDeque<ChannelIndex>,
    backlog_bytes: usize,
}

impl Fanout {
    /// Adds `connection` (its index) to the listeners of `name`. It gets what is enqueued from now on.
    pub fn listen(&mut self, name: &ChannelName, connection: u32) -> Subscription {
        let channel = match self.by_name.get(name) {
            Some(&channel) => channel,
            None => {
                let index = self.channels.insert(Listeners {
                    name: name.clone(),
                    slots: Vec::new(),
                    vacant: Vec::new(),
                    passes: VecDeque::new(),
                    next_pass: 0,
                    rotation: 0,
                });
                let channel = ChannelIndex(index as u32);
                self.by_name.insert(name.clone(), channel);
                channel
            }
        };
        let listeners = &mut self.channels[channel.0 as usize];
        if let Some(pass) = listeners.passes.back_mut() {
            pass.seal();
        }
        let newcomer = Slot {
            connection,
            next_pass: listeners.next_pass,
        };
        let slot = match listeners.vacant.pop() {
            Some(slot) => {
                listeners.slots[slot as usize] = newcomer;
                slot
            }
            None => {
                listeners.slots.push(newcomer);
                (listeners.slots.len() - 1) as u32
            }
        };
        Subscription { channel, slot }
    }

    /// Ends a subscription; gives the channel's name, since its home wants to know.
    pub fn unlisten(&mut self, subscription: Subscription) -> ChannelName {
        let Subscription { channel, slot } = subscription;
        let listeners = &mut self.channels[channel.0 as usize];
        listeners.slots[slot as usize].connection = VACANT;
        listeners.vacant.push(slot);
        let name = listeners.name.clone();
        self.forget_if_unused(channel);
        name
    }

    /// All subscriptions of `connection`, by a look at every listener: for when a bug has lost them.
    pub fn subscriptions_of(&self, connection: u32) -> Vec<Subscription> {
        let of_channel = |(index, listeners): (usize, &Listeners)| {
            let slots = listeners.slots.iter().enumerate();
            let own = slots.filter(|(_, slot)| slot.connection == connection);
            let subscription = |(slot, _)| Subscription {
                channel: ChannelIndex(index as u32),
                slot: slot as u32,
            };
            own.map(subscription).collect::<Vec<_>>()
        };
        self.channels.iter().flat_map(of_channel).collect()
    }

    /// The listeners of `name`, each with its slot, from slot `begin` on.
    pub fn listeners(&self, name: &ChannelName, begin: u32) -> impl Iterator<Item = (u32, u32)> {
        let channel = self.by_name.get(name);
        let slots = channel.map_or(&[][..], |&channel| &self.channels[channel.0 as usize].slots);
        let slots = slots.get(begin as usize..).unwrap_or_default();
        let numbered = slots.iter().zip(begin..);
        let taken = numbered.filter(|(slot, _)| slot.connection != VACANT);
        taken.map(|(slot, number)| (number, slot.connection))
    }

    /// Names the channel of a subscription.
    pub fn name(&self, subscription: Subscription) -> &ChannelName {
        &self.channels[subscription.channel.0 as usize].name
    }

    /// Puts `message` on its way to everybody who listens now.
    pub fn enqueue(&mut self, message: Arc<Message>) {
        let Some(&channel) = self.by_name.get(&message.channel) else {
            return;
        };
        let bytes = message.bytes();
        self.backlog_bytes += bytes;
        let listeners = &mut self.channels[channel.0 as usize];
        if let Some(pass) = listeners.passes.back_mut()
            && let Load::Gathering {
                messages,
                bytes: gathered,
            } = &mut pass.load
            && *gathered + bytes <= BATCH_BYTES_MAX
        {
            messages.push(message);
            *gathered += bytes;
            pass.bytes += bytes;
            return;
        }
        self.start_pass(
            channel,
            Load::Gathering {
                messages: vec![message],
                bytes,
            },
            bytes,
        );
    }

    /// Tells everybody who listens now on `name` of a loss, behind what is already on its way.
    pub fn enqueue_gap(&mut self, name: &ChannelName, position: Position) {
        if let Some(&channel) = self.by_name.get(name) {
            let gap = Delivery::Gap(name.clone(), position);
            self.start_pass(channel, Load::Ready(gap), 0);
        }
    }

    /// Ends everybody who listens now on `name`, after what is already on its way.
    pub fn enqueue_end(&mut self, name: &ChannelName) {
        if let Some(&channel) = self.by_name.get(name) {
            self.start_pass(channel, Load::Ready(Delivery::End), 0);
        }
    }

    /// The next slice: what to deliver, and to which connections (at most `connections_max`), put into `connections`.
    /// `None` when nothing is on its way.
    pub fn next_slice(
        &mut self,
        connections: &mut Vec<u32>,
        connections_max: usize,
    ) -> Option<Slice> {
        connections.clear();
        let channel = self.active.pop_front()?;
        let listeners = &mut self.channels[channel.0 as usize];
        let pass = listeners
            .passes
            .front_mut()
            .expect("an active channel has a pass");
        pass.seal();
        let Load::Ready(delivery) = &pass.load else {
            unreachable!("a sealed pass is ready")
        };
        let delivery = delivery.clone();
        let slice_max = connections_max.min(SLICE_LISTENERS_MAX);
        let visited_max = (pass.visited + SLICE_SLOTS_MAX).min(pass.slots_end);
        while pass.visited < visited_max && connections.len() < slice_max {
            let slot = &mut listeners.slots[(pass.slots_start + pass.visited) % pass.slots_end];
            if slot.connection != VACANT && slot.next_pass == pass.number {
                connections.push(slot.connection);
                slot.next_pass = pass.number.wrapping_add(1);
            }
            pass.visited += 1;
        }
        if pass.visited == pass.slots_end {
            self.backlog_bytes -= pass.bytes;
            listeners.passes.pop_front();
        }
        if listeners.passes.is_empty() {
            self.forget_if_unused(channel);
        } else {
            self.active.push_back(channel);
        }
        Some(Slice { channel, delivery })
    }

    /// Nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// Bytes of messages that are not yet with all of their listeners.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Channels with at least one listener here.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    fn start_pass(&mut self, channel: ChannelIndex, load: Load, bytes: usize) {
        let listeners = &mut self.channels[channel.0 as usize];
        if listeners.passes.is_empty() {
            self.active.push_back(channel);
        }
        let slots_end = listeners.slots.len();
        // A large odd step visits the starting points of any list length in a scattered order.
        listeners.rotation = listeners.rotation.wrapping_add(7919);
        let slots_start = listeners.rotation % slots_end.max(1);
        let number = listeners.next_pass;
        listeners.next_pass = number.wrapping_add(1);
        listeners.passes.push_back(Pass {
            number,
            load,
            bytes,
            slots_end,
            slots_start,
            visited: 0,
        });
    }

    fn forget_if_unused(&mut self, channel: ChannelIndex) {
        let listeners = &self.channels[channel.0 as usize];
        if listeners.vacant.len() == listeners.slots.len() && listeners.passes.is_empty() {
            self.by_name.remove(&listeners.name);
            self.channels.remove(channel.0 as usize);
        }
    }
}

impl Pass {
    /// No further message joins this pass.
    fn seal(&mut self) {
        if let Load::Gathering { messages, .. } = &mut self.load {
            self.load = Load::Ready(Delivery::Messages(Rc::new(Batch::new(std::mem::take(
                messages,
            )))));
        }
    }
}

#[cfg(test)]
mod tests;
