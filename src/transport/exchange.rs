//! A request that is complete: what it asks of the homes, and what it makes of their answers.

use crate::api::Request;
use crate::api::callback;
use crate::api::channels;
use crate::api::question::{Answer, Question};
use crate::api::refusal::Refusal;
use crate::auth::grant::Session;
use crate::close_reason::CloseReason;
use crate::hub::batch::Format;
use crate::hub::fanout::{ChannelIndex, Delivery, Subscription};
use crate::hub::message::ChannelName;
use crate::hub::position::Since;
use crate::hub::{Listen, ListenMode};
use crate::proto::ws_handshake;
use crate::transport::event_stream::EventStream;
use crate::transport::first_message::FirstMessage;
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
            Self::ask(&meta, request, body, context)?
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

    /// Asks the homes.
    fn ask(
        meta: &Meta,
        request: Request,
        body: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Purpose, Next> {
        let page_limit = context.config.limits.poll_limit_max;
        let purpose = match request {
            Request::Health => return Err(report::text(context, meta, 200, "ok\n")),
            Request::Readiness if !context.is_ready => {
                return Err(refuse(context, meta, &Refusal::NOT_READY));
            }
            Request::Readiness => return Err(report::text(context, meta, 200, "ready\n")),
            Request::Preflight { allow } => return Err(report::preflight(context, meta, allow)),
            Request::Page(page) => return Err(report::page(context, meta, page)),
            Request::Publish(request) => {
                let question = match request.counts_cluster && context.config.backplane.is_some() {
                    true => Question::PublishCounted,
                    false => Question::Publish,
                };
                let publishes = match request.complete(body) {
                    Ok(publishes) => publishes,
                    Err(refusal) => return Err(refuse(context, meta, &refusal)),
                };
                for (slot, publish) in publishes.enumerate() {
                    context.effects.ask(slot as u16, question(publish));
                }
                Purpose::Publish(request.channels)
            }
            Request::Poll {
                listen,
                wait_ms,
                limit,
            } => {
                let mode = if wait_ms == 0 {
                    ListenMode::Once
                } else {
                    ListenMode::UntilFirst
                };
                let limit = limit.min(page_limit);
                let since = ask_to_listen(listen.channels, mode, limit, context);
                Purpose::Poll {
                    since,
                    wait_ms,
                    limit,
                    session: listen.session,
                }
            }
            Request::EventStream(_) if meta.head_only => {
                return Err(EventStream::head_only(meta, context));
            }
            Request::EventStream(listen) => {
                let (format, session) = (listen.format, listen.session);
                let since = ask_to_listen(listen.channels, ListenMode::Stream, usize::MAX, context);
                Purpose::EventStream {
                    since,
                    format,
                    session,
                }
            }
            Request::WebSocket {
                listen,
                accept: Some(accept),
            } if listen.token_due => {
                let first = FirstMessage::begin(meta.clone(), &accept, listen, context);
                return Err(Next::Become(Transport::FirstMessage(Box::new(first))));
            }
            Request::WebSocket { listen, accept } => {
                let (format, session) = (listen.format, listen.session);
                let since = ask_to_listen(listen.channels, ListenMode::Stream, usize::MAX, context);
                Purpose::WebSocket {
                    since,
                    format,
                    session,
                    accept,
                }
            }
            Request::ChannelInfo(channel) => {
                context.effects.ask(0, Question::Info(channel));
                Purpose::ChannelInfo
            }
            Request::ChannelDelete(channel) => {
                context.effects.ask(0, Question::Delete(channel));
                Purpose::ChannelDelete
            }
            Request::ChannelList(list) => {
                let limit = list.limit;
                // One more than wanted tells whether there is a next page.
                let list = channels::ChannelList {
                    limit: limit + 1,
                    ..list
                };
                ask_all_shards(&Question::List(list), context);
                Purpose::ChannelList { limit }
            }
            Request::Inquiry(inquiry) => {
                let shard = inquiry.shard();
                if shard.is_some_and(|shard| usize::from(shard.0) >= context.n_shards) {
                    return Err(refuse(context, meta, &Refusal::CONNECTION_UNKNOWN));
                }
                let (inquiry, limit) = inquiry.with_one_more();
                let question = Question::Inquiry(inquiry);
                match shard {
                    Some(_) => context.effects.ask(0, question),
                    None => ask_all_shards(&question, context),
                }
                Purpose::Inquiry { limit }
            }
            Request::Metrics => {
                ask_all_shards(&Question::Metrics, context);
                Purpose::Metrics
            }
        };
        Ok(purpose)
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
                let mut positions = replay::starts(&parts);
                // Ids stay at the client's own cursor until the notice of a loss after it: whoever leaves before it
                // has read the notice is told again.
                for ((_, position), since) in positions.iter_mut().zip(&since) {
                    if let Since::After(cursor) = since {
                        *position = *cursor;
                    }
                }
                replay::queue(&parts, &since, context);
                Next::Become(Transport::EventStream(EventStream::begin(
                    &meta, format, positions, &since, session, context,
                )))
            }
            Purpose::WebSocket {
                since,
                format,
                session,
                accept,
            } => {
                let parts = replay::parts(answers);
                let is_recovered = parts.iter().all(|(replay, _)| !replay.lost);
                let positions = replay::starts(&parts);
                replay::queue(&parts, &since, context);
                let start = websocket::Start {
                    positions,
                    is_recovered,
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
                let Held { mut request, body } = *held;
                let decisions: Vec<_> = answers
                    .map(|(answer, _)| match answer {
                        Answer::Authorized(decision) => decision,
                        _ => unreachable!("the backend was asked"),
                    })
                    .collect();
                let concluded = callback::conclude(&mut request, &decisions, context.config)
                    .and_then(|()| claim(&mut request, context));
                match concluded {
                    Ok(()) => self.go_on(meta, request, &body, context),
                    Err(refusal) if is_behind_handshake(&request) => {
                        TokenRefusal::from(refusal).send(context)
                    }
                    Err(refusal) => refuse(context, &meta, &refusal),
                }
            }
            Purpose::Done => unreachable!("an answer that nobody waits for"),
        }
    }

    /// The backend lets the request be: now it asks what it is about.
    fn go_on(
        &mut self,
        meta: Meta,
        request: Request,
        body: &[u8],
        context: &mut Context<'_>,
    ) -> Next {
        match Self::begin(meta, request, body, context) {
            Ok(asking) => {
                *self = asking;
                Next::Stay
            }
            Err(next) => next,
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

/// One question for each channel; gives the starting points, in order.
fn ask_to_listen(
    channels: Vec<(ChannelName, Since)>,
    mode: ListenMode,
    messages_max: usize,
    context: &mut Context<'_>,
) -> Vec<Since> {
    let bytes_max = match mode {
        ListenMode::Stream => usize::MAX,
        ListenMode::Once | ListenMode::UntilFirst => context.config.limits.outbox_bytes_max,
    };
    let ask = |(slot, (channel, since))| {
        let listen = Listen {
            channel,
            since,
            mode,
            messages_max,
            bytes_max,
        };
        context.effects.ask(slot as u16, Question::Listen(listen));
        since
    };
    channels.into_iter().enumerate().map(ask).collect()
}

fn ask_all_shards(question: &Question, context: &mut Context<'_>) {
    for slot in 0..context.n_shards {
        context.effects.ask(slot as u16, question.clone());
    }
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
