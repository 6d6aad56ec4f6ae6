//! What a client makes of an answer, a frame or an event: each message and each notice goes to its judge.

use crate::clients::ws::{
    OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, OPCODE_TEXT, encode_frame, encode_pong,
};

use super::super::judge::{Delivery, Finding, Form, View, Who};
use super::super::ledger::Ledger;
use super::super::position::{Position, parse_cursor};
use super::super::transport::Transport;
use super::super::wire::{Gap, GapFrame, Object, PollAnswer, StreamEvent, raw_event_payload};
use super::{Client, Context, Outcome};

impl Client {
    pub(super) fn on_answer(
        &mut self,
        context: &mut Context<'_>,
        transport: Transport,
        cursor: Vec<Position>,
        body: &[u8],
    ) -> Result<(), &'static str> {
        let answer: PollAnswer<'_> = serde_json::from_slice(body).map_err(|_| "the JSON")?;
        if parse_cursor(&answer.cursor, self.channels.len()).as_ref() != Some(&cursor) {
            return Err("two cursors");
        }
        if answer.recovered && answer.messages.is_empty() {
            return Err("nothing to tell");
        }
        let mut has_told = false;
        for object in &answer.messages {
            let (place, at) = self.place_of(context.ledger, object)?;
            let mut view = self.view(context, transport, place);
            if !answer.recovered && view.has.at.is_some_and(|has| has.next() != at) {
                has_told |= view.on_loss_somewhere(at.before());
            }
            let (payload, form) = object.payload().ok_or("the data")?;
            view.on_message(
                at,
                &Delivery {
                    payload: &payload,
                    event: Some(object.event.as_deref()),
                    form,
                },
            );
        }
        for (place, at) in cursor.into_iter().enumerate() {
            let mut view = self.view(context, transport, place);
            if !answer.recovered {
                has_told |= view.on_loss_somewhere(at);
            }
            view.on_cursor(at);
        }
        if !answer.recovered && !has_told {
            context.findings.add(Finding::NeedlessGap, 1, || {
                format!(
                    "client {}: recovered:false, and nothing is missing",
                    self.number
                )
            });
        }
        Ok(())
    }

    pub(super) fn on_switch(
        &mut self,
        context: &mut Context<'_>,
        transport: Transport,
        cursor: Vec<Position>,
        is_recovered: bool,
    ) {
        let mut has_told = false;
        for (place, at) in cursor.into_iter().enumerate() {
            let mut view = self.view(context, transport, place);
            view.has.notice_is_due = false;
            if !is_recovered && view.has.at.is_some_and(|has| has != at) {
                view.on_gap(at);
                view.has.notice_is_due = transport.is_json();
                has_told = true;
            }
            view.on_cursor(at);
        }
        if !is_recovered && !has_told {
            context.findings.add(Finding::NeedlessGap, 1, || {
                format!(
                    "client {}: not recovered, and nothing is missing",
                    self.number
                )
            });
        }
    }

    pub(super) fn on_frame(
        &mut self,
        context: &mut Context<'_>,
        transport: Transport,
        first: u8,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Outcome, &'static str> {
        // FIN without RSV: the server does not cut its messages into fragments.
        if first & 0xF0 != 0x80 {
            return Err("the first byte of the frame");
        }
        let opcode = first & 0x0F;
        match opcode {
            OPCODE_PING => encode_pong(payload, out),
            OPCODE_CLOSE => {
                encode_frame(OPCODE_CLOSE, payload.get(..2).unwrap_or(b""), out);
                return match payload {
                    // Shut down, slow reader, position lost, no pong: all to be expected here; the answer to our own
                    // goodbye.
                    [0x0B, 0xB9 | 0xC0 | 0xC2 | 0xC4, ..] | [0x03, 0xE8, ..] => Ok(Outcome::Ended),
                    // Overload: come back later.
                    [0x03, 0xF3, ..] => Ok(Outcome::Ended),
                    _ => Err("the close code"),
                };
            }
            OPCODE_TEXT if transport.is_json() => self.on_json_frame(context, payload)?,
            OPCODE_TEXT | OPCODE_BINARY if !transport.is_json() => {
                let mut view = self.view(context, transport, 0);
                let at = view.has.at.ok_or("a frame without a start")?.next();
                let form = match opcode {
                    OPCODE_BINARY => Form::Binary,
                    _ => Form::JsonOrText,
                };
                view.on_message(
                    at,
                    &Delivery {
                        payload,
                        event: None,
                        form,
                    },
                );
            }
            _ => return Err("the opcode"),
        }
        Ok(Outcome::Open)
    }

    fn on_json_frame(
        &mut self,
        context: &mut Context<'_>,
        text: &[u8],
    ) -> Result<(), &'static str> {
        let transport = Transport::WebSocketJson;
        if text.starts_with(b"{\"gap\"") {
            let frame: GapFrame<'_> = serde_json::from_slice(text).map_err(|_| "the gap")?;
            return self.on_notice(context, transport, &frame.gap).map(drop);
        }
        let object: Object<'_> = serde_json::from_slice(text).map_err(|_| "the JSON")?;
        let (place, at) = self.place_of(context.ledger, &object)?;
        let (payload, form) = object.payload().ok_or("the data")?;
        self.view(context, transport, place).on_message(
            at,
            &Delivery {
                payload: &payload,
                event: Some(object.event.as_deref()),
                form,
            },
        );
        Ok(())
    }

    pub(super) fn on_event(
        &mut self,
        context: &mut Context<'_>,
        transport: Transport,
        event: &StreamEvent,
    ) -> Result<(), &'static str> {
        let id = event.id.as_deref().ok_or("an event without an id")?;
        let cursor = parse_cursor(id, self.channels.len()).ok_or("the id")?;
        let mut moved =
            (0..cursor.len()).filter(|&place| self.places[place].at != Some(cursor[place]));
        // If none has moved, the message came again.
        let place = moved.next().unwrap_or(0);
        if moved.next().is_some() {
            context.findings.add(Finding::WrongCursor, 1, || {
                format!("client {}: two channels moved at once to {id}", self.number)
            });
        }
        let at = cursor[place];
        if event.name.as_deref() == Some("pushring.gap") {
            let gap: Gap<'_> = serde_json::from_str(&event.data).map_err(|_| "the gap")?;
            return match self.on_notice(context, transport, &gap)? {
                told if told == (place, at) => Ok(()),
                _ => Err("the gap is not where the id is"),
            };
        }
        if !transport.is_json() {
            let payload = raw_event_payload(&event.data);
            let delivery = Delivery {
                payload: &payload,
                event: Some(event.name.as_deref()),
                form: Form::Any,
            };
            self.view(context, transport, place)
                .on_message(at, &delivery);
            return Ok(());
        }
        let object: Object<'_> = serde_json::from_str(&event.data).map_err(|_| "the JSON")?;
        if self.place_of(context.ledger, &object)? != (place, at)
            || object.event.as_deref() != event.name.as_deref()
        {
            return Err("the object is not where the id is, or has another name");
        }
        let (payload, form) = object.payload().ok_or("the data")?;
        let delivery = Delivery {
            payload: &payload,
            event: Some(event.name.as_deref()),
            form,
        };
        self.view(context, transport, place)
            .on_message(at, &delivery);
        Ok(())
    }

    fn on_notice(
        &mut self,
        context: &mut Context<'_>,
        transport: Transport,
        gap: &Gap<'_>,
    ) -> Result<(usize, Position), &'static str> {
        let place = self.place_named(context.ledger, &gap.channel)?;
        let at = Position::parse(&gap.position).ok_or("the position")?;
        self.view(context, transport, place).on_gap(at);
        Ok((place, at))
    }

    fn place_of(
        &self,
        ledger: &Ledger,
        object: &Object<'_>,
    ) -> Result<(usize, Position), &'static str> {
        let at = Position::parse(&object.id).ok_or("the id")?;
        Ok((self.place_named(ledger, &object.channel)?, at))
    }

    fn place_named(&self, ledger: &Ledger, name: &str) -> Result<usize, &'static str> {
        let mut channels = self.channels.iter();
        channels
            .position(|&channel| ledger.channels[usize::from(channel)].name == name)
            .ok_or("a channel that nobody asked for")
    }

    pub(super) fn view<'a>(
        &'a mut self,
        context: &'a mut Context<'_>,
        transport: Transport,
        place: usize,
    ) -> View<'a> {
        View {
            ledger: context.ledger,
            findings: context.findings,
            counts: context.counts,
            seed: context.seed,
            who: Who {
                client: self.number,
                transport: transport.name(),
            },
            channel: self.channels[place],
            has: &mut self.places[place],
        }
    }
}
