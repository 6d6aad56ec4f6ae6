//! A request that is complete: what it asks of the homes, and what it makes of their answers.

use std::sync::Arc;

use crate::api::channels;
use crate::api::publish::{self, PublishResult};
use crate::api::question::{Answer, Question};
use crate::api::refusal::Refusal;
use crate::api::{Page, Request};
use crate::close_reason::CloseReason;
use crate::hub::batch::Format;
use crate::hub::channel::Replay;
use crate::hub::fanout::{Delivery, Subscription};
use crate::hub::message::{ChannelName, Message};
use crate::hub::position::{Position, Since, write_cursor};
use crate::hub::{Listen, ListenMode};
use crate::metrics;
use crate::proto::ws_handshake;
use crate::transport::event_stream::EventStream;
use crate::transport::outbox::Waiting;
use crate::transport::poll::{self, LongPoll};
use crate::transport::response::{Body, Fields, Meta, refuse, respond, retry_after_seconds};
use crate::transport::websocket::WebSocket;
use crate::transport::{Context, Effects, Next, Transport, jittered_down};

const JSON: Option<&str> = Some("application/json");

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
enum Purpose {
    Publish(Vec<ChannelName>),
    Poll {
        since: Vec<Since>,
        wait_ms: u64,
        limit: usize,
    },
    EventStream {
        since: Vec<Since>,
        format: Format,
    },
    WebSocket {
        since: Vec<Since>,
        format: Format,
        accept: [u8; ws_handshake::ACCEPT_BYTES],
    },
    ChannelInfo,
    ChannelDelete,
    ChannelList {
        limit: usize,
    },
    Metrics,
}

impl Asking {
    /// Answers at once what needs no shard (`Err`), or asks.
    pub fn begin(
        meta: Meta,
        request: Request,
        body: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Self, Next> {
        let page_limit = context.config.limits.poll_limit_max;
        let purpose = match request {
            Request::Health => return Err(text(context, &meta, 200, "ok\n")),
            Request::Readiness if !context.is_ready => {
                return Err(refuse(context, &meta, &Refusal::NOT_READY));
            }
            Request::Readiness => return Err(text(context, &meta, 200, "ready\n")),
            Request::Preflight { allow } => return Err(preflight(context, &meta, allow)),
            Request::Page(page) => return Err(respond_page(context, &meta, page)),
            Request::Publish(request) => {
                let channels = request.channels.clone();
                let publishes = match request.complete(body) {
                    Ok(publishes) => publishes,
                    Err(refusal) => return Err(refuse(context, &meta, &refusal)),
                };
                for (place, publish) in publishes.enumerate() {
                    context
                        .effects
                        .questions
                        .push((place as u16, Question::Publish(publish)));
                }
                Purpose::Publish(channels)
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
                let since = ask_to_listen(listen.channels, mode, limit.min(page_limit), context);
                Purpose::Poll {
                    since,
                    wait_ms,
                    limit,
                }
            }
            Request::EventStream(listen) if meta.head_only => {
                drop(listen);
                return Err(EventStream::head_only(&meta, context));
            }
            Request::EventStream(listen) => {
                let format = listen.format;
                let since = ask_to_listen(listen.channels, ListenMode::Stream, usize::MAX, context);
                Purpose::EventStream { since, format }
            }
            Request::WebSocket { listen, accept } => {
                let format = listen.format;
                let since = ask_to_listen(listen.channels, ListenMode::Stream, usize::MAX, context);
                Purpose::WebSocket {
                    since,
                    format,
                    accept,
                }
            }
            Request::ChannelInfo(channel) => {
                context.effects.questions.push((0, Question::Info(channel)));
                Purpose::ChannelInfo
            }
            Request::ChannelDelete(channel) => {
                context
                    .effects
                    .questions
                    .push((0, Question::Delete(channel)));
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
            Request::Metrics => {
                ask_all_shards(&Question::Metrics, context);
                Purpose::Metrics
            }
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

    /// Notes an answer; `true` when it was the last one.
    pub fn on_answer(
        &mut self,
        place: u16,
        answer: Answer,
        subscription: Option<Subscription>,
    ) -> bool {
        let slot = &mut self.answers[usize::from(place)];
        debug_assert!(slot.is_none(), "a question is answered once");
        *slot = Some((answer, subscription));
        self.missing -= 1;
        self.missing == 0
    }

    /// A channel that has answered speaks before the others have: its message joins the replay.
    pub fn on_delivery(
        &mut self,
        channel: u32,
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
        let (Some((Answer::Replay { replay, .. }, _)), Delivery::Messages(batch)) =
            (answer, delivery)
        else {
            return refuse_and_close(context, &self.meta);
        };
        for message in batch.messages() {
            self.early_bytes += message.bytes();
            replay.end = message.position;
            replay.messages.push(message.clone());
        }
        if self.early_bytes > context.config.limits.outbox_bytes_max {
            return refuse_and_close(context, &self.meta);
        }
        Next::Stay
    }

    /// Every answer is here.
    pub fn finish(mut self, context: &mut Context<'_>) -> Next {
        let full = self
            .answers
            .iter()
            .flatten()
            .find_map(|(answer, _)| match answer {
                Answer::NotListening(full) => Some(*full),
                _ => None,
            });
        if let Some(full) = full {
            self.release(context.effects);
            return refuse(context, &self.meta, &full.into());
        }
        let Self {
            meta,
            purpose,
            answers,
            ..
        } = self;
        let answers = answers
            .into_iter()
            .map(|answer| answer.expect("nothing is missing"));
        match purpose {
            Purpose::Publish(channels) => {
                finish_publish(context, &meta, channels, answers.map(|(answer, _)| answer))
            }
            Purpose::Poll {
                since,
                wait_ms,
                limit,
            } => finish_poll(context, meta, &since, wait_ms, limit, replays(answers)),
            Purpose::EventStream { since, format } => {
                let replays = replays(answers);
                let mut positions = start_positions(&replays);
                // Ids stay at the client's own cursor until the notice of a loss after it: whoever leaves before it
                // has read the notice is told again.
                for ((_, position), since) in positions.iter_mut().zip(&since) {
                    if let Since::After(cursor) = since {
                        *position = *cursor;
                    }
                }
                queue_replay(&replays, &since, context);
                Next::Become(Transport::EventStream(EventStream::begin(
                    &meta, format, positions, context,
                )))
            }
            Purpose::WebSocket {
                since,
                format,
                accept,
            } => {
                let replays = replays(answers);
                let is_recovered = replays.iter().all(|(replay, _)| !replay.lost);
                let positions = start_positions(&replays);
                queue_replay(&replays, &since, context);
                let websocket =
                    WebSocket::begin(&meta, &accept, format, positions, is_recovered, context);
                Next::Become(Transport::WebSocket(websocket))
            }
            Purpose::ChannelInfo
            | Purpose::ChannelDelete
            | Purpose::ChannelList { .. }
            | Purpose::Metrics => {
                finish_report(context, &meta, &purpose, answers.map(|(answer, _)| answer))
            }
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
    let ask = |(place, (channel, since))| {
        let listen = Listen {
            channel,
            since,
            mode,
            messages_max,
            bytes_max,
        };
        context
            .effects
            .questions
            .push((place as u16, Question::Listen(listen)));
        since
    };
    channels.into_iter().enumerate().map(ask).collect()
}

fn ask_all_shards(question: &Question, context: &mut Context<'_>) {
    for place in 0..context.n_shards {
        context
            .effects
            .questions
            .push((place as u16, question.clone()));
    }
}

fn replays(
    answers: impl Iterator<Item = (Answer, Option<Subscription>)>,
) -> Vec<(Replay, Option<Subscription>)> {
    let replay = |(answer, subscription)| match answer {
        Answer::Replay { replay, .. } => (replay, subscription),
        answer => unreachable!("no replay: {answer:?}"),
    };
    answers.map(replay).collect()
}

fn start_positions(replays: &[(Replay, Option<Subscription>)]) -> Vec<(Subscription, Position)> {
    let start = |(replay, subscription): &(Replay, Option<Subscription>)| {
        (
            subscription.expect("a stream listens from the start"),
            replay.start,
        )
    };
    replays.iter().map(start).collect()
}

/// Queues what the channels had before the stream began, oldest first over all of them, with the notices of loss.
fn queue_replay(
    replays: &[(Replay, Option<Subscription>)],
    since: &[Since],
    context: &mut Context<'_>,
) {
    let mut items: Vec<(u64, Waiting)> = Vec::new();
    for (place, ((replay, subscription), since)) in replays.iter().zip(since).enumerate() {
        let channel = place as u16;
        let gap = |position| {
            let channel_name = context
                .fanout
                .name(subscription.expect("a stream listens"))
                .clone();
            Waiting::Gap {
                channel,
                channel_name,
                position,
            }
        };
        let mut gaps = replay.gaps(*since).into_iter().peekable();
        let mut when_ms = 0;
        for (index, message) in replay.messages.iter().enumerate() {
            when_ms = message.published_ms;
            while let Some((_, position)) = gaps.next_if(|(before, _)| *before == index) {
                items.push((when_ms, gap(position)));
            }
            items.push((
                when_ms,
                Waiting::Message {
                    channel,
                    message: message.clone(),
                },
            ));
        }
        items.extend(gaps.map(|(_, position)| (when_ms, gap(position))));
        context.metrics.gaps_told_total += u64::from(replay.lost);
        context.metrics.delivered_messages_total += replay.messages.len() as u64;
    }
    // Stable: what one channel says stays in its order.
    items.sort_by_key(|(when_ms, _)| *when_ms);
    context
        .effects
        .replay
        .extend(items.into_iter().map(|(_, item)| item));
}

fn finish_poll(
    context: &mut Context<'_>,
    meta: Meta,
    since: &[Since],
    wait_ms: u64,
    limit: usize,
    replays: Vec<(Replay, Option<Subscription>)>,
) -> Next {
    debug_assert_eq!(since.len(), replays.len());
    let has_news = replays
        .iter()
        .any(|(replay, _)| replay.lost || !replay.messages.is_empty());
    if !has_news && wait_ms > 0 && !context.is_draining {
        let positions = replays.iter().map(|(replay, subscription)| {
            (
                subscription.expect("a poll without news listens"),
                replay.end,
            )
        });
        let deadline_ms = context.now_ms + jittered_down(wait_ms, context.rng);
        let poll = LongPoll::new(meta, positions.collect(), limit, deadline_ms);
        return Next::Become(Transport::LongPoll(Box::new(poll)));
    }
    context
        .effects
        .released
        .extend(replays.iter().filter_map(|(_, subscription)| *subscription));
    let mut messages: Vec<&Arc<Message>> = replays
        .iter()
        .flat_map(|(replay, _)| &replay.messages)
        .collect();
    messages.sort_by_key(|message| message.published_ms);
    messages.truncate(limit);
    let position = |(replay, _): &(Replay, Option<Subscription>)| {
        let taken = messages
            .iter()
            .filter(|message| is_of(replay, message))
            .count();
        match taken {
            _ if taken == replay.messages.len() => replay.end,
            0 => replay.start,
            _ => replay.messages[taken - 1].position,
        }
    };
    let mut cursor = String::new();
    write_cursor(&mut cursor, replays.iter().map(position));
    let is_recovered = replays.iter().all(|(replay, _)| !replay.lost);
    poll::answer(
        context,
        &meta,
        &cursor,
        is_recovered,
        messages.into_iter().map(|message| &**message),
    )
}

fn is_of(replay: &Replay, message: &Message) -> bool {
    replay
        .messages
        .first()
        .is_some_and(|first| first.channel == message.channel)
}

fn finish_publish(
    context: &mut Context<'_>,
    meta: &Meta,
    channels: Vec<ChannelName>,
    answers: impl Iterator<Item = Answer>,
) -> Next {
    let result = |(channel, answer)| match answer {
        Answer::Published(result) => (channel, result.map_err(Refusal::from)),
        answer => unreachable!("not published: {answer:?}"),
    };
    let results: Vec<PublishResult> = channels.into_iter().zip(answers).map(result).collect();
    if let [(_, Err(refusal))] = &results[..] {
        return refuse(context, meta, refusal);
    }
    for refusal in results.iter().filter_map(|(_, result)| result.err()) {
        context.metrics.on_refusal(refusal.code, refusal.status);
    }
    let mut body = Vec::with_capacity(64 + 64 * results.len());
    let status = publish::answer(&results, &mut body);
    let seconds = (status == 503).then(|| retry_after_seconds(context));
    let mut fields = Fields::new(&meta.cors);
    if let Some(seconds) = &seconds {
        fields.push("Retry-After", seconds);
    }
    respond(context, meta, status, JSON, &fields, Body::Own(&body))
}

fn finish_report(
    context: &mut Context<'_>,
    meta: &Meta,
    purpose: &Purpose,
    answers: impl Iterator<Item = Answer>,
) -> Next {
    let mut body = Vec::new();
    let mut content_type = JSON;
    let mut pages = Vec::new();
    let mut shards = Vec::new();
    let mut status = 200;
    for answer in answers {
        match answer {
            Answer::Info(Some(info)) => channels::write_info(&mut body, &info),
            Answer::Info(None) | Answer::Deleted(false) => {
                return refuse(context, meta, &Refusal::CHANNEL_UNKNOWN);
            }
            Answer::Deleted(true) => status = 204,
            Answer::List(page) => pages.push(page),
            Answer::Metrics(metrics) => shards.push(*metrics),
            answer => unreachable!("no report: {answer:?}"),
        }
    }
    match purpose {
        Purpose::ChannelList { limit } => channels::write_list(&mut body, pages, *limit),
        Purpose::Metrics => {
            let mut text = String::new();
            metrics::write_exposition(&mut text, &shards);
            content_type = Some("text/plain; version=0.0.4; charset=utf-8");
            body = text.into_bytes();
        }
        _ => {}
    }
    let mut fields = Fields::new(&meta.cors);
    fields.push("Cache-Control", "no-store");
    let body = if body.is_empty() {
        Body::Nothing
    } else {
        Body::Own(&body)
    };
    respond(
        context,
        meta,
        status,
        content_type.filter(|_| status == 200),
        &fields,
        body,
    )
}

fn text(context: &mut Context<'_>, meta: &Meta, status: u16, text: &str) -> Next {
    let mut fields = Fields::new(&meta.cors);
    fields.push("Cache-Control", "no-store");
    respond(
        context,
        meta,
        status,
        Some("text/plain; charset=utf-8"),
        &fields,
        Body::Own(text.as_bytes()),
    )
}

fn respond_page(context: &mut Context<'_>, meta: &Meta, page: Page) -> Next {
    let mut fields = Fields::new(&meta.cors);
    fields.push("Cache-Control", "no-cache");
    fields.push("X-Content-Type-Options", "nosniff");
    respond(
        context,
        meta,
        200,
        Some(page.content_type),
        &fields,
        Body::Own(page.content.as_bytes()),
    )
}

fn preflight(context: &mut Context<'_>, meta: &Meta, allow: &'static str) -> Next {
    let mut fields = Fields::new(&meta.cors);
    fields.push("Allow", allow);
    fields.push("Access-Control-Allow-Methods", allow);
    let headers = "Content-Type, Idempotency-Key, Last-Event-ID, Authorization, Cache-Control";
    fields.push("Access-Control-Allow-Headers", headers);
    fields.push("Access-Control-Max-Age", "3600");
    respond(context, meta, 204, None, &fields, Body::Nothing)
}

/// The channel was deleted, or spoke too much, before the listener was there.
fn refuse_and_close(context: &mut Context<'_>, meta: &Meta) -> Next {
    let meta = Meta {
        keep_alive: false,
        ..meta.clone()
    };
    refuse(context, &meta, &Refusal::CHANNEL_DELETED);
    Next::End(CloseReason::Unavailable)
}
