//! The relays of one command: which, what they have of a key, and what becomes of a packet that is given to
//! them.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::control::counted;
use super::serve::RESOLV_CONF;
use super::{EXIT_NETWORK, complain, fail, query::printable};
use crate::config::Config;
use crate::endpoint::RelayUrl;
use crate::pkarr::{PublicKey, SignedPacket};
use crate::resolve::{Policy, Relay, RelayError, Relays, Sighting};
use crate::server::open_relays;

/// How long a relay may take to tell what it has: it may look on the DHT to the end.
const LOOK_TIME: Duration = Duration::from_secs(10);
/// How long it may take to publish: it looks for the nodes nearest to the key first.
const PUBLISH_TIME: Duration = Duration::from_secs(30);

/// Relays beside the DHT.
#[derive(Debug, clap::Args)]
pub(super) struct RelayArgs {
    /// A Pkarr relay beside the DHT, such as `https://relay.example`; can be given several times. It learns of
    /// the key
    #[arg(id = "relay", long = "relay", value_name = "URL")]
    urls: Vec<RelayUrl>,
}

/// A relay that was asked for a key.
pub(super) struct Asked {
    pub(super) url: String,
    pub(super) told: Told,
}

/// What a relay has of a key.
pub(super) type Told = Result<Option<Sighting>, RelayError>;

/// Relays that have told what they have of a key, and may be given a packet.
pub(super) struct RelayPublisher<'a> {
    relays: &'a Relays,
    /// What each has, in the same order.
    before: Vec<Told>,
}

/// What has become of a packet at one relay.
pub(super) struct Relayed {
    url: String,
    result: Result<Option<u32>, Fault>,
}

/// Why a packet is not published by a relay.
enum Fault {
    /// Trying again is of no use.
    Refused(String),
    /// It is.
    Failed(String),
}

impl RelayArgs {
    /// The relays; complains if the configuration does not let them be reached. Nothing is sent yet.
    pub(super) fn open(&self, config: &Config) -> Result<Arc<Relays>, ExitCode> {
        let relays = open_relays(config, &self.urls, RESOLV_CONF.as_ref());
        relays.map_err(|error| fail(&error))
    }
}

/// What each relay gives to those who ask for a key.
pub(super) async fn ask_each(relays: &Relays, key: PublicKey) -> Vec<Asked> {
    let asked = relays.each().iter().map(|relay| async move {
        let told = relay.get(key, Policy::Usual, None, LOOK_TIME).await;
        let url = relay.url().to_string();
        Asked { url, told }
    });
    join_all(asked).await
}

impl<'a> RelayPublisher<'a> {
    /// Asks each relay what it has of the key, and what it finds on the DHT.
    pub(super) async fn look(relays: &'a Relays, key: PublicKey) -> Self {
        let looks = relays.each().iter().map(|relay| async move {
            let found = relay.get(key, Policy::Network, None, LOOK_TIME).await?;
            let kept = relay.get(key, Policy::Cache, None, LOOK_TIME).await?;
            Ok(Sighting::newest(found.into_iter().chain(kept)))
        });
        let before = join_all(looks).await;
        Self { relays, before }
    }

    /// What those have that have told it.
    pub(super) fn told(&self) -> impl Iterator<Item = &Sighting> {
        let told = self.before.iter().filter_map(|told| told.as_ref().ok());
        told.filter_map(Option::as_ref)
    }

    /// Why none of them has told anything; `None` if one has.
    pub(super) fn silence(&self) -> Option<String> {
        let mut reasons = Vec::new();
        for (relay, told) in self.relays.each().iter().zip(&self.before) {
            match told {
                Ok(_) => return None,
                Err(error) => reasons.push(printable(&format!("{}: {error}", relay.url()))),
            }
        }
        Some(reasons.join("; "))
    }

    /// Gives the packet to each relay that has told what it has, and reads it back.
    pub(super) async fn publish(&self, packet: &SignedPacket) -> Vec<Relayed> {
        let each = self.relays.each().iter().zip(&self.before);
        let puts = each.map(|(relay, before)| async move {
            let result = match before {
                Ok(_) => put(relay, packet).await,
                Err(error) => Err(Fault::Failed(format!(
                    "it is not known what it has, so it was not given the packet: {error}"
                ))),
            };
            let url = relay.url().to_string();
            Relayed { url, result }
        });
        join_all(puts).await
    }
}

async fn put(relay: &Relay, packet: &SignedPacket) -> Result<Option<u32>, Fault> {
    let stored = relay.put(packet, PUBLISH_TIME).await.map_err(fault)?;
    let back = relay.get(packet.key(), Policy::Cache, None, LOOK_TIME);
    match back.await.map_err(fault)? {
        Some(Sighting::Packet(back)) if back == *packet => Ok(stored),
        Some(other) if other.seq() >= packet.seq() => Err(fault(RelayError::NotMostRecent)),
        Some(_) | None => Err(Fault::Failed(
            "it took the packet, but does not give it back".to_owned(),
        )),
    }
}

fn fault(error: RelayError) -> Fault {
    match error {
        RelayError::NotMostRecent => Fault::Refused(format!(
            "{error}: somebody else who has the key publishes, too, or the clock of this host is behind; see \
             what is published, and publish again"
        )),
        RelayError::Refused(..) | RelayError::Redirect(_) => Fault::Refused(error.to_string()),
        RelayError::Connection(_)
        | RelayError::Timeout(_)
        | RelayError::Crowded
        | RelayError::TooManyRequests(_)
        | RelayError::Status(..)
        | RelayError::TooLarge
        | RelayError::Packet(_)
        | RelayError::Paused(_) => Fault::Failed(format!("{error}; try again")),
    }
}

impl Relayed {
    pub(super) fn is_published(&self) -> bool {
        self.result.is_ok()
    }

    /// What has failed.
    pub(super) fn fault(&self) -> Option<String> {
        match &self.result {
            Ok(_) => None,
            Err(Fault::Refused(why) | Fault::Failed(why)) => {
                Some(printable(&format!("{}: {why}", self.url)))
            }
        }
    }

    /// Says on standard error what has failed; the exit code of the worst.
    pub(super) fn complain_all(all: &[Self]) -> ExitCode {
        let mut code = ExitCode::SUCCESS;
        for fault in all.iter().filter_map(Self::fault) {
            complain(&fault);
        }
        if !all.iter().all(Self::is_published) {
            code = ExitCode::from(EXIT_NETWORK);
        }
        let is_refused = |relayed: &Self| matches!(relayed.result, Err(Fault::Refused(_)));
        if all.iter().any(is_refused) {
            code = ExitCode::FAILURE;
        }
        code
    }

    /// One line for people.
    pub(super) fn line(&self) -> String {
        let told = match &self.result {
            Ok(None) => "published".to_owned(),
            Ok(Some(stored)) => {
                let nodes = counted(u64::from(*stored), "DHT node", "DHT nodes");
                format!("published, and put on {nodes}")
            }
            Err(_) => "not published".to_owned(),
        };
        format!("{}  {told}", self.url)
    }

    pub(super) fn report(&self) -> Value {
        let error = match &self.result {
            Ok(_) => None,
            Err(Fault::Refused(why) | Fault::Failed(why)) => Some(why),
        };
        json!({
            "url": self.url,
            "published": self.is_published(),
            "stored": self.result.as_ref().ok().copied().flatten(),
            "error": error,
        })
    }
}
