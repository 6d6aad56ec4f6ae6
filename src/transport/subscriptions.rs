//! What one connection listens to, and where it stands in each.

use crate::hub::fanout::{ChannelIndex, Subscription};
use crate::hub::position::{Position, cursor};
use crate::transport::Effects;

/// The subscriptions of one connection, in the order of its request. One is the rule and costs no allocation.
#[derive(Debug)]
pub enum Subscriptions {
    None,
    One(Subscription),
    /// Each with the position up to which the connection has everything.
    Several(Box<Several>),
}

/// More than one, behind a thin pointer: the record of every connection has room for the rule, not for the exception.
#[derive(Debug)]
pub struct Several(Vec<(Subscription, Position)>);

const _: () = assert!(size_of::<Subscriptions>() <= 16);

impl Subscriptions {
    /// `positions` are where the connection stands; they are kept only where a cursor needs them.
    pub fn new(subscriptions: Vec<(Subscription, Position)>) -> Self {
        match *subscriptions {
            [] => Self::None,
            [(only, _)] => Self::One(only),
            _ => Self::Several(Box::new(Several(subscriptions))),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Subscription> + '_ {
        let (one, several) = match self {
            Self::None => (None, &[][..]),
            Self::One(one) => (Some(*one), &[][..]),
            Self::Several(several) => (None, &several.0[..]),
        };
        one.into_iter()
            .chain(several.iter().map(|&(subscription, _)| subscription))
    }

    /// Each with where the connection stands, which it knows where there are several.
    pub fn standings(&self) -> Vec<(Subscription, Option<Position>)> {
        match self {
            Self::Several(several) => several.0.iter().map(|&(it, at)| (it, Some(at))).collect(),
            _ => self.iter().map(|it| (it, None)).collect(),
        }
    }

    /// Moves on at `place`, and gives the new cursor.
    pub fn advance(&mut self, place: u16, position: Position) -> String {
        let Self::Several(several) = self else {
            return cursor([position]);
        };
        several.0[usize::from(place)].1 = position;
        cursor(several.0.iter().map(|&(_, position)| position))
    }

    /// Place in the request's order of the subscription on the fan-out's `channel`.
    pub fn place(&self, channel: ChannelIndex) -> u16 {
        self.iter()
            .position(|subscription| subscription.channel() == channel)
            .unwrap_or(0) as u16
    }

    pub fn release(&mut self, effects: &mut Effects) {
        effects.released.extend(self.iter());
        *self = Self::None;
    }
}
