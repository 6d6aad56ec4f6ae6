//! One question at a time, whoever asks it; what is known; and what there is no room for.

use std::sync::Arc;

use super::*;
use crate::api::callback::{About, Denial, Permit};
use crate::api::credentials::Credentials;
use crate::hub::message::ChannelName;

const QUEUE_MAX: usize = 2;

fn consultation(channel: &str) -> Consultation {
    Consultation {
        about: About::Channels,
        url: "http://a/".into(),
        credentials: Arc::default(),
        channels: vec![ChannelName::parse(channel).unwrap()],
        transport: "poll",
        user: None,
    }
}

fn call(channel: &str, now_ms: u64) -> Call {
    Call::new(consultation(channel), None, &Callback::default(), now_ms)
}

fn allowed(until_ms: Option<u64>) -> Decision {
    Decision::Allowed(Permit::of(None, until_ms))
}

#[track_caller]
fn check(table: &mut Table<u32>, channel: &str, waiter: u32, now_ms: u64, want: Option<Decision>) {
    let found = table.ask(call(channel, now_ms), waiter, QUEUE_MAX, now_ms);
    assert_eq!(found, want, "{channel} {waiter} {now_ms}");
}

/// Makes the next call, and gives those who waited for it.
#[track_caller]
fn finish(table: &mut Table<u32>, decision: &Decision, ttl_ms: u64, now_ms: u64) -> Vec<u32> {
    let call = table.take().expect("a call");
    table.finish(&call, decision, ttl_ms, 1, now_ms)
}

#[test]
fn who_asks_the_same_waits_for_the_one_answer() {
    let mut table = Table::new(9);
    check(&mut table, "a", 1, 0, None);
    check(&mut table, "a", 2, 0, None);
    let taken = table.take().unwrap();
    assert_eq!((table.counts().in_flight, table.counts().waiting), (1, 0));
    check(&mut table, "a", 3, 1, None);
    assert!(table.take().is_none(), "one call");
    assert_eq!(table.finish(&taken, &allowed(None), 10, 1, 5), [1, 2, 3]);
    check(&mut table, "a", 4, 14, Some(allowed(None)));
    check(&mut table, "a", 5, 15, None);
    let counts = table.counts();
    assert_eq!((counts.joined_total, counts.cache_hits_total), (2, 1));
    assert_eq!((counts.calls_total, counts.in_flight), ([1, 0, 0], 0));
}

#[test]
fn beyond_the_queue_nothing_is_asked() {
    let mut table = Table::new(9);
    check(&mut table, "a", 1, 0, None);
    check(&mut table, "b", 2, 0, None);
    check(&mut table, "c", 3, 0, Some(Decision::Busy));
    check(&mut table, "b", 4, 0, None);
    assert_eq!(finish(&mut table, &allowed(None), 0, 0), [1]);
    check(&mut table, "c", 5, 0, None);
    assert_eq!(finish(&mut table, &allowed(None), 0, 0), [2, 4]);
    assert_eq!(table.counts().busy_total, 1);
}

#[test]
fn a_call_that_was_not_made_counts_for_all_who_waited() {
    let mut table = Table::new(9);
    check(&mut table, "a", 1, 0, None);
    check(&mut table, "a", 2, 0, None);
    assert_eq!(finish(&mut table, &Decision::Busy, 0, 0), [1, 2]);
    let counts = table.counts();
    assert_eq!((counts.busy_total, counts.calls_total), (2, [0; 3]));
    assert_eq!(counts.in_flight, 0);
    check(&mut table, "a", 3, 0, None);
}

#[test]
fn an_answer_is_known_for_as_long_as_it_is_good() {
    let denied = Decision::Denied(Denial::Forbidden);
    // (the answer, how long it may be kept; the last moment at which it is known)
    for (decision, ttl_ms, last_ms) in [
        (allowed(None), 10, Some(109)),
        (allowed(None), 0, None),
        (allowed(Some(103)), 10, Some(102)),
        (allowed(Some(100)), 10, None),
        (denied, 10, Some(109)),
        (Decision::Down, 10, None),
    ] {
        let mut table = Table::new(9);
        check(&mut table, "a", 1, 100, None);
        finish(&mut table, &decision, ttl_ms, 100);
        if let Some(last_ms) = last_ms {
            check(&mut table, "a", 2, last_ms, Some(decision.clone()));
        }
        check(&mut table, "a", 3, last_ms.map_or(100, |ms| ms + 1), None);
    }
}

#[test]
fn the_oldest_answers_are_forgotten_first() {
    for (known_max, kept) in [(0, 0), (1, 1), (3, 3)] {
        let mut table = Table::new(known_max);
        for n in 0..5 {
            check(&mut table, &format!("c{n}"), 0, 0, None);
            finish(&mut table, &allowed(None), 100, 0);
        }
        assert_eq!(table.known.len(), (kept, kept));
        for n in 5 - kept..5 {
            check(&mut table, &format!("c{n}"), 0, 0, Some(allowed(None)));
        }
    }
    // What is over makes room, and is forgotten with the next that comes.
    let mut table = Table::new(9);
    for (channel, now_ms) in [("a", 0), ("b", 0), ("c", 10)] {
        check(&mut table, channel, 0, now_ms, None);
        finish(&mut table, &allowed(None), 10, now_ms);
    }
    assert_eq!(table.known.len(), (1, 1));
}

#[test]
fn two_questions_are_the_same_if_the_backend_is_told_the_same() {
    let digest = |change: fn(&mut Consultation), address: Option<&str>| {
        let mut consultation = consultation("a");
        change(&mut consultation);
        let address = address.map(|address| address.parse().unwrap());
        Call::new(consultation, address, &Callback::default(), 0).digest
    };
    let with = |fields: &[(&str, &str)]| {
        let consultation = Consultation {
            credentials: Arc::new(Credentials::of(fields)),
            ..consultation("a")
        };
        Call::new(consultation, None, &Callback::default(), 0).digest
    };
    let all = [
        digest(|_| {}, None),
        digest(|_| {}, Some("192.0.2.1")),
        digest(|_| {}, Some("192.0.2.2")),
        digest(|consultation| consultation.url = "http://b/".into(), None),
        digest(|consultation| consultation.about = About::Caller, None),
        digest(|consultation| consultation.transport = "sse", None),
        digest(|consultation| consultation.user = Some("u".into()), None),
        with(&[("Authorization", "ab")]),
        with(&[("Cookie", "ab")]),
        with(&[("Authorization", "a"), ("Cookie", "b")]),
        with(&[("Authorization", "aCookie"), ("b", "")]),
        with(&[("Authorization", "")]),
    ];
    for (place, one) in all.iter().enumerate() {
        for other in &all[place + 1..] {
            assert_ne!(one, other, "{place}");
        }
    }
    assert_eq!(all[0], with(&[]));
}
