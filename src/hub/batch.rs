//! Messages of one channel that go out together, encoded once per wire form.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::hub::message::Message;
use crate::hub::position::cursor;
use crate::proto::payload::PayloadKind;
use crate::proto::{http_response, json, sse_event, ws_frame};

/// The shapes in which a listener may want a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The payload alone.
    Raw,
    /// The object that a poll shows in `messages`.
    Json,
}

/// Bytes that many connections of one shard share.
pub type SharedBytes = Rc<[u8]>;

/// The forms that all listeners of a channel have in common. A form with something of the connection's own in its
/// middle is not one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireForm {
    /// WebSocket frames; a server masks nothing, so all may share them.
    WebSocket(Format),
    /// Whole events of a stream on this channel alone, where the position is the whole cursor.
    EventStream { format: Format, chunked: bool },
    /// The body of a poll's answer on this channel alone.
    PollBody,
}

impl WireForm {
    const COUNT: usize = 7;

    fn index(self) -> usize {
        match self {
            Self::WebSocket(Format::Raw) => 0,
            Self::WebSocket(Format::Json) => 1,
            Self::EventStream {
                format: Format::Raw,
                chunked: true,
            } => 2,
            Self::EventStream {
                format: Format::Json,
                chunked: true,
            } => 3,
            Self::EventStream {
                format: Format::Raw,
                chunked: false,
            } => 4,
            Self::EventStream {
                format: Format::Json,
                chunked: false,
            } => 5,
            Self::PollBody => 6,
        }
    }
}

/// Messages of one channel in the order of their positions. Every form is made when the first listener needs it.
#[derive(Debug)]
pub struct Batch {
    messages: Vec<Arc<Message>>,
    forms: [OnceCell<SharedBytes>; WireForm::COUNT],
    /// Per message, by format; see [`event_bodies`](Self::event_bodies).
    event_bodies: [OnceCell<Vec<SharedBytes>>; 2],
}

impl Batch {
    /// `messages` must not be empty.
    pub fn new(messages: Vec<Arc<Message>>) -> Self {
        debug_assert!(!messages.is_empty());
        Self {
            messages,
            forms: Default::default(),
            event_bodies: Default::default(),
        }
    }

    pub fn messages(&self) -> &[Arc<Message>] {
        &self.messages
    }

    /// The events of a stream without their id lines, one for each message: on several channels the id is the
    /// connection's own.
    pub fn event_bodies(&self, format: Format) -> &[SharedBytes] {
        let cell = match format {
            Format::Raw => &self.event_bodies[0],
            Format::Json => &self.event_bodies[1],
        };
        cell.get_or_init(|| {
            let body = |message: &Arc<Message>| {
                let mut out = Vec::new();
                write_event_body(&mut out, message, format);
                out.into()
            };
            self.messages.iter().map(body).collect()
        })
    }

    /// The batch in `form`.
    pub fn bytes(&self, form: WireForm) -> &SharedBytes {
        self.forms[form.index()].get_or_init(|| {
            let mut out = Vec::new();
            match form {
                WireForm::WebSocket(format) => {
                    for message in &self.messages {
                        write_websocket(&mut out, message, format);
                    }
                }
                WireForm::EventStream { format, chunked } => {
                    for message in &self.messages {
                        let id = message.position.text();
                        sse_event::write_id_line(&mut out, id.as_str());
                        write_event_body(&mut out, message, format);
                    }
                    if chunked {
                        let mut chunk = Vec::with_capacity(out.len() + 32);
                        http_response::write_chunk(&mut chunk, &out);
                        out = chunk;
                    }
                }
                WireForm::PollBody => {
                    let last = self.messages.last().expect("a batch is not empty");
                    write_poll_body(
                        &mut out,
                        &cursor([last.position]),
                        true,
                        self.messages.iter().map(|message| &**message),
                    );
                }
            }
            out.into()
        })
    }
}

/// One message as one WebSocket frame (RFC 6455 §5.6).
pub fn write_websocket(out: &mut Vec<u8>, message: &Message, format: Format) {
    match format {
        Format::Raw => {
            let opcode = match message.kind {
                PayloadKind::Json | PayloadKind::Text => ws_frame::Opcode::Text,
                PayloadKind::Binary => ws_frame::Opcode::Binary,
            };
            ws_frame::server_header(out, opcode, message.payload.len());
            out.extend_from_slice(&message.payload);
        }
        Format::Json => {
            let mut object = Vec::with_capacity(message.payload.len() + 128);
            write_object(&mut object, message);
            ws_frame::server_header(out, ws_frame::Opcode::Text, object.len());
            out.extend_from_slice(&object);
        }
    }
}

/// All of an event but its id line, which is the connection's own when it listens on several channels.
pub fn write_event_body(out: &mut Vec<u8>, message: &Message, format: Format) {
    let event = message.event.as_deref();
    match (format, message.kind) {
        (Format::Raw, PayloadKind::Json | PayloadKind::Text) => {
            sse_event::write_event_body(out, event, &message.payload);
        }
        (Format::Raw, PayloadKind::Binary) => {
            let mut text = Vec::new();
            json::write_base64(&mut text, &message.payload);
            sse_event::write_event_body(out, event, &text);
        }
        (Format::Json, _) => {
            let mut object = Vec::with_capacity(message.payload.len() + 128);
            write_object(&mut object, message);
            sse_event::write_event_body(out, event, &object);
        }
    }
}

/// The body of a poll's answer.
pub fn write_poll_body<'a>(
    out: &mut Vec<u8>,
    cursor: &str,
    recovered: bool,
    messages: impl IntoIterator<Item = &'a Message>,
) {
    out.extend_from_slice(br#"{"cursor":""#);
    out.extend_from_slice(cursor.as_bytes());
    out.extend_from_slice(if recovered {
        br#"","recovered":true,"messages":["#
    } else {
        br#"","recovered":false,"messages":["#
    });
    for (index, message) in messages.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_object(out, message);
    }
    out.extend_from_slice(b"]}");
}

/// `{"channel":…,"id":…,"event":…,"data":…}`.
fn write_object(out: &mut Vec<u8>, message: &Message) {
    let id = message.position.text();
    json::write_message(
        out,
        message.channel.as_str(),
        id.as_str(),
        message.event.as_deref(),
        message.kind,
        &message.payload,
    );
}

#[cfg(test)]
mod tests;
