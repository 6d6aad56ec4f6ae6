//! What comes out of headers is what went in, and nonsense is harmless.

use super::*;
use crate::backplane::order::Keep;
use crate::hub::Publish;

const KEEP: Keep = Keep {
    history_messages: 10,
    history_age_ms: 60_000,
    idle_timeout_ms: 60_000,
    idempotency_window_ms: 60_000,
};

fn publishing(kind: PayloadKind, payload: &[u8]) -> Publishing {
    Publishing {
        publish: Publish {
            channel: ChannelName::parse("a.b").unwrap(),
            kind,
            event: None,
            payload: payload.into(),
            ttl_ms: None,
            store: true,
            idempotency_key: None,
        },
        keep: KEEP,
        receivers: 3,
    }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, *value);
    }
    headers
}

/// Writes a publish and reads it back as the server sends it again.
#[track_caller]
fn check(publishing: &Publishing, is_stored: bool) {
    let mut headers = message_headers(publishing);
    headers.append("Nats-Sequence", "7");
    headers.append("Nats-Time-Stamp", "1970-01-01T00:00:01.000002999Z");
    let entry = Entry::decode(&headers, &publishing.publish.payload).unwrap();
    assert_eq!(
        (entry.sequence, entry.time_us, entry.is_cut),
        (7, 1_000_002, false)
    );
    let body = Body {
        kind: publishing.publish.kind,
        event: publishing.publish.event.clone(),
        payload: publishing.publish.payload.clone(),
        ttl_ms: publishing.publish.ttl_ms,
        is_stored,
    };
    assert_eq!(entry.content, Content::Message(body));
}

#[test]
fn a_publish_comes_back_as_it_was() {
    for (kind, payload) in [
        (PayloadKind::Text, "größe".as_bytes()),
        (PayloadKind::Text, b"{\"a\":1}"),
        (PayloadKind::Json, b"{\"a\":1}"),
        (PayloadKind::Binary, b"text"),
        (PayloadKind::Binary, b"\xFF"),
        (PayloadKind::Text, b""),
    ] {
        let mut publishing = publishing(kind, payload);
        check(&publishing, true);
        publishing.publish.event = Some("größe".into());
        publishing.publish.ttl_ms = Some(1500);
        publishing.publish.idempotency_key = Some("k/1 ü".into());
        check(&publishing, true);
        publishing.publish.store = false;
        check(&publishing, false);
    }
    let mut unkept = publishing(PayloadKind::Text, b"a");
    unkept.keep.history_messages = 0;
    check(&unkept, false);
}

#[test]
fn a_key_counts_on_its_channel() {
    let mut publishing = publishing(PayloadKind::Text, b"a");
    publishing.publish.idempotency_key = Some("k 1".into());
    let headers = message_headers(&publishing);
    assert_eq!(value(&headers, MESSAGE_ID), Some("a%2Eb/k%201"));
    assert_eq!(receivers(&headers), Some(3));
    publishing.keep.idempotency_window_ms = 0;
    assert_eq!(value(&message_headers(&publishing), MESSAGE_ID), None);
}

#[test]
fn what_a_backend_writes_is_taken_if_it_makes_sense() {
    let body = |pairs: &[(&str, &str)], payload: &[u8]| Body::decode(&headers(pairs), payload);
    for (content_type, payload, kind) in [
        ("application/json", &b"{}"[..], PayloadKind::Json),
        ("application/json", b"{", PayloadKind::Text),
        ("text/plain", b"\xFF", PayloadKind::Binary),
        ("text/plain; charset=latin1", b"a", PayloadKind::Text),
        ("nonsense", b"a", PayloadKind::Text),
    ] {
        assert_eq!(
            body(&[("content-TYPE", content_type)], payload).kind,
            kind,
            "{content_type}"
        );
    }
    assert_eq!(body(&[], b"a").kind, PayloadKind::Text);
    assert_eq!(body(&[], b"\xFF").kind, PayloadKind::Binary);
    for (event, taken) in [("created", true), ("pushring.gap", false), ("", false)] {
        assert_eq!(
            body(&[("Pushring-Event", event)], b"").event.is_some(),
            taken,
            "{event}"
        );
    }
    for (ttl, taken) in [("1000", Some(1000)), ("-1", None), ("1s", None), ("", None)] {
        assert_eq!(
            body(&[("pushring-ttl-ms", ttl)], b"").ttl_ms,
            taken,
            "{ttl}"
        );
    }
    assert_eq!(body(&[], b"").expires_ms(5), u64::MAX);
    assert_eq!(body(&[(TTL_MS, "10")], b"").expires_ms(5), 15);
}

#[test]
fn marks_are_no_messages() {
    let content = |headers: &HeaderMap| Entry::new(headers, b"", 9, 0).content;
    assert_eq!(content(&begun_headers()), Content::Begun);
    assert!(!Entry::new(&begun_headers(), b"", 9, 0).is_cut);
    assert_eq!(content(&ended_headers()), Content::Ended);
    assert!(Entry::new(&ended_headers(), b"", 9, 0).is_cut);
    assert_eq!(content(&touch_headers(5, 5)), Content::Touched { head: 5 });
    assert_eq!(Entry::new(&touch_headers(5, 5), b"", 9, 0).head(), 5);
    // A head that is not before the entry is none.
    assert!(matches!(content(&touch_headers(9, 5)), Content::Message(_)));
}

#[test]
fn what_the_server_says_stands_last() {
    let forged = headers(&[
        ("Nats-Sequence", "999"),
        ("Nats-Sequence", "2"),
        ("Nats-Last-Sequence", "998"),
        ("Nats-Last-Sequence", "1"),
        ("Nats-Time-Stamp", "1970-01-01T00:00:00Z"),
    ]);
    let mut live = Live::new(ChannelName::parse("a").unwrap(), Epoch::from_random(1));
    let Some(Heard::Arrival(arrival)) = live.hear(&forged, b"x") else {
        panic!("no arrival");
    };
    assert_eq!(
        (arrival.message.position.offset, arrival.message.previous),
        (2, 1)
    );
    assert_eq!(live.hear(&HeaderMap::new(), b"x"), None);
}

#[test]
fn a_touch_is_not_a_hole() {
    let mut live = Live::new(ChannelName::parse("a").unwrap(), Epoch::from_random(1));
    let mut hear = |mut headers: HeaderMap, sequence: &str, before: &str| {
        headers.append("Nats-Sequence", sequence);
        headers.append("Nats-Last-Sequence", before);
        headers.append("Nats-Time-Stamp", "1970-01-01T00:00:00Z");
        match live.hear(&headers, b"x").unwrap() {
            Heard::Arrival(arrival) => Some(arrival.message.previous),
            _ => None,
        }
    };
    assert_eq!(hear(HeaderMap::new(), "5", "0"), Some(0));
    assert_eq!(hear(touch_headers(5, 5), "9", "5"), None);
    assert_eq!(hear(HeaderMap::new(), "12", "9"), Some(5));
    assert_eq!(hear(HeaderMap::new(), "13", "12"), Some(12));
    assert_eq!(hear(begun_headers(), "20", "0"), None);
    assert_eq!(hear(HeaderMap::new(), "21", "20"), Some(20));
}

#[test]
fn times_are_read_as_the_server_writes_them() {
    for (text, expected) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("1970-01-01T00:00:00.5Z", Some(500_000)),
        ("2000-02-29T12:30:15.123456789Z", Some(951_827_415_123_456)),
        (
            "2026-11-22T07:38:40.699384872Z",
            Some(1_795_333_120_699_384),
        ),
        ("1969-12-31T23:59:59Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("2026-11-22T07:38:40", None),
        ("2026-11-22 07:38:40Z", None),
        ("2026-13-22T07:38:40Z", None),
        ("2026-11-22T07:38:40,5Z", None),
        ("", None),
        ("ü026-11-22T07:38:40Z", None),
    ] {
        assert_eq!(time_us(text), expected, "{text}");
    }
}
