//! Cases, each a fast path and mostly its naive twin, and what one step of them costs.
//!
//! Instructions are counted by Callgrind, in a child process that runs this same program: they are the same on every
//! run and on a busy machine. Nanoseconds are the least of many short rounds, in which the twins take turns.

use std::fmt::Debug;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Steps of each side that are counted: what happens once in a while (a table grows) is spread over them.
const COUNTED_STEPS: u64 = 1000;
/// One round of one side is about this long: too short to lose the core in many of them.
const ROUND: Duration = Duration::from_micros(500);
const ROUNDS: usize = 60;
/// Callgrind counts within this function only, and writes a file whenever it ends.
const COUNTED: &str = "micro::harness::counted";

/// One way of doing it: runs that many steps.
struct Side(Box<dyn FnMut(u64)>);

impl Side {
    fn new<T>(mut step: impl FnMut() -> T + 'static) -> Self {
        Self(Box::new(move |steps| {
            for _ in 0..steps {
                black_box(step());
            }
        }))
    }
}

/// Not generic, since Callgrind knows it by its name.
#[inline(never)]
fn counted(side: &mut Side) {
    (side.0)(COUNTED_STEPS);
}

/// What is measured: one step is one operation, such as a header or a publish.
pub(crate) struct Case {
    name: &'static str,
    fast: Side,
    naive: Option<Side>,
}

impl Case {
    /// A fast path beside its naive twin, which have to give the same here. Inputs go through `black_box`, or the
    /// compiler computes the result beforehand.
    pub(crate) fn pair<T: PartialEq + Debug>(
        name: &'static str,
        mut fast: impl FnMut() -> T + 'static,
        mut naive: impl FnMut() -> T + 'static,
    ) -> Self {
        assert_eq!(fast(), naive(), "{name}: the twins disagree");
        Self {
            name,
            fast: Side::new(fast),
            naive: Some(Side::new(naive)),
        }
    }

    /// A stage that has nothing to be compared with.
    pub(crate) fn alone<T>(name: &'static str, step: impl FnMut() -> T + 'static) -> Self {
        Self {
            name,
            fast: Side::new(step),
            naive: None,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// One step of each side.
    pub(crate) fn run_once(&mut self) {
        for side in self.sides() {
            (side.0)(1);
        }
    }

    fn sides(&mut self) -> impl Iterator<Item = &mut Side> {
        [Some(&mut self.fast), self.naive.as_mut()]
            .into_iter()
            .flatten()
    }

    /// Nanoseconds of a step, by side.
    fn nanoseconds(&mut self) -> Vec<f64> {
        let steps: Vec<u64> = self.sides().map(steps_of_a_round).collect();
        let mut least = vec![f64::INFINITY; steps.len()];
        for _ in 0..ROUNDS {
            for ((side, &steps), least) in self.sides().zip(&steps).zip(&mut least) {
                let began = Instant::now();
                (side.0)(steps);
                *least = least.min(began.elapsed().as_nanos() as f64 / steps as f64);
            }
        }
        least
    }
}

fn steps_of_a_round(side: &mut Side) -> u64 {
    let mut steps = 1;
    loop {
        let began = Instant::now();
        (side.0)(steps);
        let took = began.elapsed();
        if took >= ROUND / 4 {
            let wanted = steps as f64 * ROUND.as_secs_f64() / took.as_secs_f64();
            return (wanted as u64).max(1);
        }
        steps *= 2;
    }
}

/// What the child does under Callgrind: the counted steps of each side, in order.
pub(crate) fn run_counted(cases: &mut [Case]) {
    for case in cases {
        for side in case.sides() {
            (side.0)(1);
            counted(side);
        }
    }
}

/// Instructions of a step, by side and in the order of the cases; `None` without valgrind. `arguments` make this
/// program call [`run_counted`] with the same cases.
fn count_instructions(arguments: &[String], scratch: &Path) -> Option<Vec<f64>> {
    let program = std::env::current_exe().expect("a program knows its path");
    let out = scratch.join("callgrind");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--dump-after={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .ok()?;
    assert!(status.success(), "the run under valgrind failed");
    let counts = (1..).map_while(|part| {
        let path = format!("{}.{part}", out.display());
        let text = std::fs::read_to_string(path).ok()?;
        text.contains("desc: Trigger: --dump-after=")
            .then(|| instructions(&text))
    });
    Some(
        counts
            .map(|count| count as f64 / COUNTED_STEPS as f64)
            .collect(),
    )
}

/// The sum that a file of Callgrind gives for all it holds.
fn instructions(text: &str) -> u64 {
    let sum = text.lines().find_map(|line| line.strip_prefix("totals: "));
    sum.and_then(|sum| sum.trim().parse().ok())
        .expect("callgrind writes totals")
}

/// Measures all cases and prints the table.
pub(crate) fn measure(cases: &mut [Case], arguments: &[String]) {
    let scratch = std::env::temp_dir().join(format!("pushring-micro-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).expect("a directory for callgrind's files");
    let counts = count_instructions(arguments, &scratch);
    std::fs::remove_dir_all(&scratch).expect("callgrind's files can be removed");
    match &counts {
        Some(counts) => {
            let n_sides: usize = cases.iter_mut().map(|case| case.sides().count()).sum();
            assert_eq!(counts.len(), n_sides, "each side is counted once");
        }
        None => eprintln!("valgrind is not here: no instructions are counted"),
    }
    let mut counts = counts.unwrap_or_default().into_iter();

    println!("{:34} {:>30}   {:>30}", "", "instructions", "nanoseconds");
    println!(
        "{:34} {:>10} {:>10} {:>8}   {:>10} {:>10} {:>8}",
        "one step", "fast", "naive", "ratio", "fast", "naive", "ratio"
    );
    for case in cases {
        let nanoseconds = case.nanoseconds();
        let instructions: Vec<f64> = counts.by_ref().take(nanoseconds.len()).collect();
        let row = [columns(&instructions), columns(&nanoseconds)].join("   ");
        println!("{:34} {}", case.name, row.trim_end());
    }
}

/// The fast path, its twin, and how many times the fast path goes into it.
fn columns(sides: &[f64]) -> String {
    match *sides {
        [fast, naive] => format!("{} {} {:>7.1}x", figure(fast), figure(naive), naive / fast),
        [alone] => format!("{} {:>10} {:>8}", figure(alone), "", ""),
        _ => format!("{:30}", ""),
    }
}

fn figure(value: f64) -> String {
    if value < 100.0 {
        format!("{value:>10.1}")
    } else {
        format!("{value:>10.0}")
    }
}
