//! The shards' threads: how each begins, and what it says when it ends.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Barrier};

use monoio::{IoUringDriver, RuntimeBuilder};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::mpsc::UnboundedSender;

use super::Event;
use super::entrances::EntrancePlan;
use crate::backplane::order::FromShard;
use crate::hub::ShardId;
use crate::shard::mailbox::{Mailbox, Post};
use crate::shard::{Entrance, HistoryLog, Shard, Shared, ring};
use crate::threads::spawn_or_abort;

/// Entries of monoio's own ring, which has little to do.
const PARKING_RING_ENTRIES: u32 = 256;

/// What the thread of every shard begins with.
#[derive(Clone)]
pub(super) struct Start {
    pub(super) orders: Option<UnboundedSender<FromShard>>,
    pub(super) shared: Arc<Shared>,
    pub(super) boxes: Arc<[Mailbox]>,
    pub(super) entrances: Vec<EntrancePlan>,
    pub(super) has_own_tables: bool,
    pub(super) parted: Arc<Barrier>,
    pub(super) events: Sender<Event>,
}

impl Start {
    /// Starts all shards. Comes back when their descriptor tables have parted, and leaves no sender of `orders` behind:
    /// the broker's thread ends with the last shard that can send to it.
    pub(super) fn all(self, logs: Vec<HistoryLog>) -> io::Result<()> {
        let mut logs = logs.into_iter();
        for shard in 0..self.boxes.len() {
            let start = self.clone();
            let log = logs.next();
            spawn_or_abort(format!("shard-{shard}"), move || {
                start.run(ShardId(shard as u16), log)
            })?;
        }
        self.parted.wait();
        Ok(())
    }

    fn run(self, id: ShardId, log: Option<HistoryLog>) {
        let events = self.events.clone();
        let _ = events.send(Event::Ended(self.serve(id, log)));
    }

    fn serve(self, id: ShardId, log: Option<HistoryLog>) -> io::Result<()> {
        let unshared = if self.has_own_tables {
            ring::unshare_descriptor_table()
        } else {
            Ok(())
        };
        self.parted.wait();
        unshared?;
        if self.shared.config.pin_threads {
            pin(id);
        }
        let entrance = |plan: &EntrancePlan| {
            Ok(Entrance {
                socket: plan.open(&self.shared.config)?,
                side: plan.side,
                requires_preface: plan.requires_preface,
                tls: plan.tls.clone(),
            })
        };
        let entrances = self
            .entrances
            .iter()
            .map(entrance)
            .collect::<io::Result<_>>()?;
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
            .with_entries(PARKING_RING_ENTRIES)
            .enable_timer()
            .build()?;
        runtime.block_on(async {
            let mut shard = Shard::new(id, self.shared, Post::new(self.boxes), entrances)?;
            if let Some(log) = log {
                shard.keep_journal(log);
            }
            if let Some(orders) = self.orders {
                shard.keep_relay(orders);
            }
            let _ = self.events.send(Event::Ready);
            shard.run().await
        })
    }
}

/// Ties this thread to one of the cores that the process may use.
fn pin(shard: ShardId) {
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let cores: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|&core| allowed.is_set(core))
        .collect();
    let Some(&core) = cores.get(usize::from(shard.0) % cores.len().max(1)) else {
        return;
    };
    let mut one = CpuSet::new();
    one.set(core);
    if let Err(error) = sched_setaffinity(None, &one) {
        tracing::warn!(shard = shard.0, core, %error, "not pinned");
    }
}
