//! A push server: a backend publishes over HTTP, every listener gets the message by short polling, long
//! polling, Server-Sent Events or WebSocket, on one cursor.

pub mod config;
pub mod proto;
