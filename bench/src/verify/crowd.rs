//! The threads with the clients: who listens where, and when all are at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::client::Client;
use super::judge::Findings;
use super::ledger::Ledger;
use super::nodes::Nodes;
use super::options::Verify;
use super::worker::{self, Tally, Worker};
use crate::fleet::worker_count;
use crate::options::Options;

/// Every so many clients one listens on three channels.
const SEVERAL_EVERY: u32 = 5;
/// For clients to come to the end, from the last message on.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// For what comes although nothing should.
const AFTERMATH: Duration = Duration::from_millis(700);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The threads with the clients.
pub(super) struct Crowd {
    pub(super) shared: Arc<worker::Shared>,
    threads: Vec<JoinHandle<std::io::Result<Tally>>>,
}

impl Crowd {
    pub(super) fn start(
        options: &Options,
        verify: &Verify,
        seed: u64,
        (ledger, findings): (&Arc<Ledger>, &Arc<Findings>),
        nodes: &Nodes,
    ) -> Result<Self, String> {
        let connections = options.connections();
        let workers = worker_count(connections, options.load.workers, 1)?;
        let shared = Arc::new(worker::Shared {
            ledger: Arc::clone(ledger),
            findings: Arc::clone(findings),
            seed,
            targets: nodes.targets(),
            frames_can_be_counted: !verify.no_raw_frames,
            life: Duration::from_secs_f64(verify.life),
            ease: verify.ease,
            is_calm: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            deliveries: AtomicU64::new(0),
            behind: (0..workers).map(|_| AtomicU64::new(u64::MAX)).collect(),
        });
        let mut rng = Rng::with_seed(seed);
        let mut shares: Vec<Vec<Client>> = (0..workers).map(|_| Vec::new()).collect();
        for number in 0..connections {
            let channels = choose_channels(&mut rng, number, options.load.channels as u16);
            shares[(number % workers) as usize].push(Client::new(number, channels));
        }
        let threads = shares.into_iter().enumerate().map(|(index, clients)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || Worker::run(index, shared, clients))
        });
        Ok(Self {
            threads: threads.collect(),
            shared,
        })
    }

    /// Leaves them alone until all are at the end, or the time is over.
    pub(super) fn finish(self) -> Result<Vec<Tally>, String> {
        self.shared.is_calm.store(true, Ordering::Release);
        let end = Instant::now() + CATCH_UP_TIMEOUT;
        let is_behind = || {
            let mut behind = self.shared.behind.iter();
            behind.any(|behind| behind.load(Ordering::Acquire) > 0)
        };
        while is_behind() && Instant::now() < end {
            thread::sleep(LOOK_AGAIN);
        }
        thread::sleep(AFTERMATH);
        self.shared.is_over.store(true, Ordering::Release);
        let tallies = self.threads.into_iter().map(|thread| {
            let tally = thread.join().expect("a worker panicked");
            tally.map_err(|error| error.to_string())
        });
        tallies.collect()
    }
}

fn choose_channels(rng: &mut Rng, number: u32, count: u16) -> Vec<u16> {
    let first = (number % u32::from(count)) as u16;
    if count < 3 || !number.is_multiple_of(SEVERAL_EVERY) {
        return vec![first];
    }
    let second = (first + rng.u16(1..count)) % count;
    let third = (0..count).find(|channel| ![first, second].contains(channel));
    vec![first, second, third.expect("there are three")]
}
