//! Random damage: nothing panics, and what is still accepted has the framing that the most literal reading finds.

use super::super::*;
use super::LIMITS;
use super::every_way::{expand, refused};

#[test]
fn no_mutation_panics_or_is_read_two_ways() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut corpus: Vec<Vec<u8>> = refused().map(|(_, _, _, request)| request).collect();
    corpus.extend(
        [
            "{POST}Content-Length: 5{END}",
            "{POST}Transfer-Encoding: chunked{END}",
            "{GET}Cookie: a{END}",
        ]
        .map(expand),
    );
    let n_accepted = (0..20_000)
        .filter(|_| {
            let mut request = corpus[random.usize(..corpus.len())].clone();
            for _ in 0..random.usize(..3) {
                mutate(&mut request, &corpus, &mut random);
            }
            let mut progress = HeadProgress::default();
            let whole = decode_head(&request, &mut progress, &LIMITS);
            let split = random.usize(..=request.len());
            let mut progress = HeadProgress::default();
            let first = decode_head(&request[..split], &mut progress, &LIMITS);
            match first {
                Ok(None) => assert_eq!(
                    decode_head(&request, &mut progress, &LIMITS),
                    whole,
                    "split at {split}"
                ),
                first => assert_eq!(first, whole, "prefix of {split}"),
            }
            let Ok(Some((head, head_bytes))) = whole else {
                return false;
            };
            assert_eq!(
                naive_framing(&request[..head_bytes]),
                Some(head.body),
                "{}",
                request.escape_ascii()
            );
            true
        })
        .count();
    assert!(n_accepted > 0, "the mutator only makes garbage");
}

fn mutate(request: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut fastrand::Rng) {
    let at = random.usize(..=request.len());
    match random.u8(..5) {
        0 => request.truncate(at),
        1 => request.insert(at, *random.choice(b"\r\n\t\0 :,;5\xffaA/").unwrap_or(&b' ')),
        2 if at < request.len() => drop(request.remove(at)),
        3 if at < request.len() => request[at] = random.u8(..),
        _ => {
            let other = &corpus[random.usize(..corpus.len())];
            let from = random.usize(..=other.len());
            request.splice(at..at, other[from..].iter().copied());
        }
    }
}

/// The twin of the decoder for heads that it accepts: how the most literal reading finds the body.
fn naive_framing(head: &[u8]) -> Option<BodyFraming> {
    let text: String = head.iter().map(|&byte| byte as char).collect();
    let lines: Vec<&str> = text
        .trim_start_matches("\r\n")
        .strip_suffix("\r\n\r\n")?
        .split("\r\n")
        .collect();
    if lines.iter().any(|line| {
        line.is_empty() || line.contains(['\r', '\n', '\0']) || line.starts_with([' ', '\t'])
    }) {
        return None;
    }
    let mut framing = BodyFraming::None;
    for line in &lines[1..] {
        let (name, value) = line.split_once(':')?;
        let value = value.trim_matches([' ', '\t']);
        let found = match name.to_lowercase().as_str() {
            "content-length" => BodyFraming::Length(value.parse().ok()?),
            "transfer-encoding" if value.to_lowercase() == "chunked" => BodyFraming::Chunked,
            "transfer-encoding" => return None,
            _ => continue,
        };
        if framing != BodyFraming::None {
            return None;
        }
        framing = found;
    }
    Some(framing)
}

#[test]
fn counting_by_blocks_agrees_with_counting_by_bytes() {
    for class in [REQUEST_LINE_BYTE, FIELD_BYTE] {
        for byte in 0..=255u8 {
            for at in 0..50 {
                let mut bytes = [b'x'; 50];
                bytes[at] = byte;
                let naive = bytes
                    .iter()
                    .take_while(|&&byte| BYTE_CLASS[byte as usize] & class != 0);
                assert_eq!(
                    count_front(&bytes, class),
                    naive.count(),
                    "{byte:#x} at {at}"
                );
            }
        }
    }
}
