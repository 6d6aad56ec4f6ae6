//! Clients that stop reading for a while, in namespaces where messages may give way.

use serde_json::Value;

use crate::client::{Client, ws_handshake};
use crate::harness::{Server, Start};

/// Room for what one write has encoded, which does not give way, and some more.
const FILE: &str = "outbox_bytes_max = \"256KiB\"\nlinger_timeout = \"100ms\"\n\
    [namespace.\"\"]\nhistory_bytes = \"64KiB\"\n\
    [namespace.oldest]\nslow_reader = \"drop_oldest\"\n\
    [namespace.latest]\nslow_reader = \"latest\"\n";

/// The offset of `k2NNwEB7-42`.
fn offset(position: &Value) -> u64 {
    let (_, offset) = position.as_str().unwrap().split_once('-').unwrap();
    offset.parse().unwrap()
}

/// What a client sees of one channel: every offset once and in order, or a notice.
#[derive(Default)]
struct View {
    has: u64,
    messages: u64,
    gaps: u64,
}

impl View {
    #[track_caller]
    fn on_object(&mut self, object: &Value) -> bool {
        if let Some(gap) = object.get("gap") {
            assert!(offset(&gap["position"]) > self.has);
            self.has = offset(&gap["position"]);
            self.gaps += 1;
            return false;
        }
        assert_eq!(offset(&object["id"]), self.has + 1);
        self.has += 1;
        self.messages += 1;
        object["data"] == "end"
    }
}

/// The objects that an event stream with `format=json` brings, gaps as a WebSocket would bring them.
fn read_events(client: &mut Client, view: &mut View) {
    let mut is_over = false;
    while !is_over {
        let event = client.read_until("\n\n");
        let data = event.lines().find_map(|line| line.strip_prefix("data: "));
        let object: Value = serde_json::from_str(data.unwrap()).unwrap();
        is_over = if event.contains("event: pushring.gap") {
            view.on_object(&serde_json::json!({ "gap": object }))
        } else {
            view.on_object(&object)
        };
    }
}

/// Publishes on `channel` until messages gave way under `policy`, then `end`.
fn overflow(server: &Server, channel: &str, policy: &str) -> u64 {
    let payload = "x".repeat(32 * 1024);
    let dropped = format!("messages_dropped_total{{policy=\"{policy}\"}}");
    let before = server.metric(&dropped);
    let mut published = 0;
    while server.metric(&dropped) < before + 20 {
        server.publish(channel, &payload);
        published += 1;
        assert!(published < 10_000, "nobody is found too slow");
    }
    server.publish(channel, "end");
    published + 1
}

#[test]
fn messages_give_way_and_the_client_is_told_where() {
    let server = Start::new("").file(FILE).serve();
    for (channel, policy) in [("oldest:a", "drop_oldest"), ("latest:a", "latest")] {
        let mut stream = server.sse(&format!("/sse/{channel}?format=json"));
        let mut socket = server.ws(&format!("/ws/{channel}?format=json"));
        let mut keen = server.ws(&format!("/ws/{channel}"));
        let reading = std::thread::spawn(move || {
            let texts = (0..).map(|_| keen.text());
            texts.take_while(|text| text != "end").count() as u64
        });
        let published = overflow(&server, channel, policy);
        assert_eq!(reading.join().unwrap() + 1, published, "who reads gets all");
        let (mut by_stream, mut by_socket) = (View::default(), View::default());
        read_events(&mut stream, &mut by_stream);
        while !by_socket.on_object(&serde_json::from_str(&socket.text()).unwrap()) {}
        for view in [&by_stream, &by_socket] {
            assert_eq!(view.has, published, "{policy}: up to the end");
            assert!(view.gaps > 0 && view.messages < published, "{policy}");
        }
        let line = server.wait_log(&format!("policy=\"{policy}\""));
        for word in ["slow reader", "peer=127.0.0.1:", "waiting_bytes=", channel] {
            assert!(line.contains(word), "no {word:?} in {line}");
        }
    }
    assert_eq!(
        server.metric("connections_closed_total{reason=\"slow_reader\"}"),
        0
    );
}

#[test]
fn a_payload_alone_has_no_room_for_a_notice() {
    let server = Start::new("").file(FILE).serve();
    let mut raw = server.connect();
    raw.send(ws_handshake("/ws/oldest:a?format=raw"));
    raw.read_until("\r\n\r\n");
    let payload = "x".repeat(32 * 1024);
    let mut published = 0;
    while server.metric("messages_dropped_total{policy=\"close\"}") == 0 {
        server.publish("oldest:a", &payload);
        published += 1;
        assert!(published < 10_000, "nobody is found too slow");
    }
    let bytes = raw.wait_end();
    let close = [&[0x88, 13][..], &3008u16.to_be_bytes(), b"slow reader"].concat();
    assert!(bytes.ends_with(&close));
}

#[test]
fn a_channel_that_may_not_lose_ends_a_connection_only_when_the_others_have_given_way() {
    let server = Start::new("").file(FILE).serve();
    let mut socket = server.ws("/ws/oldest:a,strict");
    overflow(&server, "oldest:a", "drop_oldest");
    let payload = "x".repeat(32 * 1024);
    for _ in 0..2 {
        server.publish("strict", &payload);
    }
    server.publish("strict", "end");
    let mut views = [View::default(), View::default()];
    let mut ends = 0;
    while ends < 2 {
        let object: Value = serde_json::from_str(&socket.text()).unwrap();
        let channel = object.get("gap").unwrap_or(&object)["channel"].clone();
        let view = &mut views[usize::from(channel == "strict")];
        ends += usize::from(view.on_object(&object));
    }
    assert_eq!((views[1].messages, views[1].gaps), (3, 0));
    assert!(views[0].gaps > 0);

    overflow(&server, "oldest:a", "drop_oldest");
    while server.metric("messages_dropped_total{policy=\"close\"}") == 0 {
        server.publish("strict", &payload);
    }
    assert_eq!(socket.close().0, 3008);
}
