//! Clients: raw bytes over TCP, HTTP answers, and a WebSocket by a library that is not the server's own.
#![allow(unreachable_pub, reason = "the modules beside this one use it")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use crate::harness::DEADLINE;

/// A TCP connection of raw bytes.
pub struct Client {
    stream: TcpStream,
    /// Read and not yet looked at.
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Comes from `source`, one of this host's addresses.
    pub fn connect_from(source: &str, address: SocketAddr) -> Self {
        let source = SocketAddr::new(source.parse().unwrap(), 0);
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(source),
            socket2::Type::STREAM,
            None,
        );
        let socket = socket.unwrap();
        socket.bind(&source.into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into())
    }

    /// The bytes of a connection that a library reads otherwise.
    pub fn of(stream: &TcpStream) -> Self {
        Self {
            stream: stream.try_clone().unwrap(),
            buffer: Vec::new(),
        }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends to a server that may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    pub fn get(&mut self, target: &str) {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }

    /// `fields` are whole lines.
    pub fn request(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) {
        let length = if method == "POST" {
            format!("Content-Length: {}\r\n", body.len())
        } else {
            String::new()
        };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{fields}{length}\r\n");
        self.send([head.as_bytes(), body].concat());
    }

    /// Reads up to and with `needle`.
    #[track_caller]
    pub fn read_until(&mut self, needle: &str) -> String {
        let mut looked_at = 0;
        loop {
            let found = memchr::memmem::find(&self.buffer[looked_at..], needle.as_bytes());
            if let Some(at) = found {
                let rest = self.buffer.split_off(looked_at + at + needle.len());
                let taken = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8(taken).unwrap();
            }
            looked_at = self.buffer.len().saturating_sub(needle.len());
            let bytes = self.read_more();
            let so_far = String::from_utf8_lossy(&self.buffer);
            assert!(
                matches!(bytes, Ok(1..)),
                "{bytes:?} before {needle:?}, after {so_far:?}"
            );
        }
    }

    /// Reads up to the end of the stream; the end may be a reset.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.read_more()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Waits for the end of the stream, in order or not. What still came is given back.
    #[track_caller]
    pub fn wait_end(&mut self) -> Vec<u8> {
        loop {
            match self.read_more() {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("not closed"),
                _ => return std::mem::take(&mut self.buffer),
            }
        }
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let n = match self.stream.read(&mut bytes) {
            // Whoever is stopped and goes on reads on.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return self.read_more(),
            n => n?,
        };
        self.buffer.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    /// Nothing has come that was not asked for.
    #[track_caller]
    pub fn assert_silent(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        let _ = self.read_more();
        self.stream.set_nonblocking(false).unwrap();
        assert!(
            self.buffer.is_empty(),
            "{:?}",
            String::from_utf8_lossy(&self.buffer)
        );
    }

    /// The answer to a request that is not HEAD.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        let mut response = self.response_head();
        if let Some(length) = response.field("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                assert!(
                    matches!(self.read_more(), Ok(1..)),
                    "a body that is too short"
                );
            }
            let rest = self.buffer.split_off(length);
            response.body = std::mem::replace(&mut self.buffer, rest);
        }
        response
    }

    #[track_caller]
    pub fn response_head(&mut self) -> Response {
        let head = self.read_until("\r\n\r\n");
        let status = head
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest[2..5].parse().ok());
        Response {
            status: status.unwrap_or_else(|| panic!("no answer: {head:?}")),
            head,
            body: Vec::new(),
        }
    }

    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The server answers, and like this.
    pub fn has_answer(&mut self, begin: &str) -> bool {
        while self.buffer.len() < begin.len() {
            if !matches!(self.read_more(), Ok(1..)) {
                return false;
            }
        }
        self.buffer.starts_with(begin.as_bytes())
    }

    /// The first bytes that come, `count` of them or all there are.
    pub fn begin(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && matches!(self.read_more(), Ok(1..)) {}
        self.buffer.drain(..count.min(self.buffer.len())).collect()
    }

    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Exactly so many bytes.
    #[track_caller]
    pub fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(
                matches!(self.read_more(), Ok(1..)),
                "an early end after {:?}",
                self.buffer
            );
        }
        let rest = self.buffer.split_off(count);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// The same connection once more, for another thread.
    pub fn another_handle(&self) -> Self {
        Self::of(&self.stream)
    }

    pub fn try_finish_sending(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Reads over whatever has come so far.
    pub fn read_what_is_there(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        while matches!(self.read_more(), Ok(1..)) {}
        self.stream.set_nonblocking(false).unwrap();
        self.buffer.clear();
    }

    /// Closes with RST instead of FIN.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let (_, value) = fields.find(|(it, _)| it.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a refusal.
    #[track_caller]
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }

    /// The payloads of a poll's answer.
    #[track_caller]
    pub fn messages(&self) -> Vec<String> {
        let json = self.json();
        let data = |message: &Value| message["data"].as_str().unwrap().to_owned();
        json["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(data)
            .collect()
    }
}

/// A WebSocket by a library that is not the server's own.
pub struct Ws {
    pub socket: WebSocket<TcpStream>,
    pub cursor: String,
}

impl Ws {
    #[track_caller]
    pub fn connect(address: SocketAddr, target: &str) -> Self {
        let Client { stream, .. } = Client::connect(address);
        let config = WebSocketConfig::default()
            .max_frame_size(None)
            .max_message_size(None);
        let url = format!("ws://{address}{target}");
        let (socket, response) =
            tungstenite::client::client_with_config(url, stream, Some(config)).unwrap();
        let cursor = response.headers()["pushring-cursor"]
            .to_str()
            .unwrap()
            .to_owned();
        Self { socket, cursor }
    }

    pub fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// The next message's payload; pings are answered on the way.
    #[track_caller]
    pub fn text(&mut self) -> String {
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => return text.as_str().to_owned(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// Reads on to the close frame: code and reason.
    #[track_caller]
    pub fn close(&mut self) -> (u16, String) {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(CloseFrame { code, reason }))) => {
                    return (code.into(), reason.as_str().to_owned());
                }
                Ok(Message::Close(None)) => return (1005, String::new()),
                Ok(_) => {}
                Err(error) => panic!("no close frame: {error}"),
            }
        }
    }
}

/// One masked frame of a client (RFC 6455 §5.2). The mask is zero, which is as good as any.
pub fn ws_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..=125 => frame.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A handshake that asks for `target`.
pub fn ws_handshake(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
}
