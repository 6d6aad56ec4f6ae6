//! What each request asks of the homes.

use crate::api::Request;
use crate::api::channels::ChannelList;
use crate::api::publish::PublishRequest;
use crate::api::question::Question;
use crate::api::refusal::Refusal;
use crate::hub::message::ChannelName;
use crate::hub::position::Since;
use crate::hub::{Listen, ListenMode};
use crate::transport::event_stream::EventStream;
use crate::transport::first_message::FirstMessage;
use crate::transport::report;
use crate::transport::response::{Meta, refuse};
use crate::transport::{Context, Next, Transport};

use super::Purpose;

/// Asks, and says what for; `Err` is the answer to what needs no home.
pub(super) fn ask(
    meta: &Meta,
    request: Request,
    body: &[u8],
    context: &mut Context<'_>,
) -> Result<Purpose, Next> {
    let purpose = match request {
        Request::Health => return Err(report::text(context, meta, 200, "ok\n")),
        Request::Readiness if !context.is_ready => {
            return Err(refuse(context, meta, &Refusal::NOT_READY));
        }
        Request::Readiness => return Err(report::text(context, meta, 200, "ready\n")),
        Request::Preflight { allow } => return Err(report::preflight(context, meta, allow)),
        Request::Page(page) => return Err(report::page(context, meta, page)),
        Request::Publish(request) => return ask_to_publish(meta, request, body, context),
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
            let limit = limit.min(context.config.limits.poll_limit_max);
            Purpose::Poll {
                wait_ms,
                limit,
                session: listen.session,
                since: ask_to_listen(listen.channels, mode, limit, context),
            }
        }
        Request::EventStream(_) if meta.head_only => {
            return Err(EventStream::head_only(meta, context));
        }
        Request::EventStream(listen) => Purpose::EventStream {
            format: listen.format,
            session: listen.session,
            since: ask_to_listen(listen.channels, ListenMode::Stream, usize::MAX, context),
        },
        Request::WebSocket {
            listen,
            accept: Some(accept),
        } if listen.token_due => {
            let first = FirstMessage::begin(meta.clone(), &accept, listen, context);
            return Err(Next::Become(Transport::FirstMessage(Box::new(first))));
        }
        Request::WebSocket { listen, accept } => Purpose::WebSocket {
            format: listen.format,
            session: listen.session,
            accept,
            since: ask_to_listen(listen.channels, ListenMode::Stream, usize::MAX, context),
        },
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
            let list = ChannelList {
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

/// One question for each channel that the message goes to.
fn ask_to_publish(
    meta: &Meta,
    request: PublishRequest,
    body: &[u8],
    context: &mut Context<'_>,
) -> Result<Purpose, Next> {
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
    Ok(Purpose::Publish(request.channels))
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
