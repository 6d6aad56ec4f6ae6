//! How strictly requests are read: a table of valid and invalid ones (`strictness/requests.txt`) and the heads that the
//! parser refuses, each sent whole, byte by byte and cut in two at every place.
//!
//! Whatever the cut: the wanted answers and no other, the connection closed where its framing is in doubt, and a
//! request hidden in the bytes of another never carried out. `PUSHRING_TEST_THROUGH` puts a proxy in between, see
//! `front`.

mod front;
mod table;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::Value;

use crate::client::{Client, ws_frame};
use crate::harness::{DEADLINE, Server};
use front::Through;
pub(crate) use table::unescape;
use table::{Answer, Case, Ending};

/// Connections open at the same time; below any usual limit of descriptors.
const BATCH: usize = 250;

/// Small, so that what is too large is still cut at every place; patient, so that no request is late.
const FLAGS: &str = "--threads 1 --head-bytes-max 1KiB --target-bytes-max 256 --headers-max 16 --message-bytes-max 64 \
                     --head-timeout 60s --body-timeout 60s --idle-timeout 60s --linger-timeout 60s --heartbeat 5m";

#[test]
fn every_request_is_read_in_one_way_however_it_is_cut() {
    let began = Instant::now();
    let through = Through::of_environment();
    let server = Server::start(&format!("{FLAGS} {}", through.server_flags()));
    let front = through.front(server.internal);
    let address = front
        .as_ref()
        .map_or(server.internal, |front| front.address);
    let mut marker = server.connect();
    let cases = table::cases();
    let whole = cases.iter().map(|case| (case, Vec::new()));
    let cut_in_two = cases
        .iter()
        .flat_map(|case| (1..case.request.len()).map(move |at| (case, vec![at])));
    let byte_by_byte = cases
        .iter()
        .map(|case| (case, (1..case.request.len()).collect()));

    let mut failures = Vec::new();
    for plan in [
        whole.collect::<Vec<_>>(),
        byte_by_byte.collect(),
        cut_in_two.collect(),
    ] {
        for batch in plan.chunks(BATCH) {
            send_all(address, batch, &mut marker, &mut failures);
        }
        println!(
            "{} connections, {} failures, {:?}",
            plan.len(),
            failures.len(),
            began.elapsed()
        );
    }
    failures.truncate(40);
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    let mut client = Client::connect(address);
    client.get("/channels/smuggled");
    let smuggled = client.response();
    assert_eq!(smuggled.status, 404, "was carried out: {smuggled:?}");
    client.get("/metrics");
    let metrics = client.response().text();
    assert!(metrics.contains("\npushring_panics_total 0\n"), "{metrics}");
}

/// Sends a batch piece by piece, every connection's first piece before anyone's second, and checks what comes back.
fn send_all(
    address: SocketAddr,
    batch: &[(&Case, Vec<usize>)],
    marker: &mut Client,
    failures: &mut Vec<String>,
) {
    let mut peers: Vec<_> = batch.iter().map(|_| Peer::connect(address)).collect();
    let n_rounds = 1 + batch.iter().map(|(_, cuts)| cuts.len()).max().unwrap_or(0);
    for round in 0..n_rounds {
        for (peer, (case, cuts)) in peers.iter_mut().zip(batch) {
            let end = cuts.get(round).copied().unwrap_or(case.request.len());
            let start = match round {
                0 => 0,
                round => cuts.get(round - 1).copied().unwrap_or(end),
            };
            peer.send(&case.request[start..end]);
        }
        // The one shard takes its sockets in the order in which they became readable: once this is answered, every
        // piece of the round has been read, and the next does not join it.
        marker.get("/healthz");
        assert_eq!(marker.response().status, 200);
    }
    for (peer, (case, cuts)) in peers.into_iter().zip(batch) {
        if let Err(failure) = peer.check(case) {
            let cut = match cuts[..] {
                [] => "whole".to_owned(),
                [at] => format!("cut at {at}"),
                _ => "byte by byte".to_owned(),
            };
            failures.push(format!("{}, {cut}: {failure}", case.name));
        }
    }
}

struct Peer {
    stream: TcpStream,
    /// Read and not yet looked at.
    buffer: Vec<u8>,
}

impl Peer {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // Tens of thousands of connections to one address: none may stay behind in TIME_WAIT.
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// A server that has refused may be gone; what it answered is looked at afterwards.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn check(mut self, case: &Case) -> Result<(), String> {
        for want in &case.answers {
            self.check_answer(want)?;
        }
        match case.ending {
            Ending::Close => {}
            Ending::Keep => {
                self.send(b"GET /healthz HTTP/1.1\r\nHost: end\r\nConnection: close\r\n\r\n");
                self.check_answer(&Answer::of(200))?;
            }
            Ending::Wait => {
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            Ending::WebSocket => self.send(&ws_frame(0x88, b"")),
        }
        while self.read_more()? > 0 {}
        let rest = self.buffer.escape_ascii().to_string();
        let is_end = match case.ending {
            // A heartbeat may come first.
            Ending::WebSocket => rest.trim_start_matches("\\x89\\x00").starts_with("\\x88"),
            _ => rest.is_empty(),
        };
        is_end
            .then_some(())
            .ok_or_else(|| format!("and then {rest:?}"))
    }

    fn check_answer(&mut self, want: &Answer) -> Result<(), String> {
        let (head, body) = loop {
            let (head, body) = self.answer(want)?;
            if !head.starts_with("HTTP/1.1 100 ") {
                break (head, body);
            }
            if !want.may_continue {
                return Err("100 Continue for nobody".to_owned());
            }
        };
        let status = want.status;
        if !head.starts_with(&format!("HTTP/1.1 {status} ")) {
            return Err(format!("wanted {status}, got {head:?} {body:?}"));
        }
        if !head.contains("\r\nDate: ") && status != 101 {
            return Err(format!("no Date in {head:?}"));
        }
        // RFC 9112 §9.6: who is going to close says so.
        if want.says_close != head.contains("\r\nConnection: close") {
            return Err(format!(
                "wanted close to be said: {}, got {head:?}",
                want.says_close
            ));
        }
        if want.code.is_empty() {
            return (body.contains(&want.text))
                .then_some(())
                .ok_or_else(|| format!("no {:?} in {body:?}", want.text));
        }
        let json: Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body:?}"))?;
        let error = &json["error"];
        if error["code"] != want.code || error["message"].as_str().is_none_or(str::is_empty) {
            return Err(format!("wanted {}, got {body:?}", want.code));
        }
        Ok(())
    }

    /// Head and body of the next answer.
    fn answer(&mut self, want: &Answer) -> Result<(String, String), String> {
        let head_bytes = loop {
            match memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.read_on(want)?,
            }
        };
        let head = String::from_utf8(self.buffer.drain(..head_bytes).collect())
            .map_err(|error| error.to_string())?;
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
        let status = head.get(9..12).unwrap_or_default();
        let has_body = !status.starts_with('1') && !matches!(status, "204" | "304");
        // RFC 9112 §6.3: without a length the end of this answer could not be told from the next one.
        if has_body != length.is_some() {
            return Err(format!("Content-Length is {length:?} in {head:?}"));
        }
        let body_bytes = match length {
            Some(length) if !want.head_only => length.parse::<usize>().unwrap(),
            _ => 0,
        };
        while self.buffer.len() < body_bytes {
            self.read_on(want)?;
        }
        let body = self.buffer.drain(..body_bytes).collect();
        let body = String::from_utf8(body).map_err(|error| error.to_string())?;
        Ok((head, body))
    }

    fn read_on(&mut self, want: &Answer) -> Result<(), String> {
        match self.read_more()? {
            0 => Err(format!(
                "closed before the answer {}, after {:?}",
                want.status,
                self.buffer.escape_ascii().to_string()
            )),
            _ => Ok(()),
        }
    }

    fn read_more(&mut self) -> Result<usize, String> {
        let mut bytes = [0; 16 * 1024];
        let n = match self.stream.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(format!(
                    "neither answered nor closed; so far {:?}",
                    self.buffer.escape_ascii().to_string()
                ));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return self.read_more(),
            // A reset takes answers along that were not read yet.
            Err(error) => return Err(error.to_string()),
            Ok(n) => n,
        };
        self.buffer.extend_from_slice(&bytes[..n]);
        Ok(n)
    }
}
