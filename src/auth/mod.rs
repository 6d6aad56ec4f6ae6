//! Who somebody is and what they may do: a token becomes a [`Grant`], an API key a list of channels.
//!
//! Tokens are JSON Web Tokens (RFC 7519) in the compact form of RFC 7515. A key is bound to one algorithm, as RFC 8725
//! §3.1 wants it: what a token says of its own algorithm is compared and never followed.
#![forbid(unsafe_code)]

pub mod api_key;
pub mod cache;
pub mod credential;
pub mod error;
pub mod grant;
pub mod jwks;
pub mod key;
pub mod pattern;
mod rsa;
#[cfg(test)]
pub(crate) mod sample;
pub mod token;
pub mod users;

use std::sync::Arc;

use crate::config::auth::Auth;
use crate::config::{self, Config};

use api_key::ApiKeys;
use cache::Cache;
use error::TokenError;
use grant::{Grant, Session};
use key::{KeySet, TokenKey};
use pattern::Patterns;
use token::Rules;
use users::Users;

/// Requests of one shard that wait for a key which is being fetched.
pub const WAITING_FOR_KEYS_MAX: usize = 1024;
/// How long each of them waits: longer than a fetch may take.
pub const KEYS_TIMEOUT_MS: u64 = 10_000;

/// The time, twice: what a token says is by the clock on the wall, what a connection waits for is not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Milliseconds of the process's monotonic clock.
    pub now_ms: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// What one shard verifies with.
#[derive(Debug)]
pub struct Authenticator {
    keys: KeySet,
    api_keys: Arc<ApiKeys>,
    rules: Rules,
    /// Good signatures, and the right audience. Whether a token is still valid is seen each time.
    cache: Cache<Arc<Grant>>,
    pub users: Users,
    expiry_grace_ms: u64,
    /// Keys that are not known may be with the issuer.
    can_fetch: bool,
    refetch_interval_ms: u64,
    /// When a fetch was last asked for, or done.
    fetched_ms: Option<u64>,
    /// Requests that wait for it now.
    waiting: usize,
}

/// What a token was found to be.
#[derive(Debug)]
pub enum Verified {
    Session(Session),
    /// The key is not known; it is worth waiting for another look at the issuer's.
    KeyMissing,
}

/// Whether a verification had to be done, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    Cached,
    Verified,
}

impl Authenticator {
    /// One of `n_shards`, which share out the memory for verified tokens.
    pub fn new(config: &Config, keys: KeySet, api_keys: Arc<ApiKeys>, n_shards: usize) -> Self {
        let auth = &config.auth;
        Self {
            keys,
            api_keys,
            rules: Rules::new(auth),
            cache: Cache::new(config::share(auth.token_cache_max, n_shards)),
            users: Users::default(),
            expiry_grace_ms: expiry_grace_ms(auth),
            can_fetch: auth.jwks.is_some(),
            refetch_interval_ms: auth.jwks_refetch_interval_ms,
            fetched_ms: None,
            waiting: 0,
        }
    }

    /// Without any key: nothing is verified.
    pub fn open(config: &Config) -> Self {
        Self::new(config, KeySet::default(), Arc::default(), 1)
    }

    /// Verifies `token`, or remembers that it did. `may_wait`: the caller can come back when there are other keys.
    pub fn verify(
        &mut self,
        token: &str,
        may_wait: bool,
        clock: Clock,
    ) -> (Effort, Result<Verified, TokenError>) {
        let digest = cache::digest(token);
        let (effort, grant) = match self.cache.get(&digest) {
            Some(grant) => (Effort::Cached, Ok(grant.clone())),
            None => {
                let grant =
                    token::verify(token, &self.keys, &self.rules, clock.unix_ms).map(Arc::new);
                (Effort::Verified, grant)
            }
        };
        let grant = match grant {
            Ok(grant) => grant,
            Err(TokenError::UnknownKey) if may_wait && self.is_worth_waiting(clock.now_ms) => {
                return (effort, Ok(Verified::KeyMissing));
            }
            Err(error) => return (effort, Err(error)),
        };
        if let Err(error) = self.rules.check_times(&grant, clock.unix_ms) {
            self.cache.remove(&digest);
            return (effort, Err(error));
        }
        if effort == Effort::Verified {
            (self.cache).insert(digest, grant.clone(), |grant| {
                (grant.expires_unix_ms).is_some_and(|expires_ms| expires_ms < clock.unix_ms)
            });
        }
        (effort, Ok(Verified::Session(self.session(grant, clock))))
    }

    /// The number of the API key with this secret.
    pub fn find_api_key(&self, secret: &str) -> Option<usize> {
        self.api_keys.find(secret)
    }

    /// The channels that API key `number` is good for.
    pub fn api_key(&self, number: usize) -> &Patterns {
        self.api_keys.channels(number)
    }

    fn session(&self, grant: Arc<Grant>, clock: Clock) -> Session {
        let from_unix = |unix_ms: u64| {
            let from_now_ms = unix_ms.saturating_sub(clock.unix_ms);
            clock.now_ms.saturating_add(from_now_ms)
        };
        let behind_expiry = |ms: u64| {
            let unix_ms = grant.expires_unix_ms?;
            Some(from_unix(unix_ms.saturating_add(ms)))
        };
        let expires_ms = behind_expiry(self.rules.leeway_ms());
        let ends_ms = behind_expiry(self.expiry_grace_ms);
        Session {
            grant,
            expires_ms,
            ends_ms,
            seat: None,
            reask_ms: None,
        }
    }

    fn is_worth_waiting(&self, now_ms: u64) -> bool {
        let is_fresh = self
            .fetched_ms
            .is_some_and(|fetched_ms| now_ms < fetched_ms + self.refetch_interval_ms);
        // Whoever waits now has asked for a fetch that is still under way.
        self.can_fetch && self.waiting < WAITING_FOR_KEYS_MAX && (self.waiting > 0 || !is_fresh)
    }

    /// A request waits for keys; `true` if it is the first one, and somebody has to fetch them.
    pub fn on_waiting(&mut self, now_ms: u64) -> bool {
        self.waiting += 1;
        if self.waiting == 1 {
            self.fetched_ms = Some(now_ms);
        }
        self.waiting == 1
    }

    /// The issuer's keys were fetched, or not: nobody waits any more. What was verified with keys that are gone is
    /// forgotten.
    pub fn on_fetched(&mut self, issued: Arc<[TokenKey]>) {
        self.waiting = 0;
        if !Arc::ptr_eq(&self.keys.issued, &issued) {
            self.keys.issued = issued;
            self.cache.clear();
        }
    }

    /// Other keys and other rules are in force. Nothing that was verified before is remembered: its key may be gone.
    pub fn reload(
        &mut self,
        config: &Config,
        configured: Arc<[TokenKey]>,
        api_keys: Arc<ApiKeys>,
        n_shards: usize,
    ) {
        let auth = &config.auth;
        self.keys.configured = configured;
        self.api_keys = api_keys;
        self.rules = Rules::new(auth);
        self.cache = Cache::new(config::share(auth.token_cache_max, n_shards));
        self.expiry_grace_ms = expiry_grace_ms(auth);
    }
}

/// From a token's end to that of what was opened with it. What is good enough to begin with is not ended at once.
fn expiry_grace_ms(auth: &Auth) -> u64 {
    auth.token_expiry_grace_ms.max(auth.token_leeway_ms)
}

#[cfg(test)]
mod tests;
