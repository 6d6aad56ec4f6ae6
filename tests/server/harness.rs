//! A server process on a port of its own: how to start it, ask it, look into it and end it.
//!
//! Everything waits for a condition until [`DEADLINE`], which is only there so that a failure ends.
#![allow(unreachable_pub, reason = "the modules beside this one use it")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, Response, Ws};

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
    /// Its configuration file.
    file: String,
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

    /// The process, and the path of its configuration file.
    fn spawn(mut self) -> (Child, String) {
        let mut file = String::new();
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
            file = path;
        }
        // Its own group: a signal of the terminal ends the test run, and the drop ends the server.
        let child = self
            .command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        (child, file)
    }

    #[track_caller]
    pub fn serve(self) -> Server {
        let (mut child, file) = self.spawn();
        let log = Arc::new(Log::default());
        log.follow(child.stderr.take().unwrap());
        // A unix socket is no address to connect to here: who uses one knows its path.
        let addresses: BTreeMap<_, Option<SocketAddr>> = log.wait("listening line", |lines| {
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
                    (word("audience="), word("address=").parse().ok())
                })
                .collect();
            let is_whole = found.contains_key("all");
            is_whole.then_some(found)
        });
        let public = addresses.get("public").copied().flatten();
        let internal = addresses["all"].or(public).expect("an address");
        Server {
            child,
            file,
            log,
            address: public.unwrap_or(internal),
            internal,
            backend: Mutex::new(None),
        }
    }

    /// For a server that does not come up: its exit status, and what it said.
    #[track_caller]
    pub fn fail(self) -> (ExitStatus, String) {
        let (child, _) = self.spawn();
        let output = child.wait_with_output().unwrap();
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

    /// Puts other contents into the configuration file, and tells the server.
    pub fn reload(&self, contents: &str) {
        std::fs::write(&self.file, contents).unwrap();
        self.signal(Signal::HUP);
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
