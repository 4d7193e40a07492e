//! Names the process that holds a busy port, for the error message of a failed bind.

use std::net::SocketAddr;

/// The kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// UDP.
    Udp,
    /// TCP, listening.
    Tcp,
}

/// Which process holds `address`, as far as the system tells: `unbound (pid 812)`.
///
/// `None` when nobody does, when the holder belongs to another user whose open files this process
/// may not see, and on systems other than Linux.
#[must_use]
pub(super) fn port_holder(address: SocketAddr, transport: Transport) -> Option<String> {
    holder(address, transport)
}

#[cfg(not(target_os = "linux"))]
fn holder(_: SocketAddr, _: Transport) -> Option<String> {
    None
}

#[cfg(target_os = "linux")]
fn holder(address: SocketAddr, transport: Transport) -> Option<String> {
    let conflicts: Vec<(Conflict, u64)> = sockets(transport)
        .into_iter()
        .filter_map(|(local, inode)| Some((conflict(address, local)?, inode)))
        .collect();
    // Only the closest match: naming a looser one would blame a process that is not at fault when
    // the owner of the closest cannot be seen.
    let closest = conflicts.iter().map(|(conflict, _)| *conflict).min()?;
    let inodes: Vec<u64> = conflicts
        .into_iter()
        .filter(|(conflict, _)| *conflict == closest)
        .map(|(_, inode)| inode)
        .collect();
    owner(&inodes)
}

/// How a socket stands in the way of another, the surest way first.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Conflict {
    /// Both have the same address.
    Same,
    /// One of the two has all addresses of the other's family.
    Wildcard,
    /// One is IPv4 and the other all of IPv6, which takes IPv4 too unless `IPV6_V6ONLY` is set
    /// (RFC 3493 Section 5.3); the system does not tell whether it is.
    DualStack,
}

#[cfg(target_os = "linux")]
fn conflict(wanted: SocketAddr, held: SocketAddr) -> Option<Conflict> {
    let (ours, theirs) = (wanted.ip().to_canonical(), held.ip().to_canonical());
    if wanted.port() != held.port() {
        None
    } else if ours == theirs {
        Some(Conflict::Same)
    } else if ours.is_ipv4() == theirs.is_ipv4() {
        (ours.is_unspecified() || theirs.is_unspecified()).then_some(Conflict::Wildcard)
    } else {
        let v6 = if ours.is_ipv6() { ours } else { theirs };
        v6.is_unspecified().then_some(Conflict::DualStack)
    }
}

/// The local address and the inode of every socket that can hold a port.
#[cfg(target_os = "linux")]
fn sockets(transport: Transport) -> Vec<(SocketAddr, u64)> {
    use procfs::net::{TcpState, tcp, tcp6, udp, udp6};

    // A table that cannot be read, as that of IPv6 where it is off, holds no sockets.
    match transport {
        Transport::Udp => [udp(), udp6()]
            .into_iter()
            .flat_map(Result::unwrap_or_default)
            .map(|entry| (entry.local_address, entry.inode))
            .collect(),
        Transport::Tcp => [tcp(), tcp6()]
            .into_iter()
            .flat_map(Result::unwrap_or_default)
            .filter(|entry| entry.state == TcpState::Listen)
            .map(|entry| (entry.local_address, entry.inode))
            .collect(),
    }
}

/// The first process, in the order of `/proc`, that has one of these sockets open: a parent comes
/// before the workers that inherited the socket from it.
#[cfg(target_os = "linux")]
fn owner(inodes: &[u64]) -> Option<String> {
    use procfs::process::{FDTarget, Process, all_processes};

    let holds = |process: &Process| {
        process.fd().is_ok_and(|mut fds| {
            fds.any(|fd| {
                fd.is_ok_and(
                    |fd| matches!(fd.target, FDTarget::Socket(inode) if inodes.contains(&inode)),
                )
            })
        })
    };
    let process = all_processes().ok()?.flatten().find(holds)?;
    // A process chooses its own name, so it may contain anything.
    let name: String = (process.stat().ok()?.comm.chars())
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    Some(format!("{name} (pid {})", process.pid()))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

    use super::*;

    fn this_process() -> Option<String> {
        let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
        Some(format!("{} (pid {})", comm.trim_end(), std::process::id()))
    }

    #[test]
    fn names_the_holder_of_a_udp_port() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(port_holder(address, Transport::Udp), this_process());
    }

    #[test]
    fn names_the_holder_of_a_tcp_port() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(port_holder(address, Transport::Tcp), this_process());
    }

    #[test]
    fn a_wildcard_holds_every_address() {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        assert_eq!(port_holder(address, Transport::Udp), this_process());
    }

    #[test]
    fn any_address_stands_in_the_way_of_a_wildcard() {
        // Like systemd-resolved, which holds 127.0.0.53:53.
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 53), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        assert_eq!(port_holder(address, Transport::Tcp), this_process());
    }

    #[test]
    fn a_dual_stack_wildcard_holds_ipv4_addresses() {
        let Ok(socket) = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) else {
            return; // No IPv6 on this system.
        };
        let port = socket.local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        assert_eq!(port_holder(address, Transport::Udp), this_process());
    }

    #[test]
    fn nobody_holds_a_free_port() {
        // Below the range that port 0 picks from, so that no other test can have it.
        let free = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 77), 1));
        assert_eq!(port_holder(free, Transport::Tcp), None);
    }

    #[test]
    fn another_address_is_no_conflict() {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let cases = [
            ("127.0.0.1:53", "127.0.0.1:53", Some(Conflict::Same)),
            ("127.0.0.1:53", "127.0.0.1:54", None),
            ("127.0.0.1:53", "127.0.0.53:53", None),
            (
                "127.0.0.1:53",
                "[::ffff:127.0.0.1]:53",
                Some(Conflict::Same),
            ),
            ("127.0.0.1:53", "0.0.0.0:53", Some(Conflict::Wildcard)),
            ("[::]:53", "[::1]:53", Some(Conflict::Wildcard)),
            ("127.0.0.1:53", "[::]:53", Some(Conflict::DualStack)),
            ("[::]:53", "127.0.0.53:53", Some(Conflict::DualStack)),
            ("[::1]:53", "127.0.0.1:53", None),
            ("[::1]:53", "0.0.0.0:53", None),
        ];
        for (wanted, held, expected) in cases {
            let result = conflict(socket(wanted), socket(held));
            assert_eq!(result, expected, "{wanted} against {held}");
        }
    }
}
