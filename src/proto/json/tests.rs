//! What is written is read back by a parser that is not ours.

use serde_json::{Value, json};

use super::*;

fn string(text: &str) -> String {
    let mut out = Vec::new();
    write_string(&mut out, text);
    String::from_utf8(out).expect("a string of UTF-8 stays UTF-8")
}

/// The naive twin: one character at a time.
fn string_naive(text: &str) -> String {
    let mut out = String::from("\"");
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
    out + "\""
}

fn check_string(text: &str) {
    let written = string(text);
    assert_eq!(written, string_naive(text));
    assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
}

#[test]
fn every_byte_is_escaped_as_the_naive_twin_does_at_every_place() {
    for character in (0..=0x2FF)
        .chain([0x2028, 0x2029, 0xFEFF, 0x1F600])
        .filter_map(char::from_u32)
    {
        for before in 0..35 {
            check_string(&format!(
                "{}{character}{}",
                "x".repeat(before),
                "y".repeat(before % 19)
            ));
        }
    }
}

#[test]
fn random_strings_agree_with_the_naive_twin() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..2000 {
        let most = random.choice([40, 200]).unwrap_or(1);
        let text: String = (0..random.usize(0..most))
            .map(|_| {
                if random.u8(..) < 200 {
                    random.char('a'..='z')
                } else {
                    random.char(..)
                }
            })
            .collect();
        check_string(&text);
        check_string(&text.replace('q', "\"").replace('z', "\n"));
    }
}

#[test]
fn a_message_is_an_object_of_the_documented_form() {
    for (event, kind, payload, expected) in [
        (
            Some("created"),
            PayloadKind::Json,
            &b"{\"a\":1}"[..],
            r#"{"channel":"news","id":"k3Qz9aXb-1043","event":"created","data":{"a":1}}"#,
        ),
        (
            None,
            PayloadKind::Json,
            b" [1,\n2] ",
            "{\"channel\":\"news\",\"id\":\"k3Qz9aXb-1043\",\"data\": [1,\n2] }",
        ),
        (
            None,
            PayloadKind::Text,
            b"a\"b\n",
            r#"{"channel":"news","id":"k3Qz9aXb-1043","data":"a\"b\n"}"#,
        ),
        (
            Some("\""),
            PayloadKind::Text,
            b"",
            r#"{"channel":"news","id":"k3Qz9aXb-1043","event":"\"","data":""}"#,
        ),
        (
            None,
            PayloadKind::Binary,
            b"\xFF\0",
            r#"{"channel":"news","id":"k3Qz9aXb-1043","data_base64":"/wA="}"#,
        ),
        (
            None,
            PayloadKind::Binary,
            b"",
            r#"{"channel":"news","id":"k3Qz9aXb-1043","data_base64":""}"#,
        ),
    ] {
        let mut out = b"before ".to_vec();
        write_message(&mut out, "news", "k3Qz9aXb-1043", event, kind, payload);
        assert_eq!(str::from_utf8(&out[7..]), Ok(expected));
        assert!(is_valid(&out[7..]));
    }
}

#[test]
fn a_gap_names_the_channel_and_where_it_goes_on() {
    let mut out = Vec::new();
    write_gap(&mut out, "news", "k3Qz9aXb-1043");
    assert_eq!(
        str::from_utf8(&out),
        Ok(r#"{"channel":"news","position":"k3Qz9aXb-1043"}"#)
    );
}

#[test]
fn base64_of_every_length_comes_back() {
    let bytes: Vec<u8> = (0..=255).collect();
    for end in 0..bytes.len() {
        let mut out = b"x".to_vec();
        write_base64(&mut out, &bytes[..end]);
        assert_eq!(out[0], b'x');
        assert_eq!(STANDARD.decode(&out[1..]).unwrap(), &bytes[..end]);
    }
}

#[test]
fn valid_is_one_value_in_utf8() {
    for valid in [
        "null",
        "true",
        "0",
        "-0",
        "1e999",
        "-1.5E+3",
        "\"\"",
        "\"é\"",
        "\"\\ud83d\\ude00\"",
        "[]",
        "{}",
        " [1] \r\n\t",
        "{\"a\":{\"a\":[1,{}]}}",
        "{\"a\":1,\"a\":2}",
        "123456789012345678901234567890",
    ] {
        assert!(is_valid(valid.as_bytes()), "{valid}");
    }
    for invalid in [
        &b""[..],
        b" ",
        b"nul",
        b"True",
        b"01",
        b"+1",
        b"1.",
        b".5",
        b"1e",
        b"-",
        b"NaN",
        b"'a'",
        b"\"",
        b"\"\n\"",
        b"\"\0\"",
        b"\"\x1F\"",
        b"\"\\x\"",
        b"\"\\u12\"",
        b"[1,]",
        b"[,1]",
        b"[1",
        b"1]",
        b"[1}",
        b"{1:2}",
        b"{\"a\"}",
        b"{\"a\":1,}",
        b"{} {}",
        b"1 2",
        b"// a\n1",
        b"\xEF\xBB\xBF1",
        b"\"\xFF\"",
        b"\"\xED\xA0\x80\"",
        b"[\xC2\xA01]",
        b"\0",
    ] {
        assert!(!is_valid(invalid), "{invalid:?}");
    }
}

#[test]
fn valid_nests_up_to_the_limit() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[\"]\\\"[\",", "]")] {
        let nested = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
        assert!(is_valid(nested(DEPTH_MAX).as_bytes()));
        assert!(!is_valid(nested(DEPTH_MAX + 1).as_bytes()));
        assert!(!is_valid(nested(1_000_000).as_bytes()));
        assert!(!is_valid(open.repeat(1_000_000).as_bytes()));
        // What is just valid can be read inside a poll's answer by a parser that stops at 128 levels.
        let answer = format!("{{\"messages\":[{{\"data\":{}}}]}}", nested(DEPTH_MAX));
        assert!(serde_json::from_str::<Value>(&answer).is_ok());
    }
    assert!(is_valid(format!("[{}1]", "[],".repeat(1000)).as_bytes()));
    assert!(is_valid(format!("\"{}\"", "[".repeat(1000)).as_bytes()));
}

#[derive(Debug, PartialEq)]
struct Published(
    &'static str,
    Option<&'static str>,
    PayloadKind,
    &'static [u8],
);

#[track_caller]
fn check_publish(input: &str, expected: Result<Published, ClientPublishError>) {
    let decoded = ClientPublish::decode(input.as_bytes());
    let expected = expected.map(|Published(channel, event, kind, payload)| ClientPublish {
        channel: channel.into(),
        event: event.map(Cow::from),
        kind,
        payload: payload.into(),
    });
    assert_eq!(decoded, expected, "{input}");
}

#[test]
fn a_client_publishes_json_text_or_binary() {
    use PayloadKind::{Binary, Json, Text};
    let accepted = |input: &str, channel, event, kind, payload| {
        check_publish(input, Ok(Published(channel, event, kind, payload)));
        // No prefix is a publish.
        for end in (0..input.trim_end().len()).filter(|&end| input.is_char_boundary(end)) {
            assert!(
                ClientPublish::decode(&input.as_bytes()[..end]).is_err(),
                "{input} cut at {end}"
            );
        }
    };
    accepted(
        r#"{"channel":"news","data":{"a":1}}"#,
        "news",
        None,
        Json,
        b"{\"a\":1}",
    );
    accepted(
        r#"{"data": [1, 2] ,"event":"e","channel":"news"}"#,
        "news",
        Some("e"),
        Json,
        b"[1, 2]",
    );
    accepted(r#"{"channel":"n","data":null}"#, "n", None, Json, b"null");
    accepted(
        r#"{"channel":"n","data":1e999,"event":null}"#,
        "n",
        None,
        Json,
        b"1e999",
    );
    accepted(
        "{\"channel\":\"n\",\n\"data\":[\n1]}\n",
        "n",
        None,
        Json,
        b"[\n1]",
    );
    accepted(r#"{"channel":"n","data":"hi"}"#, "n", None, Text, b"hi");
    accepted(r#"{"channel":"n","data":""}"#, "n", None, Text, b"");
    accepted(
        r#"{"channel":"n\u0061","data":"\"\n\u00e9\ud83d\ude00"}"#,
        "na",
        None,
        Text,
        "\"\né😀".as_bytes(),
    );
    accepted(
        r#"{"channel":"n","data_base64":"\/wA="}"#,
        "n",
        None,
        Binary,
        b"\xFF\0",
    );
    accepted(
        r#"{"channel":"n","data_base64":""}"#,
        "n",
        None,
        Binary,
        b"",
    );
    accepted(
        r#"{"channel":"n","data":0,"data_base64":null}"#,
        "n",
        None,
        Json,
        b"0",
    );
}

#[test]
fn what_is_not_a_publish_is_refused() {
    use ClientPublishError::{Base64Invalid, DataMissing, DataTwice, FieldsInvalid, NotJson};
    for (input, error) in [
        ("", NotJson),
        ("hello", NotJson),
        (r#"{"channel":"n","data":1}}"#, NotJson),
        (r#"{"channel":"n","data":01}"#, NotJson),
        (r#"{"channel":"n","data":"\ud83d"}"#, NotJson),
        ("1", FieldsInvalid),
        ("{}", FieldsInvalid),
        // A list of the values in the order of the fields is not an object.
        (r#"["n",null,1,null]"#, FieldsInvalid),
        (r#"{"data":1}"#, FieldsInvalid),
        (r#"{"channel":1,"data":1}"#, FieldsInvalid),
        (r#"{"channel":null,"data":1}"#, FieldsInvalid),
        (r#"{"channel":"n","data":1,"extra":1}"#, FieldsInvalid),
        (r#"{"channel":"n","data":1,"data":2}"#, FieldsInvalid),
        (r#"{"channel":"n","event":5,"data":1}"#, FieldsInvalid),
        (r#"{"channel":"n","data_base64":5}"#, FieldsInvalid),
        (r#"{"channel":"n"}"#, DataMissing),
        (r#"{"channel":"n","data_base64":null}"#, DataMissing),
        (r#"{"channel":"n","data":null,"data_base64":""}"#, DataTwice),
        (r#"{"channel":"n","data_base64":"/wA"}"#, Base64Invalid),
        (r#"{"channel":"n","data_base64":"_wA="}"#, Base64Invalid),
        (r#"{"channel":"n","data_base64":"/w A="}"#, Base64Invalid),
    ] {
        check_publish(input, Err(error));
        assert!(error.message().len() <= crate::proto::ws_frame::CLOSE_REASON_BYTES_MAX);
    }
    assert_eq!(
        ClientPublish::decode(b"{\"channel\":\"\xFF\",\"data\":1}"),
        Err(NotJson)
    );
}

#[test]
fn a_deep_publish_is_refused() {
    let publish = |levels: usize| {
        format!(
            "{{\"channel\":\"n\",\"data\":{}{}}}",
            "[".repeat(levels),
            "]".repeat(levels)
        )
    };
    assert!(ClientPublish::decode(publish(DEPTH_MAX).as_bytes()).is_ok());
    assert!(
        ClientPublishError::TooDeep
            .message()
            .contains(&DEPTH_MAX.to_string())
    );
    for levels in [DEPTH_MAX + 1, 1_000_000] {
        assert_eq!(
            ClientPublish::decode(publish(levels).as_bytes()),
            Err(ClientPublishError::TooDeep)
        );
    }
}

#[test]
fn what_needs_no_unescaping_is_borrowed() {
    let publish =
        ClientPublish::decode(br#"{"channel":"news","event":"e","data":"text"}"#).unwrap();
    assert!(matches!(publish.channel, Cow::Borrowed("news")));
    assert!(matches!(publish.event, Some(Cow::Borrowed("e"))));
    assert!(matches!(publish.payload, Cow::Borrowed(b"text")));
}

#[test]
fn a_client_can_publish_what_it_received() {
    for (kind, payload) in [
        (PayloadKind::Json, &b"{\"a\":[1]}"[..]),
        (PayloadKind::Text, b"a\n\"b\""),
        (PayloadKind::Binary, b"\0\xFF"),
    ] {
        let mut out = Vec::new();
        write_message(&mut out, "news", "k3-1", Some("e"), kind, payload);
        let mut object: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            object.as_object_mut().unwrap().remove("id"),
            Some(json!("k3-1"))
        );
        let input = object.to_string();
        let publish = ClientPublish::decode(input.as_bytes()).unwrap();
        assert_eq!((publish.kind, &*publish.payload), (kind, payload));
    }
}
