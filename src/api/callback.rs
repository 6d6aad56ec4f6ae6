//! The backend's say in who may listen: what it is asked, how its answer reads, and what that makes of the request.
//!
//! Who shows no token may first be a question itself ([`connect`]). Behind the rules of the namespace and of the token
//! it is asked about all channels of a request that have the same `authorize_url` at once.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::api::Request;
use crate::api::connect;
use crate::api::credentials::Credentials;
use crate::api::listen::ListenRequest;
use crate::api::refusal::Refusal;
use crate::auth::grant::Grant;
use crate::config::Config;
use crate::config::callback::{CACHE_TTL_MAX_MS, WhenDown};
use crate::hub::message::ChannelName;

/// The longest answer that is read; what it has to say takes a few dozen bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What the backend is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Who somebody is, and what they may (`connect_url`).
    Caller,
    /// Whether somebody may listen to these channels (`authorize_url`).
    Channels,
}

/// One question for the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consultation {
    pub about: About,
    pub url: Box<str>,
    pub credentials: Arc<Credentials>,
    /// In the request's order.
    pub channels: Vec<ChannelName>,
    pub transport: &'static str,
    /// `sub` of a token that was verified.
    pub user: Option<Box<str>>,
}

impl Consultation {
    /// The body of the question, in JSON.
    pub fn body(&self, address: Option<IpAddr>) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            channels: Vec<&'a str>,
            transport: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            address: Option<IpAddr>,
            #[serde(skip_serializing_if = "Option::is_none")]
            user: Option<&'a str>,
        }
        let body = Body {
            channels: self.channels.iter().map(ChannelName::as_str).collect(),
            transport: self.transport,
            address,
            user: self.user.as_deref(),
        };
        serde_json::to_string(&body).expect("texts become JSON")
    }
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed(Permit),
    Denied(Denial),
    /// No answer, none in time, or none that is an answer.
    Down,
    /// Too many questions wait; it was not asked.
    Busy,
}

/// What the backend allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Who it is, and what that lists. Shared with all who ask the same.
    pub grant: Arc<Grant>,
    /// When to ask again, in milliseconds of the monotonic clock.
    pub until_ms: Option<u64>,
}

impl Permit {
    #[cfg(test)]
    pub(crate) fn of(user: Option<&str>, until_ms: Option<u64>) -> Self {
        Self {
            grant: Arc::new(Grant::of_user(user)),
            until_ms,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// 401: it does not know who that is.
    Unauthorized,
    /// 403
    Forbidden,
}

/// An answer of the backend, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Allowed {
        grant: Grant,
        expires_in_ms: Option<u64>,
    },
    Denied(Denial),
}

/// Why an answer is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// Neither 2xx nor 401 nor 403. A redirect is not followed.
    Status(u16),
    /// It says that it is JSON, and is not an object of the right fields.
    Malformed,
}

impl std::fmt::Display for ReplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status} is neither 2xx nor 401 nor 403"),
            Self::Malformed => f.write_str(
                "the body is not a JSON object whose user is a text, whose expires_in is a number of seconds, and whose \
                 lists (channels, subscribe, publish) are such as a token may have",
            ),
        }
    }
}

impl Reply {
    /// To a question about channels a body of another type than JSON says nothing. To one about the caller it is no
    /// answer: it could be a page to sign in on.
    pub fn parse(
        about: About,
        status: u16,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<Self, ReplyError> {
        match status {
            200..=299 => {}
            401 => return Ok(Self::Denied(Denial::Unauthorized)),
            403 => return Ok(Self::Denied(Denial::Forbidden)),
            _ => return Err(ReplyError::Status(status)),
        }
        let media_type = content_type.unwrap_or("").split(';').next().unwrap_or("");
        let is_json = media_type.trim().eq_ignore_ascii_case("application/json");
        let is_silent = body.is_empty() || (about == About::Channels && !is_json);
        if is_silent {
            return Ok(Self::Allowed {
                grant: Grant::of_user(None),
                expires_in_ms: None,
            });
        }
        let read = || is_json.then(|| Self::parse_body(about, body)).flatten();
        read().ok_or(ReplyError::Malformed)
    }

    fn parse_body(about: About, body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            user: Option<Cow<'a, str>>,
            expires_in: Option<f64>,
        }
        // serde takes a list of the values for an object too.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return None;
        }
        let Body { user, expires_in } = serde_json::from_slice(body).ok()?;
        // An end before the begin.
        if expires_in.is_some_and(|seconds| seconds < 0.0) {
            return None;
        }
        let grant = Grant::of_user(user.as_deref());
        Some(Self::Allowed {
            grant: match about {
                About::Caller => connect::add_lists(grant, body)?,
                About::Channels => grant,
            },
            expires_in_ms: expires_in.map(|seconds| (seconds * 1000.0) as u64),
        })
    }

    /// For those who wait for it at `now_ms`.
    pub fn decide(self, now_ms: u64) -> Decision {
        match self {
            Self::Denied(denial) => Decision::Denied(denial),
            Self::Allowed {
                grant,
                expires_in_ms,
            } => Decision::Allowed(Permit {
                grant: Arc::new(grant),
                until_ms: expires_in_ms.map(|ms| now_ms.saturating_add(ms)),
            }),
        }
    }
}

/// How long an answer may be kept by its `Cache-Control` (RFC 9111 §5.2.2); `default_ms` if that does not say.
pub fn cache_ttl_ms(cache_control: Option<&str>, default_ms: u64) -> u64 {
    let mut ttl_ms = default_ms;
    for directive in cache_control.unwrap_or("").split(',') {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return 0,
            "max-age" => {
                let seconds: Option<u64> = value.trim().trim_matches('"').parse().ok();
                // RFC 9111 §4.2.1: what is not understood is stale.
                ttl_ms = seconds.unwrap_or(0).saturating_mul(1000);
            }
            _ => {}
        }
    }
    ttl_ms.min(CACHE_TTL_MAX_MS)
}

/// Takes out of `request` what the backend has to be asked: nothing where it has no say, and nothing a second time.
/// A caller whom no backend can be asked about any more is refused.
pub fn take_consultations(
    request: &mut Request,
    config: &Config,
) -> Result<Vec<Consultation>, Refusal> {
    if let Request::Publish(publish) = request {
        let asked = connect::of_publisher(publish, config)?;
        return Ok(asked.into_iter().collect());
    }
    let Some((transport, listen)) = listening(request) else {
        return Ok(Vec::new());
    };
    if listen.caller_due {
        return Ok(vec![connect::of_listener(listen, transport, config)?]);
    }
    // What a first message has to bring is to be known first.
    if listen.token_due {
        return Ok(Vec::new());
    }
    let Some(credentials) = listen.credentials.take() else {
        return Ok(Vec::new());
    };
    let mut consultations: Vec<Consultation> = Vec::new();
    for (channel, _) in &listen.channels {
        let Some(url) = &config.namespace(channel.namespace()).authorize_url else {
            continue;
        };
        match consultations
            .iter_mut()
            .find(|consultation| *consultation.url == **url)
        {
            Some(consultation) => consultation.channels.push(channel.clone()),
            None => consultations.push(Consultation {
                about: About::Channels,
                url: url.as_str().into(),
                credentials: credentials.clone(),
                channels: vec![channel.clone()],
                transport,
                user: listen.user().map(Into::into),
            }),
        }
    }
    Ok(consultations)
}

/// Lets `request` go on with what was decided on all its consultations. A denial counts for more than a backend that is
/// down.
pub fn conclude(
    request: &mut Request,
    decisions: &[Decision],
    config: &Config,
) -> Result<(), Refusal> {
    let refusal = |decision: &Decision| match decision {
        Decision::Allowed(_) => None,
        Decision::Denied(Denial::Unauthorized) => Some(Refusal::BACKEND_UNAUTHORIZED),
        Decision::Denied(Denial::Forbidden) => Some(Refusal::BACKEND_DENIED),
        Decision::Down if config.callback.when_down == WhenDown::Allow => None,
        Decision::Down => Some(Refusal::BACKEND_DOWN),
        Decision::Busy => Some(Refusal::BACKEND_BUSY),
    };
    if let Some(refusal) = decisions
        .iter()
        .filter_map(refusal)
        .min_by_key(|it| it.status)
    {
        return Err(refusal);
    }
    let permits = decisions.iter().map(|decision| match decision {
        Decision::Allowed(permit) => Some(permit),
        _ => None,
    });
    let is_websocket = matches!(request, Request::WebSocket { .. });
    if let Request::Publish(publish) = request {
        return connect::admit_publisher(publish, permits.flatten().next(), config);
    }
    if let Some((_, listen)) = listening(request) {
        if listen.caller_due {
            let permit = permits.flatten().next();
            return connect::admit_listener(listen, permit, is_websocket, config);
        }
        permits.flatten().for_each(|permit| listen.allow(permit));
    }
    Ok(())
}

/// By which transport, to what; `None` for a request that is about something else.
pub fn listening(request: &mut Request) -> Option<(&'static str, &mut ListenRequest)> {
    match request {
        Request::Poll { listen, .. } => Some(("poll", listen)),
        Request::EventStream(listen) => Some(("sse", listen)),
        Request::WebSocket { listen, .. } => Some(("websocket", listen)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
