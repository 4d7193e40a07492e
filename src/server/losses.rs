//! UDP queries that came faster than they could be read: the kernel counts them, by socket.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often the log says that queries were lost, if they were.
const INTERVAL: Duration = Duration::from_secs(30);
/// Where the kernel tells of the UDP sockets of this network namespace (proc_net(5)). Linux alone has it.
const TABLES: [&str; 2] = ["/proc/self/net/udp", "/proc/self/net/udp6"];

/// What the sockets that are bound to these addresses have lost.
pub(super) fn lost_queries(listening: &[SocketAddr]) -> u64 {
    let addresses: Vec<String> = listening.iter().copied().map(in_table).collect();
    let tables = TABLES
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    tables.map(|table| lost_in(&table, &addresses)).sum()
}

/// Says in the log when queries are lost at the sockets of these addresses. Never ends.
pub(super) async fn tell_log(listening: watch::Receiver<Vec<SocketAddr>>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    loop {
        ticks.tick().await;
        let listening = listening.borrow().clone();
        // A table has a line for each socket of the host, and may be long.
        let reading = tokio::task::spawn_blocking(move || lost_queries(&listening));
        let lost = reading.await.unwrap_or(told);
        if lost > told {
            tracing::warn!(
                lost = lost - told,
                "queries were lost: they came faster than they could be read; a higher net.core.rmem_max \
                 lets more of them wait"
            );
        }
        // Less, if an address is no longer served.
        told = lost;
    }
}

/// The sum of the drops, which are the last column, of the sockets with these local addresses.
fn lost_in(table: &str, addresses: &[String]) -> u64 {
    let drops = table.lines().filter_map(|line| {
        let local = line.split_ascii_whitespace().nth(1)?;
        let is_ours = addresses.iter().any(|address| address == local);
        let drops = line.split_ascii_whitespace().next_back()?;
        is_ours.then(|| drops.parse::<u64>().ok()).flatten()
    });
    drops.sum()
}

/// An address as the kernel writes it: words of 32 bits in the byte order of the machine, and the port.
fn in_table(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (words, _) = octets.as_chunks::<4>();
    let words = words
        .iter()
        .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)));
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn what_a_full_buffer_has_lost_is_counted() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(any).unwrap();
            SockRef::from(&server).set_recv_buffer_size(4096).unwrap();
            let address = server.local_addr().unwrap();
            let client = UdpSocket::bind(any).unwrap();
            client.connect(address).unwrap();
            assert_eq!(lost_queries(&[address]), 0);
            for _ in 0..50 {
                client.send(&[0; 100]).unwrap();
            }
            server.set_nonblocking(true).unwrap();
            let taken = (0..).take_while(|_| server.recv(&mut [0; 100]).is_ok());
            let taken = u64::try_from(taken.count()).unwrap();
            assert!((1..50).contains(&taken), "{taken}");
            let other = client.local_addr().unwrap();
            assert_eq!(lost_queries(&[other, address]), 50 - taken, "{any}");
            assert_eq!(lost_queries(&[other]), 0);
        }
    }
}
