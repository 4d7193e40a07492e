//! What a seed makes: the nodes of a network, what each is like, and whom it knows.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::table::{self, Id};

/// How many nodes hold an item: those nearest to its target. The `mainline` crate puts to 20 or more.
pub const HOLDERS: usize = 20;

/// The most nodes of a network: each has a /24 of its own out of 127.1.0.0 to 127.126.255.255, since
/// clients take few nodes of one network. 127.0.0.0/16 is left to clients, 127.128.0.0/9 to nodes
/// that do not exist.
pub const MAX_NODES: usize = 126 * 256;

/// How many bootstrap nodes there are, if enough nodes are honest.
const BOOTSTRAP_NODES: usize = 4;

/// The most nodes that a reply may name: with these and the largest value it has 2048 bytes at most,
/// which is what the `mainline` crate receives.
const MAX_BUCKET: usize = 24;

/// The longest round trip, jitter included: far longer than any client waits.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(60);

/// What a network is like.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many nodes there are, dead ones and poisoners included; up to [`MAX_NODES`].
    pub nodes: usize,
    /// Makes ids, tables, and who is dead or a poisoner; also the round trips and losses of each node,
    /// in the order in which it is asked.
    pub seed: u64,
    /// From a request's arrival to its reply. All of it is put on the reply.
    pub round_trip: Duration,
    /// Each round trip is longer or shorter by up to this much, evenly distributed.
    pub jitter: Duration,
    /// The share of replies that get lost.
    pub loss: f64,
    /// The share of nodes that never answer and yet stand in the tables of others.
    pub dead: f64,
    /// The share of nodes that answer every search with invented nodes very near the target.
    pub poisoners: f64,
    /// How many nodes of each sub-tree a table has, and how many nodes a reply names: 8 in BEP 5, 20 in
    /// the `mainline` crate; 24 at most.
    pub bucket: usize,
    /// Whether lookups are traced.
    pub trace: bool,
    /// The UDP port of all nodes; 0 for one that is free.
    pub port: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: 100,
            seed: 0,
            round_trip: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            dead: 0.0,
            poisoners: 0.0,
            bucket: 8,
            trace: false,
            port: 0,
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), String> {
        let share = |name: &str, share: f64| match (0.0..=1.0).contains(&share) {
            true => Ok(()),
            false => Err(format!("{name} is a share, from 0 to 1, not {share}")),
        };
        share("loss", self.loss)?;
        share("dead", self.dead)?;
        share("poisoners", self.poisoners)?;
        if !(1..=MAX_NODES).contains(&self.nodes) {
            return Err(format!(
                "nodes is from 1 to {MAX_NODES}, not {}",
                self.nodes
            ));
        }
        if !(1..=MAX_BUCKET).contains(&self.bucket) {
            return Err(format!(
                "bucket is from 1 to {MAX_BUCKET}, not {}",
                self.bucket
            ));
        }
        if self.round_trip.saturating_add(self.jitter) > MAX_ROUND_TRIP {
            return Err(format!("a round trip is {MAX_ROUND_TRIP:?} at most"));
        }
        Ok(())
    }
}

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Honest,
    /// Never answers.
    Dead,
    /// Answers searches with invented nodes, has no values and keeps none.
    Poisoner,
}

/// A node; its id is at the same place of [`World::ids`].
#[derive(Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) role: Role,
    /// The nodes that it knows, by their places.
    pub(crate) contacts: Vec<usize>,
    /// Seed of what is random about it.
    pub(crate) seed: u64,
}

/// All nodes. They are known by their place, which is in the order of their ids.
#[derive(Debug, PartialEq)]
pub(crate) struct World {
    pub(crate) ids: Vec<Id>,
    pub(crate) nodes: Vec<Node>,
}

impl World {
    /// Makes the nodes of a network; the same for the same settings.
    pub(crate) fn new(settings: &Settings) -> io::Result<Self> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        settings.check().map_err(invalid)?;
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let mut ids: Vec<Id> = (0..settings.nodes)
            .map(|_| Id::from(rng.random::<[u8; 20]>()))
            .collect();
        ids.sort_unstable();
        let roles = roles(settings, &mut rng);
        if !roles.contains(&Role::Honest) {
            return Err(invalid(
                "no node is left that is honest and alive".to_owned(),
            ));
        }
        let node = |(own, role)| Node {
            role,
            contacts: table::contacts(&ids, own, settings.bucket, &mut rng),
            seed: rng.random(),
        };
        let nodes = roles.into_iter().enumerate().map(node).collect();
        Ok(Self { ids, nodes })
    }

    /// The places of the live honest nodes.
    pub(crate) fn honest(&self) -> impl Iterator<Item = usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(|(place, node)| (node.role == Role::Honest).then_some(place))
    }

    /// The places of a few live honest nodes, far from each other.
    pub(crate) fn bootstrap(&self) -> Vec<usize> {
        let step = self.honest().count().div_ceil(BOOTSTRAP_NODES).max(1);
        self.honest().step_by(step).collect()
    }

    /// The places of the nodes that hold what is stored at `target`, the nearest first.
    pub(crate) fn holders(&self, target: Id) -> Vec<usize> {
        table::nearest(&self.ids, self.honest(), target, HOLDERS)
    }
}

/// A role for each node, as many of each as their shares say.
fn roles(settings: &Settings, rng: &mut StdRng) -> Vec<Role> {
    let mut order: Vec<usize> = (0..settings.nodes).collect();
    order.shuffle(rng);
    let mut roles = vec![Role::Honest; settings.nodes];
    let mut order = order.into_iter();
    for (role, share) in [
        (Role::Dead, settings.dead),
        (Role::Poisoner, settings.poisoners),
    ] {
        for place in order.by_ref().take(part(settings.nodes, share)) {
            if let Some(node) = roles.get_mut(place) {
                *node = role;
            }
        }
    }
    roles
}

/// That share of a number, rounded.
fn part(number: usize, share: f64) -> usize {
    let millionths = Duration::from_secs(1).mul_f64(share).as_micros();
    let number = u128::try_from(number).unwrap_or_default();
    usize::try_from((number * millionths + 500_000) / 1_000_000).unwrap_or_default()
}

/// The address of the node at that place.
pub(crate) fn address(place: usize, port: u16) -> SocketAddrV4 {
    let [.., high, low] = place.to_be_bytes();
    let ip = Ipv4Addr::new(127, high.saturating_add(1), low, 1);
    SocketAddrV4::new(ip, port)
}

/// The nodes that a poisoner invents: so near to the target that no real node is nearer, at addresses
/// where nobody listens. The same for the same poisoner and target.
pub(crate) fn invented(seed: u64, target: Id, count: usize, port: u16) -> Vec<(Id, SocketAddrV4)> {
    let mut rng = StdRng::seed_from_u64(seed ^ u64::from(target.low));
    let mut one = || {
        let low = rng.random();
        let [_, b, c, d] = rng.random::<[u8; 4]>();
        let ip = Ipv4Addr::new(127, b | 0x80, c, d);
        (Id { low, ..target }, SocketAddrV4::new(ip, port))
    };
    (0..count).map(|_| one()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn settings() -> Settings {
        Settings {
            nodes: 400,
            seed: 3,
            dead: 0.25,
            poisoners: 0.1,
            ..Settings::default()
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_network_and_another_seed_another() {
        let one = World::new(&settings()).unwrap();
        assert!(one == World::new(&settings()).unwrap());
        let other = Settings {
            seed: 4,
            ..settings()
        };
        assert!(one != World::new(&other).unwrap());
    }

    #[test]
    fn there_are_as_many_of_each_role_as_the_shares_say() {
        let world = World::new(&settings()).unwrap();
        let count = |role| world.nodes.iter().filter(|node| node.role == role).count();
        assert_eq!(count(Role::Dead), 100);
        assert_eq!(count(Role::Poisoner), 40);
        assert_eq!(count(Role::Honest), 260);
    }

    #[test]
    fn dead_nodes_and_poisoners_stand_in_tables_and_hold_nothing() {
        let world = World::new(&settings()).unwrap();
        for role in [Role::Dead, Role::Poisoner] {
            let of = |place: &usize| world.nodes[*place].role == role;
            assert!(world.nodes.iter().any(|node| node.contacts.iter().any(of)));
            assert!(!world.bootstrap().iter().any(of));
            assert!(!world.holders(world.ids[0]).iter().any(of));
        }
        assert_eq!(world.bootstrap().len(), BOOTSTRAP_NODES);
        assert_eq!(world.holders(world.ids[0]).len(), HOLDERS);
    }

    #[test]
    fn every_node_has_an_address_of_its_own_and_the_invented_have_others() {
        let real: HashSet<SocketAddrV4> = (0..MAX_NODES).map(|at| address(at, 9)).collect();
        assert_eq!(real.len(), MAX_NODES);
        assert_eq!(address(0, 9).ip(), &Ipv4Addr::new(127, 1, 0, 1));
        assert_eq!(
            address(MAX_NODES - 1, 9).ip(),
            &Ipv4Addr::new(127, 126, 255, 1)
        );
        let target = Id { high: 5, low: 6 };
        let nodes = invented(1, target, 20, 9);
        assert_eq!(nodes, invented(1, target, 20, 9));
        assert_ne!(nodes, invented(2, target, 20, 9));
        for (id, address) in nodes {
            assert_eq!(id.high, target.high);
            assert!(!real.contains(&address));
        }
    }

    #[test]
    fn settings_that_make_no_network_are_refused() {
        for wrong in [
            Settings {
                nodes: 0,
                ..settings()
            },
            Settings {
                nodes: MAX_NODES + 1,
                ..settings()
            },
            Settings {
                bucket: 0,
                ..settings()
            },
            Settings {
                bucket: MAX_BUCKET + 1,
                ..settings()
            },
            Settings {
                loss: 1.1,
                ..settings()
            },
            Settings {
                loss: f64::NAN,
                ..settings()
            },
            Settings {
                dead: -0.1,
                ..settings()
            },
            Settings {
                round_trip: MAX_ROUND_TRIP,
                jitter: Duration::MAX,
                ..settings()
            },
            Settings {
                dead: 0.5,
                poisoners: 0.5,
                ..settings()
            },
        ] {
            let error = World::new(&wrong).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{wrong:?}");
        }
    }
}
