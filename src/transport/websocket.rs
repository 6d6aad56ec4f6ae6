//! An open WebSocket (RFC 6455): its frames, heartbeats, and the closing handshake.

mod delivery;
mod operator;
mod publish;
mod token;

use crate::auth::grant::Session;
use crate::close_reason::CloseReason;
use crate::config::{Config, SlowReader};
use crate::hub::batch::Format;
use crate::hub::fanout::Subscription;
use crate::hub::position::{Position, cursor};
use crate::proto::ws_message::{WsAssembler, WsEvent, WsLimits};
use crate::proto::{ws_frame, ws_handshake};
use crate::transport::age::EndOfLife;
use crate::transport::goodbye::Goodbye;
use crate::transport::inbound_rate::InboundRate;
use crate::transport::outbox::Waiting;
use crate::transport::response::{Fields, Meta};
use crate::transport::subscriptions::Subscriptions;
use crate::transport::{Context, Effects, Next};
use publish::OwnPublishes;

/// Empty fragments in a row: they cost work and bring nothing forward.
const EMPTY_FRAGMENTS_MAX: u32 = 65_536;

/// A frame of so few bytes after so long a silence is not counted: an idle client answers pings, and is to cost
/// nothing. Any rate has its second's worth by then.
const SILENCE_MS: u64 = 1000;
const HEARTBEAT_BYTES_MAX: usize = 131;

/// One connection after its handshake.
#[derive(Debug)]
pub struct WebSocket {
    assembler: WsAssembler,
    subscriptions: Subscriptions,
    /// Last sign of life, of any kind.
    heard_ms: u64,
    ping_due_ms: u64,
    /// Exists once the client has published, has been counted, or has shown a token.
    rare: Option<Box<Rare>>,
    end_of_life: EndOfLife,
    format: Format,
    /// The peer has sent something other than a pong since the last ping was due: no need to ask.
    has_spoken: bool,
    closing: Closing,
}

/// What most connections never have.
#[derive(Debug, Default)]
struct Rare {
    own: OwnPublishes,
    /// Of all that the client sends.
    inbound: InboundRate,
    /// With whose token.
    session: Option<Session>,
    /// A token whose key is being fetched.
    token: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Open,
    /// Our close frame is out; nothing else is sent, and the peer's is awaited since `heard_ms`.
    Sent,
}

/// What a connection begins with.
#[derive(Debug)]
pub struct Start {
    /// Where each subscription, in the request's order, starts.
    pub positions: Vec<(Subscription, Position)>,
    pub is_recovered: bool,
    pub session: Option<Session>,
}

impl Start {
    fn cursor(&self) -> String {
        cursor(self.positions.iter().map(|&(_, position)| position))
    }
}

impl WebSocket {
    /// Answers 101 and listens.
    pub fn upgrade(
        meta: &Meta,
        accept: &[u8; ws_handshake::ACCEPT_BYTES],
        format: Format,
        start: Start,
        context: &mut Context<'_>,
    ) -> Self {
        let cursor = start.cursor();
        let mut fields = Fields::new(&meta.cors);
        fields.push("Pushring-Cursor", &cursor);
        if !start.is_recovered {
            fields.push("Pushring-Recovered", "false");
        }
        context
            .effects
            .out
            .write(|own| ws_handshake::write_101(own, accept, fields.as_slice()));
        Self::begin(format, start, context)
    }

    /// Answers the first message and listens: 101 went out before there was a cursor.
    pub fn go_on(format: Format, start: Start, context: &mut Context<'_>) -> Self {
        let Start { is_recovered, .. } = start;
        let answer = format!(
            r#"{{"cursor":"{}","recovered":{is_recovered}}}"#,
            start.cursor()
        );
        context.effects.out.write(|own| {
            ws_frame::server_header(own, ws_frame::Opcode::Text, answer.len());
            own.extend_from_slice(answer.as_bytes());
        });
        Self::begin(format, start, context)
    }

    fn begin(format: Format, start: Start, context: &mut Context<'_>) -> Self {
        if format == Format::Raw {
            // A frame that is only a payload has no room for a notice; what came before has told of the loss.
            context.effects.replay.retain_mut(|waiting| match waiting {
                Waiting::Gap { .. } => false,
                Waiting::Message { slow_reader, .. } => {
                    *slow_reader = SlowReader::Close;
                    true
                }
                Waiting::Bytes { .. } => true,
            });
        }
        let rare = |session| {
            Box::new(Rare {
                session: Some(session),
                ..Rare::default()
            })
        };
        Self {
            assembler: WsAssembler::default(),
            subscriptions: Subscriptions::new(start.positions),
            heard_ms: context.now_ms,
            rare: start.session.map(rare),
            ping_due_ms: context.beats().first_ms(context.now_ms, context.rng),
            end_of_life: EndOfLife::new(
                context.config.timing.websocket_age_max_ms,
                context.now_ms,
                context.rng,
            ),
            format,
            has_spoken: false,
            closing: Closing::Open,
        }
    }

    /// Takes at most one frame.
    pub fn on_bytes(&mut self, input: &mut [u8], context: &mut Context<'_>) -> (usize, Next) {
        if input.is_empty() {
            return (0, Next::Stay);
        }
        let input_bytes = input.len();
        let silent_ms = context.now_ms - self.heard_ms;
        if self.closing == Closing::Open {
            self.heard_ms = context.now_ms;
        }
        let message_bytes_max = match self.format {
            Format::Raw => context.config.limits.message_bytes_max,
            // The payload may come with every byte escaped (`\u0000`), in an object of its own.
            Format::Json => 6 * context.config.limits.message_bytes_max + 1024,
        };
        let limits = WsLimits {
            message_bytes_max,
            empty_fragments_max: EMPTY_FRAGMENTS_MAX,
        };
        let (consumed, event) = match self.assembler.feed(input, &limits) {
            Ok(fed) => fed,
            Err(error) => return (input_bytes, self.leave(Goodbye::broken(error), context)),
        };
        self.assembler.note_time(context.now_ms);
        if !matches!(event, Some(WsEvent::Pong(_))) {
            self.has_spoken = true;
        }
        let is_whole = event.is_some();
        let is_heartbeat = silent_ms >= SILENCE_MS && consumed <= HEARTBEAT_BYTES_MAX;
        let is_goodbye = matches!(event, Some(WsEvent::Close { .. }));
        let is_counted = self.closing == Closing::Open && !is_goodbye && !is_heartbeat;
        if is_counted && !self.is_within_rate(consumed, is_whole, context) {
            return (input_bytes, self.leave(Goodbye::TOO_FAST, context));
        }
        let next = match event {
            None | Some(WsEvent::Pong(_)) => Next::Stay,
            Some(WsEvent::Close { code, .. }) => self.on_close(code, context),
            Some(_) if self.closing == Closing::Sent => Next::Stay,
            Some(WsEvent::Ping(payload)) => {
                pong(&payload, context);
                Next::Stay
            }
            Some(WsEvent::Message { kind, payload }) => self
                .on_token(kind, &payload, context)
                .unwrap_or_else(|| self.on_message(kind, &payload, context)),
        };
        (consumed, next)
    }

    /// Counts what has come, a whole message or a part of one.
    fn is_within_rate(&mut self, bytes: usize, is_whole: bool, context: &Context<'_>) -> bool {
        if !InboundRate::is_limited(context) {
            return true;
        }
        let inbound = &mut self.rare.get_or_insert_default().inbound;
        let is_within = !is_whole || inbound.admit(context);
        inbound.charge_bytes(bytes, context);
        is_within
    }

    pub fn on_deadline(&mut self, context: &mut Context<'_>) -> Next {
        let timing = &context.config.timing;
        if self.closing == Closing::Sent {
            let is_over = context.now_ms >= self.heard_ms + timing.close_timeout_ms;
            return if is_over {
                Next::End(CloseReason::Shutdown)
            } else {
                Next::Stay
            };
        }
        if self
            .ends_ms()
            .is_some_and(|ends_ms| context.now_ms >= ends_ms)
        {
            return self.expire(context);
        }
        if self.end_of_life.is_here(context.now_ms) {
            let goodbye = Goodbye::age_max(context.rng);
            return self.say_goodbye(&goodbye, context);
        }
        if context.has_backlog {
            // A peer that does not read has its own deadline; a ping behind the backlog would not reach it, so
            // there is no pong to miss.
            self.heard_ms = context.now_ms;
            self.has_spoken = true;
        }
        if self.is_silent(context.config, context.now_ms)
            && context.now_ms >= self.ping_due_ms + timing.pong_timeout_ms
        {
            // It was this process that slept (a stopped process, a suspended machine), through the ping and the whole
            // time for its pong: the peer is asked before it is judged.
            self.heard_ms = context.now_ms.saturating_sub(timing.heartbeat_ms);
            self.has_spoken = false;
        }
        if self.is_silent(context.config, context.now_ms) {
            return self.say_goodbye(&Goodbye::NO_PONG, context);
        }
        if self
            .message_due_ms(context.config)
            .is_some_and(|due_ms| context.now_ms >= due_ms)
        {
            return self.leave(Goodbye::MESSAGE_TIMEOUT, context);
        }
        if context.now_ms >= self.ping_due_ms {
            context
                .metrics
                .heartbeat_lateness
                .record_us((context.now_ms - self.ping_due_ms) * 1000);
            if self.has_spoken {
                // Not later, or the silence that began since would be taken for a missing pong.
                self.ping_due_ms = self.heard_ms + timing.heartbeat_ms;
            } else {
                context.metrics.heartbeats_sent_total += 1;
                context.effects.out.push(&ws_frame::PING);
                self.ping_due_ms = context.beats().next_ms(context.now_ms);
            }
            self.has_spoken = false;
        }
        Next::Stay
    }

    /// The next ping is due at `due_ms`, or before, and silence counts from now on.
    pub fn beat_anew(&mut self, due_ms: u64, now_ms: u64) {
        if self.closing == Closing::Open {
            self.heard_ms = now_ms;
            self.ping_due_ms = self.ping_due_ms.min(due_ms);
        }
    }

    /// No sign of life for `heartbeat` + `pong_timeout`.
    pub fn is_silent(&self, config: &Config, now_ms: u64) -> bool {
        self.silence_due_ms(config)
            .is_some_and(|at_ms| now_ms >= at_ms)
    }

    /// When that will be, if nothing comes. Who is not read says nothing.
    fn silence_due_ms(&self, config: &Config) -> Option<u64> {
        let timing = &config.timing;
        let is_heard = self.closing == Closing::Open && !self.is_held_back(config);
        is_heard.then_some(self.heard_ms + timing.heartbeat_ms + timing.pong_timeout_ms)
    }

    pub fn next_deadline_ms(&self, config: &Config) -> u64 {
        let timing = &config.timing;
        match self.closing {
            Closing::Sent => self.heard_ms + timing.close_timeout_ms,
            Closing::Open => self
                .ping_due_ms
                .min(self.silence_due_ms(config).unwrap_or(u64::MAX))
                .min(self.ends_ms().unwrap_or(u64::MAX))
                .min(self.message_due_ms(config).unwrap_or(u64::MAX))
                .min(self.end_of_life.at_ms()),
        }
    }

    /// When a message that has begun is to be whole. Who is about to leave sends none, and nobody does who is not read.
    fn message_due_ms(&self, config: &Config) -> Option<u64> {
        let since_ms = self.assembler.partial_since_ms()?;
        let is_read = !self.is_leaving() && !self.is_held_back(config);
        is_read.then_some(since_ms + config.timing.body_timeout_ms)
    }

    /// Says when to come back, and waits for the peer's own goodbye.
    pub fn on_drain(&mut self, context: &mut Context<'_>) -> Next {
        // Who waits for an echo to leave has a goodbye already.
        if self.closing == Closing::Open && !self.is_leaving() {
            let goodbye = Goodbye::shutdown(context.config, context.rng);
            self.say_goodbye(&goodbye, context);
        }
        Next::Stay
    }

    pub fn release(&mut self, effects: &mut Effects) {
        self.subscriptions.release(effects);
    }

    /// A frame that is only a payload has no room for a notice.
    pub fn can_tell_a_gap(&self) -> bool {
        self.format == Format::Json
    }

    /// Our close frame is on its way.
    pub fn has_said_goodbye(&self) -> bool {
        self.closing == Closing::Sent
    }

    /// Sends the close frame, unless one is out, and gives the end that it begins.
    pub(super) fn say_goodbye(&mut self, goodbye: &Goodbye, context: &mut Context<'_>) -> Next {
        if self.closing == Closing::Sent {
            return Next::End(goodbye.reason());
        }
        self.closing = Closing::Sent;
        self.heard_ms = context.now_ms;
        goodbye.send(context)
    }

    /// The peer said goodbye: answer in kind.
    fn on_close(&mut self, code: Option<u16>, context: &mut Context<'_>) -> Next {
        if self.closing == Closing::Sent {
            return Next::End(if context.is_draining {
                CloseReason::Shutdown
            } else {
                CloseReason::PeerClosed
            });
        }
        self.leave(Goodbye::in_kind(code), context)
    }
}

/// Answers a ping: at once, or at the next frame border where something waits already.
pub(super) fn pong(payload: &[u8], context: &mut Context<'_>) {
    if context.has_backlog {
        let mut frame = Vec::new();
        ws_frame::pong_frame(&mut frame, payload);
        context.effects.pong = Some(frame);
    } else {
        context
            .effects
            .out
            .write(|own| ws_frame::pong_frame(own, payload));
    }
}
