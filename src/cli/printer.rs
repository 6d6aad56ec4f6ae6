//! What `pushring sub` writes: a line for each message on stdout, a line for each gap on stderr.

use std::io::{self, Write};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::cursor::CursorTracker;

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printed {
    More,
    /// The wanted number of messages is reached.
    Enough,
}

/// Knows what was printed, so that nothing is printed twice and a reconnect can say from where.
pub struct Printer<O, E> {
    out: O,
    err: E,
    tracker: CursorTracker,
    json: bool,
    left: Option<u64>,
}

/// One object in the format `json`: a message, or a gap.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    gap: Option<&'a RawValue>,
    channel: Option<String>,
    id: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

#[derive(Deserialize)]
struct Gap {
    channel: String,
    position: String,
}

impl<O: Write, E: Write> Printer<O, E> {
    /// `json`: whole objects instead of payloads. `count`: how many messages are wanted.
    pub fn new(out: O, err: E, channels: &[String], json: bool, count: Option<u64>) -> Self {
        Self {
            out,
            err,
            tracker: CursorTracker::new(channels),
            json,
            left: count,
        }
    }

    /// Prints one object of the format `json`, unless it is a repeat.
    pub fn print(&mut self, object: &str) -> io::Result<Printed> {
        let Ok(wire) = serde_json::from_str::<Wire<'_>>(object) else {
            self.print_notice(&format!("not a message: {}", one_line(object)));
            return Ok(Printed::More);
        };
        if let Some(gap) = wire.gap {
            self.print_gap(Some(gap.get()));
            return Ok(Printed::More);
        }
        if let (Some(channel), Some(id)) = (&wire.channel, &wire.id)
            && !self.tracker.observe(channel, id)
        {
            return Ok(Printed::More);
        }
        let line = if self.json {
            one_line(object)
        } else {
            payload(&wire)
        };
        writeln!(self.out, "{line}")?;
        self.out.flush()?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(if self.left == Some(0) {
            Printed::Enough
        } else {
            Printed::More
        })
    }

    /// Prints a gap, unless it is a repeat. Its position is the last one that is lost: a reconnect goes on behind it.
    pub fn print_gap(&mut self, gap: Option<&str>) {
        let notice = match gap.and_then(|gap| serde_json::from_str::<Gap>(gap).ok()) {
            Some(Gap { channel, position }) if !self.tracker.observe(&channel, &position) => return,
            Some(Gap { channel, position }) => {
                format!("gap: messages of {channel} up to {position} are lost")
            }
            None => "gap: messages before the next one are lost".to_owned(),
        };
        self.print_notice(&notice);
    }

    /// Something beside the messages. That nobody reads stderr is no reason to end.
    pub fn print_notice(&mut self, notice: &str) {
        let _ = writeln!(self.err, "pushring: {notice}");
    }

    pub fn cursor(&self) -> Option<String> {
        self.tracker.cursor()
    }

    /// See [`CursorTracker::replace`].
    pub fn replace_cursor(&mut self, cursor: &str) {
        self.tracker.replace(cursor);
    }
}

/// The payload: a JSON string as its text, other JSON as it is, binary as base64.
fn payload(wire: &Wire<'_>) -> String {
    match (wire.data, &wire.data_base64) {
        (Some(data), _) => {
            serde_json::from_str::<String>(data.get()).unwrap_or_else(|_| one_line(data.get()))
        }
        (None, Some(base64)) => base64.clone(),
        // Every message has one of the two; `"data":null` is read as none.
        (None, None) => "null".to_owned(),
    }
}

/// Line ends in JSON stand between tokens only, so that a space may take their place.
fn one_line(json: &str) -> String {
    json.replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_a_line() {
        check(
            false,
            &[r#"{"channel":"a","id":"k-1","data":{"x": 1.50}}"#],
            "{\"x\": 1.50}\n",
            "",
        );
        check(
            false,
            &["{\"channel\":\"a\",\"id\":\"k-1\",\"data\":[1,\r\n2]}"],
            "[1,  2]\n",
            "",
        );
        check(
            false,
            &[r#"{"channel":"a","id":"k-1","data":"h\u00e9 \"x\""}"#],
            "hé \"x\"\n",
            "",
        );
        check(
            false,
            &[r#"{"channel":"a","id":"k-1","data_base64":"/w=="}"#],
            "/w==\n",
            "",
        );
        check(
            false,
            &[r#"{"channel":"a","id":"k-1","data":null}"#],
            "null\n",
            "",
        );
        check(
            true,
            &["{\"channel\":\"a\",\n\"id\":\"k-1\",\"data\":1}"],
            "{\"channel\":\"a\", \"id\":\"k-1\",\"data\":1}\n",
            "",
        );
    }

    #[test]
    fn a_repeat_is_not_printed() {
        let one = r#"{"channel":"a","id":"k-1","data":1}"#;
        let two = r#"{"channel":"a","id":"k-2","data":2}"#;
        check(false, &[one, two, one, two], "1\n2\n", "");
    }

    #[test]
    fn gaps_and_garbage_go_to_stderr() {
        let gap = r#"{"gap":{"channel":"a","position":"k-8"}}"#;
        let after = r#"{"channel":"a","id":"k-9","data":9}"#;
        check(
            false,
            &[gap, after, gap],
            "9\n",
            "pushring: gap: messages of a up to k-8 are lost\n",
        );
        check(false, &["hello"], "", "pushring: not a message: hello\n");
    }

    #[test]
    fn a_gap_is_not_asked_for_again() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, &["a".to_owned()], false, None);
        printer.print_gap(Some(r#"{"channel":"a","position":"k-8"}"#));
        assert_eq!(printer.cursor().as_deref(), Some("k-8"));
        printer.print_gap(Some(r#"{"channel":"a","position":"m-0"}"#));
        assert_eq!(printer.cursor().as_deref(), Some("m-0"));
    }

    #[test]
    fn the_count_ends_it() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, &["a".to_owned()], false, Some(2));
        for (id, want) in [
            ("k-1", Printed::More),
            ("k-1", Printed::More),
            ("k-2", Printed::Enough),
        ] {
            let object = format!(r#"{{"channel":"a","id":"{id}","data":0}}"#);
            assert_eq!(printer.print(&object).unwrap(), want);
        }
        assert_eq!(printer.cursor().as_deref(), Some("k-2"));
    }

    #[track_caller]
    fn check(json: bool, objects: &[&str], want_out: &str, want_err: &str) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, &["a".to_owned()], json, None);
        for object in objects {
            assert_eq!(printer.print(object).unwrap(), Printed::More);
        }
        assert_eq!(String::from_utf8(out).unwrap(), want_out);
        assert_eq!(String::from_utf8(err).unwrap(), want_err);
    }
}
