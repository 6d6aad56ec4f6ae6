//! What is known, what is being asked, and what waits to be asked. No thread and no clock is in here.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::api::callback::{Consultation, Decision};
use crate::auth::cache::{Cache, CacheKey};
use crate::config::callback::Callback;
use crate::logging::LineLimit;
use crate::metrics::{CallbackCounts, CallbackResult};

/// One question with all that it takes to ask it.
#[derive(Debug)]
pub struct Call {
    pub consultation: Consultation,
    /// In JSON.
    pub body: String,
    /// When it has waited too long for its turn.
    pub wait_end_ms: u64,
    /// What the backend has for its answer, however long the call has waited.
    pub timeout: Duration,
    /// How long its answer is good, if that does not say.
    pub cache_ttl_ms: u64,
    /// Over all that the backend is told: two questions of one digest are the same one.
    digest: CacheKey,
}

impl Call {
    pub fn new(
        consultation: Consultation,
        address: Option<IpAddr>,
        config: &Callback,
        now_ms: u64,
    ) -> Self {
        let body = consultation.body(address);
        // The same words are read in another way.
        let about = [consultation.about as u8];
        let question = [&about, consultation.url.as_bytes(), body.as_bytes()];
        let shown = consultation.credentials.fields();
        let shown = shown.flat_map(|(name, value)| [name.as_bytes(), value]);
        let mut hasher = Sha256::new();
        for part in question.into_iter().chain(shown) {
            // No part may be taken for the end of the one before.
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self {
            body,
            wait_end_ms: now_ms + config.timeout_ms,
            timeout: Duration::from_millis(config.timeout_ms),
            cache_ttl_ms: config.cache_ttl_ms,
            digest: hasher.finalize().into(),
            consultation,
        }
    }
}

#[derive(Debug)]
struct Known {
    decision: Decision,
    until_ms: u64,
}

/// `W` is whoever waits for an answer.
#[derive(Debug)]
pub(super) struct Table<W> {
    known: Cache<Known>,
    /// Those who wait for the answer to a call, be it with the backend or still in the queue.
    waiters: HashMap<CacheKey, Vec<W>>,
    queue: VecDeque<Call>,
    counts: CallbackCounts,
    /// About a backend that does not answer.
    pub(super) lines: LineLimit,
}

impl<W> Table<W> {
    pub(super) fn new(known_max: usize) -> Self {
        Self {
            known: Cache::new(known_max),
            waiters: HashMap::new(),
            queue: VecDeque::new(),
            counts: CallbackCounts::default(),
            lines: LineLimit::default(),
        }
    }

    /// `None`: `waiter` waits from now on, with whoever has asked the same.
    pub(super) fn ask(
        &mut self,
        call: Call,
        waiter: W,
        queue_max: usize,
        now_ms: u64,
    ) -> Option<Decision> {
        let digest = call.digest;
        if let Some(known) = self
            .known
            .get(&digest)
            .filter(|known| now_ms < known.until_ms)
        {
            self.counts.cache_hits_total += 1;
            return Some(known.decision.clone());
        }
        if let Some(waiters) = self.waiters.get_mut(&digest) {
            self.counts.joined_total += 1;
            waiters.push(waiter);
            return None;
        }
        if self.queue.len() >= queue_max {
            self.counts.busy_total += 1;
            return Some(Decision::Busy);
        }
        self.waiters.insert(digest, vec![waiter]);
        self.queue.push_back(call);
        None
    }

    /// The next call to be made. Its [`finish`](Self::finish) has to follow.
    pub(super) fn take(&mut self) -> Option<Call> {
        let call = self.queue.pop_front()?;
        self.counts.in_flight += 1;
        Some(call)
    }

    /// Notes what came of `call`, which took `us`; gives those who waited for it.
    pub(super) fn finish(
        &mut self,
        call: &Call,
        decision: &Decision,
        ttl_ms: u64,
        us: u64,
        now_ms: u64,
    ) -> Vec<W> {
        self.counts.in_flight -= 1;
        let waiters = self.waiters.remove(&call.digest).unwrap_or_default();
        let (result, end_ms) = match decision {
            Decision::Allowed(permit) => (CallbackResult::Allowed, permit.until_ms),
            Decision::Denied(_) => (CallbackResult::Denied, None),
            Decision::Down => (CallbackResult::Failed, Some(now_ms)),
            // It was not made.
            Decision::Busy => {
                self.counts.busy_total += waiters.len() as u64;
                return waiters;
            }
        };
        self.counts.time.record_us(us);
        self.counts.calls_total[result as usize] += 1;
        let until_ms = (now_ms + ttl_ms).min(end_ms.unwrap_or(u64::MAX));
        if until_ms > now_ms {
            let known = Known {
                decision: decision.clone(),
                until_ms,
            };
            let is_over = |known: &Known| known.until_ms <= now_ms;
            self.known.insert(call.digest, known, is_over);
        }
        waiters
    }

    pub(super) fn counts(&self) -> CallbackCounts {
        CallbackCounts {
            waiting: self.queue.len() as u64,
            ..self.counts.clone()
        }
    }
}

#[cfg(test)]
mod tests;
