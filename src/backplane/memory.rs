//! A broker in memory, that several nodes of one thread share: what the contract of [`Broker`] means, and the model
//! that tests run nodes against. Its [`MemoryServer`] can do everything that brokers do to their clients.
//!
//! It keeps the contract in whatever it is made to do, except where a switch says otherwise.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, sleep};

use crate::backplane::broker::{Broker, BrokerError, Event, Publishing, Reading, Settings, Trace};
use crate::backplane::order::{Keep, NodeId, NotPublished, Standing};
use crate::hub::Published;
use crate::hub::message::ChannelName;
use crate::hub::position::{Epoch, Position};

mod stored;

use stored::Stored;

/// Events that wait for one node. Whoever is further behind is cut off, as a slow client of a real broker is.
const EVENTS_MAX: usize = 65_536;

/// What the servers' clocks show when they are made: some day in 2027.
const FIRST_MS: u64 = 1_800_000_000_000;

thread_local! {
    /// By URL, which is all that a node knows of its broker.
    static SERVERS: RefCell<HashMap<String, Weak<Shared>>> = RefCell::default();
}

/// The server, which is there for as long as somebody holds it or is connected to it. All its nodes share one prefix.
#[derive(Clone)]
pub struct MemoryServer(Rc<Shared>);

struct Shared {
    url: String,
    state: RefCell<State>,
    /// One permit: callers take their turn in the order in which they were first polled.
    turns: Semaphore,
    resumed: Notify,
}

struct State {
    random: fastrand::Rng,
    started: Instant,
    /// What its clock showed then.
    first_ms: u64,
    is_up: bool,
    is_paused: bool,
    is_refusing: bool,
    connections: usize,
    /// From the moment that the server has carried a call out until its caller knows.
    answer_delay: Duration,
    channels: HashMap<ChannelName, Stored>,
    clients: HashMap<u64, Client>,
    last_client: u64,
    cut_off: HashSet<NodeId>,
    looked_for: Vec<u64>,
    is_trace_lost: bool,
    fate: Box<DecideFate>,
}

/// The server's side of one connected node.
struct Client {
    node: NodeId,
    events: mpsc::Sender<Event>,
    listened: HashSet<ChannelName>,
    /// What was said since the node's events are held back.
    held: Option<VecDeque<Event>>,
    is_silent: bool,
}

/// What becomes of an event on its way to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    ArrivesTwice,
    /// Against the contract of some brokers, and part of life with others.
    IsLost,
}

type DecideFate = dyn FnMut(NodeId, &Event) -> Fate;

/// What a restarted server still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All but the newest messages of each channel, so many of them.
    AllBut(usize),
    Nothing,
}

impl MemoryServer {
    /// Replaces the server of the same URL, if there is one. The same seed draws the same epochs.
    pub fn new(url: &str, seed: u64) -> Self {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            started: Instant::now(),
            first_ms: FIRST_MS,
            is_up: true,
            is_paused: false,
            is_refusing: false,
            connections: 1,
            answer_delay: Duration::ZERO,
            channels: HashMap::new(),
            clients: HashMap::new(),
            last_client: 0,
            cut_off: HashSet::new(),
            looked_for: Vec::new(),
            is_trace_lost: false,
            fate: Box::new(|_, _| Fate::Arrives),
        };
        let shared = Rc::new(Shared {
            url: url.to_owned(),
            state: RefCell::new(state),
            turns: Semaphore::new(1),
            resumed: Notify::new(),
        });
        SERVERS.with_borrow_mut(|servers| servers.insert(url.to_owned(), Rc::downgrade(&shared)));
        Self(shared)
    }

    /// Of nodes that connect from now on.
    pub fn set_connections(&self, connections: usize) {
        self.0.state.borrow_mut().connections = connections;
    }

    pub fn set_answer_delay(&self, delay: Duration) {
        self.0.state.borrow_mut().answer_delay = delay;
    }

    /// Sets the server's clock, as an administrator would.
    pub fn set_clock_ahead(&self, ms: u64) {
        self.0.state.borrow_mut().first_ms = FIRST_MS + ms;
    }

    /// Every publish is refused, as by a replica or a server whose memory is full.
    pub fn set_refusing(&self, is_refusing: bool) {
        self.0.state.borrow_mut().is_refusing = is_refusing;
    }

    /// Asks `fate` about every event for every node.
    pub fn set_fate(&self, fate: impl FnMut(NodeId, &Event) -> Fate + 'static) {
        self.0.state.borrow_mut().fate = Box::new(fate);
    }

    /// Carries nothing out and says nothing until [`resume`](Self::resume), as a stopped process.
    pub fn pause(&self) {
        self.0.state.borrow_mut().is_paused = true;
    }

    pub fn resume(&self) {
        self.0.state.borrow_mut().is_paused = false;
        self.0.resumed.notify_waiters();
    }

    /// Ends every connection, and takes none.
    pub fn stop(&self) {
        let mut state = self.0.state.borrow_mut();
        state.is_up = false;
        state.break_off(|_| true);
    }

    pub fn start(&self) {
        self.0.state.borrow_mut().is_up = true;
    }

    /// Ends every connection, and is there again at once. It does not know what it has lost.
    pub fn restart(&self, kept: Kept) {
        let mut state = self.0.state.borrow_mut();
        state.break_off(|_| true);
        match kept {
            Kept::Nothing => state.channels.clear(),
            Kept::AllBut(lost) => {
                for stored in state.channels.values_mut() {
                    stored.lose_newest(lost);
                }
            }
        }
    }

    /// Forgets all channels and keeps the connections: `FLUSHALL`.
    pub fn flush(&self) {
        self.0.state.borrow_mut().channels.clear();
    }

    /// Ends the node's connections; it may connect again.
    pub fn disconnect(&self, node: NodeId) {
        self.0
            .state
            .borrow_mut()
            .break_off(|client| client.node == node);
    }

    /// Whether the node can connect. One that cannot loses the connections that it has.
    pub fn set_cut_off(&self, node: NodeId, is_cut_off: bool) {
        if is_cut_off {
            self.0.state.borrow_mut().cut_off.insert(node);
            self.disconnect(node);
        } else {
            self.0.state.borrow_mut().cut_off.remove(&node);
        }
    }

    /// Takes the node's calls and never says anything by itself, canaries included, on the connections of now.
    pub fn silence(&self, node: NodeId) {
        self.for_clients_of(node, |client| client.is_silent = true);
    }

    /// Keeps the node's events back, all of them and so in order, until [`release`](Self::release).
    pub fn hold(&self, node: NodeId) {
        self.for_clients_of(node, |client| {
            client.held.get_or_insert_default();
        });
    }

    pub fn release(&self, node: NodeId) {
        self.for_clients_of(node, |client| {
            let held = client.held.take().unwrap_or_default();
            held.into_iter().for_each(|event| client.send(event));
        });
    }

    /// What the node listens to, in order.
    pub fn listened(&self, node: NodeId) -> Vec<ChannelName> {
        let mut listened = Vec::new();
        self.for_clients_of(node, |client| {
            listened.extend(client.listened.iter().cloned())
        });
        listened.sort();
        listened
    }

    /// The connections of whose traces it was asked, counted from 1.
    pub fn looked_for(&self) -> Vec<u64> {
        self.0.state.borrow().looked_for.clone()
    }

    /// Says that it has not what it is asked for.
    pub fn lose_traces(&self) {
        self.0.state.borrow_mut().is_trace_lost = true;
    }

    /// Channels that it knows.
    pub fn channels(&self) -> usize {
        self.0.state.borrow().channels.len()
    }

    /// Nodes that are connected, in order.
    pub fn nodes(&self) -> Vec<NodeId> {
        let state = self.0.state.borrow();
        let mut nodes: Vec<_> = state.clients.values().map(|client| client.node).collect();
        nodes.sort();
        nodes
    }

    fn for_clients_of(&self, node: NodeId, mut each: impl FnMut(&mut Client)) {
        let mut state = self.0.state.borrow_mut();
        let clients = state.clients.values_mut();
        clients
            .filter(|client| client.node == node)
            .for_each(&mut each);
    }
}

impl Shared {
    /// Whose turn it is, once the server runs.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, BrokerError> {
        let turn = self.turns.acquire().await.map_err(|_| broken())?;
        while self.state.borrow().is_paused {
            self.resumed.notified().await;
        }
        Ok(turn)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        SERVERS.with_borrow_mut(|servers| {
            // A newer server of this URL stays.
            servers.retain(|url, server| *url != self.url || server.strong_count() > 0);
        });
    }
}

impl State {
    fn now_us(&self) -> u64 {
        self.first_ms * 1000 + self.started.elapsed().as_micros() as u64
    }

    fn break_off(&mut self, is_meant: impl Fn(&Client) -> bool) {
        self.clients.retain(|_, client| {
            let is_meant = is_meant(client);
            if is_meant {
                // The end of the events says the same to whoever is too far behind for this.
                let _ = client.events.try_send(Event::Broken(broken()));
            }
            !is_meant
        });
    }

    /// What the broker has of the channel, which it begins if there is nothing.
    fn stored(&mut self, channel: &ChannelName, keep: Keep) -> &mut Stored {
        let now_us = self.now_us();
        let random = &mut self.random;
        if self
            .channels
            .get(channel)
            .is_some_and(|stored| stored.is_over(now_us / 1000))
        {
            self.channels.remove(channel);
        }
        let stored = self
            .channels
            .entry(channel.clone())
            .or_insert_with(|| Stored::new(random.u64(..)));
        stored.touch(now_us, keep);
        stored
    }

    /// Tells those that listen to `channel`, or everybody.
    fn say(&mut self, channel: Option<&ChannelName>, event: impl Fn() -> Event) {
        for client in self.clients.values_mut() {
            if channel.is_none_or(|channel| client.listened.contains(channel)) {
                client.receive(&mut self.fate, &event);
            }
        }
    }
}

impl Client {
    fn receive(&mut self, fate: &mut DecideFate, event: impl Fn() -> Event) {
        let copies = match fate(self.node, &event()) {
            _ if self.is_silent => 0,
            Fate::IsLost => 0,
            Fate::Arrives => 1,
            Fate::ArrivesTwice => 2,
        };
        for _ in 0..copies {
            match &mut self.held {
                Some(held) => held.push_back(event()),
                None => self.send(event()),
            }
        }
    }

    fn send(&mut self, event: Event) {
        if self.events.try_send(event).is_err() {
            // Nothing else holds the sender: the node sees the end of its events.
            self.events = mpsc::channel(1).0;
        }
    }
}

fn broken() -> BrokerError {
    BrokerError("the connection to the broker in memory is lost".into())
}

/// A node's side.
pub struct Memory {
    server: Rc<Shared>,
    client: u64,
    connections: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.server.state.borrow_mut().clients.remove(&self.client);
    }
}

impl Memory {
    /// Has `call` carried out in its turn, and waits for the answer.
    async fn ask<T>(&self, call: impl FnOnce(&mut State) -> T) -> Result<T, BrokerError> {
        let turn = self.server.turn().await?;
        let (answer, delay) = {
            let mut state = self.server.state.borrow_mut();
            if !state.clients.contains_key(&self.client) {
                return Err(broken());
            }
            (call(&mut state), state.answer_delay)
        };
        drop(turn);
        if !delay.is_zero() {
            sleep(delay).await;
        }
        // What was carried out stays so; the caller does not hear of it.
        let is_connected = self
            .server
            .state
            .borrow()
            .clients
            .contains_key(&self.client);
        is_connected.then_some(answer).ok_or_else(broken)
    }

    async fn ask_client(&self, call: impl FnOnce(&mut Client)) -> Result<(), BrokerError> {
        let client = self.client;
        self.ask(|state| {
            if let Some(client) = state.clients.get_mut(&client) {
                call(client);
            }
        })
        .await
    }
}

impl Broker for Memory {
    async fn connect(settings: &Settings) -> Result<(Self, mpsc::Receiver<Event>), BrokerError> {
        let server = SERVERS.with_borrow(|servers| servers.get(&settings.url)?.upgrade());
        let Some(server) = server else {
            return Err(BrokerError(format!(
                "no server has the URL {}",
                settings.url
            )));
        };
        drop(server.turn().await?);
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let (client, connections) = {
            let mut state = server.state.borrow_mut();
            if !state.is_up || state.cut_off.contains(&settings.node) {
                return Err(BrokerError(
                    "the broker in memory takes no connection".into(),
                ));
            }
            state.last_client += 1;
            let client = state.last_client;
            state.clients.insert(
                client,
                Client {
                    node: settings.node,
                    events,
                    listened: HashSet::new(),
                    held: None,
                    is_silent: false,
                },
            );
            (client, state.connections)
        };
        let memory = Self {
            server,
            client,
            connections,
        };
        Ok((memory, receiver))
    }

    /// Names its connection: no position is given out twice here.
    fn trace(&self) -> Option<Trace> {
        let position = Position {
            epoch: Epoch::NONE,
            offset: self.client,
        };
        Some(Trace {
            position,
            published_us: 0,
        })
    }

    async fn look_for(&self, trace: Trace) -> Result<bool, BrokerError> {
        self.ask(|state| {
            state.looked_for.push(trace.position.offset);
            !state.is_trace_lost
        })
        .await
    }

    fn connections(&self) -> usize {
        self.connections
    }

    async fn publish(
        &self,
        publishes: Vec<Publishing>,
    ) -> Result<Vec<Result<Published, NotPublished>>, BrokerError> {
        self.ask(|state| {
            let publish = |publishing: Publishing| {
                if state.is_refusing {
                    return Err(NotPublished::Refused);
                }
                let now_us = state.now_us();
                let stored = state.stored(&publishing.publish.channel, publishing.keep);
                let (published, arrival) = stored.publish(publishing, now_us);
                if let Some(arrival) = arrival {
                    let channel = arrival.message.channel.clone();
                    state.say(Some(&channel), || Event::Arrival(arrival.clone()));
                }
                Ok(published)
            };
            publishes.into_iter().map(publish).collect()
        })
        .await
    }

    async fn listen(&self, channels: &[ChannelName]) -> Result<(), BrokerError> {
        self.ask_client(|client| {
            for channel in channels {
                let is_new = client.listened.insert(channel.clone());
                debug_assert!(is_new, "{channel} is listened to already");
            }
        })
        .await
    }

    async fn unlisten(&self, channels: &[ChannelName]) -> Result<(), BrokerError> {
        self.ask_client(|client| {
            for channel in channels {
                let was_there = client.listened.remove(channel);
                debug_assert!(was_there, "{channel} is not listened to");
            }
        })
        .await
    }

    async fn read(&self, readings: &[Reading]) -> Result<Vec<Standing>, BrokerError> {
        self.ask(|state| {
            let read = |reading: &Reading| {
                let now_us = state.now_us();
                let channel = &reading.channel;
                let stored = state.stored(channel, reading.keep);
                if reading.after.is_some_and(|after| stored.has_lost(after)) {
                    state.channels.remove(channel);
                    state.say(Some(channel), || Event::Moved(channel.clone()));
                }
                let stored = state.stored(channel, reading.keep);
                stored.standing(reading.after, now_us / 1000)
            };
            readings.iter().map(read).collect()
        })
        .await
    }

    async fn delete(&self, channel: &ChannelName, _keep: Keep) -> Result<bool, BrokerError> {
        self.ask(|state| {
            let now_ms = state.now_us() / 1000;
            let was_there = state
                .channels
                .remove(channel)
                .is_some_and(|stored| !stored.is_over(now_ms));
            if was_there {
                state.say(Some(channel), || Event::Ended(channel.clone()));
            }
            was_there
        })
        .await
    }

    async fn canary(&self, number: u64) -> Result<(), BrokerError> {
        let (client, connections) = (self.client, self.connections);
        self.ask(|state| {
            if let Some(client) = state.clients.get_mut(&client) {
                for connection in 0..connections {
                    client.receive(&mut state.fate, || Event::Canary { connection, number });
                }
            }
        })
        .await
    }

    async fn now_ms(&self) -> Result<u64, BrokerError> {
        self.ask(|state| state.now_us() / 1000).await
    }

    async fn tell(&self, note: &[u8]) -> Result<(), BrokerError> {
        self.ask(|state| state.say(None, || Event::Note(note.to_vec())))
            .await
    }
}

#[cfg(test)]
pub(super) mod tests;
