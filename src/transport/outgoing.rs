//! What one step of a connection wants to send: own bytes and references to shared ones, in order.

use crate::hub::batch::SharedBytes;

/// Own bytes above which the storage is given back after a step.
const OWN_BYTES_KEPT_MAX: usize = 1024 * 1024;

/// One stretch of an [`Outgoing`].
#[derive(Debug)]
enum Piece {
    /// From where the last own stretch ended up to here.
    Own {
        end: usize,
    },
    Shared(SharedBytes),
}

/// Bytes on their way out of one step. One value serves all connections of a shard in turn, so that what fits into
/// the socket at once costs no allocation.
#[derive(Debug, Default)]
pub struct Outgoing {
    own: Vec<u8>,
    pieces: Vec<Piece>,
    bytes: usize,
}

impl Outgoing {
    /// Appends own bytes through `write`, which must only append.
    pub fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.own.len();
        write(&mut self.own);
        let end = self.own.len();
        if end == before {
            return;
        }
        self.bytes += end - before;
        match self.pieces.last_mut() {
            Some(Piece::Own { end: last }) => *last = end,
            _ => self.pieces.push(Piece::Own { end }),
        }
    }

    /// Appends a copy of `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.write(|own| own.extend_from_slice(bytes));
    }

    /// Appends a reference to shared bytes.
    pub fn share(&mut self, bytes: &SharedBytes) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.pieces.push(Piece::Shared(bytes.clone()));
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The stretches in order.
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut own_from = 0;
        self.pieces.iter().map(move |piece| match piece {
            Piece::Own { end } => &self.own[std::mem::replace(&mut own_from, *end)..*end],
            Piece::Shared(bytes) => bytes,
        })
    }

    /// Takes out what is behind the first `skip` bytes as shared bytes, each with how many of them to skip; leaves
    /// nothing behind.
    pub fn take_rest(&mut self, mut skip: usize) -> Vec<(SharedBytes, usize)> {
        let mut rest = Vec::new();
        let mut own_from = 0;
        for piece in self.pieces.drain(..) {
            let (bytes, offset) = match piece {
                Piece::Own { end } => {
                    let own = &self.own[std::mem::replace(&mut own_from, end)..end];
                    let sent = skip.min(own.len());
                    skip -= sent;
                    (SharedBytes::from(&own[sent..]), 0)
                }
                Piece::Shared(bytes) => {
                    let sent = skip.min(bytes.len());
                    skip -= sent;
                    (bytes, sent)
                }
            };
            if offset < bytes.len() {
                rest.push((bytes, offset));
            }
        }
        self.clear();
        rest
    }

    pub fn clear(&mut self) {
        self.own.clear();
        self.own.shrink_to(OWN_BYTES_KEPT_MAX);
        self.pieces.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing() -> Outgoing {
        let mut out = Outgoing::default();
        out.push(b"ab");
        out.push(b"c");
        out.share(&SharedBytes::from(*b"DEF"));
        out.share(&SharedBytes::from(*b""));
        out.write(|_| ());
        out.share(&SharedBytes::from(*b"G"));
        out.push(b"hi");
        out
    }

    #[test]
    fn pieces_keep_their_order_and_own_neighbours_merge() {
        let out = outgoing();
        assert_eq!(
            out.slices().collect::<Vec<_>>(),
            [&b"abc"[..], b"DEF", b"G", b"hi"]
        );
        assert_eq!(out.bytes(), 9);
    }

    #[test]
    fn the_rest_after_any_partial_write_is_what_was_not_sent() {
        let whole = b"abcDEFGhi";
        for sent in 0..=whole.len() {
            let mut out = outgoing();
            let rest: Vec<u8> = out
                .take_rest(sent)
                .iter()
                .flat_map(|(bytes, offset)| bytes[*offset..].to_vec())
                .collect();
            assert_eq!(rest, &whole[sent..], "after {sent}");
            assert!(out.is_empty() && out.slices().len() == 0);
        }
    }
}
