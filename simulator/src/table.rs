//! Node ids, and who knows whom.

use std::ops::{BitXor, Range};

use rand::Rng;
use rand::seq::index;

/// A node id, or a target: 160 bits, compared as a number. The XOR of two is their distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    /// The first 128 bits.
    pub(crate) high: u128,
    /// The last 32 bits.
    pub(crate) low: u32,
}

/// How many bits an id has.
const BITS: u32 = 160;

impl Id {
    pub(crate) fn bytes(self) -> [u8; 20] {
        let high = self.high.to_be_bytes().into_iter();
        let mut all = high.chain(self.low.to_be_bytes());
        std::array::from_fn(|_| all.next().unwrap_or_default())
    }

    /// The bit at that place, counted from the first.
    fn bit(self, place: u32) -> bool {
        if place < u128::BITS {
            (self.high << place).leading_zeros() == 0
        } else {
            (self.low << (place - u128::BITS)).leading_zeros() == 0
        }
    }
}

impl From<[u8; 20]> for Id {
    fn from(bytes: [u8; 20]) -> Self {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |number: u128, byte| (number << 8) | u128::from(*byte))
        };
        let (high, low) = bytes.split_at(16);
        Self {
            high: number(high),
            low: u32::try_from(number(low)).unwrap_or_default(),
        }
    }
}

impl BitXor for Id {
    type Output = Self;

    fn bitxor(self, other: Self) -> Self {
        Self {
            high: self.high ^ other.high,
            low: self.low ^ other.low,
        }
    }
}

/// The routing table of the node at place `own` in `ids`, which are sorted: for each number of bits
/// that an id can share with it, up to `bucket` of the nodes that do, at random. That is what a node
/// of BEP 5 ends up with after a long time.
pub(crate) fn contacts(ids: &[Id], own: usize, bucket: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut contacts = Vec::new();
    // The places of the ids that share all bits up to `place` with our own; they stand together.
    let mut near = 0..ids.len();
    for place in 0..BITS {
        if near.len() <= 1 {
            break;
        }
        let ones = ids
            .get(near.clone())
            .map_or(0, |ids| ids.partition_point(|id| !id.bit(place)));
        let middle = near.start + ones;
        let lower = near.start..middle;
        let upper = middle..near.end;
        let other: Range<usize>;
        (near, other) = if own < middle {
            (lower, upper)
        } else {
            (upper, lower)
        };
        let chosen = index::sample(rng, other.len(), bucket.min(other.len()));
        contacts.extend(chosen.into_iter().map(|at| other.start + at));
    }
    contacts
}

/// The `count` of `places` whose ids are nearest to `target`, the nearest first.
pub(crate) fn nearest(
    ids: &[Id],
    places: impl Iterator<Item = usize>,
    target: Id,
    count: usize,
) -> Vec<usize> {
    let mut by_distance: Vec<(Id, usize)> = places
        .filter_map(|place| ids.get(place).map(|id| (*id ^ target, place)))
        .collect();
    if by_distance.len() > count {
        by_distance.select_nth_unstable(count);
        by_distance.truncate(count);
    }
    by_distance.sort_unstable();
    by_distance.into_iter().map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn ids(count: usize) -> (Vec<Id>, StdRng) {
        let mut rng = StdRng::seed_from_u64(7);
        let mut ids: Vec<Id> = (0..count)
            .map(|_| Id::from(rng.random::<[u8; 20]>()))
            .collect();
        ids.sort_unstable();
        (ids, rng)
    }

    fn shared_bits(one: Id, other: Id) -> u32 {
        let distance = one ^ other;
        if distance.high == 0 {
            u128::BITS + distance.low.leading_zeros()
        } else {
            distance.high.leading_zeros()
        }
    }

    #[test]
    fn an_id_is_its_bytes_in_their_order() {
        let bytes: [u8; 20] = std::array::from_fn(|at| u8::try_from(at).unwrap() * 13);
        let id = Id::from(bytes);
        assert_eq!(id.bytes(), bytes);
        for (place, byte) in (0..).zip(bytes) {
            for bit in 0..8 {
                assert_eq!(id.bit(place * 8 + bit), byte & (0x80 >> bit) != 0);
            }
        }
        assert!(Id::from([1; 20]) < Id::from([2; 20]));
    }

    #[test]
    fn a_table_has_as_many_of_each_sub_tree_as_the_bucket_and_the_sub_tree_allow() {
        let (ids, mut rng) = ids(500);
        for own in [0, 1, 250, 499] {
            let contacts = contacts(&ids, own, 8, &mut rng);
            for bits in 0..BITS {
                let shares = |place: &usize| shared_bits(ids[*place], ids[own]) == bits;
                let there = (0..500).filter(shares).count();
                let known = contacts.iter().filter(|place| shares(place)).count();
                assert_eq!(known, there.min(8), "node {own}, {bits} bits");
            }
            let mut once = contacts.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), contacts.len());
            assert!(!contacts.contains(&own));
        }
    }

    #[test]
    fn a_network_of_one_node_knows_nobody() {
        let (ids, mut rng) = ids(1);
        assert!(contacts(&ids, 0, 8, &mut rng).is_empty());
    }

    #[test]
    fn the_nearest_are_those_of_the_smallest_distance() {
        let (ids, mut rng) = ids(300);
        let target = Id::from(rng.random::<[u8; 20]>());
        let mut all: Vec<usize> = (0..300).collect();
        all.sort_by_key(|place| ids[*place] ^ target);
        assert_eq!(nearest(&ids, 0..300, target, 20), all[..20]);
        assert_eq!(nearest(&ids, 0..300, target, 300), all);
        assert_eq!(nearest(&ids, 0..300, target, 1000), all);
        assert!(nearest(&ids, 0..300, target, 0).is_empty());
    }
}
