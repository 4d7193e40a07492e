//! Joining the DHT for one command.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::serve::RESOLV_CONF;
use super::{ConfigArgs, EXIT_NETWORK, complain, fail, log, refuse_config};
use crate::config::{Config, bootstrap_node};
use crate::resolve::Dht;
use crate::server::{StartError, join_dht};

/// Longest wait for the DHT to be joined: bootstrap nodes by name take a lookup, and may be silent.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// How to join the DHT.
#[derive(Debug, clap::Args)]
pub(super) struct DhtArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// A node to join the DHT by, instead of the configuration's; can be given several times
    #[arg(long, value_name = "HOST:PORT", value_parser = bootstrap_node)]
    bootstrap: Vec<String>,
}

/// A client of the DHT that leaves it when it is dropped.
pub(super) struct DhtClient {
    pub(super) dht: Arc<Dht>,
    _stop: DropGuard,
}

impl DhtArgs {
    /// The configuration; complains if it is unusable.
    pub(super) fn load(&self) -> Result<Config, ExitCode> {
        let (mut config, _) = self.config.load().map_err(|error| refuse_config(&error))?;
        if !self.bootstrap.is_empty() {
            config.dht.bootstrap.clone_from(&self.bootstrap);
        }
        Ok(config)
    }
}

impl DhtClient {
    /// Starts to join.
    ///
    /// # Errors
    /// If the configuration does not let it.
    pub(super) fn start(config: Config) -> Result<Self, StartError> {
        let stop = CancellationToken::new();
        let dht = join_dht(config, RESOLV_CONF.as_ref(), stop.clone())?;
        Ok(Self {
            dht,
            _stop: stop.drop_guard(),
        })
    }

    /// Joins, and logs errors alone; complains if it cannot.
    pub(super) async fn join(config: Config) -> Result<Self, ExitCode> {
        let bootstrap = config.dht.bootstrap.join(", ");
        let _level = log::start("error").map_err(|error| fail(&error))?;
        let client = Self::start(config).map_err(|error| fail(&error))?;
        if timeout(JOIN_PATIENCE, client.dht.becomes(true))
            .await
            .is_err()
        {
            complain(&format!(
                "no DHT node answers; looked for {bootstrap}. UDP must be let out, and answers in"
            ));
            return Err(ExitCode::from(EXIT_NETWORK));
        }
        Ok(client)
    }
}
