//! The cheap clients: bytes of one connection in, what they mean out. Pure, no state but [`Reading`].
//!
//! Each decoder takes everything that has arrived and not been consumed, calls `on_event` for each whole unit and
//! returns how many bytes it consumed; the rest comes back in front of the next bytes. They parse by length and check
//! only what a measurement needs: the server's correctness is for its own tests.

pub(crate) mod http;
pub(crate) mod poll;
pub(crate) mod sse;
pub(crate) mod ws;

/// What the next bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The head of an HTTP answer.
    Head,
    /// Frames, or a stream of events that ends with the connection.
    Stream,
    /// A stream of events in chunked transfer coding.
    ChunkedStream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// The server agreed: 101, or the 200 of a stream.
    Opened,
    /// One message, as the subscriber gets it.
    Message(&'a [u8]),
    /// A keep-alive comment.
    KeepAlive,
    /// A ping with its payload, which a pong must repeat (RFC 6455 §5.5.3).
    Ping(&'a [u8]),
    /// A whole answer to a request; its messages come right after it.
    Answer { status: u16, head: &'a [u8] },
    /// The server says that messages are lost.
    Gap,
    /// The server closes the WebSocket; 1005 if it gave no code (RFC 6455 §7.1.5).
    Close(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientError {
    /// The answer to the opening request was not the one that opens.
    Refused(u16),
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` whole, at every two-way split and byte by byte; each must show the same events.
    #[track_caller]
    pub(crate) fn check_splits(
        decode: impl Fn(&mut Reading, &[u8], &mut dyn FnMut(Event<'_>)) -> Result<usize, ClientError>,
        input: &[u8],
        want: &[&str],
    ) {
        let feed = |pieces: &[&[u8]]| {
            let (mut reading, mut rest, mut seen) = (Reading::Head, Vec::new(), Vec::new());
            for piece in pieces {
                rest.extend_from_slice(piece);
                let consumed =
                    decode(&mut reading, &rest, &mut |event| seen.push(describe(event))).unwrap();
                rest.drain(..consumed);
            }
            assert!(rest.is_empty(), "left over: {rest:?}");
            seen
        };
        assert_eq!(feed(&[input]), want, "whole");
        for at in 0..input.len() {
            assert_eq!(feed(&[&input[..at], &input[at..]]), want, "split at {at}");
        }
        assert_eq!(
            feed(&input.chunks(1).collect::<Vec<_>>()),
            want,
            "byte by byte"
        );
    }

    fn describe(event: Event<'_>) -> String {
        match event {
            Event::Opened => "opened".into(),
            Event::Message(payload) => format!("message {}", String::from_utf8_lossy(payload)),
            Event::KeepAlive => "keep-alive".into(),
            Event::Ping(payload) => format!("ping {}", String::from_utf8_lossy(payload)),
            Event::Answer { status, .. } => format!("answer {status}"),
            Event::Gap => "gap".into(),
            Event::Close(code) => format!("close {code}"),
        }
    }
}
