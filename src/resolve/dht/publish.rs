//! Publishing: a packet is put by compare-and-swap against the newest that was found, so that two who publish
//! under one key never overwrite each other without a word; then it is read back.

use tokio::time::Instant;

use super::newest::Newest;
use super::node::PutError;
use super::{Dht, End};
use crate::pkarr::{PublicKey, SignedPacket};
use crate::resolve::failure::Failure;
use crate::resolve::packets::{Asker, Holders, Sighting, Wanted};

/// What is compared where there was no packet: every real one has a higher sequence number, which is a time.
const NOTHING: u64 = 0;

/// What a packet's publication came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Nodes that took it.
    pub stored: u32,
    /// Nodes that held it, or an older one, when it was read back.
    pub holders: Holders,
}

/// Why a packet is not published, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Somebody else has published under the key since it was looked up.
    #[error("another packet, of seq {seq}, was published under this key meanwhile")]
    Overtaken {
        /// The other packet's sequence number.
        seq: u64,
    },
    /// Most nodes hold something that lookups do not find.
    #[error("most DHT nodes refuse it, for they hold something else of this key")]
    Refused,
    /// No node took it.
    #[error("no DHT node took it: {0}")]
    NotStored(String),
    /// It was put, and not found again.
    #[error("{0} DHT nodes took it, but it could not be read back")]
    NotReadBack(u32),
    /// What is there could not be looked up.
    #[error(transparent)]
    Lookup(#[from] Failure),
}

impl Dht {
    /// The newest item of a key that nodes hold; `None` if they hold none, or so few answered that there may
    /// be one.
    ///
    /// # Errors
    /// If nobody could be asked.
    pub async fn newest(&self, key: PublicKey) -> Result<Option<Sighting>, Failure> {
        let found = self.look_for_all(key).await?;
        Ok(found.item().cloned())
    }

    /// Puts a packet in the place of the item with the sequence number `replaces`, the newest that was found,
    /// or of none, and reads it back from the network.
    ///
    /// # Errors
    /// If another one has been published meanwhile, or it is not known that the network holds this one.
    pub async fn publish(
        &self,
        packet: &SignedPacket,
        replaces: Option<u64>,
    ) -> Result<Published, PublishError> {
        let replaces = replaces.unwrap_or(NOTHING);
        let stored = match self.put(packet, Some(replaces)).await {
            Ok(stored) => Some(stored),
            Err(PutError::Refused) => None,
            Err(PutError::Failed(reason)) => return Err(PublishError::NotStored(reason)),
        };
        let found = self.look_for_all(packet.key()).await?;
        let is_there = check(&found, packet, replaces)?;
        match stored {
            None if found.is_empty() => return Err(PublishError::Refused),
            Some(stored) if is_there && found.holders().older == 0 => {
                let holders = found.holders();
                return Ok(Published { stored, holders });
            }
            Some(_) | None => {}
        }
        // Nodes that hold an older one than what is replaced refuse the comparison, too. Nobody holds a
        // newer one.
        let again = self.put(packet, None).await.unwrap_or(0);
        let stored = stored.unwrap_or(0).max(again);
        let found = self.look_for_all(packet.key()).await?;
        if check(&found, packet, replaces)? {
            let holders = found.holders();
            Ok(Published { stored, holders })
        } else {
            Err(PublishError::NotReadBack(stored))
        }
    }

    /// Looks for what nodes hold of a key, to the end.
    async fn look_for_all(&self, key: PublicKey) -> Result<Newest, Failure> {
        let wanted = Wanted {
            key,
            asker: Asker::Refresh,
            known_seq: None,
        };
        self.turns.turn(key, wanted.asker).await?;
        let deadline = Instant::now() + self.lookup_timeout;
        let mut newest = Newest::default();
        let mut see = |_| {};
        let search = self.search(wanted, deadline, &mut newest, &mut see).await;
        match search.end {
            Ok(End::Complete | End::Poor) => Ok(newest),
            Ok(End::BrokenOff) if !newest.is_empty() => Ok(newest),
            Ok(End::BrokenOff) => Err(Failure::DhtPoorMiss),
            Err(failure) => Err(failure),
        }
    }

    /// Puts a packet by one of the instances; the lookups before and after it go by others.
    async fn put(&self, packet: &SignedPacket, replaces: Option<u64>) -> Result<u32, PutError> {
        let deadline = Instant::now() + self.lookup_timeout;
        let node = self.next_node(deadline).await;
        let node = node.map_err(|failure| failure.to_string())?;
        node.put(packet, replaces).await
    }
}

/// Whether the packet is the newest on the network.
///
/// # Errors
/// If there is one, newer or not, that was published after the one that it replaces. It may be older than
/// this one, and its publisher has been told that it is published.
fn check(found: &Newest, packet: &SignedPacket, replaces: u64) -> Result<bool, PublishError> {
    let Some(newest) = found.item() else {
        return Ok(false);
    };
    let is_there = *newest == Sighting::Packet(packet.clone());
    let other = if is_there {
        found.older_seq()
    } else {
        Some(newest.seq())
    };
    match other.filter(|seq| *seq > replaces) {
        Some(seq) => Err(PublishError::Overtaken { seq }),
        None => Ok(is_there),
    }
}
