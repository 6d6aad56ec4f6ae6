//! Log lines go to stderr through a bounded queue and a thread of its own.
//!
//! A shard must never wait for whoever reads stderr: when the queue is full, lines are dropped and counted.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// Lines that wait for stderr. At some 200 bytes a line this bounds the queue at about 3 MB.
const QUEUED_LINES_MAX: usize = 16 * 1024;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Makes `tracing` write to stderr until the process ends. Queued lines are written when the guard is dropped.
///
/// Once per process: later calls change nothing.
pub fn start(format: LogFormat, level: LogLevel) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES_MAX)
        .thread_name("log")
        .finish(io::stderr());
    let dropped = writer.error_counter();
    let lines = fmt::layer()
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let (filter, handle) = reload::Layer::new(filter(level));
    let registry = tracing_subscriber::registry().with(filter);
    let is_first = match format {
        LogFormat::Text => registry.with(lines).try_init().is_ok(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            registry.with(lines).try_init().is_ok()
        }
    };
    if is_first {
        let _ = DROPPED.set(dropped);
        let _ = LEVEL.set(handle);
    }
    guard
}

/// From now on, lines less urgent than `level` are not written.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        // Fails only for a subscriber that is gone, and this one stays until the process ends.
        let _ = handle.reload(filter(level));
    }
}

/// Lines lost because stderr was too slow, for the metrics.
pub fn dropped_lines() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
}

/// Lines of libraries are written down to `info` only: the finer ones show the bytes that they carry, with all the
/// credentials in them.
fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_target("pushring", level)
}

/// Lets a line of one kind be written once in a while; what it is about is counted each time.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineLimit {
    next_ms: u64,
}

impl LineLimit {
    /// `true` when it is time for another line, which counts as written.
    pub fn is_due(&mut self, now_ms: u64, interval_ms: u64) -> bool {
        let is_due = now_ms >= self.next_ms;
        if is_due {
            self.next_ms = now_ms + interval_ms;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_interval() {
        let mut limit = LineLimit::default();
        for (now_ms, want) in [
            (0, true),
            (0, false),
            (9, false),
            (10, true),
            (19, false),
            (35, true),
            (44, false),
        ] {
            assert_eq!(limit.is_due(now_ms, 10), want, "at {now_ms} ms");
        }
    }
}
