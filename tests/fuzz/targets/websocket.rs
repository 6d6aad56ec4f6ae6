//! What a WebSocket's client sends: every cut gives the same events, tungstenite reads the same ones out of the same
//! bytes, and messages that are written in fragments come back.

use std::io::{self, Cursor, Read, Write};

use pushring::proto::ws_message::{MessageKind, WsAssembler, WsError, WsEvent, WsLimits};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

const LIMITS: WsLimits = WsLimits {
    message_bytes_max: 256,
    empty_fragments_max: 2,
};
/// What tungstenite is compared under, which knows no such limits.
const ROOMY: WsLimits = WsLimits {
    message_bytes_max: 1 << 20,
    empty_fragments_max: u32::MAX,
};

#[derive(Clone, Debug, PartialEq)]
enum Event {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close,
}

fn assemble(pieces: &[&[u8]], limits: &WsLimits) -> (Vec<Event>, Option<WsError>) {
    let mut assembler = WsAssembler::default();
    let mut events = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        while !rest.is_empty() {
            let (taken, event) = match assembler.feed(rest, limits) {
                Ok(fed) => fed,
                Err(error) => return (events, Some(error)),
            };
            assert!(taken > 0, "goes on");
            let event = event.map(|event| match event {
                WsEvent::Message {
                    kind: MessageKind::Text,
                    payload,
                } => {
                    assert!(str::from_utf8(&payload).is_ok());
                    assert!(payload.len() <= limits.message_bytes_max);
                    Event::Text(payload.into_owned())
                }
                WsEvent::Message { payload, .. } => {
                    assert!(payload.len() <= limits.message_bytes_max);
                    Event::Binary(payload.into_owned())
                }
                WsEvent::Ping(payload) => Event::Ping(payload.into_owned()),
                WsEvent::Pong(payload) => Event::Pong(payload.into_owned()),
                WsEvent::Close { .. } => Event::Close,
            });
            rest = &mut rest[taken..];
            events.extend(event);
            if events.last() == Some(&Event::Close) {
                return (events, None);
            }
        }
    }
    (events, None)
}

pub(crate) fn check(input: &[u8]) {
    let whole = assemble(&[input], &LIMITS);
    for at in super::cuts(input) {
        assert_eq!(
            assemble(&[&input[..at], &input[at..]], &LIMITS),
            whole,
            "cut at {at}"
        );
    }
    let bytes: Vec<_> = input.chunks(1).collect();
    assert_eq!(assemble(&bytes, &LIMITS), whole, "byte by byte");

    let (events, error) = assemble(&[input], &ROOMY);
    let twin = tungstenite_reading(input);
    // Which of the two gives up on a broken message first is not the same.
    assert!(
        twin.starts_with(&events) || error.is_some() && events.starts_with(&twin),
        "{events:?} {error:?} {twin:?}"
    );
    if error.is_none() {
        assert_eq!(events, twin);
    }

    let mut stream = Vec::new();
    for event in &events {
        write(&mut stream, event);
    }
    assert_eq!(
        assemble(&[&stream], &ROOMY),
        (events, None),
        "written and read"
    );
}

/// Frames of a client; messages in two fragments.
fn write(out: &mut Vec<u8>, event: &Event) {
    let (opcode, payload) = match event {
        Event::Text(payload) => (1, payload),
        Event::Binary(payload) => (2, payload),
        Event::Ping(payload) => (9, payload),
        Event::Pong(payload) => (10, payload),
        Event::Close => return write_frame(out, 0x88, b""),
    };
    if opcode < 8 {
        let (front, back) = payload.split_at(payload.len() / 2);
        write_frame(out, opcode, front);
        write_frame(out, 0x80, back);
    } else {
        write_frame(out, 0x80 | opcode, payload);
    }
}

fn write_frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    const MASK: [u8; 4] = [0x12, 0x00, 0xff, 0x5a];
    out.push(first);
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(n).expect("short").to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
}

/// Reads the bytes, swallows what is answered.
struct Socket<'a>(Cursor<&'a [u8]>);

impl Read for Socket<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tungstenite_reading(input: &[u8]) -> Vec<Event> {
    let bytes_max = Some(ROOMY.message_bytes_max);
    let config = WebSocketConfig::default()
        .max_frame_size(bytes_max)
        .max_message_size(bytes_max);
    let mut socket =
        WebSocket::from_raw_socket(Socket(Cursor::new(input)), Role::Server, Some(config));
    let mut events = Vec::new();
    while let Ok(message) = socket.read() {
        events.push(match message {
            Message::Text(text) => Event::Text(text.as_bytes().to_vec()),
            Message::Binary(bytes) => Event::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Event::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Event::Pong(bytes.to_vec()),
            Message::Close(_) => Event::Close,
            Message::Frame(frame) => unreachable!("{frame:?}"),
        });
    }
    events
}
