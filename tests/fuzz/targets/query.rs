//! Paths, queries and the numbers in them: what is decoded is what a naive reading decodes, and comes back when it is
//! encoded; no parameter leaves its limits.

use pushring::api::listen::{PollParameters, parse_channels};
use pushring::config::Config;
use pushring::proto::query;

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    for in_query in [false, true] {
        let decoded = query::decode_component(text, in_query).ok();
        assert_eq!(
            decoded.as_deref(),
            naive_component(text, in_query).as_deref()
        );
        let encoded: String = input.iter().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(
            query::decode_component(&encoded, in_query).as_deref(),
            Ok(text)
        );
    }
    let n_pairs = text.split('&').filter(|pair| !pair.is_empty()).count();
    assert_eq!(query::pairs(text).count(), n_pairs);

    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = query::parse_number(text).ok();
    assert_eq!(number.is_some(), is_number);
    if let (Some(number), Ok(naive)) = (number, text.parse::<u128>()) {
        assert_eq!(u128::from(number), naive.min(u128::from(u64::MAX)));
    }
    if let Ok(ms) = query::parse_seconds_ms(text) {
        let naive: f64 = text.parse().expect("seconds are a decimal number");
        let is_near = (ms as f64 - naive * 1000.0).abs() <= 1.0 + naive * 1e-9;
        assert!(is_near || ms == u64::MAX, "{text} is {ms} ms");
    }

    let config = Config::default();
    if let Ok(parameters) = PollParameters::parse(text, &config) {
        assert!(parameters.wait_ms <= config.timing.poll_wait_max_ms);
        assert!((1..=config.limits.poll_limit_max).contains(&parameters.limit));
    }
    if let Ok(names) = parse_channels(text, &config) {
        assert!((1..=config.limits.channels_per_connection_max).contains(&names.len()));
        let joined: Vec<String> = names.iter().map(|name| encode(name.as_str())).collect();
        assert_eq!(parse_channels(&joined.join(","), &config).ok(), Some(names));
    }
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn naive_component(text: &str, in_query: bool) -> Option<String> {
    let text = if in_query {
        text.replace('+', " ")
    } else {
        text.to_owned()
    };
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}
