//! Brokers as nodes use them: real servers, started by the test on free ports of their own.

mod redis;
mod redis_server;
