//! Pkarr relays: servers that find packets, and publish them, for those who ask over HTTP. A relay learns
//! who asks for what, and may be stale or lie: what it gives is verified like everything else, and what it
//! does not give proves nothing.

mod connect;
mod health;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::packets::Sighting;
use super::system::HostsByForwarding;
use super::upstream::Tls;
use crate::endpoint::RelayUrl;
use crate::pkarr::PublicKey;
use connect::Connector;

pub use health::RelayStatus;
pub use relay::{Policy, Relay, RelayError};

/// How long a relay may take for a lookup: it may have to look on the DHT itself.
const LOOKUP_TIME: Duration = Duration::from_secs(4);

/// Some relays, all of which are asked.
#[derive(Debug, Default)]
pub struct Relays(Vec<Relay>);

impl Relays {
    /// The relays at `urls`. Nothing is sent yet. Their names are resolved by `hosts`, and their certificates
    /// checked by `tls`.
    pub fn new(urls: &[RelayUrl], tls: &Tls, hosts: &Arc<HostsByForwarding>) -> Self {
        let relay = |url: &RelayUrl| {
            let connector = Connector::new(url.server.clone(), tls, Arc::clone(hosts));
            Relay::new(url.clone(), connector)
        };
        Self(urls.iter().map(relay).collect())
    }

    /// Each of them, in the order in which they were given.
    pub fn each(&self) -> &[Relay] {
        &self.0
    }

    /// How they do as a source.
    pub fn status(&self) -> Vec<RelayStatus> {
        let each = self.0.iter();
        each.map(|relay| relay.health.status(relay.url().to_string()))
            .collect()
    }

    /// Asks all of them that work for what they have of a key, unless it is older than `known_seq`. Tells
    /// whether any has answered.
    pub(super) async fn ask(
        &self,
        key: PublicKey,
        known_seq: Option<u64>,
        see: impl Fn(Sighting),
    ) -> bool {
        let answers = self.0.iter().map(|relay| async {
            let looked = relay.look_up(key, known_seq).await;
            let is_answered = looked.is_ok();
            if let Ok(Some(sighting)) = looked {
                see(sighting);
            }
            is_answered
        });
        join_all(answers).await.contains(&true)
    }
}

impl Relay {
    /// Asks it as a source, unless it has failed lately, and tells the log how it does.
    async fn look_up(
        &self,
        key: PublicKey,
        known_seq: Option<u64>,
    ) -> Result<Option<Sighting>, RelayError> {
        self.health.check()?;
        let looked = self.get(key, Policy::Usual, known_seq, LOOKUP_TIME).await;
        let (relay, error) = (self.url(), looked.as_ref().err());
        let is_news = self.health.take(error);
        match error {
            Some(error) if is_news && error.is_of_relay() => {
                tracing::warn!(%relay, %error, "a relay fails; it is asked again after pauses");
            }
            Some(error) => tracing::debug!(%key, %relay, %error, "a relay has not answered"),
            None if is_news => tracing::info!(%relay, "a relay works again"),
            None => {}
        }
        looked
    }
}
