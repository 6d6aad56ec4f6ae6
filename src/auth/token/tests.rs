//! Every algorithm with a real key, and every way to be no good token.

use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::*;
use crate::config::auth::TokenAlgorithm::{
    self, EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Rs256, Rs384, Rs512,
};
use crate::hub::message::ChannelName;

const SECRET: &[u8] = &[7; 64];
const RSA: &[u8] = include_bytes!("../testdata/rsa2048.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../testdata/rsa2048.pub.pem");
const P256: &[u8] = include_bytes!("../testdata/p256.pem");
const P256_PUBLIC: &[u8] = include_bytes!("../testdata/p256.pub.pem");
const P384: &[u8] = include_bytes!("../testdata/p384.pem");
const P384_PUBLIC: &[u8] = include_bytes!("../testdata/p384.pub.pem");
const ED25519: &[u8] = include_bytes!("../testdata/ed25519.pem");
const ED25519_PUBLIC: &[u8] = include_bytes!("../testdata/ed25519.pub.pem");

const NOW_S: u64 = 1_700_000_000;

fn public_key(kid: &str, algorithm: TokenAlgorithm) -> TokenKey {
    let pem = match algorithm {
        Rs256 | Rs384 | Rs512 | Ps256 => RSA_PUBLIC,
        Es256 => P256_PUBLIC,
        Es384 => P384_PUBLIC,
        EdDsa => ED25519_PUBLIC,
        _ => return TokenKey::from_secret(kid, algorithm, SECRET).unwrap(),
    };
    TokenKey::from_pem(kid, algorithm, pem).unwrap()
}

fn private_key(algorithm: Algorithm) -> EncodingKey {
    use Algorithm::{ES256, ES384, EdDSA, PS256, RS256, RS384, RS512};
    match algorithm {
        RS256 | RS384 | RS512 | PS256 => EncodingKey::from_rsa_pem(RSA).unwrap(),
        ES256 => EncodingKey::from_ec_pem(P256).unwrap(),
        ES384 => EncodingKey::from_ec_pem(P384).unwrap(),
        EdDSA => EncodingKey::from_ed_pem(ED25519).unwrap(),
        _ => EncodingKey::from_secret(SECRET),
    }
}

/// A token of this header and these claims, with the signature of `key`.
fn sign(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(header), part(claims));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// Signed with HS256 and the secret that `keys` has under the name `main`.
fn signed(claims: &Value) -> String {
    let header = r#"{"alg":"HS256","kid":"main"}"#;
    sign(
        header,
        &claims.to_string(),
        &private_key(Algorithm::HS256),
        Algorithm::HS256,
    )
}

fn keys() -> KeySet {
    KeySet::new(vec![public_key("main", Hs256), public_key("rsa", Rs256)])
}

fn rules() -> Rules {
    Rules::new(&Auth {
        token_leeway_ms: 5_000,
        ..Auth::default()
    })
}

#[track_caller]
fn check(token: &str, want: Option<TokenError>) {
    let found = verify(token, &keys(), &rules(), NOW_S * 1000);
    assert_eq!(found.err(), want, "{token}");
}

#[test]
fn every_algorithm_verifies_with_its_key_and_with_no_other() {
    let all = [
        (Hs256, Algorithm::HS256),
        (Hs384, Algorithm::HS384),
        (Hs512, Algorithm::HS512),
        (Rs256, Algorithm::RS256),
        (Rs384, Algorithm::RS384),
        (Rs512, Algorithm::RS512),
        (Ps256, Algorithm::PS256),
        (Es256, Algorithm::ES256),
        (Es384, Algorithm::ES384),
        (EdDsa, Algorithm::EdDSA),
    ];
    assert_eq!(all.len(), TokenAlgorithm::ALL.len());
    let keys = all.map(|(algorithm, _)| public_key(algorithm.word(), algorithm));
    let keys = KeySet::new(keys.into());
    let claims = json!({ "sub": "u", "exp": NOW_S + 1 }).to_string();
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for (algorithm, library) in all {
        let word = algorithm.word();
        let message = |alg: &str, kid: &str| {
            let header = json!({ "typ": "JWT", "alg": alg, "kid": kid });
            let header = match kid {
                "" => json!({ "alg": alg }),
                _ => header,
            };
            format!("{}.{}", part(&header.to_string()), part(&claims))
        };
        let verified = |token: &str| {
            let grant = verify(token, &keys, &rules(), NOW_S * 1000);
            grant.map(|grant| grant.user.unwrap().to_string())
        };
        for kid in [word, ""] {
            let message = message(word, kid);
            let signature =
                crypto::sign(message.as_bytes(), &private_key(library), library).unwrap();
            let token = format!("{message}.{signature}");
            assert_eq!(verified(&token).as_deref(), Ok("u"), "{word} of {kid:?}");
            // A signature over something else.
            let (front, back) = token.split_at(message.len() + 9);
            let bit = if back.starts_with('A') { "B" } else { "A" };
            let token = format!("{front}{bit}{}", &back[1..]);
            assert_eq!(verified(&token), Err(TokenError::BadSignature), "{word}");
        }
        // The header lies about the algorithm, or names a key of another one: no signature is even looked at.
        for (other, _) in all.into_iter().filter(|(other, _)| *other != algorithm) {
            let other = other.word();
            for token in [message(other, word), message(word, other)] {
                let denied = Err(TokenError::AlgorithmDenied);
                assert_eq!(
                    verified(&format!("{token}.AAAA")),
                    denied,
                    "{word} and {other}"
                );
            }
        }
    }
}

#[test]
fn tokens_of_another_library_are_good() {
    let keys = TokenAlgorithm::ALL
        .iter()
        .map(|&algorithm| public_key(algorithm.word(), algorithm));
    let keys = KeySet::new(keys.collect());
    let tokens = include_str!("../testdata/tokens.txt").lines();
    let subjects = tokens.filter(|line| !line.starts_with('#')).map(|token| {
        let grant = verify(token, &keys, &rules(), NOW_S * 1000).unwrap();
        assert!(grant.subscribe.contains("chat:1"));
        grant.user.unwrap().to_string()
    });
    assert_eq!(subjects.collect::<Vec<_>>(), TokenAlgorithm::WORDS);
}

#[test]
fn a_public_key_is_no_secret() {
    // The classic: the text of the public key, known to all, as the secret of an HMAC.
    let forged = EncodingKey::from_secret(RSA_PUBLIC);
    let claims = json!({ "exp": NOW_S + 1 }).to_string();
    for (kid, want) in [
        (r#","kid":"rsa""#, TokenError::AlgorithmDenied),
        (r#","kid":"main""#, TokenError::BadSignature),
        ("", TokenError::BadSignature),
    ] {
        let header = format!(r#"{{"alg":"HS256"{kid}}}"#);
        check(
            &sign(&header, &claims, &forged, Algorithm::HS256),
            Some(want),
        );
    }
}

#[test]
fn none_and_other_strange_algorithms_are_denied() {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = part(&json!({ "exp": NOW_S + 1 }).to_string());
    for alg in ["none", "None", "NONE", "", "hs256", "HS256 ", "RS1"] {
        for (kid, want) in [
            (r#","kid":"main""#, TokenError::AlgorithmDenied),
            ("", TokenError::UnknownKey),
        ] {
            let header = part(&format!(r#"{{"alg":"{alg}"{kid}}}"#));
            check(&format!("{header}.{claims}."), Some(want));
        }
    }
    let stripped = signed(&json!({ "exp": NOW_S + 1 }));
    let (message, _) = stripped.rsplit_once('.').unwrap();
    check(&format!("{message}."), Some(TokenError::BadSignature));
}

#[test]
fn what_is_no_token_is_malformed() {
    let good = signed(&json!({ "exp": NOW_S + 1 }));
    check(&good, None);
    let [header, claims, signature] = *good.split('.').collect::<Vec<_>>() else {
        panic!("three parts")
    };
    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        format!("{header}.{claims}"),
        format!("{good}."),
        format!("{good}.x"),
        format!(" {good}"),
        format!("{good}="),
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{claims}.{signature}\n"),
        format!("{header}.{claims}.{}+/", &signature[2..]),
    ] {
        check(&token, Some(TokenError::Malformed));
    }
    let long = format!("{header}.{}.{signature}", "A".repeat(TOKEN_BYTES_MAX));
    check(&long, Some(TokenError::TooLong));
    let hs256 = private_key(Algorithm::HS256);
    for header in [
        r#"["HS256"]"#,
        "{}",
        r#"{"alg":1}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"HS256","kid":1}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        "\u{feff}{}",
    ] {
        let token = sign(
            header,
            &json!({ "exp": NOW_S + 1 }).to_string(),
            &hs256,
            Algorithm::HS256,
        );
        check(&token, Some(TokenError::Malformed));
    }
}

#[test]
fn every_changed_bit_is_noticed() {
    let good = signed(&json!({ "exp": NOW_S + 1, "sub": "user" }));
    for at in 0..good.len() {
        for bit in 0..7 {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let changed = String::from_utf8(bytes).unwrap();
            let found = verify(&changed, &keys(), &rules(), NOW_S * 1000);
            assert!(found.is_err(), "{changed}");
        }
    }
    for end in 0..good.len() {
        assert!(
            verify(&good[..end], &keys(), &rules(), NOW_S * 1000).is_err(),
            "{end}"
        );
    }
}

#[test]
fn claims_are_of_their_types() {
    for claims in [
        json!({ "exp": (NOW_S + 1).to_string() }),
        json!({ "exp": -1 }),
        json!({ "exp": null, "nbf": "x" }),
        json!({ "exp": NOW_S + 1, "sub": 5 }),
        json!({ "exp": NOW_S + 1, "subscribe": "news" }),
        json!({ "exp": NOW_S + 1, "publish": [1] }),
        json!({ "exp": NOW_S + 1, "channels": ["a b"] }),
        json!({ "exp": NOW_S + 1, "channels": [""] }),
        json!({ "exp": NOW_S + 1, "channels": ["chat:*"] }),
        json!({ "exp": NOW_S + 1, "channels": ["a", "a"] }),
        json!([NOW_S + 1]),
    ] {
        check(&signed(&claims), Some(TokenError::Malformed));
    }
    let twice = format!(r#"{{"exp":{},"exp":{}}}"#, NOW_S - 9, NOW_S + 9);
    let header = r#"{"alg":"HS256","kid":"main"}"#;
    let token = sign(
        header,
        &twice,
        &private_key(Algorithm::HS256),
        Algorithm::HS256,
    );
    check(&token, Some(TokenError::Malformed));
}

#[test]
fn a_key_is_found_by_its_name_or_by_its_algorithm() {
    let claims = json!({ "exp": NOW_S + 1 }).to_string();
    let hs256 = private_key(Algorithm::HS256);
    let with = |header: &str, key: &EncodingKey| sign(header, &claims, key, Algorithm::HS256);
    check(&with(r#"{"alg":"HS256"}"#, &hs256), None);
    check(
        &with(r#"{"alg":"HS256","kid":"other"}"#, &hs256),
        Some(TokenError::UnknownKey),
    );
    check(
        &with(r#"{"alg":"HS256","kid":""}"#, &hs256),
        Some(TokenError::UnknownKey),
    );
    check(
        &with(r#"{"alg":"HS384"}"#, &hs256),
        Some(TokenError::UnknownKey),
    );
    let other = EncodingKey::from_secret(&[8; 64]);
    check(
        &with(r#"{"alg":"HS256","kid":"main"}"#, &other),
        Some(TokenError::BadSignature),
    );

    let key = |n: u8| TokenKey::from_secret(&n.to_string(), Hs256, &[n; 32]).unwrap();
    let signed_by = |n: u8, kid: &str| {
        with(
            &format!(r#"{{"alg":"HS256"{kid}}}"#),
            &EncodingKey::from_secret(&[n; 32]),
        )
    };
    let several = |n: u8| KeySet::new((1..=n).map(key).collect());
    let verified = |token: &str, keys: &KeySet| verify(token, keys, &rules(), NOW_S * 1000).err();
    // Two keys while they are rotated: both are good, also without a name.
    for n in [1, 2] {
        assert_eq!(verified(&signed_by(n, ""), &several(2)), None);
        assert_eq!(
            verified(&signed_by(n, &format!(r#","kid":"{n}""#)), &several(2)),
            None
        );
    }
    assert_eq!(
        verified(&signed_by(2, r#","kid":"1""#), &several(2)),
        Some(TokenError::BadSignature)
    );
    assert_eq!(verified(&signed_by(8, ""), &several(8)), None);
    assert_eq!(
        verified(&signed_by(8, ""), &several(9)),
        Some(TokenError::UnknownKey)
    );
}

#[test]
fn times_are_held_to_the_millisecond_with_the_leeway() {
    let at =
        |claims: Value, unix_ms: u64| verify(&signed(&claims), &keys(), &rules(), unix_ms).err();
    let exp = json!({ "exp": NOW_S });
    assert_eq!(at(exp.clone(), NOW_S * 1000 + 4_999), None);
    assert_eq!(at(exp, NOW_S * 1000 + 5_000), Some(TokenError::Expired));
    let nbf = json!({ "exp": NOW_S + 99, "nbf": NOW_S });
    assert_eq!(at(nbf.clone(), NOW_S * 1000 - 5_000), None);
    assert_eq!(at(nbf, NOW_S * 1000 - 5_001), Some(TokenError::NotYetValid));
    let fraction = json!({ "exp": NOW_S as f64 + 0.5 });
    assert_eq!(at(fraction.clone(), NOW_S * 1000 + 5_499), None);
    assert_eq!(
        at(fraction, NOW_S * 1000 + 5_500),
        Some(TokenError::Expired)
    );
    assert_eq!(at(json!({ "exp": 1e300 }), u64::MAX - 1), None);
    assert_eq!(
        at(json!({ "exp": 0 }), NOW_S * 1000),
        Some(TokenError::Expired)
    );
    assert_eq!(at(json!({}), NOW_S * 1000), Some(TokenError::ExpMissing));
}

#[test]
fn the_rules_are_settings() {
    let with = |auth: Auth, claims: Value| {
        verify(&signed(&claims), &keys(), &Rules::new(&auth), NOW_S * 1000).err()
    };
    let open = || Auth {
        token_exp_required: false,
        ..Auth::default()
    };
    let audience = || Auth {
        token_audience: Some("push".to_owned()),
        ..open()
    };
    let issuer = || Auth {
        token_issuer: Some("us".to_owned()),
        ..open()
    };
    assert_eq!(with(open(), json!({ "aud": "any", "iss": "any" })), None);
    assert_eq!(with(audience(), json!({ "aud": "push" })), None);
    assert_eq!(with(audience(), json!({ "aud": ["a", "push"] })), None);
    for claims in [
        json!({}),
        json!({ "aud": "Push" }),
        json!({ "aud": [] }),
        json!({ "aud": ["a"] }),
    ] {
        assert_eq!(with(audience(), claims), Some(TokenError::AudienceDenied));
    }
    assert_eq!(
        with(audience(), json!({ "aud": 1 })),
        Some(TokenError::Malformed)
    );
    assert_eq!(with(issuer(), json!({ "iss": "us" })), None);
    for claims in [json!({}), json!({ "iss": "them" })] {
        assert_eq!(with(issuer(), claims), Some(TokenError::IssuerDenied));
    }
}

#[test]
fn a_token_grants_what_it_lists() {
    let claims = json!({
        "sub": "u\u{e4}\n1", "exp": NOW_S + 1, "subscribe": ["news", "chat:*"], "publish": ["chat:1"],
        "channels": ["user:1", "news"], "other": { "nested": [1] },
    });
    let grant = verify(&signed(&claims), &keys(), &rules(), NOW_S * 1000).unwrap();
    assert_eq!(grant.user.as_deref(), Some("u\u{e4}\n1"));
    assert_eq!(grant.expires_unix_ms, Some((NOW_S + 1) * 1000));
    let name = |name: &str| ChannelName::parse(name).unwrap();
    for (channel, subscribe, publish) in [
        ("news", true, false),
        ("chat:1", true, true),
        ("chat:2", true, false),
        ("user:1", true, false),
        ("user:2", false, false),
    ] {
        assert_eq!(
            grant.lists_for_subscribe(&name(channel)),
            subscribe,
            "{channel}"
        );
        assert_eq!(
            grant.lists_for_publish(&name(channel)),
            publish,
            "{channel}"
        );
    }
    assert_eq!(*grant.channels, [name("user:1"), name("news")]);
}
