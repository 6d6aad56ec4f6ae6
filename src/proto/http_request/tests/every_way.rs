//! The one way in which all tables are decoded, and the reader of the table of refusals.

use super::super::*;
use super::LIMITS;

/// Whatever the cut, the answer is that of the whole.
#[track_caller]
pub(super) fn decode_every_way(request: &[u8]) -> Result<RequestHead<'_>, HeadError> {
    let whole = decode_head(request, &mut HeadProgress::default(), &LIMITS);
    let mut bytewise = HeadProgress::default();
    let mut is_decided = false;
    for len in 0..=request.len() {
        let prefix = &request[..len];
        let mut fresh = HeadProgress::default();
        let at_once = decode_head(prefix, &mut fresh, &LIMITS);
        assert!(
            at_once == Ok(None) || at_once == whole,
            "prefix of {len}: {at_once:?} but {whole:?}"
        );
        if at_once == Ok(None) {
            assert_eq!(
                decode_head(request, &mut fresh, &LIMITS),
                whole,
                "split at {len}"
            );
        }
        if !is_decided {
            assert_eq!(
                decode_head(prefix, &mut bytewise, &LIMITS),
                at_once,
                "byte by byte up to {len}"
            );
            is_decided = at_once != Ok(None);
        }
        assert!(!is_decided || at_once == whole, "undecided again at {len}");
    }
    let pipelined = [request, b"GET / HTTP/1.1\r\n\n"].concat();
    if let Ok(Some((_, head_bytes))) = whole {
        let next = decode_head(&pipelined, &mut HeadProgress::default(), &LIMITS);
        assert_eq!(next, whole, "with a next request behind it");
        assert_eq!(head_bytes, request.len());
        assert_eq!(
            bytewise,
            HeadProgress::default(),
            "ready for the next request"
        );
    }
    match whole {
        Ok(Some((head, _))) => Ok(head),
        Ok(None) => panic!("undecided: {}", request.escape_ascii()),
        Err(error) => Err(error),
    }
}

/// Line of the table, status, code, request.
pub(super) fn refused() -> impl Iterator<Item = (&'static str, u16, &'static str, Vec<u8>)> {
    let lines = include_str!("../refused.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let mut columns = line.splitn(3, "  ");
        let (status, code) = columns
            .next()
            .and_then(|column| column.split_once(' '))
            .expect(line);
        let request = columns.nth(1).expect(line);
        (line, status.parse().expect(line), code, expand(request))
    })
}

pub(super) fn expand(text: &str) -> Vec<u8> {
    let text = text
        .replace("{GET}", "GET / HTTP/1.1\\r\\nHost: a\\r\\n")
        .replace("{POST}", "POST / HTTP/1.1\\r\\nHost: a\\r\\n")
        .replace("{10}", "POST / HTTP/1.0\\r\\nHost: a\\r\\n")
        .replace("{END}", "\\r\\n\\r\\n");
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(
            match (byte, if byte == b'\\' { rest.next() } else { None }) {
                (b'\\', Some(b'r')) => b'\r',
                (b'\\', Some(b'n')) => b'\n',
                (b'\\', Some(b't')) => b'\t',
                (b'\\', Some(b'x')) => {
                    let mut digit = || {
                        rest.next()
                            .and_then(|byte| (byte as char).to_digit(16))
                            .expect(&text) as u8
                    };
                    digit() << 4 | digit()
                }
                (b'\\', other) => other.expect(&text),
                (byte, _) => byte,
            },
        );
    }
    bytes
}
