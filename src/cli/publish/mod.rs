//! `pkbridge publish`: signs a zone file and puts it on the DHT, and gives it to relays; once, or for as long as
//! it runs.

mod addresses;
mod network;
mod report;
mod watch;
mod zone;

use std::path::PathBuf;
use std::process::ExitCode;

use super::dht_client::{DhtArgs, DhtClient};
use super::relays::{RelayArgs, Relayed};
use super::{EXIT_NETWORK, complain, fail, print};
use crate::pkarr::{HostAddresses, SignedPacket};
use network::Network;
use report::Outcome;
use zone::{Zone, ZoneSource};

/// Nodes that should hold a packet: a put reaches some twenty, and half of them may be gone in hours.
const GOOD_HOLDERS: u32 = 10;

/// Arguments of `pkbridge publish`.
#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// The zone file (RFC 1035 section 5). Names without a final dot end in the key, which is @; in the place
    /// of an address, $IPV4 and $IPV6 are those of this host
    #[arg(value_name = "ZONEFILE")]
    zone_file: PathBuf,

    /// The secret key file, as of `pkbridge keygen`
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Read, sign and show, and publish nothing
    #[arg(long)]
    dry_run: bool,

    /// Stay: publish again each hour, when the file changes, and when the addresses of this host do
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,

    /// Take $IPV4 and $IPV6 from this interface, also if they are not public
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,

    /// Print one JSON object instead of text; with --watch one a line, each time
    #[arg(long)]
    json: bool,

    /// Leave the DHT to the relays, where UDP is blocked
    #[arg(long, requires = "relay")]
    no_dht: bool,

    #[command(flatten)]
    relays: RelayArgs,

    #[command(flatten)]
    dht: DhtArgs,
}

/// Reads, signs, publishes, and says what has become of it.
pub(super) async fn run(args: PublishArgs) -> ExitCode {
    let source = match ZoneSource::open(&args.zone_file, &args.key) {
        Ok(source) => source,
        Err(error) => return fail(&error),
    };
    if args.watch {
        return watch::run(&args, source).await;
    }
    let (zone, outcome) = match publish(&args, &source).await {
        Ok(published) => published,
        Err(code) => return code,
    };
    if let Some(published) = outcome.put.as_ref().and_then(|put| put.published)
        && published.holders.newest < GOOD_HOLDERS
    {
        complain(&format!(
            "warning: only {} the packet, which may soon be lost; publish it again",
            report::holding(published.holders.newest)
        ));
    }
    let printed = print(&if args.json {
        format!("{}\n", outcome.json(&source, &zone))
    } else {
        outcome.text(&source, &zone)
    });
    match Relayed::complain_all(outcome.relays()) {
        ExitCode::SUCCESS => printed,
        code => code,
    }
}

async fn publish(args: &PublishArgs, source: &ZoneSource) -> Result<(Zone, Outcome), ExitCode> {
    let zone = source.read(HostAddresses::default());
    let zone = zone.map_err(|lines| refuse(&lines))?;
    if args.dry_run {
        let zone = fill(args, source, zone, None).await?;
        let outcome = Outcome {
            packet: sign(source, &zone, None)?,
            replaces: None,
            put: None,
        };
        return Ok((zone, outcome));
    }
    let config = args.dht.load()?;
    let relays = args.relays.open(&config)?;
    let client = match args.no_dht {
        true => None,
        false => Some(DhtClient::join(config).await?),
    };
    let network = Network { client, relays };
    let zone = fill(args, source, zone, Some(&network)).await?;
    let before = network.look(source.key).await;
    let before = before.map_err(|error| error.explain())?;
    let replaces = before.newest().map(|newest| newest.seq());
    let packet = sign(source, &zone, replaces)?;
    let put = network.put(&packet, &before).await;
    let put = put.map_err(|error| error.explain())?;
    let outcome = Outcome {
        packet,
        replaces,
        put: Some(put),
    };
    Ok((zone, outcome))
}

/// Puts the addresses of this host into a zone that asks for them, and says what may go wrong with it. Without
/// a network nobody is asked.
async fn fill(
    args: &PublishArgs,
    source: &ZoneSource,
    mut zone: Zone,
    network: Option<&Network>,
) -> Result<Zone, ExitCode> {
    if zone.has_variables {
        let dht = network.and_then(Network::dht).filter(|_| zone.has_ipv4);
        let interface = args.interface.as_deref();
        let found = addresses::find(interface, dht).await;
        let found = found.map_err(|error| fail(&error))?;
        if network.is_some() && !addresses::are_known(&zone, found, interface) {
            complain(&addresses::UNKNOWN_IPV4);
            return Err(ExitCode::from(EXIT_NETWORK));
        }
        zone = source.read(found).map_err(|lines| refuse(&lines))?;
        if zone.records.is_empty() && network.is_some() {
            return Err(refuse(&zone.left_out));
        }
    }
    for line in zone.warnings() {
        complain(&format!("warning: {line}"));
    }
    Ok(zone)
}

fn sign(source: &ZoneSource, zone: &Zone, replaces: Option<u64>) -> Result<SignedPacket, ExitCode> {
    let packet = source.sign(zone, replaces);
    let packet = packet.map_err(|error| fail(&format!("the packet cannot be signed: {error}")))?;
    if let Some(replaced) = replaces.filter(|replaced| packet.seq() == replaced + 1) {
        complain(&format!("warning: {}", report::from_the_future(replaced)));
    }
    Ok(packet)
}

fn refuse(lines: &[String]) -> ExitCode {
    for line in lines {
        complain(&line);
    }
    ExitCode::FAILURE
}
