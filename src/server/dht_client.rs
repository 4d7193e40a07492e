//! The DHT alone, for a command that runs beside the service or without one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::StartError;
use super::assemble::start_dht;
use super::forwarding::{CurrentForward, forwarding};
use crate::config::Config;
use crate::resolve::Dht;

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
