//! Which file descriptors may be taken for what, so that the last ones are never a client's.
//!
//! The system gives the lowest number that is free, so a number tells how many are taken below it: no count of our own is needed,
//! and none can go wrong. Clients stop first, connections to servers next; what is left is for the status address, log files and
//! reloads. Two threads that take a descriptor at the same moment may exceed a bound by one each.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};

/// Kept from clients: an eighth of all.
fn kept_from_clients(limit: u64) -> u64 {
    (limit / 8).clamp(16, 1024)
}

/// Of these, kept from connections to servers too.
fn our_own(limit: u64) -> u64 {
    (kept_from_clients(limit) / 2).min(32)
}

/// The most that the system gives; none where it has no bound.
fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Whether this descriptor, just opened, is one of those kept from clients. A system call.
pub fn is_kept_from_clients(taken: RawFd) -> bool {
    limit().is_some_and(|limit| above(taken, limit.saturating_sub(kept_from_clients(limit))))
}

/// Whether this descriptor, just opened, is one of those kept for the gateway itself. A system call.
pub fn is_our_own(taken: impl AsFd) -> bool {
    limit().is_some_and(|limit| above(taken.as_fd().as_raw_fd(), limit.saturating_sub(our_own(limit))))
}

/// Whether a client could have the next descriptor; `any` is a descriptor to try it with. Some system calls.
pub fn are_left_for_clients(any: impl AsFd) -> bool {
    fcntl_dupfd_cloexec(any, 0).is_ok_and(|next| !is_kept_from_clients(next.as_raw_fd()))
}

fn above(taken: RawFd, bound: u64) -> bool {
    u64::try_from(taken).is_ok_and(|taken| taken >= bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_never_a_clients() {
        for (limit, first_kept, own) in
            [(1024, 896, 32), (256, 224, 16), (100, 84, 8), (1 << 20, (1 << 20) - 1024, 32)]
        {
            let bound = limit - kept_from_clients(limit);
            assert_eq!(bound, first_kept);
            assert!(!above(RawFd::try_from(bound).unwrap() - 1, bound));
            assert!(above(RawFd::try_from(bound).unwrap(), bound));
            assert_eq!(our_own(limit), own);
        }
        assert!(are_left_for_clients(std::io::stderr()));
    }
}
