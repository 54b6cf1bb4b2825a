//! Whether another process counts on the same state directory. Only who is alone may count in memory.
//!
//! Two files beside the store are locked and never written; the kernel lets go of a lock when its process ends, however it does
//! (flock(2)). `quotas.alone` is held by the one process that counts in memory; `quotas.here` is held, side by side, by all that do not.
//!
//! - *To arrive*: hold `here`, then wait until nobody holds `alone`. Who held it has seen that somebody is here, and has written what
//!   it had counted, before it let go.
//! - *To be alone*: take `alone`, let go of `here` and take it for oneself. Where another holds it too there is company: back again.
//!   Whoever arrives after that finds `alone` taken and waits; whoever arrived before is found.
//!
//! Only who holds `alone` ever takes `here` for itself, and only for a moment.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often who is alone looks whether it still is; who arrives waits as long.
const LOOK_ALONE: Duration = Duration::from_millis(100);
/// How often others look whether they are alone by now.
const LOOK_TOGETHER: Duration = Duration::from_secs(1);
/// How long one who arrives waits at the most. Who is alone and does not let go in this time is stopped, or cannot write.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(2);

/// This process among those that count on a state directory.
#[derive(Debug)]
pub(super) struct Presence {
    alone: File,
    here: File,
    is_alone: bool,
    looked: Instant,
}

/// How one has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// Nobody else is there.
    Alone,
    /// Others are, and all that they have counted is in the store.
    Together,
    /// Somebody counts in memory and does not answer.
    Unheard,
}

impl Presence {
    /// Arrives; waits for two seconds at the most.
    ///
    /// # Errors
    /// The files cannot be made or locked.
    pub(super) fn arrive(directory: &Path) -> io::Result<(Self, Arrived)> {
        let open = |name: &str| {
            let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
            options.open(directory.join(name))
        };
        let (alone, here) = (open("quotas.alone")?, open("quotas.here")?);
        let mut own = Self { alone, here, is_alone: false, looked: Instant::now() };
        let until = Instant::now() + PATIENCE;
        own.be_here(until)?;
        loop {
            if let Some(arrived) = own.try_alone(|| {})? {
                return Ok((own, arrived));
            }
            if Instant::now() >= until {
                return Ok((own, Arrived::Unheard));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// When it is time to look again.
    pub(super) fn due(&self) -> Duration {
        let every = if self.is_alone { LOOK_ALONE } else { LOOK_TOGETHER };
        every.saturating_sub(self.looked.elapsed())
    }

    /// Whether this process counts in memory, or did until it found that it is not alone and has not written it all.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Whether somebody else is here. Where that cannot be said, somebody is.
    pub(super) fn has_company(&mut self) -> bool {
        self.looked = Instant::now();
        match self.here.try_lock() {
            Ok(()) => self.here.unlock().is_err(),
            Err(_) => true,
        }
    }

    /// What was counted in memory is written, and nothing more will be counted so.
    ///
    /// # Errors
    /// The lock cannot be had: nothing has changed.
    pub(super) fn join_others(&mut self) -> io::Result<()> {
        self.be_here(Instant::now() + PAUSE)?;
        self.alone.unlock()?;
        self.is_alone = false;
        Ok(())
    }

    /// Tries to be alone; `begin` is called before anybody can arrive. None where somebody else is alone, or tries just now.
    ///
    /// # Errors
    /// The files cannot be locked.
    pub(super) fn try_alone(&mut self, begin: impl FnOnce()) -> io::Result<Option<Arrived>> {
        self.looked = Instant::now();
        if !is_had(self.alone.try_lock())? {
            return Ok(None);
        }
        self.here.unlock()?;
        if is_had(self.here.try_lock())? {
            begin();
            self.is_alone = true;
            self.here.unlock()?;
            return Ok(Some(Arrived::Alone));
        }
        self.be_here(Instant::now() + PATIENCE)?;
        self.alone.unlock()?;
        Ok(Some(Arrived::Together))
    }

    fn be_here(&self, until: Instant) -> io::Result<()> {
        while !is_had(self.here.try_lock_shared())? {
            if Instant::now() >= until {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

fn is_had(tried: Result<(), TryLockError>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(directory: &Path) -> (Presence, Arrived) {
        Presence::arrive(directory).unwrap()
    }

    #[test]
    fn who_arrives_waits_until_the_one_that_was_alone_has_let_go() {
        let place = tempfile::tempdir().unwrap();
        let (mut first, arrived) = arrive(place.path());
        assert_eq!((arrived, first.has_company()), (Arrived::Alone, false));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| arrive(place.path()));
            while !first.has_company() {
                std::thread::sleep(PAUSE);
            }
            std::thread::sleep(Duration::from_millis(20));
            assert!(!second.is_finished(), "it goes on before all is written");
            first.join_others().unwrap();
            let (mut second, arrived) = second.join().unwrap();
            assert_eq!(arrived, Arrived::Together);
            for one in [&mut first, &mut second] {
                assert_eq!(one.try_alone(|| panic!("it is not alone")).unwrap(), Some(Arrived::Together));
            }
            drop(second);
        });
        let mut begun = false;
        assert_eq!(first.try_alone(|| begun = true).unwrap(), Some(Arrived::Alone));
        assert!(begun && !first.has_company());
    }

    #[test]
    fn who_never_lets_go_is_not_waited_for_long() {
        let place = tempfile::tempdir().unwrap();
        let (first, _) = arrive(place.path());
        let begun = Instant::now();
        let (mut second, arrived) = arrive(place.path());
        assert_eq!(arrived, Arrived::Unheard);
        assert!(begun.elapsed() >= PATIENCE);
        assert_eq!(second.try_alone(|| panic!("it is not alone")).unwrap(), None);
        drop(first);
        assert_eq!(second.try_alone(|| {}).unwrap(), Some(Arrived::Alone));
    }

    #[test]
    fn of_many_that_arrive_and_go_two_are_never_alone_at_once() {
        let place = tempfile::tempdir().unwrap();
        let alone = std::sync::atomic::AtomicU32::new(0);
        let order = std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (alone, place) = (&alone, &place);
                scope.spawn(move || {
                    for turn in 0..30 {
                        let (mut own, arrived) = arrive(place.path());
                        let begin = || assert_eq!(alone.fetch_add(1, order), 0);
                        if arrived == Arrived::Alone {
                            begin();
                        } else if arrived == Arrived::Together {
                            let _ = own.try_alone(begin).unwrap();
                        }
                        let until = Instant::now() + Duration::from_millis((turn * 7 + number) % 5);
                        while Instant::now() < until || own.is_alone() {
                            if own.is_alone() && (own.has_company() || Instant::now() >= until) {
                                alone.fetch_sub(1, order);
                                own.join_others().unwrap();
                            }
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                });
            }
        });
        assert_eq!(alone.into_inner(), 0);
    }
}
