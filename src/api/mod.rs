//! What a request means: a checked head becomes a [`Request`], or a [`Refusal`] that says what to do. Parse, don't
//! validate: a `Request` that exists can be carried out.
#![forbid(unsafe_code)]

pub mod access;
pub mod callback;
pub mod channels;
pub mod connections;
pub mod listen;
pub mod origin;
pub mod publish;
pub mod question;
pub mod refusal;

use crate::config::Config;
use crate::proto::http_request::{BodyFraming, HeadError, Method, RequestHead};
use crate::proto::query;
use crate::proto::ws_handshake;

use channels::ChannelList;
use connections::Inquiry;
use listen::ListenRequest;
use publish::PublishRequest;
use refusal::Refusal;

use crate::hub::message::ChannelName;

/// Which of the two listeners a connection came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Clients, while the backend has a listener of its own: no publishing, no channels, no measurements.
    Public,
    /// The backend; or everybody, where there is one listener only.
    Internal,
}

impl Audience {
    /// On the backend's own listener, where limits meant for strangers do not hold.
    pub fn is_backend(self, config: &Config) -> bool {
        self == Self::Internal && config.internal.is_some()
    }
}

/// What a request asks for.
#[derive(Debug)]
pub enum Request {
    /// `wait_ms` 0 is a short poll.
    Poll {
        listen: ListenRequest,
        wait_ms: u64,
        limit: usize,
    },
    EventStream(ListenRequest),
    WebSocket {
        listen: ListenRequest,
        /// `None` behind the handshake.
        accept: Option<[u8; ws_handshake::ACCEPT_BYTES]>,
    },
    /// To be completed by its body.
    Publish(PublishRequest),
    ChannelInfo(ChannelName),
    ChannelList(ChannelList),
    ChannelDelete(ChannelName),
    Inquiry(Inquiry),
    Health,
    Readiness,
    Metrics,
    /// OPTIONS, with the methods of the path.
    Preflight {
        allow: &'static str,
    },
    Page(Page),
}

/// A file that the server brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub content_type: &'static str,
    pub content: &'static str,
}

const CONSOLE: Page = Page {
    content_type: "text/html; charset=utf-8",
    content: include_str!("page/console.html"),
};
const SCRIPT: Page = Page {
    content_type: "text/javascript; charset=utf-8",
    content: include_str!("page/pushring.js"),
};

const GET: &str = "GET, HEAD, OPTIONS";
const POST: &str = "POST, OPTIONS";
const GET_DELETE: &str = "GET, HEAD, DELETE, OPTIONS";

/// Ends a path that asks who listens on a channel.
const SUBSCRIBERS: &str = "/subscribers";

/// The user, percent-encoded, of what is behind `/users/`.
fn user(rest: &str) -> Option<&str> {
    rest.strip_suffix("/connections")
        .filter(|user| !user.contains('/'))
}

/// Reads what `head` asks for.
pub fn parse(
    head: &RequestHead<'_>,
    config: &Config,
    audience: Audience,
) -> Result<Request, Refusal> {
    if head.path == "*" {
        return Ok(Request::Preflight {
            allow: "GET, HEAD, POST, DELETE, OPTIONS",
        });
    }
    let (first, rest) = query::split_first_segment(head.path);
    let (allow, is_public) = match (first, rest) {
        ("poll" | "sse" | "ws", Some(_)) | ("healthz" | "readyz" | "" | "pushring.js", None) => {
            (GET, true)
        }
        // The channels that the token names.
        ("poll" | "sse" | "ws", None) if config.auth.verifies_tokens() => (GET, true),
        ("pub", Some(_)) => (POST, access::publishes_in_public(config)),
        ("channels", Some(rest)) if rest.ends_with(SUBSCRIBERS) => (GET, false),
        ("channels" | "connections", Some(_)) => (GET_DELETE, false),
        ("users", Some(rest)) if user(rest).is_some() => (GET_DELETE, false),
        ("channels" | "metrics", None) => (GET, false),
        _ => return Err(Refusal::NOT_FOUND),
    };
    if !is_public && audience == Audience::Public {
        return Err(Refusal::INTERNAL_ONLY);
    }
    match head.method {
        Method::Options => return Ok(Request::Preflight { allow }),
        // RFC 9110 §9.1: 405 is for what the server knows and another path may take.
        Method::Other => return Err(Refusal::from(HeadError::MethodUnsupported)),
        Method::Get | Method::Head if allow != POST => {}
        Method::Post if allow == POST => {}
        Method::Delete if allow == GET_DELETE => {}
        _ => return Err(Refusal::method(allow)),
    }
    let is_delete = head.method == Method::Delete;
    match (first, rest) {
        ("poll", channels) => {
            let listen = ListenRequest::parse(channels, head, config)?;
            let parameters = listen::PollParameters::parse(head.query, config)?;
            // HEAD asks for the head of the answer, not for waiting.
            let wait_ms = if head.method == Method::Head {
                0
            } else {
                parameters.wait_ms
            };
            Ok(Request::Poll {
                listen,
                wait_ms,
                limit: parameters.limit,
            })
        }
        ("sse", channels) => Ok(Request::EventStream(ListenRequest::parse(
            channels, head, config,
        )?)),
        ("ws", channels) => {
            let upgrade = head
                .upgrade
                .filter(|_| head.method == Method::Get)
                .ok_or(Refusal::UPGRADE_REQUIRED)?;
            let accept = ws_handshake::check(upgrade.version, upgrade.key)?;
            Ok(Request::WebSocket {
                listen: ListenRequest::parse(channels, head, config)?,
                accept: Some(accept),
            })
        }
        ("pub", Some(channels)) => {
            // RFC 9110 §8.6: without either field there is no body, and an empty message has to be meant.
            if head.body == BodyFraming::None {
                return Err(Refusal::LENGTH_REQUIRED);
            }
            Ok(Request::Publish(PublishRequest::parse(
                channels, head, config,
            )?))
        }
        ("channels", Some(rest)) if let Some(channel) = rest.strip_suffix(SUBSCRIBERS) => {
            Ok(Request::Inquiry(Inquiry::subscribers(channel, head.query)?))
        }
        ("connections", Some(id)) => Ok(Request::Inquiry(Inquiry::of_connection(id, is_delete)?)),
        ("users", Some(rest)) => {
            let user = user(rest).ok_or(Refusal::NOT_FOUND)?;
            let inquiry = Inquiry::of_user(user, head.query, is_delete)?;
            Ok(Request::Inquiry(inquiry))
        }
        ("channels", Some(channel)) => {
            let channel = listen::parse_channel(channel)?;
            Ok(match is_delete {
                true => Request::ChannelDelete(channel),
                false => Request::ChannelInfo(channel),
            })
        }
        ("channels", None) => Ok(Request::ChannelList(ChannelList::parse(head.query)?)),
        ("metrics", _) => Ok(Request::Metrics),
        ("healthz", _) => Ok(Request::Health),
        ("readyz", _) => Ok(Request::Readiness),
        ("pushring.js", _) => Ok(Request::Page(SCRIPT)),
        _ => Ok(Request::Page(CONSOLE)),
    }
}

#[cfg(test)]
mod tests;
