//! The main thread while the shards serve: it puts other configurations in force, and brings the server to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::backend::Backend;
use super::entrances::connections_max;
use super::{CUT_MS, Event, Keys, ReadConfig, ServeError, keys};
use crate::config::Config;
use crate::config::reload::Reload;
use crate::shard::Shared;
use crate::shard::mailbox::{KeysWanted, Mail, Mailbox, Stage};
use crate::tls::TlsConfigs;

pub(super) struct Supervisor {
    /// In force.
    pub(super) config: Arc<Config>,
    pub(super) read_config: ReadConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) has_own_tables: bool,
    pub(super) boxes: Arc<[Mailbox]>,
    pub(super) backend: Backend,
    pub(super) inbox: Receiver<Event>,
}

/// What a wait has come to.
enum Waited {
    /// The time is over, a signal has come, or every shard has ended.
    Over,
    Reload,
}

/// A configuration, and all that it takes to put it in force.
struct Prepared {
    reload: Reload,
    keys: Keys,
    tls: TlsConfigs,
    connections_max: usize,
}

impl Supervisor {
    /// Waits for the signal, then brings the shards to their end: not ready, drain, cut. A second signal skips the
    /// waits.
    pub(super) fn run(mut self) -> Result<(), ServeError> {
        let mut left = self.boxes.len();
        while let Waited::Reload = self.wait(None, &mut left)? {
            self.reload();
        }
        let timing = &self.config.timing;
        let stages = [
            (
                Stage::NotReady,
                "not ready: load balancers look elsewhere",
                timing.drain_delay_ms,
            ),
            (
                Stage::Drain,
                "draining: connections are ended",
                timing.drain_timeout_ms,
            ),
            (Stage::Cut, "cutting what is left", CUT_MS),
        ];
        for (stage, text, wait_ms) in stages {
            if left == 0 {
                break;
            }
            tracing::info!("{text}");
            for mailbox in &*self.boxes {
                mailbox.post(Mail::Stage(stage));
            }
            let end = Instant::now() + Duration::from_millis(wait_ms);
            while let Waited::Reload = self.wait(Some(end), &mut left)? {
                tracing::warn!("not reloaded: the server is ending");
            }
        }
        tracing::info!("ended");
        Ok(())
    }

    /// Until a signal comes, the time is over, or every shard has ended.
    fn wait(&self, end: Option<Instant>, left: &mut usize) -> Result<Waited, ServeError> {
        while *left > 0 {
            let event = match end {
                None => self
                    .inbox
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some(end) => {
                    let timeout = end.saturating_duration_since(Instant::now());
                    self.inbox.recv_timeout(timeout)
                }
            };
            match event {
                Ok(Event::Ended(Ok(()))) => *left -= 1,
                Ok(Event::Ended(Err(error))) => return Err(ServeError::Shard(error)),
                Ok(Event::Reload) => return Ok(Waited::Reload),
                Ok(Event::Signal) | Err(_) => return Ok(Waited::Over),
                Ok(Event::Ready) => {}
            }
        }
        Ok(Waited::Over)
    }

    /// Puts the configuration as it reads now in force, or leaves the old one where that is wrong. No socket is
    /// touched either way.
    fn reload(&mut self) {
        match (self.read_config)().and_then(|next| self.prepare(next)) {
            Ok(prepared) => self.put_in_force(prepared),
            Err(error) => self.refuse(&error),
        }
    }

    /// Reads whatever belongs to `next` (keys, certificates): all of it will be in force, or nothing. The error is for
    /// the operator.
    fn prepare(&mut self, next: Config) -> Result<Prepared, String> {
        let reload = self.config.reload(next);
        let config = &reload.config;
        // What stays as it was may not go with what is new.
        let related = config.check_relations().map_err(|error| error.to_string());
        related
            .and_then(|()| (config.check_open_mode()).map_err(|error| error.to_string()))
            .inspect_err(|_| {
                for change in &reload.ignored {
                    tracing::warn!("needs a restart: {change}");
                }
            })?;
        let keys = Keys::load(config).map_err(|error| error.to_string())?;
        let (connections_max, _) = connections_max(config, self.boxes.len(), self.has_own_tables)
            .map_err(|error| error.to_string())?;
        let tls = TlsConfigs::load(config).map_err(|error| error.to_string())?;
        self.backend
            .start_if_asked(config)
            .map_err(|error| format!("no threads to ask the backend: {error}"))?;
        Ok(Prepared {
            reload,
            keys,
            tls,
            connections_max,
        })
    }

    fn put_in_force(&mut self, prepared: Prepared) {
        let Prepared {
            reload:
                Reload {
                    config,
                    changes,
                    ignored,
                },
            keys,
            tls,
            connections_max,
        } = prepared;
        self.config = Arc::new(config);
        self.shared
            .connections_max
            .store(connections_max, Ordering::Relaxed);
        crate::logging::set_level(self.config.log_level);
        for mailbox in &*self.boxes {
            mailbox.post(Mail::Reload {
                config: self.config.clone(),
                tls: tls.clone(),
                token_keys: keys.token_keys.clone(),
                api_keys: keys.api_keys.clone(),
            });
        }
        if let Some(keys_wanted) = &self.shared.keys_wanted {
            let _ = keys_wanted.send(KeysWanted::Reload);
        }
        for advice in keys::advice(&self.config) {
            tracing::warn!("{advice}");
        }
        for change in &ignored {
            tracing::warn!("needs a restart, ignored until then: {change}");
        }
        for change in &changes {
            tracing::info!("reloaded {change}");
        }
        tracing::info!(
            changes = changes.len(),
            ignored = ignored.len(),
            connections_max,
            "the configuration is reloaded"
        );
    }

    fn refuse(&self, error: &str) {
        for line in error.lines() {
            tracing::error!("not reloaded, the old configuration stays in force: {line}");
        }
        self.boxes[0].post(Mail::ReloadFailed);
    }
}
