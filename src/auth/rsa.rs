//! What the library sees of an RSA key at each verification only, where no token would be good: how large the modulus
//! is, and whether the numbers can be a key at all.

use std::ops::RangeInclusive;

use jsonwebtoken::{DecodingKey, DecodingKeyKind};

use crate::auth::key::KeyError;

/// From RFC 7518 §3.3 to the most that the library takes.
const MODULUS_BITS: RangeInclusive<usize> = 2048..=4096;
/// The most that the library takes.
const EXPONENT_BITS_MAX: usize = 33;

pub(super) fn check(key: &DecodingKey) -> Result<(), KeyError> {
    let numbers = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => Some((&**n, &**e)),
        DecodingKeyKind::SecretOrDer(der) => numbers_of(der),
    };
    let (modulus, exponent) = numbers.ok_or(KeyError::PublicKeyInvalid)?;
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    match n_bits(modulus) {
        bits if bits < *MODULUS_BITS.start() => Err(KeyError::RsaTooShort),
        bits if bits > *MODULUS_BITS.end() => Err(KeyError::RsaTooLong),
        _ if !is_odd(modulus) || !is_odd(exponent) => Err(KeyError::PublicKeyInvalid),
        _ if !(2..=EXPONENT_BITS_MAX).contains(&n_bits(exponent)) => {
            Err(KeyError::PublicKeyInvalid)
        }
        _ => Ok(()),
    }
}

/// Of a number in big-endian order, which may have zeros in front.
fn n_bits(number: &[u8]) -> usize {
    match number.iter().position(|&byte| byte != 0) {
        Some(zeros) => 8 * (number.len() - zeros) - number[zeros].leading_zeros() as usize,
        None => 0,
    }
}

/// Modulus and exponent of an RSAPublicKey (RFC 8017 §A.1.1).
fn numbers_of(der: &[u8]) -> Option<(&[u8], &[u8])> {
    const INTEGER: u8 = 0x02;
    const SEQUENCE: u8 = 0x30;
    let (numbers, behind) = element(SEQUENCE, der)?;
    let (modulus, rest) = element(INTEGER, numbers)?;
    let (exponent, rest) = element(INTEGER, rest)?;
    (behind.is_empty() && rest.is_empty()).then_some((modulus, exponent))
}

/// The contents of the element in front (X.690 §8.1), and what is behind it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[first_tag, first_length], rest) = der.split_first_chunk()?;
    let (length, rest) = match first_length {
        0..=0x7F => (usize::from(first_length), rest),
        // So many bytes of length; a key has no use for more.
        0x81 | 0x82 => {
            let (length, rest) = rest.split_at_checked(usize::from(first_length - 0x80))?;
            let add = |length: usize, byte: &u8| length << 8 | usize::from(*byte);
            (length.iter().fold(0, add), rest)
        }
        _ => return None,
    };
    (first_tag == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An odd one of so many bits, behind so many zeros.
    fn modulus(zeros: usize, bits: usize) -> Vec<u8> {
        let mut number = vec![0; bits.div_ceil(8)];
        number[0] = 1 << ((bits - 1) % 8);
        *number.last_mut().unwrap() |= 1;
        [vec![0; zeros], number].concat()
    }

    fn encode(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = contents.len() as u16;
        let [high, low] = length.to_be_bytes();
        let front = match length {
            0..=0x7F => vec![tag, low],
            0x80..=0xFF => vec![tag, 0x81, low],
            _ => vec![tag, 0x82, high, low],
        };
        [front, contents.to_vec()].concat()
    }

    /// As components, and in DER.
    #[track_caller]
    fn check_both(modulus: &[u8], exponent: &[u8], want: Result<(), KeyError>) {
        let components = DecodingKey::from_rsa_raw_components(modulus, exponent);
        assert_eq!(check(&components), want);
        let numbers = [encode(2, modulus), encode(2, exponent)].concat();
        let der = encode(0x30, &numbers);
        assert_eq!(check(&DecodingKey::from_rsa_der(&der)), want);
        for end in 0..der.len() {
            let cut = DecodingKey::from_rsa_der(&der[..end]);
            assert_eq!(check(&cut), Err(KeyError::PublicKeyInvalid));
        }
    }

    #[test]
    fn a_modulus_is_as_long_as_its_number() {
        for (zeros, bits, want) in [
            (0, 2048, Ok(())),
            (1, 2048, Ok(())),
            (1, 4096, Ok(())),
            (0, 2047, Err(KeyError::RsaTooShort)),
            (0, 1024, Err(KeyError::RsaTooShort)),
            (200, 1024, Err(KeyError::RsaTooShort)),
            (0, 4097, Err(KeyError::RsaTooLong)),
            (0, 8192, Err(KeyError::RsaTooLong)),
        ] {
            check_both(&modulus(zeros, bits), &[1, 0, 1], want);
        }
        check_both(&[], &[1, 0, 1], Err(KeyError::RsaTooShort));
    }

    #[test]
    fn numbers_that_are_no_key_are_refused() {
        let invalid = Err(KeyError::PublicKeyInvalid);
        let mut even = modulus(0, 2048);
        *even.last_mut().unwrap() = 2;
        check_both(&even, &[3], invalid);
        let modulus = modulus(0, 2048);
        for (exponent, want) in [
            (&[3][..], Ok(())),
            (&[0, 0, 3], Ok(())),
            (&[1, 0xFF, 0xFF, 0xFF, 0xFF], Ok(())),
            (&[3, 0xFF, 0xFF, 0xFF, 0xFF], invalid),
            (&[1, 0, 0], invalid),
            (&[1], invalid),
            (&[0], invalid),
            (&[], invalid),
        ] {
            check_both(&modulus, exponent, want);
        }
        // A private key begins with its version.
        let numbers = [encode(2, &[0]), encode(2, &modulus), encode(2, &[3])].concat();
        let private = DecodingKey::from_rsa_der(&encode(0x30, &numbers));
        assert_eq!(check(&private), invalid);
    }
}
