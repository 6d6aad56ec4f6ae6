//! `fairness`: what a message to very many costs everybody else. Polls of a channel of their own are timed on a fixed
//! schedule, before, during and after each broadcast.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::Run;
use super::delivery::Rounds;
use crate::fleet::hold;
use crate::kernel::now_ns;
use crate::options::Fairness;
use crate::publisher::HttpConnection;
use crate::report::Report;
use crate::tally::Tally;

pub(super) fn run(mut run: Run, fairness: &Fairness) -> Result<Report, String> {
    let connections = run.options.connections();
    run.admit(connections)?;
    let mut publisher = run.publisher()?;
    let prober = Prober::start(&run, fairness)?;
    hold(1.0, "quiet");

    let mut begin = run.begin_stretch()?;
    let (mut rounds, mut broadcasts, mut owed) = (Rounds::default(), Vec::new(), 0);
    for _ in 0..fairness.broadcast.messages {
        run.take_tally();
        let begin_ns = publisher.publish(0)?;
        for channel in 1..run.fleet.plan.channels {
            publisher.publish(channel)?;
        }
        owed += u64::from(connections);
        let whole = run.fleet.wait_messages(owed);
        broadcasts.push(begin_ns..now_ns());
        rounds.push(&mut run);
        if !whole {
            break;
        }
        hold(fairness.broadcast.pause, "pause");
        begin.idle_s += fairness.broadcast.pause;
    }
    run.end_stretch("broadcast", &begin, owed, "delivery")?;

    let (mut during_us, mut quiet_us) = (Tally::default().latency_us, Tally::default().latency_us);
    let polls = prober.stop()?;
    for poll in &polls {
        // A poll that was due before the broadcast and answered in it has waited for it, too.
        let overlaps = broadcasts
            .iter()
            .any(|time| poll.intended_ns < time.end && poll.answered_ns > time.start);
        let latency_us: &mut Histogram<u64> = if overlaps {
            &mut during_us
        } else {
            &mut quiet_us
        };
        latency_us.saturating_record((poll.answered_ns - poll.intended_ns) / 1000);
    }
    run.report
        .figure("polls during broadcasts", during_us.len() as f64, "");
    run.report.latency("poll during a broadcast", &during_us);
    run.report.latency("poll in quiet time", &quiet_us);
    rounds.report(&mut run.report, u64::from(connections));
    let refused = polls
        .iter()
        .filter(|poll| !matches!(poll.status, 200 | 204 | 304))
        .count();
    run.report.check("refused polls", 0, refused as u64);
    if let Some(limit_ms) = fairness.poll_p99_ms_max {
        let p99_us = during_us.value_at_quantile(0.99);
        run.report.check_at_most(
            "p99 of polls during broadcasts, us",
            (limit_ms * 1000.0) as u64,
            p99_us,
        );
    }
    run.check_deliveries_on_both_sides(
        u64::from(fairness.broadcast.messages) * u64::from(connections),
    )?;
    Ok(run.finish())
}

struct Poll {
    intended_ns: u64,
    answered_ns: u64,
    status: u16,
}

/// One thread per connection, each polling on a schedule of its own, so that a poll that waits holds back no other.
struct Prober {
    threads: Vec<JoinHandle<Result<Vec<Poll>, String>>>,
    is_over: Arc<AtomicBool>,
}

impl Prober {
    fn start(run: &Run, fairness: &Fairness) -> Result<Self, String> {
        let target = run.options.server.target;
        let connections = fairness.poll_connections;
        let interval_ns = (1e9 / fairness.poll_rate) as u64;
        let begin_ns = now_ns();
        let is_over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for number in 0..connections {
            let path = fairness.poll_path.replace("{i}", &number.to_string());
            let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n");
            let mut connection = HttpConnection::connect(target)?;
            let until = Arc::clone(&is_over);
            let mut intended_ns = begin_ns + interval_ns * u64::from(number);
            threads.push(thread::spawn(move || {
                // The clients that receive the broadcast compete with this thread for the same cores. Priority, where
                // it is allowed, keeps their queue out of the figure (on Linux setpriority(2) is for the thread).
                let _ = rustix::process::setpriority_process(None, -20);
                let mut polls = Vec::new();
                while !until.load(Ordering::Relaxed) {
                    intended_ns += interval_ns * u64::from(connections);
                    thread::sleep(Duration::from_nanos(intended_ns.saturating_sub(now_ns())));
                    let status = connection.exchange(request.as_bytes())?;
                    polls.push(Poll {
                        intended_ns,
                        answered_ns: now_ns(),
                        status,
                    });
                }
                Ok(polls)
            }));
        }
        Ok(Self { threads, is_over })
    }

    fn stop(self) -> Result<Vec<Poll>, String> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut polls = Vec::new();
        for thread in self.threads {
            polls.extend(thread.join().map_err(|_| "a prober panicked")??);
        }
        Ok(polls)
    }
}
