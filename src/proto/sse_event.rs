//! Server-Sent Events: the lines of a stream (WHATWG HTML §9.2). Chunked transfer coding around them is HTTP's
//! business.
//!
//! A block is lines up to an empty one: the id line, which is a subscriber's own, and the rest, which all
//! subscribers of a channel share.

use memchr::memchr2;

/// A comment line alone: no empty line follows, since widely used clients turn a block of nothing but comments
/// into an empty message.
pub const KEEP_ALIVE: &[u8] = b":\n";

/// The event type that tells of lost messages.
pub const GAP_EVENT: &str = "pushring.gap";

/// Longest event name in bytes.
pub const EVENT_NAME_BYTES_MAX: usize = 128;

/// Whether a message may have this event name: one line, no NUL, neither empty nor too long.
pub fn event_name_is_valid(name: &str) -> bool {
    (1..=EVENT_NAME_BYTES_MAX).contains(&name.len()) && is_one_line(name)
}

/// Whether a publisher may use it: names that begin with `pushring.` are the server's own, nobody may fake a notice of
/// loss.
pub fn event_name_is_free(name: &str) -> bool {
    event_name_is_valid(name) && !name.starts_with("pushring.")
}

/// The first bytes of a stream: a comment, so that a browser's `open` fires at once, and the delay before a
/// reconnect. They begin the first event's block; no empty line ends them.
pub fn write_opening(out: &mut Vec<u8>, retry_ms: u64) {
    out.extend_from_slice(b":ok\nretry: ");
    out.extend_from_slice(retry_ms.to_string().as_bytes());
    out.push(b'\n');
}

/// One message: [`write_id_line`] and [`write_event_body`].
pub fn write_event(out: &mut Vec<u8>, id: Option<&str>, event: Option<&str>, data: &[u8]) {
    if let Some(id) = id {
        write_id_line(out, id);
    }
    write_event_body(out, event, data);
}

/// The line that the client repeats as `Last-Event-ID`.
pub fn write_id_line(out: &mut Vec<u8>, id: &str) {
    write_field(out, b"id: ", id);
}

/// The rest of the block with the empty line that ends it. `data` is UTF-8; CR, LF and CRLF end a line of it
/// and reach the client as LF. A line end at the end of `data` gives an empty last line, so it is not lost.
pub fn write_event_body(out: &mut Vec<u8>, event: Option<&str>, data: &[u8]) {
    if let Some(event) = event {
        write_field(out, b"event: ", event);
    }
    let mut rest = data;
    loop {
        let line_end = memchr2(b'\r', b'\n', rest);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest[..line_end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(line_end) = line_end else {
            break;
        };
        let line_end_bytes = if rest[line_end..].starts_with(b"\r\n") {
            2
        } else {
            1
        };
        rest = &rest[line_end + line_end_bytes..];
    }
    out.push(b'\n');
}

/// Tells that messages are lost; `json` is [`json::write_gap`](super::json::write_gap).
pub fn write_gap(out: &mut Vec<u8>, id: Option<&str>, json: &[u8]) {
    write_event(out, id, Some(GAP_EVENT), json);
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &str) {
    debug_assert!(is_one_line(value), "{value:?}");
    out.extend_from_slice(name);
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// CR or LF would begin a field of the value's own making; a client ignores an id with NUL.
fn is_one_line(value: &str) -> bool {
    !value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::json;

    /// What an `EventSource` hands to its page.
    #[derive(Debug, PartialEq, Eq)]
    struct Dispatched {
        event: String,
        data: String,
        id: String,
    }

    fn dispatched(event: &str, data: &str, id: &str) -> Dispatched {
        Dispatched {
            event: event.to_owned(),
            data: data.to_owned(),
            id: id.to_owned(),
        }
    }

    /// §9.2.6 "Interpreting an event stream" to the letter, byte by byte.
    #[derive(Default)]
    struct Client {
        line: Vec<u8>,
        is_after_cr: bool,
        data: String,
        event_type: String,
        last_event_id: String,
        retry_ms: Option<u64>,
        dispatched: Vec<Dispatched>,
    }

    impl Client {
        fn read(&mut self, chunk: &[u8]) {
            for &byte in chunk {
                let is_second_of_crlf = byte == b'\n' && self.is_after_cr;
                self.is_after_cr = byte == b'\r';
                match byte {
                    _ if is_second_of_crlf => {}
                    b'\r' | b'\n' => {
                        let line = String::from_utf8(std::mem::take(&mut self.line))
                            .expect("lines are UTF-8");
                        self.process_line(&line);
                    }
                    _ => self.line.push(byte),
                }
            }
        }

        fn process_line(&mut self, line: &str) {
            if line.is_empty() {
                return self.dispatch();
            }
            if line.starts_with(':') {
                return;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => self.event_type = value.to_owned(),
                "data" => {
                    self.data.push_str(value);
                    self.data.push('\n');
                }
                "id" if !value.contains('\0') => self.last_event_id = value.to_owned(),
                "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                    self.retry_ms = value.parse().ok()
                }
                _ => {}
            }
        }

        fn dispatch(&mut self) {
            let data = std::mem::take(&mut self.data);
            let event_type = std::mem::take(&mut self.event_type);
            if data.is_empty() {
                return;
            }
            let event = if event_type.is_empty() {
                "message"
            } else {
                &event_type
            };
            let data = data.strip_suffix('\n').unwrap_or(&data);
            self.dispatched
                .push(dispatched(event, data, &self.last_event_id));
        }
    }

    /// What a client sees of a payload: every line end is LF.
    fn normalised(data: &str) -> String {
        data.replace("\r\n", "\n").replace('\r', "\n")
    }

    fn check(id: Option<&str>, event: Option<&str>, data: &str) {
        let mut out = Vec::new();
        write_event(&mut out, id, event, data.as_bytes());
        let expected = [dispatched(
            event.unwrap_or("message"),
            &normalised(data),
            id.unwrap_or(""),
        )];
        for split in 0..=out.len() {
            let mut client = Client::default();
            client.read(&out[..split]);
            assert!(
                split == out.len() || client.dispatched.is_empty(),
                "{data:?} ends before its block"
            );
            client.read(&out[split..]);
            assert_eq!(client.dispatched, expected, "{data:?} split at {split}");
        }
    }

    #[test]
    fn payloads_reach_the_client_line_by_line() {
        for data in [
            "",
            "a",
            " a",
            "  ",
            "a ",
            ":",
            "data: x",
            "id: 7",
            "é€😀",
            "\u{FEFF}",
            "\0",
            "\u{2028}",
            "\u{85}",
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            "\r\r",
            "\n\r",
            "\r\n\r\n",
            "a\n",
            "a\r",
            "a\r\n",
            "\na",
            "\r\na",
            "a\nb",
            "a\rb",
            "a\r\nb",
            "a\n\rb",
            "a\n\nb",
            "a\r\n\nb",
            "a\r\r\nb",
            "\n\nevent: x\n\n",
        ] {
            for event in [None, Some("created"), Some(" spaced"), Some("a: b")] {
                for id in [None, Some("k3Qz9aXb-1043"), Some("k3-1,k4-2")] {
                    check(id, event, data);
                }
            }
        }
    }

    #[test]
    fn random_payloads_in_random_chunks_come_back() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..500 {
            let mut out = Vec::new();
            let mut expected = Vec::new();
            write_opening(&mut out, 2500);
            for index in 0..random.usize(0..6) {
                let choices = [
                    "\r",
                    "\n",
                    "\r\n",
                    ":",
                    " ",
                    "a",
                    "data: ",
                    "é",
                    "{\"b\":1}",
                ];
                let data: String = (0..random.usize(0..20))
                    .filter_map(|_| random.choice(choices.iter().copied()))
                    .collect();
                let id = format!("k3-{index}");
                write_event(&mut out, Some(&id), Some("e"), data.as_bytes());
                expected.push(dispatched("e", &normalised(&data), &id));
                if random.bool() {
                    out.extend_from_slice(KEEP_ALIVE);
                }
            }
            let mut client = Client::default();
            let mut rest = &out[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(random.usize(1..=12).min(rest.len()));
                client.read(chunk);
                rest = after;
            }
            assert_eq!(client.dispatched, expected);
            assert_eq!(client.retry_ms, Some(2500));
        }
    }

    #[test]
    fn the_wire_form_is_as_documented() {
        let mut out = Vec::new();
        write_opening(&mut out, 3000);
        write_event(&mut out, Some("k3-7"), Some("created"), b"a\r\nb\n");
        write_event(&mut out, None, None, b"");
        write_gap(&mut out, Some("k3-9"), b"{}");
        out.extend_from_slice(KEEP_ALIVE);
        let expected = ":ok\nretry: 3000\nid: k3-7\nevent: created\ndata: a\ndata: b\ndata: \n\ndata: \n\n\
                        id: k3-9\nevent: pushring.gap\ndata: {}\n\n:\n";
        assert_eq!(str::from_utf8(&out), Ok(expected));
    }

    #[test]
    fn pretty_printed_json_is_still_json_after_the_stream() {
        for payload in [
            "{\n  \"a\": [\n    1\n  ]\n}\n",
            "{\r\n\"a\":\r\n[1]}",
            "{\r\"a\"\r:[1]\r}",
        ] {
            let mut object = Vec::new();
            json::write_message(
                &mut object,
                "news",
                "k3-1",
                None,
                crate::proto::payload::PayloadKind::Json,
                payload.as_bytes(),
            );
            for data in [payload.as_bytes(), &object] {
                let mut out = Vec::new();
                write_event(&mut out, Some("k3-1"), None, data);
                let mut client = Client::default();
                client.read(&out);
                let received: serde_json::Value =
                    serde_json::from_str(&client.dispatched[0].data).unwrap();
                assert_eq!(
                    received,
                    serde_json::from_slice::<serde_json::Value>(data).unwrap()
                );
            }
        }
    }

    #[test]
    fn neither_opening_nor_keep_alive_dispatches_anything() {
        let mut out = Vec::new();
        write_opening(&mut out, 0);
        out.extend_from_slice(KEEP_ALIVE);
        assert!(!String::from_utf8(out.clone()).unwrap().contains("\n\n"));
        let mut client = Client::default();
        client.read(&out);
        assert_eq!((client.dispatched.len(), client.retry_ms), (0, Some(0)));
    }

    #[test]
    fn an_event_name_is_one_short_line() {
        for byte in 0..128_u8 {
            let name = format!("a{}b", char::from(byte));
            assert_eq!(
                event_name_is_valid(&name),
                !matches!(byte, 0 | b'\r' | b'\n'),
                "{byte}"
            );
        }
        assert!(!event_name_is_valid(""));
        assert!(event_name_is_valid(&"x".repeat(128)));
        assert!(!event_name_is_valid(&"x".repeat(129)));
        assert!(event_name_is_valid("größe"));
    }
}
