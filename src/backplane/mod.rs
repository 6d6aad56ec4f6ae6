//! How a node works with others: through a broker that numbers the messages of each channel, keeps their history and
//! tells every node that listens.
//!
//! Without a broker a channel's home shard numbers and keeps its messages itself. With one, the home is where the
//! broker's stream enters the node: it takes what the broker has numbered, in order and without a hole, and everything
//! behind it (fan-out, transports, cursors) is the same. All brokers' clients live on one thread with a runtime of its
//! own; the shards see mail only:
//!
//! ```text
//! home shard ── Order ──▶ driver (rounds, canary, reconnects) ──▶ Broker: Redis, NATS
//! home shard ◀── News ─── driver ◀────────── Event ─────────────── Broker
//! ```
//!
//! | part | files |
//! |---|---|
//! | what goes between the threads | `order` |
//! | the home's side | `relay` |
//! | the broker's thread | `driver` with the `registry` of channels and the `calls` under way |
//! | what watches over the broker | `canary`, `backoff`, `refusals`; `acknowledged`: positions it must still know |
//! | other nodes | `roster`, `note` |
//! | brokers | `broker` is the contract; `redis`, `nats`, and `memory` for tests |

pub mod order;

pub mod relay;

pub mod acknowledged;
mod backoff;
mod calls;
mod canary;
pub mod driver;
mod refusals;
mod registry;

mod note;
mod roster;

pub mod broker;
#[cfg(test)]
pub mod memory;
pub mod nats;
pub mod redis;
