//! What a channel may be called.

/// Bytes of a name; it has one at least.
pub const BYTES_MAX: usize = 255;

/// One of `A–Z a–z 0–9 _ - . : @ $ ~ = #`.
pub fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.:@$~=#".contains(&byte)
}
