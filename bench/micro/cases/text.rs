//! What a message costs to check and to encode: JSON, events, numbers.

use std::fmt::Write;
use std::hint::black_box;

use pushring::proto::payload::PayloadKind;
use pushring::proto::{decimal, json, sse_event};
use serde_json::Value;

use super::Group;
use crate::harness::Case;

pub(crate) const GROUP: Group = Group {
    name: "text",
    cases,
    agree,
};

const ID: &str = "k3Qz9aXb-1043";

fn cases() -> Vec<Case> {
    let one_line = format!("{{\"text\":\"{}\"}}", "x".repeat(128 - 11));
    let lines = "{\n  \"name\": \"a\"\n}\n".repeat(8);
    let prose = "A text of words, \"quoted\" now and then.\n".repeat(26);
    vec![
        event_case("event stream, one line of 128 B", one_line.clone()),
        event_case("event stream, 24 lines of 136 B", lines),
        Case::pair(
            "is it JSON? 128 B",
            {
                let json = one_line.clone();
                move || json::is_valid(black_box(json.as_bytes()))
            },
            {
                let json = one_line.clone();
                move || is_valid_naive(black_box(json.as_bytes()))
            },
        ),
        string_case("JSON string of 128 B, plain", "x".repeat(128)),
        string_case("JSON string of 1 KiB with escapes", prose),
        message_case(
            "message of a poll, JSON of 128 B",
            PayloadKind::Json,
            one_line,
        ),
        message_case(
            "message of a poll, text of 128 B",
            PayloadKind::Text,
            "x".repeat(128),
        ),
        decimal_case("decimal of 3 digits", 201),
        decimal_case("decimal of 16 digits", 1_234_567_890_123_456),
    ]
}

fn event_case(name: &'static str, data: String) -> Case {
    let copy = data.clone();
    let mut out = Vec::new();
    let mut out_naive = Vec::new();
    Case::pair(
        name,
        move || {
            out.clear();
            sse_event::write_event(
                &mut out,
                Some(black_box(ID)),
                None,
                black_box(data.as_bytes()),
            );
            out.len()
        },
        move || {
            out_naive.clear();
            out_naive.extend(event_naive(black_box(ID), None, black_box(&copy)).bytes());
            out_naive.len()
        },
    )
}

fn string_case(name: &'static str, text: String) -> Case {
    let copy = text.clone();
    let mut out = Vec::new();
    let mut out_naive = String::new();
    Case::pair(
        name,
        move || {
            out.clear();
            json::write_string(&mut out, black_box(&text));
            out.len()
        },
        move || {
            out_naive.clear();
            string_naive(&mut out_naive, black_box(&copy));
            out_naive.len()
        },
    )
}

fn message_case(name: &'static str, kind: PayloadKind, payload: String) -> Case {
    let copy = payload.clone();
    let mut out = Vec::new();
    Case::pair(
        name,
        move || {
            out.clear();
            let payload = black_box(payload.as_bytes());
            json::write_message(
                &mut out,
                black_box("news"),
                black_box(ID),
                None,
                kind,
                payload,
            );
            out.len()
        },
        move || message_naive(black_box("news"), black_box(ID), kind, black_box(&copy)).len(),
    )
}

fn decimal_case(name: &'static str, number: u64) -> Case {
    let mut out = Vec::new();
    let mut out_naive = String::new();
    Case::pair(
        name,
        move || {
            out.clear();
            decimal::push(&mut out, black_box(number));
            out.len()
        },
        move || {
            out_naive.clear();
            write!(out_naive, "{}", black_box(number)).expect("a string takes all");
            out_naive.len()
        },
    )
}

fn agree(random: &mut fastrand::Rng) {
    let pieces = [
        "\r",
        "\n",
        "\r\n",
        "a",
        "data: ",
        ":",
        "\"",
        "\\",
        "\t",
        "\u{1}",
        "é",
        "0123456789abcdef",
    ];
    for _ in 0..1000 {
        let text: String = (0..random.usize(0..30))
            .filter_map(|_| random.choice(pieces))
            .collect();
        let event = random.bool().then_some("created");
        let mut out = Vec::new();
        sse_event::write_event(&mut out, Some(ID), event, text.as_bytes());
        assert_eq!(str::from_utf8(&out), Ok(&*event_naive(ID, event, &text)));

        for kind in [PayloadKind::Json, PayloadKind::Text] {
            out.clear();
            json::write_message(&mut out, "news", ID, None, kind, text.as_bytes());
            assert_eq!(
                str::from_utf8(&out),
                Ok(&*message_naive("news", ID, kind, &text))
            );
        }

        let json = nested(random);
        for json in [&json[..], &json[..random.usize(0..json.len())]] {
            assert_eq!(
                json::is_valid(json.as_bytes()),
                is_valid_naive(json.as_bytes()),
                "{json}"
            );
        }

        let number = random.u64(..) >> random.u32(0..64);
        out.clear();
        decimal::push(&mut out, number);
        assert_eq!(str::from_utf8(&out), Ok(&*number.to_string()));
    }
}

/// JSON around the limit of its depth, with brackets that don't count.
fn nested(random: &mut fastrand::Rng) -> String {
    let mut json = "1".to_owned();
    for _ in 0..random.usize(0..2 * json::DEPTH_MAX) {
        let around = [
            ("[", "]"),
            ("{\"a\":", "}"),
            ("[\"[\",", "]"),
            ("[[],", "]"),
        ];
        let (open, close) = random.choice(around).unwrap_or_default();
        json = format!("{open}{json}{close}");
    }
    json
}

/// Builds the value and walks through it.
fn is_valid_naive(json: &[u8]) -> bool {
    serde_json::from_slice(json).is_ok_and(|value| depth_naive(&value) <= json::DEPTH_MAX)
}

fn depth_naive(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth_naive).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth_naive).max().unwrap_or(0),
        _ => 0,
    }
}

fn event_naive(id: &str, event: Option<&str>, data: &str) -> String {
    let mut out = format!("id: {id}\n");
    if let Some(event) = event {
        out += &format!("event: {event}\n");
    }
    for line in data.replace("\r\n", "\n").replace('\r', "\n").split('\n') {
        out += &format!("data: {line}\n");
    }
    out + "\n"
}

fn message_naive(channel: &str, id: &str, kind: PayloadKind, payload: &str) -> String {
    let mut out = String::from("{\"channel\":");
    string_naive(&mut out, channel);
    out += ",\"id\":";
    string_naive(&mut out, id);
    out += ",\"data\":";
    match kind {
        PayloadKind::Json => out += payload,
        _ => string_naive(&mut out, payload),
    }
    out + "}"
}

/// One character at a time.
fn string_naive(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{C}' => out.push_str("\\f"),
            '\0'..' ' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
}
