//! How the server closes a WebSocket: code and reason of the close frame, and the end that the frame begins.

use std::borrow::Cow;

use crate::api::refusal::Refusal;
use crate::auth::error::TokenError;
use crate::close_reason::CloseReason;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::proto::ws_message::WsError;
use crate::proto::{close_code, ws_frame};
use crate::transport::age::EndOfLife;
use crate::transport::beat::jittered_around;
use crate::transport::{Context, Next};

/// A close frame and its reason.
#[derive(Clone, Debug)]
pub(super) struct Goodbye {
    /// `None` answers a close frame without a code.
    code: Option<u16>,
    text: Cow<'static, str>,
    reason: CloseReason,
}

impl Goodbye {
    pub(super) const CHANNEL_DELETED: Self = Self::new(
        close_code::NORMAL,
        "the channel was deleted",
        CloseReason::ChannelDeleted,
    );
    pub(super) const TOO_FAST: Self = Self::new(
        close_code::POLICY,
        "messages come too fast",
        CloseReason::RateExceeded,
    );
    pub(super) const MESSAGE_TIMEOUT: Self = Self::new(
        close_code::POLICY,
        "the message took too long",
        CloseReason::RequestTimeout,
    );
    pub(super) const MESSAGE_TOO_BIG: Self = Self::new(
        close_code::TOO_BIG,
        "message is too big",
        CloseReason::WebSocketProtocol,
    );
    /// A publish was not taken. A frame has no answer that could say "later", and a promise that is not kept must be
    /// told.
    pub(super) const NOT_TAKEN: Self = Self::new(
        close_code::UNAVAILABLE,
        "the message could not be taken, come back later",
        CloseReason::Unavailable,
    );
    pub(super) const NO_ROOM: Self = Self::new(
        close_code::UNAVAILABLE,
        "no room for a listener, come back later",
        CloseReason::Unavailable,
    );
    pub(super) const TOKEN_EXPIRED: Self = Self::new(
        close_code::TOKEN_EXPIRED,
        "token expired",
        CloseReason::TokenExpired,
    );
    /// The backend wants to be asked again.
    pub(super) const PERMISSION_EXPIRED: Self = Self::new(
        close_code::TOKEN_EXPIRED,
        "permission expired, reconnect",
        CloseReason::TokenExpired,
    );
    pub(super) const SLOW_READER: Self = Self::new(
        close_code::SLOW_READER,
        "slow reader",
        CloseReason::SlowReader,
    );
    /// Messages are lost, and the frames have no room for a notice.
    pub(super) const POSITION_LOST: Self = Self::new(
        close_code::POSITION_LOST,
        "position lost, reconnect with your cursor",
        CloseReason::PositionLost,
    );
    pub(super) const NO_PONG: Self = Self::new(close_code::NO_PONG, "no pong", CloseReason::NoPong);
    pub(super) const DISCONNECTED: Self = Self::new(
        close_code::DISCONNECTED,
        "disconnected by the operator",
        CloseReason::Disconnected,
    );

    const fn new(code: u16, text: &'static str, reason: CloseReason) -> Self {
        Self {
            code: Some(code),
            text: Cow::Borrowed(text),
            reason,
        }
    }

    /// The answer to the peer's close frame, with its own code (RFC 6455 §5.5.1).
    pub(super) fn in_kind(code: Option<u16>) -> Self {
        Self {
            code,
            text: Cow::Borrowed(""),
            reason: CloseReason::PeerClosed,
        }
    }

    pub(super) fn broken(error: WsError) -> Self {
        let reason = CloseReason::WebSocketProtocol;
        Self::new(error.close_code(), error.reason(), reason)
    }

    /// The message is well-formed, and not one that this client may send.
    pub(super) fn not_allowed(text: &'static str) -> Self {
        Self::new(close_code::POLICY, text, CloseReason::Policy)
    }

    pub(super) fn age_max(rng: &mut fastrand::Rng) -> Self {
        let delay_ms = EndOfLife::reconnect_ms(rng);
        Self::reconnect("maximum age", delay_ms, EndOfLife::REASON)
    }

    pub(super) fn shutdown(config: &Config, rng: &mut fastrand::Rng) -> Self {
        let delay_ms = jittered_around(config.timing.sse_retry_ms, rng);
        Self::reconnect("shutdown", delay_ms, CloseReason::Shutdown)
    }

    fn reconnect(why: &str, delay_ms: u64, reason: CloseReason) -> Self {
        Self {
            code: Some(close_code::SHUTDOWN),
            text: format!("{why}, reconnect after {delay_ms} ms").into(),
            reason,
        }
    }

    pub(super) fn reason(&self) -> CloseReason {
        self.reason
    }

    /// Sends the close frame. Nothing may be sent after it.
    pub(super) fn send(&self, context: &mut Context<'_>) -> Next {
        context.effects.out.write(|own| match self.code {
            Some(code) => ws_frame::close_frame(own, code, &self.text),
            None => own.extend_from_slice(&ws_frame::CLOSE_WITHOUT_CODE),
        });
        Next::End(self.reason)
    }
}

/// Why a WebSocket that is open already is closed for its token, or by what the backend says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenRefusal {
    close_code: u16,
    text: &'static str,
    reason: CloseReason,
    /// As an answer to a request would have it, for the counter.
    code: &'static str,
    status: u16,
}

impl TokenRefusal {
    pub(super) const TIMEOUT: Self = Self {
        close_code: close_code::BAD_TOKEN,
        text: "no token came in time: send {\"token\":\"...\"} first",
        reason: CloseReason::CredentialRefused,
        code: "auth_timeout",
        status: 401,
    };
    pub(super) const NOT_A_TOKEN: Self = Self {
        text: "send {\"token\":\"...\"} as the first message",
        code: "credentials_missing",
        ..Self::TIMEOUT
    };
    pub(super) const OTHER_USER: Self = Self {
        close_code: close_code::NOT_ALLOWED,
        text: "the new token is another user's (sub): open a connection for it",
        reason: CloseReason::CredentialRefused,
        code: "user_changed",
        status: 403,
    };

    /// Counts the refusal, and closes.
    pub(super) fn send(self, context: &mut Context<'_>) -> Next {
        self.goodbye(context.metrics).send(context)
    }

    /// Counts the refusal, and gives what the client is told.
    pub(super) fn goodbye(self, metrics: &mut Metrics) -> Goodbye {
        metrics.on_refusal(self.code, self.status);
        Goodbye::new(self.close_code, self.text, self.reason)
    }
}

impl From<TokenError> for TokenRefusal {
    fn from(error: TokenError) -> Self {
        let close_code = match error {
            TokenError::Expired => close_code::TOKEN_EXPIRED,
            _ => close_code::BAD_TOKEN,
        };
        Self {
            close_code,
            text: error.message(),
            reason: CloseReason::CredentialRefused,
            code: error.code(),
            status: 401,
        }
    }
}

impl From<Refusal> for TokenRefusal {
    fn from(refusal: Refusal) -> Self {
        let (close_code, reason) = match refusal.status {
            // One user's connections come and go: other than a verdict, a limit lets the client try again.
            429 => (close_code::POLICY, CloseReason::TooManyConnections),
            503 => (close_code::UNAVAILABLE, CloseReason::Unavailable),
            _ => (close_code::NOT_ALLOWED, CloseReason::CredentialRefused),
        };
        let text = match refusal.status {
            503 => "the application does not answer, come back later",
            _ => refusal.message,
        };
        Self {
            close_code,
            text,
            reason,
            code: refusal.code,
            status: refusal.status,
        }
    }
}
