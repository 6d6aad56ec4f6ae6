//! Every wire form read back by a reader that shares no code with the writer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;
use crate::hub::message::ChannelName;
use crate::hub::position::{Epoch, Position};

fn message(offset: u64, kind: PayloadKind, event: Option<&str>, payload: &[u8]) -> Arc<Message> {
    Arc::new(Message {
        channel: ChannelName::parse("a:b").unwrap(),
        position: Position {
            epoch: Epoch::from_random(1),
            offset,
        },
        previous: offset.saturating_sub(1),
        kind,
        event: event.map(Into::into),
        payload: payload.into(),
        published_ms: 0,
        published_us: 0,
        expires_ms: 0,
    })
}

/// One of every kind, and every length form of a WebSocket frame.
fn messages() -> Vec<Arc<Message>> {
    use PayloadKind::{Binary, Json, Text};
    let long = "ü".repeat(40_000);
    let payloads: [(PayloadKind, Option<&str>, &[u8]); 9] = [
        (Text, None, b"hello"),
        (
            Text,
            Some("created"),
            b"two\nlines \"quoted\" \\ and a tab\t",
        ),
        (Text, None, b""),
        (Json, None, br#"{"a":[1,2.5,null,"x"]}"#),
        (Json, Some("e"), b"[\n1\n]"),
        (Binary, None, b"\x00\xFF\n\r"),
        (Binary, None, &[7; 125]),
        (Binary, None, &[7; 126]),
        (Text, None, long.as_bytes()),
    ];
    let message = |(index, &(kind, event, payload)): (usize, &(_, _, &[u8]))| {
        message(index as u64 + 1, kind, event, payload)
    };
    payloads.iter().enumerate().map(message).collect()
}

#[track_caller]
fn check_object(object: &Value, message: &Message) {
    assert_eq!(object["channel"], message.channel.as_str());
    assert_eq!(object["id"], message.position.to_string());
    assert_eq!(object["event"].as_str(), message.event.as_deref());
    let fields = 3 + usize::from(message.event.is_some());
    assert_eq!(object.as_object().unwrap().len(), fields, "{object}");
    match message.kind {
        PayloadKind::Text => assert_eq!(
            object["data"].as_str().unwrap().as_bytes(),
            &*message.payload
        ),
        PayloadKind::Json => {
            assert_eq!(
                object["data"],
                serde_json::from_slice::<Value>(&message.payload).unwrap()
            );
        }
        PayloadKind::Binary => assert_eq!(object["data_base64"], STANDARD.encode(&message.payload)),
    }
}

/// Opcodes and payloads of a server's frames.
fn frames(mut input: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = input {
        assert_eq!(first & 0xF0, 0x80, "whole, and no reserved bits");
        let (length, rest) = match second {
            126 => (
                usize::from(u16::from_be_bytes([rest[0], rest[1]])),
                &rest[2..],
            ),
            127 => (
                u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize,
                &rest[8..],
            ),
            short => (usize::from(*short), rest),
        };
        frames.push((first & 0x0F, &rest[..length]));
        input = &rest[length..];
    }
    assert!(input.is_empty());
    frames
}

fn dechunk(mut input: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while !input.is_empty() {
        let line_end = input
            .windows(2)
            .position(|window| window == b"\r\n")
            .unwrap();
        let size =
            usize::from_str_radix(std::str::from_utf8(&input[..line_end]).unwrap(), 16).unwrap();
        assert_ne!(size, 0, "that would end the stream");
        let chunk = &input[line_end + 2..];
        data.extend_from_slice(&chunk[..size]);
        input = chunk[size..].strip_prefix(b"\r\n").unwrap();
    }
    data
}

/// Event name, data and id of each block.
fn events(text: &str) -> Vec<(Option<&str>, String, Option<&str>)> {
    let blocks = text
        .strip_suffix("\n\n")
        .expect("a whole block")
        .split("\n\n");
    blocks
        .map(|block| {
            let find = |prefix| block.lines().find_map(|line| line.strip_prefix(prefix));
            let data: Vec<_> = block
                .lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .collect();
            (find("event: "), data.join("\n"), find("id: "))
        })
        .collect()
}

fn check_events(text: &[u8], format: Format, has_id: bool) {
    let messages = messages();
    let text = std::str::from_utf8(text).unwrap();
    let events = events(text);
    assert_eq!(events.len(), messages.len());
    for ((event, data, id), message) in events.into_iter().zip(&messages) {
        assert_eq!(event, message.event.as_deref());
        assert_eq!(
            id.map(str::to_owned),
            has_id.then(|| message.position.to_string())
        );
        match (format, message.kind) {
            (Format::Json, _) => check_object(&serde_json::from_str(&data).unwrap(), message),
            (Format::Raw, PayloadKind::Binary) => {
                assert_eq!(data, STANDARD.encode(&message.payload))
            }
            (Format::Raw, _) => assert_eq!(data.as_bytes(), &*message.payload),
        }
    }
}

#[test]
fn frames_read_back() {
    let messages = messages();
    let batch = Batch::new(messages.clone());
    let raw = frames(batch.bytes(WireForm::WebSocket(Format::Raw)));
    let json = frames(batch.bytes(WireForm::WebSocket(Format::Json)));
    assert_eq!((raw.len(), json.len()), (messages.len(), messages.len()));
    for ((message, (opcode, payload)), (json_opcode, object)) in messages.iter().zip(raw).zip(json)
    {
        assert_eq!(
            opcode,
            if message.kind == PayloadKind::Binary {
                2
            } else {
                1
            }
        );
        assert_eq!(payload, &*message.payload);
        assert_eq!(json_opcode, 1);
        check_object(&serde_json::from_slice(object).unwrap(), message);
    }
}

#[test]
fn events_read_back() {
    let batch = Batch::new(messages());
    for format in [Format::Raw, Format::Json] {
        let plain = batch.bytes(WireForm::EventStream {
            format,
            chunked: false,
        });
        check_events(plain, format, true);
        let chunked = batch.bytes(WireForm::EventStream {
            format,
            chunked: true,
        });
        assert_eq!(dechunk(chunked), **plain);
        check_events(&batch.event_bodies(format).concat(), format, false);
    }
}

#[test]
fn a_poll_body_reads_back() {
    let messages = messages();
    let batch = Batch::new(messages.clone());
    let body: Value = serde_json::from_slice(batch.bytes(WireForm::PollBody)).unwrap();
    assert_eq!(
        body["cursor"],
        messages.last().unwrap().position.to_string()
    );
    assert_eq!(body["recovered"], true);
    let objects = body["messages"].as_array().unwrap();
    assert_eq!(objects.len(), messages.len());
    for (object, message) in objects.iter().zip(&messages) {
        check_object(object, message);
    }
    let mut empty = Vec::new();
    write_poll_body(&mut empty, "x-1,y-2", false, []);
    assert_eq!(
        empty,
        br#"{"cursor":"x-1,y-2","recovered":false,"messages":[]}"#
    );
}

#[test]
fn every_form_is_made_once_and_has_a_place_of_its_own() {
    let batch = Batch::new(messages());
    let mut forms = vec![WireForm::PollBody];
    for format in [Format::Raw, Format::Json] {
        forms.push(WireForm::WebSocket(format));
        forms.extend([true, false].map(|chunked| WireForm::EventStream { format, chunked }));
    }
    let mut indices: Vec<_> = forms.iter().map(|form| form.index()).collect();
    for form in forms {
        assert!(Rc::ptr_eq(batch.bytes(form), batch.bytes(form)), "{form:?}");
    }
    indices.sort_unstable();
    assert_eq!(indices, (0..WireForm::COUNT).collect::<Vec<_>>());
    let bodies = batch.event_bodies(Format::Raw).as_ptr();
    assert_eq!(batch.event_bodies(Format::Raw).as_ptr(), bodies);
}
