//! What a shard does while the issuer's keys are read: it asks once, and lets everybody wait who needs them.

use std::sync::Arc;

use crate::auth::key::TokenKey;
use crate::hub::ShardId;
use crate::shard::Shard;
use crate::shard::mailbox::{KeysRead, KeysWanted};

impl Shard {
    /// A connection of ours goes on when the keys are there.
    pub(super) fn await_keys(&mut self, index: u32) {
        self.awaiting_keys.push(self.connection_key(index));
        if self.auth.on_waiting(self.clock.now_ms)
            && let Some(keys_wanted) = &self.shared.keys_wanted
        {
            // Its thread lives as long as the process.
            let _ = keys_wanted.send(KeysWanted::Shard(self.id));
        }
    }

    /// Nobody waits any longer, whatever came of it.
    pub(super) fn on_keys(&mut self, issued: Arc<[TokenKey]>, read: KeysRead) {
        if self.id == ShardId(0) && read != KeysRead::TooSoon {
            self.metrics.jwks_reads_total += 1;
            self.metrics.jwks_read_failures_total += u64::from(read == KeysRead::Failed);
        }
        self.auth.on_fetched(issued);
        for key in std::mem::take(&mut self.awaiting_keys) {
            if self.is_current(key) && self.connections[key.index as usize].is_open() {
                self.step(key.index, |transport, context| transport.on_keys(context));
            }
        }
    }
}
