//! What a client publishes on its WebSocket, and its end behind that.

use std::sync::Arc;

use crate::api::access;
use crate::api::question::{Answer, Question};
use crate::config::Config;
use crate::hub::Publish;
use crate::hub::batch::Format;
use crate::hub::message::ChannelName;
use crate::hub::position::Position;
use crate::proto::json;
use crate::proto::payload::PayloadKind;
use crate::proto::sse_event::event_name_is_free;
use crate::proto::ws_message::MessageKind;
use crate::transport::goodbye::Goodbye;
use crate::transport::subscriptions::Subscriptions;
use crate::transport::{Context, Next};

use super::{Closing, WebSocket};

/// What the client has published, and how it ends if it does so behind a publish: a peer that says something and then
/// leaves, or breaks a rule, still gets its echo first.
#[derive(Debug, Default)]
pub(super) struct OwnPublishes {
    /// Await their home's answer.
    in_flight: usize,
    /// The newest one while its echo is on its way.
    echo_due: Option<Position>,
    /// What was delivered, or told as lost, since the client began to publish: an echo may come before the answer.
    delivered: Option<Position>,
    /// How to end once the echo is there.
    goodbye: Option<Box<Goodbye>>,
}

impl OwnPublishes {
    /// Something of it has not come back yet.
    fn is_due(&self) -> bool {
        self.in_flight > 0 || self.echo_due.is_some()
    }

    /// Up to `position`.
    pub(super) fn on_delivery(&mut self, position: Position) {
        self.delivered = Some(position);
        self.echo_due = self.echo_due.filter(|echo| !echo.is_within(position));
    }

    /// Up to `position`; of another epoch nothing comes behind that.
    pub(super) fn on_gap(&mut self, position: Position) {
        self.echo_due = self.echo_due.filter(|echo| echo.epoch == position.epoch);
        self.on_delivery(position);
    }
}

impl WebSocket {
    /// A data frame is a publish, where the namespace allows it.
    pub(super) fn on_message(
        &mut self,
        kind: MessageKind,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Next {
        let publish = match self.format {
            Format::Raw => self.publish_raw(kind, payload, context),
            Format::Json => self.publish_json(payload, context),
        };
        let publish = match publish {
            Ok(publish) => publish,
            Err(text) => return self.leave(Goodbye::not_allowed(text), context),
        };
        if !access::may_publish_frame(context.config, &publish.channel, self.grant()) {
            let text = "clients may not publish to this channel";
            return self.leave(Goodbye::not_allowed(text), context);
        }
        if publish.payload.len() > context.config.limits.message_bytes_max {
            return self.leave(Goodbye::MESSAGE_TOO_BIG, context);
        }
        self.rare.get_or_insert_default().own.in_flight += 1;
        context.effects.ask(0, Question::Publish(publish));
        Next::Stay
    }

    fn publish_raw(
        &self,
        kind: MessageKind,
        payload: &[u8],
        context: &Context<'_>,
    ) -> Result<Publish, &'static str> {
        let Subscriptions::One(subscription) = self.subscriptions else {
            return Err("name the channel: publish with format=json");
        };
        let kind = match kind {
            MessageKind::Text => PayloadKind::Text,
            MessageKind::Binary => PayloadKind::Binary,
        };
        Ok(publish(
            context.fanout.name(subscription).clone(),
            kind,
            None,
            payload.into(),
        ))
    }

    fn publish_json(&self, payload: &[u8], context: &Context<'_>) -> Result<Publish, &'static str> {
        let client =
            json::ClientPublish::decode(payload).map_err(json::ClientPublishError::message)?;
        let mut own = self
            .subscriptions
            .iter()
            .map(|subscription| context.fanout.name(subscription));
        let Some(channel) = own.find(|name| name.as_str() == client.channel) else {
            return Err("publish to a channel of this connection");
        };
        if client
            .event
            .as_deref()
            .is_some_and(|event| !event_name_is_free(event))
        {
            return Err(
                "an event name has 1 to 128 bytes, no line end, and not the prefix pushring.",
            );
        }
        Ok(publish(
            channel.clone(),
            client.kind,
            client.event.as_deref().map(Into::into),
            client.payload[..].into(),
        ))
    }

    pub fn on_answer(&mut self, answer: &Answer, context: &mut Context<'_>) -> Next {
        if self.is_held_back(context.config) {
            // From now on it is read again.
            self.heard_ms = context.now_ms;
            self.assembler.restart_time(context.now_ms);
        }
        let own = &mut self.rare.get_or_insert_default().own;
        own.in_flight -= 1;
        match answer {
            Answer::Published(Ok((published, _))) => {
                let echo = published.position;
                let is_here = own.delivered.is_some_and(|it| echo.is_within(it));
                if matches!(self.subscriptions, Subscriptions::One(_)) && !is_here {
                    own.echo_due = Some(echo);
                }
                self.leave_if_due(context)
            }
            _ if self.closing == Closing::Sent => Next::Stay,
            _ => self.say_goodbye(&Goodbye::NOT_TAKEN, context),
        }
    }

    pub fn wants_input(&self, config: &Config) -> bool {
        !self.is_leaving() && !self.is_held_back(config)
    }

    /// So many of its publishes await their answers that no more are read, nor anything else.
    pub(super) fn is_held_back(&self, config: &Config) -> bool {
        let in_flight_max = config.limits.publishes_in_flight_max;
        (self.rare.as_ref()).is_some_and(|rare| rare.own.in_flight >= in_flight_max)
    }

    /// Ends as `goodbye` says, now or when the echo of what came before is there.
    pub(super) fn leave(&mut self, goodbye: Goodbye, context: &mut Context<'_>) -> Next {
        match &mut self.rare {
            Some(rare) if rare.own.is_due() && self.closing == Closing::Open => {
                rare.own.goodbye = Some(Box::new(goodbye));
                Next::Stay
            }
            _ => self.say_goodbye(&goodbye, context),
        }
    }

    pub(super) fn leave_if_due(&mut self, context: &mut Context<'_>) -> Next {
        let goodbye = match &self.rare {
            Some(rare) if !rare.own.is_due() => rare.own.goodbye.clone(),
            _ => None,
        };
        goodbye.map_or(Next::Stay, |goodbye| self.say_goodbye(&goodbye, context))
    }

    /// How it ends is decided, once the echo is there.
    pub(super) fn is_leaving(&self) -> bool {
        let rare = self.rare.as_ref();
        rare.is_some_and(|rare| rare.own.goodbye.is_some())
    }
}

fn publish(
    channel: ChannelName,
    kind: PayloadKind,
    event: Option<Box<str>>,
    payload: Arc<[u8]>,
) -> Publish {
    Publish {
        channel,
        kind,
        event,
        payload,
        ttl_ms: None,
        store: true,
        idempotency_key: None,
    }
}
