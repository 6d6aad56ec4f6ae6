//! A push server: a backend publishes over HTTP, every listener gets the message by short polling, long
//! polling, Server-Sent Events or WebSocket, on one cursor.

pub mod api;
pub mod close_reason;
pub mod cli;
pub mod config;
pub mod hub;
pub mod metrics;
pub mod logging;
pub mod proto;
pub mod transport;
pub mod server;
