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
