//! One client without its socket: what it asks, and what it makes of the bytes that come.

use crate::clients::http::{Body, Chunk, Head, decode_chunk, decode_head, header_value};
use crate::clients::ws::{
    OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, OPCODE_TEXT, decode_frame, encode_frame, encode_pong,
};

use super::judge::{Counts, Delivery, Finding, Findings, Form, Place, View, Who};
use super::ledger::Ledger;
use super::position::{Position, parse_cursor};
use super::wire::{EventReader, Gap, GapFrame, Object, PollAnswer, StreamEvent, raw_event_payload};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    ShortPoll,
    LongPoll,
    SseRaw,
    SseJson,
    WebSocketRaw,
    WebSocketJson,
}

impl Transport {
    pub(super) const ALL: [Self; 6] = [
        Self::ShortPoll,
        Self::LongPoll,
        Self::SseRaw,
        Self::SseJson,
        Self::WebSocketRaw,
        Self::WebSocketJson,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ShortPoll => "short poll",
            Self::LongPoll => "long poll",
            Self::SseRaw => "sse raw",
            Self::SseJson => "sse json",
            Self::WebSocketRaw => "websocket raw",
            Self::WebSocketJson => "websocket json",
        }
    }

    pub(super) fn is_poll(self) -> bool {
        matches!(self, Self::ShortPoll | Self::LongPoll)
    }

    pub(super) fn is_websocket(self) -> bool {
        matches!(self, Self::WebSocketRaw | Self::WebSocketJson)
    }

    fn is_json(self) -> bool {
        matches!(self, Self::SseJson | Self::WebSocketJson)
    }
}

/// What all clients of a worker share.
pub(super) struct Context<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) findings: &'a Findings,
    pub(super) counts: &'a mut Counts,
    pub(super) seed: u64,
}

/// What a client keeps when its connection is gone.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: u32,
    pub(super) channels: Vec<u16>,
    pub(super) places: Vec<Place>,
}

/// What is known about one connection beside its socket.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) transport: Transport,
    is_open: bool,
    events: EventReader,
}

/// What the connection has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// More may come.
    Open,
    /// A poll is answered; the next request may follow, unless the server closes.
    Answered { closes: bool },
    /// The server ended it in order, or refused it for now.
    Ended,
    /// It broke the rules, and a finding says how.
    Broken,
}

impl Stream {
    pub(super) fn new(transport: Transport) -> Self {
        Self {
            transport,
            is_open: false,
            events: EventReader::default(),
        }
    }
}

impl Client {
    pub(super) fn new(number: u32, channels: Vec<u16>) -> Self {
        Self {
            number,
            places: vec![Place::default(); channels.len()],
            channels,
        }
    }

    /// Whether it has everything up to the end of the run.
    pub(super) fn is_at(&self, targets: &[Position]) -> bool {
        let mut pairs = self.channels.iter().zip(&self.places);
        pairs.all(|(&channel, place)| {
            let target = targets[usize::from(channel)];
            // A publish whose sender gave up may still come behind the last one.
            let is_behind = |at: Position| at.epoch == target.epoch && at.offset >= target.offset;
            place.at.is_some_and(is_behind)
        })
    }

    fn cursor(&self) -> Option<String> {
        let positions: Option<Vec<_>> = self
            .places
            .iter()
            .map(|place| Some(place.at?.to_string()))
            .collect();
        Some(positions?.join(","))
    }

    /// The request that opens a stream, or the next poll; `choice` varies what may vary.
    pub(super) fn request(
        &mut self,
        ledger: &Ledger,
        transport: Transport,
        wait_s: u32,
        choice: u8,
        out: &mut Vec<u8>,
    ) {
        // A notice that the last connection owed is told anew.
        for place in &mut self.places {
            place.notice_is_due = false;
        }
        let names: Vec<_> = self
            .channels
            .iter()
            .map(|&channel| ledger.channels[usize::from(channel)].name.as_str())
            .collect();
        let (names, cursor) = (names.join(","), self.cursor());
        let since = cursor.as_deref().unwrap_or("now");
        let format = if transport.is_json() { "json" } else { "raw" };
        let (target, fields) = match transport {
            Transport::ShortPoll if choice.is_multiple_of(4) => (
                format!("/poll/{names}?since={since}&limit=3"),
                String::new(),
            ),
            Transport::ShortPoll => (format!("/poll/{names}?since={since}"), String::new()),
            Transport::LongPoll => (
                format!("/poll/{names}?wait={wait_s}&since={since}"),
                String::new(),
            ),
            // As a browser does it that reconnects: the old address, and the cursor in a field.
            Transport::SseRaw | Transport::SseJson
                if choice.is_multiple_of(2) && cursor.is_some() =>
            {
                (
                    format!("/sse/{names}?format={format}&since=earliest"),
                    format!("Last-Event-ID: {since}\r\n"),
                )
            }
            Transport::SseRaw | Transport::SseJson => (
                format!("/sse/{names}?format={format}&since={since}"),
                String::new(),
            ),
            Transport::WebSocketRaw | Transport::WebSocketJson => (
                format!("/ws/{names}?format={format}&since={since}"),
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    .to_owned(),
            ),
        };
        out.extend_from_slice(
            format!("GET {target} HTTP/1.1\r\nHost: verify\r\n{fields}\r\n").as_bytes(),
        );
    }

    /// Takes whole units off the front of `input`; what has to be sent at once goes to `out`.
    pub(super) fn read(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Stream,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let mut consumed = 0;
        let outcome = loop {
            match self.read_unit(context, stream, &input[consumed..], out) {
                Ok(Some((unit_bytes, outcome))) => {
                    consumed += unit_bytes;
                    if outcome != Outcome::Open {
                        break outcome;
                    }
                }
                Ok(None) => break Outcome::Open,
                Err(what) => {
                    let name = stream.transport.name();
                    context.findings.add(Finding::Malformed, 1, || {
                        let rest = &input[consumed..];
                        let front = String::from_utf8_lossy(&rest[..rest.len().min(200)]);
                        format!("client {} ({name}): {what}: {front:?}", self.number)
                    });
                    break Outcome::Broken;
                }
            }
        };
        input.drain(..consumed);
        outcome
    }

    fn read_unit(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Stream,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, Outcome)>, &'static str> {
        if input.is_empty() {
            return Ok(None);
        }
        if !stream.is_open {
            let Some(head) = decode_head(input).map_err(|_| "the head")? else {
                return Ok(None);
            };
            return self.read_head(context, stream, input, head);
        }
        if stream.transport.is_websocket() {
            let frame = decode_frame(input).map_err(|_| "the frame")?;
            let Some((first, payload, frame_bytes)) = frame else {
                return Ok(None);
            };
            let outcome = self.on_frame(context, stream.transport, first, payload, out)?;
            return Ok(Some((frame_bytes, outcome)));
        }
        let Some((chunk, chunk_bytes)) = decode_chunk(input).map_err(|_| "the chunk")? else {
            return Ok(None);
        };
        let Chunk::Data(data) = chunk else {
            return Ok(Some((chunk_bytes, Outcome::Ended)));
        };
        let (transport, mut failed) = (stream.transport, None);
        let mut on_event = |event: &StreamEvent| {
            if let Err(what) = self.on_event(context, transport, event) {
                failed = Some(what);
            }
        };
        stream
            .events
            .read(data, &mut on_event)
            .ok_or("the event stream")?;
        failed.map_or(Ok(Some((chunk_bytes, Outcome::Open))), Err)
    }

    fn read_head(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut Stream,
        input: &[u8],
        head: Head,
    ) -> Result<Option<(usize, Outcome)>, &'static str> {
        let transport = stream.transport;
        let text = &input[..head.head_bytes];
        let cursor = header_value(text, "Pushring-Cursor");
        let cursor = cursor.and_then(|cursor| parse_cursor(cursor, self.channels.len()));
        let body = match (head.status, head.body) {
            (101, _) if transport.is_websocket() => {
                let is_recovered = header_value(text, "Pushring-Recovered").is_none();
                self.on_switch(
                    context,
                    transport,
                    cursor.ok_or("the cursor")?,
                    is_recovered,
                );
                stream.is_open = true;
                return Ok(Some((head.head_bytes, Outcome::Open)));
            }
            (200, Body::Chunked) if !transport.is_poll() && !transport.is_websocket() => {
                for (place, at) in cursor.ok_or("the cursor")?.into_iter().enumerate() {
                    // With a cursor of one's own a loss is told in the stream, where its place is.
                    if self.places[place].at.is_none() {
                        self.view(context, transport, place).start(at);
                    }
                }
                stream.is_open = true;
                return Ok(Some((head.head_bytes, Outcome::Open)));
            }
            (_, Body::Length(length)) => match input[head.head_bytes..].get(..length) {
                Some(body) => body,
                None => return Ok(None),
            },
            _ => return Err("the length of the answer"),
        };
        let unit_bytes = head.head_bytes + body.len();
        let closes = header_value(text, "Connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        match head.status {
            200 if transport.is_poll() => {
                self.on_answer(context, transport, cursor.ok_or("the cursor")?, body)?
            }
            204 if transport.is_poll() => {
                for (place, at) in cursor.ok_or("the cursor")?.into_iter().enumerate() {
                    self.view(context, transport, place).on_cursor(at);
                }
            }
            503 => return Ok(Some((unit_bytes, Outcome::Ended))),
            _ => return Err("the status"),
        }
        Ok(Some((unit_bytes, Outcome::Answered { closes })))
    }

    fn on_answer(
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
                view.on_gap(at.before());
                has_told = true;
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
            if !answer.recovered && view.has.at.is_some_and(|has| has != at) {
                view.on_gap(at);
                has_told = true;
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

    fn on_switch(
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

    fn on_frame(
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
                    // Shut down, slow reader, no pong: all to be expected here; the answer to our own goodbye.
                    [0x0B, 0xB9 | 0xC0 | 0xC4, ..] | [0x03, 0xE8, ..] => Ok(Outcome::Ended),
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

    fn on_event(
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

    fn view<'a>(
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
