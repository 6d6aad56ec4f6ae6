//! A WebSocket that was opened without a token where one is needed: its first message brings it, in time.

use std::sync::Arc;

use crate::api::Request;
use crate::api::listen::ListenRequest;
use crate::api::question::Answer;
use crate::auth::grant::Session;
use crate::auth::token::TOKEN_BYTES_MAX;
use crate::auth::{KEYS_TIMEOUT_MS, Verified};
use crate::config::Config;
use crate::hub::fanout::{ChannelIndex, Delivery, Subscription};
use crate::proto::ws_message::{MessageKind, WsAssembler, WsEvent, WsLimits};
use crate::proto::{json, ws_handshake};
use crate::transport::exchange::Asking;
use crate::transport::goodbye::{Goodbye, TokenRefusal};
use crate::transport::inbound_rate::InboundRate;
use crate::transport::response::{Fields, Meta};
use crate::transport::websocket::pong;
use crate::transport::{Context, Effects, Next};

/// Empty fragments in a row: nobody sends a token in many.
const EMPTY_FRAGMENTS_MAX: u32 = 64;
/// A token in its object.
const MESSAGE_BYTES_MAX: usize = TOKEN_BYTES_MAX + 256;

/// One connection between its handshake and its subscriptions.
#[derive(Debug)]
pub struct FirstMessage {
    assembler: WsAssembler,
    meta: Meta,
    listen: ListenRequest,
    state: State,
    /// When the state began.
    since_ms: u64,
    /// Of what comes before the message, which may be pings.
    inbound: InboundRate,
}

#[derive(Debug)]
enum State {
    /// The message is still to come.
    Due,
    /// It brought a token whose key is being fetched.
    Keys(Box<str>),
    /// The homes of the channels are asked.
    Asking(Box<Asking>),
    Over,
}

impl FirstMessage {
    /// Answers 101, without a cursor: it listens to nothing yet.
    pub fn begin(
        meta: Meta,
        accept: &[u8; ws_handshake::ACCEPT_BYTES],
        listen: ListenRequest,
        context: &mut Context<'_>,
    ) -> Self {
        let fields = Fields::new(&meta.cors);
        context
            .effects
            .out
            .write(|own| ws_handshake::write_101(own, accept, fields.as_slice()));
        Self {
            assembler: WsAssembler::default(),
            meta,
            listen,
            state: State::Due,
            since_ms: context.now_ms,
            inbound: InboundRate::default(),
        }
    }

    pub fn wants_input(&self) -> bool {
        matches!(self.state, State::Due)
    }

    /// Takes at most one frame.
    pub fn on_bytes(&mut self, input: &mut [u8], context: &mut Context<'_>) -> (usize, Next) {
        if input.is_empty() {
            return (0, Next::Stay);
        }
        let input_bytes = input.len();
        let limits = WsLimits {
            message_bytes_max: MESSAGE_BYTES_MAX,
            empty_fragments_max: EMPTY_FRAGMENTS_MAX,
        };
        let (consumed, event) = match self.assembler.feed(input, &limits) {
            Ok(fed) => fed,
            Err(error) => return (input_bytes, Goodbye::broken(error).send(context)),
        };
        let is_within = event.is_none() || self.inbound.admit(context);
        self.inbound.charge_bytes(consumed, context);
        if !is_within {
            return (input_bytes, Goodbye::TOO_FAST.send(context));
        }
        let token = match event {
            None | Some(WsEvent::Pong(_)) => return (consumed, Next::Stay),
            Some(WsEvent::Ping(payload)) => {
                pong(&payload, context);
                return (consumed, Next::Stay);
            }
            Some(WsEvent::Close { code, .. }) => {
                return (consumed, Goodbye::in_kind(code).send(context));
            }
            Some(WsEvent::Message { kind, payload }) => match kind {
                MessageKind::Text => json::decode_token(&payload).map(|token| token.into_owned()),
                MessageKind::Binary => None,
            },
        };
        let next = match token {
            Some(token) => self.on_token(&token, true, context),
            None => TokenRefusal::NOT_A_TOKEN.send(context),
        };
        (consumed, next)
    }

    fn on_token(&mut self, token: &str, may_wait: bool, context: &mut Context<'_>) -> Next {
        let session = match context.gate().verify(token, may_wait) {
            Ok(Verified::Session(session)) => session,
            Ok(Verified::KeyMissing) => {
                self.state = State::Keys(token.into());
                self.since_ms = context.now_ms;
                context.effects.awaits_keys = true;
                return Next::Stay;
            }
            Err(error) => return TokenRefusal::from(error).send(context),
        };
        if let Err(refusal) = context.gate().join(&mut self.listen, session) {
            return TokenRefusal::from(refusal).send(context);
        }
        if let Some(credentials) = &mut self.listen.credentials {
            Arc::make_mut(credentials).set_token(token, context.config);
        }
        let request = Request::WebSocket {
            listen: self.listen.clone(),
            accept: None,
        };
        match Asking::begin(self.meta.clone(), request, &[], context) {
            Ok(asking) => {
                self.state = State::Asking(Box::new(asking));
                Next::Stay
            }
            Err(next) => next,
        }
    }

    /// The issuer's keys were read again.
    pub fn on_keys(&mut self, context: &mut Context<'_>) -> Next {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Keys(token) => self.on_token(&token, false, context),
            state => {
                self.state = state;
                Next::Stay
            }
        }
    }

    pub fn on_answer(
        &mut self,
        slot: u16,
        answer: Answer,
        subscription: Option<Subscription>,
        context: &mut Context<'_>,
    ) -> Next {
        let State::Asking(asking) = &mut self.state else {
            unreachable!("nothing was asked")
        };
        asking.on_answer(slot, answer, subscription, context)
    }

    pub fn on_delivery(
        &mut self,
        channel: ChannelIndex,
        delivery: &Delivery,
        context: &mut Context<'_>,
    ) -> Next {
        match &mut self.state {
            State::Asking(asking) => asking.on_delivery(channel, delivery, context),
            _ => Next::Stay,
        }
    }

    pub fn on_deadline(&mut self, context: &mut Context<'_>) -> Next {
        match self.state {
            State::Due => TokenRefusal::TIMEOUT.send(context),
            State::Keys(_) => self.on_keys(context),
            State::Asking(_) | State::Over => Next::Stay,
        }
    }

    pub fn next_deadline_ms(&self, config: &Config) -> Option<u64> {
        match self.state {
            State::Due => Some(self.since_ms + config.auth.auth_timeout_ms),
            State::Keys(_) => Some(self.since_ms + KEYS_TIMEOUT_MS),
            State::Asking(_) | State::Over => None,
        }
    }

    pub fn on_drain(&mut self, context: &mut Context<'_>) -> Next {
        if let State::Asking(_) = self.state {
            return Next::Stay;
        }
        Goodbye::shutdown(context.config, context.rng).send(context)
    }

    pub fn session(&self) -> Option<&Session> {
        self.listen.session.as_ref()
    }

    pub fn release(&mut self, effects: &mut Effects) {
        if let State::Asking(asking) = &mut self.state {
            asking.release(effects);
        }
    }
}
