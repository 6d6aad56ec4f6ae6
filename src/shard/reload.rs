//! Another configuration for a shard that runs.

use std::sync::Arc;

use rustix::net::sockopt::set_tcp_user_timeout;

use crate::config::Config;
use crate::shard::{Shard, sends_per_turn};
use crate::transport::beat::Beats;

impl Shard {
    /// `config` is in force from now on. No connection ends by this; one that is beyond a new limit meets it when that
    /// is looked at next.
    pub(super) fn reload(&mut self, config: Arc<Config>) {
        let old = std::mem::replace(&mut self.config, config);
        let n_shards = self.post.n_shards();
        self.hub
            .reload(self.config.clone(), n_shards, self.clock.hub_ms);
        if let Some(relayed) = &mut self.relay {
            relayed.relay.reload(self.config.clone(), n_shards);
        }
        self.sends_per_turn = sends_per_turn(self.config.limits.fanout_sends_per_turn, n_shards);
        if old.timing != self.config.timing {
            self.keep_other_times(&old);
        }
        self.metrics.reloads_total += 1;
    }

    fn keep_other_times(&mut self, old: &Config) {
        let timing = &self.config.timing;
        let has_other_heart = (old.timing.heartbeat_ms, old.timing.pong_timeout_ms)
            != (timing.heartbeat_ms, timing.pong_timeout_ms);
        if has_other_heart {
            let timeout_ms = timing.tcp_user_timeout_ms();
            for entrance in &self.door.entrances {
                // For those who come from now on. Without it, a peer that is gone is found by the heartbeat alone.
                let _ = set_tcp_user_timeout(&entrance.socket, timeout_ms);
            }
        }
        let beats = Beats::new(timing.heartbeat_ms, self.id, self.post.n_shards());
        for (index, connection) in &mut self.connections {
            if has_other_heart {
                connection
                    .transport
                    .beat_anew(beats, self.clock.now_ms, &mut self.rng);
            }
            if let Some(deadline_ms) = connection.deadline_ms(&self.config) {
                self.timers.arm(index as u32, deadline_ms);
            }
        }
    }
}
