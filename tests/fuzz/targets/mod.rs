//! What is fuzzed, one file for each decoder of a stranger's bytes: a function that takes any input and panics where a
//! property does not hold. A decoder that is not here yet gets a file, a corpus and a line in [`TARGETS`].

mod chunked_body;
mod configuration;
mod cursor;
mod jwks;
mod payload;
mod proxy_header;
mod query;
mod request_head;
mod token;
mod websocket;

#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) check: fn(&[u8]),
    /// Inputs that lead far, one a line.
    #[allow(dead_code, reason = "libFuzzer reads its corpus from a folder")]
    pub(crate) corpus: &'static str,
}

macro_rules! target {
    ($name:ident) => {
        Target {
            name: stringify!($name),
            check: $name::check,
            corpus: include_str!(concat!("../corpus/", stringify!($name), ".txt")),
        }
    };
}

pub(crate) const TARGETS: &[Target] = &[
    target!(request_head),
    target!(chunked_body),
    target!(websocket),
    target!(query),
    target!(cursor),
    target!(payload),
    target!(proxy_header),
    target!(token),
    target!(jwks),
    target!(configuration),
];

/// Places to cut an input at: a few that depend on it, so that the same input is always cut alike.
fn cuts(input: &[u8]) -> impl Iterator<Item = usize> {
    // FNV-1a.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let places = input.len() as u64 + 1;
    [hash, hash >> 16, hash >> 32, hash >> 48]
        .map(|hash| (hash % places) as usize)
        .into_iter()
}
