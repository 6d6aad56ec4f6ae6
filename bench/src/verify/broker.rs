//! The broker behind the nodes: real servers on ports of their own, in a folder that goes with them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::options::BrokerKind;

const START_TIMEOUT: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The master's name at the sentinel.
const MASTER: &str = "verify";
/// How long the sentinel waits before it takes a silent master for dead.
const DOWN_AFTER_MS: u32 = 500;

/// The servers, all on one address that every node reaches.
pub(super) struct Broker {
    kind: BrokerKind,
    folder: PathBuf,
    address: Ipv4Addr,
    /// The first one is the one that is troubled.
    servers: Vec<Server>,
}

/// One server process, which may be away for a while.
struct Server {
    program: &'static str,
    arguments: Vec<String>,
    folder: PathBuf,
    address: SocketAddr,
    child: Option<Child>,
}

impl Broker {
    pub(super) fn start(
        kind: BrokerKind,
        address: Ipv4Addr,
        folder: &Path,
    ) -> Result<Self, String> {
        let mut broker = Self {
            kind,
            folder: folder.join("broker"),
            address,
            servers: Vec::new(),
        };
        match kind {
            BrokerKind::Redis => {
                broker.add("redis", |address| redis_arguments(address, None))?;
            }
            BrokerKind::RedisSentinel => {
                let master = broker.add("master", |address| redis_arguments(address, None))?;
                broker.add("replica", |address| redis_arguments(address, Some(master)))?;
                broker.add_sentinel(master)?;
            }
            BrokerKind::Nats => {
                broker.add("nats", |_| Vec::new())?;
            }
        }
        Ok(broker)
    }

    /// The server's setting `backplane`.
    pub(super) fn url(&self) -> String {
        let address = self.servers[0].address;
        match self.kind {
            BrokerKind::Redis => format!("redis://{address}"),
            BrokerKind::RedisSentinel => {
                let sentinel = self.servers.last().expect("it was started").address;
                format!("redis+sentinel://{sentinel}/{MASTER}")
            }
            BrokerKind::Nats => format!("nats://{address}"),
        }
    }

    /// Somebody watches over it, and lets another server take its place.
    pub(super) fn fails_over(&self) -> bool {
        self.kind == BrokerKind::RedisSentinel
    }

    pub(super) fn stop_for(&self, duration: Duration) {
        self.servers[0].signal(Signal::STOP);
        thread::sleep(duration);
        self.servers[0].signal(Signal::CONT);
    }

    /// Kills it; it is away for a moment and comes back with what it had, or with nothing.
    pub(super) fn restart(&mut self, away: Duration, keeps_data: bool) -> Result<(), String> {
        let server = &mut self.servers[0];
        server.kill();
        thread::sleep(away);
        if !keeps_data {
            fs::remove_dir_all(&server.folder).map_err(|error| error.to_string())?;
        }
        server.start()
    }

    pub(super) fn flush(&self) -> Result<(), String> {
        match ask(self.servers[0].address, "FLUSHALL\r\n") {
            Some(answer) if answer.starts_with("+OK") => Ok(()),
            other => Err(format!("FLUSHALL was answered {other:?}")),
        }
    }

    /// Kills the master, whichever of the two it is, and starts it again when the other one has its place.
    pub(super) fn fail_over(&mut self) -> Result<(), String> {
        let is_master = |server: &Server| {
            ask(server.address, "ROLE\r\n").is_some_and(|role| role.contains("master"))
        };
        let old = (self.servers[..2].iter())
            .position(is_master)
            .ok_or("there is no master")?;
        self.servers[old].kill();
        let end = Instant::now() + START_TIMEOUT;
        while !is_master(&self.servers[1 - old]) {
            if Instant::now() > end {
                return Err("the replica did not become the master".into());
            }
            thread::sleep(LOOK_AGAIN);
        }
        self.servers[old].start()
    }

    fn add(
        &mut self,
        name: &str,
        arguments: impl Fn(SocketAddr) -> Vec<String>,
    ) -> Result<SocketAddr, String> {
        let address = free_port(self.address)?;
        let folder = self.folder.join(name);
        let program = match self.kind {
            BrokerKind::Nats => "nats-server",
            _ => "redis-server",
        };
        let mut own = match self.kind {
            BrokerKind::Nats => nats_arguments(address, &folder),
            _ => vec!["--dir".to_owned(), folder.display().to_string()],
        };
        own.extend(arguments(address));
        self.run(program, own, folder, address)?;
        Ok(address)
    }

    fn add_sentinel(&mut self, master: SocketAddr) -> Result<(), String> {
        let address = free_port(self.address)?;
        let folder = self.folder.join("sentinel");
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        // A sentinel writes to its configuration.
        let config = folder.join("sentinel.conf");
        let text = format!(
            "bind {}\nport {}\nprotected-mode no\ndir {}\nsentinel monitor {MASTER} {} {} 1\n\
             sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\nsentinel failover-timeout {MASTER} 5000\n",
            address.ip(),
            address.port(),
            folder.display(),
            master.ip(),
            master.port()
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let arguments = vec![config.display().to_string(), "--sentinel".to_owned()];
        self.run("redis-server", arguments, folder, address)
    }

    fn run(
        &mut self,
        program: &'static str,
        arguments: Vec<String>,
        folder: PathBuf,
        address: SocketAddr,
    ) -> Result<(), String> {
        let mut server = Server {
            program,
            arguments,
            folder,
            address,
            child: None,
        };
        server.start()?;
        eprintln!("verify: {program} on {address}");
        self.servers.push(server);
        Ok(())
    }
}

impl Server {
    fn start(&mut self) -> Result<(), String> {
        let text = |error: std::io::Error| format!("{}: {error}", self.program);
        fs::create_dir_all(&self.folder).map_err(text)?;
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.folder.join("log"))
            .map_err(text)?;
        let child = Command::new(self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stderr(log.try_clone().map_err(text)?)
            .stdout(log)
            .spawn()
            .map_err(text)?;
        self.child = Some(child);
        let end = Instant::now() + START_TIMEOUT;
        while !self.answers() {
            if Instant::now() > end {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(format!("{} did not start: {log}", self.program));
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Takes requests: has also read what it had.
    fn answers(&self) -> bool {
        ask(self.address, "PING\r\n").is_some_and(|answer| answer.contains("PONG"))
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn redis_arguments(address: SocketAddr, master: Option<SocketAddr>) -> Vec<String> {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut words = vec!["--bind", &ip, "--port", &port, "--protected-mode", "no"];
    // What is answered is with the kernel before, so a killed server comes back with it.
    words.extend(["--appendonly", "yes", "--appendfsync", "everysec"]);
    words.extend(["--save", "", "--repl-diskless-sync-delay", "0"]);
    let mut words: Vec<_> = words.into_iter().map(str::to_owned).collect();
    if let Some(master) = master {
        words.extend(["--replicaof".to_owned(), master.ip().to_string()]);
        words.push(master.port().to_string());
    }
    words
}

fn nats_arguments(address: SocketAddr, folder: &Path) -> Vec<String> {
    let store = folder.join("jetstream").display().to_string();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    [
        "--addr",
        &ip,
        "--port",
        &port,
        "--jetstream",
        "--store_dir",
        &store,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// One line to a server, and the front of what it answers. Redis and NATS both know PING and PONG; NATS speaks first.
fn ask(address: SocketAddr, line: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).ok()?;
    stream.write_all(line.as_bytes()).ok()?;
    let (mut answer, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let bytes = stream.read(&mut buffer).ok().filter(|&bytes| bytes > 0)?;
        answer.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
        if !answer.starts_with("INFO") || answer.contains("PONG") {
            return Some(answer);
        }
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port(address: Ipv4Addr) -> Result<SocketAddr, String> {
    let listener =
        TcpListener::bind((address, 0)).map_err(|error| format!("{address}: {error}"))?;
    listener.local_addr().map_err(|error| error.to_string())
}
