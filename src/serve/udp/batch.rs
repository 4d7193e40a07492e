//! Datagrams in batches: one system call takes what has come, one sends what is ready.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage,
    recvmmsg, sendmmsg, setsockopt, sockopt,
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

use crate::wire::MAX_MESSAGE_LEN;

/// Datagrams that one system call takes or sends: enough that its cost hardly counts for each, and few
/// enough that the last one does not wait for long.
pub(super) const BATCH: usize = 64;
/// Room for the largest reply over UDP (1232 bytes), and for what goes away when one is cut to size.
const REPLY_ROOM: usize = 2560;
/// How long a full send buffer is waited for, in milliseconds; then a reply is lost, as UDP may.
const SEND_PATIENCE: u16 = 20;

/// Where a query came from, and where its reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// The client.
    pub(super) client: SocketAddr,
    /// Which address of this host it has asked, if the socket is bound to all of them: the reply must
    /// come from there.
    pub(super) asked: Option<IpAddr>,
}

const NOBODY: Peer = Peer {
    client: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    asked: None,
};

/// What the kernel is told of a socket before it is used in batches. Replies leave whole or not at all,
/// whatever anybody says of the way's MTU: what comes in fragments can be forged, and is dropped by many. On a
/// wildcard address the kernel says with each datagram which address was asked.
pub(super) fn prepare(socket: &UdpSocket) -> io::Result<()> {
    let local = socket.local_addr()?;
    if local.is_ipv4() {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?;
    } else {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?;
    }
    if is_wildcard(socket) {
        if local.is_ipv4() {
            setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    Ok(())
}

fn is_wildcard(socket: &UdpSocket) -> bool {
    let local = socket.local_addr();
    local.is_ok_and(|local| local.ip().is_unspecified())
}

/// Room for a control message with an address, of either family.
fn address_room() -> Vec<u8> {
    nix::cmsg_space!(libc::in6_pktinfo)
}

/// Takes datagrams of one socket: the system leaves in the headers how long addresses and control messages were.
pub(super) struct Inbound {
    headers: MultiHeaders<SockaddrStorage>,
    taken: [(usize, Peer); BATCH],
}

/// [`BATCH`] buffers of [`MAX_MESSAGE_LEN`]; the system gives memory only for what is used of them.
pub(super) struct Buffers(Vec<u8>);

impl Buffers {
    pub(super) fn new() -> Self {
        Self(vec![0; BATCH * MAX_MESSAGE_LEN])
    }
}

impl Inbound {
    pub(super) fn new(socket: &UdpSocket) -> Self {
        let room = is_wildcard(socket).then(address_room);
        Self {
            headers: MultiHeaders::preallocate(BATCH, room),
            taken: [(0, NOBODY); BATCH],
        }
    }

    /// Takes what has come, at most [`BATCH`] datagrams, and returns their number. Does not wait.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        buffers: &mut Buffers,
    ) -> io::Result<usize> {
        let mut buffers = buffers.0.chunks_exact_mut(MAX_MESSAGE_LEN);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
        let messages = recvmmsg(
            socket.as_raw_fd(),
            &mut self.headers,
            slices.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        )?;
        let mut count = 0;
        for (message, taken) in messages.zip(&mut self.taken) {
            *taken = (message.bytes, peer(&message));
            count += 1;
        }
        Ok(count)
    }

    /// The datagrams of the last batch, which had `count`.
    pub(super) fn datagrams<'a>(
        &self,
        buffers: &'a Buffers,
        count: usize,
    ) -> impl Iterator<Item = (&'a [u8], Peer)> {
        let buffers = buffers.0.chunks_exact(MAX_MESSAGE_LEN);
        let taken = self.taken.iter().zip(buffers).take(count);
        taken.map(|((length, peer), buffer)| (buffer.get(..*length).unwrap_or_default(), *peer))
    }
}

fn peer(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Peer {
    let client = message.address.as_ref().and_then(socket_addr);
    let asked = |control| {
        if let ControlMessageOwned::Ipv4PacketInfo(info) = control {
            // Not the destination itself, which may be a broadcast address.
            return Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()));
        }
        if let ControlMessageOwned::Ipv6PacketInfo(info) = control {
            return Some(IpAddr::from(info.ipi6_addr.s6_addr));
        }
        None
    };
    let controls = message.cmsgs().ok();
    Peer {
        client: client.unwrap_or(NOBODY.client),
        asked: controls.and_then(|mut controls| controls.find_map(asked)),
    }
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    address
        .as_sockaddr_in6()
        .map(|v6| SocketAddr::V6((*v6).into()))
}

/// What the system is handed to send a batch.
struct Headers {
    plain: MultiHeaders<SockaddrStorage>,
    /// Those that say from which address a reply comes, on a socket that is bound to all.
    addressed: MultiHeaders<SockaddrStorage>,
}

impl Headers {
    fn new() -> Self {
        Self {
            plain: MultiHeaders::preallocate(BATCH, None),
            addressed: MultiHeaders::preallocate(BATCH, Some(address_room())),
        }
    }

    /// Sends replies, at most [`BATCH`]. What cannot be sent is lost, and logged.
    fn send<R: AsRef<[u8]>>(&mut self, socket: &UdpSocket, replies: &[R], peers: &[Peer]) {
        let mut at = 0;
        while let (Some(replies @ [_, ..]), Some(peers @ [first, ..])) =
            (replies.get(at..), peers.get(at..))
        {
            match self.send_some(socket, replies, peers, first.asked) {
                Ok(sent) => at += sent.max(1),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && can_send(socket) => {}
                Err(error) => {
                    // It is the first one that cannot be sent; the others may be.
                    tracing::debug!(client = %first.client, %error, "cannot send");
                    at += 1;
                }
            }
        }
    }

    /// Sends the first ones, as far as they come from the same address; how many were sent.
    fn send_some<R: AsRef<[u8]>>(
        &mut self,
        socket: &UdpSocket,
        replies: &[R],
        peers: &[Peer],
        from: Option<IpAddr>,
    ) -> io::Result<usize> {
        let same = peers.iter().take_while(|peer| peer.asked == from).count();
        let mut clients = peers.iter().map(|peer| peer.client.into());
        let to: [Option<SockaddrStorage>; BATCH] = std::array::from_fn(|_| clients.next());
        let mut replies = replies.iter().map(AsRef::as_ref);
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSlice::new(replies.next().unwrap_or_default())]);
        let slices = slices.iter().take(same);
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let sent = match from {
            Some(IpAddr::V4(ip)) => {
                let info = v4_info(ip);
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmmsg(fd, &mut self.addressed, slices, to, control, flags)?.count()
            }
            Some(IpAddr::V6(ip)) => {
                let info = v6_info(ip);
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmmsg(fd, &mut self.addressed, slices, to, control, flags)?.count()
            }
            None => sendmmsg(fd, &mut self.plain, slices, to, [], flags)?.count(),
        };
        Ok(sent)
    }
}

/// Collects replies, and sends them.
pub(super) struct Outbound {
    headers: Headers,
    replies: Vec<Vec<u8>>,
    peers: [Peer; BATCH],
    count: usize,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self {
            headers: Headers::new(),
            replies: (0..BATCH).map(|_| Vec::with_capacity(REPLY_ROOM)).collect(),
            peers: [NOBODY; BATCH],
            count: 0,
        }
    }

    /// The buffer of the next reply; what is in it is sent once [`Self::push`] says so. There is one as
    /// long as fewer than [`BATCH`] wait.
    pub(super) fn next(&mut self) -> Option<&mut Vec<u8>> {
        self.replies.get_mut(self.count)
    }

    /// Takes the reply that has been written into the next buffer.
    pub(super) fn push(&mut self, peer: Peer) {
        if let Some(place) = self.peers.get_mut(self.count) {
            *place = peer;
            self.count += 1;
        }
    }

    /// Sends what waits.
    pub(super) fn send(&mut self, socket: &UdpSocket) {
        let waiting = ..std::mem::take(&mut self.count);
        if let (Some(replies), Some(peers)) = (self.replies.get(waiting), self.peers.get(waiting)) {
            self.headers.send(socket, replies, peers);
        }
    }
}

/// Whether there is room again before long.
fn can_send(socket: &UdpSocket) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, SEND_PATIENCE).is_ok_and(|ready| ready > 0)
}

fn v4_info(source: Ipv4Addr) -> libc::in_pktinfo {
    libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr {
            s_addr: u32::from_ne_bytes(source.octets()),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    }
}

fn v6_info(source: Ipv6Addr) -> libc::in6_pktinfo {
    libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr {
            s6_addr: source.octets(),
        },
        ipi6_ifindex: 0,
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::{ip_mtu_discover, ipv6_mtu_discover};

    use super::*;

    #[test]
    fn replies_are_never_fragmented() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            prepare(&socket).unwrap();
            if address.starts_with('[') {
                let set = ipv6_mtu_discover(&socket).unwrap();
                assert!(set == Ipv6PathMtuDiscovery::PROBE, "{address}");
            } else {
                let set = ip_mtu_discover(&socket).unwrap();
                assert!(set == Ipv4PathMtuDiscovery::PROBE, "{address}");
            }
        }
    }
}
