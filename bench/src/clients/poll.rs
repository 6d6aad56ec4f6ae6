//! A client of request and answer: polls, and publishes over HTTP. It reads whole answers and finds stamps in them.

use super::http::{Body, Chunk, decode_chunk, decode_head};
use super::{ClientError, Event, Reading};
use crate::stamp::next_payload;

/// `Reading` stays at [`Reading::Head`]: between two answers there is nothing to remember.
pub(crate) fn decode(
    _reading: &mut Reading,
    input: &[u8],
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<usize, ClientError> {
    let mut consumed = 0;
    let mut joined = Vec::new();
    while let Some(head) = decode_head(&input[consumed..])? {
        let body = &input[consumed + head.head_bytes..];
        let (body, body_bytes) = match head.body {
            Body::Length(length) => match body.get(..length) {
                Some(body) => (body, length),
                None => break,
            },
            Body::Chunked => match join_chunks(body, &mut joined)? {
                Some(body_bytes) => (&joined[..], body_bytes),
                None => break,
            },
            // Such an answer has no end that a keep-alive client could see.
            Body::UntilClose => return Err(ClientError::Malformed),
        };
        let head_end = consumed + head.head_bytes;
        on_event(Event::Answer {
            status: head.status,
            head: &input[consumed..head_end],
        });
        let mut at = 0;
        while let Some((payload, end)) = next_payload(&body[at..]) {
            on_event(Event::Message(payload));
            at += end;
        }
        consumed = head_end + body_bytes;
    }
    Ok(consumed)
}

/// Puts the data of a whole chunked body into `joined` and says how many bytes it took.
fn join_chunks(body: &[u8], joined: &mut Vec<u8>) -> Result<Option<usize>, ClientError> {
    joined.clear();
    let mut at = 0;
    while let Some((chunk, chunk_bytes)) = decode_chunk(&body[at..])? {
        at += chunk_bytes;
        match chunk {
            Chunk::Data(data) => joined.extend_from_slice(data),
            Chunk::Last => return Ok(Some(at)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::check_splits;
    use super::*;

    const PAYLOAD: &str = "pb:0000000000000001:00000002:xxx";

    #[test]
    fn reads_answers_one_after_another() {
        let body = format!(r#"{{"messages":[{{"data":"{PAYLOAD}"}},{{"data":"{PAYLOAD}"}}]}}"#);
        let message = format!("message {PAYLOAD}");
        let with_length = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        check(&with_length, &["answer 200", &message, &message]);
        check("HTTP/1.1 204 No Content\r\n\r\n", &["answer 204"]);
        check(
            &format!("HTTP/1.1 204 No Content\r\n\r\n{with_length}"),
            &["answer 204", "answer 200", &message, &message],
        );
        let (first, second) = body.split_at(30);
        let chunked = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            second.len()
        );
        check(&chunked, &["answer 200", &message, &message]);
    }

    #[test]
    fn an_answer_without_an_end_is_malformed() {
        let input = b"HTTP/1.1 200 OK\r\n\r\nhello";
        assert_eq!(
            decode(&mut { Reading::Head }, input, &mut |_| {}),
            Err(ClientError::Malformed)
        );
    }

    #[track_caller]
    fn check(input: &str, want: &[&str]) {
        check_splits(decode, input.as_bytes(), want);
    }
}
