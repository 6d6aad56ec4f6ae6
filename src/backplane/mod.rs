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

pub mod acknowledged;
pub mod broker;
pub mod driver;
#[cfg(test)]
pub mod memory;
pub mod nats;
pub mod order;
pub mod redis;
pub mod relay;

mod backoff;
mod calls;
mod canary;
mod note;
mod refusals;
mod registry;
mod roster;
