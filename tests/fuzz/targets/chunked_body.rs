//! Bodies in chunks: every cut gives the same result, what is accepted is what the most literal reading finds and no
//! larger than allowed, and bytes that are written in chunks come back.

use pushring::proto::http_body::{BodyDecoder, BodyError, BodyProgress};
use pushring::proto::http_request::BodyFraming;

const BODY_BYTES_MAX: usize = 128;

/// Result, bytes taken and the body, fed piece by piece.
fn decode(pieces: &[&[u8]], bytes_max: usize) -> (Result<bool, BodyError>, usize, Vec<u8>) {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    let (mut body, mut taken) = (Vec::new(), 0);
    for piece in pieces {
        match decoder.decode(piece, &mut body, bytes_max) {
            Ok(BodyProgress { consumed, done }) => {
                assert!(consumed == piece.len() || done, "takes all up to its end");
                taken += consumed;
            }
            Err(error) => return (Err(error), taken, body),
        }
    }
    (Ok(decoder.is_done()), taken, body)
}

pub(crate) fn check(input: &[u8]) {
    let (whole, taken, body) = decode(&[input], BODY_BYTES_MAX);
    assert!(body.len() <= BODY_BYTES_MAX.min(input.len()));
    for at in super::cuts(input) {
        let (cut, cut_taken, cut_body) = decode(&[&input[..at], &input[at..]], BODY_BYTES_MAX);
        assert_eq!((cut, &cut_body), (whole, &body), "cut at {at}");
        assert!(cut_taken == taken || whole.is_err(), "cut at {at}");
    }
    let bytes: Vec<_> = input.chunks(1).collect();
    let (bytewise, _, bytewise_body) = decode(&bytes, BODY_BYTES_MAX);
    assert_eq!((bytewise, &bytewise_body), (whole, &body), "byte by byte");
    let discarded = BodyDecoder::new(BodyFraming::Chunked).discard(input, BODY_BYTES_MAX);
    assert_eq!(discarded.map(|it| it.done), whole, "read over");

    if whole == Ok(true) {
        assert_eq!(literal_reading(&input[..taken]), Some(body), "the twin");
    }

    // Any bytes are a body.
    let mut text = Vec::new();
    let mut rest = input;
    for at in super::cuts(input) {
        let piece;
        (piece, rest) = rest.split_at((at / 2).min(rest.len()));
        write_chunk(&mut text, piece);
    }
    write_chunk(&mut text, rest);
    text.extend_from_slice(b"0\r\n\r\n");
    let want = (Ok(true), text.len(), input.to_vec());
    assert_eq!(decode(&[&text], input.len()), want, "written and read");
}

fn write_chunk(out: &mut Vec<u8>, piece: &[u8]) {
    if !piece.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
}

/// The naive twin, for what the decoder took as whole: CR LF ends a line, hexadecimal digits begin one.
fn literal_reading(mut input: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line: String = take_line(&mut input)?
            .iter()
            .map(|&byte| byte as char)
            .collect();
        let digits = line.split([';', ' ', '\t']).next()?;
        match usize::from_str_radix(digits, 16).ok()? {
            0 => break,
            size => {
                body.extend_from_slice(input.get(..size)?);
                input = input.get(size..)?.strip_prefix(b"\r\n")?;
            }
        }
    }
    while !take_line(&mut input)?.is_empty() {}
    input.is_empty().then_some(body)
}

fn take_line(input: &mut &[u8]) -> Option<Vec<u8>> {
    let at = memchr::memmem::find(input, b"\r\n")?;
    let line = input[..at].to_vec();
    *input = &input[at + 2..];
    Some(line)
}
