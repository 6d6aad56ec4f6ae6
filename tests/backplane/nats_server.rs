//! A NATS server with JetStream, of the test that starts it: on a free port, with a folder of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Installed by `scripts/check` below the target folder; another one is named by this variable.
const PROGRAM_VARIABLE: &str = "NATS_SERVER_BIN";

/// On a machine that has much else to do.
const START_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct NatsServer {
    folder: PathBuf,
    arguments: Vec<String>,
    port: u16,
    process: Option<Child>,
}

impl NatsServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Servers that know each other.
    pub(crate) fn cluster(servers: usize) -> Vec<Self> {
        // Ports that were free a moment ago; each server has to know those of the others.
        let sockets: Vec<_> = (0..servers)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let route =
            |socket: &TcpListener| format!("nats://{}", socket.local_addr().expect("an address"));
        let routes: Vec<_> = sockets.iter().map(route).collect();
        drop(sockets);
        let all = routes.join(",");
        let start = |(number, own): (usize, &String)| {
            let name = format!("server-{number}");
            let cluster = ["--cluster_name", "test", "--cluster", own, "--routes", &all];
            Self::start_with(&[&["--server_name", &name], &cluster[..]].concat())
        };
        routes.iter().enumerate().map(start).collect()
    }

    /// With more `arguments` on its command line.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("nats-{}-{number}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder for the server");
        let mut server = Self {
            folder,
            arguments: arguments.iter().map(|it| it.to_string()).collect(),
            port: 0,
            process: None,
        };
        server.launch();
        server
    }

    /// Starts it (again), on the port that it had before, and waits until it answers.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let ports_folder = self.folder.join("ports");
        let _ = fs::remove_dir_all(&ports_folder);
        fs::create_dir_all(&ports_folder).expect("a folder for the file of ports");
        let port = match self.port {
            0 => "-1".to_owned(),
            port => port.to_string(),
        };
        let log = fs::File::create(self.folder.join("log")).expect("a log file");
        let process = Command::new(program())
            .args([
                "--addr",
                "127.0.0.1",
                "--port",
                &port,
                "--jetstream",
                "--store_dir",
            ])
            .arg(self.store())
            .arg("--ports_file_dir")
            .arg(&ports_folder)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server starts");
        let ports_file = ports_folder.join(format!("nats-server_{}.ports", process.id()));
        self.process = Some(process);
        let began = Instant::now();
        // The file is there when the server takes connections.
        while self
            .port_in(&ports_file)
            .is_none_or(|port| !is_greeted(port))
        {
            let status = self
                .process
                .as_mut()
                .and_then(|it| it.try_wait().ok())
                .flatten();
            assert!(
                began.elapsed() < START_TIMEOUT && status.is_none(),
                "nats-server does not start ({status:?}): {}",
                self.log()
            );
            sleep(Duration::from_millis(10));
        }
        self.port = self.port_in(&ports_file).expect("it was there");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it keeps streams.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// As an operator stops it.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// As the kernel kills it.
    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Nothing of it runs from the return on.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        while !self.is_paused() {
            sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Forgets every stream. It must not run.
    pub(crate) fn wipe(&self) {
        assert!(self.process.is_none(), "the server still runs");
        let _ = fs::remove_dir_all(self.store());
    }

    /// Publishes as any program does that is not this project's: by the text protocol. Each of `headers` is a line.
    pub(crate) fn publish(&self, subject: &str, headers: &[&str], payload: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        let head: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("NATS/1.0\r\n{head}\r\n");
        let (verb, head, sizes) = match headers.is_empty() {
            true => ("PUB", String::new(), payload.len().to_string()),
            false => {
                let sizes = format!("{} {}", head.len(), head.len() + payload.len());
                ("HPUB", head, sizes)
            }
        };
        let connect = "CONNECT {\"verbose\":false,\"headers\":true}";
        let mut bytes = format!("{connect}\r\n{verb} {subject} {sizes}\r\n{head}").into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\nPING\r\n");
        stream.write_all(&bytes).expect("written");
        let answers = BufReader::new(stream)
            .lines()
            .map(|line| line.expect("an answer"));
        let after_info = answers
            .skip(1)
            .find(|line| line.starts_with("PONG") || line.starts_with("-ERR"));
        assert_eq!(after_info.as_deref(), Some("PONG"));
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let mut process = self.process.take().expect("the server runs");
        process.wait().expect("it ends");
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the server runs");
        let pid = Pid::from_raw(process.id() as i32).expect("a process id");
        kill_process(pid, signal).expect("a signal is taken");
    }

    /// Each of its threads has taken notice of the signal.
    fn is_paused(&self) -> bool {
        let process = self.process.as_ref().expect("the server runs");
        let threads = fs::read_dir(format!("/proc/{}/task", process.id())).expect("its threads");
        threads.flatten().all(|thread| {
            let state = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // `PID (NAME) STATE …`
            state
                .rsplit_once(") ")
                .is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    fn port_in(&self, file: &Path) -> Option<u16> {
        let ports: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
        let url = ports["nats"][0].as_str()?;
        url.rsplit_once(':')?.1.parse().ok()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn is_greeted(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok_and(|mut stream| {
        let mut start = [0; 4];
        stream.read_exact(&mut start).is_ok() && &start == b"INFO"
    })
}

fn program() -> PathBuf {
    if let Some(program) = std::env::var_os(PROGRAM_VARIABLE) {
        return program.into();
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("the target folder");
    let program = target.join("clients/nats/bin/nats-server");
    assert!(
        program.exists(),
        "there is no {}: run scripts/check --only test, which installs it, or name one in {PROGRAM_VARIABLE}",
        program.display()
    );
    program
}
