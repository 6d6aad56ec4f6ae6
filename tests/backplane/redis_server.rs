//! Redis servers for a test: each on free ports, in a folder of its own, gone with the value.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the modules beside this one use it, each a part"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Far more than anything here takes; a loaded machine is slow.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// Tries until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// One server.
pub struct RedisServer {
    pub port: u16,
    dir: PathBuf,
    args: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// `args` are options of the configuration file, as `--name value`.
    pub fn start(args: &[&str]) -> Self {
        // Another process may take the port in between: then with another.
        for _ in 0..20 {
            let port = free_port();
            let port_text = port.to_string();
            let mut all = vec!["--port", &port_text];
            all.extend(args);
            if let Some(server) = Self::start_at(port, &all) {
                return server;
            }
        }
        panic!("redis-server finds no port");
    }

    /// A server that takes TLS only, by the certificates of `tests/server`.
    pub fn start_tls(args: &[&str]) -> Self {
        let file = |name: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/certificates");
            folder.join(name).to_str().unwrap().to_owned()
        };
        let port = free_port();
        let port_text = port.to_string();
        let (cert, key, ca) = (file("one.pem"), file("one.key"), file("ca.pem"));
        let mut all = vec!["--port", "0", "--tls-port", &port_text];
        all.extend(["--tls-cert-file", &cert, "--tls-key-file", &key]);
        all.extend(["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"]);
        all.extend(args);
        let mut server = Self::new(port, &all);
        server.spawn();
        wait_until("a TLS server takes connections", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        server
    }

    fn start_at(port: u16, args: &[&str]) -> Option<Self> {
        let mut server = Self::new(port, args);
        server.spawn();
        server.wait_for_answer().then_some(server)
    }

    fn new(port: u16, args: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pushring-redis-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self {
            port,
            dir,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            process: None,
        }
    }

    fn spawn(&mut self) {
        let mut command = Command::new("redis-server");
        let log = self.dir.join("log");
        let log = fs::File::options().append(true).create(true).open(log);
        // A configuration file first, which Sentinel insists on and writes to.
        let config = self.dir.join("redis.conf");
        if !config.exists() {
            let mut always = format!("bind 127.0.0.1\ndir {}", self.dir.display());
            for arg in &self.args {
                match arg.strip_prefix("--") {
                    Some(name) => always.extend(["\n", name]),
                    None => always.extend([" ", arg]),
                }
            }
            always.push('\n');
            fs::write(&config, always).unwrap();
        }
        command.arg(&config).stdin(Stdio::null());
        if fs::read_to_string(&config)
            .unwrap()
            .contains("sentinel monitor")
        {
            command.arg("--sentinel");
        }
        let process = command.stdout(log.unwrap()).stderr(Stdio::null()).spawn();
        self.process = Some(process.expect("redis-server is needed: apt-get install redis-server"));
    }

    /// `false`: it has ended.
    fn wait_for_answer(&mut self) -> bool {
        let mut has_ended = false;
        let port = self.port;
        let process = self.process.as_mut().unwrap();
        wait_until("a server answers", || {
            has_ended = process.try_wait().unwrap().is_some();
            has_ended || answers(port)
        });
        !has_ended
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, args: &[&str]) -> String {
        cli(self.port, args)
    }

    /// The same for many commands, one a line.
    pub fn cli_lines(&self, commands: &str) -> String {
        let mut process = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli is needed: apt-get install redis-tools");
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(commands.as_bytes()).unwrap();
        drop(stdin);
        let output = process.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Its replica has all that it has by now. (`WAIT` speaks of the writes of its own connection.)
    pub fn wait_for_replica(&self) {
        let number = |name: &str| {
            let info = self.cli(&["INFO", "replication"]);
            let rest = info.split_once(name).map_or("", |(_, rest)| rest);
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
            digits.unwrap_or("").parse::<u64>().unwrap_or(0)
        };
        let wanted = number("master_repl_offset:");
        wait_until("the replica has it all", || number(",offset=") >= wanted);
    }

    /// Ends it as a crash does; what it has not written is lost.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            process.wait().unwrap();
        }
    }

    /// Starts it again where it was, with what it has written.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
        assert!(self.wait_for_answer(), "the server does not come back");
    }

    /// Neither answers nor ends until it goes on.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A master, a replica, and a sentinel that fails over after half a second.
pub struct Sentinel {
    pub master: RedisServer,
    pub replica: RedisServer,
    pub sentinel: RedisServer,
}

impl Sentinel {
    pub fn start() -> Self {
        let master = RedisServer::start(&["--save", "''", "--repl-diskless-sync-delay", "0"]);
        let of_master = format!("127.0.0.1 {}", master.port);
        let replica = RedisServer::start(&["--save", "''", "--replicaof", &of_master]);
        let monitor = format!("monitor mymaster {of_master} 1");
        let sentinel = RedisServer::start(&[
            "--sentinel",
            &monitor,
            "--sentinel",
            "down-after-milliseconds mymaster 500",
            "--sentinel",
            "failover-timeout mymaster 3000",
        ]);
        wait_until("the sentinel knows the replica", || {
            let known = sentinel.cli(&["SENTINEL", "REPLICAS", "mymaster"]);
            known.contains(&replica.port.to_string())
                && replica
                    .cli(&["INFO", "replication"])
                    .contains("master_link_status:up")
        });
        Self {
            master,
            replica,
            sentinel,
        }
    }

    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/mymaster", self.sentinel.address())
    }
}

/// Three masters, each with a replica.
pub struct Cluster {
    pub servers: Vec<RedisServer>,
}

impl Cluster {
    pub fn start() -> Self {
        let servers: Vec<_> = (0..6)
            .map(|_| {
                // The bus would be at the port plus 10000, where there may be none.
                let bus = free_port().to_string();
                RedisServer::start(&[
                    "--save",
                    "''",
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    "1000",
                    "--repl-diskless-sync-delay",
                    "0",
                ])
            })
            .collect();
        let addresses: Vec<_> = servers.iter().map(RedisServer::address).collect();
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli is needed: apt-get install redis-tools");
        let said = String::from_utf8_lossy(&created.stdout);
        assert!(created.status.success(), "{said}");
        let cluster = Self { servers };
        wait_until("all of the cluster works", || {
            cluster.servers.iter().all(|server| {
                let replication = server.cli(&["INFO", "replication"]);
                let is_linked = replication.contains("master_link_status:up")
                    || replication.contains("connected_slaves:1");
                is_linked
                    && server
                        .cli(&["CLUSTER", "INFO"])
                        .contains("cluster_state:ok")
            })
        });
        cluster
    }

    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.servers.iter().map(RedisServer::address).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// Whose slot a key is in.
    pub fn master_of(&mut self, key: &str) -> &mut RedisServer {
        let is_of_key = |server: &RedisServer| {
            server.cli(&["INFO", "replication"]).contains("role:master")
                && !server.cli(&["GET", key]).contains("MOVED")
        };
        let index = self.servers.iter().position(is_of_key);
        &mut self.servers[index.expect("every slot has a master")]
    }
}

/// What `redis-cli` prints; where there is no server, what it says of that.
fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("redis-cli is needed: apt-get install redis-tools");
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, DEADLINE) else {
        return false;
    };
    let mut answer = [0; 5];
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // Without a password or with one: it answers, but not that it is loading its data.
    stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && (&answer == b"+PONG" || &answer == b"-NOAU")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
