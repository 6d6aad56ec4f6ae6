//! A hub and its log under random operations: wherever the log ends, what comes back is the state after some of the
//! operations, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Config, Namespace};
use crate::history::reader::{Fault, FileReader};
use crate::history::record::{self, Clock, Entry, FILE_HEAD};
use crate::hub::durable::{Fact, MessageFact, Progress};
use crate::hub::message::ChannelName;
use crate::hub::position::{Position, Since};
use crate::hub::publishing::Drafted;
use crate::hub::restored::Restored;
use crate::hub::{Hub, Listen, ListenMode, Publish, ShardId};
use crate::proto::payload::PayloadKind;

/// Of each channel: its head, and the offsets that its history holds.
type State = BTreeMap<String, (Position, Vec<u64>)>;

fn config() -> Arc<Config> {
    let mut config = Config::default();
    config.timing.channel_idle_timeout_ms = 300;
    let few = Namespace {
        history_messages: 3,
        history_age_ms: 2_000,
        ..Namespace::default()
    };
    config.namespaces.insert(String::new(), few);
    Arc::new(config)
}

fn name(n: usize) -> ChannelName {
    ChannelName::parse(&format!("c{n}")).unwrap()
}

fn state(hub: &mut Hub, now_ms: u64) -> State {
    let infos = hub.list("", None, usize::MAX, now_ms);
    let describe = |info: crate::hub::ChannelInfo| {
        let listen = Listen {
            channel: info.name.clone(),
            since: Since::Earliest,
            mode: ListenMode::Once,
            messages_max: usize::MAX,
            bytes_max: usize::MAX,
        };
        let (replay, _) = hub.listen(&listen, ShardId(0), now_ms).unwrap();
        let offsets = replay.messages.iter().map(|one| one.position.offset);
        (
            info.name.as_str().to_owned(),
            (info.position, offsets.collect()),
        )
    };
    infos.into_iter().map(describe).collect()
}

fn write(log: &mut Vec<u8>, fact: Fact<'_>) {
    record::write(log, &Entry::Fact(fact));
}

/// What a hub is that has read `log`.
fn restore(log: &[u8], config: &Arc<Config>, now_ms: u64) -> (State, FileReader) {
    let mut restored = Restored::new(config.clone());
    let mut reader = FileReader::default();
    let used = reader.feed(log, &mut restored);
    reader.end(log.len() - used);
    let share = restored.into_shares(1, |_| 0).pop().unwrap();
    let mut hub = Hub::new(config.clone(), 1, 99);
    hub.adopt(share, now_ms);
    (state(&mut hub, now_ms), reader)
}

#[test]
fn wherever_the_log_ends_it_gives_the_state_after_some_of_the_operations() {
    for _ in 0..6 {
        check(fastrand::u64(..));
    }
}

#[track_caller]
fn check(seed: u64) {
    println!("seed {seed}");
    let config = config();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut hub = Hub::new(config.clone(), 1, seed);
    hub.begin_log();
    let mut now_ms = 1_000_000;
    let mut log = FILE_HEAD.to_vec();
    let begin = Entry::Begin {
        boot: [0; 16],
        is_synced: false,
        clock: Clock::default(),
    };
    record::write(&mut log, &begin);
    let first_bytes = log.len();
    // What there was after each operation, without what expires: the time of reading decides that.
    let mut states = vec![(log.len(), State::new())];
    let mut progress = None;
    for _ in 0..60 {
        let channel = name(rng.usize(0..4));
        match rng.u32(0..12) {
            0..6 => {
                let key = rng.bool().then(|| rng.u8(b'a'..b'c'));
                let publish = Publish {
                    channel,
                    kind: PayloadKind::Text,
                    event: None,
                    payload: (*b"payload").into(),
                    ttl_ms: None,
                    store: rng.u32(0..4) > 0,
                    idempotency_key: key.map(|key| char::from(key).to_string().into()),
                };
                if let Drafted::New(_, draft) = hub.draft(publish, now_ms).unwrap() {
                    hub.take_changes(|change| write(&mut log, change.fact()));
                    // Where it is new, the channel is there before its message.
                    states.push((log.len(), state(&mut hub, now_ms)));
                    let key = draft.idempotency_key.as_deref();
                    let fact = MessageFact::new(&draft.message, draft.is_stored, key);
                    write(&mut log, Fact::Message(fact));
                    hub.commit(draft, now_ms, &mut Vec::new());
                }
            }
            6 => {
                if let Some(epoch) = hub.epoch(&channel) {
                    hub.delete(&channel, now_ms, &mut Vec::new());
                    let name = channel.as_str();
                    write(&mut log, Fact::Forgotten { name, epoch });
                }
            }
            7 => {
                let listen = Listen {
                    channel,
                    since: Since::Now,
                    mode: ListenMode::Once,
                    messages_max: 1,
                    bytes_max: 1,
                };
                hub.listen(&listen, ShardId(0), now_ms).unwrap();
            }
            8 => {
                now_ms += rng.u64(0..200);
                hub.sweep(16, now_ms);
            }
            _ => {
                // A slice of telling everything anew.
                let mut left = rng.u32(1..4);
                let told = progress.get_or_insert_with(Progress::default);
                let is_told = hub.tell_all(told, now_ms, |fact| {
                    write(&mut log, fact);
                    left -= 1;
                    left == 0
                });
                if is_told {
                    progress = None;
                }
            }
        }
        hub.take_changes(|change| write(&mut log, change.fact()));
        states.push((log.len(), state(&mut hub, now_ms)));
        hub.take_changes(|_| panic!("looking changes nothing"));
    }
    let mut n_torn = 0;
    for end in first_bytes..=log.len() {
        let (got, reader) = restore(&log[..end], &config, now_ms);
        // Of the operations whose records are whole, and perhaps of a part of the next one.
        let after = states.partition_point(|(bytes, _)| *bytes <= end) - 1;
        let is_whole = states[after].0 == end;
        let alike = |state: &State| without_expired(state, &got) == got;
        let candidates = &states[after..states.len().min(after + 2)];
        assert!(
            candidates.iter().any(|(_, state)| alike(state)),
            "seed {seed}, {end} of {}: {got:?} is none of {candidates:?}",
            log.len()
        );
        match reader.fault {
            None => {}
            Some(Fault::Torn) => n_torn += 1,
            Some(fault) => panic!("seed {seed}, {end}: {fault:?}"),
        }
        assert!(!is_whole || reader.fault.is_none(), "seed {seed}, {end}");
    }
    assert!(n_torn > 0);
}

/// `state` at the later time at which `got` was read: of each history, as much of its end.
fn without_expired(state: &State, got: &State) -> State {
    let cut = |(name, (head, offsets)): (&String, &(Position, Vec<u64>))| {
        let kept = got.get(name).map_or(0, |(_, offsets)| offsets.len());
        let skip = offsets.len().saturating_sub(kept);
        (name.clone(), (*head, offsets[skip..].to_vec()))
    };
    state.iter().map(cut).collect()
}
