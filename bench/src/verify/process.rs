//! The server under test: started, drained, killed, stopped, with its next process on the same port.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const START_TIMEOUT: Duration = Duration::from_secs(20);
/// A drain with the server's own limits, and some more.
const END_TIMEOUT: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub(super) struct Program {
    /// The command that runs it in a place of its own; empty: here.
    pub(super) prefix: Vec<String>,
    pub(super) path: PathBuf,
    pub(super) config: PathBuf,
    pub(super) arguments: Vec<String>,
}

/// One process. Dropped, it is killed.
pub(super) struct Process {
    child: Child,
    pub(super) address: SocketAddr,
    has_panicked: Arc<AtomicBool>,
}

impl Program {
    /// Starts a process and waits until it listens.
    pub(super) fn start(&self, listen: SocketAddr) -> Result<Process, String> {
        let mut command = match self.prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.path);
                command
            }
            None => Command::new(&self.path),
        };
        command
            .arg("serve")
            .args(["--listen", &listen.to_string(), "--config"])
            .arg(&self.config)
            .args(["--log-format", "text", "--log-level", "info"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // These are settings of the server, which refuses those that it doesn't know.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PUSHRING_") {
                command.env_remove(name);
            }
        }
        let path = self.path.display();
        let mut child = command
            .spawn()
            .map_err(|error| format!("{path}: {error}"))?;
        let stderr = child.stderr.take().expect("it is piped");
        let has_panicked = Arc::new(AtomicBool::new(false));
        let listening = follow(stderr, Arc::clone(&has_panicked));
        let mut process = Process {
            child,
            address: listen,
            has_panicked,
        };
        match listening.recv_timeout(START_TIMEOUT) {
            Ok(address) => process.address = address,
            Err(_) => return Err(format!("{path} did not start")),
        }
        Ok(process)
    }
}

/// Reads the log to its end, and gives the address that it names.
fn follow(
    stderr: impl Read + Send + 'static,
    panicked: Arc<AtomicBool>,
) -> mpsc::Receiver<SocketAddr> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(address) = listening_address(&line) {
                let _ = sender.send(address);
            } else if line.contains(" ERROR ") || line.contains("panicked") {
                panicked.fetch_or(line.contains("panicked"), Ordering::AcqRel);
                eprintln!("server: {line}");
            }
        }
    });
    receiver
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening ")?.1.split_once("address=")?;
    rest.split_whitespace().next()?.parse().ok()
}

impl Process {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) {
        // A process that has ended by itself is found by `wait`.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Drains it, and waits until it has ended in order.
    pub(super) fn drain(mut self) -> Result<(), String> {
        self.signal(Signal::TERM);
        let end = Instant::now() + END_TIMEOUT;
        loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if !status.success() => return Err(format!("it ended with {status}")),
                Some(_) if self.has_panicked() => return Err("it panicked".into()),
                Some(_) => return Ok(()),
                None if Instant::now() > end => return Err("it did not end on SIGTERM".into()),
                None => thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// Kills it. An error is that it had ended before, or was not well.
    pub(super) fn kill(mut self) -> Result<(), String> {
        let before = self.child.try_wait().map_err(|error| error.to_string())?;
        let _ = self.child.kill();
        let _ = self.child.wait();
        match before {
            Some(status) => Err(format!("it ended by itself with {status}")),
            None if self.has_panicked() => Err("it panicked".into()),
            None => Ok(()),
        }
    }

    fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::Acquire)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_names_the_address() {
        let line = "2026-11-22T01:50:39Z  INFO pushring::server: listening address=127.0.0.1:41 audience=\"all\" shards=2";
        assert_eq!(listening_address(line), "127.0.0.1:41".parse().ok());
        assert_eq!(listening_address("another process listens here, too"), None);
    }
}
