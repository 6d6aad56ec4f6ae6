//! What waits for a client that reads more slowly than its channels speak. Most connections never have one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::hub::batch::SharedBytes;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::Position;
use crate::transport::outgoing::Outgoing;

/// Bytes moved from an outbox into one write.
pub const REFILL_BYTES: usize = 64 * 1024;

/// One thing to send, behind all others.
#[derive(Clone, Debug)]
pub enum Waiting {
    /// Encoded; the first `sent` bytes are gone.
    Bytes { bytes: SharedBytes, sent: usize },
    /// A message of a replay, encoded when its time comes, so that a long history costs references only. `channel`
    /// counts in the request's order.
    Message { channel: u16, message: Arc<Message> },
    /// The notice that messages up to `position` are lost.
    Gap {
        channel: u16,
        channel_name: ChannelName,
        position: Position,
    },
}

/// A queue of references, bounded in bytes by its owner through [`is_over`](Self::is_over).
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Waiting>,
    /// Bytes of everything in the queue, messages counted before they are encoded.
    bytes: usize,
    /// Bytes of the replay at the start, which the limit allows for: it is bounded by the histories.
    replay_bytes: usize,
    /// The pong that goes out at the next frame border, ahead of the data: a busy peer must not look dead. One is
    /// enough, since a pong may answer the most recent ping only (RFC 6455 §5.5.3).
    pong: Option<SharedBytes>,
    /// The front of the queue goes on where the last write stopped: no pong fits in before it.
    front_begun: bool,
    /// The front that the current write goes on with was begun by an earlier one.
    taken_begun: bool,
    /// When the peer last took something.
    progress_ms: u64,
}

impl Outbox {
    pub fn new(now_ms: u64) -> Self {
        Self {
            progress_ms: now_ms,
            ..Self::default()
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.pong.is_none()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// More than `bytes_max` waits, beside the replay. Asked *before* something is added, so that a single message
    /// of any size finds room.
    pub fn is_over(&self, bytes_max: usize) -> bool {
        self.bytes > bytes_max.saturating_add(self.replay_bytes)
    }

    pub fn progress_ms(&self) -> u64 {
        self.progress_ms
    }

    pub fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes();
        self.queue.push_back(waiting);
    }

    /// Adds a part of the replay.
    pub fn push_replay(&mut self, waiting: Waiting) {
        self.replay_bytes += waiting.bytes();
        self.push(waiting);
    }

    /// Appends everything of a step's output.
    pub fn push_all(&mut self, out: &mut Outgoing) {
        for (bytes, sent) in out.take_rest(0) {
            self.push(Waiting::Bytes { bytes, sent });
        }
    }

    /// Puts back at the front what a write did not take; `begun` says whether it took anything. If it did not, what
    /// an earlier write has begun still is.
    pub fn put_back(&mut self, rest: Vec<(SharedBytes, usize)>, begun: bool) {
        let was_begun = std::mem::take(&mut self.taken_begun);
        self.front_begun = (begun || was_begun) && !rest.is_empty();
        for (bytes, sent) in rest.into_iter().rev() {
            let waiting = Waiting::Bytes { bytes, sent };
            self.bytes += waiting.bytes();
            self.queue.push_front(waiting);
        }
    }

    /// Sets the pong that goes out at the next frame border.
    pub fn set_pong(&mut self, frame: SharedBytes) {
        self.pong = Some(frame);
    }

    /// Notes that the peer took something.
    pub fn on_progress(&mut self, now_ms: u64) {
        self.progress_ms = now_ms;
    }

    /// Takes the front, if `taken` bytes of this write leave room for more.
    pub fn take_front(&mut self, taken: usize) -> Option<Waiting> {
        if !self.front_begun
            && let Some(pong) = self.pong.take()
        {
            return Some(Waiting::Bytes {
                bytes: pong,
                sent: 0,
            });
        }
        if taken >= REFILL_BYTES {
            return None;
        }
        let front = self.queue.pop_front()?;
        self.bytes -= front.bytes();
        self.taken_begun |= std::mem::take(&mut self.front_begun);
        Some(front)
    }

    /// Drops all that is not yet begun: the connection has only a goodbye to say.
    pub fn keep_begun(&mut self) {
        let begun = if self.front_begun {
            self.queue.pop_front()
        } else {
            None
        };
        self.queue.clear();
        self.bytes = 0;
        self.pong = None;
        if let Some(begun) = begun {
            self.push(begun);
        }
    }
}

impl Waiting {
    fn bytes(&self) -> usize {
        match self {
            Self::Bytes { bytes, sent } => bytes.len() - sent,
            Self::Message { message, .. } => message.bytes(),
            Self::Gap { .. } => size_of::<Self>(),
        }
    }
}
