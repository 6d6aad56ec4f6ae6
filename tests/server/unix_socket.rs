//! The internal listener on a unix socket.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::{Server, Start};

fn path(name: &str) -> PathBuf {
    // A socket's path is short (unix(7)), and the build's directory may be deep.
    std::env::temp_dir().join(format!("pushring-test-{}-{name}", std::process::id()))
}

fn flags(path: &Path) -> String {
    format!("--internal unix:{}", path.display())
}

/// The answer to one request, read until the server closes.
#[track_caller]
fn ask(path: &Path, method: &str, target: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_backend_publishes_and_measures_over_it_on_every_shard() {
    let path = path("works");
    let mut server = Server::start(&format!(
        "{} --threads 3 --internal-mode 0600",
        flags(&path)
    ));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(server.get("/metrics").response().code(), "path_internal");
    let mut listener = server.sse("/sse/c");
    for n in 0..50 {
        let answer = ask(&path, "POST", "/pub/c", &format!("message {n}"));
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        listener.read_until(&format!("message {n}\n"));
    }
    assert!(ask(&path, "GET", "/metrics", "").contains("pushring_messages_published_total 50\n"));
    server.signal(Signal::TERM);
    assert!(server.wait_exit().success());
    assert!(!path.exists(), "the file is removed at the exit");
}

#[test]
fn a_killed_servers_file_is_replaced_and_a_live_ones_is_not() {
    let path = path("stale");
    let mut server = Server::start(&flags(&path));
    let (status, text) = Start::new(&flags(&path)).fail();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("another server listens on it"), "{text}");
    assert!(ask(&path, "GET", "/healthz", "").ends_with("ok\n"));
    server.signal(Signal::KILL);
    server.wait_exit();
    assert!(path.exists());
    let mut server = Server::start(&flags(&path));
    assert!(ask(&path, "GET", "/healthz", "").ends_with("ok\n"));
    server.signal(Signal::TERM);
    assert!(server.wait_exit().success());
}

#[test]
fn a_path_that_cannot_be_had_is_told() {
    let (status, text) = Start::new("--internal unix:/nonexistent/pushring.sock").fail();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("its directory has to exist"), "{text}");
    let (status, text) = Start::new("--internal unix:pushring.sock").fail();
    assert_eq!(status.code(), Some(2), "{text}");
}
