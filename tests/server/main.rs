//! The server as its peers see it: the built binary, real sockets, raw bytes.

mod auth;
mod broken_peers;
mod callback;
mod client;
mod connections;
mod durable;
mod full_tables;
mod fuzz;
mod harness;
mod heartbeats;
mod http;
mod key_reload;
mod limits;
mod proxy_protocol;
mod refusals;
mod reload;
mod restart;
mod shutdown;
mod slow_readers;
mod start_up;
mod strictness;
mod tls;
mod tls_client;
mod unix_socket;
mod users;
mod wiring;
