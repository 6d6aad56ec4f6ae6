//! Numbers as text without the formatting machinery: every answer and every message has a few of them.

/// Digits of the largest `u64`.
const DIGITS_MAX: usize = 20;

/// A number in decimal digits.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    digits: [u8; DIGITS_MAX],
    start: u8,
}

impl Decimal {
    pub fn new(mut number: u64) -> Self {
        let mut digits = [0; DIGITS_MAX];
        let mut start = DIGITS_MAX;
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self {
                    digits,
                    start: start as u8,
                };
            }
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[usize::from(self.start)..]
    }
}

/// Appends `number`.
pub fn push(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(Decimal::new(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_reads_as_the_standard_library_writes_it() {
        let powers = (0..=19).map(|exponent| 10u64.pow(exponent));
        for number in powers
            .flat_map(|power| [power - 1, power, power + 1])
            .chain([u64::MAX])
        {
            assert_eq!(
                Decimal::new(number).as_bytes(),
                number.to_string().as_bytes()
            );
        }
    }
}
