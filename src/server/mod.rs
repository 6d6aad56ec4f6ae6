//! The process: a self-test of what the kernel gives, one shard per core, signals, and the way to the exit.

mod backend;
mod entrances;
mod error;
mod histories;
mod jwks;
mod keys;
mod nodes;
mod start;
mod supervisor;
mod unix_socket;

pub use error::ServeError;
pub use keys::{Keys, KeysError};
pub use nodes::check_backplane_url;

use std::hash::RandomState;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::api::Side;
use crate::auth::key::KeySet;
use crate::backplane::driver::ShardClock;
use crate::callback::Callbacks;
use crate::config::Config;
use crate::disk::HistoryClock;
use crate::shard::keyed_counts::KeyedCounts;
use crate::shard::mailbox::{KeysWanted, Mailbox};
use crate::shard::ring::{self, Ring};
use crate::shard::{HistoryLog, Shared};
use crate::threads::spawn_or_abort;
use crate::tls::TlsConfigs;
use backend::Backend;
use entrances::{EntrancePlan, connections_max, plan_entrances};
use histories::Histories;
use jwks::Refresher;
use nodes::Nodes;
use start::Start;
use supervisor::Supervisor;

/// How long connections have to notice that they were cut, before the process goes.
const CUT_MS: u64 = 500;

/// What happens to the process.
enum Event {
    /// To end.
    Signal,
    /// To read the configuration anew.
    Reload,
    Ready,
    Ended(io::Result<()>),
}

/// Reads the configuration anew; what is wrong with it, if it cannot be had.
pub type ReadConfig = Box<dyn Fn() -> Result<Config, String>>;

/// Serves until a signal has ended it in order. `read_config` is asked at SIGHUP.
pub fn run(config: Config, read_config: ReadConfig) -> Result<(), ServeError> {
    let has_own_tables = self_test()?;
    let shards = config.shards();
    let (connections_max, connections_per_shard_max) =
        connections_max(&config, shards, has_own_tables)?;
    let config = Arc::new(config);
    let (keys, refresher) = load_keys(&config)?;

    // The order matters: what another thread writes to must be open before the descriptor tables part, and a signal
    // handler runs on any thread.
    let boxes = mailboxes(shards)?;
    let (events, inbox) = mpsc::channel();
    watch_signals(events.clone()).map_err(ServeError::Start)?;
    let tls = TlsConfigs::load(&config).map_err(ServeError::Tls)?;
    let (entrances, _reserved) = plan_entrances(&config, &tls)?;

    let hasher = RandomState::new();
    let (histories, logs) = load_histories(&config, shards, &hasher)?;
    let history_clock = history_clock(histories.as_ref(), &config);
    let shard_clock = ShardClock {
        started: history_clock.started.into(),
        origin_ms: history_clock.origin_ms,
    };
    let (nodes, orders) = Nodes::prepare(&config, shards, shard_clock)
        .map_err(ServeError::Start)?
        .unzip();
    let issued = refresher.as_ref().map(Refresher::keys);
    let keys_wanted = refresher
        .map(|refresher| follow_issuer(refresher, &boxes))
        .transpose()?;

    let callbacks = Arc::new(Callbacks::new(&config.callback, history_clock.started));
    let mut backend = Backend::new(
        callbacks.clone(),
        keys.backend_roots,
        &config,
        boxes.clone(),
    );
    backend.start_if_asked(&config).map_err(ServeError::Start)?;
    let shared = Arc::new(Shared {
        config: config.clone(),
        keys: KeySet {
            configured: keys.token_keys,
            issued: issued.unwrap_or_default(),
        },
        api_keys: keys.api_keys,
        keys_wanted,
        callbacks,
        started: history_clock.started,
        history_origin_ms: history_clock.origin_ms,
        hasher,
        n_connections: AtomicUsize::new(0),
        connections_max: AtomicUsize::new(connections_max),
        connections_per_shard_max,
        address_counts: KeyedCounts::default(),
        user_counts: Arc::default(),
        n_occupied: AtomicUsize::new(shards),
    });
    let start = Start {
        orders,
        shared: shared.clone(),
        boxes: boxes.clone(),
        entrances: entrances.clone(),
        has_own_tables,
        parted: Arc::new(Barrier::new(shards + 1)),
        events: events.clone(),
    };
    start.all(logs).map_err(ServeError::Start)?;
    let supervisor = Supervisor {
        config,
        read_config,
        shared,
        has_own_tables,
        boxes,
        backend,
        inbox,
    };
    serve(supervisor, &events, &entrances, nodes, histories)
}

/// Starts what may only begin when the descriptor tables have parted, and serves until a signal has ended it.
fn serve(
    supervisor: Supervisor,
    events: &Sender<Event>,
    entrances: &[EntrancePlan],
    nodes: Option<Nodes>,
    mut histories: Option<Histories>,
) -> Result<(), ServeError> {
    let Supervisor { config, boxes, .. } = &supervisor;
    let mailbox_max = config.limits.mailbox_max;
    let nodes = nodes
        .map(|nodes| nodes.start(boxes.clone(), mailbox_max))
        .transpose()
        .map_err(ServeError::Start)?;
    if let Some(histories) = &mut histories {
        histories.begin(config, boxes)?;
    }
    match await_start(&supervisor.inbox, boxes.len())? {
        Started::Ended => return Ok(()),
        Started::Serves => {}
        // The file may have changed after it was read.
        Started::Outdated => _ = events.send(Event::Reload),
    }
    let connections_max = supervisor.shared.connections_max.load(Ordering::Relaxed);
    log_entrances(entrances, boxes.len(), connections_max);
    supervisor.run()?;
    if let Some(nodes) = nodes {
        nodes.join().expect("a panic there has aborted the process");
    }
    if let Some(histories) = histories {
        histories.finish();
    }
    Ok(())
}

/// Finds out before the first client does. `true`: each thread may have a descriptor table of its own.
fn self_test() -> Result<bool, ServeError> {
    let wake = Mailbox::new().map_err(|error| ServeError::Start(error.into()))?;
    Ring::new(wake.wake()).map_err(ServeError::Ring)?;
    let unshared = thread::spawn(ring::unshare_descriptor_table).join();
    let has_own_tables = matches!(unshared, Ok(Ok(())));
    if !has_own_tables {
        tracing::warn!(
            "all threads share one descriptor table, and its limit: unshare(CLONE_FILES) is forbidden. Allow unshare in \
             the container's seccomp profile, or raise ulimit -n (LimitNOFILE)"
        );
    }
    Ok(has_own_tables)
}

/// The keys of the configuration, and those of the issuer that it names.
fn load_keys(config: &Config) -> Result<(Keys, Option<Refresher>), ServeError> {
    let mut keys = Keys::load(config).map_err(ServeError::Keys)?;
    for advice in keys::advice(config) {
        tracing::warn!("{advice}");
    }
    let refresher = keys
        .issuer
        .take()
        .map(|source| Refresher::start(source, &config.auth))
        .transpose()
        .map_err(ServeError::Jwks)?;
    Ok((keys, refresher))
}

fn mailboxes(shards: usize) -> Result<Arc<[Mailbox]>, ServeError> {
    (0..shards)
        .map(|_| Mailbox::new())
        .collect::<Result<_, _>>()
        .map_err(|error| ServeError::Start(error.into()))
}

/// What is on the disk, if it is kept there, and each shard's part of it.
fn load_histories(
    config: &Arc<Config>,
    shards: usize,
    hasher: &RandomState,
) -> Result<(Option<Histories>, Vec<HistoryLog>), ServeError> {
    let Some(path) = &config.history_dir else {
        return Ok((None, Vec::new()));
    };
    let (histories, logs) = Histories::load(Path::new(path), config, shards, hasher)?;
    Ok((Some(histories), logs))
}

fn history_clock(histories: Option<&Histories>, config: &Config) -> HistoryClock {
    match histories {
        Some(histories) => histories.clock(),
        // A broker's messages have its time.
        None if config.backplane.is_some() => HistoryClock::of_the_wall(),
        None => HistoryClock::default(),
    }
}

/// Keeps the issuer's keys fresh. What it gives asks for another look at them.
fn follow_issuer(
    refresher: Refresher,
    boxes: &Arc<[Mailbox]>,
) -> Result<Sender<KeysWanted>, ServeError> {
    let (keys_wanted, wanted) = mpsc::channel();
    refresher
        .spawn(boxes.clone(), wanted)
        .map_err(ServeError::Start)?;
    Ok(keys_wanted)
}

fn log_entrances(entrances: &[EntrancePlan], shards: usize, connections_max: usize) {
    for plan in entrances {
        let address = &plan.address;
        // What is served there.
        let audience = match plan.side {
            Side::Public => "public",
            Side::Internal | Side::Both => "all",
        };
        tracing::info!(%address, audience, shards, connections_max, "listening");
    }
}

fn watch_signals(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let forward = move || {
        for signal in signals.forever() {
            let event = if signal == SIGHUP {
                Event::Reload
            } else {
                Event::Signal
            };
            if events.send(event).is_err() {
                return;
            }
        }
    };
    spawn_or_abort("signals", forward).map(drop)
}

/// How far the server has come when its shards are ready.
#[derive(Debug, PartialEq, Eq)]
enum Started {
    Serves,
    /// Told to read its configuration anew.
    Outdated,
    /// By a signal. It has not said that it listens, so nobody counts on an orderly end.
    Ended,
}

fn await_start(inbox: &Receiver<Event>, shards: usize) -> Result<Started, ServeError> {
    let mut ready = 0;
    let mut started = Started::Serves;
    while ready < shards {
        match inbox.recv() {
            Ok(Event::Ready) => ready += 1,
            Ok(Event::Ended(Err(error))) => return Err(ServeError::Shard(error)),
            Ok(Event::Reload) => started = Started::Outdated,
            Ok(Event::Signal | Event::Ended(Ok(()))) | Err(_) => return Ok(Started::Ended),
        }
    }
    Ok(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_during_the_start_counts() {
        let (events, inbox) = mpsc::channel();
        for (signal, started) in [
            (None, Started::Serves),
            (Some(Event::Reload), Started::Outdated),
            (Some(Event::Signal), Started::Ended),
        ] {
            events.send(Event::Ready).unwrap();
            if let Some(signal) = signal {
                events.send(signal).unwrap();
            }
            events.send(Event::Ready).unwrap();
            assert_eq!(await_start(&inbox, 2).unwrap(), started);
        }
    }
}
