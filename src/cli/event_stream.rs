//! Server-Sent Events, the client's side: bytes → events (WHATWG HTML §9.2.6, "Interpreting an event stream").

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    Event(Event),
    /// `retry:`, in milliseconds.
    Retry(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `message` where the stream has no `event:`.
    pub name: String,
    pub data: String,
    /// The last id seen so far, in this event or before.
    pub last_id: Option<String>,
}

/// A line or an event beyond [`EVENT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Larger than any message a server can be set to carry (64 MiB), JSON escapes included.
pub const EVENT_BYTES_MAX: usize = 512 << 20;

/// Keeps what is incomplete between two reads.
#[derive(Debug, Default)]
pub struct EventStreamParser {
    line: Vec<u8>,
    /// The last byte was a CR: an LF right after it belongs to the same line end.
    after_cr: bool,
    /// A byte order mark may stand before the first line only.
    after_first_line: bool,
    name: String,
    data: String,
    last_id: Option<String>,
}

impl EventStreamParser {
    /// Takes the next bytes and gives back what became complete. After an error the stream is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<StreamItem>, TooLong> {
        let mut items = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if self.after_cr => {}
                b'\n' | b'\r' => self.end_line(&mut items),
                _ => self.line.push(byte),
            }
            self.after_cr = byte == b'\r';
            if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(items)
    }

    fn end_line(&mut self, items: &mut Vec<StreamItem>) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = if self.after_first_line {
            &line
        } else {
            line.strip_prefix('\u{feff}').unwrap_or(&line)
        };
        self.after_first_line = true;
        if line.is_empty() {
            return self.end_event(items);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.last_id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                items.extend(value.parse().ok().map(StreamItem::Retry));
            }
            // A comment has an empty field name; unknown fields are ignored.
            _ => {}
        }
    }

    fn end_event(&mut self, items: &mut Vec<StreamItem>) {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        // A block without data is no event, but its id counts.
        if data.pop().is_some() {
            let name = if name.is_empty() {
                "message".to_owned()
            } else {
                name
            };
            items.push(StreamItem::Event(Event {
                name,
                data,
                last_id: self.last_id.clone(),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        check("data: a\n\n", &[event("message", "a", None)]);
        check(
            "data:a\ndata: b\ndata\n\n",
            &[event("message", "a\nb\n", None)],
        );
        check(
            "id: k-1\nevent: created\ndata: {}\n\n",
            &[event("created", "{}", Some("k-1"))],
        );
        check(
            "id: 1\ndata: a\n\ndata: b\n\n",
            &[
                event("message", "a", Some("1")),
                event("message", "b", Some("1")),
            ],
        );
        check("data:  a\n\n", &[event("message", " a", None)]);
        check("data: a:b\n\n", &[event("message", "a:b", None)]);
    }

    #[test]
    fn all_line_ends_count() {
        check(
            "data: a\r\n\r\ndata: b\r\rdata: c\n\n",
            &["a", "b", "c"].map(|data| event("message", data, None)),
        );
        check(
            "data: a\r\ndata: b\rdata: c\n\n",
            &[event("message", "a\nb\nc", None)],
        );
    }

    #[test]
    fn comments_and_blocks_without_data_are_no_events() {
        check(
            ": open\nretry: 3000\nid: 1\ndata: a\n\n",
            &[StreamItem::Retry(3_000), event("message", "a", Some("1"))],
        );
        check(
            ":\n:\n\n\nevent: x\n\ndata: a\n\n",
            &[event("message", "a", None)],
        );
        check("id: 7\n\ndata: a\n\n", &[event("message", "a", Some("7"))]);
        check(
            "unknown: x\nretry: soon\nretry:\nid: a\0b\ndata: é\n\n",
            &[event("message", "é", None)],
        );
        check("\u{feff}data: a\n\n", &[event("message", "a", None)]);
        check("data: not over\n", &[]);
    }

    fn event(name: &str, data: &str, last_id: Option<&str>) -> StreamItem {
        StreamItem::Event(Event {
            name: name.to_owned(),
            data: data.to_owned(),
            last_id: last_id.map(str::to_owned),
        })
    }

    /// Whole, at every two-way split, and byte by byte.
    #[track_caller]
    fn check(stream: &str, want: &[StreamItem]) {
        let parse = |parts: &[&[u8]]| -> Vec<StreamItem> {
            let mut parser = EventStreamParser::default();
            parts
                .iter()
                .flat_map(|part| parser.feed(part).unwrap())
                .collect()
        };
        let bytes = stream.as_bytes();
        assert_eq!(parse(&[bytes]), want, "whole");
        for at in 0..=bytes.len() {
            assert_eq!(parse(&[&bytes[..at], &bytes[at..]]), want, "split at {at}");
        }
        assert_eq!(
            parse(&bytes.chunks(1).collect::<Vec<_>>()),
            want,
            "byte by byte"
        );
    }
}
