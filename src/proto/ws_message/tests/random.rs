//! Random frame streams in random reads, compared with a decoder that has the whole stream before it.

use super::*;
use crate::proto::ws_frame::decode_header;

/// The naive twin: looks at the whole stream at once, keeps what it likes, decodes each message from its start
/// whenever a byte is added to it.
fn assemble_naive(stream: &[u8], limits: &WsLimits) -> Outcome {
    let mut events = Vec::new();
    let error = naive_events(stream, limits, &mut events).err();
    Outcome { events, error }
}

fn naive_events(
    mut stream: &[u8],
    limits: &WsLimits,
    events: &mut Vec<WsEvent<'static>>,
) -> Result<(), WsError> {
    let mut message: Option<(Opcode, Vec<Vec<u8>>)> = None;
    while let Some((header, header_bytes)) = decode_header(stream)? {
        stream = &stream[header_bytes..];
        if !header.opcode.is_control() {
            match (&message, header.opcode) {
                (None, Opcode::Continuation) => return Err(WsError::ContinuationUnexpected),
                (None, opcode) => message = Some((opcode, vec![])),
                (Some(_), Opcode::Continuation) => {}
                (Some(_), _) => return Err(WsError::ContinuationExpected),
            }
            let held: usize = message
                .iter()
                .flat_map(|(_, fragments)| fragments)
                .map(Vec::len)
                .sum();
            if header.payload_bytes > (limits.message_bytes_max - held) as u64 {
                return Err(WsError::MessageTooBig);
            }
        }
        let available = stream.len().min(header.payload_bytes as usize);
        let is_whole = available as u64 == header.payload_bytes;
        let payload: Vec<u8> = stream[..available]
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ header.mask[at % 4])
            .collect();
        stream = &stream[available..];

        if header.opcode.is_control() {
            if !is_whole {
                break;
            }
            match header.opcode {
                Opcode::Ping => events.push(ping(&payload)),
                Opcode::Pong => events.push(pong(&payload)),
                _ => {
                    let event = match &payload[..] {
                        [] => close(None, ""),
                        [_] => return Err(WsError::CloseTruncated),
                        [high, low, reason @ ..] => {
                            let code = u16::from(*high) * 256 + u16::from(*low);
                            if !close_code_is_valid(code) {
                                return Err(WsError::CloseCodeInvalid);
                            }
                            close(
                                Some(code),
                                str::from_utf8(reason).map_err(|_| WsError::NotUtf8)?,
                            )
                        }
                    };
                    events.push(event);
                    return Ok(());
                }
            }
            continue;
        }

        let Some((opcode, fragments)) = &mut message else {
            unreachable!()
        };
        fragments.push(payload);
        let is_end = is_whole && header.fin;
        if *opcode == Opcode::Text {
            match str::from_utf8(&fragments.concat()) {
                Err(error) if is_end || error.error_len().is_some() => {
                    return Err(WsError::NotUtf8);
                }
                _ => {}
            }
        }
        let empty_row = fragments
            .iter()
            .rev()
            .take_while(|fragment| fragment.is_empty())
            .count();
        if is_whole && !is_end && empty_row > limits.empty_fragments_max as usize {
            return Err(WsError::EmptyFragments);
        }
        if is_end {
            let payload = fragments.concat();
            let kind = if *opcode == Opcode::Text {
                MessageKind::Text
            } else {
                MessageKind::Binary
            };
            events.push(WsEvent::Message {
                kind,
                payload: Cow::Owned(payload),
            });
            message = None;
        }
    }
    Ok(())
}

/// Mostly what a client may send, now and then something that it may not.
fn random_stream(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut is_fragmented = false;
    for _ in 0..random.usize(1..25) {
        let payload_bytes = match random.u8(..) {
            0..50 => 0,
            50..200 => random.usize(0..20),
            200..250 => random.usize(0..300),
            _ => random.usize(900..1100),
        };
        let mut payload: Vec<u8> = Vec::new();
        while payload.len() < payload_bytes {
            payload.extend(random.choice(["a", "é", "€", "😀"]).unwrap_or("").bytes());
        }
        if random.u8(..) < 10 {
            payload.push(random.u8(..));
        }
        let first = match random.u8(..) {
            0..60 => {
                payload.truncate(125);
                if random.bool() { 0x89 } else { 0x8A }
            }
            60..64 => {
                let code = random
                    .choice([1000_u16, 1001, 1005, 3000, 5000])
                    .unwrap_or(0);
                payload.splice(0..0, code.to_be_bytes());
                payload.truncate(random.usize(0..100));
                0x88
            }
            64..67 => random.u8(..),
            67..70 => [0x80, 0x81][random.usize(0..2)],
            _ => {
                let fin = random.bool();
                let opcode = if is_fragmented { 0 } else { random.u8(1..=2) };
                is_fragmented = !fin;
                u8::from(fin) << 7 | opcode
            }
        };
        stream.extend(frame(first, &payload));
    }
    if random.u8(..) < 30 {
        let at = random.usize(0..stream.len());
        stream[at] = random.u8(..);
    }
    stream.truncate(random.usize(0..=2 * stream.len()));
    stream
}

#[test]
fn random_streams_in_random_reads_agree_with_the_naive_twin() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..4000 {
        let stream = random_stream(&mut random);
        let expected = assemble_naive(&stream, &LIMITS);
        assert_eq!(
            assemble([&stream[..]], &LIMITS),
            expected,
            "whole {stream:02X?}"
        );
        assert_eq!(
            assemble(stream.chunks(1), &LIMITS),
            expected,
            "byte by byte {stream:02X?}"
        );
        for _ in 0..5 {
            let mut reads = Vec::new();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let most = random.choice([3, 20, 200, 2000]).unwrap_or(1);
                let (read, after) = rest.split_at(random.usize(1..=most).min(rest.len()));
                reads.push(read);
                rest = after;
            }
            assert_eq!(
                assemble(reads.iter().copied(), &LIMITS),
                expected,
                "{reads:02X?}"
            );
        }
    }
}
