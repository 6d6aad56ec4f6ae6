//! One program for all targets; `PUSHRING_TEST_TARGET` says which one.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static CHECK: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("PUSHRING_TEST_TARGET").expect("PUSHRING_TEST_TARGET names a target");
    let target = targets::TARGETS.iter().find(|target| target.name == name);
    target.expect("a target of tests/fuzz/targets").check
});

fuzz_target!(|input: &[u8]| CHECK(input));
