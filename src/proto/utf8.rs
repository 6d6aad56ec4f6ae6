//! UTF-8 that arrives in pieces: each piece is checked once, and the first byte that cannot continue any
//! character is refused at once, without waiting for the end of its character (RFC 6455 §8.1 with the
//! fail-fast reading of the Autobahn suite).

/// The text is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utf8Error;

/// Checks a text piece by piece. Between pieces it holds at most the first three bytes of one character.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Validator {
    /// `carry[..carry_bytes]` begins a character that the bytes so far neither complete nor rule out.
    carry: [u8; 3],
    carry_bytes: u8,
}

impl Utf8Validator {
    /// Takes the next piece. After an error the validator is of no further use.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Utf8Error> {
        let taken = self.complete_carry(piece)?;
        let rest = &piece[taken..];
        let Err(error) = str::from_utf8(rest) else {
            return Ok(());
        };
        // `error_len` is `None` only if the input ends inside a character that is possible so far.
        if error.error_len().is_some() {
            return Err(Utf8Error);
        }
        let begun = &rest[error.valid_up_to()..];
        self.carry[..begun.len()].copy_from_slice(begun);
        self.carry_bytes = begun.len() as u8;
        Ok(())
    }

    /// The text ends here; an incomplete character is an error.
    pub fn finish(&self) -> Result<(), Utf8Error> {
        if self.carry_bytes == 0 {
            Ok(())
        } else {
            Err(Utf8Error)
        }
    }

    /// Adds bytes to the character begun in an earlier piece until it is complete; returns how many it took.
    fn complete_carry(&mut self, piece: &[u8]) -> Result<usize, Utf8Error> {
        let mut taken = 0;
        while self.carry_bytes > 0 && taken < piece.len() {
            let held = usize::from(self.carry_bytes);
            let mut character = [0; 4];
            character[..held].copy_from_slice(&self.carry[..held]);
            character[held] = piece[taken];
            taken += 1;
            match str::from_utf8(&character[..=held]) {
                Ok(_) => self.carry_bytes = 0,
                Err(error) if error.error_len().is_some() => return Err(Utf8Error),
                // Four bytes are a character or an error, so an incomplete one has room in the carry.
                Err(_) => {
                    self.carry[held] = piece[taken - 1];
                    self.carry_bytes += 1;
                }
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// One byte of every class that UTF-8 tells apart, and the bounds of each.
    const CLASSES: [u8; 24] = [
        0x00, 0x61, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1,
        0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF,
    ];

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Verdict {
        Text,
        Incomplete,
        RefusedAt(usize),
    }

    /// The naive twin: knows every beginning of every character by heart and looks at the whole text.
    struct Naive {
        beginnings: HashSet<Vec<u8>>,
    }

    impl Naive {
        fn new() -> Self {
            let mut beginnings = HashSet::new();
            // The last six bits are in the last byte, which is in no beginning.
            for character in (0..=0x0010_FFFF).step_by(64).filter_map(char::from_u32) {
                let mut bytes = [0; 4];
                let encoded = character.encode_utf8(&mut bytes).as_bytes();
                for end in 1..encoded.len() {
                    beginnings.insert(encoded[..end].to_vec());
                }
            }
            Self { beginnings }
        }

        fn verdict(&self, text: &[u8]) -> Verdict {
            let mut start = 0;
            let mut end = 0;
            while end < text.len() {
                end += 1;
                if str::from_utf8(&text[start..end]).is_ok() {
                    start = end;
                } else if !self.beginnings.contains(&text[start..end]) {
                    return Verdict::RefusedAt(end - 1);
                }
            }
            if start == end {
                Verdict::Text
            } else {
                Verdict::Incomplete
            }
        }
    }

    fn verdict_of_pieces(pieces: &[&[u8]]) -> (Verdict, usize) {
        let mut validator = Utf8Validator::default();
        let mut fed = 0;
        for piece in pieces {
            if validator.feed(piece).is_err() {
                return (Verdict::RefusedAt(fed), fed + piece.len());
            }
            fed += piece.len();
        }
        let is_complete = validator.finish().is_ok();
        (
            if is_complete {
                Verdict::Text
            } else {
                Verdict::Incomplete
            },
            fed,
        )
    }

    fn check(naive: &Naive, text: &[u8]) {
        let expected = naive.verdict(text);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(
            verdict_of_pieces(&bytes).0,
            expected,
            "{text:02X?} byte by byte"
        );
        for split in 0..=text.len() {
            let (left, right) = text.split_at(split);
            let (verdict, fed) = verdict_of_pieces(&[left, right]);
            match (expected, verdict) {
                // It fails in the piece that holds the first impossible byte, neither sooner nor later.
                (Verdict::RefusedAt(wanted), Verdict::RefusedAt(piece)) => {
                    assert!((piece..fed).contains(&wanted), "{text:02X?} at {split}");
                }
                _ => assert_eq!(verdict, expected, "{text:02X?} at {split}"),
            }
        }
    }

    #[test]
    fn every_string_of_one_and_two_bytes_agrees_with_the_naive_twin() {
        let naive = Naive::new();
        check(&naive, b"");
        for first in 0..=255 {
            check(&naive, &[first]);
            for second in 0..=255 {
                check(&naive, &[first, second]);
            }
        }
    }

    #[test]
    fn strings_of_three_and_four_bytes_agree_with_the_naive_twin() {
        let naive = Naive::new();
        for lead in 0..=255 {
            for second in CLASSES {
                for third in CLASSES {
                    check(&naive, &[lead, second, third]);
                }
            }
        }
        for lead in CLASSES {
            for second in CLASSES {
                for third in CLASSES {
                    for fourth in [0x61, 0x80, 0xBF, 0xC0, 0xF0] {
                        check(&naive, &[lead, second, third, fourth]);
                    }
                }
            }
        }
    }

    #[test]
    fn every_character_passes_byte_by_byte() {
        for character in '\0'..=char::MAX {
            let mut bytes = [0; 4];
            let pieces: Vec<&[u8]> = character
                .encode_utf8(&mut bytes)
                .as_bytes()
                .chunks(1)
                .collect();
            assert_eq!(verdict_of_pieces(&pieces).0, Verdict::Text, "{character:?}");
        }
    }

    #[test]
    fn random_text_in_random_pieces_agrees_with_the_naive_twin() {
        let naive = Naive::new();
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..300 {
            let mut text: Vec<u8> = (0..random.usize(0..40))
                .map(|_| random.char(..))
                .collect::<String>()
                .into();
            if random.bool() && !text.is_empty() {
                let at = random.usize(0..text.len());
                text[at] = random.u8(..);
            }
            check(&naive, &text);
        }
    }
}
