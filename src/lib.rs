//! A push server: a backend publishes a message to a *channel* over HTTP; every client that listens on it gets it,
//! by short polling, long polling, Server-Sent Events or WebSocket, on one cursor.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | channel | a named stream of messages; its name's part before the first `:` is its *namespace* |
//! | message | payload bytes with a kind (json, text, binary), optionally an event name |
//! | position | `epoch-offset`: which unbroken history of the channel, and where in it |
//! | cursor | "I have everything up to here": a position for each channel of a request |
//! | entrance | a socket of a shard that newcomers come to |
//! | connection, subscription | a socket; its listening on one channel |
//! | listener | a connection with a subscription; the API says `subscriber`, and counts `receivers` |
//! | shard, node | one thread with everything it owns; one process |
//! | home | the shard that numbers a channel's messages and keeps its history |
//! | mail | what a shard is told: by other shards, and by the threads beside them |
//! | turn | what a shard does before it looks anew: completions, mail, a share of the deliveries, timers |
//! | pass, slice | one message (or several) on its way to all of a channel's listeners here; a part of that |
//! | outbox | what waits for a client that reads too slowly |
//! | broker, backplane | what joins several nodes: Redis or NATS; this node's side of it |
//! | relay, reading | a home that takes its messages from the broker; its question where a channel stands |
//! | callback, consultation, decision | asking the backend who somebody is, or may listen; one question; its answer |
//! | log, fact, draft | what keeps a home's histories on disk; one thing in it; a message that waits for it |
//! | journal | the shard's side of the log: what is to be written, and whoever waits for that |
//!
//! # The path of a published message
//!
//! 1. [`shard`] reads bytes from a socket that its ring found readable ([`shard::ring`]).
//! 2. [`transport::http`] takes a head ([`proto::http_request`]) and a body ([`proto::http_body`]) out of them.
//! 3. [`api`] makes a [`hub::Publish`] of it, or a refusal; [`transport::exchange`] turns it into a question.
//! 4. The shard asks the channel's home: itself, or another by [`shard::mailbox`].
//! 5. There [`hub::Hub`] gives the message its position, stores it, and says which shards listen. Each gets the one
//!    shared message by mail, then the publisher its answer.
//! 6. On each of them [`hub::fanout`] begins a pass over the listeners, some slices per turn; [`hub::batch`] encodes
//!    the message once for each wire form that a listener wants.
//! 7. The listener's transport puts a reference to those bytes into the step's output, the shard sends them. What the
//!    socket does not take waits in [`transport::outbox`].
//!
//! With `history_dir` step 5 is two: the hub makes a draft, and publishes it when a thread of [`disk`] has written its
//! record ([`history::record`]). Until then nobody sees it; [`shard`]'s journal keeps the draft and whoever asked.
//!
//! With a broker step 5 is [`backplane::relay`]'s: the home orders the publish at the broker's thread, which answers
//! with the position, and the message itself comes from there, to every node that listens.
//!
//! A listener that comes asks the home in the same way. The answer carries the replay, and mail between two shards
//! stays in order: whatever is published later comes behind it. So there is no gap and no repeat, and no lock.
//!
//! # Direction
//!
//! `main → server → shard → transport → api → auth → hub → proto`, `shard → disk → history → hub`,
//! `shard → backplane → hub` and `shard → callback → api`; `main → cli → server`, since `pushring check` looks at what
//! the server would; [`tls`] is for all three of `cli`, `server` and `shard`. Nothing points the other way; [`config`],
//! [`close_reason`] and [`metrics`] are plain data that all may know, [`threads`] starts those of whoever has one, and
//! [`logging`] is for all that is not pure.
//!
//! # Invariants
//!
//! 2 and 5 hold by construction; `tests/layering.rs` holds the code to 1, `tests/server/full_tables.rs` to 3,
//! `src/hub/batch/tests.rs` to 4, `tests/simulation` to 6 and 8, `src/shard/tests.rs` to 7,
//! `src/shard/journal/tests.rs` and `tests/server/durable.rs` to 9, `src/backplane/relay/tests.rs` to 10.
//!
//! 1. Nothing in a pure folder (`proto`, `hub`, `history`, `auth`, `api`, `transport`) waits, reads a clock, or knows a
//!    socket or a thread.
//! 2. A shard's state is touched by its thread only.
//! 3. Every queue, buffer and counter that a peer can grow has a limit in [`config`].
//! 4. A message is encoded at most once per wire form per shard; its payload is never copied per subscriber.
//! 5. Every connection ends with exactly one [`close_reason::CloseReason`].
//! 6. Within a channel a subscriber sees every position once and in order, or is told that there is a gap.
//! 7. A slot is freed only when its polls have come home; a stale key finds nothing.
//! 8. A publish that was answered 2xx is delivered to every subscriber then connected, or that subscriber is told.
//! 9. With `history_dir`, what was answered 2xx or delivered is with the kernel: the end of the process loses none of
//!    it, and no position is given to two messages.
//! 10. With a broker, listeners get what it has numbered, each message once and in order, or are told of a gap,
//!     whatever is lost, repeated or delayed between it and the node.
//!
//! # Panics
//!
//! A panic in one connection's step is a bug that ends that connection, is counted and logged. Anywhere else the
//! process aborts: a shard in doubt is worse than a restart.

pub mod api;
pub mod auth;
pub mod backplane;
pub mod callback;
pub mod cli;
pub mod close_reason;
pub mod config;
pub mod disk;
pub mod history;
pub mod hub;
pub mod logging;
pub mod metrics;
pub mod proto;
pub mod server;
pub mod shard;
pub mod threads;
pub mod tls;
pub mod transport;
