//! What was asked of the broker and is not answered yet.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::backplane::broker::{BrokerError, Publishing};
use crate::backplane::driver::ClockReading;
use crate::backplane::order::{Keep, NotPublished, Standing};
use crate::backplane::roster::Asker;
use crate::hub::Published;
use crate::hub::message::ChannelName;

/// Calls under way. All are polled in one task and in the order in which they began, so that their first polls, which
/// the broker goes by, keep that order; there are few of them. Dropped with the broker's client that they are about.
pub(super) struct Calls(Vec<Call>);

struct Call {
    kind: CallKind,
    future: Pin<Box<dyn Future<Output = Result<Answer, BrokerError>>>>,
}

/// What a call is about, for when it does not come to an answer, too.
#[derive(Debug)]
pub(super) enum CallKind {
    Publish {
        askers: Vec<Asker>,
        channels: Vec<(ChannelName, Keep)>,
        began: Instant,
    },
    Delete(Asker),
    /// Channels that are listened to, if they are not yet, and read.
    Open(Vec<ChannelName>),
    Close,
    /// Channels on which this node has published of late.
    Remind,
    Canary,
    Clock,
    Tell,
}

#[derive(Debug)]
pub(super) enum Answer {
    Published(Vec<Result<Published, NotPublished>>),
    Deleted(bool),
    Standings(Vec<Standing>),
    Clock(ClockReading),
    Done,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn begin(
        &mut self,
        kind: CallKind,
        future: impl Future<Output = Result<Answer, BrokerError>> + 'static,
    ) {
        self.0.push(Call {
            kind,
            future: Box::pin(future),
        });
    }

    pub(super) fn count(&self, is_wanted: impl Fn(&CallKind) -> bool) -> usize {
        self.0.iter().filter(|call| is_wanted(&call.kind)).count()
    }

    /// Adds what has come to an end to `out`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<(CallKind, Result<Answer, BrokerError>)>,
    ) -> Poll<()> {
        let mut index = 0;
        let before = out.len();
        while let Some(call) = self.0.get_mut(index) {
            match call.future.as_mut().poll(cx) {
                Poll::Ready(result) => out.push((self.0.remove(index).kind, result)),
                Poll::Pending => index += 1,
            }
        }
        if out.len() > before {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// What the calls were about that nobody answers any more.
    pub(super) fn into_kinds(self) -> impl Iterator<Item = CallKind> {
        self.0.into_iter().map(|call| call.kind)
    }
}

/// Publishes and deletes that wait for a call, in the order in which they came: a delete must not overtake the
/// publishes before it. Bounded by what the shards have outstanding.
#[derive(Debug, Default)]
pub(super) struct Writes(VecDeque<(Asker, Write)>);

#[derive(Debug)]
pub(super) enum Write {
    Publish(Publishing),
    Delete { channel: ChannelName, keep: Keep },
}

/// What one call takes.
#[derive(Debug)]
pub(super) enum WriteCall {
    Publish(Vec<Asker>, Vec<Publishing>),
    Delete(Asker, ChannelName, Keep),
}

impl Writes {
    pub(super) fn push(&mut self, asker: Asker, write: Write) {
        self.0.push_back((asker, write));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The next call: one delete, or publishes up to either limit and at least one.
    pub(super) fn next_call(
        &mut self,
        publishes_max: usize,
        payload_bytes_max: usize,
    ) -> Option<WriteCall> {
        let (mut askers, mut publishings) = (Vec::new(), Vec::new());
        let mut payload_bytes = 0;
        while let Some((asker, write)) = self.0.pop_front() {
            match write {
                Write::Delete { channel, keep } if askers.is_empty() => {
                    return Some(WriteCall::Delete(asker, channel, keep));
                }
                Write::Publish(publishing)
                    if askers.is_empty()
                        || (askers.len() < publishes_max
                            && payload_bytes + publishing.publish.payload.len()
                                <= payload_bytes_max) =>
                {
                    payload_bytes += publishing.publish.payload.len();
                    askers.push(asker);
                    publishings.push(publishing);
                }
                write => {
                    self.0.push_front((asker, write));
                    break;
                }
            }
        }
        (!askers.is_empty()).then_some(WriteCall::Publish(askers, publishings))
    }

    /// Everything that waits; nobody takes it.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Asker, Write)> {
        self.0.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::order::Ticket;
    use crate::hub::{Publish, ShardId};
    use crate::proto::payload::PayloadKind;

    const KEEP: Keep = Keep {
        history_messages: 1,
        history_age_ms: 1,
        idle_timeout_ms: 1,
        idempotency_window_ms: 1,
    };

    /// Numbers are payload bytes of publishes, `d` is a delete; calls may take 3 publishes and 10 bytes.
    fn check(writes: &str, want: &str) {
        let channel = ChannelName::parse("a").unwrap();
        let mut waiting = Writes::default();
        for (ticket, write) in (0..).map(Ticket).zip(writes.split(' ')) {
            let write = match write.parse() {
                Ok(payload_bytes) => Write::Publish(Publishing {
                    publish: Publish {
                        channel: channel.clone(),
                        kind: PayloadKind::Binary,
                        event: None,
                        payload: vec![0; payload_bytes].into(),
                        ttl_ms: None,
                        store: true,
                        idempotency_key: None,
                    },
                    keep: KEEP,
                    receivers: 0,
                }),
                Err(_) => Write::Delete {
                    channel: channel.clone(),
                    keep: KEEP,
                },
            };
            let shard = ShardId(0);
            waiting.push(Asker { shard, ticket }, write);
        }
        let mut calls = Vec::new();
        let mut askers = Vec::new();
        while let Some(call) = waiting.next_call(3, 10) {
            calls.push(match call {
                WriteCall::Publish(of, publishings) => {
                    assert_eq!(of.len(), publishings.len());
                    askers.extend(of);
                    let bytes = publishings
                        .iter()
                        .map(|p| p.publish.payload.len().to_string());
                    bytes.collect::<Vec<_>>().join("+")
                }
                WriteCall::Delete(asker, ..) => {
                    askers.push(asker);
                    "d".into()
                }
            });
        }
        assert_eq!(calls.join(" "), want, "{writes}");
        assert!(askers.is_sorted_by_key(|asker| asker.ticket.0), "{writes}");
    }

    #[test]
    fn calls_are_bounded_and_keep_the_order() {
        check("1", "1");
        check("1 1 1 1", "1+1+1 1");
        check("5 5 1", "5+5 1");
        check("0 11 0", "0 11 0");
        check("99 99", "99 99");
        check("1 d 1 1", "1 d 1+1");
        check("d d 1", "d d 1");
    }
}
