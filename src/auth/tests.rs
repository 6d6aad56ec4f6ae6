//! The verifier of a shard: what it remembers, and when it asks for other keys.

use super::*;

const CLOCK: Clock = Clock {
    now_ms: 1_000,
    unix_ms: 1_700_000_000_000,
};

fn later(ms: u64) -> Clock {
    Clock {
        now_ms: CLOCK.now_ms + ms,
        unix_ms: CLOCK.unix_ms + ms,
    }
}

/// Ends in `lifetime_s` after [`CLOCK`].
fn token(kid: &str, byte: u8, lifetime_s: u64) -> String {
    let exp = CLOCK.unix_ms / 1000 + lifetime_s;
    sample::token(kid, byte, &serde_json::json!({ "exp": exp }))
}

fn keys(keys: &[(&str, u8)]) -> Arc<[TokenKey]> {
    let keys = keys.iter().map(|&(kid, byte)| sample::key(kid, byte));
    keys.collect()
}

fn authenticator(jwks: bool) -> Authenticator {
    one_of_shards(1, Config::default().auth.token_cache_max, jwks)
}

fn one_of_shards(n_shards: usize, token_cache_max: usize, jwks: bool) -> Authenticator {
    let mut config = Config::default();
    config.auth.token_cache_max = token_cache_max;
    let known = KeySet {
        configured: keys(&[("a", 1)]),
        ..KeySet::default()
    };
    config.auth.jwks = jwks.then(|| "keys.json".to_owned());
    config.auth.token_leeway_ms = 5_000;
    config.auth.token_expiry_grace_ms = 10_000;
    config.auth.jwks_refetch_interval_ms = 10_000;
    Authenticator::new(&config, known, Arc::default(), n_shards)
}

/// `Some(_)`: refused; the label says how it went otherwise.
#[track_caller]
fn check(
    auth: &mut Authenticator,
    token: &str,
    clock: Clock,
    want: (Effort, Result<&str, TokenError>),
) {
    let (effort, found) = auth.verify(token, true, clock);
    let label = found.map(|verified| match verified {
        Verified::Session(_) => "good",
        Verified::KeyMissing => "waits",
    });
    assert_eq!((effort, label), want);
}

#[test]
fn a_token_is_verified_once_and_good_until_its_end() {
    use Effort::{Cached, Verified};
    let mut auth = authenticator(false);
    let token = token("a", 1, 60);
    check(&mut auth, &token, CLOCK, (Verified, Ok("good")));
    check(&mut auth, &token, later(60_000), (Cached, Ok("good")));
    check(&mut auth, &token, later(64_999), (Cached, Ok("good")));
    check(
        &mut auth,
        &token,
        later(65_000),
        (Cached, Err(TokenError::Expired)),
    );
    check(
        &mut auth,
        &token,
        later(65_000),
        (Verified, Err(TokenError::Expired)),
    );
    // A clock that was set back: nothing is remembered of its end.
    check(&mut auth, &token, CLOCK, (Verified, Ok("good")));
}

#[test]
fn a_small_cache_leaves_each_shard_a_token() {
    use Effort::{Cached, Verified};
    let token = token("a", 1, 60);
    for (token_cache_max, again) in [(0, Verified), (1, Cached), (3, Cached), (4, Cached)] {
        let mut auth = one_of_shards(4, token_cache_max, false);
        check(&mut auth, &token, CLOCK, (Verified, Ok("good")));
        check(&mut auth, &token, CLOCK, (again, Ok("good")));
    }
}

#[test]
fn a_connection_outlives_its_token_by_the_grace() {
    let mut auth = authenticator(false);
    let (_, Ok(Verified::Session(session))) = auth.verify(&token("a", 1, 60), true, later(1))
    else {
        panic!("good")
    };
    let (_, Ok(Verified::Session(endless))) = auth.verify(
        &sample::token("a", 1, &serde_json::json!({ "exp": 1e300 })),
        true,
        later(1),
    ) else {
        panic!("good")
    };
    assert!(!endless.has_ended(u64::MAX / 2));
    assert_eq!(session.expires_ms, Some(CLOCK.now_ms + 65_000), "leeway");
    assert_eq!(session.ends_ms, Some(CLOCK.now_ms + 70_000));
    assert!(!session.has_ended(CLOCK.now_ms + 69_999) && session.has_ended(CLOCK.now_ms + 70_000));
}

#[test]
fn an_unknown_key_is_worth_one_fetch_in_a_while() {
    use Effort::{Cached, Verified};
    let mut auth = authenticator(true);
    let new = token("b", 2, 600);
    check(&mut auth, &new, CLOCK, (Verified, Ok("waits")));
    assert!(auth.on_waiting(CLOCK.now_ms), "the first one fetches");
    check(&mut auth, &new, later(1), (Verified, Ok("waits")));
    assert!(
        !auth.on_waiting(CLOCK.now_ms + 1),
        "the second one waits with it"
    );
    auth.on_fetched(keys(&[("b", 2)]));
    check(&mut auth, &new, later(2), (Verified, Ok("good")));
    check(&mut auth, &new, later(2), (Cached, Ok("good")));
    let unknown = token("c", 3, 600);
    check(
        &mut auth,
        &unknown,
        later(9_999),
        (Verified, Err(TokenError::UnknownKey)),
    );
    check(&mut auth, &unknown, later(10_000), (Verified, Ok("waits")));
    // A signature that is wrong is no reason to look for keys, and who has waited does not wait again.
    check(
        &mut auth,
        &token("a", 3, 600),
        later(10_000),
        (Verified, Err(TokenError::BadSignature)),
    );
    assert!(matches!(
        auth.verify(&unknown, false, later(10_000)),
        (_, Err(TokenError::UnknownKey))
    ));
    // Without a set of the issuer there is nothing to fetch.
    check(
        &mut authenticator(false),
        &unknown,
        CLOCK,
        (Verified, Err(TokenError::UnknownKey)),
    );
}

#[test]
fn no_more_than_so_many_wait() {
    let mut auth = authenticator(true);
    let unknown = token("c", 3, 600);
    for n in 0..WAITING_FOR_KEYS_MAX {
        check(&mut auth, &unknown, CLOCK, (Effort::Verified, Ok("waits")));
        assert_eq!(auth.on_waiting(CLOCK.now_ms), n == 0);
    }
    check(
        &mut auth,
        &unknown,
        CLOCK,
        (Effort::Verified, Err(TokenError::UnknownKey)),
    );
}

#[test]
fn what_was_verified_with_a_key_that_is_gone_is_forgotten() {
    use Effort::{Cached, Verified};
    let mut auth = authenticator(true);
    let old = token("b", 2, 600);
    auth.on_fetched(keys(&[("b", 2)]));
    check(&mut auth, &old, CLOCK, (Verified, Ok("good")));
    let same = auth.keys.issued.clone();
    auth.on_fetched(same);
    check(&mut auth, &old, CLOCK, (Cached, Ok("good")));
    auth.fetched_ms = Some(CLOCK.now_ms);
    auth.on_fetched(keys(&[("c", 3)]));
    check(
        &mut auth,
        &old,
        CLOCK,
        (Verified, Err(TokenError::UnknownKey)),
    );
}

#[test]
fn a_reload_takes_keys_and_rules_as_they_are_now() {
    use Effort::Verified;
    let mut auth = authenticator(false);
    let [old, new, issued] =
        [("a", 1), ("b", 2), ("c", 3)].map(|(kid, byte)| token(kid, byte, 600));
    auth.on_fetched(keys(&[("c", 3)]));
    for token in [&old, &issued] {
        check(&mut auth, token, CLOCK, (Verified, Ok("good")));
    }
    let config = Config::default();
    let unknown = Err(TokenError::UnknownKey);
    auth.reload(&config, keys(&[("b", 2)]), Arc::default(), 1);
    check(&mut auth, &old, CLOCK, (Verified, unknown));
    check(&mut auth, &new, CLOCK, (Verified, Ok("good")));
    check(&mut auth, &issued, CLOCK, (Verified, Ok("good")));
    // The same name for another key.
    auth.reload(&config, keys(&[("b", 9)]), Arc::default(), 1);
    check(
        &mut auth,
        &new,
        CLOCK,
        (Verified, Err(TokenError::BadSignature)),
    );
    let mut config = Config::default();
    config.auth.token_audience = Some("push".to_owned());
    auth.reload(&config, keys(&[("b", 2)]), Arc::default(), 1);
    check(
        &mut auth,
        &new,
        CLOCK,
        (Verified, Err(TokenError::AudienceDenied)),
    );
}
