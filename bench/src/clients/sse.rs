//! A client of Server-Sent Events (WHATWG HTML) that reads only `data:` lines, comments and the notice of a gap.
//!
//! Stamped payloads are one line each, so one `data:` line is one message.

use memchr::{memchr_iter, memrchr};

use super::http::{Body, Chunk, decode_chunk, decode_head};
use super::{ClientError, Event, Reading};

pub(crate) fn decode(
    reading: &mut Reading,
    input: &[u8],
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<usize, ClientError> {
    let mut consumed = 0;
    if *reading == Reading::Head {
        let Some(head) = decode_head(input)? else {
            return Ok(0);
        };
        if head.status != 200 {
            return Err(ClientError::Refused(head.status));
        }
        *reading = if head.body == Body::Chunked {
            Reading::ChunkedStream
        } else {
            Reading::Stream
        };
        consumed = head.head_bytes;
        on_event(Event::Opened);
    }
    let stream = &input[consumed..];
    consumed += match reading {
        Reading::ChunkedStream => decode_chunks(stream, on_event)?,
        _ => decode_lines(stream, on_event),
    };
    Ok(consumed)
}

/// Consumes chunks up to the last one that ends where a line ends, so that no line has to be kept half read.
fn decode_chunks(stream: &[u8], on_event: &mut dyn FnMut(Event<'_>)) -> Result<usize, ClientError> {
    let (mut consumed, mut at) = (0, 0);
    // Only lines that are spread over several chunks are copied together.
    let mut joined = Vec::new();
    while let Some((chunk, chunk_bytes)) = decode_chunk(&stream[at..])? {
        at += chunk_bytes;
        let Chunk::Data(data) = chunk else {
            return Ok(at);
        };
        if joined.is_empty() && data.ends_with(b"\n") {
            decode_lines(data, on_event);
            consumed = at;
            continue;
        }
        joined.extend_from_slice(data);
        if joined.ends_with(b"\n") {
            decode_lines(&joined, on_event);
            joined.clear();
            consumed = at;
        }
    }
    Ok(consumed)
}

/// Reads every whole line of `text` and returns where the last one ends.
fn decode_lines(text: &[u8], on_event: &mut dyn FnMut(Event<'_>)) -> usize {
    let end = memrchr(b'\n', text).map_or(0, |at| at + 1);
    let mut start = 0;
    for at in memchr_iter(b'\n', &text[..end]) {
        let line = &text[start..at];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        start = at + 1;
        if let Some(value) = line.strip_prefix(b"data:") {
            on_event(Event::Message(value.strip_prefix(b" ").unwrap_or(value)));
        } else if line.starts_with(b":") {
            on_event(Event::KeepAlive);
        } else if line == b"event: pushring.gap" {
            on_event(Event::Gap);
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::super::tests::check_splits;
    use super::*;

    const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn reads_messages_and_comments() {
        check(b"", &[]);
        check(
            b": hello\nretry: 3000\nid: a-1\ndata: one\n\n",
            &["keep-alive", "message one"],
        );
        check(b"data:two\r\n\r\n:\n", &["message two", "keep-alive"]);
        check(b"event: pushring.gap\ndata: {}\n\n", &["gap", "message {}"]);
    }

    #[test]
    fn lines_may_be_spread_over_chunks() {
        let stream = [
            CHUNKED,
            b"4\r\ndata\r\n6\r\n: one\n\r\n1\r\n\n\r\n2\r\n:\n\r\n",
        ]
        .concat();
        check_splits(decode, &stream, &["opened", "message one", "keep-alive"]);
    }

    #[test]
    fn anything_but_200_is_a_refusal() {
        let input = b"HTTP/1.1 429 Too Many Requests\r\n\r\n";
        assert_eq!(
            decode(&mut { Reading::Head }, input, &mut |_| {}),
            Err(ClientError::Refused(429))
        );
    }

    /// The same text close-delimited and as one chunk.
    #[track_caller]
    fn check(text: &[u8], want: &[&str]) {
        let want = [&["opened"], want].concat();
        check_splits(decode, &[PLAIN, text].concat(), &want);
        if !text.is_empty() {
            let chunk = [format!("{:x}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
            check_splits(decode, &[CHUNKED, &chunk].concat(), &want);
        }
    }
}
