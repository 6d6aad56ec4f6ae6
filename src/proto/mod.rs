//! Bytes ↔ values: HTTP/1.1, WebSocket, Server-Sent Events, JSON. No I/O, no clock, no state of a server.
#![forbid(unsafe_code)]

pub mod payload;
