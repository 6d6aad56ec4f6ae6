//! What a shard is given at its start: what it shares with all others, and what its log has brought back.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Sender;
use std::time::Instant;

use crate::auth::api_key::ApiKeys;
use crate::auth::key::KeySet;
use crate::callback::Callbacks;
use crate::config::Config;
use crate::disk::Found;
use crate::disk::writer::Append;
use crate::hub::message::ChannelName;
use crate::hub::restored::Share;
use crate::shard::keyed_counts::KeyedCounts;
use crate::shard::mailbox::{Asker, KeysWanted};

/// What all shards of a process have in common. Where nobody asks the backend, nothing in it is written
/// on the path of a message.
#[derive(Debug)]
pub struct Shared {
    /// As of the start.
    pub config: Arc<Config>,
    /// As they were at the start; later ones come by mail.
    pub keys: KeySet,
    pub api_keys: Arc<ApiKeys>,
    /// Asks for another look at the issuer's keys, where there is an issuer.
    pub keys_wanted: Option<Sender<KeysWanted>>,
    /// Asks the backend.
    pub callbacks: Arc<Callbacks<Asker>>,
    /// The origin of everybody's `now_ms`.
    pub started: Instant,
    /// What the clock of the histories said then; 0 unless they are kept on disk.
    pub history_origin_ms: u64,
    /// Decides on homes: the same in every shard, different in every process.
    pub hasher: RandomState,
    /// Connections of the process.
    pub n_connections: AtomicUsize,
    /// May be another one after a reload.
    pub connections_max: AtomicUsize,
    /// Those that each shard's own descriptor table has room for.
    pub connections_per_shard_max: usize,
    /// Connections by client address (IPv6 by its /64), where their number is limited.
    pub address_counts: KeyedCounts<IpAddr>,
    /// Connections by user, where their number is limited.
    pub user_counts: Arc<KeyedCounts<Arc<str>>>,
    /// Shards that have or may get connections. Down to 0 while the server shuts down.
    pub n_occupied: AtomicUsize,
}

/// A shard's history log, when the shard begins.
#[derive(Debug)]
pub struct HistoryLog {
    /// What earlier logs have for this shard.
    pub share: Share,
    pub writer: Sender<Append>,
    /// What reading them came upon; the first shard counts it.
    pub found: Found,
}

/// The shard that numbers the messages of `channel`, of `n_shards`.
pub fn home_of(channel: &ChannelName, hasher: &RandomState, n_shards: usize) -> usize {
    (hasher.hash_one(channel) % n_shards as u64) as usize
}
