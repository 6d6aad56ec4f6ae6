//! The backend's side: one keep-alive connection that publishes, so that the messages of a channel have an order.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clients::{Event, Reading, poll};
use crate::kernel::now_ns;
use crate::plan::Plan;
use crate::stamp::Stamp;
use crate::tally::Tally;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const WINDOW_POLL_INTERVAL: Duration = Duration::from_micros(200);

pub(crate) struct Publisher {
    plan: Arc<Plan>,
    connection: HttpConnection,
    /// The last sequence of each channel.
    sequences: Vec<u32>,
}

/// What a schedule of publishes came to.
pub(crate) struct Published {
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    /// Deliveries that the subscribers owe.
    pub(crate) deliveries: u64,
    /// How late the publisher itself was: part of every latency, and not the server's doing.
    pub(crate) lateness_us: Histogram<u64>,
    /// From the intended time to the answer.
    pub(crate) answer_us: Histogram<u64>,
}

impl Publisher {
    pub(crate) fn connect(plan: &Arc<Plan>) -> Result<Self, String> {
        let connection = HttpConnection::connect(plan.publish_target)?;
        Ok(Self {
            plan: Arc::clone(plan),
            connection,
            sequences: vec![0; plan.channels as usize],
        })
    }

    /// Publishes one message and waits for the answer. Returns when the message was sent.
    pub(crate) fn publish(&mut self, channel: u32) -> Result<u64, String> {
        if self.plan.publish_reconnect {
            self.connection = HttpConnection::connect(self.plan.publish_target)?;
        }
        let mut request = Vec::new();
        let intended_ns = now_ns();
        let stamp = self.next_stamp(channel, intended_ns);
        self.plan.publish_request(channel, stamp, &mut request);
        match self.connection.exchange(&request)? {
            200..=299 => Ok(intended_ns),
            status => Err(format!("the publish was refused with {status}")),
        }
    }

    /// Publishes `rate` messages per second, to one channel after the other, whether or not answers come in time.
    pub(crate) fn publish_on_schedule(
        &mut self,
        rate: f64,
        seconds: f64,
        subscribers_of: impl Fn(u32) -> u32,
    ) -> Result<Published, String> {
        let total = (rate * seconds).round() as u64;
        let interval_ns = (1e9 / rate) as u64;
        let begin_ns = now_ns() + interval_ns;
        let intended = move |index: u64| begin_ns + index * interval_ns;
        let mut reader = self.connection.reader()?;
        let answers = thread::spawn(move || {
            let mut answer_us = Tally::default().latency_us;
            let mut accepted = 0;
            for index in 0..total {
                match reader.next_status() {
                    Ok(status) => accepted += u64::from((200..300).contains(&status)),
                    Err(_) => break,
                }
                answer_us.saturating_record(now_ns().saturating_sub(intended(index)) / 1000);
            }
            (accepted, answer_us)
        });
        let mut lateness_us = Tally::default().latency_us;
        let mut deliveries = 0;
        let mut request = Vec::new();
        for index in 0..total {
            let intended_ns = intended(index);
            thread::sleep(Duration::from_nanos(intended_ns.saturating_sub(now_ns())));
            lateness_us.saturating_record(now_ns().saturating_sub(intended_ns) / 1000);
            let channel = (index % u64::from(self.plan.channels)) as u32;
            let stamp = self.next_stamp(channel, intended_ns);
            request.clear();
            self.plan.publish_request(channel, stamp, &mut request);
            self.connection.write(&request)?;
            deliveries += u64::from(subscribers_of(channel));
        }
        let (accepted, answer_us) = answers
            .join()
            .map_err(|_| "the reader of answers panicked")?;
        Ok(Published {
            sent: total,
            accepted,
            deliveries,
            lateness_us,
            answer_us,
        })
    }

    /// Publishes to channel 0 for some seconds, with at most `window` messages that are not yet delivered to all; a
    /// quarter of them is written in one go. Returns how many were sent and how many accepted.
    pub(crate) fn publish_in_window(
        &mut self,
        window: u32,
        seconds: f64,
        delivered: impl Fn() -> u64,
    ) -> Result<(u64, u64), String> {
        let batch = (window / 4).max(1);
        let end_ns = now_ns() + (seconds * 1e9) as u64;
        let (mut sent, mut accepted) = (0, 0);
        let mut requests = Vec::new();
        while now_ns() < end_ns {
            if sent + u64::from(batch) > delivered() + u64::from(window) {
                thread::sleep(WINDOW_POLL_INTERVAL);
                continue;
            }
            requests.clear();
            for _ in 0..batch {
                let stamp = self.next_stamp(0, now_ns());
                self.plan.publish_request(0, stamp, &mut requests);
            }
            self.connection.write(&requests)?;
            sent += u64::from(batch);
            for _ in 0..batch {
                let status = self.connection.next_status()?;
                accepted += u64::from((200..300).contains(&status));
            }
        }
        Ok((sent, accepted))
    }

    fn next_stamp(&mut self, channel: u32, intended_ns: u64) -> Stamp {
        let sequence = &mut self.sequences[channel as usize];
        *sequence += 1;
        Stamp {
            intended_ns,
            sequence: *sequence,
        }
    }
}

/// A blocking keep-alive connection: requests out, the statuses of whole answers back.
pub(crate) struct HttpConnection {
    stream: TcpStream,
    input: Vec<u8>,
    /// Statuses of answers that came together with the one returned.
    statuses: std::collections::VecDeque<u16>,
}

impl HttpConnection {
    pub(crate) fn connect(target: std::net::SocketAddr) -> Result<Self, String> {
        let connect = || {
            let stream = TcpStream::connect(target)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(stream)
        };
        let stream = connect().map_err(|error: std::io::Error| format!("{target}: {error}"))?;
        Ok(Self {
            stream,
            input: Vec::new(),
            statuses: Default::default(),
        })
    }

    pub(crate) fn exchange(&mut self, request: &[u8]) -> Result<u16, String> {
        self.write(request)?;
        self.next_status()
    }

    fn write(&mut self, request: &[u8]) -> Result<(), String> {
        self.stream
            .write_all(request)
            .map_err(|error| format!("write a request: {error}"))
    }

    /// A second handle that reads the answers while this one writes.
    fn reader(&self) -> Result<Self, String> {
        let stream = self.stream.try_clone().map_err(|error| error.to_string())?;
        Ok(Self {
            stream,
            input: Vec::new(),
            statuses: Default::default(),
        })
    }

    fn next_status(&mut self) -> Result<u16, String> {
        let mut received = [0; 16 * 1024];
        loop {
            if let Some(status) = self.statuses.pop_front() {
                return Ok(status);
            }
            let length = match self.stream.read(&mut received) {
                Ok(0) => return Err("the server closed the connection instead of answering".into()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("read an answer: {error}")),
            };
            self.input.extend_from_slice(&received[..length]);
            let statuses = &mut self.statuses;
            let consumed = poll::decode(&mut { Reading::Head }, &self.input, &mut |event| {
                if let Event::Answer { status, .. } = event {
                    statuses.push_back(status);
                }
            });
            let consumed =
                consumed.map_err(|error| format!("an answer that cannot be read: {error:?}"))?;
            self.input.drain(..consumed);
        }
    }
}
