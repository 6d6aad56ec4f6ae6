//! A push server: a backend publishes over HTTP, every listener gets the message by short polling, long
//! polling, Server-Sent Events or WebSocket, on one cursor.

pub mod api;
pub mod cli;
pub mod close_reason;
pub mod config;
pub mod hub;
pub mod logging;
pub mod metrics;
pub mod proto;
pub mod server;
pub mod shard;
pub mod transport;
