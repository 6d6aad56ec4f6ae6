//! What waits for a client that reads more slowly than its channels speak. Most connections never have one.

mod room;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::config::SlowReader;
use crate::hub::batch::SharedBytes;
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::Position;
use crate::transport::outgoing::Outgoing;

/// Bytes moved from an outbox into one write.
pub const REFILL_BYTES: usize = 64 * 1024;

/// A client that takes so much has earned another `write_stall_timeout`, and so has one that takes all: a slow but
/// honest reader gets everything, one that takes a byte now and then does not hold its outbox for ever.
pub const PROGRESS_BYTES: usize = 64 * 1024;

/// One thing to send, behind all others.
#[derive(Clone, Debug)]
pub enum Waiting {
    /// Encoded; the first `sent` bytes are gone.
    Bytes { bytes: SharedBytes, sent: usize },
    /// A message of a replay, or one that may yet give way to a newer one. It is encoded when its time comes, so that
    /// a long history costs references only.
    Message {
        /// Of its channel in the request's order.
        place: u16,
        message: Arc<Message>,
        slow_reader: SlowReader,
    },
    /// The notice that messages up to `position` are lost.
    Gap {
        /// Of `channel` in the request's order.
        place: u16,
        channel: ChannelName,
        position: Position,
    },
}

impl Waiting {
    /// The notice of a loss in `channel`, which has this place in the request.
    pub fn gap(place: u16, channel: &ChannelName, position: Position) -> Self {
        Self::Gap {
            place,
            channel: channel.clone(),
            position,
        }
    }
}

/// A queue of references, bounded in bytes by its owner through [`exceeds`](Self::exceeds).
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Waiting>,
    /// Bytes of everything in the queue, messages counted before they are encoded.
    bytes: usize,
    /// Entries at the front that belong to the replay or come before its end.
    replay_entries: usize,
    /// What the limit allows for them. What gives way among them makes room for others.
    replay_bytes: usize,
    /// The current write has taken some of them. What it puts back counts among them, at most a write's worth.
    replay_taken: bool,
    /// The pong that goes out at the next frame border, ahead of the data: a busy peer must not look dead. One is
    /// enough, since a pong may answer the most recent ping only (RFC 6455 §5.5.3).
    pong: Option<SharedBytes>,
    /// The front of the queue goes on where the last write stopped: no pong fits in before it.
    front_begun: bool,
    /// The front that the current write goes on with was begun by an earlier one.
    taken_begun: bool,
    /// Messages in the queue that may give way.
    droppable: usize,
    /// Since when something has waited without a break.
    since_ms: u64,
    /// When the peer last had taken [`PROGRESS_BYTES`], and how many it has taken since.
    progress_ms: u64,
    taken_bytes: usize,
}

impl Outbox {
    pub fn new(now_ms: u64) -> Self {
        Self {
            since_ms: now_ms,
            progress_ms: now_ms,
            ..Self::default()
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.pong.is_none()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Things that wait: messages, and stretches of bytes that are encoded already.
    pub fn entries(&self) -> usize {
        self.queue.len() + usize::from(self.pong.is_some())
    }

    /// Bytes beside the replay.
    pub fn live_bytes(&self) -> usize {
        self.bytes.saturating_sub(self.replay_bytes)
    }

    /// More than `bytes_max` waits, beside the replay. Asked *before* something is added, so that a single message
    /// of any size finds room.
    pub fn exceeds(&self, bytes_max: usize) -> bool {
        self.live_bytes() > bytes_max
    }

    pub fn progress_ms(&self) -> u64 {
        self.progress_ms
    }

    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// The message at the end of the queue, if it is not encoded yet.
    pub fn newest_message(&self) -> Option<(&Message, SlowReader)> {
        match self.queue.back() {
            Some(Waiting::Message {
                message,
                slow_reader,
                ..
            }) => Some((message, *slow_reader)),
            _ => None,
        }
    }

    pub fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes();
        self.droppable += usize::from(waiting.may_give_way());
        self.queue.push_back(waiting);
    }

    /// Adds a part of the replay. Nothing live is in the queue yet.
    fn push_replay(&mut self, waiting: Waiting) {
        self.push(waiting);
        self.replay_entries = self.queue.len();
        self.replay_bytes = self.bytes;
    }

    /// Appends everything of a step's output.
    fn push_all(&mut self, out: &mut Outgoing) {
        for (bytes, sent) in out.take_rest(0) {
            self.push(Waiting::Bytes { bytes, sent });
        }
    }

    /// Puts back at the front what a write did not take; `begun` says whether it took anything. If it did not, what
    /// an earlier write has begun still is.
    fn put_back(&mut self, rest: Vec<(SharedBytes, usize)>, begun: bool) {
        let was_begun = std::mem::take(&mut self.taken_begun);
        self.front_begun = (begun || was_begun) && !rest.is_empty();
        let is_replay = std::mem::take(&mut self.replay_taken);
        for (bytes, sent) in rest.into_iter().rev() {
            let waiting = Waiting::Bytes { bytes, sent };
            self.bytes += waiting.bytes();
            if is_replay {
                self.replay_entries += 1;
                self.replay_bytes += waiting.bytes();
            }
            self.queue.push_front(waiting);
        }
    }

    /// Sets the pong that goes out at the next frame border.
    fn set_pong(&mut self, frame: SharedBytes) {
        self.pong = Some(frame);
    }

    /// Notes that the peer took `bytes`.
    fn on_taken(&mut self, bytes: usize, now_ms: u64) {
        self.taken_bytes += bytes;
        if self.taken_bytes >= PROGRESS_BYTES {
            self.taken_bytes = 0;
            self.progress_ms = now_ms;
        }
    }

    /// Takes the front, if `taken` bytes of this write leave room for more.
    fn take_front(&mut self, taken: usize) -> Option<Waiting> {
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
        self.droppable -= usize::from(front.may_give_way());
        self.taken_begun |= std::mem::take(&mut self.front_begun);
        if self.replay_entries > 0 {
            self.replay_entries -= 1;
            self.replay_bytes = match self.replay_entries {
                0 => 0,
                _ => self.replay_bytes.saturating_sub(front.bytes()),
            };
            self.replay_taken = true;
        }
        Some(front)
    }

    /// Drops all but the stretch of bytes that is begun. A WebSocket may say goodbye behind it, since none of its
    /// frames is in two stretches; a chunk of an event stream may be.
    pub fn keep_begun(&mut self) {
        let begun = if self.front_begun {
            self.queue.pop_front()
        } else {
            None
        };
        self.queue.clear();
        self.bytes = 0;
        self.replay_entries = 0;
        self.replay_bytes = 0;
        self.droppable = 0;
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

    /// A message that a newer one may take the place of. What is encoded may be half on its way.
    fn may_give_way(&self) -> bool {
        matches!(self, Self::Message { slow_reader, .. } if *slow_reader != SlowReader::Close)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::position::Epoch;
    use crate::proto::payload::PayloadKind;

    pub(super) fn bytes(text: &str) -> Waiting {
        Waiting::Bytes {
            bytes: text.as_bytes().into(),
            sent: 0,
        }
    }

    fn message(payload_bytes: usize) -> Waiting {
        let channel = ChannelName::parse("a").unwrap();
        Waiting::Message {
            place: 0,
            slow_reader: SlowReader::Close,
            message: Arc::new(Message {
                channel,
                position: Position {
                    epoch: Epoch::from_random(1),
                    offset: 1,
                },
                previous: 0,
                kind: PayloadKind::Text,
                event: None,
                payload: vec![b'x'; payload_bytes].into(),
                published_ms: 0,
                published_us: 0,
                expires_ms: 0,
            }),
        }
    }

    /// One write as a shard does it: the socket takes `room` bytes. Gives what it took.
    fn write(outbox: &mut Outbox, room: usize) -> String {
        let mut out = Outgoing::default();
        while let Some(waiting) = outbox.take_front(out.bytes()) {
            let Waiting::Bytes { bytes, sent } = waiting else {
                panic!("only bytes wait here")
            };
            out.push(&bytes[sent..]);
        }
        let all: Vec<u8> = out.slices().flatten().copied().collect();
        let sent = room.min(all.len());
        outbox.put_back(out.take_rest(sent), sent > 0);
        String::from_utf8(all[..sent].to_vec()).unwrap()
    }

    #[test]
    fn everything_goes_out_in_order_whatever_each_write_takes() {
        for room in 1..12 {
            let mut outbox = Outbox::new(0);
            for text in ["abc", "d", "efghi"] {
                outbox.push(bytes(text));
            }
            let mut sent = String::new();
            while !outbox.is_empty() {
                sent += &write(&mut outbox, room);
                assert_eq!(outbox.bytes(), 9 - sent.len());
            }
            assert_eq!(sent, "abcdefghi", "{room} bytes at a time");
        }
    }

    #[test]
    fn the_limit_is_asked_before_and_does_not_count_the_replay() {
        let mut outbox = Outbox::new(0);
        outbox.push_replay(message(1000));
        assert!(!outbox.exceeds(0));
        outbox.push(bytes("0123456789"));
        assert!(!outbox.exceeds(10));
        assert!(outbox.exceeds(9));
        outbox.take_front(0);
        assert!(outbox.exceeds(9), "the replay's room goes with it");
    }

    #[test]
    fn the_limit_counts_all_but_what_is_left_of_the_replay() {
        const PIECE_BYTES: usize = 40_000;
        const PIECES: usize = 4;
        let piece = "x".repeat(PIECE_BYTES);
        for room in [10_000, 50_000, 100_000] {
            let mut outbox = Outbox::new(0);
            for _ in 0..PIECES {
                outbox.push_replay(bytes(&piece));
            }
            for _ in 0..PIECES {
                outbox.push(bytes(&piece));
            }
            while !outbox.is_empty() {
                let live_bytes = outbox.bytes().min(PIECES * PIECE_BYTES);
                let gathered_bytes = REFILL_BYTES + PIECE_BYTES;
                let counted_bytes = live_bytes.saturating_sub(gathered_bytes)..=live_bytes;
                assert!(counted_bytes.contains(&outbox.live_bytes()), "{outbox:?}");
                write(&mut outbox, room);
            }
        }
    }

    #[test]
    fn a_byte_now_and_then_is_no_progress() {
        let mut outbox = Outbox::new(1);
        for (bytes, now_ms, progress_ms) in [
            (1, 2, 1),
            (PROGRESS_BYTES - 2, 3, 1),
            (1, 4, 4),
            (1, 5, 4),
            (PROGRESS_BYTES, 6, 6),
            (PROGRESS_BYTES - 1, 7, 6),
        ] {
            outbox.on_taken(bytes, now_ms);
            assert_eq!(outbox.progress_ms(), progress_ms, "at {now_ms}");
        }
    }

    #[test]
    fn a_write_is_filled_up_to_its_size() {
        let mut outbox = Outbox::new(0);
        outbox.push(bytes("a"));
        assert!(outbox.take_front(REFILL_BYTES).is_none());
        outbox.set_pong((*b"pong").into());
        assert!(
            outbox.take_front(REFILL_BYTES).is_some(),
            "a pong always fits"
        );
        assert!(outbox.take_front(REFILL_BYTES - 1).is_some());
        assert!(outbox.take_front(0).is_none());
    }

    #[test]
    fn a_pong_goes_out_at_the_next_frame_border() {
        let mut outbox = Outbox::new(0);
        outbox.push(bytes("abc"));
        outbox.push(bytes("def"));
        assert_eq!(write(&mut outbox, 1), "a");
        outbox.set_pong((*b"1").into());
        outbox.set_pong((*b"2").into());
        for _ in 0..3 {
            assert_eq!(write(&mut outbox, 0), "", "the socket takes nothing");
        }
        // What one write has gathered is one piece from then on.
        assert_eq!(write(&mut outbox, 4), "bcde");
        assert_eq!(write(&mut outbox, 9), "f2");
        assert!(outbox.is_empty());

        outbox.set_pong((*b"3").into());
        outbox.push(bytes("g"));
        assert_eq!(write(&mut outbox, 9), "3g");
    }

    #[test]
    fn a_goodbye_follows_what_is_begun_and_nothing_else() {
        for (room, then_nothing, expected) in [
            (0, false, "bye"),
            (1, false, "bcdefbye"),
            (1, true, "bcdefbye"),
            (6, false, "bye"),
        ] {
            let mut outbox = Outbox::new(0);
            outbox.push(bytes("abc"));
            outbox.push(bytes("def"));
            write(&mut outbox, room);
            if then_nothing {
                write(&mut outbox, 0);
            }
            outbox.set_pong((*b"pong").into());
            outbox.push(bytes("ghi"));
            outbox.keep_begun();
            outbox.push(bytes("bye"));
            assert_eq!(write(&mut outbox, 99), expected, "after {room}");
            assert_eq!(outbox.bytes(), 0);
        }
    }
}
