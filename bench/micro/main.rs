//! Micro benchmarks: each fast path of the server beside a naive twin of it, in instructions and in nanoseconds.
//!
//! ```text
//! cargo bench --package pushring-bench --bench micro [-- PART…]    # measures the cases whose name has a PART
//! cargo test --package pushring-bench --bench micro                # measures nothing: do the twins agree?
//! ```

mod cases;
mod harness;

use cases::Group;

/// How this program is told that it runs under Callgrind.
const COUNTED_OPTION: &str = "--counted";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |option: &str| arguments.iter().any(|argument| argument == option);
    let parts: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part));

    let measures = has("--bench") || has(COUNTED_OPTION);
    if !measures {
        cases::GROUPS.iter().for_each(check);
        return;
    }
    let mut cases: Vec<_> = cases::GROUPS
        .iter()
        .flat_map(|group| (group.cases)())
        .filter(|case| is_wanted(case.name()))
        .collect();
    if has(COUNTED_OPTION) {
        return harness::run_counted(&mut cases);
    }
    let mut child_arguments = vec![COUNTED_OPTION.to_owned()];
    child_arguments.extend(parts.into_iter().map(str::to_owned));
    harness::measure(&mut cases, &child_arguments);
}

/// The twins agree on random input, and each case runs.
fn check(group: &Group) {
    let seed = fastrand::u64(..);
    println!("micro benchmark {}: seed {seed}", group.name);
    (group.agree)(&mut fastrand::Rng::with_seed(seed));
    for mut case in (group.cases)() {
        case.run_once();
    }
}
