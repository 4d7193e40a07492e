//! The nodes' sockets.

use std::io;
use std::net::UdpSocket;

use crate::world;

/// How often a free port is looked for that is free on the addresses of all nodes.
const PORT_TRIES: usize = 16;

/// Files that the process needs besides the nodes' sockets.
const SPARE_FILES: u64 = 256;

/// Binds a socket for each node, all on the same port; 0 for any.
pub(crate) fn bind(nodes: usize, port: u16) -> io::Result<(u16, Vec<UdpSocket>)> {
    allow_files(nodes)?;
    let mut tries = 0..PORT_TRIES;
    loop {
        tries.next();
        let bound = bind_all(nodes, port);
        let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        // A port that is free on one address may be taken on another, by another network's client.
        if port != 0 || tries.is_empty() || !bound.as_ref().is_err_and(in_use) {
            return bound;
        }
    }
}

fn bind_all(nodes: usize, mut port: u16) -> io::Result<(u16, Vec<UdpSocket>)> {
    let mut sockets = Vec::with_capacity(nodes);
    for place in 0..nodes {
        let socket = UdpSocket::bind(world::address(place, port))?;
        socket.set_nonblocking(true)?;
        port = socket.local_addr()?.port();
        sockets.push(socket);
    }
    Ok((port, sockets))
}

/// Raises the soft limit of open files, if the nodes need that and the hard limit allows it. If not,
/// binding will say so.
fn allow_files(nodes: usize) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = u64::try_from(nodes).unwrap_or(u64::MAX);
    let needed = needed.saturating_add(SPARE_FILES);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        let current = limit.maximum;
        setrlimit(Resource::Nofile, Rlimit { current, ..limit })?;
    }
    Ok(())
}
