//! Histories on the disk: the program is killed and started anew, the disk fills up, the log is torn.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use pushring::history::record::{self, Entry, FILE_HEAD};
use rustix::process::{Resource, Rlimit, Signal, prlimit};

use crate::client::Ws;
use crate::harness::{Server, Start, wait_until};

/// A directory of its own for each test, made anew.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static DIRECTORIES: AtomicUsize = AtomicUsize::new(0);
        let n = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let name = format!("history-{}-{n}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// The flags for a server that keeps its histories here.
    fn flags(&self, more: &str) -> String {
        format!("--history-dir {} {more}", self.0.display())
    }

    fn start(&self, more: &str) -> Server {
        Server::start(&self.flags(more))
    }

    /// The files of the log, in order.
    fn logs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut logs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        logs.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
        logs.sort();
        logs
    }

    fn bytes(&self) -> u64 {
        let length = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        self.logs().iter().map(length).sum()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn json(ws: &mut Ws) -> serde_json::Value {
    serde_json::from_str(&ws.text()).unwrap()
}

fn kill(mut server: Server) {
    server.signal(Signal::KILL);
    server.wait_exit();
}

/// Ids and payloads of all that came after `cursor`.
#[track_caller]
fn after(server: &Server, channel: &str, cursor: &str) -> (bool, Vec<(String, String)>) {
    let response = server.ask("GET", &format!("/poll/{channel}?since={cursor}"), b"");
    if response.status == 204 {
        return (true, Vec::new());
    }
    assert_eq!(response.status, 200, "{response:?}");
    let answer = response.json();
    let text = |message: &serde_json::Value, name: &str| message[name].as_str().unwrap().to_owned();
    let messages = answer["messages"].as_array().unwrap().iter();
    let messages = messages.map(|message| (text(message, "id"), text(message, "data")));
    (answer["recovered"] == true, messages.collect())
}

#[test]
fn every_transport_goes_on_after_a_kill_with_another_number_of_threads() {
    let directory = Directory::new();
    let mut server = directory.start("--threads 2");
    let mut sent = Vec::new();
    for n in 0..20 {
        let payload = format!("m{n}");
        sent.push((server.publish("news", &payload), payload));
    }
    let cursor = sent[4].0.clone();
    for threads in [3, 1, 2] {
        kill(server);
        server = directory.start(&format!("--threads {threads}"));
        let payload = format!("with {threads} threads");
        sent.push((server.publish("news", &payload), payload));
        let want = &sent[5..];
        assert_eq!(after(&server, "news", &cursor), (true, want.to_vec()));

        let mut sse = server.sse(&format!("/sse/news?since={cursor}"));
        for (id, payload) in want {
            let event = sse.read_until("\n\n");
            assert!(event.contains(&format!("id: {id}\n")), "{id}: {event}");
            assert!(event.contains(&format!("data: {payload}\n")), "{event}");
            assert!(!event.contains("pushring.gap"), "{event}");
        }
        let mut ws = server.ws(&format!("/ws/news?format=json&since={cursor}"));
        for (id, payload) in want {
            let message = json(&mut ws);
            assert_eq!(message["id"], id.as_str());
            assert_eq!(message["data"], payload.as_str());
        }
        // What comes now reaches them, too.
        let payload = format!("live with {threads} threads");
        let id = server.publish("news", &payload);
        assert!(sse.read_until("\n\n").contains(&format!("id: {id}\n")));
        assert_eq!(json(&mut ws)["id"], id.as_str());
        sent.push((id, payload));
    }
    let numbers = sent.iter().map(|(id, _)| id.rsplit_once('-').unwrap());
    let wanted: Vec<_> = (1..=sent.len()).map(|n| n.to_string()).collect();
    assert_eq!(numbers.clone().map(|(_, n)| n).collect::<Vec<_>>(), wanted);
    let mut epochs: Vec<_> = numbers.map(|(epoch, _)| epoch).collect();
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "one epoch: {epochs:?}");
}

#[test]
fn positions_without_a_message_are_not_given_out_twice() {
    let directory = Directory::new();
    let flags = "--namespace none.history_messages=0 --namespace brief.history_age=1ms";
    let server = directory.start(flags);
    let channels = ["news", "none:a", "brief:a"];
    let mut cursors = Vec::new();
    for channel in channels {
        server.publish(channel, "1");
        let id = server.publish(&format!("{channel}?store=false"), "2");
        assert!(id.ends_with("-2"), "{id}");
        cursors.push(id);
    }
    kill(server);
    let server = directory.start(flags);
    for (channel, cursor) in channels.into_iter().zip(&cursors) {
        // Who has everything has lost nothing.
        assert_eq!(
            after(&server, channel, cursor),
            (true, Vec::new()),
            "{channel}"
        );
        let id = server.publish(channel, "3");
        assert_eq!(id, cursor.replace("-2", "-3"));
        // Who has less is told of the loss.
        assert!(
            !after(&server, channel, &cursor.replace("-2", "-1")).0,
            "{channel}"
        );
    }
}

#[test]
fn an_epoch_without_a_message_survives_and_a_deleted_one_does_not() {
    for signal in [Signal::KILL, Signal::TERM] {
        check_epochs_after(signal);
    }
}

#[track_caller]
fn check_epochs_after(signal: Signal) {
    let directory = Directory::new();
    let flags = "--drain-period 0s --close-timeout 100ms --linger-timeout 100ms";
    let mut server = directory.start(flags);
    let mut listener = server.ws("/ws/listened-to");
    let kept = listener.cursor.clone();
    let deleted = server.publish("deleted", "1");
    assert_eq!(server.ask("DELETE", "/channels/deleted", b"").status, 204);
    // The record of a publish comes behind all that went before on its shard; both shards get some.
    for n in 0..40 {
        server.publish(&format!("c{n}"), "1");
    }
    server.signal(signal);
    if signal == Signal::TERM {
        assert_eq!(listener.close().0, 3001);
    }
    server.wait_exit();
    let server = directory.start("");
    assert_eq!(server.ws("/ws/listened-to").cursor, kept);
    assert_eq!(server.ask("GET", "/channels/deleted", b"").status, 404);
    let anew = server.publish("deleted", "2");
    assert_ne!(anew.split('-').next(), deleted.split('-').next());
    let (is_recovered, messages) = after(&server, "deleted", &deleted);
    assert_eq!((is_recovered, messages.len()), (false, 1));
}

#[test]
fn a_repeat_after_a_kill_is_still_a_repeat() {
    let directory = Directory::new();
    let publish = |server: &Server| {
        let mut client = server.connect();
        client.request("POST", "/pub/news", "Idempotency-Key: once\r\n", b"1");
        client.response().json()["id"].as_str().unwrap().to_owned()
    };
    let server = directory.start("");
    let first = publish(&server);
    assert_eq!(publish(&server), first);
    kill(server);
    // Once from the publish itself, once from what the second process has told anew.
    for _ in 0..2 {
        let server = directory.start("");
        assert_eq!(publish(&server), first);
        wait_until("one generation", || directory.logs().len() == 2);
        kill(server);
    }
}

#[test]
fn a_full_disk_refuses_publishes_and_nothing_else_until_there_is_room() {
    let directory = Directory::new();
    let before = "trap '' XFSZ; ulimit -S -f 40";
    let server = Start::new(&directory.flags("--threads 1"))
        .after(before)
        .serve();
    let first = server.publish("news", "first");
    let mut sse = server.sse(&format!("/sse/news?since={first}"));
    let mut stored = Vec::new();
    let refused = loop {
        let n = stored.len();
        let payload = format!("{n} {}", "x".repeat(4_000));
        let response = server.ask("POST", "/pub/news", payload.as_bytes());
        if response.status == 503 {
            break response;
        }
        stored.push((response.json()["id"].as_str().unwrap().to_owned(), payload));
        assert!(n < 100, "the disk is not full");
    };
    assert_eq!(refused.json()["error"]["code"], "history_write_failed");
    let seconds = refused
        .field("retry-after")
        .unwrap()
        .parse::<u32>()
        .unwrap();
    assert!((1..=5).contains(&seconds), "{seconds}");
    server.wait_log("history_dir cannot be written");
    server.wait_log("the history log cannot be written");
    assert!(server.metric("history_write_errors_total") > 0);
    // Readers go on, and got no message that was refused.
    assert_eq!(after(&server, "news", &first), (true, stored.clone()));
    for (id, _) in &stored {
        assert!(sse.read_until("\n\n").contains(&format!("id: {id}\n")));
    }
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    prlimit(Some(server.pid()), Resource::Fsize, unlimited).unwrap();
    wait_until("the disk takes something", || {
        let response = server.ask("POST", "/pub/news", b"last");
        let is_taken = response.status != 503;
        if is_taken {
            stored.push((
                response.json()["id"].as_str().unwrap().to_owned(),
                "last".to_owned(),
            ));
        }
        is_taken
    });
    server.wait_log("the history log is written again");
    // The position that was refused is the next one's: there is no hole.
    let (id, _) = stored.last().unwrap();
    assert!(sse.read_until("\n\n").contains(&format!("id: {id}\n")));
    kill(server);
    let server = directory.start("");
    assert_eq!(after(&server, "news", &first), (true, stored));
    assert_eq!(server.metric("history_torn_bytes"), 0);
    assert_eq!(server.metric("history_position_skips"), 0);
}

#[test]
fn a_torn_tail_is_cut_and_told_and_what_is_before_it_stays() {
    let directory = Directory::new();
    let server = directory.start("--threads 1");
    let ids: Vec<_> = (0..3)
        .map(|n| server.publish("news", n.to_string()))
        .collect();
    kill(server);
    let log = directory.logs().pop().unwrap();
    let length = fs::metadata(&log).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.set_len(length - 1).unwrap();
    let server = directory.start("--threads 1");
    let line = server.wait_log("cut a torn tail");
    assert!(line.contains(log.to_str().unwrap()), "{line}");
    assert!(server.metric("history_torn_bytes") > 0);
    // A process that is killed in the midst of a record has told nobody of it: its number is free.
    assert_eq!(server.publish("news", "again"), ids[2]);
    let (is_recovered, messages) = after(&server, "news", &ids[0]);
    assert!(is_recovered);
    let payloads: Vec<_> = messages
        .iter()
        .map(|(_, payload)| payload.as_str())
        .collect();
    assert_eq!(payloads, ["1", "again"]);
}

#[test]
fn damage_is_told_to_everybody_whom_it_may_concern() {
    let directory = Directory::new();
    let server = directory.start("--threads 1");
    let ids: Vec<_> = (0..3)
        .map(|n| server.publish("news", n.to_string()))
        .collect();
    kill(server);
    let log = directory.logs().pop().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.len() - 3;
    bytes[at] ^= 1;
    fs::write(&log, bytes).unwrap();
    let server = directory.start("--threads 1");
    server.wait_log("left out the rest of a damaged file");
    server.wait_log("Positions go on behind a jump");
    assert!(server.metric("history_damaged_bytes") > 0);
    assert_eq!(server.metric("history_position_skips"), 1);
    let id = server.publish("news", "3");
    assert_eq!(
        id.split('-').next(),
        ids[0].split('-').next(),
        "the same epoch"
    );
    // The third message is lost. Whether a client has it or not, it hears that there may be more that it lacks.
    for cursor in &ids {
        let (is_recovered, messages) = after(&server, "news", cursor);
        assert!(!is_recovered, "{cursor}");
        assert_eq!(messages.last(), Some(&(id.clone(), "3".to_owned())));
    }
    // Once is enough: the next start finds a log without damage.
    wait_until("one generation", || directory.logs().len() == 1);
    kill(server);
    let server = directory.start("--threads 1");
    assert_eq!(server.metric("history_position_skips"), 0);
    assert_eq!(after(&server, "news", &id), (true, Vec::new()));
}

/// What a log says that an earlier run of the kernel has left.
fn be_of_an_earlier_run(log: &PathBuf) {
    let bytes = fs::read(log).unwrap();
    let (head, records) = bytes.split_at(FILE_HEAD.len());
    let Ok(Some((
        Entry::Begin {
            is_synced, clock, ..
        },
        length,
    ))) = record::read(records)
    else {
        panic!("a log starts with its beginning");
    };
    let mut changed = head.to_vec();
    let boot = [7; 16];
    record::write(
        &mut changed,
        &Entry::Begin {
            boot,
            is_synced,
            clock,
        },
    );
    changed.extend_from_slice(&records[length..]);
    fs::write(log, changed).unwrap();
}

#[test]
fn a_machine_that_went_down_may_have_kept_less_than_was_answered() {
    // (flags, how the process ended, whether something may be missing)
    for (flags, signal, may_lack) in [
        ("--threads 1", Signal::KILL, true),
        (
            "--threads 1 --history-sync-interval 0s",
            Signal::KILL,
            false,
        ),
        ("--threads 1", Signal::TERM, false),
    ] {
        let directory = Directory::new();
        let mut server = directory.start(flags);
        let cursor = server.publish("news", "1");
        server.signal(signal);
        server.wait_exit();
        be_of_an_earlier_run(&directory.logs().pop().unwrap());
        let server = directory.start(flags);
        assert_eq!(
            server.metric("history_position_skips"),
            u64::from(may_lack),
            "{flags}"
        );
        let id = server.publish("news", "2");
        assert_eq!(id.split('-').next(), cursor.split('-').next());
        assert_eq!(id == cursor.replace("-1", "-2"), !may_lack, "{id}");
        let last = (id, "2".to_owned());
        assert_eq!(
            after(&server, "news", &cursor),
            (!may_lack, vec![last]),
            "{flags}"
        );
    }
}

#[test]
fn a_backup_that_is_put_back_gives_out_no_position_again() {
    let directory = Directory::new();
    let server = directory.start("--threads 1");
    let backed_up = server.publish("news", "1");
    let log = directory.logs().pop().unwrap();
    let backup = fs::read(&log).unwrap();
    let seen = server.publish("news", "2");
    kill(server);
    fs::write(&log, backup).unwrap();
    let marker = directory.0.join("restored");
    fs::write(&marker, "").unwrap();
    let server = directory.start("--threads 1");
    let id = server.publish("news", "other");
    assert_eq!(id.split('-').next(), backed_up.split('-').next());
    assert_ne!(id, seen);
    for cursor in [backed_up, seen] {
        let last = (id.clone(), "other".to_owned());
        assert_eq!(after(&server, "news", &cursor), (false, vec![last]));
    }
    wait_until("the marker is gone", || !marker.exists());
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let directory = Directory::new();
    let server = directory.start("");
    let (status, said) = Start::new(&directory.flags("")).fail();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("is in use by another process"), "{said}");
    kill(server);
    // The lock goes with its process.
    directory.start("");
}

#[test]
fn what_is_no_directory_of_histories_is_refused_with_advice() {
    let directory = Directory::new();
    let (status, said) = Start::new(
        &directory
            .flags("")
            .replace("history-dir ", "history-dir /dev/null/"),
    )
    .fail();
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("it is to be a directory of its own"),
        "{said}"
    );

    kill(directory.start(""));
    let log = directory.logs().pop().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    bytes[8] += 1;
    fs::write(&log, bytes).unwrap();
    let (status, said) = Start::new(&directory.flags("")).fail();
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("is not a history of this version of pushring"),
        "{said}"
    );
}

#[test]
fn the_log_is_rewritten_before_it_grows_without_end() {
    let directory = Directory::new();
    let flags = "--threads 1 --history-log-bytes-min 64KiB --namespace .history_messages=4 \
                 --history-sync-interval 10ms";
    let server = directory.start(flags);
    let payload = "x".repeat(8_000);
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(server.publish("news", &payload));
    }
    // 1.6 MB have gone through it; 32 KB are needed.
    wait_until("little is left", || {
        server.publish("other", "1");
        directory.logs().len() == 1 && directory.bytes() < 200_000
    });
    kill(server);
    let server = directory.start(flags);
    let (is_recovered, messages) = after(&server, "news", &ids[195]);
    assert!(is_recovered);
    let got: Vec<_> = messages.into_iter().map(|(id, _)| id).collect();
    assert_eq!(got, ids[196..]);
}

#[test]
fn an_orderly_end_closes_the_log_and_only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new();
    let mut server = directory.start("--threads 1 --history-sync-interval 0s");
    let id = server.publish("news", "1");
    let log = directory.logs().pop().unwrap();
    let before = fs::metadata(&log).unwrap();
    assert_eq!(before.permissions().mode() & 0o777, 0o600);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(
        fs::metadata(&log).unwrap().len() > before.len(),
        "says that it ended"
    );
    let server = directory.start("--threads 1");
    assert_eq!(after(&server, "news", &id), (true, Vec::new()));
}
