//! Publishing: what a request becomes, and how it is answered.

use super::*;
use crate::api::publish::answer;
use crate::hub::{Published, Scope};

fn publish_request(target: &str, fields: &str) -> PublishRequest {
    match parse_request(&format!("POST {target}"), fields, Side::Both) {
        Ok(Request::Publish(request)) => request,
        other => panic!("{target}: {other:?}"),
    }
}

#[test]
fn a_publish_becomes_one_for_each_channel() {
    let fields = "Content-Length: 2\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n";
    let request = publish_request("/pub/a,b?event=e&ttl=1.5&store=false", fields);
    let publishes: Vec<_> = request.complete(b"[]").unwrap().collect();
    assert_eq!(publishes.len(), 2);
    for (publish, channel) in publishes.iter().zip(["a", "b"]) {
        assert_eq!(publish.channel.as_str(), channel);
        assert_eq!(publish.kind, crate::proto::payload::PayloadKind::Json);
        let rest = (
            publish.event.as_deref(),
            publish.ttl_ms,
            publish.store,
            publish.idempotency_key.as_deref(),
        );
        assert_eq!(rest, (Some("e"), Some(1500), false, Some("k")));
    }
    let same = std::sync::Arc::ptr_eq(&publishes[0].payload, &publishes[1].payload);
    assert!(same, "all share the payload");
    let invalid = publish_request("/pub/a", fields)
        .complete(b"{")
        .err()
        .unwrap();
    assert_eq!(
        (invalid.status, invalid.code),
        (400, "payload_json_invalid")
    );
}

#[test]
fn a_publish_is_refused_for_each_of_these() {
    for (target, fields, expected) in [
        ("/pub/a", "", "411 length_required"),
        ("/pub/a", "Content-Length: 0\r\n", "Publish"),
        ("/pub/a", "Transfer-Encoding: chunked\r\n", "Publish"),
        ("/pub/a?event=", LENGTH, "400 event_name_invalid"),
        ("/pub/a?event=a%0Ab", LENGTH, "400 event_name_invalid"),
        (
            "/pub/a?event=pushring.gap",
            LENGTH,
            "400 event_name_invalid",
        ),
        ("/pub/a?event=pushring", LENGTH, "Publish"),
        ("/pub/a?ttl=x", LENGTH, "400 parameter_invalid"),
        ("/pub/a?store=maybe", LENGTH, "400 parameter_invalid"),
        ("/pub/a?store=true", LENGTH, "Publish"),
        ("/pub/a?x=%zz", LENGTH, "400 target_invalid"),
    ] {
        check(&format!("POST {target}"), fields, expected);
    }
    for (key_bytes, expected) in [
        (0, "400 idempotency_key_invalid"),
        (64, "Publish"),
        (65, "400 idempotency_key_invalid"),
    ] {
        let fields = format!("{LENGTH}Idempotency-Key: {}\r\n", "k".repeat(key_bytes));
        check("POST /pub/a", &fields, expected);
    }
}

#[test]
fn an_answer_to_a_publish_tells_of_every_channel() {
    let name = |text| ChannelName::parse(text).unwrap();
    let taken = |offset, receivers| {
        let published = Published {
            position: position(offset),
            receivers,
        };
        Ok((published, Scope::Alone))
    };
    let full = Err(Refusal::from(crate::hub::HomeRefusal::ChannelsFull));
    let mut body = Vec::new();
    for (results, status) in [
        (vec![taken(1, 0)], 202),
        (vec![taken(1, 1)], 201),
        (vec![taken(1, 0), taken(2, 3)], 201),
        (vec![taken(1, 1), full], 503),
    ] {
        let named: Vec<_> = results.iter().map(|result| (name("a"), *result)).collect();
        body.clear();
        assert_eq!(answer(&named, &mut body), status);
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let all = json.as_array().cloned().unwrap_or_else(|| vec![json]);
        assert_eq!(all.len(), results.len());
        for (object, result) in all.iter().zip(&results) {
            assert_eq!(object["channel"], "a");
            match result {
                Ok((published, _)) => {
                    assert_eq!(object["id"], published.position.to_string());
                    assert_eq!(object["receivers"], published.receivers);
                }
                Err(refusal) => assert_eq!(object["error"]["code"], refusal.code),
            }
        }
    }
}

#[test]
fn an_answer_says_whose_listeners_it_counts() {
    let published = Published {
        position: position(1),
        receivers: 2,
    };
    let cluster = |is_complete| Scope::Cluster {
        nodes: 3,
        is_complete,
    };
    for (scope, wanted) in [
        (Scope::Alone, "}"),
        (Scope::Node, r#","scope":"node"}"#),
        (Scope::Local, r#","scope":"node","degraded":"local"}"#),
        (cluster(true), r#","scope":"cluster","nodes":3}"#),
        (
            cluster(false),
            r#","scope":"cluster","nodes":3,"complete":false}"#,
        ),
    ] {
        let mut body = Vec::new();
        let result = (ChannelName::parse("a").unwrap(), Ok((published, scope)));
        assert_eq!(answer(&[result], &mut body), 201);
        let body = String::from_utf8(body).unwrap();
        let (_, behind) = body.split_once(r#""receivers":2"#).unwrap();
        assert_eq!(behind, wanted);
    }
}
