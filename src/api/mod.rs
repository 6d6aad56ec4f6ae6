//! What a request means: a checked head becomes a [`Request`], or a [`Refusal`] that says what to do. Parse, don't
//! validate: a `Request` that exists can be carried out.
#![forbid(unsafe_code)]

pub mod access;
pub mod callback;
pub mod channels;
pub mod connect;
pub mod connections;
pub mod credentials;
pub mod findings;
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

/// Whom an entrance is for, and so what a connection that came in there may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients, where the backend has an entrance of its own: no publishing, no channels, no measurements.
    Public,
    /// The backend, where it has an entrance of its own (the setting `internal`).
    Internal,
    /// Clients and the backend, where it has none.
    Both,
}

impl Side {
    /// Whether limits that are meant for strangers do not hold.
    pub fn is_backend(self) -> bool {
        self == Self::Internal
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

/// What may be done with a path; OPTIONS always may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Methods {
    Read,
    ReadDelete,
    Write,
}

impl Methods {
    fn allow(self, method: Method) -> bool {
        match method {
            Method::Get | Method::Head => matches!(self, Self::Read | Self::ReadDelete),
            Method::Delete => self == Self::ReadDelete,
            Method::Post => self == Self::Write,
            Method::Options => true,
            Method::Put | Method::Patch | Method::Other => false,
        }
    }

    /// The value of `Allow` (RFC 9110 §10.2.1).
    fn text(self) -> &'static str {
        match self {
            Self::Read => "GET, HEAD, OPTIONS",
            Self::ReadDelete => "GET, HEAD, DELETE, OPTIONS",
            Self::Write => "POST, OPTIONS",
        }
    }
}

/// What a path is about. Names are still percent-encoded.
#[derive(Clone, Copy, Debug)]
enum Route<'a> {
    /// Channels; `None`: those that the token names, or the backend.
    Poll(Option<&'a str>),
    EventStream(Option<&'a str>),
    WebSocket(Option<&'a str>),
    /// Channels.
    Publish(&'a str),
    Channel(&'a str),
    ChannelList,
    /// Of a channel.
    Subscribers(&'a str),
    Connection(&'a str),
    /// A user's connections.
    User(&'a str),
    Metrics,
    Health,
    Readiness,
    Page(Page),
}

impl<'a> Route<'a> {
    fn of(path: &'a str, config: &Config) -> Option<Self> {
        Some(match query::split_first_segment(path) {
            ("poll" | "sse" | "ws", None) if !config.auth.knows_users() => return None,
            ("poll", channels) => Self::Poll(channels),
            ("sse", channels) => Self::EventStream(channels),
            ("ws", channels) => Self::WebSocket(channels),
            ("pub", Some(channels)) => Self::Publish(channels),
            ("channels", None) => Self::ChannelList,
            ("channels", Some(rest)) => match rest.strip_suffix("/subscribers") {
                Some(channel) => Self::Subscribers(channel),
                None => Self::Channel(rest),
            },
            ("connections", Some(id)) => Self::Connection(id),
            ("users", Some(rest)) => {
                let user = rest.strip_suffix("/connections")?;
                if user.contains('/') {
                    return None;
                }
                Self::User(user)
            }
            ("metrics", None) => Self::Metrics,
            ("healthz", None) => Self::Health,
            ("readyz", None) => Self::Readiness,
            ("pushring.js", None) => Self::Page(SCRIPT),
            // It knows no credentials.
            ("", None) if !config.auth.has_keys() => Self::Page(CONSOLE),
            _ => return None,
        })
    }

    fn methods(self) -> Methods {
        match self {
            Self::Publish(_) => Methods::Write,
            Self::Channel(_) | Self::Connection(_) | Self::User(_) => Methods::ReadDelete,
            Self::Poll(_)
            | Self::EventStream(_)
            | Self::WebSocket(_)
            | Self::ChannelList
            | Self::Subscribers(_)
            | Self::Metrics
            | Self::Health
            | Self::Readiness
            | Self::Page(_) => Methods::Read,
        }
    }

    /// For clients, too, where the backend has a listener of its own.
    fn is_public(self, config: &Config) -> bool {
        match self {
            Self::Poll(_) | Self::EventStream(_) | Self::WebSocket(_) => true,
            Self::Health | Self::Readiness | Self::Page(_) => true,
            Self::Publish(_) => access::publishes_in_public(config),
            Self::Channel(_) | Self::ChannelList | Self::Subscribers(_) => false,
            Self::Connection(_) | Self::User(_) | Self::Metrics => false,
        }
    }
}

/// Reads what `head` asks for.
pub fn parse(head: &RequestHead<'_>, config: &Config, side: Side) -> Result<Request, Refusal> {
    if head.path == "*" {
        return Ok(Request::Preflight {
            allow: "GET, HEAD, POST, DELETE, OPTIONS",
        });
    }
    let route = Route::of(head.path, config).ok_or(Refusal::NOT_FOUND)?;
    if !route.is_public(config) && side == Side::Public {
        return Err(Refusal::INTERNAL_ONLY);
    }
    let methods = route.methods();
    let allow = methods.text();
    match head.method {
        Method::Options => return Ok(Request::Preflight { allow }),
        // RFC 9110 §9.1: 405 is for what the server knows and another path may take.
        Method::Other => return Err(Refusal::from(HeadError::MethodUnsupported)),
        method if methods.allow(method) => {}
        _ => return Err(Refusal::method(allow)),
    }
    let is_delete = head.method == Method::Delete;
    Ok(match route {
        Route::Poll(channels) => {
            let listen = ListenRequest::parse(channels, head.query, None, config)?;
            let parameters = listen::PollParameters::parse(head.query, config)?;
            // HEAD asks for the head of the answer, not for waiting.
            let wait_ms = if head.method == Method::Head {
                0
            } else {
                parameters.wait_ms
            };
            Request::Poll {
                listen,
                wait_ms,
                limit: parameters.limit,
            }
        }
        Route::EventStream(channels) => {
            let last_event_id = head.last_event_id;
            let listen = ListenRequest::parse(channels, head.query, last_event_id, config)?;
            Request::EventStream(listen)
        }
        Route::WebSocket(channels) => {
            let upgrade = head
                .upgrade
                .filter(|_| head.method == Method::Get)
                .ok_or(Refusal::UPGRADE_REQUIRED)?;
            let accept = ws_handshake::check(upgrade.version, upgrade.key)?;
            Request::WebSocket {
                listen: ListenRequest::parse(channels, head.query, None, config)?,
                accept: Some(accept),
            }
        }
        Route::Publish(channels) => {
            // RFC 9110 §8.6: without either field there is no body, and an empty message has to be meant.
            if head.body == BodyFraming::None {
                return Err(Refusal::LENGTH_REQUIRED);
            }
            Request::Publish(PublishRequest::parse(channels, head, config)?)
        }
        Route::Channel(channel) => {
            let channel = listen::parse_channel(channel)?;
            match is_delete {
                true => Request::ChannelDelete(channel),
                false => Request::ChannelInfo(channel),
            }
        }
        Route::ChannelList => Request::ChannelList(ChannelList::parse(head.query)?),
        Route::Subscribers(channel) => Request::Inquiry(Inquiry::subscribers(channel, head.query)?),
        Route::Connection(id) => Request::Inquiry(Inquiry::of_connection(id, is_delete)?),
        Route::User(user) => Request::Inquiry(Inquiry::of_user(user, head.query, is_delete)?),
        Route::Metrics => Request::Metrics,
        Route::Health => Request::Health,
        Route::Readiness => Request::Readiness,
        Route::Page(page) => Request::Page(page),
    })
}

#[cfg(test)]
mod tests;
