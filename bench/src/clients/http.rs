//! HTTP answers (RFC 9112): head and body length, and the values of single headers.

use memchr::memmem;

use super::ClientError;

/// Where an answer's parts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) head_bytes: usize,
    pub(crate) body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Length(usize),
    Chunked,
    /// The body ends with the connection (RFC 9112 §6.3, last item).
    UntilClose,
}

/// Reads the head at the front of `input`; `Ok(None)` means "not enough bytes yet".
pub(crate) fn decode_head(input: &[u8]) -> Result<Option<Head>, ClientError> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(input) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ClientError::Malformed),
    };
    let status = response.code.ok_or(ClientError::Malformed)?;
    let mut body = Body::UntilClose;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::Chunked;
        } else if header.name.eq_ignore_ascii_case("content-length") && body != Body::Chunked {
            let length = std::str::from_utf8(header.value)
                .ok()
                .and_then(|value| value.trim().parse().ok());
            body = Body::Length(length.ok_or(ClientError::Malformed)?);
        }
    }
    // RFC 9112 §6.3, item 1: these have no body whatever the head says.
    if status < 200 || status == 204 || status == 304 {
        body = Body::Length(0);
    }
    Ok(Some(Head {
        status,
        head_bytes,
        body,
    }))
}

/// The value of header `name` in a head that [`decode_head`] accepted.
pub(crate) fn header_value<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).ok()?;
    let header = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok()
}

/// One piece of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk<'a> {
    Data(&'a [u8]),
    Last,
}

/// Reads one whole chunk (RFC 9112 §7.1) and how many bytes it took; `Ok(None)` means "not enough bytes yet".
/// Trailers are skipped unread.
pub(crate) fn decode_chunk(input: &[u8]) -> Result<Option<(Chunk<'_>, usize)>, ClientError> {
    let (line_bytes, data_bytes) = match httparse::parse_chunk_size(input) {
        Ok(httparse::Status::Complete((line_bytes, data_bytes))) => {
            (line_bytes, data_bytes as usize)
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ClientError::Malformed),
    };
    if data_bytes == 0 {
        // The empty line after the trailers; without trailers it is the rest of "0\r\n\r\n".
        let end = memmem::find(&input[line_bytes - 2..], b"\r\n\r\n");
        return Ok(end.map(|at| (Chunk::Last, line_bytes - 2 + at + 4)));
    }
    let end = line_bytes + data_bytes;
    Ok((input.len() >= end + 2).then(|| (Chunk::Data(&input[line_bytes..end]), end + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status_and_length() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
            200,
            Body::Length(12),
        );
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, Body::Length(0));
        check(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            304,
            Body::Length(0),
        );
        check(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            101,
            Body::Length(0),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            200,
            Body::Chunked,
        );
        check("HTTP/1.0 200 OK\r\n\r\n", 200, Body::UntilClose);
    }

    #[test]
    fn finds_a_header_in_any_case() {
        let head = b"HTTP/1.1 200 OK\r\nPushring-Cursor: a-1\r\nETag: 7\r\n\r\n";
        assert_eq!(header_value(head, "pushring-cursor"), Some("a-1"));
        assert_eq!(header_value(head, "Etag"), Some("7"));
        assert_eq!(header_value(head, "Last-Modified"), None);
    }

    #[test]
    fn a_chunk_comes_whole_or_not_yet() {
        for (input, want) in [
            (&b"5\r\nhello\r\n"[..], Chunk::Data(b"hello")),
            (b"0\r\n\r\n", Chunk::Last),
        ] {
            assert_eq!(decode_chunk(input), Ok(Some((want, input.len()))));
            for len in 0..input.len() {
                assert_eq!(decode_chunk(&input[..len]), Ok(None), "prefix of {len}");
            }
        }
        assert_eq!(decode_chunk(b"zz\r\n"), Err(ClientError::Malformed));
    }

    #[track_caller]
    fn check(input: &str, status: u16, body: Body) {
        let want = Head {
            status,
            head_bytes: input.len(),
            body,
        };
        assert_eq!(decode_head(input.as_bytes()), Ok(Some(want)));
        for len in 0..input.len() {
            assert_eq!(
                decode_head(&input.as_bytes()[..len]),
                Ok(None),
                "prefix of {len}"
            );
        }
    }
}
