//! The assembler at every prefix and split, rule by rule.

mod random;

use super::*;

const LIMITS: WsLimits = WsLimits {
    message_bytes_max: 1000,
    empty_fragments_max: 3,
};

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A client's frame; `first` is the flags and the opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

fn text(payload: &str) -> WsEvent<'static> {
    WsEvent::Message {
        kind: MessageKind::Text,
        payload: Cow::Owned(payload.into()),
    }
}

fn binary(payload: &[u8]) -> WsEvent<'static> {
    WsEvent::Message {
        kind: MessageKind::Binary,
        payload: Cow::Owned(payload.to_vec()),
    }
}

fn ping(payload: &[u8]) -> WsEvent<'static> {
    WsEvent::Ping(Cow::Owned(payload.to_vec()))
}

fn pong(payload: &[u8]) -> WsEvent<'static> {
    WsEvent::Pong(Cow::Owned(payload.to_vec()))
}

fn close(code: Option<u16>, reason: &str) -> WsEvent<'static> {
    WsEvent::Close {
        code,
        reason: Cow::Owned(reason.to_owned()),
    }
}

fn into_owned(event: WsEvent<'_>) -> WsEvent<'static> {
    match event {
        WsEvent::Message { kind, payload } => WsEvent::Message {
            kind,
            payload: Cow::Owned(payload.into_owned()),
        },
        WsEvent::Ping(payload) => ping(&payload),
        WsEvent::Pong(payload) => pong(&payload),
        WsEvent::Close { code, reason } => close(code, &reason),
    }
}

#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<WsEvent<'static>>,
    error: Option<WsError>,
}

/// Feeds reads as a connection does; every read is in the same buffer, which is overwritten by the next.
fn assemble<'r>(reads: impl IntoIterator<Item = &'r [u8]>, limits: &WsLimits) -> Outcome {
    let mut assembler = WsAssembler::default();
    let mut events = Vec::new();
    let mut buffer = Vec::new();
    for read in reads {
        buffer.clear();
        buffer.extend_from_slice(read);
        let mut rest = &mut buffer[..];
        while !rest.is_empty() {
            let rest_bytes = rest.len();
            match assembler.feed(rest, limits) {
                Ok((taken, event)) => {
                    assert!(
                        (1..=rest_bytes).contains(&taken),
                        "took {taken} of {rest_bytes}"
                    );
                    let is_close = matches!(event, Some(WsEvent::Close { .. }));
                    events.extend(event.map(into_owned));
                    if is_close {
                        return Outcome {
                            events,
                            error: None,
                        };
                    }
                    // The borrow of an event has ended, so the slice can be taken again.
                    let start = buffer.len() - rest_bytes + taken;
                    rest = &mut buffer[start..];
                }
                Err(error) => {
                    return Outcome {
                        events,
                        error: Some(error),
                    };
                }
            }
            let is_in_use = assembler
                .0
                .as_ref()
                .is_none_or(|partial| !partial.is_idle());
            assert!(is_in_use, "a box is held for nothing");
        }
    }
    Outcome {
        events,
        error: None,
    }
}

fn check(frames: &[Vec<u8>], events: &[WsEvent<'static>], error: Option<WsError>) {
    let stream = frames.concat();
    let expected = Outcome {
        events: events.to_vec(),
        error,
    };
    assert_eq!(assemble([&stream[..]], &LIMITS), expected, "whole");
    assert_eq!(
        assemble(stream.chunks(1), &LIMITS),
        expected,
        "byte by byte"
    );
    for split in 1..stream.len() {
        let (left, right) = stream.split_at(split);
        assert_eq!(
            assemble([left, right], &LIMITS),
            expected,
            "split at {split}"
        );
    }
    for end in 0..stream.len() {
        let prefix = assemble([&stream[..end]], &LIMITS);
        assert!(expected.events.starts_with(&prefix.events), "cut at {end}");
        assert!(
            prefix.error.is_none() || prefix.error == error,
            "cut at {end}"
        );
    }
}

#[test]
fn messages_come_whole_or_in_fragments() {
    let long = [7; 200];
    let longest = "x".repeat(1000);
    check(&[frame(0x81, b"Hello")], &[text("Hello")], None);
    check(&[frame(0x81, b"")], &[text("")], None);
    check(
        &[frame(0x82, &long), frame(0x81, b"b")],
        &[binary(&long), text("b")],
        None,
    );
    check(
        &[frame(0x01, b"Hel"), frame(0x80, b"lo")],
        &[text("Hello")],
        None,
    );
    check(
        &[frame(0x02, b""), frame(0x00, b""), frame(0x80, b"")],
        &[binary(b"")],
        None,
    );
    check(
        &[frame(0x01, b""), frame(0x00, b"a"), frame(0x80, b"")],
        &[text("a")],
        None,
    );
    check(&[frame(0x81, longest.as_bytes())], &[text(&longest)], None);
    check(
        &[frame(0x02, &long), frame(0x80, &long), frame(0x82, b"x")],
        &[binary(&[7; 400]), binary(b"x")],
        None,
    );
}

#[test]
fn control_frames_stand_between_fragments() {
    check(
        &[
            frame(0x01, b"a"),
            frame(0x89, b"p"),
            frame(0x00, b"b"),
            frame(0x8A, &[0; 125]),
            frame(0x80, b"c"),
        ],
        &[ping(b"p"), pong(&[0; 125]), text("abc")],
        None,
    );
    check(
        &[frame(0x89, b""), frame(0x8A, b"")],
        &[ping(b""), pong(b"")],
        None,
    );
    check(
        &[frame(0x01, b"a"), frame(0x88, b"\x03\xE8")],
        &[close(Some(1000), "")],
        None,
    );
    // A character may be cut by a ping.
    check(
        &[
            frame(0x01, b"\xC3"),
            frame(0x89, b"\xFF"),
            frame(0x80, b"\xA9"),
        ],
        &[ping(b"\xFF"), text("é")],
        None,
    );
}

#[test]
fn frames_out_of_sequence_are_protocol_errors() {
    let expected = Some(WsError::ContinuationExpected);
    let unexpected = Some(WsError::ContinuationUnexpected);
    check(&[frame(0x80, b"a")], &[], unexpected);
    check(&[frame(0x00, b"a"), frame(0x80, b"b")], &[], unexpected);
    check(
        &[frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")],
        &[text("ab")],
        unexpected,
    );
    check(&[frame(0x01, b"a"), frame(0x81, b"b")], &[], expected);
    check(&[frame(0x02, b""), frame(0x02, b"")], &[], expected);
    check(
        &[frame(0x81, b"a"), frame(0xC1, b"b")],
        &[text("a")],
        Some(FrameError::ReservedBit.into()),
    );
    check(
        &[frame(0x01, b"a"), frame(0x83, b"b")],
        &[],
        Some(FrameError::ReservedOpcode.into()),
    );
    check(
        &[frame(0x09, b"a")],
        &[],
        Some(FrameError::ControlFragmented.into()),
    );
    check(
        &[frame(0x89, &[0; 126])],
        &[],
        Some(FrameError::ControlTooLong.into()),
    );
}

#[test]
fn text_is_refused_at_its_first_impossible_byte() {
    let error = Some(WsError::NotUtf8);
    for bad in [
        &b"\xF4\x90"[..],
        b"\xED\xA0",
        b"\xC0",
        b"\xF5",
        b"\x80",
        b"\xE0\x80",
        b"\xF0\x8F",
        b"\xC3a",
    ] {
        check(&[frame(0x81, bad)], &[], error);
        check(&[frame(0x82, bad)], &[binary(bad)], None);
        let text = [b"\xCE\xBA", bad].concat();
        // The frame announces more than comes: it is refused without its end, and the message without its.
        let mut unfinished = frame(0x01, &[&text[..], &[b'x'; 30]].concat());
        unfinished.truncate(2 + 4 + text.len());
        check(&[unfinished], &[], error);
        for split in 0..text.len() {
            let (left, right) = text.split_at(split);
            check(&[frame(0x01, left), frame(0x00, right)], &[], error);
        }
    }
    for incomplete in [&b"\xC3"[..], b"\xE2\x82", b"\xF0\x9F\x98"] {
        check(&[frame(0x81, incomplete)], &[], error);
        check(&[frame(0x01, incomplete), frame(0x80, b"")], &[], error);
        check(&[frame(0x01, incomplete), frame(0x00, b"")], &[], None);
    }
}

#[test]
fn a_close_has_no_payload_or_a_code_and_a_reason() {
    check(&[frame(0x88, b"")], &[close(None, "")], None);
    check(&[frame(0x88, b"\x03")], &[], Some(WsError::CloseTruncated));
    check(
        &[frame(0x88, b"\x03\xE9bye \xE2\x82\xAC")],
        &[close(Some(1001), "bye €")],
        None,
    );
    check(
        &[frame(0x88, b"\x03\xE8\xE2\x82")],
        &[],
        Some(WsError::NotUtf8),
    );
    check(
        &[frame(0x88, &[&[0x0F, 0xA0][..], &[b'r'; 123]].concat())],
        &[close(Some(4000), &"r".repeat(123))],
        None,
    );
    // What follows a close is not read, whatever it is.
    check(&[frame(0x88, b""), vec![0xFF; 9]], &[close(None, "")], None);
}

#[test]
fn every_close_code_has_its_verdict() {
    for code in 0..=u16::MAX {
        let bytes = frame(0x88, &code.to_be_bytes());
        let is_valid = match code {
            1004..=1006 | 1015 => false,
            1000..=1014 | 3000..=4999 => true,
            _ => false,
        };
        let outcome = assemble([&bytes[..]], &LIMITS);
        let expected = if is_valid {
            Outcome {
                events: vec![close(Some(code), "")],
                error: None,
            }
        } else {
            Outcome {
                events: vec![],
                error: Some(WsError::CloseCodeInvalid),
            }
        };
        assert_eq!(outcome, expected, "{code}");
    }
}

#[test]
fn a_message_too_big_is_refused_at_its_header() {
    let error = Some(WsError::MessageTooBig);
    let header_only =
        |first, payload: &[u8], header_bytes| frame(first, payload)[..header_bytes].to_vec();
    check(&[header_only(0x82, &[0; 1001], 8)], &[], error);
    check(&[header_only(0x82, &[0; 70_000], 14)], &[], error);
    check(
        &[vec![
            0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0,
        ]],
        &[],
        error,
    );
    check(
        &[frame(0x02, &[0; 600]), header_only(0x80, &[0; 401], 8)],
        &[],
        error,
    );
    check(
        &[frame(0x02, &[0; 600]), frame(0x80, &[0; 400])],
        &[binary(&[0; 1000])],
        None,
    );
}

#[test]
fn empty_fragments_in_a_row_are_limited() {
    let empty = frame(0x00, b"");
    let row = [&empty[..]; 3].concat();
    check(
        &[
            frame(0x01, b"a"),
            row.clone(),
            frame(0x00, b"b"),
            row.clone(),
            frame(0x80, b""),
        ],
        &[text("ab")],
        None,
    );
    check(
        &[frame(0x01, b"a"), row.clone(), empty],
        &[],
        Some(WsError::EmptyFragments),
    );
    check(&[frame(0x01, b""), row], &[], Some(WsError::EmptyFragments));
}

#[test]
fn a_frame_that_lies_in_the_read_is_handed_out_in_place() {
    let mut bytes = [
        frame(0x82, &[1; 300]),
        frame(0x89, b"p"),
        frame(0x88, b"\x03\xE8r"),
    ]
    .concat();
    let mut assembler = WsAssembler::default();
    let (taken, event) = assembler.feed(&mut bytes, &LIMITS).unwrap();
    assert!(matches!(
        event,
        Some(WsEvent::Message {
            payload: Cow::Borrowed(_),
            ..
        })
    ));
    let (taken_next, event) = assembler.feed(&mut bytes[taken..], &LIMITS).unwrap();
    assert!(matches!(event, Some(WsEvent::Ping(Cow::Borrowed(b"p")))));
    let (_, event) = assembler
        .feed(&mut bytes[taken + taken_next..], &LIMITS)
        .unwrap();
    assert!(matches!(
        event,
        Some(WsEvent::Close {
            reason: Cow::Borrowed("r"),
            ..
        })
    ));
    assert!(assembler.0.is_none());

    // Also if only its header came with the read before.
    let mut bytes = frame(0x82, &[1; 300]);
    let (header, payload) = bytes.split_at_mut(8);
    assert_eq!(assembler.feed(header, &LIMITS), Ok((8, None)));
    let (_, event) = assembler.feed(payload, &LIMITS).unwrap();
    assert!(matches!(
        event,
        Some(WsEvent::Message {
            payload: Cow::Borrowed(_),
            ..
        })
    ));
    assert!(assembler.0.is_none());
}

#[test]
fn nothing_is_held_between_messages() {
    let mut assembler = WsAssembler::default();
    assert_eq!(assembler.feed(&mut [], &LIMITS), Ok((0, None)));
    assert!(assembler.0.is_none());
    for mut bytes in [
        frame(0x81, b"abc"),
        frame(0x89, b"abc"),
        [frame(0x02, b""), frame(0x80, b"")].concat(),
    ] {
        let mut events = 0;
        for byte in bytes.chunks_mut(1) {
            events += usize::from(assembler.feed(byte, &LIMITS).unwrap().1.is_some());
        }
        assert_eq!(events, 1);
        assert!(assembler.0.is_none());
    }
}

#[test]
fn memory_grows_by_what_came_and_not_by_what_was_announced() {
    let limits = WsLimits {
        message_bytes_max: 64 << 20,
        empty_fragments_max: u32::MAX,
    };
    let payload_capacity = |assembler: &WsAssembler| {
        let message = assembler
            .0
            .as_ref()
            .and_then(|partial| partial.message.as_ref());
        message.map_or(0, |message| message.payload.capacity())
    };

    let mut assembler = WsAssembler::default();
    let mut announced = vec![0x82, 0xFF, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3];
    assert_eq!(assembler.feed(&mut announced, &limits), Ok((17, None)));
    assert!(payload_capacity(&assembler) <= 64);

    let mut assembler = WsAssembler::default();
    let mut first = frame(0x01, b"");
    assert_eq!(assembler.feed(&mut first, &limits), Ok((6, None)));
    let empty = frame(0x00, b"");
    for _ in 0..1_000_000 {
        assert_eq!(assembler.feed(&mut empty.clone(), &limits), Ok((6, None)));
    }
    assert_eq!(payload_capacity(&assembler), 0);

    let mut assembler = WsAssembler::default();
    let fragment = [b'x'; 64];
    let mut expected_bytes = 0;
    for index in 0..=65_536 {
        let first = match index {
            0 => 0x01,
            65_536 => 0x80,
            _ => 0x00,
        };
        let mut bytes = frame(first, &fragment);
        let frame_bytes = bytes.len();
        let (taken, event) = assembler.feed(&mut bytes, &limits).unwrap();
        assert_eq!(taken, frame_bytes);
        expected_bytes += fragment.len();
        assert!(payload_capacity(&assembler) <= 2 * expected_bytes);
        if let Some(WsEvent::Message { payload, .. }) = event {
            assert_eq!((index, payload.len()), (65_536, expected_bytes));
            assert!(matches!(payload, Cow::Owned(_)));
        }
    }
    assert!(assembler.0.is_none());
}

#[test]
fn every_error_has_a_code_and_a_reason_that_fits() {
    for (error, code) in [
        (WsError::Frame(FrameError::Unmasked), 1002),
        (WsError::ContinuationUnexpected, 1002),
        (WsError::ContinuationExpected, 1002),
        (WsError::CloseTruncated, 1002),
        (WsError::CloseCodeInvalid, 1002),
        (WsError::NotUtf8, 1007),
        (WsError::EmptyFragments, 1008),
        (WsError::MessageTooBig, 1009),
    ] {
        assert_eq!(error.close_code(), code);
        assert!(close_code_is_valid(code));
        assert!(error.reason().len() <= ws_frame::CLOSE_REASON_BYTES_MAX);
    }
}
