//! Brokers as nodes use them: real servers, started by the test on free ports of their own.

mod nats;
mod nats_server;
mod redis;
mod redis_server;
