//! Why a request is turned down: what its sender reads, and under which name it is counted.

use crate::auth::credential::CredentialError;
use crate::auth::error::TokenError;
use crate::hub::HomeRefusal;
use crate::proto::query::QueryError;
use crate::proto::refused::Refused;

/// A refusal. All texts are constant: nothing of what a peer sent is sent back, and nothing of the server's inside
/// is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// Machine-readable, in `snake_case`; also the label of the counter.
    pub code: &'static str,
    /// What to do.
    pub message: &'static str,
    /// The header field that belongs to this status, if one does.
    pub extra: Extra,
}

/// A header field that some statuses need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    Nothing,
    /// 405: the methods that this path knows.
    Allow(&'static str),
    /// 401: how to show who one is (RFC 6750 §3).
    Authenticate(&'static str),
    /// 426 (RFC 6455 §4.4).
    WebSocketVersion,
    /// 429 and 503: jittered, so that those who are turned away together do not come back together.
    RetryAfter,
}

impl Refusal {
    const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self {
            status,
            code,
            message,
            extra: Extra::Nothing,
        }
    }

    const fn unavailable(code: &'static str, message: &'static str) -> Self {
        Self {
            status: 503,
            code,
            message,
            extra: Extra::RetryAfter,
        }
    }

    const fn unauthorized(code: &'static str, message: &'static str) -> Self {
        Self {
            status: 401,
            code,
            message,
            extra: Extra::Authenticate("Bearer error=\"invalid_token\""),
        }
    }

    const fn too_many(code: &'static str, message: &'static str) -> Self {
        Self {
            status: 429,
            ..Self::unavailable(code, message)
        }
    }

    /// 405, with the methods that would do.
    pub const fn method(allow: &'static str) -> Self {
        let message = "This path does not know this method. See Allow.";
        Self {
            status: 405,
            code: "method_not_allowed",
            message,
            extra: Extra::Allow(allow),
        }
    }

    pub const NOT_FOUND: Self = Self::new(
        404,
        "path_unknown",
        "There is nothing at this path. See /poll, /sse, /ws and /pub.",
    );
    pub const INTERNAL_ONLY: Self = Self::new(
        404,
        "path_internal",
        "This path is on the internal listener only (setting internal).",
    );
    pub const CHANNEL_UNKNOWN: Self =
        Self::new(404, "channel_unknown", "Nobody uses this channel.");
    pub const CONNECTION_UNKNOWN: Self = Self::new(
        404,
        "connection_unknown",
        "There is no such connection, or no longer.",
    );
    pub const CHANNEL_NAME_INVALID: Self = Self::new(
        400,
        "channel_name_invalid",
        "A channel name has 1 to 255 bytes out of A-Z a-z 0-9 _ - . : @ $ ~ = # (percent-encode what a URL reserves).",
    );
    pub const CHANNEL_REPEATED: Self = Self::new(
        400,
        "channel_repeated",
        "Name each channel of a request once.",
    );
    pub const CHANNELS_TOO_MANY: Self = Self::new(
        400,
        "channels_too_many",
        "Name fewer channels in one request (setting channels_per_connection_max).",
    );
    pub const CURSOR_INVALID: Self = Self::new(
        400,
        "cursor_invalid",
        "since is now, earliest, or a cursor: one position for each channel, in the same order, joined by commas.",
    );
    pub const PARAMETER_INVALID: Self = Self::new(
        400,
        "parameter_invalid",
        "A query parameter has a value that it cannot have: wait and ttl are seconds; limit and last are numbers, limit \
         from 1; format is raw or json; store is true or false; count is node or \
         cluster.",
    );
    pub const EVENT_NAME_INVALID: Self = Self::new(
        400,
        "event_name_invalid",
        "An event name has 1 to 128 bytes, no line end, and not the prefix pushring.",
    );
    pub const IDEMPOTENCY_KEY_INVALID: Self = Self::new(
        400,
        "idempotency_key_invalid",
        "An Idempotency-Key has 1 to 64 bytes.",
    );
    pub const LENGTH_REQUIRED: Self = Self::new(
        411,
        "length_required",
        "Send the payload as the body, with Content-Length or chunked (Content-Length: 0 for an empty message).",
    );
    pub const ORIGIN_DENIED: Self = Self::new(
        403,
        "origin_denied",
        "Pages of this origin may not use this server (setting allowed_origins).",
    );
    pub const CREDENTIALS_MISSING: Self = Self {
        status: 401,
        code: "credentials_missing",
        message: "Send a token or an API key, as Authorization: Bearer.",
        extra: Extra::Authenticate("Bearer"),
    };
    pub const CREDENTIALS_UNSUPPORTED: Self = Self {
        code: "credentials_unsupported",
        message: "Authorization has to be of the scheme Bearer.",
        ..Self::CREDENTIALS_MISSING
    };
    pub const CREDENTIALS_REPEATED: Self = Self::new(
        400,
        "credentials_repeated",
        "Show a token or an API key once: in Authorization, X-API-Key or ?token=.",
    );
    pub const API_KEY_UNKNOWN: Self = Self::unauthorized(
        "api_key_unknown",
        "This is no API key of this server (setting api_key).",
    );
    pub const API_KEY_REQUIRED: Self = Self::new(
        403,
        "api_key_required",
        "Tokens are not enough here: send an API key.",
    );
    pub const CHANNEL_DENIED: Self = Self::new(
        403,
        "channel_denied",
        "The token, session or API key does not allow this on every channel of the request.",
    );
    pub const API_KEY_LIMITED: Self = Self::new(
        403,
        "api_key_limited",
        "This takes an API key for all channels (setting channels of the key).",
    );
    pub const DISCONNECTED: Self = Self::new(
        403,
        "disconnected_by_operator",
        "The operator has ended this connection. Ask there before you come back.",
    );
    pub const BACKEND_DENIED: Self = Self::new(
        403,
        "backend_denied",
        "The application does not let you in, or not to a channel of the request.",
    );
    pub const BACKEND_UNAUTHORIZED: Self = Self {
        status: 401,
        extra: Extra::Authenticate("Bearer"),
        ..Self::BACKEND_DENIED
    };
    pub const BACKEND_DOWN: Self = Self::unavailable(
        "backend_down",
        "The application does not say who you are, or whether you may listen (settings authorize_url, connect_url). \
         Come back later.",
    );
    pub const BACKEND_BUSY: Self = Self::unavailable(
        "backend_busy",
        "Too many questions wait for the application (settings callback_concurrency_max, callback_queue_max). \
         Come back later.",
    );
    pub const CHANNELS_MISSING: Self = Self::new(
        400,
        "channels_missing",
        "Name the channels in the path, or in the token, or in the application's answer, as channels.",
    );
    pub const UPGRADE_REQUIRED: Self = Self {
        status: 426,
        code: "upgrade_required",
        message: "Send a WebSocket handshake (RFC 6455), version 13.",
        extra: Extra::WebSocketVersion,
    };
    pub const HEAD_TIMEOUT: Self = Self::new(
        408,
        "head_timeout",
        "The request head took too long (setting head_timeout).",
    );
    pub const BODY_TIMEOUT: Self = Self::new(
        408,
        "body_timeout",
        "The request body took too long (setting body_timeout).",
    );
    pub const CHANNEL_DELETED: Self = Self::unavailable(
        "channel_deleted",
        "The channel was deleted, or spoke too much, before the request was through. Try again.",
    );
    pub const NOT_READY: Self = Self::unavailable(
        "not_ready",
        "This server is shutting down, or does not hear its broker (setting backplane). Use another one.",
    );
    pub const CONNECTIONS_FULL: Self = Self::unavailable(
        "connections_full",
        "Too many connections (setting connections_max). Come back later.",
    );
    pub const ADDRESS_CONNECTIONS_FULL: Self = Self::too_many(
        "address_connections_full",
        "Too many connections from this address (setting connections_per_address_max). Close some, or come back later.",
    );
    pub const USER_CONNECTIONS_FULL: Self = Self::too_many(
        "user_connections_full",
        "Too many connections of this user (setting connections_per_user_max). Close some, or come back later.",
    );
    pub const ACCEPT_RATE_EXCEEDED: Self = Self::unavailable(
        "accept_rate_exceeded",
        "Too many connections at once (setting accepts_per_second_max). Come back later.",
    );
    pub const REQUEST_RATE_EXCEEDED: Self = Self::too_many(
        "request_rate_exceeded",
        "Send less on one connection (settings inbound_messages_per_second_max, inbound_bytes_per_second_max).",
    );
    pub const PROXY_SOURCE_DENIED: Self = Self::new(
        403,
        "proxy_source_denied",
        "Connect through the load balancer (setting proxy_sources).",
    );
    pub const PROXY_HEADER_INVALID: Self = Self::new(
        400,
        "proxy_header_invalid",
        "The load balancer has to begin the connection with a PROXY header (setting proxy_protocol).",
    );
    pub const TLS_REQUIRED: Self = Self::new(
        400,
        "tls_required",
        "This address speaks TLS: use https:// or wss:// (setting tls_certificate).",
    );
    pub const PROXY_HEADER_TIMEOUT: Self = Self::new(
        408,
        "proxy_header_timeout",
        "The PROXY header took too long (setting proxy_header_timeout).",
    );
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self::unauthorized(error.code(), error.message())
    }
}

impl From<CredentialError> for Refusal {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::SchemeUnsupported => Self::CREDENTIALS_UNSUPPORTED,
            CredentialError::Repeated => Self::CREDENTIALS_REPEATED,
            CredentialError::Query(error) => error.into(),
        }
    }
}

impl<E> From<E> for Refusal
where
    Refused: From<E>,
{
    fn from(error: E) -> Self {
        let Refused {
            status,
            code,
            message,
        } = error.into();
        let extra = match status {
            426 => Extra::WebSocketVersion,
            _ => Extra::Nothing,
        };
        Self {
            extra,
            ..Self::new(status, code, message)
        }
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::PercentInvalid | QueryError::NotUtf8 => Self::new(
                400,
                "target_invalid",
                "The request target has a bad percent-encoding, or is not UTF-8.",
            ),
            QueryError::NumberInvalid | QueryError::SecondsInvalid => Self::PARAMETER_INVALID,
        }
    }
}

impl From<HomeRefusal> for Refusal {
    fn from(refusal: HomeRefusal) -> Self {
        match refusal {
            HomeRefusal::ChannelsFull => Self::unavailable(
                "channels_full",
                "Too many channels (setting channels_max). Come back later.",
            ),
            HomeRefusal::HistoryFull => Self::unavailable(
                "history_full",
                "The histories have used up their memory (setting history_bytes_total_max). Come back later.",
            ),
            HomeRefusal::BacklogFull => Self::unavailable(
                "backlog_full",
                "Messages are published faster than they can be delivered (settings fanout_backlog_bytes_max, \
                 mailbox_max). Come back later.",
            ),
            HomeRefusal::DiskSlow => Self::unavailable(
                "history_disk_slow",
                "The disk of the histories does not keep up (settings history_queue_bytes_max, \
                 history_stall_timeout). Come back later.",
            ),
            HomeRefusal::WriteFailed => Self::unavailable(
                "history_write_failed",
                "The histories cannot be written to disk (setting history_dir). Come back later.",
            ),
            HomeRefusal::BrokerAway => Self::unavailable(
                "backplane_away",
                "The broker behind the nodes cannot be reached (setting backplane). A message may have come through \
                 nevertheless: send it again with the same Idempotency-Key.",
            ),
            HomeRefusal::BrokerSlow => Self::unavailable(
                "backplane_slow",
                "Messages are published faster than the broker takes them (setting backplane_queue_bytes_max). Come \
                 back later.",
            ),
            HomeRefusal::BrokerRefused => Self::unavailable(
                "backplane_refused",
                "The broker behind the nodes does not take the message (setting backplane). Come back later.",
            ),
        }
    }
}
