//! A request that is complete: it asks the homes, and makes something of their answers.

mod questions;

use crate::api::Request;
use crate::api::callback::{self, Decision};
use crate::api::question::{Answer, Question};
use crate::api::refusal::Refusal;
use crate::auth::grant::Session;
use crate::close_reason::CloseReason;
use crate::hub::batch::Format;
use crate::hub::fanout::{ChannelIndex, Delivery, Subscription};
use crate::hub::message::ChannelName;
use crate::hub::position::Since;
use crate::proto::ws_handshake;
use crate::transport::event_stream::EventStream;
use crate::transport::goodbye::{Goodbye, TokenRefusal};
use crate::transport::response::{Meta, refuse};
use crate::transport::websocket::{self, WebSocket};
use crate::transport::{Context, Effects, Next, Transport};
use crate::transport::{poll, replay, report};

/// A request that waits for answers.
#[derive(Debug)]
pub struct Asking {
    meta: Meta,
    purpose: Purpose,
    /// In the order of the questions.
    answers: Vec<Option<(Answer, Option<Subscription>)>>,
    missing: usize,
    /// Bytes of live messages that came in before the last answer.
    early_bytes: usize,
}

/// What the answers are for.
#[derive(Debug)]
pub(super) enum Purpose {
    Publish(Vec<ChannelName>),
    Poll {
        since: Vec<Since>,
        wait_ms: u64,
        limit: usize,
        session: Option<Session>,
    },
    EventStream {
        since: Vec<Since>,
        format: Format,
        session: Option<Session>,
    },
    WebSocket {
        since: Vec<Since>,
        format: Format,
        session: Option<Session>,
        /// `None` behind the handshake.
        accept: Option<[u8; ws_handshake::ACCEPT_BYTES]>,
    },
    ChannelInfo,
    ChannelDelete,
    ChannelList {
        limit: usize,
    },
    Inquiry {
        limit: usize,
    },
    Metrics,
    /// The backend's leave, with which the request begins anew.
    Permission(Box<Held>),
    /// They have come, and are used up.
    Done,
}

/// A request that the backend is asked about.
#[derive(Debug)]
pub(super) struct Held {
    request: Request,
    body: Vec<u8>,
}

impl Asking {
    /// Answers at once what needs no shard (`Err`), or asks.
    pub fn begin(
        meta: Meta,
        mut request: Request,
        body: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Self, Next> {
        let consultations = match callback::take_consultations(&mut request, context.config) {
            Ok(consultations) => consultations,
            Err(refusal) if is_behind_handshake(&request) => {
                return Err(TokenRefusal::from(refusal).send(context));
            }
            Err(refusal) => return Err(refuse(context, &meta, &refusal)),
        };
        let purpose = if consultations.is_empty() {
            questions::ask(&meta, request, body, context)?
        } else {
            for (slot, consultation) in consultations.into_iter().enumerate() {
                let question = Question::Authorize(Box::new(consultation));
                context.effects.ask(slot as u16, question);
            }
            let body = body.to_vec();
            Purpose::Permission(Box::new(Held { request, body }))
        };
        let missing = context.effects.questions.len();
        let answers = std::iter::repeat_with(|| None).take(missing).collect();
        Ok(Self {
            meta,
            purpose,
            answers,
            missing,
            early_bytes: 0,
        })
    }

    /// Notes an answer; with the last one it is [done](Self::is_done).
    pub fn on_answer(
        &mut self,
        slot: u16,
        answer: Answer,
        subscription: Option<Subscription>,
        context: &mut Context<'_>,
    ) -> Next {
        let kept = &mut self.answers[usize::from(slot)];
        debug_assert!(kept.is_none(), "a question is answered once");
        *kept = Some((answer, subscription));
        self.missing -= 1;
        if self.missing > 0 {
            return Next::Stay;
        }
        self.finish(context)
    }

    /// Nothing is asked any more: the request is answered, or has become something else.
    pub fn is_done(&self) -> bool {
        matches!(self.purpose, Purpose::Done)
    }

    /// A channel that has answered speaks before the others have: its message, or its loss, joins the replay.
    pub fn on_delivery(
        &mut self,
        channel: ChannelIndex,
        delivery: &Delivery,
        context: &mut Context<'_>,
    ) -> Next {
        let is_of_channel = |subscription: &Option<Subscription>| {
            subscription.is_some_and(|it| it.channel() == channel)
        };
        let answer = self
            .answers
            .iter_mut()
            .flatten()
            .find(|(_, subscription)| is_of_channel(subscription));
        let Some((Answer::Replay { replay, .. }, _)) = answer else {
            return self.give_up(context);
        };
        let batch = match delivery {
            Delivery::Messages(batch) => batch,
            Delivery::Gap(_, position) => {
                replay.end = *position;
                replay.lost = true;
                return Next::Stay;
            }
            Delivery::End => return self.give_up(context),
        };
        for message in batch.messages() {
            self.early_bytes += message.bytes();
            replay.end = message.position;
            replay.messages.push(message.clone());
        }
        if self.early_bytes > context.config.limits.outbox_bytes_max {
            return self.give_up(context);
        }
        Next::Stay
    }

    /// Every answer is here.
    fn finish(&mut self, context: &mut Context<'_>) -> Next {
        let refusal = self
            .answers
            .iter()
            .flatten()
            .find_map(|(answer, _)| match answer {
                Answer::Refused(refusal) => Some(*refusal),
                _ => None,
            });
        if let Some(refusal) = refusal {
            self.release(context.effects);
            let is_behind_handshake = self.is_behind_handshake();
            self.purpose = Purpose::Done;
            if is_behind_handshake {
                return Goodbye::NO_ROOM.send(context);
            }
            return refuse(context, &self.meta, &refusal.into());
        }
        let meta = std::mem::replace(&mut self.meta, Meta::UNKNOWN);
        let purpose = std::mem::replace(&mut self.purpose, Purpose::Done);
        let answers = std::mem::take(&mut self.answers)
            .into_iter()
            .map(|answer| answer.expect("nothing is missing"));
        match purpose {
            Purpose::Publish(channels) => {
                report::published(context, &meta, channels, answers.map(|(answer, _)| answer))
            }
            Purpose::Poll {
                since,
                wait_ms,
                limit,
                session,
            } => {
                let waiting = poll::Wait { wait_ms, session };
                poll::begin(
                    context,
                    meta,
                    waiting,
                    limit,
                    &since,
                    replay::parts(answers),
                )
            }
            Purpose::EventStream {
                since,
                format,
                session,
            } => {
                let parts = replay::parts(answers);
                begin_event_stream(&meta, &parts, &since, format, session, context)
            }
            Purpose::WebSocket {
                since,
                format,
                session,
                accept,
            } => {
                let parts = replay::parts(answers);
                replay::queue(&parts, &since, context);
                let start = websocket::Start {
                    positions: replay::starts(&parts),
                    is_recovered: parts.iter().all(|(replay, _)| !replay.lost),
                    session,
                };
                let websocket = match accept {
                    Some(accept) => WebSocket::upgrade(&meta, &accept, format, start, context),
                    None => WebSocket::go_on(format, start, context),
                };
                Next::Become(Transport::WebSocket(websocket))
            }
            Purpose::ChannelInfo
            | Purpose::ChannelDelete
            | Purpose::ChannelList { .. }
            | Purpose::Inquiry { .. }
            | Purpose::Metrics => {
                report::report(context, &meta, &purpose, answers.map(|(answer, _)| answer))
            }
            Purpose::Permission(held) => {
                let decisions: Vec<_> = answers
                    .map(|(answer, _)| match answer {
                        Answer::Authorized(decision) => decision,
                        _ => unreachable!("the backend was asked"),
                    })
                    .collect();
                self.on_decisions(meta, *held, &decisions, context)
            }
            Purpose::Done => unreachable!("an answer that nobody waits for"),
        }
    }

    /// The backend has decided. If it lets the request be, that asks now what it is about.
    fn on_decisions(
        &mut self,
        meta: Meta,
        held: Held,
        decisions: &[Decision],
        context: &mut Context<'_>,
    ) -> Next {
        let Held { mut request, body } = held;
        let concluded = callback::conclude(&mut request, decisions, context.config)
            .and_then(|()| claim(&mut request, context));
        match concluded {
            Ok(()) => match Self::begin(meta, request, &body, context) {
                Ok(asking) => {
                    *self = asking;
                    Next::Stay
                }
                Err(next) => next,
            },
            Err(refusal) if is_behind_handshake(&request) => {
                TokenRefusal::from(refusal).send(context)
            }
            Err(refusal) => refuse(context, &meta, &refusal),
        }
    }

    /// The channel was deleted, or spoke too much, before the listener was there.
    fn give_up(&self, context: &mut Context<'_>) -> Next {
        if self.is_behind_handshake() {
            return Goodbye::NO_ROOM.send(context);
        }
        let meta = Meta {
            keep_alive: false,
            ..self.meta.clone()
        };
        refuse(context, &meta, &Refusal::CHANNEL_DELETED);
        Next::End(CloseReason::Unavailable)
    }

    /// With whose token somebody is about to listen.
    pub fn session(&self) -> Option<&Session> {
        match &self.purpose {
            Purpose::Poll { session, .. }
            | Purpose::EventStream { session, .. }
            | Purpose::WebSocket { session, .. } => session.as_ref(),
            Purpose::Permission(held) => match &held.request {
                Request::Poll { listen, .. }
                | Request::EventStream(listen)
                | Request::WebSocket { listen, .. } => listen.session.as_ref(),
                _ => None,
            },
            _ => None,
        }
    }

    /// The operator ends the connection. Of a publish nobody knows yet what becomes: no answer is better
    /// than a wrong one.
    pub fn on_disconnect(&self, context: &mut Context<'_>) -> Next {
        match self.purpose {
            _ if self.is_behind_handshake() => Goodbye::DISCONNECTED.send(context),
            Purpose::Poll { .. }
            | Purpose::EventStream { .. }
            | Purpose::WebSocket { .. }
            | Purpose::Permission(_) => refuse_disconnected(context, &self.meta),
            _ => Next::End(CloseReason::Disconnected),
        }
    }

    fn is_behind_handshake(&self) -> bool {
        match &self.purpose {
            Purpose::WebSocket { accept, .. } => accept.is_none(),
            Purpose::Permission(held) => is_behind_handshake(&held.request),
            _ => false,
        }
    }

    pub fn release(&mut self, effects: &mut Effects) {
        effects.released.extend(
            self.answers
                .iter_mut()
                .flatten()
                .filter_map(|(_, subscription)| subscription.take()),
        );
    }
}

/// Every channel has answered: the stream begins, with what they had.
fn begin_event_stream(
    meta: &Meta,
    parts: &[replay::Part],
    since: &[Since],
    format: Format,
    session: Option<Session>,
    context: &mut Context<'_>,
) -> Next {
    let mut positions = replay::starts(parts);
    // Ids stay at the client's own cursor until the notice of a loss after it: whoever leaves before it has read the
    // notice is told again.
    for ((_, position), since) in positions.iter_mut().zip(since) {
        if let Since::After(cursor) = since {
            *position = *cursor;
        }
    }
    replay::queue(parts, since, context);
    let stream = EventStream::begin(meta, format, positions, since, session, context);
    Next::Become(Transport::EventStream(stream))
}

/// The last answer on a connection that the operator ends.
pub(super) fn refuse_disconnected(context: &mut Context<'_>, meta: &Meta) -> Next {
    let meta = Meta {
        keep_alive: false,
        ..meta.clone()
    };
    refuse(context, &meta, &Refusal::DISCONNECTED);
    Next::End(CloseReason::Disconnected)
}

/// Whom the backend has named is one of the user's connections from now on.
fn claim(request: &mut Request, context: &mut Context<'_>) -> Result<(), Refusal> {
    let listen = callback::listening(request).map(|(_, listen)| listen);
    match listen.and_then(|listen| listen.session.as_mut()) {
        Some(session) if session.seat.is_none() => context.gate().claim(session),
        _ => Ok(()),
    }
}

fn is_behind_handshake(request: &Request) -> bool {
    matches!(request, Request::WebSocket { accept: None, .. })
}
