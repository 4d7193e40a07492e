//! Sockets to listen on: bound, or inherited.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::thread::available_parallelism;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::port_holder::{Transport, port_holder};
use crate::serve::systemd::Inherited;

/// Connections that the kernel holds ready for `accept`; it may lower this to `net.core.somaxconn`.
const TCP_BACKLOG: i32 = 1024;
/// Free UDP ports that are tried for one whose TCP port is free too, when any port will do.
const ANY_PORT_TRIES: usize = 16;

/// An address with its sockets.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) configured: SocketAddr,
    pub(super) bound: SocketAddr,
    /// One for each thread that is to read them, or one alone; empty if UDP is not served here.
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Option<TcpListener>,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({transport}): {reason}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// `UDP` or `TCP`.
    pub transport: &'static str,
    /// What the system says, who holds the port, what can be done.
    pub reason: String,
}

/// Binds UDP and TCP on every address; on an error all are let go.
pub(super) fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<Listener>, ListenError> {
    addresses.iter().map(|&address| bind(address)).collect()
}

fn bind(configured: SocketAddr) -> Result<Listener, ListenError> {
    let tries = if configured.port() == 0 {
        ANY_PORT_TRIES
    } else {
        1
    };
    let mut result = bind_both(configured);
    for _ in 1..tries {
        if result.is_ok() {
            break;
        }
        result = bind_both(configured);
    }
    result
}

fn bind_both(configured: SocketAddr) -> Result<Listener, ListenError> {
    let error = |address, transport| move |error| listen_error(address, transport, &error);
    let (udp, bound) = bind_udp(configured).map_err(error(configured, Transport::Udp))?;
    let tcp = bind_tcp(bound).map_err(error(bound, Transport::Tcp))?;
    Ok(Listener {
        configured,
        bound,
        udp,
        tcp: Some(tcp),
    })
}

/// The kernel counts a small query as some 800 bytes: room for five thousand, such as a household's
/// clients send when their line comes back.
const UDP_RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// Threads that read datagrams, at most; as a rule one for each CPU.
const MAX_UDP_THREADS: usize = 16;

/// How many threads read datagrams; each address has a socket for each.
pub(super) fn udp_threads() -> usize {
    available_parallelism().map_or(1, |cpus| cpus.get().min(MAX_UDP_THREADS))
}

/// Sockets among which the kernel shares the datagrams of one address out, by their senders.
fn bind_udp(address: SocketAddr) -> io::Result<(Vec<UdpSocket>, SocketAddr)> {
    let first = udp_socket(address)?;
    // Without SO_REUSEPORT until it is bound, so that a second pkbridge is told that the port is taken.
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let first = UdpSocket::from(first);
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    while sockets.len() < udp_threads() {
        let next = udp_socket(address)?;
        next.set_reuse_port(true)?;
        next.bind(&bound.into())?;
        sockets.push(next.into());
    }
    Ok((sockets, bound))
}

fn udp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    // The system gives what its limit (net.core.rmem_max) allows; less is no error.
    socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER)?;
    Ok(socket)
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // A restart must not wait for the old connections' TIME_WAIT. A live listener still conflicts.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can both be listed, and mean what they say.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Takes inherited sockets; UDP and TCP of one address are one listener.
pub(super) fn adopt(inherited: Inherited) -> Result<Vec<Listener>, ListenError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let error = |transport| move |error| listen_error(unknown, transport, &error);
    let listener = |bound| Listener {
        configured: bound,
        bound,
        udp: Vec::new(),
        tcp: None,
    };
    let mut listeners = Vec::new();
    for socket in inherited.udp {
        let bound = socket.local_addr().map_err(error(Transport::Udp))?;
        listeners.push(Listener {
            udp: vec![socket],
            ..listener(bound)
        });
    }
    for socket in inherited.tcp {
        let socket = TcpListener::from_std(socket).map_err(error(Transport::Tcp))?;
        let bound = socket.local_addr().map_err(error(Transport::Tcp))?;
        let is_other_half = |one: &&mut Listener| one.bound == bound && one.tcp.is_none();
        match listeners.iter_mut().find(is_other_half) {
            Some(one) => one.tcp = Some(socket),
            None => listeners.push(Listener {
                tcp: Some(socket),
                ..listener(bound)
            }),
        }
    }
    Ok(listeners)
}

fn listen_error(address: SocketAddr, transport: Transport, error: &io::Error) -> ListenError {
    let mut reason = error.to_string();
    let kind = error.kind();
    if kind == ErrorKind::AddrInUse {
        if let Some(holder) = port_holder(address, transport) {
            reason = format!("{reason}; the port is held by {holder}");
        }
    } else if kind == ErrorKind::PermissionDenied {
        reason += "; ports below 1024 need root or CAP_NET_BIND_SERVICE";
    } else if kind == ErrorKind::AddrNotAvailable {
        reason += "; the address is not one of this host's";
    }
    ListenError {
        address,
        transport: match transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        },
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn inherited_sockets_of_one_address_are_one_listener() {
        let mut pair = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let alone = bind_tcp((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let other = alone.local_addr().unwrap();
        let tcp = [alone, pair.tcp.take().unwrap()].map(|tcp| tcp.into_std().unwrap());
        let inherited = Inherited {
            udp: vec![pair.udp.swap_remove(0)],
            tcp: tcp.into(),
        };
        let listeners = adopt(inherited).unwrap();
        let served = listeners
            .iter()
            .map(|one| (one.bound, one.udp.len(), one.tcp.is_some()));
        let served: Vec<_> = served.collect();
        assert_eq!(served, [(pair.bound, 1, true), (other, 0, true)]);
    }
}
