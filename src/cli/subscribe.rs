//! `pushring sub`: prints what its channels get, on any transport, and goes on after a loss where it was.

use std::convert::Infallible;
use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};
use ureq::Agent;

use super::cursor::Start;
use super::event_stream::{EVENT_BYTES_MAX, EventStreamParser, StreamItem};
use super::http::{self, CONNECT_TIMEOUT, Refusal, SILENCE_MAX};
use super::printer::{Printed, Printer};
use super::reconnect::{ReconnectDelay, delay_in_reason};
use super::url::ServerUrl;
use crate::config::auth::Secret;

#[derive(Clone, Debug, PartialEq)]
pub struct SubscribeOptions {
    pub server: ServerUrl,
    pub token: Option<Secret>,
    pub channels: Vec<String>,
    pub transport: Transport,
    pub start: Start,
    /// Whole objects instead of payloads.
    pub json: bool,
    /// Between two short polls.
    pub interval: Duration,
    /// Ends after so many messages.
    pub count: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    EventStream,
    LongPoll,
    ShortPoll,
}

/// `wait=` of a long poll, in seconds; a server that allows less shortens it.
const POLL_WAIT_SECONDS: u64 = 60;

/// Prints until the count is reached, the reader of stdout has gone, or the server refuses for good.
pub fn run(options: &SubscribeOptions) -> Result<(), String> {
    let printer = Printer::new(
        io::stdout(),
        io::stderr(),
        &options.channels,
        options.json,
        options.count,
    );
    let mut subscriber = Subscriber {
        options,
        agent: http::agent(),
        printer,
        delay: ReconnectDelay::default(),
        retry: None,
    };
    loop {
        let end = match options.transport {
            Transport::WebSocket => subscriber.follow_websocket(),
            Transport::EventStream => subscriber.follow_event_stream(),
            Transport::LongPoll => subscriber.follow_polls(POLL_WAIT_SECONDS),
            Transport::ShortPoll => subscriber.follow_polls(0),
        };
        let Err(end) = end;
        match end {
            End::Done => return Ok(()),
            End::Refused(message) => return Err(message),
            End::Lost { why, hint } => {
                let delay = subscriber
                    .delay
                    .next(hint.or(subscriber.retry), fastrand::f64());
                subscriber
                    .printer
                    .print_notice(&format!("{why}; again in {:.1} s", delay.as_secs_f64()));
                std::thread::sleep(delay);
            }
        }
    }
}

/// Why following a transport ended.
enum End {
    Done,
    /// Trying again would be answered the same.
    Refused(String),
    Lost {
        why: String,
        hint: Option<Duration>,
    },
}

impl End {
    fn lost(why: impl ToString) -> Self {
        Self::Lost {
            why: why.to_string(),
            hint: None,
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        if refusal.is_temporary() {
            Self::Lost {
                why: refusal.message,
                hint: refusal.retry_after,
            }
        } else {
            Self::Refused(refusal.message)
        }
    }
}

impl From<ureq::Error> for End {
    fn from(error: ureq::Error) -> Self {
        Self::lost(format!("no answer: {error}"))
    }
}

struct Subscriber<'o> {
    options: &'o SubscribeOptions,
    agent: Agent,
    printer: Printer<io::Stdout, io::Stderr>,
    delay: ReconnectDelay,
    /// What an event stream asked for.
    retry: Option<Duration>,
}

impl Subscriber<'_> {
    fn follow_polls(&mut self, wait_seconds: u64) -> Result<Infallible, End> {
        self.learn_now()?;
        loop {
            let n_messages = self.poll(wait_seconds)?;
            // After messages there may be more, beyond the limit of one answer.
            if wait_seconds == 0 && n_messages == 0 {
                std::thread::sleep(self.options.interval);
            }
        }
    }

    /// A stream or long poll that is lost before its first message leaves no cursor; a short poll gives one.
    fn learn_now(&mut self) -> Result<(), End> {
        if self.options.start == Start::Now && self.printer.cursor().is_none() {
            self.poll(0)?;
        }
        Ok(())
    }

    fn poll(&mut self, wait_seconds: u64) -> Result<usize, End> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            recovered: bool,
            #[serde(borrow)]
            messages: Vec<&'a RawValue>,
        }
        let parameters = [self.start(), ("wait", wait_seconds.to_string())];
        let url = self
            .options
            .server
            .http("poll", &self.options.channels, &parameters);
        let request = http::with_token(self.agent.get(url), self.options.token.as_ref());
        let mut response = request.call()?;
        let body = http::read_body(&mut response)?;
        if !response.status().is_success() {
            return Err(Refusal::new(response.status().as_u16(), response.headers(), &body).into());
        }
        self.delay.on_connected();
        let mut n_messages = 0;
        if !body.is_empty() {
            let not_ours = |_| {
                End::Refused(format!(
                    "{} did not answer as a pushring server",
                    self.options.server.authority
                ))
            };
            let answer: Answer<'_> = serde_json::from_str(&body).map_err(not_ours)?;
            if !answer.recovered {
                self.printer.print_gap(None);
            }
            n_messages = answer.messages.len();
            for message in answer.messages {
                self.print(message.get())?;
            }
        }
        if let Some(cursor) = http::header(response.headers(), "pushring-cursor") {
            self.printer.replace_cursor(cursor);
        }
        Ok(n_messages)
    }

    fn follow_event_stream(&mut self) -> Result<Infallible, End> {
        self.learn_now()?;
        let parameters = [self.start(), ("format", "json".to_owned())];
        let url = self
            .options
            .server
            .http("sse", &self.options.channels, &parameters);
        let request = http::with_token(self.agent.get(url), self.options.token.as_ref());
        let mut response = request.header("accept", "text/event-stream").call()?;
        if response.status() != 200 {
            let body = http::read_body(&mut response)?;
            return Err(Refusal::new(response.status().as_u16(), response.headers(), &body).into());
        }
        self.delay.on_connected();
        let mut parser = EventStreamParser::default();
        let mut bytes = vec![0; 64 * 1024];
        let mut reader = response.body_mut().as_reader();
        loop {
            let n = reader.read(&mut bytes).map_err(End::lost)?;
            if n == 0 {
                return Err(End::lost("the server ended the stream"));
            }
            for item in parser
                .feed(&bytes[..n])
                .map_err(|_| End::lost("an event is too long"))?
            {
                match item {
                    StreamItem::Retry(ms) => self.retry = Some(Duration::from_millis(ms)),
                    StreamItem::Event(event) => {
                        if event.name == "pushring.gap" {
                            self.printer.print_gap(Some(&event.data));
                        } else {
                            self.print(&event.data)?;
                        }
                        if let Some(id) = &event.last_id {
                            self.printer.replace_cursor(id);
                        }
                    }
                }
            }
        }
    }

    fn follow_websocket(&mut self) -> Result<Infallible, End> {
        let mut socket = self.connect_websocket()?;
        self.delay.on_connected();
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => self.print(&text).inspect_err(|_| close(&mut socket))?,
                Ok(Message::Close(frame)) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |f| {
                        (f.code.into(), f.reason.to_string())
                    });
                    return Err(on_close(code, &reason));
                }
                // Pings are answered by the library; nothing else is expected in this format.
                Ok(_) => {}
                Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(End::lost("the server is silent"));
                }
                Err(error) => return Err(End::lost(error)),
            }
        }
    }

    fn connect_websocket(&mut self) -> Result<WebSocket<TcpStream>, End> {
        let parameters = [self.start(), ("format", "json".to_owned())];
        let url = self.options.server.ws(&self.options.channels, &parameters);
        let authority = &self.options.server.authority;
        let stream = connect(authority)
            .map_err(|e| End::lost(format!("{authority} cannot be reached: {e}")))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(EVENT_BYTES_MAX))
            .max_frame_size(Some(EVENT_BYTES_MAX));
        let mut request = url.into_client_request().map_err(End::lost)?;
        if let Some(token) = &self.options.token {
            let value = HeaderValue::from_str(&http::bearer(token));
            let value = value
                .map_err(|_| End::Refused("no header field can carry the token".to_owned()))?;
            request.headers_mut().insert("authorization", value);
        }
        match tungstenite::client::client_with_config(request, stream, Some(config)) {
            Ok((socket, response)) => {
                // With a start in the past the server may mean the end of a replay that has yet to come.
                if self.options.start == Start::Now
                    && self.printer.cursor().is_none()
                    && let Some(cursor) = http::header(response.headers(), "pushring-cursor")
                {
                    self.printer.replace_cursor(cursor);
                }
                Ok(socket)
            }
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                let body = response.body().as_deref().unwrap_or_default();
                let body = String::from_utf8_lossy(body);
                Err(Refusal::new(response.status().as_u16(), response.headers(), &body).into())
            }
            Err(HandshakeError::Failure(error)) => Err(End::lost(error)),
            Err(HandshakeError::Interrupted(_)) => Err(End::lost("the server is silent")),
        }
    }

    /// From the cursor, or where the first connection started.
    fn start(&self) -> (&'static str, String) {
        self.printer.cursor().map_or_else(
            || self.options.start.parameter(),
            |cursor| ("since", cursor),
        )
    }

    fn print(&mut self, object: &str) -> Result<(), End> {
        match self.printer.print(object) {
            Ok(Printed::More) => Ok(()),
            Ok(Printed::Enough) => Err(End::Done),
            // `pushring sub news | head`: the reader has what it wanted.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(End::Done),
            Err(e) => Err(End::Refused(format!("stdout cannot be written: {e}"))),
        }
    }
}

fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                stream.set_write_timeout(Some(SILENCE_MAX))?;
                return Ok(stream);
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// A farewell; whether it arrives changes nothing.
fn close(socket: &mut WebSocket<TcpStream>) {
    let _ = socket.close(None);
    let _ = socket.flush();
}

/// What the server's close code asks for.
fn on_close(code: u16, reason: &str) -> End {
    let why = format!("closed with {code} {reason}").trim_end().to_owned();
    match code {
        // Our protocol, our data, our rights: the next connection would end the same way.
        1002 | 1003 | 1007..=1010 | 3005 | 3500..=3999 => End::Refused(why),
        3001 => End::Lost {
            why,
            hint: delay_in_reason(reason),
        },
        _ => End::lost(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_code_says_whether_to_come_back_and_when() {
        for (code, reason, want) in [
            (1000, "", Some(None)),
            (1001, "going away", Some(None)),
            (1002, "", None),
            (1008, "", None),
            (1009, "", None),
            (1011, "", Some(None)),
            (3001, "shutdown; reconnect in 700ms", Some(Some(700))),
            (3001, "", Some(None)),
            (3005, "", None),
            (3008, "wait 5s", Some(None)),
            (3010, "", Some(None)),
            (3012, "", Some(None)),
            (3500, "", None),
            (3503, "", None),
            (3507, "", None),
        ] {
            let got = match on_close(code, reason) {
                End::Lost { hint, .. } => Some(hint.map(|d| d.as_millis())),
                End::Refused(_) => None,
                End::Done => panic!("{code}"),
            };
            assert_eq!(got, want, "{code} {reason}");
        }
    }
}
