//! Accepts, answers the handshake with a constant, and holds: nothing waits on a held socket, neither an epoll item nor
//! a request of a ring. A publish goes to all of them in a bare loop of `send`.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use memchr::memmem;

use super::{ACCEPTED, SWITCHING};

/// Takes one connection after the other: a subscriber is held until the process ends, a publisher is served until it
/// goes. So a publish finds all that came before it.
pub(super) fn serve(listener: &TcpListener) -> io::Result<()> {
    let mut held: Vec<TcpStream> = Vec::new();
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut input = Vec::new();
        // A client that leaves before its request is whole is none of ours.
        let Ok(Some(request)) = next_request(&mut stream, &mut input) else {
            continue;
        };
        if request.is_publish {
            let _ = publish_all(&mut stream, &mut input, request, &held);
        } else if stream.write_all(SWITCHING).is_ok() {
            held.push(stream);
        }
    }
}

fn publish_all(
    publisher: &mut TcpStream,
    input: &mut Vec<u8>,
    first: Request,
    held: &[TcpStream],
) -> io::Result<()> {
    let mut next = Some(first);
    while let Some(request) = next {
        let frame = text_frame(&request.body);
        publisher.write_all(ACCEPTED)?;
        for mut subscriber in held {
            // What a subscriber that has left does not get shows in the clients' count.
            let _ = subscriber.write(&frame);
        }
        next = next_request(publisher, input)?;
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) is_publish: bool,
    pub(super) body: Vec<u8>,
}

/// `None` when the peer has no more requests. What follows the request stays in `input`.
fn next_request(stream: &mut impl Read, input: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        if let Some((request, consumed)) = decode(input) {
            input.drain(..consumed);
            return Ok(Some(request));
        }
        let mut received = [0; 16 * 1024];
        match stream.read(&mut received)? {
            0 => return Ok(None),
            length => input.extend_from_slice(&received[..length]),
        }
    }
}

/// A whole request at the front of `input`, and its length.
pub(super) fn decode(input: &[u8]) -> Option<(Request, usize)> {
    let head_bytes = memmem::find(input, b"\r\n\r\n")? + 4;
    let body = input[head_bytes..].get(..body_bytes(&input[..head_bytes]))?;
    let request = Request {
        is_publish: input.starts_with(b"POST "),
        body: body.to_vec(),
    };
    Some((request, head_bytes + body.len()))
}

fn body_bytes(head: &[u8]) -> usize {
    let name = b"Content-Length: ";
    memmem::find(head, name).map_or(0, |at| {
        head[at + name.len()..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
    })
}

/// An unmasked text frame (RFC 6455 §5.2) of at most 64 KiB.
pub(super) fn text_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(length),
        _ => {
            frame.push(126);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_whole_and_one_by_one() {
        let get = "GET /ws/a HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        let post = "POST /pub/a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
        for (input, want) in [
            (get, Some((false, "", get.len()))),
            (post, Some((true, "hello", post.len()))),
            (&format!("{post}{get}"), Some((true, "hello", post.len()))),
            (&post[..post.len() - 1], None),
            ("", None),
        ] {
            let got = decode(input.as_bytes());
            let want = want.map(|(is_publish, body, consumed): (_, &str, _)| {
                let body = body.into();
                (Request { is_publish, body }, consumed)
            });
            assert_eq!(got, want, "{input:?}");
        }
    }

    #[test]
    fn frames_have_both_lengths() {
        for (length, head) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (128, &[0x81, 126, 0, 128]),
        ] {
            let frame = text_frame(&vec![b'x'; length]);
            assert!(frame.starts_with(head) && frame.len() == head.len() + length);
        }
    }
}
