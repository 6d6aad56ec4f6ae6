//! Polling: the answer of a poll, and the long poll that waits for one.

use crate::auth::grant::Session;
use crate::close_reason::CloseReason;
use crate::hub::batch::{WireForm, write_poll_body};
use crate::hub::fanout::{ChannelIndex, Delivery, Subscription};
use crate::hub::message::Message;
use crate::hub::position::{Position, Since, cursor};
use crate::transport::beat::jittered_down;
use crate::transport::exchange::refuse_disconnected;
use crate::transport::http::Http;
use crate::transport::inbound_rate::InboundRate;
use crate::transport::replay::{self, Part};
use crate::transport::response::{Body, Fields, JSON, Meta, respond};
use crate::transport::{Context, Effects, Next, Transport};

/// A request that waits for the first message, or for its time to be over.
#[derive(Debug)]
pub struct LongPoll {
    meta: Meta,
    subscriptions: Vec<(Subscription, Position)>,
    limit: usize,
    deadline_ms: u64,
    /// With whose token; boxed, since most have none.
    session: Option<Box<Session>>,
    /// Of the connection, kept for its next request.
    inbound: InboundRate,
}

impl LongPoll {
    /// `positions` in the request's order: what the client will have if nothing comes.
    pub fn new(
        meta: Meta,
        positions: Vec<(Subscription, Position)>,
        limit: usize,
        deadline_ms: u64,
        session: Option<Session>,
    ) -> Self {
        Self {
            meta,
            subscriptions: positions,
            limit,
            deadline_ms,
            session: session.map(Box::new),
            inbound: InboundRate::default(),
        }
    }

    pub fn set_inbound(&mut self, inbound: InboundRate) {
        self.inbound = inbound;
    }

    pub fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    pub fn on_delivery(
        &mut self,
        channel: ChannelIndex,
        delivery: &Delivery,
        context: &mut Context<'_>,
    ) -> Next {
        let batch = match delivery {
            Delivery::Messages(batch) => batch,
            Delivery::Gap(_, position) => return self.on_gap(channel, *position, context),
            Delivery::End => return self.end_early(CloseReason::ChannelDeleted, context),
        };
        let messages = &batch.messages()[..self.limit.min(batch.messages().len())];
        let Some(last) = messages.last() else {
            return Next::Stay;
        };
        self.advance(channel, last.position);
        let cursor = self.cursor();
        let next = if self.subscriptions.len() == 1 && messages.len() == batch.messages().len() {
            context.metrics.delivered_messages_total += messages.len() as u64;
            let fields = fields(&self.meta, &cursor);
            let body = Body::Shared(batch.bytes(WireForm::PollBody));
            respond(context, &self.meta, 200, JSON, &fields, body)
        } else {
            let messages = messages.iter().map(|message| &**message);
            answer(context, &self.meta, &cursor, true, messages)
        };
        self.leave(next, context)
    }

    /// The answer is the notice of the loss, and the cursor behind it.
    fn on_gap(
        &mut self,
        channel: ChannelIndex,
        position: Position,
        context: &mut Context<'_>,
    ) -> Next {
        self.advance(channel, position);
        let next = answer(context, &self.meta, &self.cursor(), false, []);
        self.leave(next, context)
    }

    fn advance(&mut self, channel: ChannelIndex, to: Position) {
        for (subscription, position) in &mut self.subscriptions {
            if subscription.channel() == channel {
                *position = to;
            }
        }
    }

    pub fn on_deadline(&mut self, context: &mut Context<'_>) -> Next {
        let next = answer(context, &self.meta, &self.cursor(), true, []);
        self.leave(next, context)
    }

    /// Answers at once with the same cursor, so that the client goes elsewhere.
    pub fn on_drain(&mut self, context: &mut Context<'_>) -> Next {
        self.end_early(CloseReason::Shutdown, context)
    }

    /// The client has lost nothing: what it has is in the cursor that it came with.
    pub fn on_disconnect(&mut self, context: &mut Context<'_>) -> Next {
        self.release(context.effects);
        refuse_disconnected(context, &self.meta)
    }

    pub fn listening(&self) -> Vec<(Subscription, Option<Position>)> {
        let subscriptions = self.subscriptions.iter();
        subscriptions
            .map(|&(it, position)| (it, Some(position)))
            .collect()
    }

    pub fn release(&mut self, effects: &mut Effects) {
        effects.released.extend(
            self.subscriptions
                .drain(..)
                .map(|(subscription, _)| subscription),
        );
    }

    fn end_early(&mut self, reason: CloseReason, context: &mut Context<'_>) -> Next {
        let meta = Meta {
            keep_alive: false,
            ..self.meta.clone()
        };
        answer(context, &meta, &self.cursor(), true, []);
        self.release(context.effects);
        Next::End(reason)
    }

    /// Back to plain HTTP.
    fn leave(&mut self, next: Next, context: &mut Context<'_>) -> Next {
        self.release(context.effects);
        match next {
            Next::Stay => {
                let inbound = std::mem::take(&mut self.inbound);
                Next::Become(Transport::Http(Http::new(inbound, context.now_ms)))
            }
            next => next,
        }
    }

    fn cursor(&self) -> String {
        cursor(self.subscriptions.iter().map(|&(_, position)| position))
    }
}

/// How long a poll may wait.
#[derive(Debug)]
pub(super) struct Wait {
    /// 0: it does not.
    pub wait_ms: u64,
    /// With whose token. Where that ends, so does the wait: the next poll brings a new one.
    pub session: Option<Session>,
}

/// The homes have answered: tell what there is, or wait for what comes.
pub(super) fn begin(
    context: &mut Context<'_>,
    meta: Meta,
    wait: Wait,
    limit: usize,
    since: &[Since],
    replays: Vec<Part>,
) -> Next {
    let has_news = replays
        .iter()
        .any(|(replay, _)| replay.lost || !replay.messages.is_empty());
    let expires_ms = wait.session.as_ref().and_then(|session| session.expires_ms);
    let is_over = expires_ms.is_some_and(|expires_ms| context.now_ms >= expires_ms);
    if !has_news && wait.wait_ms > 0 && !is_over && !context.is_draining {
        let positions = replays.iter().map(|(replay, subscription)| {
            (
                subscription.expect("a poll without news listens"),
                replay.end,
            )
        });
        let deadline_ms = context.now_ms + jittered_down(wait.wait_ms, context.rng);
        let deadline_ms = deadline_ms.min(expires_ms.unwrap_or(u64::MAX));
        let poll = LongPoll::new(meta, positions.collect(), limit, deadline_ms, wait.session);
        return Next::Become(Transport::LongPoll(Box::new(poll)));
    }
    context
        .effects
        .released
        .extend(replays.iter().filter_map(|(_, subscription)| *subscription));
    let bytes_max = context.config.limits.outbox_bytes_max;
    let page = replay::oldest(&replays, since, limit, bytes_max);
    answer(context, &meta, &page.cursor, !page.lost, page.messages)
}

/// Answers a poll: 200 with what there is, or 204 when there is nothing to tell.
pub fn answer<'a>(
    context: &mut Context<'_>,
    meta: &Meta,
    cursor: &str,
    is_recovered: bool,
    messages: impl IntoIterator<Item = &'a Message>,
) -> Next {
    let mut messages = messages.into_iter().peekable();
    let fields = fields(meta, cursor);
    if messages.peek().is_none() && is_recovered {
        return respond(context, meta, 204, None, &fields, Body::Nothing);
    }
    let mut body = Vec::new();
    let mut n_messages = 0;
    write_poll_body(
        &mut body,
        cursor,
        is_recovered,
        messages.inspect(|_| n_messages += 1),
    );
    context.metrics.delivered_messages_total += n_messages;
    context.metrics.gaps_told_total += u64::from(!is_recovered);
    respond(context, meta, 200, JSON, &fields, Body::Own(&body))
}

fn fields<'a>(meta: &'a Meta, cursor: &'a str) -> Fields<'a> {
    let mut fields = Fields::new(&meta.cors);
    fields.push("Cache-Control", "no-store");
    fields.push("Pushring-Cursor", cursor);
    fields
}
