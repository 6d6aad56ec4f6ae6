//! The ways of listening that a client chooses among.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    ShortPoll,
    LongPoll,
    SseRaw,
    SseJson,
    WebSocketRaw,
    WebSocketJson,
}

impl Transport {
    pub(super) const ALL: [Self; 6] = [
        Self::ShortPoll,
        Self::LongPoll,
        Self::SseRaw,
        Self::SseJson,
        Self::WebSocketRaw,
        Self::WebSocketJson,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ShortPoll => "short poll",
            Self::LongPoll => "long poll",
            Self::SseRaw => "sse raw",
            Self::SseJson => "sse json",
            Self::WebSocketRaw => "websocket raw",
            Self::WebSocketJson => "websocket json",
        }
    }

    pub(super) fn is_poll(self) -> bool {
        matches!(self, Self::ShortPoll | Self::LongPoll)
    }

    pub(super) fn is_websocket(self) -> bool {
        matches!(self, Self::WebSocketRaw | Self::WebSocketJson)
    }

    pub(super) fn is_json(self) -> bool {
        matches!(self, Self::SseJson | Self::WebSocketJson)
    }
}
