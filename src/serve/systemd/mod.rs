//! systemd: state messages, inherited sockets, and a watchdog that asks the program's own socket.

mod sockets;
mod watchdog;

use sd_notify::NotifyState;
use tracing::debug;

pub use sockets::{Inherited, InheritedError};
pub use watchdog::watchdog;

/// Tells systemd that the service is ready, after the start and after each reload, and what
/// `systemctl status` is to show. Does nothing outside systemd.
pub fn notify_ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// Tells systemd what `systemctl status` is to show. Does nothing outside systemd.
pub fn notify_status(status: &str) {
    send(&[NotifyState::Status(&one_line(status))]);
}

/// Tells systemd that the service reloads its configuration; [`notify_ready`] must follow, also
/// when the new configuration is refused. Does nothing outside systemd.
pub fn notify_reloading() {
    // Type=notify-reload takes RELOADING=1 only with the time, in the same message (sd_notify(3)).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => {
            debug!(%error, "no monotonic time for systemd");
            send(&[NotifyState::Reloading]);
        }
    }
}

/// Tells systemd that the service is about to stop. Does nothing outside systemd.
pub fn notify_stopping() {
    send(&[NotifyState::Stopping]);
}

/// Sends a message to systemd. Nothing in the program depends on its arrival, so an error is only
/// logged.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "cannot send a message to systemd");
    }
}

/// A status of one line: in a message to systemd each line is an assignment of its own
/// (sd_notify(3)), so a line feed in the text would begin another.
fn one_line(status: &str) -> String {
    status.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("a\nWATCHDOG=1\r\0b é"), "a WATCHDOG=1  b é");
    }
}
