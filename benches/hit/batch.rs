//! Datagrams in batches, for the clients and the echo: one system call takes or sends many.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

/// Datagrams in a batch.
pub(super) const BATCH: usize = 64;
const LEN: usize = 1500;

/// Buffers for a batch.
pub(super) struct Batch {
    /// One for each direction: what is sent leaves its addresses in there.
    received: MultiHeaders<SockaddrStorage>,
    sent: MultiHeaders<SockaddrStorage>,
    buffers: Vec<[u8; LEN]>,
    /// How much of each is used, and who has sent it.
    filled: Vec<(usize, Option<SockaddrStorage>)>,
    count: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            received: MultiHeaders::preallocate(BATCH, None),
            sent: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; LEN]; BATCH],
            filled: Vec::with_capacity(BATCH),
            count: 0,
        }
    }

    /// Takes what has come; waits for the first one if `waits`.
    pub(super) fn receive(&mut self, socket: &UdpSocket, waits: bool) -> usize {
        let mut slices: Vec<_> = self
            .buffers
            .iter_mut()
            .map(|b| [IoSliceMut::new(b)])
            .collect();
        let flags = if waits {
            MsgFlags::MSG_WAITFORONE
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        self.filled.clear();
        match recvmmsg(
            socket.as_raw_fd(),
            &mut self.received,
            slices.iter_mut(),
            flags,
            None,
        ) {
            Ok(messages) => self.filled.extend(messages.map(|m| (m.bytes, m.address))),
            Err(error) => assert_eq!(std::io::Error::from(error).kind(), ErrorKind::WouldBlock),
        }
        self.count = self.filled.len();
        self.count
    }

    pub(super) fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let filled = self.buffers.iter().zip(&self.filled).take(self.count);
        filled.map(|(buffer, (length, _))| &buffer[..*length])
    }

    /// Sends each datagram of the batch back to where it came from.
    pub(super) fn send_back(&mut self, socket: &UdpSocket) {
        let to: Vec<_> = self.filled.iter().map(|(_, client)| *client).collect();
        self.send(socket, &to);
    }

    /// Begins a batch to be sent.
    pub(super) fn clear(&mut self) {
        self.filled.clear();
        self.count = 0;
    }

    pub(super) fn push(&mut self, datagram: &[u8]) {
        self.buffers[self.count][..datagram.len()].copy_from_slice(datagram);
        self.filled.push((datagram.len(), None));
        self.count += 1;
    }

    /// Sends them over a connected socket.
    pub(super) fn send_connected(&mut self, socket: &UdpSocket) {
        let to = vec![None; self.count];
        self.send(socket, &to);
    }

    fn send(&mut self, socket: &UdpSocket, to: &[Option<SockaddrStorage>]) {
        let filled = self.buffers.iter().zip(&self.filled).take(self.count);
        let slices: Vec<_> = filled
            .map(|(b, (length, _))| [IoSlice::new(&b[..*length])])
            .collect();
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
        let sent = sendmmsg(fd, &mut self.sent, &slices, to, [], flags).unwrap();
        assert_eq!(sent.count(), self.count, "loopback takes all");
    }
}

/// Sends back what comes, until the process is ended.
pub(super) fn echo(socket: &UdpSocket) {
    let mut batch = Batch::new();
    loop {
        batch.receive(socket, true);
        batch.send_back(socket);
    }
}
