//! The next server takes the port before the last one ends: nobody is refused, and nothing is cut off.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::client::ws_handshake;
use crate::harness::{Server, Start, wait_until};

const RESTARTS: usize = 3;
/// Of each kind of client, before the next restart.
const EXCHANGES_MIN: usize = 20;

/// Clients that listen, two of each kind.
const STREAMS: usize = 6;

/// What one kind of client does again and again, each time over a new connection.
struct Kind {
    name: &'static str,
    request: String,
    /// Whether what came up to the end is all that should have come.
    is_whole: fn(&[u8]) -> bool,
    /// A stream stays until its server ends, so it is not waited for before.
    is_stream: bool,
    exchanges: AtomicUsize,
}

fn kinds() -> [Kind; 5] {
    let http = |line: &str, rest: &str| {
        format!("{line} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{rest}\r\n")
    };
    let kind = |name, request, is_stream, is_whole| Kind {
        name,
        request,
        is_whole,
        is_stream,
        exchanges: AtomicUsize::new(0),
    };
    let is_success: fn(&[u8]) -> bool = |answer| answer.starts_with(b"HTTP/1.1 20");
    [
        kind("newcomer", http("GET /healthz", ""), false, is_success),
        kind(
            "publish",
            http("POST /pub/c", "Content-Length: 0\r\n"),
            false,
            is_success,
        ),
        kind(
            "long poll",
            http("GET /poll/quiet?wait=60", ""),
            true,
            is_success,
        ),
        kind("event stream", http("GET /sse/quiet", ""), true, |answer| {
            answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"\r\n0\r\n\r\n")
        }),
        kind("WebSocket", ws_handshake("/ws/quiet"), true, |answer| {
            answer.starts_with(b"HTTP/1.1 101")
                && memchr::memmem::find(answer, b"shutdown, reconnect after").is_some()
        }),
    ]
}

impl Kind {
    /// One exchange; gives what came.
    fn exchange(&self, address: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(self.request.as_bytes())?;
        let mut answer = Vec::new();
        let mut bytes = [0; 4096];
        // The last frame of a WebSocket waits for ours, which is an end here.
        while !(self.name == "WebSocket" && (self.is_whole)(&answer)) {
            match stream.read(&mut bytes)? {
                0 => break,
                n => answer.extend_from_slice(&bytes[..n]),
            }
        }
        Ok(answer)
    }

    fn run(&self, address: SocketAddr, is_over: &AtomicBool, refused: &Mutex<Vec<String>>) {
        while !is_over.load(Ordering::Relaxed) {
            let result = self.exchange(address);
            match result {
                Ok(answer) if (self.is_whole)(&answer) => {
                    self.exchanges.fetch_add(1, Ordering::Relaxed);
                }
                // The last server ends without a next one.
                _ if is_over.load(Ordering::Relaxed) => {}
                Ok(answer) => {
                    let answer = String::from_utf8_lossy(&answer).into_owned();
                    refused
                        .lock()
                        .unwrap()
                        .push(format!("{}: {answer:?}", self.name));
                }
                Err(error) => {
                    refused
                        .lock()
                        .unwrap()
                        .push(format!("{}: {error}", self.name));
                }
            }
        }
    }
}

/// Sets the flag when the test is through, also by a failure: the clients' threads are waited for.
struct EndOf<'a>(&'a AtomicBool);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_restart_refuses_nobody() {
    let kinds = kinds();
    let (is_over, refused) = (AtomicBool::new(false), Mutex::default());
    let server = Server::start("--drain-period 300ms");
    let address = server.address;
    let flags = format!("--listen {address} --drain-period 300ms");
    thread::scope(|scope| {
        // Dropped before the server, whose end ends the streams.
        let mut server = server;
        let clients_end = EndOf(&is_over);
        for kind in kinds.iter().chain(&kinds) {
            let (is_over, refused) = (&is_over, &refused);
            scope.spawn(move || kind.run(address, is_over, refused));
        }
        let exchanges = |kind: &Kind| kind.exchanges.load(Ordering::Relaxed);
        for restart in 1..=RESTARTS {
            wait_until("newcomers and publishes", || {
                let mut busy = kinds.iter().filter(|kind| !kind.is_stream);
                busy.all(|kind| exchanges(kind) >= restart * EXCHANGES_MIN)
            });
            server.wait_subscribers("quiet", STREAMS);
            let next = Start::new(&flags).serve();
            server.signal(Signal::TERM);
            let status = server.wait_exit();
            if !status.success() {
                refused
                    .lock()
                    .unwrap()
                    .push(format!("a server ended with {status}"));
            }
            server = next;
        }
        server.wait_subscribers("quiet", STREAMS);
        for kind in kinds.iter().filter(|kind| kind.is_stream) {
            assert_eq!(exchanges(kind), 2 * RESTARTS, "{}", kind.name);
        }
        drop(clients_end);
        server.signal(Signal::TERM);
        server.wait_exit();
    });
    let refused = refused.into_inner().unwrap();
    assert!(refused.is_empty(), "{}: {refused:#?}", refused.len());
}
