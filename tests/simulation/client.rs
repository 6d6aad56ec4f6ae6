//! A client that listens: it changes transport with its cursor, falls behind, vanishes and comes back.

use crate::checker::{At, View};
use crate::wire::{self, Chunks, Events, Head};
use crate::world::World;

/// What the client waits for, or reads.
#[derive(Debug)]
enum Mode {
    /// Nothing asked; perhaps connected.
    Idle,
    PollHead,
    PollBody(Head),
    /// The body of a refusal.
    RefusalBody(Head),
    StreamHead,
    Stream(Chunks, Events),
    WebSocketHead,
    WebSocket,
}

#[derive(Debug)]
pub(crate) struct Client {
    /// In the order of every request.
    pub(crate) channels: Vec<&'static str>,
    /// Up to where it has everything, or was told.
    pub(crate) has: Vec<Option<At>>,
    socket: Option<usize>,
    mode: Mode,
    input: Vec<u8>,
    is_json: bool,
    /// A frame that is only a payload does not say where it stands; after a loss it is looked up.
    has_lost: bool,
    is_paused: bool,
    /// Answers no pings.
    is_deaf: bool,
    has_sent_close: bool,
    /// Never begins anew.
    pub(crate) is_faithful: bool,
}

impl Client {
    pub(crate) fn new(channels: Vec<&'static str>) -> Self {
        Self {
            has: vec![None; channels.len()],
            channels,
            socket: None,
            mode: Mode::Idle,
            input: Vec::new(),
            is_json: false,
            has_lost: false,
            is_paused: false,
            is_deaf: false,
            has_sent_close: false,
            is_faithful: false,
        }
    }

    /// Listens on a stream, or waits in a long poll whose answer will come.
    pub(crate) fn listens(&self) -> bool {
        matches!(self.mode, Mode::Stream(..) | Mode::PollHead)
            || (matches!(self.mode, Mode::WebSocket) && !self.has_sent_close)
    }

    /// Payloads alone are counted; over a loss that was told there is nothing to count.
    pub(crate) fn knows_its_position(&self) -> bool {
        self.is_json || !self.has_lost || !matches!(self.mode, Mode::WebSocket)
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.mode, Mode::Idle)
    }

    pub(crate) fn resume_reading(&mut self) {
        self.is_paused = false;
    }

    /// Something that a client may do at any time.
    pub(crate) fn act(&mut self, world: &mut World) {
        match world.rng.u32(..100) {
            0..20 if self.is_idle() => self.poll(world, false),
            20..45 if self.is_idle() => self.poll(world, true),
            45..75 if self.is_idle() => self.stream(world),
            _ if self.is_idle() => self.web_socket(world),
            0..6 => self.vanish(world),
            6..12 => self.is_paused = !self.is_paused,
            12..14 => self.is_deaf = !self.is_deaf,
            14..24 if matches!(self.mode, Mode::WebSocket) => self.publish(world),
            24..28 if matches!(self.mode, Mode::WebSocket) => {
                self.send_frame(world, wire::PING, b"hi")
            }
            28..30 if matches!(self.mode, Mode::WebSocket) => {
                self.send_close(world, &1000u16.to_be_bytes())
            }
            _ => {}
        }
    }

    pub(crate) fn vanish(&mut self, world: &mut World) {
        if let Some(socket) = self.socket.take() {
            world.close(socket);
        }
        self.mode = Mode::Idle;
        self.input.clear();
        self.is_paused = false;
    }

    /// Polls at once from where the client is.
    pub(crate) fn poll(&mut self, world: &mut World, waits: bool) {
        let wait = if waits { world.rng.u32(1..30) } else { 0 };
        let mut query = format!("?wait={wait}&{}", self.since(world));
        if world.rng.bool() {
            query += &format!("&limit={}", world.rng.u32(1..6));
        }
        self.request(world, &format!("/poll/{}{query}", self.path()), "");
        self.mode = Mode::PollHead;
    }

    fn stream(&mut self, world: &mut World) {
        let since = self.since(world);
        self.choose_format(world);
        let format = if self.is_json { "json" } else { "raw" };
        let is_cursor = self.has.iter().all(Option::is_some);
        let target = format!("/sse/{}?format={format}", self.path());
        match since
            .strip_prefix("since=")
            .filter(|_| is_cursor && world.rng.bool())
        {
            Some(cursor) => {
                // As a browser does it: the old URL, and where it really is in a field.
                let field = format!("Last-Event-ID: {cursor}\r\n");
                self.request(world, &format!("{target}&since=earliest"), &field);
            }
            None => self.request(world, &format!("{target}&{since}"), ""),
        }
        self.mode = Mode::StreamHead;
    }

    fn web_socket(&mut self, world: &mut World) {
        let since = self.since(world);
        self.choose_format(world);
        // A frame that is only a payload does not even say which channel it is of.
        self.is_json |= self.channels.len() > 1;
        let format = if self.is_json { "json" } else { "raw" };
        let target = format!("/ws/{}?format={format}&{since}", self.path());
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        self.request(world, &target, fields);
        self.has_sent_close = false;
        self.mode = Mode::WebSocketHead;
    }

    fn choose_format(&mut self, world: &mut World) {
        self.is_json = world.rng.bool();
        self.has_lost = false;
    }

    fn path(&self) -> String {
        self.channels.join(",")
    }

    /// From the cursor on, or from a fresh start.
    fn since(&mut self, world: &mut World) -> String {
        if (self.is_faithful || world.rng.u32(..20) > 0) && self.has.iter().all(Option::is_some) {
            let cursor: Vec<_> = self.has.iter().flatten().map(At::to_string).collect();
            return format!("since={}", cursor.join(","));
        }
        self.has.fill(None);
        ["since=now", "since=earliest", "last=3"][world.rng.usize(..3)].to_owned()
    }

    fn request(&mut self, world: &mut World, target: &str, fields: &str) {
        let socket = self
            .socket
            .filter(|&socket| !world.sockets[socket].server_closed);
        let socket = socket.unwrap_or_else(|| {
            let capacity = [100, 700, 5000, 1 << 20][world.rng.usize(..4)];
            world.connect(capacity)
        });
        self.socket = Some(socket);
        self.input.clear();
        let request = format!("GET {target} HTTP/1.1\r\nHost: push\r\n{fields}\r\n");
        world.send(socket, request.as_bytes());
    }

    fn send_frame(&mut self, world: &mut World, opcode: u8, payload: &[u8]) {
        let mask = world.rng.u32(..).to_be_bytes();
        if let Some(socket) = self.socket.filter(|_| !self.has_sent_close) {
            world.send(socket, &wire::client_frame(0x80 | opcode, payload, mask));
        }
    }

    fn send_close(&mut self, world: &mut World, payload: &[u8]) {
        self.send_frame(world, wire::CLOSE, payload);
        self.has_sent_close = true;
    }

    /// Publishes on its own WebSocket, where all of its channels allow it.
    fn publish(&mut self, world: &mut World) {
        if self.has_sent_close
            || !self
                .channels
                .iter()
                .all(|channel| channel.starts_with("echo:"))
        {
            return;
        }
        let text = format!("by client {}", world.rng.u64(..));
        if self.is_json {
            let channel = self.channels[world.rng.usize(..self.channels.len())];
            let object = serde_json::json!({"channel": channel, "data": text});
            self.send_frame(world, wire::TEXT, object.to_string().as_bytes());
        } else {
            let (front, back) = text.as_bytes().split_at(world.rng.usize(..text.len()));
            let mask = world.rng.u32(..).to_be_bytes();
            let socket = self.socket.expect("connected");
            world.send(socket, &wire::client_frame(wire::TEXT, front, mask));
            world.send(socket, &wire::client_frame(0x80, back, mask));
        }
    }

    /// Reads some of what came; says whether there was something.
    pub(crate) fn receive(&mut self, world: &mut World) -> bool {
        let Some(socket) = self.socket.filter(|_| !self.is_paused) else {
            return false;
        };
        let max = [10, 300, usize::MAX][world.rng.usize(..3)];
        let bytes = world.receive(socket, max);
        if bytes.is_empty() {
            if world.sockets[socket].server_closed {
                self.vanish(world);
                return true;
            }
            return false;
        }
        self.input.extend_from_slice(&bytes);
        while self.read(world) {}
        true
    }

    /// Reads one unit of the input.
    fn read(&mut self, world: &mut World) -> bool {
        match std::mem::replace(&mut self.mode, Mode::Idle) {
            Mode::Idle => {
                assert!(
                    self.input.is_empty(),
                    "nobody asked for {:?}",
                    String::from_utf8_lossy(&self.input)
                );
                false
            }
            mode @ (Mode::PollHead | Mode::StreamHead | Mode::WebSocketHead) => {
                let Some(head) = Head::take(&mut self.input) else {
                    self.mode = mode;
                    return false;
                };
                self.mode = match (mode, head.status) {
                    (Mode::PollHead, 200) => Mode::PollBody(head),
                    (Mode::PollHead, 204) => {
                        self.on_nothing(world, &head);
                        Mode::Idle
                    }
                    (Mode::StreamHead, 200) => {
                        let cursor =
                            At::parse_cursor(head.field("pushring-cursor").expect("a cursor"));
                        self.start_at(&cursor);
                        Mode::Stream(Chunks::default(), Events::default())
                    }
                    (Mode::WebSocketHead, 101) => {
                        self.on_switch(world, &head);
                        Mode::WebSocket
                    }
                    (_, 408 | 503) => Mode::RefusalBody(head),
                    (_, status) => panic!("status {status}"),
                };
                true
            }
            Mode::PollBody(head) | Mode::RefusalBody(head)
                if self.input.len() < head.body_bytes() =>
            {
                self.mode = if head.status == 200 {
                    Mode::PollBody(head)
                } else {
                    Mode::RefusalBody(head)
                };
                false
            }
            Mode::PollBody(head) => {
                let body: Vec<u8> = self.input.drain(..head.body_bytes()).collect();
                self.on_messages(world, &head, &body);
                true
            }
            Mode::RefusalBody(head) => {
                self.input.drain(..head.body_bytes());
                true
            }
            Mode::Stream(mut chunks, mut events) => {
                let text = chunks.take(&mut self.input);
                for event in events.feed(&text) {
                    self.on_event(world, &event);
                }
                self.mode = Mode::Stream(chunks, events);
                false
            }
            Mode::WebSocket => {
                self.mode = Mode::WebSocket;
                match wire::take_frame(&mut self.input) {
                    Some((opcode, payload)) => {
                        self.on_frame(world, opcode, &payload);
                        true
                    }
                    None => false,
                }
            }
        }
    }

    fn view<'a>(&'a mut self, world: &'a World, place: usize) -> View<'a> {
        View {
            ledger: &world.ledger,
            config: &world.config,
            now_ms: world.now_ms,
            channel: self.channels[place],
            has: &mut self.has[place],
        }
    }

    fn place(&self, channel: &str) -> usize {
        self.channels
            .iter()
            .position(|&it| it == channel)
            .expect("a channel of the request")
    }

    /// A fresh start stands where the server says.
    fn start_at(&mut self, cursor: &[At]) {
        assert_eq!(cursor.len(), self.channels.len());
        for (has, at) in self.has.iter_mut().zip(cursor) {
            has.get_or_insert_with(|| at.clone());
        }
    }

    fn on_nothing(&mut self, _world: &World, head: &Head) {
        let cursor = At::parse_cursor(head.field("pushring-cursor").expect("a cursor"));
        self.start_at(&cursor);
        let has: Vec<_> = self.has.iter().flatten().cloned().collect();
        assert_eq!(has, cursor, "a poll without messages moves nothing");
    }

    fn on_messages(&mut self, world: &World, head: &Head, body: &[u8]) {
        let answer: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        let cursor = answer["cursor"].as_str().expect("a cursor");
        assert_eq!(head.field("pushring-cursor"), Some(cursor));
        let cursor = At::parse_cursor(cursor);
        assert_eq!(cursor.len(), self.channels.len());
        let is_recovered = answer["recovered"].as_bool().expect("recovered");
        let messages = answer["messages"].as_array().expect("messages");
        assert!(!is_recovered || !messages.is_empty(), "200 tells something");
        if !is_recovered {
            let mut reasons = self.has.iter().zip(&cursor).zip(&self.channels);
            let is_justified = reasons.any(|((has, at), channel)| {
                has.as_ref().is_none_or(|has| {
                    has.epoch != at.epoch
                        || world
                            .ledger
                            .may_be_lost(channel, has, &world.config, world.now_ms)
                })
            });
            assert!(
                is_justified,
                "{:?} with {:?}: nothing is lost",
                self.channels, self.has
            );
        }
        for object in messages {
            let (channel, at) = world.ledger.check_object(object);
            let place = self.place(&channel);
            if !is_recovered && self.has[place].as_ref().is_some_and(|has| *has != at) {
                let before = At {
                    offset: at.offset - 1,
                    ..at.clone()
                };
                self.view(world, place).on_gap(before);
            }
            self.view(world, place).on_message(at);
        }
        for (place, at) in cursor.into_iter().enumerate() {
            if is_recovered && let Some(has) = &self.has[place] {
                assert_eq!(
                    *has, at,
                    "recovered, so the cursor of {} is its last message",
                    self.channels[place]
                );
            }
            self.view(world, place).on_gap(at);
        }
    }

    fn on_event(&mut self, world: &World, event: &wire::Event) {
        let cursor = At::parse_cursor(&event.id);
        assert_eq!(cursor.len(), self.channels.len());
        let moved: Vec<_> = (0..cursor.len())
            .filter(|&place| self.has[place].as_ref() != Some(&cursor[place]))
            .collect();
        let [place] = moved[..] else {
            panic!(
                "{:?} of {:?} moved at once, from {:?} to {cursor:?}",
                moved, self.channels, self.has
            );
        };
        let at = cursor[place].clone();
        if event.name.as_deref() == Some("pushring.gap") {
            let gap: serde_json::Value = serde_json::from_slice(&event.data).expect("JSON");
            assert_eq!(gap["channel"], self.channels[place]);
            assert_eq!(gap["position"], at.to_string());
            return self.view(world, place).on_gap_in_stream(at);
        }
        if self.is_json {
            let object = serde_json::from_slice(&event.data).expect("JSON");
            assert_eq!(
                world.ledger.check_object(&object),
                (self.channels[place].to_owned(), at.clone())
            );
        } else {
            world
                .ledger
                .check_raw(self.channels[place], &at, &event.data, true);
        }
        self.view(world, place).on_message(at);
    }

    fn on_switch(&mut self, world: &World, head: &Head) {
        let cursor = At::parse_cursor(head.field("pushring-cursor").expect("a cursor"));
        self.start_at(&cursor);
        let is_recovered = head.field("pushring-recovered").is_none();
        self.has_lost = !is_recovered;
        for (place, at) in cursor.into_iter().enumerate() {
            if is_recovered {
                assert_eq!(
                    self.has[place],
                    Some(at),
                    "recovered on {}",
                    self.channels[place]
                );
            } else {
                self.view(world, place).on_gap(at);
            }
        }
    }

    fn on_frame(&mut self, world: &mut World, opcode: u8, payload: &[u8]) {
        match opcode {
            wire::PING if self.is_deaf => {}
            wire::PING => self.send_frame(world, wire::PONG, payload),
            wire::PONG => assert_eq!(payload, b"hi"),
            wire::CLOSE => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                // A frame may stand still half-way while its client is deaf.
                let is_late = code == 1008 && &payload[2..] == b"the message took too long";
                assert!(
                    is_late || [1000, 3001, 3008, 3012].contains(&code),
                    "close code {code}"
                );
                self.send_close(world, &payload[..2]);
            }
            wire::TEXT if self.is_json => {
                let object: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
                if let Some(gap) = object.get("gap") {
                    let place = self.place(gap["channel"].as_str().expect("a channel"));
                    let at = At::parse(gap["position"].as_str().expect("a position"));
                    self.view(world, place).on_gap_in_stream(at);
                } else {
                    let (channel, at) = world.ledger.check_object(&object);
                    let place = self.place(&channel);
                    self.view(world, place).on_message(at);
                }
            }
            wire::TEXT | wire::BINARY => {
                let channel = self.channels[0];
                let mut at = self.has[0].as_ref().expect("a stream has a start").next();
                if self.has_lost {
                    at = world
                        .ledger
                        .find(channel, payload)
                        .expect("a payload that was published")
                        .clone();
                    self.view(world, 0).on_gap(At {
                        offset: at.offset - 1,
                        ..at.clone()
                    });
                }
                world.ledger.check_raw(channel, &at, payload, false);
                self.view(world, 0).on_message(at);
            }
            other => panic!("opcode {other}"),
        }
    }
}
