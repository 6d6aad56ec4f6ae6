//! What a message's payload is, and how that is decided from a `Content-Type`.

/// The kind of a payload decides its wire form in every transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Valid JSON; embedded as it is.
    Json,
    /// Valid UTF-8; becomes a JSON string.
    Text,
    /// Anything else; base64 where the transport is text.
    Binary,
}
