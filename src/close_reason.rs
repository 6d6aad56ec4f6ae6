//! Why a connection ended. Each has exactly one reason, under which it is counted and logged.

/// The last stop of every error that ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The answer was sent and the connection was not to be kept.
    Answered,
    /// The peer closed, in order.
    PeerClosed,
    /// The peer reset the connection, or the network failed.
    PeerReset,
    /// A WebSocket gave no sign of life for `heartbeat` + `pong_timeout`.
    NoPong,
    /// A kept-alive connection had no request for `idle_timeout`.
    Idle,
    /// A head, a body or a WebSocket message was not complete in time; told as 408 or 1008.
    RequestTimeout,
    /// A request was refused in a way that leaves the framing in doubt, or with a body unread.
    Refused,
    /// RFC 6455 was violated: 1002, 1007 or 1009 has been sent.
    WebSocketProtocol,
    /// The peer did what it may not (1008).
    Policy,
    /// The token's `exp` and the grace behind it have passed (3005).
    TokenExpired,
    /// A WebSocket's first message, or a later one, brought no good token (3500, 3507, 3005), or none in time.
    CredentialRefused,
    /// More than `outbox_bytes_max` waited for the peer (3008).
    SlowReader,
    /// The peer took too little for `write_stall_timeout`.
    WriteStalled,
    /// The stream has reached its maximum age: the client comes back, perhaps to another server (3001).
    AgeMax,
    /// The channel was deleted.
    ChannelDeleted,
    /// The hub could not take the listener (503, or 1011 on an open WebSocket).
    Unavailable,
    /// The server is shutting down (3001).
    Shutdown,
    /// There were as many as `connections_max`, `connections_per_address_max`, `connections_per_user_max` or the
    /// descriptors of the process allow; or they came faster than `accepts_per_second_max`.
    TooManyConnections,
    /// A bug: this connection's step panicked, the others go on.
    Panicked,
    /// A WebSocket's messages came faster than `inbound_messages_per_second_max` or `inbound_bytes_per_second_max`
    /// (1008).
    RateExceeded,
    /// Of the many bytes that waited for all clients, too many waited for this one (`outbox_bytes_total_max`; 3008).
    OutboxesFull,
    /// TLS was not agreed on, or what came over it could not be decrypted.
    TlsFailed,
    /// Messages were lost before they came here, which this connection has no other way to be told (3010).
    PositionLost,
    /// The operator wanted it so (3503; 403 for a long poll).
    Disconnected,
}

impl CloseReason {
    pub const ALL: [Self; 24] = [
        Self::Answered,
        Self::PeerClosed,
        Self::PeerReset,
        Self::NoPong,
        Self::Idle,
        Self::RequestTimeout,
        Self::Refused,
        Self::WebSocketProtocol,
        Self::Policy,
        Self::TokenExpired,
        Self::CredentialRefused,
        Self::SlowReader,
        Self::WriteStalled,
        Self::AgeMax,
        Self::ChannelDeleted,
        Self::Unavailable,
        Self::Shutdown,
        Self::TooManyConnections,
        Self::Panicked,
        Self::RateExceeded,
        Self::OutboxesFull,
        Self::TlsFailed,
        Self::PositionLost,
        Self::Disconnected,
    ];

    /// The metric's label and the log's word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::PeerClosed => "peer_closed",
            Self::PeerReset => "peer_reset",
            Self::NoPong => "no_pong",
            Self::Idle => "idle",
            Self::RequestTimeout => "request_timeout",
            Self::Refused => "refused",
            Self::WebSocketProtocol => "websocket_protocol",
            Self::Policy => "policy",
            Self::TokenExpired => "token_expired",
            Self::CredentialRefused => "credential_refused",
            Self::SlowReader => "slow_reader",
            Self::WriteStalled => "write_stalled",
            Self::AgeMax => "age_max",
            Self::ChannelDeleted => "channel_deleted",
            Self::Unavailable => "unavailable",
            Self::Shutdown => "shutdown",
            Self::TooManyConnections => "too_many_connections",
            Self::Panicked => "panicked",
            Self::RateExceeded => "rate_exceeded",
            Self::OutboxesFull => "outboxes_full",
            Self::TlsFailed => "tls_failed",
            Self::PositionLost => "position_lost",
            Self::Disconnected => "disconnected",
        }
    }

    /// Ends that an operator may have to do something about; the others are everyday life and are counted only. A slow
    /// reader has a log line of its own, which says more.
    pub fn is_noteworthy(self) -> bool {
        matches!(
            self,
            Self::WriteStalled | Self::Panicked | Self::RateExceeded | Self::OutboxesFull
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed_at_its_own_place() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
        }
    }
}
