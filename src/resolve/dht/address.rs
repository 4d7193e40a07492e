//! The address at which the DHT's nodes see this host. Nodes say it with each answer (BEP 42), so that no
//! third party has to be asked.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::{Dht, Node};

impl Dht {
    /// This host's IPv4 address as the nodes see it: each instance asks others, those near a target of its
    /// own, and more than half of the instances must have come to the same. `None` if they have not.
    pub async fn public_address(&self) -> Option<Ipv4Addr> {
        let deadline = Instant::now() + self.lookup_timeout;
        let nodes: Vec<Arc<Node>> = {
            let states = self.states.borrow();
            let joined = states.iter().filter(|state| state.joined);
            joined.filter_map(|state| state.node.clone()).collect()
        };
        let ask = nodes
            .iter()
            .map(|node| timeout_at(deadline, node.seen_at()));
        let told: Vec<_> = join_all(ask)
            .await
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        agreed(&told, nodes.len())
    }
}

/// What more than half of so many say.
fn agreed(told: &[Ipv4Addr], of: usize) -> Option<Ipv4Addr> {
    let mut votes = HashMap::<Ipv4Addr, usize>::new();
    for address in told {
        *votes.entry(*address).or_default() += 1;
    }
    let most = votes.into_iter().max_by_key(|(_, count)| *count)?;
    (2 * most.1 > of).then_some(most.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_must_say_the_same() {
        let [one, two] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
        assert_eq!(agreed(&[], 0), None);
        assert_eq!(agreed(&[one], 1), Some(one));
        assert_eq!(agreed(&[one, two, one, one], 4), Some(one));
        assert_eq!(agreed(&[one, two, one], 4), None, "one is silent");
        assert_eq!(agreed(&[one, two, one, two], 4), None);
    }
}
