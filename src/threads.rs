//! Threads and tasks whose panic ends the process.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use futures_util::FutureExt;

/// Starts a thread whose panic aborts the process: what it held is in doubt, and others would wait for its answers for
/// ever. The supervisor's restart is better than that.
pub fn spawn_or_abort<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new()
        .name(name.into())
        .spawn(|| catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| abort()))
}

/// The same for a task of a runtime, which would keep the panic to itself.
pub async fn or_abort<T>(task: impl Future<Output = T>) -> T {
    let result = AssertUnwindSafe(task).catch_unwind().await;
    result.unwrap_or_else(|_| abort())
}

/// Says why to standard error: the lines of the log wait for a thread of their own, which gets no time any more.
pub fn abort_because(reason: &str) -> ! {
    let _ = writeln!(io::stderr(), "pushring: {reason}, the process aborts");
    std::process::abort();
}

fn abort() -> ! {
    let thread = thread::current();
    let name = thread.name().unwrap_or_default();
    abort_because(&format!(
        "a bug in the thread {name} (please report the lines above)"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const SIGABRT: i32 = 6;
    /// Set in the process that is to abort.
    const CASE: &str = "PUSHRING_TEST_PANICS_IN";

    #[test]
    fn a_panic_in_a_thread_or_a_task_aborts_the_process() {
        match env::var(CASE).as_deref() {
            Ok("thread") => {
                let thread = spawn_or_abort("broker", || panic!("planted"));
                return drop(thread.unwrap().join());
            }
            Ok("task") => {
                let runtime = tokio::runtime::Builder::new_current_thread().build();
                let serve = async { tokio::spawn(or_abort(async { panic!("planted") })).await };
                let thread = spawn_or_abort("broker", || runtime.unwrap().block_on(serve));
                return drop(thread.unwrap().join());
            }
            _ => {}
        }
        let test = "threads::tests::a_panic_in_a_thread_or_a_task_aborts_the_process";
        for case in ["thread", "task"] {
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["--exact", test, "--nocapture"]);
            let output = command.env(CASE, case).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(SIGABRT), "{case}: {said}");
            for part in ["planted", "a bug in the thread broker"] {
                assert!(said.contains(part), "{case}: {said}");
            }
        }
    }

    #[test]
    fn a_thread_ends_with_its_result() {
        let thread = spawn_or_abort("quiet", || 7).unwrap();
        assert_eq!(thread.join().ok(), Some(7));
    }
}
