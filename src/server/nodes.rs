//! The thread on which the broker's client lives, from the start of the process to its end.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::backplane::broker::Settings;
use crate::backplane::driver::{self, DriverSettings, ShardClock, Sink};
use crate::backplane::nats::{self, Nats};
use crate::backplane::order::{FromShard, News, NodeId};
use crate::backplane::redis::{self, Redis};
use crate::config::Config;
use crate::hub::ShardId;
use crate::shard::mailbox::{Mail, Mailbox};
use crate::threads::spawn_or_abort;

/// A broker that is not connected yet.
pub(super) struct Nodes {
    runtime: Runtime,
    kind: Kind,
    settings: DriverSettings,
    received: UnboundedReceiver<FromShard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Redis,
    Nats,
}

impl Nodes {
    /// What the configuration says of a broker, and the way to it. The runtime has to be made before the descriptor
    /// tables part: the shards wake it through a descriptor that has to mean the same in each.
    pub(super) fn prepare(
        config: &Config,
        shards: usize,
        clock: ShardClock,
    ) -> io::Result<Option<(Self, UnboundedSender<FromShard>)>> {
        let Some(url) = &config.backplane else {
            return Ok(None);
        };
        let broker = Settings {
            url: url.0.clone(),
            prefix: config.backplane_prefix.clone().unwrap_or_default(),
            ca_file: config.backplane_ca_file.clone(),
            timeout: Duration::from_millis(config.timing.backplane_timeout_ms),
            node: NodeId(fastrand::u64(..)),
        };
        let (orders, received) = mpsc::unbounded_channel();
        let nodes = Self {
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            kind: Kind::of(&url.0).expect("the URL was checked"),
            settings: DriverSettings::new(broker, shards as u16, clock),
            received,
        };
        Ok(Some((nodes, orders)))
    }

    /// Serves the shards until none of them is left.
    pub(super) fn start(
        self,
        boxes: Arc<[Mailbox]>,
        mailbox_max: usize,
    ) -> io::Result<JoinHandle<()>> {
        let run = move || {
            let Self {
                runtime,
                kind,
                settings,
                received,
            } = self;
            let sink = Boxes {
                boxes,
                mailbox_max,
                mails: Vec::new(),
            };
            match kind {
                Kind::Redis => serve(runtime, driver::run::<Redis>(settings, received, sink)),
                Kind::Nats => serve(runtime, driver::run::<Nats>(settings, received, sink)),
            }
        };
        spawn_or_abort("broker", run)
    }
}

/// Looking a name up is a call that no one can end, on a thread of the runtime's: what is still looked up then is left
/// behind.
fn serve(runtime: Runtime, until_the_end: impl Future<Output = ()>) {
    runtime.block_on(until_the_end);
    runtime.shutdown_background();
}

impl Kind {
    /// By the scheme.
    fn of(url: &str) -> Option<Self> {
        match url.split_once("://")?.0 {
            "nats" | "tls" => Some(Self::Nats),
            scheme if scheme.starts_with("redis") => Some(Self::Redis),
            _ => None,
        }
    }
}

/// Whether the setting `backplane` can be meant; whether anybody is there, only connecting tells. What it says repeats
/// nothing of the URL, in which a password may be.
pub fn check_backplane_url(config: &Config) -> Result<(), String> {
    let Some(url) = &config.backplane else {
        return Ok(());
    };
    match Kind::of(&url.0) {
        Some(Kind::Redis) => redis::check_url(&url.0),
        Some(Kind::Nats) => nats::check_url(&url.0),
        None => Err(
            "backplane: begin with redis:// or nats://, or one of their kin (rediss, redis+sentinel, redis+cluster, tls)"
                .into(),
        ),
    }
}

/// The shards' boxes.
struct Boxes {
    boxes: Arc<[Mailbox]>,
    mailbox_max: usize,
    /// Empty between two posts.
    mails: Vec<Mail>,
}

impl Sink for Boxes {
    fn post(&mut self, shard: ShardId, news: &mut Vec<News>) {
        self.mails.extend(news.drain(..).map(Mail::Backplane));
        self.boxes[usize::from(shard.0)].post_all(&mut self.mails);
    }

    fn is_congested(&self) -> bool {
        let is_full = |mailbox: &Mailbox| mailbox.is_congested(self.mailbox_max, usize::MAX);
        self.boxes.iter().any(is_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_end_does_not_wait_for_a_name_that_is_looked_up() {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (ended, has_ended) = mpsc::channel();
        let (waited, has_waited) = mpsc::channel();
        serve(runtime, async {
            tokio::task::spawn_blocking(move || {
                begun.send(()).unwrap();
                let result = has_ended.recv_timeout(Duration::from_secs(10));
                waited.send(result.is_err()).unwrap();
            });
            has_begun.await.unwrap();
        });
        let _ = ended.send(());
        assert_eq!(has_waited.recv(), Ok(false));
    }
}
