//! The client's side of HTTP, Server-Sent Events and WebSocket, as plainly as it can be written.

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Takes a head from the front of `input` if it is complete.
    pub(crate) fn take(input: &mut Vec<u8>) -> Option<Self> {
        let end = input.windows(4).position(|window| window == b"\r\n\r\n")?;
        let text = String::from_utf8(input.drain(..end + 4).collect()).expect("ASCII");
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "))
            .expect("a status line");
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a field");
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Some(Self {
            status: status[..3].parse().expect("a status"),
            fields: lines
                .take_while(|line| !line.is_empty())
                .map(field)
                .collect(),
        })
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(it, _)| it == name)
            .map(|(_, value)| &**value)
    }

    pub(crate) fn body_bytes(&self) -> usize {
        self.field("content-length")
            .map_or(0, |length| length.parse().expect("a length"))
    }
}

/// Undoes the chunked transfer coding of a body that may go on for ever.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    pub(crate) is_ended: bool,
}

impl Chunks {
    pub(crate) fn take(&mut self, input: &mut Vec<u8>) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(line_end) = input.windows(2).position(|window| window == b"\r\n") {
            assert!(!self.is_ended, "bytes behind the last chunk");
            let size = std::str::from_utf8(&input[..line_end]).expect("hexadecimal");
            let size = usize::from_str_radix(size, 16).expect("hexadecimal");
            let whole = line_end + 2 + size + 2;
            if input.len() < whole {
                break;
            }
            body.extend_from_slice(&input[line_end + 2..line_end + 2 + size]);
            assert_eq!(
                &input[whole - 2..whole],
                b"\r\n",
                "a chunk ends with its data"
            );
            self.is_ended = size == 0;
            input.drain(..whole);
        }
        body
    }
}

/// One event as an `EventSource` dispatches it.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) name: Option<String>,
    pub(crate) data: Vec<u8>,
    pub(crate) id: String,
}

/// WHATWG HTML §9.2.6, with LF as the only line end.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
}

impl Events {
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if line.is_empty() {
                assert!(self.has_data, "an empty block");
                self.has_data = false;
                let id = self.event.id.clone();
                events.push(std::mem::replace(
                    &mut self.event,
                    Event {
                        id,
                        ..Event::default()
                    },
                ));
                continue;
            }
            let colon = line
                .iter()
                .position(|&byte| byte == b':')
                .expect("a field or a comment");
            let value = line.get(colon + 2..).unwrap_or(b"");
            match &line[..colon] {
                b"data" => {
                    if std::mem::replace(&mut self.has_data, true) {
                        self.event.data.push(b'\n');
                    }
                    self.event.data.extend_from_slice(value);
                }
                b"id" => self.event.id = String::from_utf8(value.to_vec()).expect("UTF-8"),
                b"event" => {
                    self.event.name = Some(String::from_utf8(value.to_vec()).expect("UTF-8"))
                }
                b"retry" | b"" => {}
                other => panic!("field {other:?}"),
            }
        }
        events
    }
}

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Takes a frame of the server from the front of `input` if it is complete: opcode and payload.
pub(crate) fn take_frame(input: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (input.first()?, input.get(1)?);
    assert_eq!(first & 0xF0, 0x80, "whole frames without reserved bits");
    let (length, header) = match second {
        126 => (
            usize::from(u16::from_be_bytes(input.get(2..4)?.try_into().unwrap())),
            4,
        ),
        127 => (
            u64::from_be_bytes(input.get(2..10)?.try_into().unwrap()) as usize,
            10,
        ),
        short => (usize::from(short), 2),
    };
    assert!(second < 128, "a server masks nothing");
    if input.len() < header + length {
        return None;
    }
    let payload = input[header..header + length].to_vec();
    input.drain(..header + length);
    Some((first & 0x0F, payload))
}

/// A masked frame of a client; `opcode` with the FIN bit.
pub(crate) fn client_frame(opcode_and_fin: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![opcode_and_fin];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(
                &u16::try_from(length)
                    .expect("a short message")
                    .to_be_bytes(),
            );
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}
