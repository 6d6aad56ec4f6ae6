//! What the operator asks of an open WebSocket, and its end by the operator.

use crate::hub::fanout::Subscription;
use crate::hub::position::Position;
use crate::transport::goodbye::Goodbye;
use crate::transport::{Context, Next};

use super::WebSocket;

impl WebSocket {
    /// No echo is waited for.
    pub fn on_disconnect(&mut self, context: &mut Context<'_>) -> Next {
        self.say_goodbye(&Goodbye::DISCONNECTED, context)
    }

    /// Without positions: those are the client's to keep.
    pub fn listening(&self) -> Vec<(Subscription, Option<Position>)> {
        self.subscriptions.iter().map(|it| (it, None)).collect()
    }

    /// Since the last sign of life.
    pub fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms)
    }
}
