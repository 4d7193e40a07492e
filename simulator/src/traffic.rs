//! Counts what goes over the network.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::Query;

/// Clients that are counted each by itself; the messages of more are in the totals alone.
const MAX_CLIENTS: usize = 256;

/// Messages of one second that are counted for one client and node; a client that sends more has
/// this peak.
const MAX_PEAK: usize = 1_000;

/// Messages so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that reached a node, dead or alive.
    pub received: Counts,
    /// Replies that were sent, errors too, by what they answer.
    pub answered: Counts,
    /// Datagrams that were no request; they are not answered.
    pub ignored: u64,
    /// Replies that were not sent, because too many were under way.
    pub overflowed: u64,
    /// `get`s that were not traced for want of room.
    pub untraced: u64,
    /// By the client's socket; of 256 clients at most.
    pub clients: BTreeMap<SocketAddrV4, ClientTraffic>,
}

/// Messages by their kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// `ping`
    pub ping: u64,
    /// `find_node`
    pub find_node: u64,
    /// `get_peers`
    pub get_peers: u64,
    /// `get`
    pub get: u64,
    /// `put`
    pub put: u64,
    /// Requests that were refused as malformed or unknown.
    pub bad: u64,
}

/// What one client sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientTraffic {
    /// Requests to all nodes together.
    pub messages: u64,
    /// The most requests that any one node got from it within a second.
    pub peak: usize,
}

/// What is counted of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Ping,
    FindNode,
    GetPeers,
    Get,
    Put,
    Bad,
}

impl Kind {
    pub(crate) fn of<E>(query: &Result<Query<'_>, E>) -> Self {
        match query {
            Ok(Query::Ping) => Self::Ping,
            Ok(Query::FindNode { .. }) => Self::FindNode,
            Ok(Query::GetPeers { .. }) => Self::GetPeers,
            Ok(Query::Get { .. }) => Self::Get,
            Ok(Query::Put(_)) => Self::Put,
            Err(_) => Self::Bad,
        }
    }
}

impl Counts {
    pub(crate) fn add(&mut self, kind: Kind) {
        let count = match kind {
            Kind::Ping => &mut self.ping,
            Kind::FindNode => &mut self.find_node,
            Kind::GetPeers => &mut self.get_peers,
            Kind::Get => &mut self.get,
            Kind::Put => &mut self.put,
            Kind::Bad => &mut self.bad,
        };
        *count += 1;
    }

    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.ping + self.find_node + self.get_peers + self.get + self.put + self.bad
    }
}

/// Finds the most messages from one client to one node in any second.
#[derive(Debug, Default)]
pub(crate) struct Peaks {
    /// When each client asked each node, within the last second.
    recent: HashMap<SocketAddrV4, HashMap<usize, VecDeque<Instant>>>,
}

impl Peaks {
    /// Counts a request of `client` to `node`.
    pub(crate) fn add(
        &mut self,
        clients: &mut BTreeMap<SocketAddrV4, ClientTraffic>,
        client: SocketAddrV4,
        node: usize,
        now: Instant,
    ) {
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            return;
        }
        let recent = self.recent.entry(client).or_default();
        let recent = recent.entry(node).or_default();
        let over = |then: &Instant| now.duration_since(*then) >= Duration::from_secs(1);
        while recent.front().is_some_and(over) || recent.len() >= MAX_PEAK {
            recent.pop_front();
        }
        recent.push_back(now);
        let traffic = clients.entry(client).or_default();
        traffic.messages += 1;
        traffic.peak = traffic.peak.max(recent.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([127, 0, 0, 1].into(), port)
    }

    #[test]
    fn the_peak_is_of_one_client_one_node_and_any_second() {
        let mut peaks = Peaks::default();
        let mut clients = BTreeMap::new();
        let start = Instant::now();
        let mut at = |port, node, millis| {
            let now = start + Duration::from_millis(millis);
            peaks.add(&mut clients, client(port), node, now);
        };
        at(1, 1, 0);
        at(1, 1, 900);
        at(1, 1, 1_000);
        at(1, 1, 1_800);
        at(1, 2, 1_800);
        at(2, 1, 1_800);
        let of = |messages, peak| ClientTraffic { messages, peak };
        let expected = [(client(1), of(5, 3)), (client(2), of(1, 1))];
        assert_eq!(clients, BTreeMap::from(expected));
    }

    #[test]
    fn clients_and_peaks_are_bounded() {
        let mut peaks = Peaks::default();
        let mut clients = BTreeMap::new();
        let now = Instant::now();
        for _ in 0..MAX_PEAK + 5 {
            peaks.add(&mut clients, client(1), 1, now);
        }
        assert_eq!(clients[&client(1)].peak, MAX_PEAK);
        for port in 0..1_000 {
            peaks.add(&mut clients, client(port), 1, now);
        }
        assert_eq!(clients.len(), MAX_CLIENTS);
        assert_eq!(peaks.recent.len(), MAX_CLIENTS);
    }
}
