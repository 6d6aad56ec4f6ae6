//! From a publish to every kind of listener, over shards whose connections and channels are each other's.

use serde_json::json;

use crate::client::{Client, ws_frame, ws_handshake};
use crate::harness::{Server, Start};

/// With this many channels every shard is the home of some, and every connection listens beyond its own shard.
const MANY: usize = 24;

/// Starts a listener of each kind on `channel`; each gives back what it reads next.
fn listeners(server: &Server, channel: &str) -> Vec<Box<dyn FnMut() -> String>> {
    let mut poll = server.get(&format!("/poll/{channel}?wait=60"));
    let mut sse = server.sse(&format!("/sse/{channel}"));
    let mut ws = server.ws(&format!("/ws/{channel}"));
    server.wait_subscribers(channel, 3);
    vec![
        Box::new(move || poll.response().messages().concat()),
        Box::new(move || sse.event_data()),
        Box::new(move || ws.text()),
    ]
}

impl Client {
    /// The data of the next event that has any.
    #[track_caller]
    fn event_data(&mut self) -> String {
        self.read_until("\ndata: ");
        let line = self.read_until("\n");
        self.read_until("\n");
        line.trim_end().to_owned()
    }

    /// The id of the next event.
    #[track_caller]
    fn event_id(&mut self) -> String {
        self.read_until("id: ");
        self.read_until("\n").trim_end().to_owned()
    }
}

#[test]
fn every_transport_hears_every_channel_on_any_number_of_threads() {
    for threads in [1, 2, 7] {
        let server = Server::start(&format!("--threads {threads}"));
        let all: Vec<_> = (0..MANY)
            .map(|n| (n, listeners(&server, &format!("c{n}"))))
            .collect();
        for n in 0..MANY {
            // A connection of its own, so that publishers are on every shard, too.
            let mut publisher = server.connect();
            publisher.request(
                "POST",
                &format!("/pub/c{n}"),
                "",
                format!("m{n}").as_bytes(),
            );
            let response = publisher.response();
            assert_eq!(
                (response.status, &response.json()["receivers"]),
                (201, &json!(3))
            );
        }
        for (n, listeners) in all {
            for mut next in listeners {
                assert_eq!(next(), format!("m{n}"));
            }
        }
    }
}

#[test]
fn sixty_four_shards_mail_each_listener_its_own_and_nobody_a_stray_byte() {
    const CHANNELS: usize = 500;
    let server = Server::start("--threads 64");
    // Descriptors whose numbers are those of other threads' wake-ups: whatever is written there by mistake is seen.
    let mut silent: Vec<_> = (0..64).map(|_| server.connect()).collect();
    let mut listeners: Vec<_> = (0..CHANNELS)
        .map(|n| server.ws(&format!("/ws/c{n}")))
        .collect();
    let mut publisher = server.connect();
    for round in 0..2 {
        for n in 0..CHANNELS {
            publisher.request(
                "POST",
                &format!("/pub/c{n}"),
                "",
                format!("{n} {round}").as_bytes(),
            );
        }
        for _ in 0..CHANNELS {
            let response = publisher.response();
            assert_eq!(
                (response.status, &response.json()["receivers"]),
                (201, &json!(1))
            );
        }
    }
    for (n, listener) in listeners.iter_mut().enumerate() {
        for round in 0..2 {
            assert_eq!(listener.text(), format!("{n} {round}"));
        }
        let mut raw = Client::of(listener.socket.get_ref());
        raw.assert_silent();
    }
    silent.iter_mut().for_each(Client::assert_silent);
    assert!(server.metric("mails_total") > 0);
}

#[test]
fn a_stream_of_several_channels_has_each_in_its_order() {
    let server = Server::start("");
    let names: Vec<_> = (0..MANY).map(|n| format!("c{n}")).collect();
    let target = names.join(",");
    let mut ws = server.ws(&format!("/ws/{target}"));
    let mut sse = server.sse(&format!("/sse/{target}"));
    for round in 0..3 {
        for name in &names {
            server.publish(name, format!("{name} {round}"));
        }
    }
    let mut next_of = [[0, 0]; MANY];
    for _ in 0..3 * MANY {
        for (reader, text) in [ws.text(), sse.event_data()].iter().enumerate() {
            let object: serde_json::Value = serde_json::from_str(text).unwrap();
            let (name, round) = object["data"].as_str().unwrap().split_once(' ').unwrap();
            assert_eq!(object["channel"], name);
            let next = &mut next_of[name[1..].parse::<usize>().unwrap()][reader];
            assert_eq!(round.parse(), Ok(*next));
            *next += 1;
        }
    }
    let mut polled = server
        .get(&format!("/poll/{target}?since=earliest&limit=1000"))
        .response()
        .messages();
    polled.sort();
    assert_eq!(polled.len(), 3 * MANY);
    polled.dedup();
    assert_eq!(polled.len(), 3 * MANY);
}

#[test]
fn a_cursor_of_any_transport_goes_on_with_any_other() {
    let server = Server::start("");
    for n in 0..MANY {
        let channel = format!("c{n}");
        let poll = server.get(&format!("/poll/{channel}")).response();
        assert_eq!(poll.status, 204);
        let start = poll.field("pushring-cursor").unwrap().to_owned();
        let ids: Vec<_> = (1..=3)
            .map(|m| server.publish(&channel, format!("m{m}")))
            .collect();
        assert_eq!(server.ws(&format!("/ws/{channel}")).cursor, ids[2]);
        let mut ws = server.ws(&format!("/ws/{channel}?since={start}"));
        let mut sse = server.sse(&format!("/sse/{channel}?since={start}"));
        for (m, id) in (1..=3).zip(&ids) {
            assert_eq!(ws.text(), format!("m{m}"));
            assert_eq!(&sse.event_id(), id);
        }
        let poll = server
            .get(&format!("/poll/{channel}?since={}&wait=60", ids[0]))
            .response();
        assert_eq!(poll.messages(), ["m2", "m3"]);
        assert_eq!(poll.json()["cursor"], ids[2].as_str());
        assert_eq!(poll.json()["recovered"], true);
        // A browser repeats its old target and says in the header where it is.
        let mut sse = server.connect();
        let again = format!("/sse/{channel}?since={start}");
        sse.request(
            "GET",
            &again,
            &format!("Last-Event-ID: {}\r\n", ids[1]),
            b"",
        );
        assert_eq!(sse.event_id(), ids[2]);
        assert_eq!(server.ws(&format!("/ws/{channel}?last=2")).text(), "m2");
    }
}

#[test]
fn a_cursor_of_another_epoch_is_answered_with_what_is_left_and_a_notice() {
    let server = Server::start("");
    server.publish("c", "kept");
    let lost = "since=AAAAAAAA-7";
    let poll = server.get(&format!("/poll/c?{lost}&wait=60")).response();
    assert_eq!(
        (&poll.json()["recovered"], poll.messages()),
        (&json!(false), vec!["kept".to_owned()])
    );
    let mut sse = server.sse(&format!("/sse/c?{lost}"));
    sse.read_until("event: pushring.gap");
    assert!(sse.event_data().starts_with("{\"channel\":\"c\""));
    assert_eq!(sse.event_data(), "kept");
    let mut ws = server.ws(&format!("/ws/c?{lost}&format=json"));
    assert!(ws.text().starts_with("{\"gap\":{\"channel\":\"c\""));
    assert!(ws.text().contains("kept"));
}

#[test]
fn a_namespace_decides_on_history_and_on_who_may_publish() {
    let file = "[namespace.echo]\nclient_publish = true\nhistory_messages = 0\n\
                [namespace.short]\nhistory_messages = 2\n";
    let server = Start::new("").file(file).serve();
    for n in 0..MANY {
        let mut own = server.ws(&format!("/ws/echo:{n}"));
        let mut other = server.sse(&format!("/sse/echo:{n}"));
        own.send("hello");
        assert_eq!(own.text(), "hello");
        assert_eq!(other.event_data(), "hello");
        assert_eq!(
            server
                .get(&format!("/poll/echo:{n}?since=earliest"))
                .response()
                .status,
            204
        );
    }
    // Frames right behind the handshake wait for its answer.
    for n in 0..MANY {
        let mut eager = server.connect();
        let frames = [ws_frame(0x81, b"one"), ws_frame(0x81, b"two")].concat();
        eager.send([ws_handshake(&format!("/ws/echo:{n}")).as_bytes(), &frames].concat());
        eager.read_until("\r\n\r\n");
        assert_eq!(eager.read_bytes(10), b"\x81\x03one\x81\x03two");
    }
    let mut json = server.ws("/ws/echo:0,echo:1");
    json.send(r#"{"channel":"echo:1","data":[1,2]}"#);
    assert!(json.text().contains(r#""data":[1,2]"#));
    for m in 0..5 {
        server.publish("short:c", m.to_string());
    }
    assert_eq!(
        server
            .get("/poll/short:c?since=earliest")
            .response()
            .messages(),
        ["3", "4"]
    );
    let mut reader = server.ws("/ws/reader");
    reader.send("not mine to say");
    assert_eq!(reader.close().0, 1008);
}

#[test]
fn what_a_client_publishes_comes_back_in_its_order_however_few_may_be_under_way() {
    for in_flight in [1, 32] {
        let file = format!(
            "publishes_in_flight_max = {in_flight}\n[namespace.echo]\nclient_publish = true\n"
        );
        let server = Start::new("").file(&file).serve();
        for channel in 0..8 {
            let mut ws = server.ws(&format!("/ws/echo:{channel}"));
            let frames: Vec<_> = (0..300)
                .flat_map(|n| ws_frame(0x81, n.to_string().as_bytes()))
                .collect();
            Client::of(ws.socket.get_ref()).send(frames);
            for n in 0..300 {
                assert_eq!(ws.text(), n.to_string());
            }
        }
    }
}

#[test]
fn a_repeat_under_a_key_delivers_once_whichever_connection_it_comes_by() {
    let server = Server::start("--threads 4");
    for n in 0..MANY {
        let mut listener = server.ws(&format!("/ws/c{n}"));
        let publish = |key: &str, payload: &str| {
            let mut client = server.connect();
            let field = format!("Idempotency-Key: {key}\r\n");
            client.request("POST", &format!("/pub/c{n}"), &field, payload.as_bytes());
            client.response().json()
        };
        let first = publish("key", "first");
        for _ in 0..4 {
            assert_eq!(publish("key", "again"), first);
        }
        publish("other", "second");
        assert_eq!(listener.text(), "first");
        assert_eq!(listener.text(), "second");
    }
}

#[test]
fn a_message_that_is_not_stored_reaches_those_who_are_there() {
    let server = Server::start("");
    let mut ws = server.ws("/ws/c");
    assert_eq!(
        server
            .ask("POST", "/pub/c?store=false&event=live", b"now")
            .status,
        201
    );
    assert_eq!(ws.text(), "now");
    assert_eq!(server.get("/poll/c?since=earliest").response().status, 204);
    // Two channels, one of which has a listener.
    let both = server.ask("POST", "/pub/d,c", b"both");
    assert_eq!(
        (both.status, both.json()[0]["receivers"].clone()),
        (201, json!(0))
    );
    assert_eq!(both.json()[1]["receivers"], 1);
    assert_eq!(ws.text(), "both");
}

#[test]
fn deleting_a_channel_ends_its_listeners() {
    let server = Server::start("");
    for n in 0..MANY {
        let channel = format!("c{n}");
        let mut poll = server.get(&format!("/poll/{channel}?wait=60"));
        let mut sse = server.sse(&format!("/sse/{channel}"));
        let mut ws = server.ws(&format!("/ws/{channel}"));
        let mut several = server.ws(&format!("/ws/other,{channel}"));
        server.wait_subscribers(&channel, 4);
        assert_eq!(
            server
                .ask("DELETE", &format!("/channels/{channel}"), b"")
                .status,
            204
        );
        assert_eq!(poll.response().status, 204);
        assert_eq!(sse.read_to_end().unwrap(), b"0\r\n\r\n");
        assert_eq!(ws.close().0, 1000);
        assert_eq!(several.close().0, 1000);
        assert_eq!(
            server
                .ask("DELETE", &format!("/channels/{channel}"), b"")
                .code(),
            "channel_unknown"
        );
    }
    server.wait_metric(
        "connections_closed_total{reason=\"channel_deleted\"}",
        4 * MANY as u64,
    );
    server.wait_metric("channels_listened", 0);
}

#[test]
fn the_list_of_channels_pages_through_all_shards() {
    let server = Server::start("--threads 3");
    let mut names: Vec<_> = (0..2 * MANY).map(|n| format!("page:{n:03}")).collect();
    for name in names.iter().rev() {
        server.publish(name, "x");
    }
    server.publish("elsewhere", "x");
    for limit in [1, 7, names.len(), 1000] {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let page = server
                .ask(
                    "GET",
                    &format!("/channels?prefix=page:&limit={limit}{after}"),
                    b"",
                )
                .json();
            let channels = page["channels"].as_array().unwrap();
            assert!(channels.len() <= limit);
            found.extend(
                channels
                    .iter()
                    .map(|it| it["channel"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next"].as_str() else {
                break;
            };
            assert_eq!(channels.last().unwrap()["channel"], next);
            after = format!("&after={next}");
        }
        assert_eq!(found, names);
    }
    names.push("elsewhere".to_owned());
    assert_eq!(server.metric("channels{"), names.len() as u64);
    let info = server.ask("GET", "/channels/elsewhere", b"").json();
    let (messages, subscribers) = (&info["messages"], &info["subscribers"]);
    assert_eq!(
        (messages, subscribers, &info["position"]),
        (&json!(1), &json!(0), &info["oldest"])
    );
    assert_eq!(
        server.ask("GET", "/channels/nobody", b"").code(),
        "channel_unknown"
    );
}

#[test]
fn the_public_listener_keeps_the_backends_paths_to_itself() {
    let server = Server::start("--internal 127.0.0.1:0");
    assert_ne!(server.address, server.internal);
    for (method, target) in [
        ("POST", "/pub/c"),
        ("GET", "/channels"),
        ("GET", "/channels/c"),
        ("DELETE", "/channels/c"),
        ("GET", "/metrics"),
    ] {
        let mut client = server.connect();
        client.request(method, target, "", b"x");
        let response = client.response();
        assert_eq!(
            (response.status, response.code().as_str()),
            (404, "path_internal"),
            "{target}"
        );
    }
    let mut ws = server.ws("/ws/c");
    server.publish("c", "through");
    assert_eq!(ws.text(), "through");
    for target in ["/healthz", "/readyz", "/poll/c", "/", "/pushring.js"] {
        assert!(server.get(target).response().status < 300, "{target}");
        assert!(server.ask("GET", target, b"").status < 300, "{target}");
    }
}
