//! A backend: publishes, deletes and asks on a kept connection, several requests at a time.

use std::collections::{HashMap, VecDeque};

use crate::checker::At;
use crate::wire::Head;
use crate::world::World;

/// A request without its answer.
enum Pending {
    Publish {
        channels: Vec<&'static str>,
        payload: Vec<u8>,
        key: Option<String>,
        sent_ms: u64,
    },
    Other(&'static [u16]),
}

/// The first result under an `Idempotency-Key`.
struct First {
    ids: Vec<At>,
    channels: Vec<&'static str>,
    /// Before the home has seen it.
    sent_ms: u64,
}

#[derive(Default)]
pub(crate) struct Publisher {
    name: usize,
    socket: Option<usize>,
    head: Option<Head>,
    input: Vec<u8>,
    pending: VecDeque<Pending>,
    firsts: HashMap<String, First>,
    n_published: usize,
}

impl Publisher {
    pub(crate) fn new(name: usize) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn vanish(&mut self, world: &mut World) {
        if let Some(socket) = self.socket.take() {
            world.close(socket);
        }
        self.pending.clear();
        self.input.clear();
        self.head = None;
    }

    pub(crate) fn act(&mut self, world: &mut World, channels: &[&'static str]) {
        if !self.is_idle() {
            return;
        }
        if self
            .socket
            .is_none_or(|socket| world.sockets[socket].server_closed)
        {
            self.vanish(world);
            self.socket = Some(world.connect(1 << 20));
        }
        for _ in 0..world.rng.usize(1..4) {
            match world.rng.u32(..100) {
                0..90 => self.publish(world, channels),
                90..93 => self.ask(world, channels, "DELETE", &[204, 404]),
                _ => self.ask(world, channels, "GET", &[200, 404]),
            }
        }
    }

    fn ask(
        &mut self,
        world: &mut World,
        channels: &[&'static str],
        method: &str,
        statuses: &'static [u16],
    ) {
        let channel = channels[world.rng.usize(..channels.len())];
        let request = format!("{method} /channels/{channel} HTTP/1.1\r\nHost: push\r\n\r\n");
        world.send(self.socket.expect("connected"), request.as_bytes());
        self.pending.push_back(Pending::Other(statuses));
    }

    fn publish(&mut self, world: &mut World, channels: &[&'static str]) {
        let rng = &mut world.rng;
        self.n_published += 1;
        let mut chosen = vec![channels[rng.usize(..channels.len())]];
        if rng.u32(..4) == 0 {
            let other = channels[rng.usize(..channels.len())];
            chosen.extend((other != chosen[0]).then_some(other));
        }
        let key = (rng.u32(..4) == 0).then(|| format!("{}-{}", self.name, rng.u32(..50)));
        if let Some(first) = key.as_ref().and_then(|key| self.firsts.get(key)) {
            chosen.clone_from(&first.channels);
        }
        let is_asked = |pending: &Pending| match pending {
            Pending::Publish { key: asked, .. } => asked.is_some() && *asked == key,
            Pending::Other(_) => false,
        };
        if self.pending.iter().any(is_asked) {
            return;
        }
        let unique = format!("{}/{}\n", self.name, self.n_published);
        let padding_max = if rng.u32(..10) == 0 { 1500 } else { 60 };
        let padding = "x".repeat(rng.usize(..padding_max));
        let (kind, payload) = match rng.u32(..3) {
            0 => (
                "application/json",
                serde_json::json!({"n": unique, "padding": padding})
                    .to_string()
                    .into_bytes(),
            ),
            1 => ("text/plain", format!("{unique}{padding}").into_bytes()),
            _ => (
                "application/octet-stream",
                [b"\xFF\0", unique.as_bytes()].concat(),
            ),
        };
        let mut query = String::new();
        if rng.u32(..5) == 0 {
            query += "&store=false";
        }
        if rng.u32(..5) == 0 {
            query += &format!("&ttl={}", rng.u32(..5));
        }
        if rng.u32(..3) == 0 {
            query += "&event=created";
        }
        let mut request = format!(
            "POST /pub/{}?{query} HTTP/1.1\r\nHost: push\r\nContent-Type: {kind}\r\n",
            chosen.join(",")
        );
        if let Some(key) = &key {
            request += &format!("Idempotency-Key: {key}\r\n");
        }
        let mut request = request.into_bytes();
        if rng.bool() {
            request
                .extend_from_slice(format!("Content-Length: {}\r\n\r\n", payload.len()).as_bytes());
            request.extend_from_slice(&payload);
        } else {
            request.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in payload.chunks(rng.usize(1..2000)) {
                request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                request.extend_from_slice(chunk);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");
        }
        world.send(self.socket.expect("connected"), &request);
        self.pending.push_back(Pending::Publish {
            channels: chosen,
            payload,
            key,
            sent_ms: world.now_ms,
        });
    }

    /// Reads some of the answers; says whether there was something.
    pub(crate) fn receive(&mut self, world: &mut World) -> bool {
        let Some(socket) = self.socket else {
            return false;
        };
        let bytes = world.receive(socket, usize::MAX);
        if bytes.is_empty() {
            if world.sockets[socket].server_closed {
                self.vanish(world);
                return true;
            }
            return false;
        }
        self.input.extend_from_slice(&bytes);
        loop {
            if self.head.is_none() {
                self.head = Head::take(&mut self.input);
            }
            let Some(head) = self
                .head
                .take_if(|head| self.input.len() >= head.body_bytes())
            else {
                return true;
            };
            let body: Vec<u8> = self.input.drain(..head.body_bytes()).collect();
            let pending = self.pending.pop_front().expect("an answer to a request");
            self.on_answer(world, pending, head.status, &body);
        }
    }

    fn on_answer(&mut self, world: &World, pending: Pending, status: u16, body: &[u8]) {
        if status == 408 || status == 503 {
            return;
        }
        let (channels, payload, key, sent_ms) = match pending {
            Pending::Publish {
                channels,
                payload,
                key,
                sent_ms,
            } => (channels, payload, key, sent_ms),
            Pending::Other(statuses) => {
                return assert!(statuses.contains(&status), "status {status}");
            }
        };
        let answer: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        let results = match &answer {
            serde_json::Value::Array(results) => results.clone(),
            one => vec![one.clone()],
        };
        assert_eq!(results.len(), channels.len());
        let has_receivers = results
            .iter()
            .any(|result| result["receivers"].as_u64() > Some(0));
        assert_eq!(status, if has_receivers { 201 } else { 202 });
        let mut ids = Vec::new();
        for (result, channel) in results.iter().zip(&channels) {
            assert_eq!(result["channel"], *channel);
            ids.push(At::parse(result["id"].as_str().expect("an id")));
        }
        let window_ms = world.config.timing.idempotency_window_ms;
        let first = key.as_ref().and_then(|key| self.firsts.get(key));
        let is_in_window = first.is_some_and(|first| world.now_ms < first.sent_ms + window_ms);
        let mut begin_ms = sent_ms;
        for (place, (id, channel)) in ids.iter().zip(&channels).enumerate() {
            let is_repeat = first.is_some_and(|first| first.ids[place] == *id);
            assert!(
                is_repeat || !is_in_window,
                "on {channel} a repeat answers the first result, not {id}"
            );
            if is_repeat {
                // Its window began with the first one, even where another channel's has ended.
                begin_ms = first.map_or(sent_ms, |first| first.sent_ms);
                let published = world.ledger.find(channel, &payload);
                assert_eq!(published, None, "a repeat was published on {channel}");
            } else {
                assert!(
                    world.ledger.is_payload(channel, id, &payload),
                    "{channel} has something else at {id}"
                );
            }
        }
        if let Some(key) = key.filter(|_| !is_in_window) {
            self.firsts.insert(
                key,
                First {
                    ids,
                    channels,
                    sent_ms: begin_ms,
                },
            );
        }
    }
}
