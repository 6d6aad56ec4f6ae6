//! What the generator asks of the kernel beyond sockets: the two calls that no safe interface offers, and the clock.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::{Resource, getrlimit};
use rustix::thread::UnshareFlags;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: one clock for every worker, the publisher and the stamps in payloads.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// How many descriptors one table may hold (RLIMIT_NOFILE counts per table, not per process).
pub(crate) fn descriptors_per_table() -> usize {
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |limit| limit as usize)
}

/// Gives the calling thread a descriptor table of its own.
///
/// From here on a number means something else in each thread: descriptors that threads share (the wake-ups) must
/// exist before the call and must never be closed after it.
pub(crate) fn own_descriptor_table() -> io::Result<()> {
    // SAFETY: `unshare_unsafe` is unsafe because an `OwnedFd` or `BorrowedFd` that crosses threads afterwards names the
    // wrong file. Each worker makes its own sockets after this call and keeps them; the only descriptors that both
    // sides use are eventfds made before, which stay open in every copy until the process ends.
    #[allow(unsafe_code)]
    unsafe {
        rustix::thread::unshare_unsafe(UnshareFlags::FILES).map_err(io::Error::from)
    }
}

/// Leaves the choice of the port to `connect`, which may then reuse a port towards a different destination
/// (ip(7), IP_BIND_ADDRESS_NO_PORT). Without it `bind` reserves a port by itself and searches for it alone.
pub(crate) fn bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the option value is a live `c_int` of the
    // length given.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
