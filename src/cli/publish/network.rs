//! Where a zone is published: the DHT, relays, or both.

use std::process::ExitCode;
use std::sync::Arc;

use super::report::date;
use crate::cli::dht_client::DhtClient;
use crate::cli::relays::{RelayPublisher, Relayed};
use crate::cli::{EXIT_NETWORK, complain, fail};
use crate::pkarr::{PublicKey, SignedPacket};
use crate::resolve::{Dht, Failure, PublishError, Published, Relays, Sighting};

/// Where a zone is published.
pub(super) struct Network {
    /// `None` if the relays are to do it alone.
    pub(super) client: Option<DhtClient>,
    pub(super) relays: Arc<Relays>,
}

/// What there was of a key, before something is put in its place.
pub(super) struct Before<'a> {
    /// The newest on the DHT.
    of_dht: Option<Sighting>,
    relays: RelayPublisher<'a>,
}

/// What has become of a packet.
pub(super) struct Put {
    /// On the DHT, unless it was left to the relays.
    pub(super) published: Option<Published>,
    /// At each relay.
    pub(super) relays: Vec<Relayed>,
}

/// Why nothing is published, or that is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    #[error("it is not known what the DHT has of this key, so nothing was published: {0}")]
    Lookup(#[from] Failure),
    /// No relay has told what it has.
    #[error("it is not known what the relays have of this key, so nothing was published: {0}")]
    Relays(String),
    #[error("{0}")]
    Publish(#[from] PublishError),
}

impl Network {
    pub(super) fn dht(&self) -> Option<&Dht> {
        self.client.as_ref().map(|client| &*client.dht)
    }

    /// Looks what there is of a key.
    ///
    /// # Errors
    /// If that is not known of the DHT, or of any relay where there is no DHT.
    pub(super) async fn look(&self, key: PublicKey) -> Result<Before<'_>, NetworkError> {
        let of_dht = match self.dht() {
            Some(dht) => dht.newest(key).await?,
            None => None,
        };
        let relays = RelayPublisher::look(&self.relays, key).await;
        match (self.dht(), relays.silence()) {
            (None, Some(why)) => Err(NetworkError::Relays(why)),
            _ => Ok(Before { of_dht, relays }),
        }
    }

    /// Publishes on the DHT by compare-and-swap, then by the relays, which have none.
    ///
    /// # Errors
    /// Of the DHT; then no relay was given the packet.
    pub(super) async fn put(
        &self,
        packet: &SignedPacket,
        before: &Before<'_>,
    ) -> Result<Put, NetworkError> {
        let replaces = before.of_dht.as_ref().map(Sighting::seq);
        let published = match self.dht() {
            Some(dht) => Some(dht.publish(packet, replaces).await?),
            None => None,
        };
        Ok(Put {
            published,
            relays: before.relays.publish(packet).await,
        })
    }
}

impl Before<'_> {
    /// The newest anywhere.
    pub(super) fn newest(&self) -> Option<Sighting> {
        Sighting::newest(self.of_dht.iter().chain(self.relays.told()).cloned())
    }
}

impl Put {
    /// Whether nobody has taken the packet.
    pub(super) fn is_nowhere(&self) -> bool {
        self.published.is_none() && !self.relays.iter().any(Relayed::is_published)
    }
}

impl NetworkError {
    /// Says what has failed, and gives the exit code for it.
    pub(super) fn explain(&self) -> ExitCode {
        match self {
            Self::Publish(PublishError::Overtaken { seq }) => fail(&format!(
                "{self} (signed {}): somebody else who has the key publishes, too. Which packet stays is \
                 open; see whose it is to be, and publish again",
                date(*seq)
            )),
            Self::Publish(PublishError::Refused) => fail(&format!(
                "{self}. It may be newer than the clock of this host; see what is published, and try again"
            )),
            Self::Lookup(_) | Self::Relays(_) => {
                complain(self);
                ExitCode::from(EXIT_NETWORK)
            }
            Self::Publish(_) => {
                complain(&format!("{self}; try again"));
                ExitCode::from(EXIT_NETWORK)
            }
        }
    }
}
