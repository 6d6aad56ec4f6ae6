//! What can be told of a connection without disturbing it.

use crate::auth::grant::Session;
use crate::hub::fanout::Subscription;
use crate::hub::position::Position;
use crate::transport::Transport;

impl Transport {
    /// With whose token it listens.
    pub fn session(&self) -> Option<&Session> {
        match self {
            Self::Http(http) => http.session(),
            Self::LongPoll(poll) => poll.session(),
            Self::EventStream(stream) => stream.session(),
            Self::WebSocket(websocket) => websocket.session(),
            Self::FirstMessage(first) => first.session(),
        }
    }

    /// Its channels, each with the position up to which the client has everything, where the connection keeps that: a
    /// stream of one channel is where the channel is, but for what waits in its outbox.
    pub fn listening(&self) -> Vec<(Subscription, Option<Position>)> {
        match self {
            Self::Http(_) | Self::FirstMessage(_) => Vec::new(),
            Self::LongPoll(poll) => poll.listening(),
            Self::EventStream(stream) => stream.listening(),
            Self::WebSocket(websocket) => websocket.listening(),
        }
    }

    /// Since the last sign of life, where it is asked for one.
    pub fn silent_ms(&self, now_ms: u64) -> Option<u64> {
        match self {
            Self::WebSocket(websocket) => Some(websocket.silent_ms(now_ms)),
            Self::Http(_) | Self::LongPoll(_) | Self::EventStream(_) | Self::FirstMessage(_) => {
                None
            }
        }
    }
}
