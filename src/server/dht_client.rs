//! The DHT or relays alone, for a command that runs beside the service or without one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::StartError;
use super::assemble::{relays, start_dht};
use super::forwarding::{CurrentForward, forwarding};
use crate::config::Config;
use crate::endpoint::{Host, RelayUrl};
use crate::resolve::{Dht, Relays};

/// Joins the DHT as the configuration says, until `stop`. Ports and files that may be the running service's
/// are left to it.
///
/// # Errors
/// If a file that the upstreams need is unusable: they resolve the names of bootstrap nodes.
pub fn join_dht(
    mut config: Config,
    resolv_conf: &Path,
    stop: CancellationToken,
) -> Result<Arc<Dht>, StartError> {
    config.state.directory = None;
    config.dht.bind_address.set_port(0);
    let is_name = |node: &String| node.parse::<SocketAddr>().is_err();
    let has_names = config.dht.bootstrap.iter().any(is_name);
    let forwarding = forwarding(&config, has_names.then_some(resolv_conf), &[]);
    let forward = CurrentForward::new(forwarding.map_err(StartError::Upstream)?);
    Ok(start_dht(&config, &Arc::new(forward), stop))
}

/// The relays at `urls`, whose names are resolved as the configuration says.
///
/// # Errors
/// If a file that they or the upstreams need is unusable.
pub fn open_relays(
    config: &Config,
    urls: &[RelayUrl],
    resolv_conf: &Path,
) -> Result<Arc<Relays>, StartError> {
    let is_name = |url: &RelayUrl| matches!(url.server.host, Host::Name(_));
    let has_names = urls.iter().any(is_name);
    let forwarding = forwarding(config, has_names.then_some(resolv_conf), &[]);
    let forward = CurrentForward::new(forwarding.map_err(StartError::Upstream)?);
    relays(config, urls, &Arc::new(forward))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::DhtSettings;

    #[test]
    fn other_programs_get_the_settings_that_the_configuration_has() {
        let config = Config::default().dht;
        let settings = DhtSettings::new(&config.bootstrap);
        assert_eq!(settings.bootstrap, config.bootstrap);
        assert_eq!(settings.bind_address, config.bind_address);
        assert_eq!(settings.lookup_timeout, config.lookup_timeout);
        assert_eq!(settings.linger, config.linger);
        assert_eq!(settings.lookups_per_second, config.max_lookups_per_second);
        assert_eq!(settings.misses_per_client, config.max_misses_per_client);
    }
}
