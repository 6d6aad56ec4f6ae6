//! Codes of WebSocket close frames: RFC 6455 §7.4.1, and from 3000 on those that clients of Centrifugo know. Below 3500
//! a client reconnects, from 3500 on it gives up.

/// The peer, or what it listened to, is done.
pub const NORMAL: u16 = 1000;
pub const PROTOCOL_ERROR: u16 = 1002;
pub const NOT_UTF8: u16 = 1007;
/// Not allowed, too fast, or too slow with what it began.
pub const POLICY: u16 = 1008;
pub const TOO_BIG: u16 = 1009;
/// The server cannot do now what it should.
pub const UNAVAILABLE: u16 = 1011;
/// The reason says after how many milliseconds to reconnect.
pub const SHUTDOWN: u16 = 3001;
pub const TOKEN_EXPIRED: u16 = 3005;
pub const SLOW_READER: u16 = 3008;
pub const POSITION_LOST: u16 = 3010;
pub const NO_PONG: u16 = 3012;
pub const BAD_TOKEN: u16 = 3500;
pub const DISCONNECTED: u16 = 3503;
pub const NOT_ALLOWED: u16 = 3507;
