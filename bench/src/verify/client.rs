//! One client without its socket: what it keeps, what it asks, and where one unit of what comes ends. What it makes of
//! a unit is in `content`.

mod content;

use crate::clients::http::{Body, Chunk, Head, decode_chunk, decode_head, header_value};
use crate::clients::ws::decode_frame;

use super::judge::{Counts, Finding, Findings, Place};
use super::ledger::Ledger;
use super::position::{Position, parse_cursor};
use super::transport::Transport;
use super::wire::{EventReader, StreamEvent};

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
}
