//! A server process on a port of its own, and the clients that talk to it: raw bytes, HTTP and WebSocket.
//!
//! Everything waits for a condition until [`DEADLINE`], which is only there so that a failure ends.

#![allow(unreachable_pub, reason = "the modules beside this one use it")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, WebSocket};

/// How long a test waits for anything.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Between two looks at a condition that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until `is_met`; fails with `what` if it never is.
#[track_caller]
pub fn wait_until(what: &str, mut is_met: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_met() {
        assert!(Instant::now() < end, "still waiting: {what}");
        thread::sleep(LOOK_AGAIN);
    }
}

/// A server process. Dropped, it is killed.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    pub address: SocketAddr,
    /// Where the backend talks to it; `address`, unless there is an internal listener.
    pub internal: SocketAddr,
    /// Asks for the metrics and the like, so that these are one connection.
    backend: Mutex<Option<Client>>,
}

#[derive(Default)]
struct Log {
    /// The lines so far; `true` once there will be no more.
    lines: Mutex<(Vec<String>, bool)>,
    grew: Condvar,
}

impl Log {
    fn follow(self: &Arc<Self>, stderr: impl Read + Send + 'static) {
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lines.lock().unwrap().0.push(line);
                log.grew.notify_all();
            }
            log.lines.lock().unwrap().1 = true;
            log.grew.notify_all();
        });
    }

    /// Waits for `enough` of the lines; fails when there are no more.
    #[track_caller]
    fn wait<T>(&self, what: &str, mut enough: impl FnMut(&[String]) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        let mut guard = self.lines.lock().unwrap();
        loop {
            if let Some(found) = enough(&guard.0) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !guard.1 && !left.is_zero(),
                "no {what} in:\n{}",
                guard.0.join("\n")
            );
            guard = self.grew.wait_timeout(guard, left).unwrap().0;
        }
    }
}

/// How to start a server.
pub struct Start {
    command: Command,
    file: String,
}

impl Start {
    /// The flags, separated by spaces, on top of port 0 and two threads.
    pub fn new(flags: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pushring"));
        command.args(flags.split_whitespace());
        if !flags.contains("--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        if !flags.contains("--threads") {
            command.args(["--threads", "2"]);
        }
        Self {
            command,
            file: String::new(),
        }
    }

    /// With a configuration file of these contents.
    pub fn file(mut self, contents: &str) -> Self {
        self.file = contents.to_owned();
        self
    }

    /// Through `sh -c`, with `before` run first, such as `ulimit -n 9`.
    pub fn after(mut self, before: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before}; exec \"$0\" \"$@\"")]);
        shell
            .arg(self.command.get_program())
            .args(self.command.get_args());
        self.command = shell;
        self
    }

    fn spawn(mut self) -> Child {
        if !self.file.is_empty() {
            static FILES: AtomicUsize = AtomicUsize::new(0);
            let n = FILES.fetch_add(1, Ordering::Relaxed);
            let path = format!(
                "{}/server-{}-{n}.toml",
                env!("CARGO_TARGET_TMPDIR"),
                std::process::id()
            );
            std::fs::write(&path, &self.file).unwrap();
            self.command.args(["--config", &path]);
        }
        // Its own group: a signal of the terminal ends the test run, and the drop ends the server.
        self.command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[track_caller]
    pub fn serve(self) -> Server {
        let mut child = self.spawn();
        let log = Arc::new(Log::default());
        log.follow(child.stderr.take().unwrap());
        let addresses: BTreeMap<_, SocketAddr> = log.wait("listening line", |lines| {
            let listening = lines.iter().filter(|line| line.contains("listening "));
            let found: BTreeMap<_, _> = listening
                .map(|line| {
                    let word = |name: &str| {
                        let rest = line.split_once(name).unwrap().1;
                        rest.split([' ', '"'])
                            .find(|word| !word.is_empty())
                            .unwrap()
                            .to_owned()
                    };
                    (word("audience="), word("address=").parse().unwrap())
                })
                .collect();
            let is_whole = found.contains_key("all");
            is_whole.then_some(found)
        });
        let internal = addresses["all"];
        Server {
            child,
            log,
            address: *addresses.get("public").unwrap_or(&internal),
            internal,
            backend: Mutex::new(None),
        }
    }

    /// For a server that does not come up: its exit status, and what it said.
    #[track_caller]
    pub fn fail(self) -> (ExitStatus, String) {
        let output = self.spawn().wait_with_output().unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }
}

impl Server {
    #[track_caller]
    pub fn start(flags: &str) -> Self {
        Start::new(flags).serve()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// A connection that has sent `GET target`.
    pub fn get(&self, target: &str) -> Client {
        let mut client = self.connect();
        client.get(target);
        client
    }

    /// An event stream, with its head and opening read.
    pub fn sse(&self, target: &str) -> Client {
        let mut client = self.get(target);
        let opening = client.read_until("retry: ");
        assert!(opening.starts_with("HTTP/1.1 200 "), "{opening}");
        client.read_until("\r\n");
        client
    }

    pub fn ws(&self, target: &str) -> Ws {
        Ws::connect(self.address, target)
    }

    /// One request of the backend.
    #[track_caller]
    pub fn ask(&self, method: &str, target: &str, body: &[u8]) -> Response {
        let mut backend = self.backend.lock().unwrap();
        let client = backend.get_or_insert_with(|| Client::connect(self.internal));
        client.request(method, target, "", body);
        let response = client.response();
        if response.field("connection") == Some("close") {
            *backend = None;
        }
        response
    }

    /// Publishes and gives the position.
    #[track_caller]
    pub fn publish(&self, channel: &str, payload: impl AsRef<[u8]>) -> String {
        let response = self.ask("POST", &format!("/pub/{channel}"), payload.as_ref());
        assert!(matches!(response.status, 201 | 202), "{response:?}");
        response.json()["id"].as_str().unwrap().to_owned()
    }

    /// The sum of the lines of `/metrics` that begin like this.
    #[track_caller]
    pub fn metric(&self, begin: &str) -> u64 {
        let text = self.ask("GET", "/metrics", b"").text();
        let begin = format!("pushring_{begin}");
        let lines = text.lines().filter(|line| line.starts_with(&begin));
        lines
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum()
    }

    #[track_caller]
    pub fn wait_metric(&self, begin: &str, want: u64) {
        wait_until(&format!("{begin} = {want}"), || self.metric(begin) == want);
    }

    #[track_caller]
    pub fn wait_subscribers(&self, channel: &str, want: usize) {
        wait_until(&format!("{want} subscribers of {channel}"), || {
            let info = self.ask("GET", &format!("/channels/{channel}"), b"");
            info.status == 200 && info.json()["subscribers"] == want
        });
    }

    /// Waits until a line of the log holds `needle`.
    #[track_caller]
    pub fn wait_log(&self, needle: &str) -> String {
        self.log.wait(needle, |lines| {
            lines.iter().find(|line| line.contains(needle)).cloned()
        })
    }

    /// Waits until the server has closed the backend's connection.
    #[track_caller]
    pub fn wait_backend_end(&self) {
        let mut backend = self.backend.lock().unwrap().take().unwrap();
        assert_eq!(backend.wait_end(), b"");
    }

    pub fn log_lines(&self, needle: &str) -> usize {
        let guard = self.log.lines.lock().unwrap();
        guard.0.iter().filter(|line| line.contains(needle)).count()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("exit", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Resident memory.
    pub fn rss_bytes(&self) -> usize {
        let status = self.proc("status");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
            * 1024
    }

    /// Processor time so far, in ticks of a hundredth of a second (proc(5), utime and stime).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = self.proc("stat");
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Open descriptors of all threads; each shard has a table of its own.
    pub fn descriptors(&self) -> usize {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let count = |thread: io::Result<std::fs::DirEntry>| {
            let table = std::fs::read_dir(thread.unwrap().path().join("fd"));
            table.map_or(0, Iterator::count)
        };
        threads.map(count).sum()
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!(
                "the server's log:\n{}",
                self.log.lines.lock().unwrap().0.join("\n")
            );
        }
    }
}

/// A TCP connection of raw bytes.
pub struct Client {
    stream: TcpStream,
    /// Read and not yet looked at.
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
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
        let n = self.stream.read(&mut bytes)?;
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
