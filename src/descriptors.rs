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

/// What is wrong where the system gives fewer descriptors than so many connections may need: each its own, and one to a server.
/// None where they suffice.
pub fn too_few_for(connections: usize) -> Option<String> {
    let connections = u64::try_from(connections).unwrap_or(u64::MAX);
    limit().and_then(|limit| shortage(limit, connections))
}

fn shortage(limit: u64, connections: u64) -> Option<String> {
    let needed = connections.saturating_mul(2);
    let left = limit.saturating_sub(kept_from_clients(limit));
    (left < needed).then(|| {
        format!(
            "`server.limits.connections` is {connections}, and the limit of open files ({limit}) bears {}: above that \
             connections wait unanswered; raise LimitNOFILE (`ulimit -Hn`) to {}, or lower `connections`",
            (left / 2).max(1),
            needed.saturating_add(needed / 7 + 1).clamp(needed.saturating_add(16), needed.saturating_add(1024)),
        )
    })
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

    #[test]
    fn what_is_advised_suffices() {
        assert_eq!(
            shortage(1024, 20_000).unwrap(),
            "`server.limits.connections` is 20000, and the limit of open files (1024) bears 448: above that connections wait \
             unanswered; raise LimitNOFILE (`ulimit -Hn`) to 41024, or lower `connections`"
        );
        for connections in [1, 7, 20, 57, 448, 449, 1000, 5000, 20_000, 10_000_000] {
            let told = shortage(4, connections).unwrap();
            let advised = told.split_once("to ").unwrap().1.split_once(',').unwrap().0.parse().unwrap();
            assert_eq!(shortage(advised, connections), None, "{connections}: {advised}");
            assert!(shortage(2 * connections, connections).is_some());
        }
        assert_eq!(shortage(u64::MAX, 10_000_000), None);
        assert_eq!(shortage(1024, 448), None);
    }
}
