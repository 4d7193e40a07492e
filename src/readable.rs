//! UDP sockets that are waited on for reading alone. Tokio's own are registered for writing, too: each datagram
//! that leaves such a socket is an event that nobody waits for.

use std::io;
use std::net::UdpSocket;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a socket with the runtime that this is called on.
///
/// # Errors
/// If the system does not let it be polled.
#[expect(
    deprecated,
    reason = "what is new takes unsafe, for types whose descriptor may be closed under them; std's are none"
)]
pub(crate) fn readable(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}
