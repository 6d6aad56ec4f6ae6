//! Payloads and their wire forms: JSON that passes is JSON to its readers, and text comes back out of a poll's answer
//! and out of an event stream.

use pushring::proto::json::{self, ClientPublish};
use pushring::proto::payload::PayloadKind;
use pushring::proto::sse_event;
use serde_json::Value;

pub(crate) fn check(input: &[u8]) {
    if json::is_valid(input) {
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(input).is_ok());
        // Numbers beyond a double are JSON and no `Value`.
        if let Ok(value) = serde_json::from_slice::<Value>(input) {
            let message = message(PayloadKind::Json, input);
            assert_eq!(message["data"], value);
        }
    }
    let message = message(PayloadKind::Binary, input);
    assert!(message["data_base64"].is_string());
    let _ = ClientPublish::decode(input);

    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    assert_eq!(self::message(PayloadKind::Text, input)["data"], text);
    let mut stream = Vec::new();
    sse_event::write_event(&mut stream, Some("k3Qz9aXb-1"), Some("e"), input);
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    assert_eq!(read_event(&stream), lines);
}

fn message(kind: PayloadKind, payload: &[u8]) -> Value {
    let mut out = Vec::new();
    json::write_message(&mut out, "c", "k3Qz9aXb-1", Some("e"), kind, payload);
    serde_json::from_slice(&out).expect("a message is JSON")
}

/// The data of a stream's one event (WHATWG HTML §9.2.6).
fn read_event(stream: &[u8]) -> String {
    let text = str::from_utf8(stream).expect("UTF-8");
    assert!(!text.contains('\r'));
    let (event, rest) = text.split_once("\n\n").expect("an empty line");
    assert_eq!(rest, "", "one event");
    let mut lines = event.split('\n');
    assert_eq!(lines.next(), Some("id: k3Qz9aXb-1"));
    assert_eq!(lines.next(), Some("event: e"));
    let data: Vec<_> = lines
        .map(|line| line.strip_prefix("data: ").expect("data"))
        .collect();
    data.join("\n")
}
