//! A stream of Server-Sent Events (WHATWG HTML, "Server-sent events").

use crate::auth::grant::Session;
use crate::close_reason::CloseReason;
use crate::config::SlowReader;
use crate::hub::batch::{Format, SharedBytes, WireForm, write_event_body};
use crate::hub::fanout::{ChannelIndex, Delivery, Subscription};
use crate::hub::position::{Position, Since, cursor};
use crate::proto::http_request::Version;
use crate::proto::http_response::{self, ResponseBody, ResponseHead};
use crate::proto::{json, sse_event};
use crate::transport::age::EndOfLife;
use crate::transport::beat::jittered_around;
use crate::transport::outbox::Waiting;
use crate::transport::outgoing::Outgoing;
use crate::transport::response::{Fields, Meta};
use crate::transport::subscriptions::Subscriptions;
use crate::transport::{Context, Effects, Next, slow_reader};

/// One open stream.
#[derive(Debug)]
pub struct EventStream {
    subscriptions: Subscriptions,
    keep_alive_due_ms: u64,
    /// With whose token; boxed, since most streams have none.
    session: Option<Box<Session>>,
    end_of_life: EndOfLife,
    format: Format,
    /// HTTP/1.1; an older client gets a body that ends with the connection.
    is_chunked: bool,
    /// Listens no more. The positions stay: what still waits to be written needs them for its ids.
    has_left: bool,
}

impl EventStream {
    /// Answers with the head and what makes the browser's `open` fire, and listens. `positions`: where each
    /// subscription, in the request's order, starts, and what the request says of that.
    pub fn begin(
        meta: &Meta,
        format: Format,
        positions: Vec<(Subscription, Position)>,
        since: &[Since],
        session: Option<Session>,
        context: &mut Context<'_>,
    ) -> Self {
        let cursor = cursor(positions.iter().map(|&(_, position)| position));
        write_head(meta, Some(&cursor), context);
        let mut stream = Self {
            subscriptions: Subscriptions::new(positions),
            session: session.map(Box::new),
            keep_alive_due_ms: context.beats().first_ms(context.now_ms, context.rng),
            end_of_life: EndOfLife::NOT_BEGUN,
            format,
            is_chunked: meta.version == Version::Http11,
            has_left: false,
        };
        let is_resumable = |since: &Since| matches!(since, Since::After(_) | Since::Earliest);
        if since.iter().all(is_resumable) || !context.effects.replay.is_empty() {
            stream.begin_age(context);
        }
        let retry_ms = jittered_around(context.config.timing.sse_retry_ms, context.rng);
        stream.write(&mut context.effects.out, |own| {
            sse_event::write_opening(own, retry_ms)
        });
        stream
    }

    /// A browser that has no id yet asks for the same URL again. Where that says "from now on", the end of a stream
    /// would be a loss that nobody is told of.
    fn begin_age(&mut self, context: &mut Context<'_>) {
        let age_max_ms = context.config.timing.event_stream_age_max_ms;
        self.end_of_life
            .begin(age_max_ms, context.now_ms, context.rng);
    }

    /// The answer to HEAD: what a stream would begin with, and no stream.
    pub fn head_only(meta: &Meta, context: &mut Context<'_>) -> Next {
        write_head(meta, None, context);
        Next::End(CloseReason::Answered)
    }

    pub fn next_deadline_ms(&self) -> u64 {
        let ends_ms = self.session.as_ref().and_then(|session| session.ends_ms);
        self.keep_alive_due_ms
            .min(self.end_of_life.at_ms())
            .min(ends_ms.unwrap_or(u64::MAX))
    }

    /// The next sign of life is due at `due_ms`, or before.
    pub fn beat_anew(&mut self, due_ms: u64) {
        self.keep_alive_due_ms = self.keep_alive_due_ms.min(due_ms);
    }

    pub fn on_delivery(
        &mut self,
        channel: ChannelIndex,
        delivery: &Delivery,
        context: &mut Context<'_>,
    ) -> Next {
        self.begin_age(context);
        let batch = match delivery {
            Delivery::Messages(batch) => batch,
            Delivery::Gap(name, position) => {
                let place = self.subscriptions.place(channel);
                let gap = Waiting::gap(place, name, *position);
                context.metrics.gaps_told_total += 1;
                if context.has_backlog {
                    context.effects.behind.push(gap);
                } else {
                    self.encode(&gap, &mut context.effects.out);
                }
                return Next::Stay;
            }
            Delivery::End => return self.end(CloseReason::ChannelDeleted, context),
        };
        context.metrics.delivered_messages_total += batch.messages().len() as u64;
        let place = self.subscriptions.place(channel);
        let has_several = matches!(self.subscriptions, Subscriptions::Several(_));
        if context.has_backlog {
            let policy = slow_reader::policy(&batch.messages()[0].channel, context.config);
            if has_several || policy != SlowReader::Close {
                slow_reader::wait_behind(batch, place, policy, context.effects);
                return Next::Stay;
            }
        }
        if !has_several {
            let form = WireForm::EventStream {
                format: self.format,
                chunked: self.is_chunked,
            };
            context.effects.out.share(batch.bytes(form));
            return Next::Stay;
        }
        for (message, body) in batch.messages().iter().zip(batch.event_bodies(self.format)) {
            // An event's id is the whole cursor of this connection.
            let id = self.subscriptions.advance(place, message.position);
            self.write_with_id(&mut context.effects.out, &id, body);
        }
        Next::Stay
    }

    pub fn on_deadline(&mut self, context: &mut Context<'_>) -> Next {
        let session = self.session.as_ref();
        if session.is_some_and(|session| session.has_ended(context.now_ms)) {
            return self.end(CloseReason::TokenExpired, context);
        }
        if self.end_of_life.is_here(context.now_ms) {
            let retry_ms = EndOfLife::reconnect_ms(context.rng);
            return self.send_back(retry_ms, EndOfLife::REASON, context);
        }
        if context.now_ms >= self.keep_alive_due_ms {
            context
                .metrics
                .heartbeat_lateness
                .record_us((context.now_ms - self.keep_alive_due_ms) * 1000);
            // A client that does not even read its messages gains nothing from a comment behind them.
            if !context.has_backlog {
                context.metrics.heartbeats_sent_total += 1;
                self.write(&mut context.effects.out, |own| {
                    own.extend_from_slice(sse_event::KEEP_ALIVE)
                });
            }
            self.keep_alive_due_ms = context.beats().next_ms(context.now_ms);
        }
        Next::Stay
    }

    /// Tells the browser when to come back, and ends.
    pub fn on_drain(&mut self, context: &mut Context<'_>) -> Next {
        let retry_ms = jittered_around(context.config.timing.sse_retry_ms, context.rng);
        self.send_back(retry_ms, CloseReason::Shutdown, context)
    }

    /// A stream has no word for this: who comes back is let in or not by what it shows then.
    pub fn on_disconnect(&mut self, context: &mut Context<'_>) -> Next {
        if context.has_backlog {
            // Of what waited perhaps half a chunk has gone out: the last one would be taken for the rest of it, and
            // so for the end of an event that the client never got.
            return Next::End(CloseReason::Disconnected);
        }
        self.end(CloseReason::Disconnected, context)
    }

    pub fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// A stream of several channels knows its positions, since they are its ids.
    pub fn listening(&self) -> Vec<(Subscription, Option<Position>)> {
        match self.has_left {
            true => Vec::new(),
            false => self.subscriptions.standings(),
        }
    }

    fn send_back(&mut self, retry_ms: u64, reason: CloseReason, context: &mut Context<'_>) -> Next {
        // Not followed by an empty line, as at the start: `retry` counts as soon as its line is read.
        self.write(&mut context.effects.out, |own| {
            own.extend_from_slice(format!("retry: {retry_ms}\n").as_bytes())
        });
        self.end(reason, context)
    }

    /// Writes what waited: messages of the replay, and notices of loss.
    pub fn encode(&mut self, waiting: &Waiting, out: &mut Outgoing) {
        let mut body = Vec::new();
        let id = match waiting {
            Waiting::Message { place, message, .. } => {
                write_event_body(&mut body, message, self.format);
                self.subscriptions.advance(*place, message.position)
            }
            Waiting::Gap {
                place,
                channel,
                position,
            } => {
                let id = self.subscriptions.advance(*place, *position);
                let mut object = Vec::new();
                json::write_gap(&mut object, channel.as_str(), &position.to_string());
                sse_event::write_gap(&mut body, None, &object);
                id
            }
            Waiting::Bytes { .. } => unreachable!("encoded already"),
        };
        self.write(out, |own| {
            sse_event::write_id_line(own, &id);
            own.extend_from_slice(&body);
        });
    }

    pub fn release(&mut self, effects: &mut Effects) {
        if !self.has_left {
            self.has_left = true;
            effects.released.extend(self.subscriptions.iter());
        }
    }

    fn end(&mut self, reason: CloseReason, context: &mut Context<'_>) -> Next {
        if self.is_chunked {
            context.effects.out.push(http_response::LAST_CHUNK);
        }
        Next::End(reason)
    }

    /// An event whose body other connections share: only the id line is this one's own.
    fn write_with_id(&self, out: &mut Outgoing, id: &str, body: &SharedBytes) {
        let mut id_line = Vec::with_capacity(id.len() + 8);
        sse_event::write_id_line(&mut id_line, id);
        out.write(|own| {
            if self.is_chunked {
                own.extend_from_slice(
                    http_response::chunk_prefix(id_line.len() + body.len()).as_bytes(),
                );
            }
            own.extend_from_slice(&id_line);
        });
        out.share(body);
        if self.is_chunked {
            out.push(http_response::CHUNK_END);
        }
    }

    /// Own bytes, in the body's framing.
    fn write(&self, out: &mut Outgoing, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        out.write(|own| match self.is_chunked {
            true => http_response::write_chunk(own, &bytes),
            false => own.extend_from_slice(&bytes),
        });
    }
}

fn write_head(meta: &Meta, cursor: Option<&str>, context: &mut Context<'_>) {
    let mut fields = Fields::new(&meta.cors);
    fields.push("Cache-Control", "no-store");
    // Proxies that follow nginx's convention would otherwise hold the stream back.
    fields.push("X-Accel-Buffering", "no");
    if let Some(cursor) = cursor {
        fields.push("Pushring-Cursor", cursor);
    }
    let body = match meta.version {
        Version::Http11 => ResponseBody::Chunked,
        Version::Http10 => ResponseBody::UntilClose,
    };
    let head = ResponseHead {
        status: 200,
        version: meta.version,
        // RFC 9112 §9.6: the stream's end is the connection's. A pool that knows sends no other request there.
        keep_alive: false,
        body,
        content_type: Some("text/event-stream"),
        date: Some(context.date),
        extra: fields.as_slice(),
    };
    context
        .effects
        .out
        .write(|own| http_response::write_head(own, &head));
}
