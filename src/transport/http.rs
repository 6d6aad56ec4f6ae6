//! HTTP/1.1 requests on one connection, one after the other: from the first byte of a head to the question it asks.

use crate::api::access::Admission;
use crate::api::origin::{self, Cors};
use crate::api::question::Answer;
use crate::api::refusal::Refusal;
use crate::api::{self, Request};
use crate::auth::KEYS_TIMEOUT_MS;
use crate::auth::grant::Session;
use crate::close_reason::CloseReason;
use crate::config::Config;
use crate::hub::fanout::{ChannelIndex, Delivery, Subscription};
use crate::proto::http_body::{self, BodyDecoder};
use crate::proto::http_request::{
    BodyFraming, HeadLimits, HeadProgress, Method, RequestHead, decode_head,
};
use crate::proto::http_response::CONTINUE_100;
use crate::transport::exchange::Asking;
use crate::transport::inbound_rate::InboundRate;
use crate::transport::response::{Meta, refuse};
use crate::transport::{Context, Effects, Next, Transport};

/// A body that comes this far has earned another `body_timeout`: a slow but honest upload gets through, a byte now
/// and then does not.
const BODY_PROGRESS_BYTES: usize = 64 * 1024;

/// A connection between requests, or in one.
#[derive(Debug)]
pub struct Http {
    /// What exists only while a request is incomplete or unanswered.
    exchange: Option<Box<Exchange>>,
    /// When the current phase began.
    since_ms: u64,
    inbound: InboundRate,
}

#[derive(Debug)]
enum Exchange {
    Head(HeadProgress),
    /// The head is whole and waits, unread, for the key of its token, or has waited.
    Keys {
        has_waited: bool,
    },
    Body(Receiving),
    Asking(Asking),
}

/// A request whose body is still coming.
#[derive(Debug)]
struct Receiving {
    meta: Meta,
    request: Request,
    decoder: BodyDecoder,
    body: Vec<u8>,
    /// Bytes at which `body_timeout` starts anew.
    progress_at: usize,
}

impl Http {
    /// Between requests, with what the connection may send.
    pub fn new(inbound: InboundRate, now_ms: u64) -> Self {
        Self {
            exchange: None,
            since_ms: now_ms,
            inbound,
        }
    }

    pub fn is_asking(&self) -> bool {
        matches!(self.exchange.as_deref(), Some(Exchange::Asking(_)))
    }

    pub fn session(&self) -> Option<&Session> {
        match self.exchange.as_deref() {
            Some(Exchange::Asking(asking)) => asking.session(),
            _ => None,
        }
    }

    /// Neither answering nor waiting for anything but bytes.
    pub fn wants_input(&self) -> bool {
        !matches!(
            self.exchange.as_deref(),
            Some(Exchange::Asking(_) | Exchange::Keys { has_waited: false })
        )
    }

    /// Takes at most one request.
    pub fn on_bytes(&mut self, input: &mut [u8], context: &mut Context<'_>) -> (usize, Next) {
        let (consumed, next) = match self.exchange.as_deref_mut() {
            None => self.on_head(input, HeadProgress::default(), context),
            Some(Exchange::Head(progress)) => {
                let progress = *progress;
                self.on_head(input, progress, context)
            }
            Some(Exchange::Body(_)) => self.on_body(input, context),
            Some(Exchange::Keys { has_waited: true }) => {
                self.on_head(input, HeadProgress::default(), context)
            }
            Some(Exchange::Asking(_) | Exchange::Keys { .. }) => (0, Next::Stay),
        };
        self.inbound.charge_bytes(consumed, context);
        (consumed, next)
    }

    fn on_head(
        &mut self,
        input: &[u8],
        mut progress: HeadProgress,
        context: &mut Context<'_>,
    ) -> (usize, Next) {
        if input.is_empty() {
            return (0, Next::Stay);
        }
        let limits = HeadLimits {
            head_bytes_max: context.config.limits.head_bytes_max,
            target_bytes_max: context.config.limits.target_bytes_max,
            headers_max: context.config.limits.headers_max,
        };
        match decode_head(input, &mut progress, &limits) {
            Ok(None) => {
                if self.exchange.is_none() {
                    self.since_ms = context.now_ms;
                }
                self.exchange = Some(Box::new(Exchange::Head(progress)));
                (0, Next::Stay)
            }
            Ok(Some((head, head_bytes))) => {
                match self.on_request(&head, &input[head_bytes..], context) {
                    Some((body_bytes, next)) => {
                        context.metrics.requests_total += 1;
                        (head_bytes + body_bytes, next)
                    }
                    None => {
                        self.exchange = Some(Box::new(Exchange::Keys { has_waited: false }));
                        context.effects.awaits_keys = true;
                        (0, Next::Stay)
                    }
                }
            }
            Err(error) => {
                context.metrics.requests_total += 1;
                let meta = Meta {
                    head_only: input.starts_with(b"HEAD "),
                    ..Meta::UNKNOWN
                };
                (input.len(), refuse(context, &meta, &error.into()))
            }
        }
    }

    /// A head is complete; `rest` is what came behind it. Says how much of it belonged to the request; `None` if the
    /// request has to be read again when there are other keys.
    fn on_request(
        &mut self,
        head: &RequestHead<'_>,
        rest: &[u8],
        context: &mut Context<'_>,
    ) -> Option<(usize, Next)> {
        let has_waited = matches!(self.exchange.as_deref(), Some(Exchange::Keys { .. }));
        self.exchange = None;
        self.since_ms = context.now_ms;
        let cors = origin::decide(head.origin, head.host, &context.config.allowed_origins);
        let is_allowed = cors.is_some();
        let cors = match cors {
            Some(Cors::Origin(origin)) if takes_cookies(context.config) => {
                Some(Cors::OriginWithCookies(origin))
            }
            cors => cors,
        };
        let mut meta = Meta {
            version: head.version,
            keep_alive: head.keep_alive,
            head_only: head.method == Method::Head,
            cors: cors.unwrap_or_default(),
        };
        let parsed = if !is_allowed {
            Err(Refusal::ORIGIN_DENIED)
        } else if !has_waited && !self.inbound.admit(context) {
            Err(Refusal::REQUEST_RATE_EXCEEDED)
        } else {
            api::parse(head, context.config, context.side)
        };
        let body_bytes_max = context.config.limits.message_bytes_max;
        let parsed = match parsed {
            Ok(_) if http_body::declared_too_large(head.body, body_bytes_max) => {
                Err(Refusal::from(http_body::BodyError::TooLarge))
            }
            parsed => parsed,
        };
        let admitted = parsed.and_then(|mut request| {
            let admission = context.gate().admit(&mut request, head, !has_waited)?;
            Ok((request, admission))
        });
        let request = match admitted {
            Ok((request, Admission::Allowed)) => request,
            Ok((_, Admission::KeyMissing)) => return None,
            Err(refusal) => {
                // Behind a refused head there may be a body. Nobody waits for it, so nobody can tell where the next
                // request begins.
                meta.keep_alive &=
                    head.body == BodyFraming::None || head.body == BodyFraming::Length(0);
                return Some((0, refuse(context, &meta, &refusal)));
            }
        };
        Some(self.begin_body(meta, request, head, rest, context))
    }

    /// The request is admitted; `rest` is what came behind its head. Says how much of it belonged to the request.
    fn begin_body(
        &mut self,
        meta: Meta,
        request: Request,
        head: &RequestHead<'_>,
        rest: &[u8],
        context: &mut Context<'_>,
    ) -> (usize, Next) {
        let decoder = BodyDecoder::new(head.body);
        if decoder.is_done() {
            return (0, self.ask(meta, request, &[], context));
        }
        // The common case: the whole body is here, and its bytes need not be gathered.
        if let BodyFraming::Length(length) = head.body
            && let Some(body) = usize::try_from(length)
                .ok()
                .and_then(|length| rest.get(..length))
        {
            return (body.len(), self.ask(meta, request, body, context));
        }
        let mut receiving = Receiving {
            meta,
            request,
            decoder,
            body: Vec::new(),
            progress_at: BODY_PROGRESS_BYTES,
        };
        match receiving.take(rest, context) {
            Ok((consumed, true)) => (consumed, self.ask_received(receiving, context)),
            Ok((consumed, false)) => {
                if head.expect_continue && consumed == 0 {
                    context.effects.out.push(CONTINUE_100);
                }
                self.since_ms = context.now_ms;
                self.exchange = Some(Box::new(Exchange::Body(receiving)));
                (consumed, Next::Stay)
            }
            Err(refusal) => (rest.len(), receiving.refuse(&refusal, context)),
        }
    }

    /// The request that waited is read once more.
    pub fn on_keys(&mut self) -> Next {
        if let Some(Exchange::Keys { has_waited }) = self.exchange.as_deref_mut() {
            *has_waited = true;
        }
        Next::Stay
    }

    fn on_body(&mut self, input: &[u8], context: &mut Context<'_>) -> (usize, Next) {
        let Some(Exchange::Body(receiving)) = self.exchange.as_deref_mut() else {
            unreachable!("in a body")
        };
        match receiving.take(input, context) {
            Ok((consumed, false)) => {
                if receiving.body.len() >= receiving.progress_at {
                    receiving.progress_at = receiving.body.len() + BODY_PROGRESS_BYTES;
                    self.since_ms = context.now_ms;
                }
                (consumed, Next::Stay)
            }
            Ok((consumed, true)) => {
                let Some(Exchange::Body(receiving)) =
                    self.exchange.take().map(|exchange| *exchange)
                else {
                    unreachable!("in a body")
                };
                (consumed, self.ask_received(receiving, context))
            }
            Err(refusal) => (input.len(), receiving.refuse(&refusal, context)),
        }
    }

    fn ask_received(&mut self, received: Receiving, context: &mut Context<'_>) -> Next {
        let Receiving {
            meta,
            request,
            body,
            ..
        } = received;
        self.ask(meta, request, &body, context)
    }

    /// The request is whole.
    fn ask(
        &mut self,
        meta: Meta,
        request: Request,
        body: &[u8],
        context: &mut Context<'_>,
    ) -> Next {
        self.since_ms = context.now_ms;
        match Asking::begin(meta, request, body, context) {
            Ok(asking) => {
                self.exchange = Some(Box::new(Exchange::Asking(asking)));
                Next::Stay
            }
            Err(next) => next,
        }
    }

    pub fn on_answer(
        &mut self,
        slot: u16,
        answer: Answer,
        subscription: Option<Subscription>,
        context: &mut Context<'_>,
    ) -> Next {
        let Some(Exchange::Asking(asking)) = self.exchange.as_deref_mut() else {
            unreachable!("nothing was asked")
        };
        let mut next = asking.on_answer(slot, answer, subscription, context);
        if asking.is_done() {
            self.exchange = None;
            self.since_ms = context.now_ms;
        }
        // It comes back with the answer: polls, too, are so many in a second.
        if let Next::Become(Transport::LongPoll(poll)) = &mut next {
            poll.set_inbound(std::mem::take(&mut self.inbound));
        }
        next
    }

    pub fn on_delivery(
        &mut self,
        channel: ChannelIndex,
        delivery: &Delivery,
        context: &mut Context<'_>,
    ) -> Next {
        match self.exchange.as_deref_mut() {
            Some(Exchange::Asking(asking)) => asking.on_delivery(channel, delivery, context),
            _ => Next::Stay,
        }
    }

    pub fn on_deadline(&mut self, context: &mut Context<'_>) -> Next {
        match self.exchange.take().map(|exchange| *exchange) {
            None => Next::End(CloseReason::Idle),
            Some(Exchange::Head(_)) => {
                refuse(context, &Meta::UNKNOWN, &Refusal::HEAD_TIMEOUT);
                Next::End(CloseReason::RequestTimeout)
            }
            Some(Exchange::Body(receiving)) => {
                receiving.refuse(&Refusal::BODY_TIMEOUT, context);
                Next::End(CloseReason::RequestTimeout)
            }
            Some(Exchange::Keys { .. }) => {
                self.exchange = Some(Box::new(Exchange::Keys { has_waited: true }));
                Next::Stay
            }
            asking @ Some(Exchange::Asking(_)) => {
                self.exchange = asking.map(Box::new);
                Next::Stay
            }
        }
    }

    pub fn next_deadline_ms(&self, config: &Config) -> Option<u64> {
        let timeout_ms = match self.exchange.as_deref() {
            None => config.timing.idle_timeout_ms,
            Some(Exchange::Head(_)) => config.timing.head_timeout_ms,
            Some(Exchange::Body(_)) => config.timing.body_timeout_ms,
            Some(Exchange::Keys { has_waited: false }) => KEYS_TIMEOUT_MS,
            // Read again as soon as the answers before it are out.
            Some(Exchange::Keys { has_waited: true }) => return None,
            // The answer comes from a thread of this process.
            Some(Exchange::Asking(_)) => return None,
        };
        Some(self.since_ms + timeout_ms)
    }

    pub fn on_drain(&mut self) -> Next {
        match self.exchange {
            None => Next::End(CloseReason::Shutdown),
            Some(_) => Next::Stay,
        }
    }

    /// The operator ends the connection: a request that waits is told so.
    pub fn on_disconnect(&self, context: &mut Context<'_>) -> Next {
        match self.exchange.as_deref() {
            Some(Exchange::Asking(asking)) => asking.on_disconnect(context),
            _ => Next::End(CloseReason::Disconnected),
        }
    }

    pub fn release(&mut self, effects: &mut Effects) {
        if let Some(Exchange::Asking(asking)) = self.exchange.as_deref_mut() {
            asking.release(effects);
        }
    }
}

/// A cookie may say who somebody is, to this server or to the backend.
fn takes_cookies(config: &Config) -> bool {
    config.auth.token_cookie.is_some() || config.asks_backend()
}

impl Receiving {
    /// Takes body bytes; `true` when it is complete. A body that the request has no use for is read over.
    fn take(&mut self, input: &[u8], context: &Context<'_>) -> Result<(usize, bool), Refusal> {
        let bytes_max = context.config.limits.message_bytes_max;
        let progress = match self.request {
            Request::Publish(_) => self.decoder.decode(input, &mut self.body, bytes_max)?,
            _ => self.decoder.discard(input, bytes_max)?,
        };
        Ok((progress.consumed, progress.done))
    }

    /// Refuses in the middle of the body, where no next request can be found.
    fn refuse(&self, refusal: &Refusal, context: &mut Context<'_>) -> Next {
        let meta = Meta {
            keep_alive: false,
            ..self.meta.clone()
        };
        refuse(context, &meta, refusal)
    }
}

// A WebSocket takes more, and a connection has room for either.
const _: () = assert!(size_of::<Http>() <= 24);
