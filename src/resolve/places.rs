//! A share of the places for each client: one that asks for all of them leaves some to the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::packets::Asker;

/// How many places each asker has taken.
#[derive(Debug)]
pub(crate) struct Places {
    taken: Mutex<HashMap<Asker, usize>>,
    share: usize,
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    asker: Asker,
}

impl Places {
    /// At most `share` places for each asker.
    pub(crate) fn new(share: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::new(HashMap::new()),
            share,
        })
    }

    /// Takes a place, if the asker has one left.
    pub(crate) fn take(self: &Arc<Self>, asker: Asker) -> Option<Place> {
        let mut taken = self.lock();
        let own = taken.entry(asker).or_default();
        if *own >= self.share {
            return None;
        }
        *own += 1;
        Some(Place {
            places: Arc::clone(self),
            asker,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Asker, usize>> {
        // Nothing panics while it is held.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(own) = taken.get_mut(&self.asker) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.asker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn each_asker_has_its_share_and_leaves_nothing_behind() {
        let places = Places::new(2);
        let [one, two] =
            [1, 2].map(|last| Asker::from(IpAddr::from(Ipv4Addr::new(10, 0, 0, last))));
        let first = places.take(one).unwrap();
        let second = places.take(one).unwrap();
        assert!(places.take(one).is_none());
        let other = places.take(two).unwrap();
        drop(first);
        let third = places.take(one).unwrap();
        drop((second, third, other));
        assert!(places.lock().is_empty());
    }
}
