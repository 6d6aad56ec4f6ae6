//! What the servers say by themselves, on its way to whoever holds the broker.
//!
//! The client reads on whatever happens here: it cannot be held back without its answers. So what waits is counted, and
//! a node that does not keep up loses the connection rather than grow without a limit. The server would do the same
//! a little later (`client-output-buffer-limit pubsub`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{mpsc, oneshot};

use crate::backplane::broker::{BrokerError, Event};
use crate::backplane::redis::frame::Frame;
use crate::backplane::redis::keys::Keys;
use crate::threads::or_abort;

/// Events that wait for whoever holds the broker.
const EVENTS_MAX: usize = 64;

/// Bytes of announcements that wait to become events.
pub(super) const ANNOUNCED_BYTES_MAX: usize = 64 << 20;

/// What an announcement counts for beside its payload.
const ANNOUNCEMENT_BYTES: usize = 200;

/// The names that mean something.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) keys: Keys,
    pub(super) notes: String,
    /// Of each connection.
    pub(super) canaries: Vec<String>,
}

/// The ear of one connection.
pub(super) struct Ear {
    connection: usize,
    heard: mpsc::UnboundedSender<Heard>,
    waiting: Arc<Waiting>,
    leaving: Leaving,
    bytes_max: usize,
}

/// What an ear and the rest of its connection have to agree on.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving(Arc<Left>);

#[derive(Debug, Default)]
struct Left {
    /// Channels that were asked to be left, and are not yet.
    expected: AtomicUsize,
    is_moved: AtomicBool,
}

impl Leaving {
    pub(super) fn expect(&self, channels: usize) {
        self.0.expected.fetch_add(channels, Relaxed);
    }

    /// The server has a channel left that nobody asked for: it no longer serves its slot. The client takes that for a
    /// reply, so from there on replies are not those of their commands.
    pub(super) fn is_moved(&self) -> bool {
        self.0.is_moved.load(Relaxed)
    }

    fn hear(&self) {
        let expected = self.0.expected.load(Relaxed);
        match expected.checked_sub(1) {
            Some(rest) => self.0.expected.store(rest, Relaxed),
            None => self.0.is_moved.store(true, Relaxed),
        }
    }
}

// Atomics, since the client wants its ears to be `Sync`; there is one thread only.
#[derive(Default)]
struct Waiting {
    bytes: AtomicUsize,
    is_over: AtomicBool,
}

enum Heard {
    Push(usize, PushInfo),
    /// Somebody waits for what was heard before.
    Awaited(oneshot::Sender<()>),
    /// A slot went to another master.
    Moved,
    TooMuch,
}

/// What all ears have heard and is no event yet.
pub(super) struct Hearing(mpsc::WeakUnboundedSender<Heard>);

impl Hearing {
    /// Returns when all that was heard by now is with the receiver of the events, or none come any more.
    pub(super) async fn catch_up(&self) {
        if let Some(heard) = self.0.upgrade() {
            let (told, awaited) = oneshot::channel();
            let _ = heard.send(Heard::Awaited(told));
            let _ = awaited.await;
        }
    }
}

/// Makes an ear for each connection; the events come out of the receiver, the last of them when more than `bytes_max`
/// wait.
pub(super) fn ears(
    names: Names,
    bytes_max: usize,
) -> (
    impl FnMut(usize) -> (Ear, Leaving),
    Hearing,
    mpsc::Receiver<Event>,
) {
    let (heard_in, heard_out) = mpsc::unbounded_channel();
    let (events_in, events_out) = mpsc::channel(EVENTS_MAX);
    let waiting = Arc::new(Waiting::default());
    let relay = relay(heard_out, waiting.clone(), names, events_in);
    tokio::spawn(or_abort(relay));
    let hearing = Hearing(heard_in.downgrade());
    let ear = move |connection| {
        let leaving = Leaving::default();
        let ear = Ear {
            connection,
            heard: heard_in.clone(),
            waiting: waiting.clone(),
            leaving: leaving.clone(),
            bytes_max,
        };
        (ear, leaving)
    };
    (ear, hearing, events_out)
}

impl AsyncPushSender for Ear {
    fn send(&self, info: PushInfo) -> Result<(), SendError> {
        let heard = match info.kind {
            PushKind::Message | PushKind::SMessage | PushKind::Disconnection => {
                let bytes = bytes(&info);
                let waiting = self.waiting.bytes.fetch_add(bytes, Relaxed) + bytes;
                if waiting > self.bytes_max {
                    if self.waiting.is_over.swap(true, Relaxed) {
                        return Err(SendError);
                    }
                    Heard::TooMuch
                } else {
                    Heard::Push(self.connection, info)
                }
            }
            PushKind::SUnsubscribe => {
                self.leaving.hear();
                if !self.leaving.is_moved() {
                    return Ok(());
                }
                Heard::Moved
            }
            _ => return Ok(()),
        };
        self.heard.send(heard).map_err(|_| SendError)
    }
}

fn bytes(info: &PushInfo) -> usize {
    let bytes = |value: &Value| match value {
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    };
    ANNOUNCEMENT_BYTES + info.data.iter().map(bytes).sum::<usize>()
}

async fn relay(
    mut heard: mpsc::UnboundedReceiver<Heard>,
    waiting: Arc<Waiting>,
    names: Names,
    events: mpsc::Sender<Event>,
) {
    while let Some(heard) = heard.recv().await {
        let broken = |text: &str| Some(Event::Broken(BrokerError(text.into())));
        let event = match heard {
            Heard::Push(connection, info) => {
                waiting.bytes.fetch_sub(bytes(&info), Relaxed);
                names.event(connection, &info)
            }
            Heard::Awaited(told) => {
                let _ = told.send(());
                continue;
            }
            Heard::Moved => broken("Redis: slots of the cluster are moved to another master"),
            Heard::TooMuch => {
                broken("Redis: more is published than this node takes; it connects anew")
            }
        };
        let Some(event) = event else {
            continue;
        };
        let is_last = matches!(event, Event::Broken(_));
        if events.send(event).await.is_err() || is_last {
            return;
        }
    }
}

impl Names {
    /// `None`: it means nothing.
    fn event(&self, connection: usize, info: &PushInfo) -> Option<Event> {
        if info.kind == PushKind::Disconnection {
            let error = BrokerError("Redis: the connection is lost".into());
            return Some(Event::Broken(error));
        }
        let [Value::BulkString(name), Value::BulkString(said)] = &info.data[..] else {
            return None;
        };
        if let Some(channel) = self.keys.channel(name) {
            let frame = Frame::decode(&channel, said);
            if frame.is_none() {
                tracing::debug!(%channel, "Something that is no message was published on a channel.");
            }
            return frame.map(|frame| match frame {
                Frame::Message(arrival) => Event::Arrival(arrival),
                Frame::Moved => Event::Moved(channel),
                Frame::Ended => Event::Ended(channel),
            });
        }
        if *name == self.notes.as_bytes() {
            return Some(Event::Note(said.clone()));
        }
        if *name == self.canaries.get(connection)?.as_bytes() {
            let number = str::from_utf8(said).ok()?.parse().ok()?;
            return Some(Event::Canary { connection, number });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn names() -> Names {
        let keys = Keys::new("push").unwrap();
        Names {
            notes: keys.notes(),
            keys,
            canaries: vec!["canary:0".into(), "canary:1".into()],
        }
    }

    fn said(kind: PushKind, name: &str, text: &str) -> PushInfo {
        let bulk = |text: &str| Value::BulkString(text.into());
        PushInfo {
            kind,
            data: vec![bulk(name), bulk(text)],
        }
    }

    /// What comes out of two connections when `hear` is all that they hear.
    fn check(bytes_max: usize, hear: impl FnOnce(&[(Ear, Leaving)])) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let (mut ear, _, mut events) = ears(names(), bytes_max);
            let both = [ear(0), ear(1)];
            drop(ear);
            hear(&both);
            drop(both);
            let mut texts = Vec::new();
            while let Some(event) = events.recv().await {
                texts.push(format!("{event:?}"));
            }
            texts
        })
    }

    #[test]
    fn what_means_something_is_an_event() {
        let message = "1 k3Qz9aXb 2 1 1 text - 1 \nx";
        let events = check(10_000, |both| {
            for (connection, kind, name, text) in [
                (0, PushKind::Message, "push:{news}", "moved"),
                (1, PushKind::SMessage, "push:{news}", "ended"),
                (0, PushKind::Message, "push:notes", "hello"),
                (1, PushKind::Message, "canary:1", "7"),
                // Nothing of any meaning.
                (0, PushKind::Message, "canary:1", "7"),
                (0, PushKind::Message, "canary:0", "x"),
                (0, PushKind::Message, "push:{news}", "junk"),
                (0, PushKind::Message, "push:{ne ws}", message),
                (0, PushKind::PMessage, "push:{news}", message),
                (0, PushKind::Subscribe, "push:{news}", message),
                (0, PushKind::Message, "other", message),
            ] {
                both[connection].0.send(said(kind, name, text)).unwrap();
            }
        });
        let canary = "Canary { connection: 1, number: 7 }";
        let note = format!("Note({:?})", b"hello");
        let wanted = [r#"Moved("news")"#, r#"Ended("news")"#, &note, canary];
        assert_eq!(events, wanted);
    }

    #[test]
    fn what_was_heard_before_is_with_the_receiver() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let (mut ear, hearing, mut events) = ears(names(), usize::MAX);
            let both = [ear(0), ear(1)];
            drop(ear);
            for number in 0..1000 {
                let note = said(PushKind::Message, "push:notes", "x");
                both[number % 2].0.send(note).unwrap();
            }
            let mut taken = 0;
            let mut caught_up = pin!(hearing.catch_up());
            loop {
                tokio::select! {
                    biased;
                    () = &mut caught_up => break,
                    Some(_) = events.recv() => taken += 1,
                }
            }
            assert_eq!(taken + events.len(), 1000);
            drop(both);
            hearing.catch_up().await;
        });
    }

    #[test]
    fn more_than_is_taken_ends_it() {
        let mut taken = 0;
        let events = check(10_000, |both| {
            while both[taken % 2]
                .0
                .send(said(PushKind::Message, "push:notes", &"x".repeat(790)))
                .is_ok()
            {
                taken += 1;
            }
        });
        // Ten of 1000 bytes; the eleventh is one too many.
        assert_eq!((taken, events.len()), (11, 11));
        assert!(events[10].starts_with("Broken"), "{}", events[10]);
    }

    #[test]
    fn a_channel_that_nobody_left_is_a_slot_that_moved() {
        let left = || said(PushKind::SUnsubscribe, "push:{news}", "0");
        let events = check(10_000, |both| {
            both[0].1.expect(2);
            both[0].0.send(left()).unwrap();
            both[0].0.send(left()).unwrap();
            assert!(!both[0].1.is_moved());
        });
        assert!(events.is_empty(), "{events:?}");
        let events = check(10_000, |both| {
            both[0].1.expect(1);
            both[1].0.send(left()).unwrap();
            assert!(both[1].1.is_moved() && !both[0].1.is_moved());
        });
        assert_eq!(events.len(), 1);
        assert!(events[0].starts_with("Broken"), "{}", events[0]);
    }
}
