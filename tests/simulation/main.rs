//! Hubs, fan-outs, transports and outboxes under thousands of clients, without a socket, a thread or a clock: what
//! the server promises holds in whatever order things happen.
//!
//! `PUSHRING_SIM_SEED=n` repeats one run; `PUSHRING_SIM_SEEDS` and `PUSHRING_SIM_STEPS` say how many runs there are
//! and how long each is.

mod checker;
mod client;
mod publisher;
mod wire;
mod world;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pushring::close_reason::CloseReason;
use pushring::config::{Config, Namespace, SlowReader};

use client::Client;
use publisher::Publisher;
use world::World;

const CHANNELS: [&str; 11] = [
    "a", "b", "c", "short:a", "short:b", "none:a", "echo:a", "echo:b", "oldest:a", "oldest:b",
    "latest:a",
];

/// Steps between two times that all is quiet and counted.
const STEPS_UNTIL_QUIET: usize = 4000;

/// Ends that some connection meets in every whole run, or the simulation no longer simulates them.
const REACHED: [CloseReason; 9] = [
    CloseReason::PeerClosed,
    CloseReason::PeerReset,
    CloseReason::NoPong,
    CloseReason::Idle,
    CloseReason::SlowReader,
    CloseReason::WriteStalled,
    CloseReason::AgeMax,
    CloseReason::ChannelDeleted,
    CloseReason::Shutdown,
];

fn config() -> Config {
    let mut config = Config::default();
    config.limits.outbox_bytes_max = 1200;
    let namespace = |history_messages, history_age_ms| Namespace {
        history_messages,
        history_age_ms,
        history_bytes: 20_000,
        client_publish: false,
        slow_reader: SlowReader::Close,
        ..Namespace::default()
    };
    let echo = Namespace {
        client_publish: true,
        ..namespace(50, 60_000)
    };
    for (name, slow_reader) in [
        ("oldest", SlowReader::DropOldest),
        ("latest", SlowReader::Latest),
    ] {
        let namespace = Namespace {
            slow_reader,
            ..namespace(50, 60_000)
        };
        config.namespaces.insert(name.to_owned(), namespace);
    }
    config
        .namespaces
        .insert(String::new(), namespace(50, 60_000));
    config
        .namespaces
        .insert("short".to_owned(), namespace(3, 5_000));
    config
        .namespaces
        .insert("none".to_owned(), namespace(0, 60_000));
    config.namespaces.insert("echo".to_owned(), echo);
    config.timing.channel_idle_timeout_ms = 30_000;
    config.timing.websocket_age_max_ms = 300_000;
    config.timing.event_stream_age_max_ms = 200_000;
    config
}

struct Simulation {
    world: World,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let n_shards = rng.usize(1..5);
        let n_clients = rng.usize(5..120);
        let mut client = || {
            let mut channels = CHANNELS.to_vec();
            rng.shuffle(&mut channels);
            channels.truncate(if rng.bool() { 1 } else { rng.usize(2..5) });
            if rng.u32(..6) == 0 {
                channels = vec!["echo:b", "echo:a"];
            }
            Client::new(channels)
        };
        Self {
            clients: std::iter::repeat_with(&mut client)
                .take(n_clients)
                .collect(),
            publishers: (0..3).map(Publisher::new).collect(),
            world: World::new(config(), n_shards, seed),
        }
    }

    fn step(&mut self) {
        let world = &mut self.world;
        let client = world.rng.usize(..self.clients.len());
        let publisher = world.rng.usize(..self.publishers.len());
        match world.rng.u32(..100) {
            0..20 => _ = world.deliver_mail(),
            20..40 => _ = world.read(),
            40..55 => _ = world.deliver_slice(),
            55..80 => _ = self.clients[client].receive(world),
            80..90 => self.clients[client].act(world),
            90..95 => self.publishers[publisher].act(world, &CHANNELS),
            95..98 => _ = self.publishers[publisher].receive(world),
            98 if world.rng.u32(..200) == 0 => world.advance(40_000),
            98 => {
                let ms = world.rng.u64(..3000);
                world.advance(ms);
            }
            _ => world.advance(1),
        }
    }

    /// Nobody begins anything; what has begun comes to its end, but for long polls without news.
    fn become_quiet(&mut self) {
        let world = &mut self.world;
        self.clients.iter_mut().for_each(Client::resume_reading);
        loop {
            let mut is_busy = world.deliver_mail() | world.read() | world.deliver_slice();
            for client in &mut self.clients {
                is_busy |= client.receive(world);
            }
            for publisher in &mut self.publishers {
                is_busy |= publisher.receive(world);
            }
            if !is_busy {
                return;
            }
        }
    }

    /// Everybody who listens has everything, and is counted once for each channel.
    fn check_quiet(&mut self) {
        for channel in CHANNELS {
            let listening = self
                .clients
                .iter()
                .filter(|client| client.listens() && client.channels.contains(&channel));
            let listening: Vec<_> = listening.collect();
            let Some((position, listeners)) = self.world.info(channel) else {
                assert_eq!(listening.len(), 0, "{channel} is gone and listened to");
                continue;
            };
            for client in listening
                .iter()
                .filter(|client| client.knows_its_position())
            {
                let place = client
                    .channels
                    .iter()
                    .position(|&it| it == channel)
                    .expect("a channel of the client");
                if let Some(has) = &client.has[place] {
                    assert_eq!(
                        has.to_string(),
                        position,
                        "a listener of {channel} lags behind: {client:?}"
                    );
                }
            }
            let held = self.world.subscriptions.get(channel).copied().unwrap_or(0);
            assert_eq!(
                (listeners, listening.len()),
                (held, held),
                "listeners of {channel}: home and clients, shards"
            );
        }
    }

    /// All come back by polling until they have everything, and leave.
    fn finish(&mut self) {
        for client in 0..self.clients.len() {
            self.clients[client].vanish(&mut self.world);
            self.clients[client].is_faithful = true;
        }
        for _ in 0..100 {
            for client in &mut self.clients {
                client.poll(&mut self.world, false);
            }
            self.become_quiet();
            assert!(
                self.clients.iter().all(Client::is_idle),
                "a short poll without an answer"
            );
        }
        for channel in CHANNELS {
            let Some((position, _)) = self.world.info(channel) else {
                continue;
            };
            for client in &self.clients {
                for (has, _) in client
                    .has
                    .iter()
                    .zip(&client.channels)
                    .filter(|(_, it)| **it == channel)
                {
                    let has = has.as_ref().map(ToString::to_string);
                    assert_eq!(
                        has,
                        Some(position.clone()),
                        "a client of {channel} comes back and lags behind"
                    );
                }
            }
        }
    }

    fn run(&mut self, steps: usize, step: &mut usize) {
        while *step < steps {
            self.step();
            *step += 1;
            if step.is_multiple_of(STEPS_UNTIL_QUIET) {
                self.become_quiet();
                self.check_quiet();
            }
        }
        self.become_quiet();
        self.check_quiet();
        if self.world.rng.bool() {
            self.world.drain();
            self.become_quiet();
            assert!(
                self.clients.iter().all(Client::is_idle),
                "a client that was not told of the shutdown"
            );
        } else {
            self.finish();
        }
        for client in &mut self.clients {
            client.vanish(&mut self.world);
        }
        for publisher in &mut self.publishers {
            publisher.vanish(&mut self.world);
        }
        self.become_quiet();
        self.world.check_empty();
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

#[test]
fn every_client_gets_every_message_once_and_in_order_or_is_told() {
    let steps = setting("PUSHRING_SIM_STEPS").unwrap_or(20_000) as usize;
    let seeds = match setting("PUSHRING_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("PUSHRING_SIM_SEEDS").unwrap_or(20),
    };
    let is_whole = seeds.end - seeds.start >= 10;
    let mut closed = HashMap::<&str, usize>::new();
    let mut dropped = [0; 3];
    for seed in seeds {
        let mut step = 0;
        let mut simulation = Simulation::new(seed);
        let result = catch_unwind(AssertUnwindSafe(|| simulation.run(steps, &mut step)));
        if let Err(panic) = result {
            eprintln!("PUSHRING_SIM_SEED={seed} fails at step {step}");
            resume_unwind(panic);
        }
        for (sum, count) in dropped.iter_mut().zip(simulation.world.dropped_messages()) {
            *sum += count;
        }
        for (reason, count) in simulation.world.closed {
            *closed.entry(reason).or_default() += count;
        }
    }
    if is_whole {
        for reason in REACHED {
            let count = closed.get(reason.label()).copied().unwrap_or(0);
            assert!(count > 0, "no connection ended as {reason:?}: {closed:?}");
        }
        assert!(
            dropped[1..].iter().all(|&count| count > 0),
            "messages that gave way to others, by policy: {dropped:?}"
        );
    }
}
