//! Bytes ↔ values: HTTP/1.1, WebSocket, Server-Sent Events, JSON. No I/O, no clock, no state of a server.
#![forbid(unsafe_code)]

pub mod channel_name;
pub mod close_code;
pub mod decimal;
pub mod http_body;
pub mod http_request;
pub mod http_response;
pub mod json;
pub mod payload;
pub mod proxy_header;
pub mod query;
pub mod refused;
pub mod sse_event;
pub mod utf8;
pub mod ws_frame;
pub mod ws_handshake;
pub mod ws_message;
