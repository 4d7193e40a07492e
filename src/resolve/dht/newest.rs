//! The newest of what a lookup has found so far.

use std::collections::BTreeMap;

use mainline::MutableItem;

use crate::pkarr::{PacketError, PublicKey, SignedPacket};
use crate::resolve::packets::{Holders, See, Sighting};

/// Nodes that must hold the same newest packet for it to be believed at once.
const AGREEMENT: u32 = 3;

/// The newest of what a lookup has found so far.
#[derive(Debug, Default)]
pub(super) struct Newest {
    item: Option<Sighting>,
    holders: Holders,
    /// The highest sequence number of what is older.
    older_seq: Option<u64>,
    /// Whether `item` has been shown.
    is_shown: bool,
    /// Items that were refused, by reason.
    refused: BTreeMap<&'static str, u64>,
}

impl Newest {
    pub(super) fn take(&mut self, key: PublicKey, item: &MutableItem) {
        let Ok(seq) = u64::try_from(item.seq()) else {
            self.refuse("seq below zero");
            return;
        };
        let newest = self.item.as_ref();
        if newest.is_some_and(|newest| seq < newest.seq()) {
            self.older(seq, 1);
            return;
        }
        // The library has verified it: the same bytes need no second look.
        if let Some(Sighting::Packet(packet)) = newest
            && (packet.seq(), packet.dns()) == (seq, item.value())
        {
            self.holders.newest = self.holders.newest.saturating_add(1);
            return;
        }
        let verified = SignedPacket::verify(key, item.signature(), seq, item.value());
        if let Err(error) = &verified {
            self.refuse(kind(error));
        }
        let sighting = match Sighting::of(seq, verified) {
            Ok(sighting) => sighting,
            Err(error) => {
                tracing::debug!(%key, %error, "a DHT item is refused");
                return;
            }
        };
        if self
            .item
            .as_ref()
            .is_none_or(|newest| sighting.replaces(newest))
        {
            if let Some(replaced) = &self.item {
                self.older(replaced.seq(), self.holders.newest);
            }
            self.holders.newest = 1;
            (self.item, self.is_shown) = (Some(sighting), false);
        } else {
            self.older(seq, 1);
        }
    }

    fn older(&mut self, seq: u64, holders: u32) {
        self.holders.older = self.holders.older.saturating_add(holders);
        self.older_seq = self.older_seq.max(Some(seq));
    }

    /// Shows the newest, unless that was done.
    pub(super) fn show(&mut self, see: &mut See<'_>) {
        if let Some(item) = &self.item
            && !std::mem::replace(&mut self.is_shown, true)
        {
            see(item.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.item.is_none()
    }

    /// Whether a newer one is not to be expected: several nodes agree, or it is not older than the
    /// newest ever seen.
    pub(super) fn is_surely_new(&self, known_seq: Option<u64>) -> bool {
        let Some(item) = &self.item else {
            return false;
        };
        self.holders.newest >= AGREEMENT || known_seq.is_some_and(|known| item.seq() >= known)
    }

    pub(super) fn is_invalid(&self) -> bool {
        matches!(self.item, Some(Sighting::Invalid { .. }))
    }

    pub(super) fn holders(&self) -> Holders {
        self.holders
    }

    pub(super) fn item(&self) -> Option<&Sighting> {
        self.item.as_ref()
    }

    /// The highest sequence number of what is older than the newest.
    pub(super) fn older_seq(&self) -> Option<u64> {
        self.older_seq
    }

    pub(super) fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }
}

/// Why an item is refused, in few words: what is counted by.
fn kind(error: &PacketError) -> &'static str {
    match error {
        PacketError::Short => "too short",
        PacketError::Key(_) => "key",
        PacketError::Signature => "signature",
        PacketError::Seq => "seq",
        PacketError::TooLarge(_) => "too large",
        PacketError::Dns(_) => "no DNS message",
    }
}
