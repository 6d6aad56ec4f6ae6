//! A directory with the logs of two shards, written and read again.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use super::consolidate::GENERATIONS_MAX;
use super::load::origin_ms;
use super::writer::{Append, Report, Reporter, Writers};
use super::*;
use crate::config::Config;
use crate::history::record::{self, Entry, FILE_HEAD};
use crate::hub::Published;
use crate::hub::durable::{Fact, MessageFact};
use crate::hub::position::Position;
use crate::proto::payload::PayloadKind;

/// A directory of its own, removed at the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("pushring-disk-{}", fastrand::u64(..)));
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let names = files(&self.0).unwrap();
        names.iter().map(ToString::to_string).collect()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The logs of one process.
struct Process {
    senders: Vec<Sender<Append>>,
    reports: Receiver<(usize, Report)>,
    writers: Writers,
    directory: Directory,
}

impl Process {
    fn start(path: &Path, n_shards: usize) -> Self {
        let mut directory = Directory::open(path).unwrap();
        directory.consolidate(&loaded(&directory)).unwrap();
        let (sender, reports) = mpsc::channel();
        let sender = Mutex::new(sender);
        let report: Reporter = std::sync::Arc::new(move |shard, report| {
            sender.lock().unwrap().send((shard, report)).unwrap()
        });
        let (senders, appends) = (0..n_shards).map(|_| mpsc::channel()).unzip();
        let clock = HistoryClock {
            started: Instant::now(),
            origin_ms: 1,
        };
        let writers = Writers::start(&directory, clock, appends, 1, &report).unwrap();
        Self {
            senders,
            reports,
            writers,
            directory,
        }
    }

    fn write(&self, shard: usize, name: &str, begins_file: bool, completes_file: bool) {
        let head = Position::parse("k3Qz9aXb-1").unwrap();
        let mut bytes = Vec::new();
        record::write(&mut bytes, &Entry::Fact(Fact::Channel { name, head }));
        let append = Append {
            bytes,
            begins_file,
            completes_file,
        };
        self.senders[shard].send(append).unwrap();
        let (from, report) = self.reports.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(from, shard);
        assert!(
            matches!(report, Report::Written { result: Ok(()), .. }),
            "{report:?}"
        );
    }

    fn end(self) {
        drop(self.senders);
        self.writers.finish();
    }

    fn channels(path: &Path) -> usize {
        let loaded = loaded(&Directory::open(path).unwrap());
        assert!(!loaded.found.is_skipped);
        loaded.restored.channels()
    }
}

fn loaded(directory: &Directory) -> Loaded {
    load(directory, &std::sync::Arc::new(Config::default())).unwrap()
}

#[track_caller]
fn wait_for(directory: &Temporary, want: &[&str]) {
    let began = Instant::now();
    while directory.names() != want {
        let names = directory.names();
        assert!(began.elapsed() < Duration::from_secs(20), "{names:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn older_files_go_when_everything_has_been_told_anew_and_not_before() {
    let directory = Temporary::new();
    let process = Process::start(&directory.0, 2);
    process.write(0, "a", false, true);
    process.write(1, "b", false, true);
    process.write(0, "c", true, false);
    let (a1, a2, b1) = (
        "00000001-000-000001.log",
        "00000001-000-000002.log",
        "00000001-001-000001.log",
    );
    assert_eq!(directory.names(), [a1, a2, b1]);
    process.write(0, "a", false, true);
    wait_for(&directory, &[a2, b1]);
    process.end();
    assert_eq!(Process::channels(&directory.0), 3);

    let process = Process::start(&directory.0, 1);
    assert_eq!(process.directory.generation, 2);
    process.write(0, "d", false, false);
    let c1 = "00000002-000-000001.log";
    assert_eq!(directory.names(), [a2, b1, c1]);
    process.write(0, "e", false, true);
    wait_for(&directory, &[c1]);
    process.end();
    assert_eq!(Process::channels(&directory.0), 2);
}

#[test]
fn processes_that_end_too_early_again_and_again_leave_no_copy_each() {
    let directory = Temporary::new();
    for round in 0..10 {
        let process = Process::start(&directory.0, 2);
        process.write(0, &format!("a{round}"), false, false);
        process.write(1, &format!("b{round}"), false, false);
        process.end();
        let names = directory.names();
        assert!(names.len() <= 2 * (GENERATIONS_MAX + 1), "{names:?}");
    }
    assert_eq!(Process::channels(&directory.0), 20);
}

fn records<'a>(facts: impl IntoIterator<Item = Fact<'a>>) -> BTreeSet<Vec<u8>> {
    let record = |fact| {
        let mut record = Vec::new();
        record::write(&mut record, &Entry::Fact(fact));
        record
    };
    facts.into_iter().map(record).collect()
}

/// All that a directory brings back.
fn told(directory: &Directory) -> BTreeSet<Vec<u8>> {
    let mut told = BTreeSet::new();
    (loaded(directory).restored).tell_all(0, |fact| told.append(&mut records([fact])));
    told
}

#[test]
fn one_generation_tells_what_many_did_wherever_making_it_ends() {
    let path = Temporary::new();
    let position = |text| Position::parse(text).unwrap();
    let now_ms = wall_ms();
    let message = |text, payload, idempotency_key| {
        Fact::Message(MessageFact {
            name: "news",
            position: position(text),
            kind: PayloadKind::Text,
            event: Some("created"),
            payload,
            published_ms: now_ms,
            published_us: 1000 * now_ms,
            expires_ms: u64::MAX,
            idempotency_key,
        })
    };
    let channel = |name, text| Fact::Channel {
        name,
        head: position(text),
    };
    for facts in [
        vec![message("aaaaaaaa-1", Some(&b"old"[..]), None)],
        vec![Fact::Forgotten {
            name: "news",
            epoch: position("aaaaaaaa-1").epoch,
        }],
        vec![
            channel("other", "bbbbbbbb-7"),
            message("bbbbbbbb-1", Some(b"one"), Some("key")),
            message("bbbbbbbb-3", Some(b"three"), None),
            message("bbbbbbbb-4", None, None),
        ],
    ] {
        let directory = Directory::open(&path.0).unwrap();
        let name = FileName {
            generation: directory.generation,
            shard: 0,
            number: 1,
        };
        let mut bytes = FILE_HEAD.to_vec();
        bytes.extend(records(facts).into_iter().flatten());
        fs::write(path.0.join(name.to_string()), bytes).unwrap();
    }
    // A backup was put back: positions jump, and once only.
    fs::write(path.0.join(RESTORED), b"").unwrap();
    let want = records([
        channel("other", "bbbbbbbb-1000000007"),
        channel("news", "bbbbbbbb-1000000004"),
        message("bbbbbbbb-1", Some(b"one"), None),
        message("bbbbbbbb-3", Some(b"three"), None),
        Fact::Result {
            name: "news",
            key: "key",
            published: Published {
                position: position("bbbbbbbb-1"),
                receivers: 0,
            },
            end_ms: now_ms + Config::default().timing.idempotency_window_ms,
        },
    ]);
    let older = path.names();
    let before: Vec<_> = older
        .iter()
        .map(|name| fs::read(path.0.join(name)).unwrap())
        .collect();

    let mut directory = Directory::open(&path.0).unwrap();
    assert_eq!(told(&directory), want);
    directory.consolidate(&loaded(&directory)).unwrap();
    assert_eq!(directory.generation, 5);
    assert_eq!(path.names(), ["00000004-000-000001.log"]);
    assert_eq!(told(&directory), want);
    assert!(!loaded(&directory).found.is_skipped);
    drop(directory);

    // It ended with the last of the older files still there, or with nothing of the new one but its beginning.
    for (name, bytes) in older.iter().zip(before).rev() {
        fs::write(path.0.join(name), bytes).unwrap();
        fs::write(path.0.join(UNFINISHED), b"pushr").unwrap();
        let directory = Directory::open(&path.0).unwrap();
        assert_eq!(told(&directory), want, "{name}");
        assert!(!path.0.join(UNFINISHED).exists());
    }
}

#[test]
fn a_second_process_is_kept_out() {
    let directory = Temporary::new();
    let first = Directory::open(&directory.0).unwrap();
    assert!(matches!(
        Directory::open(&directory.0),
        Err(DiskError::Locked(_))
    ));
    drop(first);
    Directory::open(&directory.0).unwrap();
}

#[test]
fn a_file_of_the_log_has_one_spelling() {
    let name = FileName {
        generation: 12,
        shard: 255,
        number: 1_000_000,
    };
    assert_eq!(name.to_string(), "00000012-255-1000000.log");
    assert_eq!(FileName::parse(&name.to_string()), Some(name));
    for other in [
        "lock",
        "00000012-255-1000000",
        "12-255-1000000.log",
        "00000012-255.log",
        "00000012-255-00000x.log",
        "+0000012-255-000001.log",
    ] {
        assert_eq!(FileName::parse(other), None, "{other}");
    }
}

#[test]
fn the_clock_goes_on_and_never_back() {
    let noted = |history_ms, wall_ms| Clock {
        history_ms,
        wall_ms,
    };
    // (what was noted last, the newest message, the wall clock now, what the clock of the histories says)
    for (noted, newest_ms, wall_ms, want) in [
        // The first start ever.
        (noted(0, 0), 0, 5_000, 5_000),
        // Away for 100 ms, on a machine whose wall clock is right, or not.
        (noted(5_000, 5_000), 4_000, 5_100, 5_100),
        (noted(5_000, 9_000), 4_000, 9_100, 5_100),
        // Messages came after the last note.
        (noted(5_000, 5_000), 6_000, 6_100, 6_100),
        // The wall clock was set back meanwhile.
        (noted(5_000, 5_000), 6_000, 100, 6_000),
    ] {
        let got = origin_ms(noted, newest_ms, wall_ms);
        assert_eq!(got, want, "{noted:?} {newest_ms} {wall_ms}");
    }
}
