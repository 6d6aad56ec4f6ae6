//! How the operator's backend is asked who somebody is (`connect_url`) and whether they may listen (`authorize_url`).

use super::SECOND_MS;

/// What holds for all questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// What the backend has for its answer. A question waits as long at most before it is asked.
    pub timeout_ms: u64,
    /// Questions that the backend has at a time; a thread each.
    pub concurrency_max: usize,
    /// Questions that wait behind them.
    pub queue_max: usize,
    /// How long an answer is good that does not say so itself; 0 is for one request.
    pub cache_ttl_ms: u64,
    /// Answers of the process that are remembered.
    pub cache_max: usize,
    pub when_down: WhenDown,
    /// Header fields of a request that are passed on with the question.
    pub headers: Vec<String>,
    /// Certificates in PEM to trust, instead of those that the public trusts.
    pub ca_file: Option<String>,
}

/// What becomes of a request that the backend does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    Refuse,
    Allow,
}

/// No answer is good for longer, whatever it says.
pub const CACHE_TTL_MAX_MS: u64 = 3600 * SECOND_MS;

/// In the order of the enum, so that the discriminant is the index.
impl WhenDown {
    pub(super) const ALL: &[Self] = &[Self::Refuse, Self::Allow];
    pub(super) const WORDS: &[&str] = &["refuse", "allow"];
}

impl Default for Callback {
    fn default() -> Self {
        Self {
            timeout_ms: 3 * SECOND_MS,
            // A backend that takes 10 ms is asked 3,200 times a second.
            concurrency_max: 32,
            queue_max: 1024,
            cache_ttl_ms: 10 * SECOND_MS,
            cache_max: 100_000,
            when_down: WhenDown::Refuse,
            headers: ["Authorization", "Cookie", "Origin"]
                .map(str::to_owned)
                .into(),
            ca_file: None,
        }
    }
}
