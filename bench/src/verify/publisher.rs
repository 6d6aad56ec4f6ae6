//! A backend that publishes over keep-alive connections, loses some of them before the answer, and repeats.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde::Deserialize;

use super::judge::{Finding, Findings};
use super::ledger::{Disagreement, Ledger};
use super::payload::Message;
use super::position::Position;
use crate::clients::http::{Body, decode_head, header_value};

/// Numbers of one publisher: the rest of the 31 bits is which publisher.
const NUMBER_BITS: u32 = 24;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a publish is repeated before the run is given up.
const REPEAT_TIMEOUT: Duration = Duration::from_secs(60);
const REPEAT_PAUSE: Duration = Duration::from_millis(30);
/// One of so many publishes loses its connection before the answer.
const CUTS: u32 = 50;
/// One of so many publishes has no key, and is not repeated.
const KEYLESS: u32 = 16;
/// One of so many publishes goes to two channels.
const DOUBLES: u32 = 20;

/// What the publishers have in common.
pub(super) struct Shared {
    pub(super) ledger: Arc<Ledger>,
    pub(super) findings: Arc<Findings>,
    pub(super) seed: u64,
    /// Any of them will do.
    pub(super) addresses: Vec<SocketAddr>,
    /// Who is answered 503 knows that the message was not taken. With a broker nobody may know.
    pub(super) refusals_are_final: bool,
    pub(super) is_over: AtomicBool,
    pub(super) acknowledged: AtomicU64,
    /// Publishes whose answer was lost and that were not repeated.
    pub(super) unknown: AtomicU64,
    pub(super) repeated: AtomicU64,
    /// Numbers that were sent to more than one memory of keys, which could not make them one.
    pub(super) over_memories: Mutex<HashSet<u32>>,
}

pub(super) struct Publisher {
    shared: Arc<Shared>,
    index: u32,
    count: u32,
    rng: Rng,
    connection: Option<TcpStream>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    One(Placed),
    Several(Vec<Placed>),
}

#[derive(Deserialize)]
struct Placed {
    channel: String,
    id: String,
}

/// What a request has come to.
enum Attempt {
    Taken(Vec<Placed>),
    /// The answer says that it was not taken.
    Refused(u16),
    /// Nobody knows.
    Lost,
}

pub(super) fn publisher_of(number: u32) -> u32 {
    number >> NUMBER_BITS
}

impl Publisher {
    pub(super) fn new(shared: &Arc<Shared>, index: u32) -> Self {
        Self {
            shared: Arc::clone(shared),
            index,
            count: 0,
            rng: Rng::with_seed(shared.seed ^ (u64::from(index) << 48)),
            connection: None,
        }
    }

    /// Publishes `rate` messages per second until the run is over.
    pub(super) fn run(mut self, rate: f64) -> Result<(), String> {
        let interval = Duration::from_secs_f64(1.0 / rate);
        let mut next = Instant::now();
        while !self.shared.is_over.load(Ordering::Acquire) {
            let channels = self.choose_channels();
            self.publish(&channels)?;
            // After a stop of the server it goes on at its rate, and does not catch up.
            next = (next + interval).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    fn choose_channels(&mut self) -> Vec<u16> {
        let count = self.shared.ledger.channels.len() as u16;
        let first = self.rng.u16(..count);
        if count > 1 && self.rng.u32(..DOUBLES) == 0 {
            return vec![first, (first + self.rng.u16(1..count)) % count];
        }
        vec![first]
    }

    /// Publishes one message. It gives the positions; none if nobody can know them.
    pub(super) fn publish(&mut self, channels: &[u16]) -> Result<Vec<Position>, String> {
        self.count += 1;
        let number = (self.index << NUMBER_BITS) | self.count;
        let shared = Arc::clone(&self.shared);
        let ledger = &shared.ledger;
        let of = |channel: &u16| &ledger.channels[usize::from(*channel)];
        // What may come at any time later says nothing about how much a short history has lost by now.
        let may_be_keyless = !channels.iter().any(|channel| of(channel).is_short());
        let has_key = !(may_be_keyless && self.rng.u32(..KEYLESS) == 0);
        let request = self.request(channels, number, has_key);
        let memories = ledger.memories();
        channels
            .iter()
            .for_each(|channel| of(channel).begin_publish());
        let end = Instant::now() + REPEAT_TIMEOUT;
        loop {
            match self.attempt(&request) {
                Attempt::Taken(placed) => {
                    if ledger.memories() != memories {
                        let mut numbers = shared.over_memories.lock().expect("no panic");
                        numbers.insert(number);
                    }
                    shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                    let positions = self.record(channels, number, &placed);
                    channels
                        .iter()
                        .for_each(|channel| of(channel).end_publish());
                    return Ok(positions);
                }
                Attempt::Refused(503) if has_key || shared.refusals_are_final => {}
                Attempt::Refused(503) => {
                    shared.unknown.fetch_add(1, Ordering::Relaxed);
                    return Ok(Vec::new());
                }
                Attempt::Refused(status) => {
                    return Err(format!("a publish was refused with {status}"));
                }
                Attempt::Lost if !has_key => {
                    shared.unknown.fetch_add(1, Ordering::Relaxed);
                    return Ok(Vec::new());
                }
                Attempt::Lost => {}
            }
            if Instant::now() > end {
                return Err("the server takes no publish any more".into());
            }
            shared.repeated.fetch_add(1, Ordering::Relaxed);
            thread::sleep(REPEAT_PAUSE);
        }
    }

    fn record(&self, channels: &[u16], number: u32, placed: &[Placed]) -> Vec<Position> {
        let shared = &self.shared;
        let mut positions = Vec::new();
        for (index, &channel) in channels.iter().enumerate() {
            let name = &shared.ledger.channels[usize::from(channel)].name;
            let placed = placed.get(index).filter(|placed| placed.channel == *name);
            let Some(at) = placed.and_then(|placed| Position::parse(&placed.id)) else {
                shared.findings.add(Finding::Malformed, 1, || {
                    format!("the answer to a publish has no position of {name}")
                });
                continue;
            };
            match shared.ledger.tell(channel, at, number, true) {
                Ok(()) => {}
                Err(Disagreement::EpochTooMany) => {
                    shared.findings.add(Finding::EpochTooMany, 1, || {
                        format!("{at}, the position of a publish on {name}")
                    });
                }
                Err(other) => shared.findings.add(Finding::WrongMessage, 1, || {
                    format!("{number:08x} is said to be at {at} of {name}: {other:?}")
                }),
            }
            positions.push(at);
        }
        positions
    }

    fn request(&self, channels: &[u16], number: u32, has_key: bool) -> Vec<u8> {
        let message = Message::make(self.shared.seed, number);
        let names: Vec<_> = channels
            .iter()
            .map(|&channel| {
                self.shared.ledger.channels[usize::from(channel)]
                    .name
                    .as_str()
            })
            .collect();
        let event = message.event.map_or_else(String::new, |event| {
            let escaped: String = event
                .bytes()
                .map(|byte| match byte {
                    b'a'..=b'z' => char::from(byte).to_string(),
                    _ => format!("%{byte:02X}"),
                })
                .collect();
            format!("?event={escaped}")
        });
        let key = match has_key {
            true => format!("Idempotency-Key: {number:08x}\r\n"),
            false => String::new(),
        };
        let head = format!(
            "POST /pub/{}{event} HTTP/1.1\r\nHost: verify\r\nContent-Type: {}\r\n{key}Content-Length: {}\r\n\r\n",
            names.join(","),
            message.content_type(),
            message.payload.len()
        );
        [head.as_bytes(), &message.payload].concat()
    }

    fn attempt(&mut self, request: &[u8]) -> Attempt {
        let connection = self.connection.take();
        let addresses = &self.shared.addresses;
        let address = addresses[self.rng.usize(..addresses.len())];
        let connection = connection.map_or_else(|| connect(address), Ok);
        let Ok(mut connection) = connection else {
            // It was never sent, but an earlier attempt may have been.
            return Attempt::Lost;
        };
        if connection.write_all(request).is_err() {
            return Attempt::Lost;
        }
        if self.rng.u32(..CUTS) == 0 {
            return Attempt::Lost;
        }
        match read_answer(&mut connection) {
            Ok((attempt, closes)) => {
                // Whoever is refused tries another one, where there is one.
                let stays = !closes && matches!(attempt, Attempt::Taken(_));
                self.connection = stays.then_some(connection);
                attempt
            }
            Err(_) => Attempt::Lost,
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(connection)
}

/// The answer, and whether the server closes behind it.
fn read_answer(connection: &mut TcpStream) -> io::Result<(Attempt, bool)> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let (mut input, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(head) = decode_head(&input).map_err(|_| malformed())? {
            let Body::Length(length) = head.body else {
                return Err(malformed());
            };
            if let Some(body) = input[head.head_bytes..].get(..length) {
                let closes = header_value(&input, "Connection")
                    .is_some_and(|value| value.eq_ignore_ascii_case("close"));
                let attempt = match head.status {
                    201 | 202 => match serde_json::from_slice(body).map_err(|_| malformed())? {
                        Answer::One(placed) => Attempt::Taken(vec![placed]),
                        Answer::Several(placed) => Attempt::Taken(placed),
                    },
                    status => Attempt::Refused(status),
                };
                return Ok((attempt, closes));
            }
        }
        match connection.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => input.extend_from_slice(&buffer[..bytes]),
        }
    }
}
