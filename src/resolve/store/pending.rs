//! What the disk does not know yet: changes by key, the newest of each, bounded.

use std::collections::{HashMap, VecDeque};

use crate::pkarr::{PublicKey, SignedPacket};

/// Keys with changes that wait for the disk, about 1 KiB each. The DHT gives some hundred packets a
/// second at most, so this is only reached while the disk fails or hangs.
pub(super) const MAX_CHANGES: usize = 8192;

/// What has happened to a key.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    /// The newest packet, and when it was confirmed, in seconds of Unix time.
    pub(super) packet: Option<(SignedPacket, u64)>,
    /// The highest `seq` seen without a packet that can be used.
    pub(super) seq: Option<u64>,
    /// Somebody asked for it.
    pub(super) touched: bool,
    /// The packet that was there before this change goes.
    pub(super) forgotten: bool,
    /// What is on disk turned out not to be signed.
    pub(super) distrusted: bool,
}

impl Change {
    /// As [`super::record::Record`] takes it in: what is older than something known does not count.
    pub(super) fn put(&mut self, packet: SignedPacket, confirmed: u64) {
        let is_news = match &self.packet {
            Some((held, _)) if *held == packet => true,
            Some((held, _)) if !packet.is_newer_than(held) => false,
            _ => Some(packet.seq()) >= self.seq,
        };
        if is_news {
            self.packet = Some((packet, confirmed));
        }
    }

    pub(super) fn put_seq(&mut self, seq: u64) {
        self.seq = self.seq.max(Some(seq));
    }

    pub(super) fn forget(&mut self) {
        if let Some((packet, _)) = self.packet.take() {
            self.put_seq(packet.seq());
        }
        (self.forgotten, self.touched) = (true, false);
    }

    /// This change and then a later one.
    fn then(&mut self, later: Self) {
        if later.forgotten {
            self.forget();
        }
        if let Some(seq) = later.seq {
            self.put_seq(seq);
        }
        if let Some((packet, confirmed)) = later.packet {
            self.put(packet, confirmed);
        }
        self.touched |= later.touched;
        self.distrusted |= later.distrusted;
    }
}

/// Changes to many keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    /// All packets that were there before go.
    pub(super) forget_all: bool,
    by_key: HashMap<PublicKey, Change>,
    /// The keys, oldest change first.
    order: VecDeque<PublicKey>,
    /// Changes that had to go since the number was last taken.
    pub(super) dropped: u64,
}

impl Changes {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty() && !self.forget_all
    }

    pub(super) fn get(&self, key: &PublicKey) -> Option<&Change> {
        self.by_key.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PublicKey, &Change)> {
        self.by_key.iter()
    }

    /// The change of a key. For a new key the oldest one goes if there are too many.
    pub(super) fn of(&mut self, key: PublicKey) -> &mut Change {
        if !self.by_key.contains_key(&key) {
            if self.by_key.len() >= MAX_CHANGES
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_key.remove(&oldest);
                self.dropped += 1;
            }
            self.order.push_back(key);
        }
        self.by_key.entry(key).or_default()
    }

    pub(super) fn forget_all(&mut self) {
        self.forget_all = true;
        for change in self.by_key.values_mut() {
            change.forget();
        }
    }

    /// These changes and then later ones.
    pub(super) fn then(&mut self, mut later: Self) {
        if later.forget_all {
            self.forget_all();
        }
        self.dropped += later.dropped;
        for key in later.order {
            if let Some(change) = later.by_key.remove(&key) {
                self.of(key).then(change);
            }
        }
    }
}
