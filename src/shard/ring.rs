//! The ring that a shard's sockets wait on, and the only unsafe code of the server.
//!
//! It knows one operation, the one-shot poll: an idle socket costs 256 bytes of kernel memory that way, against 864
//! and a buffer for an armed receive, and `shutdown` completes it, so that ending a connection costs the same
//! however many others there are. (A multishot poll saves the re-arming, but it survives `shutdown`, and taking it
//! back walks a hash chain that grows with the number of connections.)

#![allow(unsafe_code, reason = "submitting to io_uring, and unshare")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::PollFlags;
use rustix::io::Errno;

/// Submissions gathered before they must be handed over.
const SUBMISSIONS: u32 = 1024;
/// Completions that can wait to be reaped. The kernel keeps what is over, at the price of an allocation; it is counted.
const COMPLETIONS: u32 = 8192;
/// `IORING_ENTER_GETEVENTS`: without it a ring with deferred task work starves.
const ENTER_GETEVENTS: u32 = 1;

/// The polls of one thread. It must be used by the thread that made it.
pub struct Ring {
    ring: IoUring,
    overflows: u32,
}

impl Ring {
    /// A ring that signals `wake` when a poll has come home, unless [`mute`](Self::mute) is on.
    pub fn new(wake: impl AsFd) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        ring.submitter()
            .register_eventfd(wake.as_fd().as_raw_fd())?;
        Ok(Self { ring, overflows: 0 })
    }

    /// Comes home when `fd` can be read, or is at its end.
    pub fn poll_readable(&mut self, fd: impl AsFd, user_data: u64) -> io::Result<()> {
        self.poll(fd, PollFlags::IN | PollFlags::RDHUP, user_data)
    }

    /// Comes home when `fd` can be written, or is at its end.
    pub fn poll_writable(&mut self, fd: impl AsFd, user_data: u64) -> io::Result<()> {
        self.poll(fd, PollFlags::OUT, user_data)
    }

    fn poll(&mut self, fd: impl AsFd, flags: PollFlags, user_data: u64) -> io::Result<()> {
        let fd = types::Fd(fd.as_fd().as_raw_fd());
        let entry = opcode::PollAdd::new(fd, u32::from(flags.bits()))
            .build()
            .user_data(user_data);
        if self.push(&entry).is_ok() {
            return Ok(());
        }
        self.enter()?;
        self.push(&entry).map_err(|_| Errno::BUSY.into())
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<(), squeue::PushError> {
        // SAFETY: a poll refers to no memory of ours. Its descriptor is taken by number when the entry is submitted,
        // which is before the descriptor can be closed: a connection is freed only when its polls have come home, and a
        // entrance stays open as long as the ring.
        unsafe { self.ring.submission().push(entry) }
    }

    /// Hands over what was armed and lets the kernel do its deferred work; never waits.
    pub fn enter(&mut self) -> io::Result<()> {
        let submission = self.ring.submission();
        let to_submit = submission.len() as u32;
        self.overflows += u32::from(submission.cq_overflow());
        drop(submission);
        // SAFETY: there is no signal mask to point to, and the entries stand for themselves (see `push`).
        let entered = unsafe {
            self.ring
                .submitter()
                .enter::<()>(to_submit, 0, ENTER_GETEVENTS, None)
        };
        match entered {
            Ok(_) => Ok(()),
            // Too much is waiting to be reaped, or a signal came: both pass with the next turn.
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw_os_error),
                    Some(Errno::BUSY | Errno::INTR | Errno::AGAIN)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Moves the user data of the polls that have come home into `completions`, at most `max`. What a file is ready for
    /// tells the call that tries it. That goes for a poll that the kernel had no memory for, too: whoever finds nothing
    /// there arms it anew.
    pub fn reap(&mut self, completions: &mut Vec<u64>, max: usize) {
        let home = |entry: cqueue::Entry| entry.user_data();
        completions.extend(self.ring.completion().take(max).map(home));
    }

    /// While muted the ring does not signal its eventfd: its thread is awake and looks by itself.
    pub fn mute(&mut self, is_muted: bool) {
        let queue = self.ring.completion();
        if is_muted {
            queue.disable_eventfd()
        } else {
            queue.enable_eventfd()
        }
    }

    /// Nothing waits to be submitted, run or reaped.
    pub fn is_quiet(&mut self) -> bool {
        let submission = self.ring.submission();
        let is_quiet = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        is_quiet && self.ring.completion().is_empty()
    }

    /// How often the completion queue was found full since the last call.
    pub fn take_overflows(&mut self) -> u32 {
        std::mem::take(&mut self.overflows)
    }
}

/// Gives this thread a descriptor table of its own, a copy of the one it shared: no contention on the table, and the
/// limit on descriptors counts for each thread.
///
/// From here on a descriptor's number means something in this thread only, except for what was open before and is
/// never closed.
pub fn unshare_descriptor_table() -> io::Result<()> {
    // SAFETY: memory safety does not depend on descriptor numbers; I/O safety holds since every descriptor that this
    // thread goes on to use is either inherited and kept open for good (the mailboxes') or made after this call.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// Enters until `n` polls have come home.
    fn reap(ring: &mut Ring, n: usize) -> Vec<u64> {
        let mut completions = Vec::new();
        while completions.len() < n {
            ring.enter().unwrap();
            ring.reap(&mut completions, n);
        }
        completions
    }

    #[test]
    fn shutdown_brings_both_polls_home() {
        let wake = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let mut ring = Ring::new(&wake).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        ring.poll_writable(&server, 1).unwrap();
        assert_eq!(reap(&mut ring, 1), [1]);
        ring.poll_readable(&server, 2).unwrap();
        ring.enter().unwrap();
        assert!(ring.is_quiet());
        server.shutdown(Shutdown::Both).unwrap();
        assert_eq!(reap(&mut ring, 1), [2]);
        drop(client);
    }

    #[test]
    fn more_polls_than_the_queue_holds_are_all_armed() {
        let wake = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let mut ring = Ring::new(&wake).unwrap();
        let (reader, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let n = 3 * SUBMISSIONS as usize;
        for user_data in 0..n as u64 {
            ring.poll_writable(&reader, user_data).unwrap();
        }
        let mut completions = reap(&mut ring, n);
        completions.sort_unstable();
        assert!(completions.into_iter().eq(0..n as u64));
    }

    #[test]
    fn more_completions_than_the_queue_holds_all_come_home() {
        let wake = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let mut ring = Ring::new(&wake).unwrap();
        let (reader, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
        // Each is ready when it is submitted, and nobody reaps meanwhile.
        let n = (COMPLETIONS + 3 * SUBMISSIONS) as usize;
        for user_data in 0..n as u64 {
            ring.poll_writable(&reader, user_data).unwrap();
        }
        ring.enter().unwrap();
        ring.enter().unwrap();
        assert!(ring.take_overflows() > 0);
        assert!(!ring.is_quiet());
        let mut completions = reap(&mut ring, n);
        completions.sort_unstable();
        assert!(completions.into_iter().eq(0..n as u64));
        ring.take_overflows();
        ring.enter().unwrap();
        assert_eq!(ring.take_overflows(), 0);
        assert!(ring.is_quiet());
    }

    #[test]
    fn a_wake_is_signalled_unless_muted() {
        let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut ring = Ring::new(&wake).unwrap();
        let (reader, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut count = [0; 8];
        for is_muted in [true, false] {
            ring.mute(is_muted);
            ring.poll_writable(&reader, 7).unwrap();
            reap(&mut ring, 1);
            assert_eq!(rustix::io::read(&wake, &mut count).is_err(), is_muted);
        }
    }
}
