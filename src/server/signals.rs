//! Signals → commands.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::control::Command;

/// SIGTERM drains (a second one stops), SIGINT stops, SIGHUP reloads, SIGUSR1 reopens logs. Must be called within the back
/// office.
///
/// # Errors
/// A handler cannot be installed.
pub(super) fn listen(commands: mpsc::UnboundedSender<Command>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user1 = signal(SignalKind::user_defined1())?;
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
