//! Each transport alone: one connection, one shard, a socket that takes everything at once.

use std::sync::Arc;

use super::*;
use crate::hub::position::{Epoch, Position, Since};
use crate::hub::{Hub, Listen, ListenMode, Publish, Scope, ShardId};
use crate::proto::payload::PayloadKind;

mod callback;
mod connect;
mod disconnect;
mod event_stream;
mod http;
mod inbound;
mod token;
mod websocket;

const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

const DATE: &[u8] = b"Thu, 01 Jan 1970 00:00:00 GMT";

/// One connection and all it needs of a shard.
struct Peer {
    config: Config,
    side: Side,
    hub: Hub,
    fanout: Fanout,
    auth: Authenticator,
    metrics: Metrics,
    effects: Effects,
    rng: fastrand::Rng,
    now_ms: u64,
    is_draining: bool,
    has_backlog: bool,
    transport: Transport,
    input: Vec<u8>,
    output: Vec<u8>,
    pong: Option<Vec<u8>>,
    behind: Vec<Waiting>,
    ended: Option<CloseReason>,
    /// Questions are kept instead of answered.
    holds_questions: bool,
    questions: Vec<(u16, Question)>,
}

impl Peer {
    fn new() -> Self {
        Self::with_config(Config::default())
    }

    fn with_config(config: Config) -> Self {
        Self {
            hub: Hub::new(Arc::new(config.clone()), 1, 1),
            auth: Authenticator::open(&config),
            config,
            side: Side::Both,
            fanout: Fanout::default(),
            metrics: Metrics::default(),
            effects: Effects::default(),
            rng: fastrand::Rng::with_seed(1),
            now_ms: 0,
            is_draining: false,
            has_backlog: false,
            transport: Transport::new(0),
            input: Vec::new(),
            output: Vec::new(),
            pong: None,
            behind: Vec::new(),
            ended: None,
            holds_questions: false,
            questions: Vec::new(),
        }
    }

    /// Sends `bytes`; gives what comes back.
    fn send(&mut self, bytes: &[u8]) -> String {
        self.input.extend_from_slice(bytes);
        self.offer_input();
        self.take_output()
    }

    fn get(&mut self, target: &str, fields: &str) -> String {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())
    }

    fn take_output(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.output)).into_owned()
    }

    fn offer_input(&mut self) {
        while self.ended.is_none()
            && !self.input.is_empty()
            && self.transport.wants_input(&self.config)
        {
            let mut input = std::mem::take(&mut self.input);
            let kind = self.transport.kind();
            let (consumed, next) =
                self.step(|transport, context| transport.on_bytes(&mut input, context));
            input.drain(..consumed);
            self.input = input;
            self.settle(next);
            if consumed == 0 && self.transport.kind() == kind {
                return;
            }
        }
    }

    fn beats(&self) -> Beats {
        Beats::new(self.config.timing.heartbeat_ms, ShardId(0), 1)
    }

    fn step<R>(&mut self, step: impl FnOnce(&mut Transport, &mut Context<'_>) -> R) -> R {
        let mut context = Context {
            config: &self.config,
            side: self.side,
            connection: 0,
            now_ms: self.now_ms,
            unix_ms: self.now_ms,
            date: DATE,
            is_ready: !self.is_draining,
            is_draining: self.is_draining,
            has_backlog: self.has_backlog,
            shard: ShardId(0),
            n_shards: 1,
            fanout: &self.fanout,
            auth: &mut self.auth,
            rng: &mut self.rng,
            metrics: &mut self.metrics,
            effects: &mut self.effects,
        };
        step(&mut self.transport, &mut context)
    }

    fn settle(&mut self, next: Next) {
        match next {
            Next::Stay => {}
            Next::Become(transport) => self.transport = transport,
            Next::End(reason) => {
                assert_eq!(self.ended.replace(reason), None, "a connection ends once");
                self.transport.release(&mut self.effects);
            }
        }
        for slice in self.effects.out.slices() {
            self.output.extend_from_slice(slice);
        }
        self.effects.out.clear();
        for waiting in std::mem::take(&mut self.effects.replay) {
            self.transport.encode(waiting, &mut self.effects.out);
            for slice in self.effects.out.slices() {
                self.output.extend_from_slice(slice);
            }
            self.effects.out.clear();
        }
        self.behind.append(&mut self.effects.behind);
        self.pong = self.effects.pong.take().or_else(|| self.pong.take());
        for subscription in std::mem::take(&mut self.effects.released) {
            let name = self.fanout.unlisten(subscription);
            self.hub.unlisten(&name, ShardId(0), self.now_ms);
        }
        for (slot, question) in std::mem::take(&mut self.effects.questions) {
            if self.holds_questions {
                self.questions.push((slot, question));
            } else {
                self.answer(slot, question);
            }
        }
    }

    fn answer(&mut self, slot: u16, question: Question) {
        let mut subscription = None;
        let answer = match question {
            Question::Publish(publish) | Question::PublishCounted(publish) => {
                let result = self.hub.publish(publish, self.now_ms, &mut Vec::new());
                Answer::Published(result.map(|(published, message)| {
                    if let Some(message) = message {
                        self.fanout.enqueue(message);
                    }
                    (published, Scope::Alone)
                }))
            }
            Question::Listen(listen) => match self.hub.listen(&listen, ShardId(0), self.now_ms) {
                Ok((replay, listening)) => {
                    subscription = listening.then(|| self.fanout.listen(&listen.channel, 0));
                    Answer::Replay {
                        channel: listen.channel,
                        replay,
                        listening,
                    }
                }
                Err(refusal) => Answer::Refused(refusal),
            },
            Question::Info(name) => Answer::Info(self.hub.info(&name, self.now_ms)),
            Question::Delete(name) => {
                Answer::Deleted(Ok(self.hub.delete(&name, self.now_ms, &mut Vec::new())))
            }
            Question::List(list) => Answer::List(self.hub.list(
                &list.prefix,
                list.after.as_deref(),
                list.limit,
                self.now_ms,
            )),
            Question::Inquiry(_) => unreachable!("no operator here"),
            Question::Metrics => Answer::Metrics(Box::new(self.metrics.clone())),
            Question::Authorize(_) => unreachable!("the test is the backend"),
        };
        let next = self
            .step(|transport, context| transport.on_answer(slot, answer, subscription, context));
        self.settle(next);
        self.offer_input();
    }

    /// Publishes text on `channel` by somebody else and delivers it; gives what the connection sends.
    fn publish(&mut self, channel: &str, text: &str) -> String {
        let publish = Publish {
            channel: name(channel),
            kind: PayloadKind::Text,
            event: None,
            payload: text.as_bytes().into(),
            ttl_ms: None,
            store: true,
            idempotency_key: None,
        };
        let (_, message) = self
            .hub
            .publish(publish, self.now_ms, &mut Vec::new())
            .unwrap();
        self.fanout.enqueue(message.unwrap());
        self.deliver()
    }

    /// Deletes `channel` and tells its listeners.
    fn delete(&mut self, channel: &str) -> String {
        assert!(
            self.hub
                .delete(&name(channel), self.now_ms, &mut Vec::new())
        );
        self.fanout.enqueue_end(&name(channel));
        self.deliver()
    }

    fn deliver(&mut self) -> String {
        self.deliver_quietly();
        self.take_output()
    }

    fn deliver_quietly(&mut self) {
        let mut connections = Vec::new();
        while let Some(slice) = self.fanout.next_slice(&mut connections, 9) {
            for _ in &connections {
                let next = self.step(|transport, context| {
                    transport.on_delivery(slice.channel, &slice.delivery, context)
                });
                self.settle(next);
                self.offer_input();
            }
        }
    }

    /// Goes to the next deadline; gives what the connection sends.
    fn deadline(&mut self) -> String {
        let deadline_ms = self.transport.next_deadline_ms(&self.config);
        self.deadline_at(deadline_ms.expect("a deadline"))
    }

    /// The deadline is seen to at `now_ms`, perhaps too late.
    fn deadline_at(&mut self, now_ms: u64) -> String {
        self.now_ms = now_ms;
        let next = self.step(|transport, context| transport.on_deadline(context));
        self.settle(next);
        self.take_output()
    }

    fn drain(&mut self) -> String {
        self.is_draining = true;
        let next = self.step(|transport, context| transport.on_drain(context));
        self.settle(next);
        self.take_output()
    }

    /// `epoch-offset` of the channel's head, whether or not it is there.
    fn head(&mut self, channel: &str) -> String {
        let listen = Listen {
            channel: name(channel),
            since: Since::Now,
            mode: ListenMode::Once,
            messages_max: 0,
            bytes_max: 0,
        };
        let (replay, _) = self.hub.listen(&listen, ShardId(0), self.now_ms).unwrap();
        replay.end.to_string()
    }
}

fn name(text: &str) -> crate::hub::message::ChannelName {
    crate::hub::message::ChannelName::parse(text).unwrap()
}

/// A position that no channel has ever had.
fn foreign_cursor() -> String {
    let epoch = Epoch::from_random(12345);
    Position { epoch, offset: 3 }.to_string()
}

fn status(answer: &str) -> u16 {
    let status = answer
        .strip_prefix("HTTP/1.1 ")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    status[..3].parse().unwrap()
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = answer.split_once("\r\n\r\n").expect("a head");
    head.split("\r\n")
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head").1
}
