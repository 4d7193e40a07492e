//! How many connections there may be, in all and of one client, and which one makes room for the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The bits of an IPv6 address that a host chooses itself, and may choose anew for each connection:
/// the interface identifier (RFC 4291 section 2.5.4, RFC 8981). So a client is a /64.
const INTERFACE_BITS: u128 = (1 << 64) - 1;

/// Counts the connections of all listeners against limits that a reload may change.
// RFC 9210 section 4.2: a limit in all, and one for each source address or subnet.
#[derive(Debug)]
pub(crate) struct Places(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    limit: usize,
    limit_per_client: usize,
    open: usize,
    clients: HashMap<IpAddr, Client>,
    /// Idle connections by the turn at which they became so: the first has been idle for longest.
    idle: BTreeMap<u64, Idle>,
    next_turn: u64,
}

/// What one client has open: at least one connection.
#[derive(Debug, Default)]
struct Client {
    open: usize,
    /// The turns of those that are idle.
    idle: BTreeSet<u64>,
}

#[derive(Debug)]
struct Idle {
    client: IpAddr,
    signals: Signals,
}

#[derive(Debug, Clone, Default)]
struct Signals {
    /// Another connection needs the place.
    wanted: CancellationToken,
    /// The connection is closed.
    left: CancellationToken,
}

/// One connection's place, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    client: IpAddr,
    /// When the connection became idle, if it is. The table does not know it any more once the place
    /// has been given to another connection.
    turn: Option<u64>,
    signals: Signals,
}

/// Which limit leaves no room.
#[derive(Debug, Clone, Copy)]
enum Limit {
    Total,
    OfClient,
}

impl Places {
    /// Room for `limit` connections, `limit_per_client` of them for one client.
    pub(crate) fn new(limit: usize, limit_per_client: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Table {
            limit,
            limit_per_client,
            ..Table::default()
        })))
    }

    /// Changes the limits. Connections that are open stay, and count.
    pub(crate) fn set_limits(&self, limit: usize, limit_per_client: usize) {
        let mut table = self.lock();
        table.limit = limit;
        table.limit_per_client = limit_per_client;
    }

    /// A place for a new connection, or none. At a limit the connection that has been idle for
    /// longest gives up its place; this returns when it is closed, so that there are never more
    /// sockets than places.
    pub(super) async fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = client_of(address);
        let (place, leaving) = self.enter(client);
        for left in leaving {
            left.cancelled().await;
        }
        place
    }

    fn enter(self: &Arc<Self>, client: IpAddr) -> (Option<Place>, Vec<CancellationToken>) {
        let mut table = self.lock();
        let mut leaving = Vec::new();
        // More than one only after a reload has lowered a limit.
        while let Some(full) = table.reached_limit(client) {
            let oldest = match full {
                Limit::Total => table.idle.first_key_value().map(|(turn, _)| *turn),
                Limit::OfClient => table.oldest_of(client),
            };
            let Some(idle) = oldest.and_then(|turn| table.leave_idle(turn)) else {
                return (None, leaving);
            };
            table.close(idle.client);
            idle.signals.wanted.cancel();
            leaving.push(idle.signals.left);
        }
        table.open += 1;
        table.clients.entry(client).or_default().open += 1;
        // It has not asked anything yet.
        let signals = Signals::default();
        let place = Place {
            places: Arc::clone(self),
            client,
            turn: Some(table.enter_idle(client, signals.clone())),
            signals,
        };
        (Some(place), leaving)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn reached_limit(&self, client: IpAddr) -> Option<Limit> {
        let of_client = self.clients.get(&client).map_or(0, |client| client.open);
        // First the client's own: what it closes for itself makes room in all, too.
        if of_client >= self.limit_per_client {
            Some(Limit::OfClient)
        } else if self.open >= self.limit {
            Some(Limit::Total)
        } else {
            None
        }
    }

    fn oldest_of(&self, client: IpAddr) -> Option<u64> {
        self.clients.get(&client)?.idle.first().copied()
    }

    fn enter_idle(&mut self, client: IpAddr, signals: Signals) -> u64 {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.idle.insert(turn, Idle { client, signals });
        self.clients.entry(client).or_default().idle.insert(turn);
        turn
    }

    fn leave_idle(&mut self, turn: u64) -> Option<Idle> {
        let idle = self.idle.remove(&turn)?;
        if let Some(client) = self.clients.get_mut(&idle.client) {
            client.idle.remove(&turn);
        }
        Some(idle)
    }

    /// One connection of this client less.
    fn close(&mut self, address: IpAddr) {
        self.open -= 1;
        if let Some(client) = self.clients.get_mut(&address) {
            client.open -= 1;
            if client.open == 0 {
                self.clients.remove(&address);
            }
        }
    }
}

impl Place {
    /// Tells whether the connection is idle, so that it may make room for another one.
    pub(super) fn set_idle(&mut self, idle: bool) {
        match (self.turn, idle) {
            (None, true) => {
                let mut table = self.places.lock();
                self.turn = Some(table.enter_idle(self.client, self.signals.clone()));
            }
            (Some(turn), false) if self.places.lock().leave_idle(turn).is_some() => {
                self.turn = None;
            }
            _ => {}
        }
    }

    /// Waits until the place has been given to another connection.
    pub(super) fn wanted(&self) -> impl Future<Output = ()> + use<> {
        self.signals.wanted.clone().cancelled_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.lock();
        let given_away = self
            .turn
            .is_some_and(|turn| table.leave_idle(turn).is_none());
        if !given_away {
            table.close(self.client);
        }
        drop(table);
        self.signals.left.cancel();
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 network.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !INTERFACE_BITS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "192.0.2.1";
    const B: &str = "192.0.2.2";

    /// A new connection, and how many others leave for it.
    fn enter(places: &Arc<Places>, address: &str) -> (Option<Place>, usize) {
        let (place, leaving) = places.enter(client_of(address.parse().unwrap()));
        (place, leaving.len())
    }

    /// A new connection for which nobody leaves.
    fn enter_free(places: &Arc<Places>, address: &str) -> Place {
        let (place, leaving) = enter(places, address);
        assert_eq!(leaving, 0);
        place.unwrap()
    }

    fn enter_busy(places: &Arc<Places>, address: &str) -> Place {
        let mut place = enter_free(places, address);
        place.set_idle(false);
        place
    }

    fn is_wanted(place: &Place) -> bool {
        place.signals.wanted.is_cancelled()
    }

    /// That nothing is left over once all connections are closed.
    fn assert_empty(places: &Places) {
        let table = places.lock();
        assert_eq!(table.open, 0);
        assert!(table.clients.is_empty());
        assert!(table.idle.is_empty());
    }

    #[test]
    fn the_one_that_is_idle_for_longest_leaves() {
        let places = Places::new(3, 3);
        let mut first = enter_free(&places, A);
        let second = enter_free(&places, B);
        let third = enter_free(&places, A);
        // A question and its answer: now the second one is idle for longest.
        first.set_idle(false);
        first.set_idle(true);
        let (fourth, leaving) = enter(&places, B);
        assert_eq!(leaving, 1);
        assert!(fourth.is_some());
        assert!(is_wanted(&second));
        let (fifth, leaving) = enter(&places, A);
        assert_eq!(leaving, 1);
        assert!(fifth.is_some());
        assert!(is_wanted(&third));
        assert!(!is_wanted(&first));
        drop((first, second, third, fourth, fifth));
        assert_empty(&places);
    }

    #[test]
    fn busy_ones_stay_and_the_new_one_is_refused() {
        let places = Places::new(2, 2);
        let (first, second) = (enter_busy(&places, A), enter_busy(&places, B));
        for address in [A, B, "192.0.2.3"] {
            let (place, leaving) = enter(&places, address);
            assert_eq!(leaving, 0);
            assert!(place.is_none());
        }
        drop(first);
        assert!(!is_wanted(&second));
        enter_free(&places, A);
        drop(second);
        assert_empty(&places);
    }

    #[test]
    fn at_its_own_limit_a_client_makes_room_for_itself() {
        let places = Places::new(10, 2);
        let other = enter_free(&places, B);
        let (mine_busy, mine_idle) = (enter_busy(&places, A), enter_free(&places, A));
        let (third, leaving) = enter(&places, A);
        assert_eq!(leaving, 1);
        let mut third = third.unwrap();
        assert!(is_wanted(&mine_idle));
        third.set_idle(false);
        assert!(enter(&places, A).0.is_none());
        assert!(!is_wanted(&other));
        drop((other, mine_busy, mine_idle, third));
        assert_empty(&places);
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let client = |text: &str| client_of(text.parse().unwrap());
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("192.0.2.1"), client("::ffff:192.0.2.1"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1:2:3"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
    }

    #[test]
    fn a_place_that_was_given_away_stays_given_away() {
        let places = Places::new(1, 1);
        let mut first = enter_free(&places, A);
        let (second, _) = enter(&places, B);
        let mut second = second.unwrap();
        // A question came too late; and when the first one closes, the second one still counts.
        first.set_idle(false);
        first.set_idle(true);
        drop(first);
        second.set_idle(false);
        assert!(enter(&places, A).0.is_none());
        drop(second);
        assert_empty(&places);
    }

    #[test]
    fn limits_change_and_open_connections_stay() {
        let places = Places::new(4, 2);
        let first = enter_busy(&places, A);
        let (second, third) = (enter_free(&places, A), enter_free(&places, B));
        places.set_limits(2, 1);
        assert!(!is_wanted(&second) && !is_wanted(&third));
        // Two must go for one to come.
        let (fourth, leaving) = enter(&places, "192.0.2.3");
        assert_eq!(leaving, 2);
        assert!(is_wanted(&second) && is_wanted(&third));
        assert!(enter(&places, A).0.is_none(), "its busy one stays");
        places.set_limits(3, 2);
        let fifth = enter_free(&places, A);
        drop((first, second, third, fourth, fifth));
        assert_empty(&places);
    }

    #[tokio::test]
    async fn a_place_is_taken_when_the_old_connection_is_closed() {
        let places = Places::new(1, 1);
        let address = A.parse().unwrap();
        let first = places.take(address).await.unwrap();
        let mut second = std::pin::pin!(places.take(address));
        tokio::select! {
            biased;
            _ = &mut second => panic!("the first one is still open"),
            () = first.wanted() => {}
        }
        drop(first);
        assert!(second.await.is_some());
    }
}
