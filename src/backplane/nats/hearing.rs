//! What comes on a subscription, as events.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_nats::Subscriber;
use futures_util::StreamExt;
use tokio::select;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use crate::backplane::broker::{Event, Trace};
use crate::hub::message::ChannelName;
use crate::hub::position::{Epoch, Position};
use crate::threads::or_abort;

use super::entry::{Entry, Heard, Live};
use super::link::Shared;
use super::moved;

/// What a subscription is for.
pub enum Purpose {
    Channel(ChannelName, Live),
    Canary(Epoch),
    Note,
    /// The stream has another epoch.
    Moved,
}

/// A subscription, which ends with this.
pub struct Hearing {
    task: AbortHandle,
    /// There for as long as its task.
    drain: Weak<Drain>,
}

/// Who waits until everything that has come is with the receiver of events.
#[derive(Default)]
struct Drain {
    asked: Notify,
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

impl Hearing {
    pub fn start(messages: Subscriber, purpose: Purpose, shared: Arc<Shared>) -> Self {
        let drain = Arc::<Drain>::default();
        Self {
            drain: Arc::downgrade(&drain),
            task: tokio::spawn(or_abort(hear(messages, purpose, drain, shared))).abort_handle(),
        }
    }

    /// Comes when everything that has come until now is with the receiver of events; `None` when nothing comes any
    /// more.
    pub fn drained(&self) -> Option<oneshot::Receiver<()>> {
        let drain = self.drain.upgrade()?;
        let (sender, drained) = oneshot::channel();
        drain.waiting().push(sender);
        drain.asked.notify_one();
        Some(drained)
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drain {
    fn waiting(&self) -> MutexGuard<'_, Vec<oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, shared: &Shared) {
        for waiting in self.waiting().drain(..) {
            shared.tell_when_taken(waiting);
        }
    }
}

async fn hear(
    mut messages: Subscriber,
    mut purpose: Purpose,
    drain: Arc<Drain>,
    shared: Arc<Shared>,
) {
    loop {
        let message = select! {
            biased;
            message = messages.next() => message,
            // Only when no message is there: once this task has used up its budget, `select!` polls neither.
            () = drain.asked.notified() => {
                drain.answer(&shared);
                continue;
            }
        };
        let Some(message) = message else { return };
        if shared.is_broken() {
            return;
        }
        let payload_bytes = message.payload.len();
        let headers = message.headers.unwrap_or_default();
        let event = match &mut purpose {
            Purpose::Channel(channel, live) => match live.hear(&headers, &message.payload) {
                Some(Heard::Arrival(arrival)) => {
                    shared.trace(Trace {
                        position: arrival.message.position,
                        published_us: arrival.message.published_us,
                    });
                    Some(Event::Arrival(arrival))
                }
                Some(Heard::Ended) => Some(Event::Ended(channel.clone())),
                // Published to this subject by somebody who should not.
                Some(Heard::Nothing) | None => None,
            },
            Purpose::Canary(epoch) => {
                if let Some(entry) = Entry::decode(&headers, &message.payload) {
                    let position = Position {
                        epoch: *epoch,
                        offset: entry.sequence,
                    };
                    shared.trace(Trace {
                        position,
                        published_us: entry.time_us,
                    });
                }
                number(&message.payload).map(|number| Event::Canary {
                    connection: 0,
                    number,
                })
            }
            Purpose::Note => Some(Event::Note(message.payload.to_vec())),
            Purpose::Moved => return shared.break_off(&moved().0),
        };
        if let Some(event) = event {
            shared.tell(event, payload_bytes);
        }
    }
}

fn number(payload: &[u8]) -> Option<u64> {
    str::from_utf8(payload).ok()?.parse().ok()
}
