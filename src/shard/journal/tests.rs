//! A hub, its journal and a disk that fails, under random operations. What was answered is there after the end of the
//! process, whenever that comes; what was refused is not; and no position is given to two messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use super::*;
use crate::config::Namespace;
use crate::history::reader::{FileReader, may_lack_facts};
use crate::history::record::{Clock, FILE_HEAD};
use crate::hub::ShardId;
use crate::hub::position::{Position, Since};
use crate::hub::publishing::Drafted;
use crate::hub::restored::Restored;
use crate::hub::{Listen, ListenMode, Publish};
use crate::proto::payload::PayloadKind;
use crate::shard::connection::ConnectionKey;

const BOOT: [u8; 16] = [5; 16];

/// The files of a log, as a writer keeps them.
struct Disk {
    files: Vec<Vec<u8>>,
}

impl Disk {
    fn new() -> Self {
        let mut disk = Self { files: Vec::new() };
        disk.begin_file();
        disk
    }

    fn begin_file(&mut self) {
        let mut file = FILE_HEAD.to_vec();
        let begin = Entry::Begin {
            boot: BOOT,
            is_synced: false,
            clock: Clock::default(),
        };
        record::write(&mut file, &begin);
        self.files.push(file);
    }

    fn write(&mut self, append: &Append) {
        if append.begins_file {
            self.begin_file();
        }
        let file = self.files.last_mut().unwrap();
        file.extend_from_slice(&append.bytes);
        if append.completes_file {
            let last = self.files.len() - 1;
            self.files.drain(..last);
        }
    }
}

struct World {
    config: Arc<Config>,
    hub: Hub,
    journal: Journal,
    appends: Receiver<Append>,
    /// Handed over and not yet written.
    on_its_way: Option<Append>,
    disk: Disk,
    now_ms: u64,
    next_payload: u32,
    /// What was answered: each channel's messages by position, and which message has which position.
    answered: BTreeMap<String, BTreeMap<u64, String>>,
    epochs: BTreeMap<String, Position>,
    /// Every position that somebody may know of, ever.
    given: BTreeMap<String, String>,
    refused: BTreeSet<String>,
    deleted: BTreeSet<String>,
    /// Also those that nobody was told of.
    deletions: BTreeSet<String>,
    seed: u64,
}

fn config() -> Arc<Config> {
    let mut config = Config::default();
    config.limits.history_log_bytes_min = 2_000;
    config.limits.history_queue_bytes_max = 3_000;
    let many = Namespace {
        history_messages: 1_000,
        ..Namespace::default()
    };
    config.namespaces.insert(String::new(), many);
    Arc::new(config)
}

fn asker() -> Asker {
    Asker {
        shard: ShardId(0),
        connection: ConnectionKey {
            index: 0,
            generation: 0,
        },
        slot: 0,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let config = config();
        let mut hub = Hub::new(config.clone(), 1, seed);
        hub.begin_log();
        let (writer, appends) = mpsc::channel();
        Self {
            config,
            hub,
            journal: Journal::new(writer),
            appends,
            on_its_way: None,
            disk: Disk::new(),
            now_ms: 1_000,
            next_payload: 0,
            answered: BTreeMap::new(),
            epochs: BTreeMap::new(),
            given: BTreeMap::new(),
            refused: BTreeSet::new(),
            deleted: BTreeSet::new(),
            deletions: BTreeSet::new(),
            seed,
        }
    }

    fn publish(&mut self, rng: &mut fastrand::Rng) {
        if self.journal.refusal(&self.config, self.now_ms).is_some() {
            return;
        }
        self.next_payload += 1;
        let channel = name(rng);
        let publish = Publish {
            channel: channel.clone(),
            kind: PayloadKind::Text,
            event: None,
            payload: self.next_payload.to_string().into_bytes().into(),
            ttl_ms: None,
            store: rng.u32(0..4) > 0,
            idempotency_key: rng
                .bool()
                .then(|| char::from(rng.u8(b'a'..b'e')).to_string().into()),
        };
        let pending = match self.hub.draft(publish, self.now_ms).unwrap() {
            Drafted::New(_, draft) => Pending::Publish(asker(), draft),
            Drafted::Repeated(name, key) => Pending::Repeat(asker(), name, key),
            Drafted::Known(first) => {
                // Of a process that ended before it answered; from now on somebody knows it.
                let id = format!("{channel} {}", first.position);
                self.given.entry(id).or_default();
                return;
            }
        };
        self.journal.wait(pending, &mut self.hub);
    }

    fn delete(&mut self, rng: &mut fastrand::Rng) {
        let name = name(rng);
        if self.journal.refusal(&self.config, self.now_ms).is_some() {
            return;
        }
        if let Some(epoch) = self.hub.epoch(&name) {
            self.hub.delete(&name, self.now_ms, &mut Vec::new());
            self.deletions.insert(format!("{name} {epoch}"));
            let change = Change::Forgotten(name, epoch);
            self.journal
                .wait(Pending::Delete(asker(), change), &mut self.hub);
        }
    }

    fn hand_over(&mut self) {
        let now_ms = self.now_ms;
        self.journal
            .hand_over(&mut self.hub, &self.config, now_ms, now_ms);
        if let Ok(append) = self.appends.try_recv() {
            assert!(self.on_its_way.replace(append).is_none(), "one at a time");
        }
    }

    fn finish_write(&mut self, is_failing: bool) {
        let Some(append) = self.on_its_way.take() else {
            return;
        };
        if !is_failing {
            self.disk.write(&append);
        }
        let result = if is_failing { Err(WriteFailed) } else { Ok(()) };
        let file_bytes = self.disk.files.last().unwrap().len() as u64;
        let pending = self
            .journal
            .on_written(append, result, file_bytes, &self.hub, self.now_ms);
        if is_failing {
            for one in &pending {
                if let Pending::Publish(_, draft) = one {
                    self.hub.withdraw(draft);
                }
            }
            for one in pending {
                match one {
                    Pending::Publish(_, draft) => {
                        self.refused.insert(payload(&draft));
                    }
                    Pending::Repeat(..) => {}
                    Pending::Delete(_, change) => self.journal.keep_deletion(&change),
                }
            }
            return;
        }
        for one in pending {
            match one {
                Pending::Publish(_, draft) => self.commit(draft),
                Pending::Repeat(_, name, key) => {
                    let first = self.hub.first_result(&name, &key, self.now_ms);
                    let position = first.expect("its draft is published").position;
                    let id = format!("{name} {position}");
                    assert!(self.given.contains_key(&id), "seed {}", self.seed);
                }
                Pending::Delete(_, Change::Forgotten(name, epoch)) => {
                    self.deleted.insert(format!("{name} {epoch}"));
                    if self.epochs.get(name.as_str()).map(|head| head.epoch) == Some(epoch) {
                        self.answered.remove(name.as_str());
                        self.epochs.remove(name.as_str());
                    }
                }
                Pending::Delete(_, change) => panic!("{change:?}"),
            }
        }
    }

    fn commit(&mut self, draft: Draft) {
        let payload = payload(&draft);
        let (name, position) = (
            draft.message.channel.as_str().to_owned(),
            draft.message.position,
        );
        let is_stored = draft.is_stored;
        self.hub.commit(draft, self.now_ms, &mut Vec::new());
        let earlier = self
            .given
            .insert(format!("{name} {position}"), payload.clone());
        assert_eq!(earlier, None, "{position} twice, seed {}", self.seed);
        let head = self.epochs.insert(name.clone(), position);
        if head.is_some_and(|head| head.epoch != position.epoch) {
            self.answered.remove(&name);
        }
        if is_stored {
            let channel = self.answered.entry(name).or_default();
            channel.insert(position.offset, payload);
        }
    }

    /// The process ends; of the append on its way the kernel has as much as it has.
    fn restart(&mut self, rng: &mut fastrand::Rng) {
        if let Some(append) = self.on_its_way.take() {
            let mut cut = append;
            cut.bytes.truncate(rng.usize(..=cut.bytes.len()));
            // Only a whole append completes a file.
            cut.completes_file = false;
            self.disk.write(&cut);
        }
        let mut restored = Restored::new(self.config.clone());
        let mut readers = Vec::new();
        for file in &mut self.disk.files {
            let mut reader = FileReader::default();
            let used = reader.feed(file, &mut restored);
            reader.end(file.len() - used);
            // In one generation only the last file may be torn, and here all are one.
            file.truncate(used);
            readers.push(reader);
        }
        assert!(!may_lack_facts(&readers, BOOT), "{readers:?}");
        let share = restored.into_shares(1, |_| 0).pop().unwrap();
        self.hub = Hub::new(self.config.clone(), 1, rng.u64(..));
        self.hub.adopt(share, self.now_ms);
        self.hub.begin_log();
        let (writer, appends) = mpsc::channel();
        (self.journal, self.appends) = (Journal::new(writer), appends);
        // What follows is a new generation; the old one is read before it until that is complete.
        self.disk.begin_file();
        self.compare();
    }

    /// What was promised is there, and nothing that was refused.
    fn compare(&mut self) {
        let seed = self.seed;
        let infos = self.hub.list("", None, usize::MAX, self.now_ms);
        let mut heads = BTreeMap::new();
        for info in infos {
            assert!(
                !self
                    .deleted
                    .contains(&format!("{} {}", info.name, info.position.epoch)),
                "{info:?} was deleted, seed {seed}"
            );
            heads.insert(info.name.as_str().to_owned(), info.position);
        }
        for (name, promised) in &self.epochs {
            let Some(head) = heads.get(name).filter(|head| head.epoch == promised.epoch) else {
                let history = format!("{name} {}", promised.epoch);
                assert!(
                    self.deletions.contains(&history),
                    "{name} {promised} is gone, seed {seed}"
                );
                continue;
            };
            assert!(
                head.offset >= promised.offset,
                "{name}: {head} before {promised}, seed {seed}"
            );
        }
        for name in heads.keys() {
            let listen = Listen {
                channel: ChannelName::parse(name).unwrap(),
                since: Since::Earliest,
                mode: ListenMode::Once,
                messages_max: usize::MAX,
                bytes_max: usize::MAX,
            };
            let (replay, _) = self.hub.listen(&listen, ShardId(0), self.now_ms).unwrap();
            let mut here = BTreeMap::new();
            for message in &replay.messages {
                let payload = String::from_utf8(message.payload.to_vec()).unwrap();
                assert!(
                    !self.refused.contains(&payload),
                    "{payload} was refused, seed {seed}"
                );
                let id = format!("{name} {}", message.position);
                let earlier = self
                    .given
                    .entry(id.clone())
                    .or_insert_with(|| payload.clone());
                assert_eq!(*earlier, payload, "{id} twice, seed {seed}");
                here.insert(message.position.offset, payload);
            }
            let is_same = |head: &&Position| head.epoch == heads[name].epoch;
            if self.epochs.get(name).filter(is_same).is_some() {
                for (offset, payload) in self.answered.get(name).into_iter().flatten() {
                    assert_eq!(here.get(offset), Some(payload), "{name}, seed {seed}");
                }
            }
            self.epochs.insert(name.clone(), heads[name]);
            self.answered.insert(name.clone(), here);
        }
        self.epochs.retain(|name, _| heads.contains_key(name));
        self.answered.retain(|name, _| heads.contains_key(name));
    }
}

fn name(rng: &mut fastrand::Rng) -> ChannelName {
    ChannelName::parse(&format!("c{}", rng.u32(0..4))).unwrap()
}

fn payload(draft: &Draft) -> String {
    String::from_utf8(draft.message.payload.to_vec()).unwrap()
}

#[test]
fn what_was_answered_is_there_after_any_end() {
    let mut n_refused = 0;
    let mut n_files = 0;
    for _ in 0..40 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new(seed);
        let mut is_failing = false;
        for _ in 0..1_500 {
            match rng.u32(0..100) {
                0..50 => world.publish(&mut rng),
                50..53 => world.delete(&mut rng),
                53..75 => world.hand_over(),
                75..97 => world.finish_write(is_failing),
                97 => is_failing = !is_failing && rng.bool(),
                98 => world.now_ms += rng.u64(0..2_000),
                _ => {
                    n_files = n_files.max(world.disk.files.len());
                    world.restart(&mut rng);
                    is_failing = false;
                }
            }
        }
        n_refused += world.refused.len();
    }
    assert!(n_refused > 0, "the disk never failed");
    assert!(n_files > 1, "nothing was ever told anew");
}

#[test]
fn a_repeat_is_answered_when_its_draft_is_written() {
    let mut world = World::new(1);
    let publish = |world: &mut World| {
        let publish = Publish {
            channel: ChannelName::parse("a").unwrap(),
            kind: PayloadKind::Text,
            event: None,
            payload: (*b"1").into(),
            ttl_ms: None,
            store: true,
            idempotency_key: Some("key".into()),
        };
        let pending = match world.hub.draft(publish, world.now_ms).unwrap() {
            Drafted::New(_, draft) => Pending::Publish(asker(), draft),
            Drafted::Repeated(name, key) => Pending::Repeat(asker(), name, key),
            Drafted::Known(_) => return true,
        };
        world.journal.wait(pending, &mut world.hub);
        false
    };
    assert!(!publish(&mut world));
    world.hand_over();
    assert!(!publish(&mut world), "nobody knows the first result yet");
    world.finish_write(false);
    assert!(
        world.journal.pending.is_empty(),
        "the repeat went with its draft"
    );
    assert!(publish(&mut world));
}

#[test]
fn a_log_that_is_down_or_slow_refuses_until_it_is_not() {
    let mut world = World::new(1);
    let mut rng = fastrand::Rng::with_seed(1);
    let refusal = |world: &World| world.journal.refusal(&world.config, world.now_ms);
    world.publish(&mut rng);
    world.hand_over();
    assert_eq!(refusal(&world), None);
    world.now_ms += world.config.timing.history_stall_timeout_ms + 1;
    assert_eq!(refusal(&world), Some(HomeRefusal::DiskSlow));
    world.finish_write(true);
    assert_eq!(refusal(&world), Some(HomeRefusal::WriteFailed));
    assert_eq!(world.journal.retry_ms(), Some(world.now_ms + RETRY_MS));
    world.now_ms += RETRY_MS;
    assert_eq!(refusal(&world), None, "the next one may try");
    world.publish(&mut rng);
    world.hand_over();
    world.finish_write(false);
    assert_eq!(world.journal.retry_ms(), None);
    while world.journal.queue_bytes() <= world.config.limits.history_queue_bytes_max {
        assert_eq!(refusal(&world), None);
        world.publish(&mut rng);
    }
    assert_eq!(refusal(&world), Some(HomeRefusal::DiskSlow));
    world.hand_over();
    assert_eq!(
        refusal(&world),
        None,
        "there is room while they are written"
    );
}
