//! What the sender of something that breaks a protocol is answered.

/// An error as its sender reads it. Every error that a request can be refused for converts into one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    /// For programs: snake case, never changes.
    pub code: &'static str,
    /// For people: what to do.
    pub message: &'static str,
}

impl Refused {
    pub(super) const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self {
            status,
            code,
            message,
        }
    }
}
