//! The HTTP side of `pub` and `sub`: one agent, and refusals in words.

use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, RequestBuilder};

use super::reconnect::retry_after;
use crate::config::auth::Secret;

/// A server that says nothing for this long is gone: three of its default heartbeats.
pub const SILENCE_MAX: Duration = Duration::from_secs(90);

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers larger than this are not ours: a poll may carry `poll_limit_max` messages.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// Statuses are answers, not errors; redirects are not followed, since a publish must not be repeated elsewhere.
pub fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_per_read(Some(SILENCE_MAX))
        .timeout_per_write(Some(SILENCE_MAX))
        .user_agent(concat!("pushring/", env!("CARGO_PKG_VERSION")));
    config.build().into()
}

/// With the token, or API key, if there is one.
pub fn with_token<B>(request: RequestBuilder<B>, token: Option<&Secret>) -> RequestBuilder<B> {
    match token {
        Some(token) => request.header("authorization", bearer(token)),
        None => request,
    }
}

pub fn bearer(token: &Secret) -> String {
    format!("Bearer {}", token.0)
}

/// The whole body, as text.
pub fn read_body(response: &mut Response<Body>) -> Result<String, ureq::Error> {
    response
        .body_mut()
        .with_config()
        .limit(ANSWER_BYTES_MAX)
        .lossy_utf8(true)
        .read_to_string()
}

pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A request that the server did not do.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// For a person: status, code and the server's own words.
    pub message: String,
    pub retry_after: Option<Duration>,
}

impl Refusal {
    pub fn new(status: u16, headers: &HeaderMap, body: &str) -> Self {
        let retry_after = header(headers, "retry-after").and_then(retry_after);
        Self {
            status,
            message: describe(status, body),
            retry_after,
        }
    }

    /// Whether the same request may be answered otherwise later.
    pub fn is_temporary(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500..)
    }
}

/// `403 not_allowed: …` from the server's `{"error":{"code":…,"message":…}}`; anything else is shown cut short.
fn describe(status: u16, body: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 200;
    #[derive(serde::Deserialize)]
    struct Answer {
        error: Error,
    }
    #[derive(serde::Deserialize)]
    struct Error {
        code: String,
        message: String,
    }
    match serde_json::from_str::<Answer>(body) {
        Ok(Answer { error }) => format!("{status} {}: {}", error.code, error.message),
        Err(_) if body.trim().is_empty() => format!("the server answered {status}"),
        Err(_) => {
            let shown: String = body.trim().chars().take(SHOWN_CHARS_MAX).collect();
            format!("the server answered {status}: {shown}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_server() {
        let long = "x".repeat(300);
        for (status, body, want) in [
            (
                403,
                r#"{"error":{"code":"not_allowed","message":"ask"}}"#,
                "403 not_allowed: ask",
            ),
            (502, "", "the server answered 502"),
            (502, "<html>\n", "the server answered 502: <html>"),
            (404, "{}", "the server answered 404: {}"),
            (
                500,
                &long,
                &format!("the server answered 500: {}", &long[..200]),
            ),
        ] {
            assert_eq!(describe(status, body), want);
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in 400..=599 {
            let refusal = Refusal::new(status, &HeaderMap::new(), "");
            assert_eq!(
                refusal.is_temporary(),
                status >= 500 || [408, 425, 429].contains(&status),
                "{status}"
            );
        }
    }
}
