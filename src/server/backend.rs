//! The threads that ask the operator's backend.

use std::io;
use std::sync::Arc;

use ureq::tls::RootCerts;

use crate::api::callback::Decision;
use crate::api::question::Answer;
use crate::callback::Callbacks;
use crate::callback::client::Client;
use crate::config::Config;
use crate::shard::mailbox::{Asker, Mailbox};

/// Has no thread until a configuration names a backend. They are the main thread's and not a shard's: its descriptor
/// table and its cores are for its clients.
pub(super) struct Backend {
    callbacks: Arc<Callbacks<Asker>>,
    client: Client,
    boxes: Arc<[Mailbox]>,
    /// That have been started.
    n_threads: usize,
}

impl Backend {
    pub(super) fn new(
        callbacks: Arc<Callbacks<Asker>>,
        roots: RootCerts,
        config: &Config,
        boxes: Arc<[Mailbox]>,
    ) -> Self {
        Self {
            callbacks,
            client: Client::new(roots, config.callback.concurrency_max),
            boxes,
            n_threads: 0,
        }
    }

    /// Before a shard asks the first question by `config`.
    pub(super) fn start_if_asked(&mut self, config: &Config) -> io::Result<()> {
        if !config.asks_backend() {
            return Ok(());
        }
        let boxes = self.boxes.clone();
        let deliver = move |asker: Asker, decision: Decision| {
            let mail = asker.mail(Answer::Authorized(decision));
            boxes[usize::from(asker.shard.0)].post(mail);
        };
        self.callbacks
            .spawn(&mut self.n_threads, &self.client, &(Arc::new(deliver) as _))
    }
}
