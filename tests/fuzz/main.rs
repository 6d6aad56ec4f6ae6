//! The fuzz targets on a stable toolchain and in seconds: their corpora, and a number of random mutations of these.
//!
//! `PUSHRING_TEST_SEED` repeats a run, `PUSHRING_TEST_ROUNDS` makes it longer. `scripts/fuzz` runs the same targets
//! under libFuzzer, which is led by what the code does; what it finds becomes a line of a corpus.

mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use targets::TARGETS;

/// Mutations of each target.
const ROUNDS: usize = 3000;
const INPUT_BYTES_MAX: usize = 1024;

#[test]
fn every_property_holds_for_the_corpora_and_for_mutations_of_them() {
    let variable = |name| std::env::var(name).ok().map(|it| it.parse().expect(name));
    let seed = variable("PUSHRING_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = variable("PUSHRING_TEST_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    println!("PUSHRING_TEST_SEED={seed}");
    for target in TARGETS {
        let mut rng = Rng::with_seed(seed);
        let corpus = corpus(target.corpus);
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        for input in &corpus {
            run(target, input);
        }
        for _ in 0..rounds {
            let mut input = rng.choice(&corpus).unwrap().clone();
            for _ in 0..rng.usize(1..5) {
                mutate(&mut input, &corpus, &mut rng);
            }
            input.truncate(INPUT_BYTES_MAX);
            run(target, &input);
        }
    }
}

#[track_caller]
fn run(target: &targets::Target, input: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    assert!(
        outcome.is_ok(),
        "{}: the line for tests/fuzz/corpus/{}.txt is\n{}",
        target.name,
        target.name,
        input.escape_ascii()
    );
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.usize(..=input.len());
    let upto = (at + rng.usize(..16)).min(input.len());
    match rng.u8(..6) {
        0 => input.truncate(at),
        1 => input.insert(at, *rng.choice(b"\r\n\t\0 :,;=-\"\\%&5fx\xff").unwrap()),
        2 => drop(input.drain(at..upto)),
        3 if at < input.len() => input[at] = rng.u8(..),
        4 => input.extend_from_within(at..upto),
        _ => {
            let other = rng.choice(corpus).unwrap();
            let from = rng.usize(..=other.len());
            let upto = (from + rng.usize(..32)).min(other.len());
            input.splice(at..at, other[from..upto].iter().copied());
        }
    }
}

/// One input a line, written as [`slice::escape_ascii`] does.
fn corpus(text: &str) -> Vec<Vec<u8>> {
    let inputs: Vec<_> = text.lines().map(unescape).collect();
    for (input, line) in inputs.iter().zip(text.lines()) {
        assert_eq!(
            input.escape_ascii().to_string(),
            line,
            "one way to write it"
        );
    }
    inputs
}

fn unescape(line: &str) -> Vec<u8> {
    let mut rest = line.bytes();
    let mut bytes = Vec::new();
    while let Some(byte) = rest.next() {
        let escape = if byte == b'\\' { rest.next() } else { None };
        bytes.push(match escape {
            None => byte,
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'x') => {
                let mut digit = || (rest.next().unwrap() as char).to_digit(16).expect(line) as u8;
                digit() << 4 | digit()
            }
            Some(other) => other,
        });
    }
    bytes
}
