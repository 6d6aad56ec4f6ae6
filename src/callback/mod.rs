//! Asking the operator's backend who somebody is and who may listen: a table of questions and answers that all shards
//! share, and the threads that carry the questions over.
//!
//! Touched when somebody wants to listen, and with `connect_url` when somebody without a credential publishes; never
//! when a message is delivered. A question waits for nobody but the backend: the shard that asks gets its answer at
//! once if it is known, and otherwise by mail.

pub mod client;
mod table;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::api::callback::{Decision, cache_ttl_ms};
use crate::config::callback::Callback;
use crate::metrics::CallbackCounts;
use crate::threads::spawn_or_abort;

use client::Client;
pub use table::Call;
use table::Table;

/// Between two log lines about a backend that does not answer.
const LINE_INTERVAL_MS: u64 = 10_000;

/// `W` is whoever waits for an answer.
pub struct Callbacks<W> {
    table: Mutex<Table<W>>,
    /// A call waits for a thread.
    work: Condvar,
    /// The origin of `now_ms`, the same as that of the shards.
    started: Instant,
    concurrency_max: usize,
}

impl<W> fmt::Debug for Callbacks<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").finish_non_exhaustive()
    }
}

impl<W> Callbacks<W> {
    pub fn new(config: &Callback, started: Instant) -> Self {
        Self {
            table: Mutex::new(Table::new(config.cache_max)),
            work: Condvar::new(),
            started,
            concurrency_max: config.concurrency_max,
        }
    }

    /// The decision, if it is known already. Otherwise `waiter` gets it later, and once.
    pub fn ask(&self, call: Call, waiter: W, queue_max: usize, now_ms: u64) -> Option<Decision> {
        let decision = self.table().ask(call, waiter, queue_max, now_ms);
        if decision.is_none() {
            self.work.notify_one();
        }
        decision
    }

    pub fn counts(&self) -> CallbackCounts {
        self.table().counts()
    }

    fn table(&self) -> MutexGuard<'_, Table<W>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

impl<W: Send + 'static> Callbacks<W> {
    /// Starts the threads that ask, each of which has one call at a time, behind the `n_threads` that there are
    /// already; `deliver` brings a decision to who waits.
    pub fn spawn(
        self: &Arc<Self>,
        n_threads: &mut usize,
        client: &Client,
        deliver: &Arc<dyn Fn(W, Decision) + Send + Sync>,
    ) -> io::Result<()> {
        for number in *n_threads..self.concurrency_max {
            let (callbacks, client, deliver) = (self.clone(), client.clone(), deliver.clone());
            spawn_or_abort(format!("callback-{number}"), move || {
                callbacks.work(&client, &*deliver)
            })?;
            *n_threads += 1;
        }
        Ok(())
    }

    fn work(&self, client: &Client, deliver: &dyn Fn(W, Decision)) {
        loop {
            let call = self.next_call();
            let began = Instant::now();
            let (decision, ttl_ms) = self.decide(&call, client);
            let us = began.elapsed().as_micros() as u64;
            let now_ms = self.now_ms();
            let waiters = self.table().finish(&call, &decision, ttl_ms, us, now_ms);
            for waiter in waiters {
                deliver(waiter, decision.clone());
            }
        }
    }

    /// What becomes of a call, and for how long.
    fn decide(&self, call: &Call, client: &Client) -> (Decision, u64) {
        let now_ms = self.now_ms();
        // That others ask too much says nothing about the backend, and makes nobody's way in.
        if now_ms >= call.wait_end_ms {
            let error = "no thread was free in time (callback_concurrency_max)";
            self.complain(call, error, now_ms);
            return (Decision::Busy, 0);
        }
        // Whatever a backend says, it costs nothing but its answer.
        let result = catch_unwind(AssertUnwindSafe(|| client.call(call, call.timeout)))
            .unwrap_or_else(|_| Err("a bug in this program".to_owned()));
        let now_ms = self.now_ms();
        match result {
            Ok(answer) => {
                let ttl_ms = cache_ttl_ms(answer.cache_control.as_deref(), call.cache_ttl_ms);
                (answer.reply.decide(now_ms), ttl_ms)
            }
            Err(error) => {
                self.complain(call, &error, now_ms);
                (Decision::Down, 0)
            }
        }
    }

    fn next_call(&self) -> Call {
        let mut table = self.table();
        loop {
            match table.take() {
                Some(call) => return call,
                None => {
                    table = self
                        .work
                        .wait(table)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }

    fn complain(&self, call: &Call, error: &str, now_ms: u64) {
        if self.table().lines.is_due(now_ms, LINE_INTERVAL_MS) {
            let url = &call.consultation.url;
            tracing::warn!(%url, "the backend does not say who somebody is, or may listen: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::callback::{About, Consultation};
    use crate::hub::message::ChannelName;
    use std::sync::mpsc;
    use ureq::tls::RootCerts;

    #[test]
    fn what_waited_too_long_for_its_turn_is_not_asked() {
        let config = Callback {
            timeout_ms: 0,
            concurrency_max: 1,
            ..Callback::default()
        };
        let consultation = Consultation {
            about: About::Channels,
            url: "http://192.0.2.1/".into(),
            credentials: Arc::default(),
            channels: vec![ChannelName::parse("a").unwrap()],
            transport: "poll",
            user: None,
        };
        let callbacks = Arc::new(Callbacks::new(&config, Instant::now()));
        let call = Call::new(consultation, None, &config, 0);
        assert_eq!(callbacks.ask(call, 7, 9, 0), None);
        let (decided, inbox) = mpsc::channel();
        let deliver: Arc<dyn Fn(i32, Decision) + Send + Sync> =
            Arc::new(move |waiter, decision| decided.send((waiter, decision)).unwrap());
        let client = Client::new(RootCerts::WebPki, 1);
        callbacks.spawn(&mut 0, &client, &deliver).unwrap();
        assert_eq!(inbox.recv(), Ok((7, Decision::Busy)));
        let counts = callbacks.counts();
        assert_eq!((counts.busy_total, counts.calls_total), (1, [0; 3]));
    }

    #[test]
    fn threads_that_are_there_are_not_started_again() {
        let config = Callback {
            concurrency_max: 3,
            ..Callback::default()
        };
        let callbacks = Arc::new(Callbacks::<()>::new(&config, Instant::now()));
        let client = Client::new(RootCerts::WebPki, 3);
        let deliver: Arc<dyn Fn((), Decision) + Send + Sync> = Arc::new(|(), _| ());
        // As if starting the other two had failed before.
        let mut n_threads = 1;
        for _ in 0..2 {
            callbacks.spawn(&mut n_threads, &client, &deliver).unwrap();
            assert_eq!((n_threads, Arc::strong_count(&callbacks)), (3, 1 + 2));
        }
    }
}
