//! An arrow that points up fails a test, not a review.
//!
//! The pure folders wait for nothing, read no clock and know no socket or thread, and the direction
//! `transport → api → auth → hub → proto` holds. Comments may name anything; code may not, tests included.

mod source;

use source::Source;

/// Every pure folder with the modules of this crate that it may name beside itself.
const PURE: &[(&str, &[&str])] = &[
    ("src/proto", &[]),
    ("src/hub", &["proto", "config", "close_reason", "metrics"]),
    ("src/history", &["proto", "hub", "config"]),
    ("src/auth", &["proto", "hub", "config"]),
    (
        "src/api",
        &["proto", "hub", "auth", "config", "close_reason", "metrics"],
    ),
    (
        "src/transport",
        &[
            "proto",
            "hub",
            "auth",
            "api",
            "config",
            "close_reason",
            "metrics",
        ],
    ),
];

/// Not pure, and below the shards all the same.
const BELOW_SHARDS: &[(&str, &[&str])] = &[
    (
        "src/backplane",
        &["proto", "hub", "config", "logging", "metrics", "threads"],
    ),
    (
        "src/callback",
        &[
            "proto", "hub", "auth", "api", "config", "logging", "metrics", "threads",
        ],
    ),
    (
        "src/disk",
        &["proto", "hub", "history", "config", "threads"],
    ),
    ("src/tls", &["config"]),
];

/// What all may know, and what it may know itself.
const PLAIN_DATA: &[(&str, &[&str])] = &[
    ("src/close_reason.rs", &[]),
    ("src/config", &["proto"]),
    ("src/metrics", &["config", "close_reason"]),
];

/// What reaches the world: the runtime, system calls, threads, files, shared state and clocks.
const WORLD: &[&str] = &[
    "monoio",
    "io_uring",
    "rustix",
    "socket2",
    "std::thread",
    "std::fs",
    "std::env",
    "std::os",
    "Mutex",
    "RwLock",
    "Atomic",
    "Instant::now",
    "SystemTime",
];

/// An address is a value; whatever else `std::net` has is a socket.
const ADDRESSES: &[&str] = &[
    "IpAddr",
    "Ipv4Addr",
    "Ipv6Addr",
    "SocketAddr",
    "SocketAddrV4",
    "SocketAddrV6",
    "AddrParseError",
];

#[test]
fn pure_folders_never_name_the_world() {
    let mut found = Vec::new();
    for (folder, _) in PURE {
        for source in source::rust_files(folder) {
            found.extend(source.code_words(WORLD));
            found.extend(names_outside(&source, "std::net::", ADDRESSES));
        }
    }
    source::assert_none(found, "a pure folder names the world");
}

#[test]
fn folders_name_only_what_lies_below_them() {
    let mut found = Vec::new();
    for (folder, below) in PURE.iter().chain(BELOW_SHARDS).chain(PLAIN_DATA) {
        let own = folder.trim_start_matches("src/").trim_end_matches(".rs");
        let allowed: Vec<&str> = below.iter().copied().chain([own]).collect();
        let sources = match folder.ends_with(".rs") {
            true => vec![source::file(folder)],
            false => source::rust_files(folder),
        };
        assert!(!sources.is_empty(), "{folder} holds no Rust file");
        for source in sources {
            found.extend(names_outside(&source, "crate::", &allowed));
        }
    }
    source::assert_none(found, "a folder names a module that is not below it");
}

/// What decides about messages, and what only says what stands on a broker's wire.
const PURE_OF_BROKERS: &[&str] = &[
    "src/backplane/acknowledged.rs",
    "src/backplane/note.rs",
    "src/backplane/order.rs",
    "src/backplane/registry.rs",
    "src/backplane/relay.rs",
    "src/backplane/relay/feed.rs",
    "src/backplane/relay/incoming.rs",
    "src/backplane/relay/sweep.rs",
    "src/backplane/relay/waiting.rs",
    "src/backplane/roster.rs",
    "src/backplane/nats/subject.rs",
    "src/backplane/redis/frame.rs",
    "src/backplane/redis/keys.rs",
    "src/backplane/redis/url.rs",
];

#[test]
fn what_a_node_decides_needs_no_broker() {
    let mut found = Vec::new();
    let sources = source::rust_files("src/backplane");
    for path in PURE_OF_BROKERS {
        let source = sources.iter().find(|source| source.path == *path);
        let source = source.unwrap_or_else(|| panic!("{path} is not there"));
        found.extend(source.code_words(WORLD));
        found.extend(source.code_words(&["tokio::", "use redis::", "async"]));
        found.extend(names_outside(source, "std::net::", ADDRESSES));
    }
    source::assert_none(found, "a pure part of a broker names the world");
}

/// A panic in any other would leave the process alive and without it.
#[test]
fn every_thread_and_task_aborts_the_process_when_it_panics() {
    let mut found = Vec::new();
    for source in source::rust_files("src") {
        if source.path != "src/threads.rs" {
            found.extend(source.code_words(&["thread::Builder"]));
            let tasks = source.code_words(&["tokio::spawn("]).len();
            if tasks != source.code_words(&["tokio::spawn(or_abort("]).len() {
                found.push(format!("{}: tokio::spawn without or_abort", source.path));
            }
        }
    }
    source::assert_none(found, "a thread or task is not begun by src/threads.rs");
}

/// The names that follow `prefix` in the code of `source`, alone or in braces, and are not in `allowed`.
fn names_outside(source: &Source, prefix: &str, allowed: &[&str]) -> Vec<String> {
    let code = source.code();
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        for name in names_after(&code[at + prefix.len()..]) {
            if !allowed.contains(&name) {
                let line = code[..at].matches('\n').count() + 1;
                found.push(format!("{}:{line}: {prefix}{name}", source.path));
            }
        }
    }
    found
}

/// The first path segment after a `::`, or each first segment of a `{…}` list.
fn names_after(rest: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let name_at = |at: usize| {
        let tail = &rest[at..];
        &tail[..tail.find(|c| !is_name(c)).unwrap_or(tail.len())]
    };
    if !rest.starts_with('{') {
        return vec![name_at(0)];
    }
    let (mut names, mut depth, mut expects_name) = (Vec::new(), 0, false);
    for (at, c) in rest.char_indices() {
        match c {
            '{' => (depth, expects_name) = (depth + 1, depth == 0),
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' => expects_name = depth == 1,
            _ if expects_name && is_name(c) => {
                names.push(name_at(at));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn planted_names_are_found() {
    let planted = |code: &str, prefix: &str, allowed: &[&str]| {
        names_outside(&Source::of("planted.rs", code), prefix, allowed)
    };
    let crate_names = |code: &str| planted(code, "crate::", &["proto"]);
    assert_eq!(crate_names("use crate::proto::json;\n"), [""; 0]);
    assert_eq!(crate_names("// crate::shard\n"), [""; 0]);
    assert_eq!(
        crate_names("\nuse crate::shard::Turn;\n"),
        ["planted.rs:2: crate::shard"]
    );
    assert_eq!(
        crate_names(
            "use crate::{\n    proto::{json, query},\n    hub::{self, Hub},\n    server,\n};\n"
        ),
        ["planted.rs:1: crate::hub", "planted.rs:1: crate::server"]
    );
    let net_names = |code: &str| planted(code, "std::net::", ADDRESSES);
    assert_eq!(net_names("use std::net::{IpAddr, Ipv4Addr};\n"), [""; 0]);
    assert_eq!(
        net_names("use std::net::{IpAddr, TcpStream};\n"),
        ["planted.rs:1: std::net::TcpStream"]
    );
    assert_eq!(
        Source::of("planted.rs", "let a = 1;\nlet t = Instant::now();\n").code_words(WORLD),
        ["planted.rs:2: Instant::now"]
    );
}
