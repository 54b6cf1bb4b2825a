//! Signals → commands.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::control::Command;

/// Signals that would end a process which does not expect them yet.
#[derive(Debug)]
pub(super) struct Early {
    hangup: Signal,
    user1: Signal,
}

impl Early {
    /// Catches them from now on. Must be called within the back office.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self { hangup: signal(SignalKind::hangup())?, user1: signal(SignalKind::user_defined1())? })
    }
}

/// SIGTERM drains (a second one stops), SIGINT stops, SIGHUP reloads, SIGUSR1 reopens logs. Must be called within the back
/// office.
///
/// # Errors
/// A handler cannot be installed.
pub(super) fn listen(early: Early, commands: mpsc::UnboundedSender<Command>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let Early { mut hangup, mut user1 } = early;
    tokio::spawn(async move {
        loop {
            let command = tokio::select! {
                Some(()) = terminate.recv() => Command::Drain,
                Some(()) = interrupt.recv() => Command::Stop,
                Some(()) = hangup.recv() => Command::Reload(None),
                Some(()) = user1.recv() => Command::ReopenLogs,
                else => return,
            };
            if commands.send(command).is_err() {
                return;
            }
        }
    });
    Ok(())
}
