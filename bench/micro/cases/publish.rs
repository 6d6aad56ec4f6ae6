//! The stages of a publish over HTTP, in their order, and all of them together as a shard runs them. They have no
//! twins: what they are made of is measured in the other groups.

use std::hint::black_box;
use std::sync::Arc;

use pushring::api::publish::{PublishRequest, answer};
use pushring::api::question::{Answer, Question};
use pushring::api::{Request, Side, parse};
use pushring::auth::Authenticator;
use pushring::config::Config;
use pushring::hub::fanout::Fanout;
use pushring::hub::{Hub, Scope, ShardId};
use pushring::metrics::Metrics;
use pushring::transport::{Context, Effects, Next, Transport};

use super::Group;
use super::http::{PUBLISH, decode};
use crate::harness::Case;

pub(crate) const GROUP: Group = Group {
    name: "publish",
    cases,
    agree,
};

fn cases() -> Vec<Case> {
    let config = Arc::new(Config::default());
    let body = body();
    let requested = request(&config);
    let mut publishes = requested.complete(&body).expect("a valid body");
    let publish = publishes.next().expect("one channel");
    drop(publishes);
    let mut hub = Hub::new(config.clone(), 1, 1);
    let mut listening = Vec::new();
    let published = hub
        .publish(publish.clone(), 0, &mut listening)
        .expect("there is room")
        .0;
    let results = [(publish.channel.clone(), Ok((published, Scope::Alone)))];
    let mut out = Vec::new();
    let mut connection = Connection::new();
    vec![
        Case::alone("publish: read the head", || {
            decode(black_box(PUBLISH.as_bytes())).map(|(_, bytes)| bytes)
        }),
        Case::alone("publish: parse the request", move || {
            request(black_box(&config))
        }),
        Case::alone("publish: take the body", move || {
            let mut publishes = requested.complete(black_box(&body)).expect("a valid body");
            publishes.next()
        }),
        Case::alone("publish: number and store", move || {
            hub.publish(publish.clone(), 0, &mut listening)
                .expect("there is room")
        }),
        Case::alone("publish: write the body of the answer", move || {
            out.clear();
            answer(black_box(&results), &mut out)
        }),
        Case::alone("publish: from request to answer", move || {
            connection.publish()
        }),
    ]
}

/// There is no twin; the answers count up.
fn agree(_: &mut fastrand::Rng) {
    let mut connection = Connection::new();
    for offset in 1..10 {
        connection.publish();
        let answer = str::from_utf8(connection.answer()).expect("an answer is text");
        assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
        let body_end = format!("-{offset}\",\"receivers\":0}}");
        assert!(answer.ends_with(&body_end), "{answer}");
    }
}

fn body() -> Vec<u8> {
    format!("{{\"text\":\"{}\"}}", "x".repeat(128 - 11)).into_bytes()
}

fn request(config: &Config) -> PublishRequest {
    let (head, _) = decode(PUBLISH.as_bytes()).expect("the head is whole");
    match parse(&head, config, Side::Both) {
        Ok(Request::Publish(request)) => request,
        other => panic!("no publish: {other:?}"),
    }
}

/// One connection and what it needs of a shard that is the home of its channel.
struct Connection {
    config: Arc<Config>,
    hub: Hub,
    fanout: Fanout,
    metrics: Metrics,
    effects: Effects,
    rng: fastrand::Rng,
    auth: Authenticator,
    transport: Transport,
    request: Vec<u8>,
    sent: Vec<u8>,
}

impl Connection {
    fn new() -> Self {
        let config = Arc::new(Config::default());
        let body = body();
        assert!(PUBLISH.contains(&format!("Content-Length: {}\r\n", body.len())));
        Self {
            hub: Hub::new(config.clone(), 1, 1),
            fanout: Fanout::default(),
            metrics: Metrics::default(),
            effects: Effects::default(),
            rng: fastrand::Rng::with_seed(1),
            auth: Authenticator::open(&config),
            transport: Transport::new(0),
            request: [PUBLISH.as_bytes(), &body].concat(),
            sent: Vec::new(),
            config,
        }
    }

    /// One request and its answer; gives the answer's length.
    fn publish(&mut self) -> usize {
        self.sent.clear();
        let mut request = std::mem::take(&mut self.request);
        let (consumed, next) =
            self.step(|transport, context| transport.on_bytes(black_box(&mut request), context));
        debug_assert_eq!(consumed, request.len());
        debug_assert!(matches!(next, Next::Stay));
        self.request = request;
        while let Some((slot, question)) = self.effects.questions.pop() {
            let Question::Publish(publish) = question else {
                unreachable!("a publish asks for nothing else")
            };
            let result = self.hub.publish(publish, 0, &mut Vec::new());
            let answer = Answer::Published(result.map(|(published, _)| (published, Scope::Alone)));
            self.step(|transport, context| transport.on_answer(slot, answer, None, context));
        }
        for slice in self.effects.out.slices() {
            self.sent.extend_from_slice(slice);
        }
        self.effects.out.clear();
        self.sent.len()
    }

    fn answer(&self) -> &[u8] {
        &self.sent
    }

    fn step<R>(&mut self, step: impl FnOnce(&mut Transport, &mut Context<'_>) -> R) -> R {
        let mut context = Context {
            config: &self.config,
            side: Side::Both,
            connection: 0,
            now_ms: 0,
            unix_ms: 0,
            auth: &mut self.auth,
            date: b"Sun, 06 Nov 1994 08:49:37 GMT",
            is_ready: true,
            is_draining: false,
            has_backlog: false,
            shard: ShardId(0),
            n_shards: 1,
            fanout: &self.fanout,
            rng: &mut self.rng,
            metrics: &mut self.metrics,
            effects: &mut self.effects,
        };
        step(&mut self.transport, &mut context)
    }
}
