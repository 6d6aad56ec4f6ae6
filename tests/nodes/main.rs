//! Several server processes with a real broker behind them: what clients and backends see, on whichever node they are.

// Shared with the tests of one server; not all of it is used here.
#[allow(dead_code)]
#[path = "../server/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../server/harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "../backplane/nats_server.rs"]
mod nats_server;
#[path = "../backplane/redis_server.rs"]
mod redis_server;

mod broker;
mod delivery;
mod outage;
