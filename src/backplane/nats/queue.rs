//! Events on their way to whoever holds the broker.
//!
//! The library reads on whatever happens here, and bounds what waits in each subscription by its number alone; there is
//! a subscription for each channel. So they are emptied at once, and what waits of all of them together is counted: a
//! node that does not keep up loses the connection rather than grow without a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{mpsc, oneshot};

use crate::backplane::broker::Event;
use crate::threads::or_abort;

/// Bytes of events that wait to be taken.
const BYTES_MAX: usize = 64 << 20;

/// What an event counts for beside its payload.
const EVENT_BYTES: usize = 256;

/// Events that wait for the driver and are not counted, few for their size; those behind them are.
const EVENTS_MAX: usize = 64;

enum Queued {
    Event(Event, usize),
    /// Somebody waits until all that is in front of this was taken up.
    Mark(oneshot::Sender<()>),
}

pub struct Queue {
    queued: mpsc::UnboundedSender<Queued>,
    // An atomic, since the runtime wants tasks to be able to move; there is one thread only.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The event is not taken, and none is any more: more wait than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Queue {
    pub fn new() -> (Self, mpsc::Receiver<Event>) {
        Self::with_max(BYTES_MAX)
    }

    fn with_max(bytes_max: usize) -> (Self, mpsc::Receiver<Event>) {
        let (queued, taken) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let bytes = Arc::<AtomicUsize>::default();
        tokio::spawn(or_abort(hand_over(taken, bytes.clone(), events)));
        let queue = Self {
            queued,
            bytes,
            bytes_max,
        };
        (queue, receiver)
    }

    /// Whoever has gone already need not be told.
    pub fn push(&self, event: Event, payload_bytes: usize) -> Result<(), Full> {
        let bytes = EVENT_BYTES + payload_bytes;
        if self.bytes.fetch_add(bytes, Relaxed) + bytes > self.bytes_max {
            return Err(Full);
        }
        let _ = self.queued.send(Queued::Event(event, bytes));
        Ok(())
    }

    /// The last event, for which there is always room.
    pub fn push_last(&self, event: Event) {
        let _ = self.queued.send(Queued::Event(event, 0));
    }

    /// `mark` is told when all that was pushed until now is with the receiver of events.
    pub fn push_mark(&self, mark: oneshot::Sender<()>) {
        let _ = self.queued.send(Queued::Mark(mark));
    }
}

async fn hand_over(
    mut queued: mpsc::UnboundedReceiver<Queued>,
    waiting: Arc<AtomicUsize>,
    events: mpsc::Sender<Event>,
) {
    while let Some(next) = queued.recv().await {
        match next {
            Queued::Event(event, bytes) => {
                if events.send(event).await.is_err() {
                    return;
                }
                waiting.fetch_sub(bytes, Relaxed);
            }
            Queued::Mark(mark) => _ = mark.send(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::broker::BrokerError;

    fn note() -> Event {
        Event::Note(Vec::new())
    }

    #[tokio::test]
    async fn bytes_that_wait_are_counted_and_bounded() {
        let taken_up = EVENTS_MAX;
        let (queue, mut events) = Queue::with_max(10 * (EVENT_BYTES + 100));
        // What is with the receiver of events waits no more.
        for _ in 0..taken_up {
            queue.push(note(), 100).unwrap();
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            queue.push(note(), 100).unwrap();
        }
        tokio::task::yield_now().await;
        assert_eq!(queue.push(note(), 0), Err(Full));
        queue.push_last(Event::Broken(BrokerError("full".into())));
        drop(queue);
        let mut heard = Vec::new();
        while let Some(event) = events.recv().await {
            heard.push(event);
        }
        assert_eq!(heard.len(), taken_up + 11);
        assert!(matches!(heard.last(), Some(Event::Broken(_))));
    }

    #[tokio::test]
    async fn a_mark_comes_behind_what_was_pushed_before() {
        let (queue, mut events) = Queue::new();
        for _ in 0..EVENTS_MAX + 1 {
            queue.push(note(), 0).unwrap();
        }
        let (mark, mut marked) = oneshot::channel();
        queue.push_mark(mark);
        for _ in 0..2 * EVENTS_MAX {
            tokio::task::yield_now().await;
        }
        assert!(marked.try_recv().is_err(), "one has no room yet");
        events.recv().await.unwrap();
        marked.await.unwrap();
        assert_eq!(events.len(), EVENTS_MAX);
    }
}
