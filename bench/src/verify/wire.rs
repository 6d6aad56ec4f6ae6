//! What comes over a connection, read in full: answers of polls, events of a stream, frames. Written from the standards
//! and the README, without the server's code; only what is kept between two reads is in a value of its own.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::judge::Form;

/// The object of a message in a poll's answer and in `format=json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Object<'a> {
    #[serde(borrow)]
    pub(super) channel: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
}

impl Object<'_> {
    /// The payload's bytes, and how they were written.
    pub(super) fn payload(&self) -> Option<(Cow<'_, [u8]>, Form)> {
        match (self.data, &self.data_base64) {
            (Some(data), None) if data.get().starts_with('"') => {
                let text: String = serde_json::from_str(data.get()).ok()?;
                Some((Cow::Owned(text.into_bytes()), Form::Text))
            }
            (Some(data), None) => Some((Cow::Borrowed(data.get().as_bytes()), Form::Json)),
            (None, Some(base64)) => {
                let bytes = STANDARD.decode(base64.as_bytes()).ok()?;
                Some((Cow::Owned(bytes), Form::Binary))
            }
            _ => None,
        }
    }
}

/// The body of a poll's answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PollAnswer<'a> {
    #[serde(borrow)]
    pub(super) cursor: Cow<'a, str>,
    pub(super) recovered: bool,
    #[serde(borrow)]
    pub(super) messages: Vec<Object<'a>>,
}

/// A notice of loss: the data of `pushring.gap`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gap<'a> {
    #[serde(borrow)]
    pub(super) channel: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) position: Cow<'a, str>,
}

/// The other text frame of `format=json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GapFrame<'a> {
    #[serde(borrow)]
    pub(super) gap: Gap<'a>,
}

/// One event of a stream (WHATWG HTML, "Interpreting an event stream").
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StreamEvent {
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) data: String,
}

/// Makes events of a stream's text, however it is cut.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    line: Vec<u8>,
    event: StreamEvent,
    has_data: bool,
}

impl EventReader {
    /// Reads the next bytes; `None` if they are no UTF-8 or hold a field that the server never sends.
    pub(super) fn read(
        &mut self,
        text: &[u8],
        on_event: &mut dyn FnMut(&StreamEvent),
    ) -> Option<()> {
        for &byte in text {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            self.on_line(std::str::from_utf8(&line).ok()?, on_event)?;
            self.line = line;
            self.line.clear();
        }
        Some(())
    }

    fn on_line(&mut self, line: &str, on_event: &mut dyn FnMut(&StreamEvent)) -> Option<()> {
        if line.is_empty() {
            if self.has_data {
                on_event(&self.event);
            }
            // The id stays in a browser; here each event has to have its own.
            *self = Self::default();
            return Some(());
        }
        let (field, value) = line.split_once(':')?;
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => {}
            "id" => self.event.id = Some(value.to_owned()),
            "event" => self.event.name = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            "retry" => {
                value.parse::<u32>().ok()?;
            }
            _ => return None,
        }
        Some(())
    }
}

/// The bytes that a raw event stands for, given the kind that was published: binary comes as base64.
pub(super) fn raw_event_payload(data: &str) -> Cow<'_, [u8]> {
    // Whatever was published begins with a mark that has a colon, which base64 has not.
    match super::payload::number_of(data.as_bytes()) {
        Some(_) => Cow::Borrowed(data.as_bytes()),
        None => STANDARD
            .decode(data)
            .map_or(Cow::Borrowed(data.as_bytes()), Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<StreamEvent> {
        let (mut reader, mut seen) = (EventReader::default(), Vec::new());
        for piece in pieces {
            let mut on_event = |event: &StreamEvent| {
                seen.push(StreamEvent {
                    id: event.id.clone(),
                    name: event.name.clone(),
                    data: event.data.clone(),
                });
            };
            reader.read(piece, &mut on_event).unwrap();
        }
        seen
    }

    #[test]
    fn a_stream_gives_the_same_events_however_it_is_cut() {
        let text = b":ok\nretry: 3000\nid: a-1\ndata: x\n\n:\nid: a-2\nevent: e\ndata: \ndata:  y\ndata:\n\n\n";
        let whole = events(&[text]);
        assert_eq!(whole.len(), 2);
        assert_eq!((whole[0].data.as_str(), &whole[0].name), ("x", &None));
        assert_eq!(whole[1].data, "\n y\n");
        assert_eq!(whole[1].id.as_deref(), Some("a-2"));
        for at in 0..text.len() {
            assert_eq!(events(&[&text[..at], &text[at..]]), whole, "split at {at}");
        }
        assert_eq!(events(&text.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn objects_give_the_published_bytes() {
        for (data, payload, form) in [
            (r#""data":{"a" : 1}"#, &b"{\"a\" : 1}"[..], Form::Json),
            (r#""data":"a\nb\u00e9""#, "a\nbé".as_bytes(), Form::Text),
            (r#""data_base64":"AP8=""#, b"\x00\xff", Form::Binary),
        ] {
            let text = format!(r#"{{"channel":"c","id":"k2NNwEB7-1",{data}}}"#);
            let object: Object<'_> = serde_json::from_str(&text).unwrap();
            let (got, got_form) = object.payload().unwrap();
            assert_eq!((&*got, got_form), (payload, form));
        }
        let gap = br#"{"gap":{"channel":"c","position":"k2NNwEB7-1"}}"#;
        let gap: GapFrame<'_> = serde_json::from_slice(gap).unwrap();
        assert_eq!(gap.gap.position, "k2NNwEB7-1");
    }
}
