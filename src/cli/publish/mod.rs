//! `pkbridge publish`: signs a zone file and puts it on the DHT, once, or for as long as it runs.

mod addresses;
mod report;
mod watch;
mod zone;

use std::path::PathBuf;
use std::process::ExitCode;

use super::dht_client::{DhtArgs, DhtClient};
use super::{EXIT_NETWORK, complain, fail, print};
use crate::pkarr::HostAddresses;
use crate::resolve::PublishError;
use report::{Outcome, date};
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

    #[command(flatten)]
    dht: DhtArgs,
}

/// Reads, signs, publishes, and says what has become of it.
pub(super) async fn run(args: PublishArgs) -> ExitCode {
    let read = ZoneSource::open(&args.zone_file, &args.key).map_err(|error| vec![error]);
    let read = read.and_then(|source| {
        let zone = source.read(HostAddresses::default())?;
        Ok((source, zone))
    });
    let (source, zone) = match read {
        Ok(read) => read,
        Err(lines) => return refuse(&lines),
    };
    if args.watch {
        return watch::run(&args, source).await;
    }
    let published = publish(&args, &source, zone).await;
    let (zone, outcome) = match published {
        Ok(published) => published,
        Err(code) => return code,
    };
    if let Some(published) = outcome.published
        && published.holders.newest < GOOD_HOLDERS
    {
        complain(&format!(
            "warning: only {} the packet, which may soon be lost; publish it again",
            report::holding(published.holders.newest)
        ));
    }
    print(&if args.json {
        format!("{}\n", outcome.json(&source, &zone))
    } else {
        outcome.text(&source, &zone)
    })
}

async fn publish(
    args: &PublishArgs,
    source: &ZoneSource,
    zone: Zone,
) -> Result<(Zone, Outcome), ExitCode> {
    let client = match args.dry_run {
        true => None,
        false => Some(args.dht.join().await?),
    };
    let zone = fill(args, source, zone, client.as_ref()).await?;
    for line in zone.warnings() {
        complain(&format!("warning: {line}"));
    }
    let Some(client) = client else {
        let outcome = Outcome {
            packet: sign(source, &zone, None)?,
            replaces: None,
            published: None,
        };
        return Ok((zone, outcome));
    };
    let newest = client.dht.newest(source.key).await;
    let newest = newest.map_err(|error| {
        complain(&format!(
            "it is not known what the DHT has of this key, so nothing was published: {error}"
        ));
        ExitCode::from(EXIT_NETWORK)
    })?;
    let replaces = newest.map(|newest| newest.seq());
    let packet = sign(source, &zone, replaces)?;
    match client.dht.publish(&packet, replaces).await {
        Ok(published) => {
            let outcome = Outcome {
                packet,
                replaces,
                published: Some(published),
            };
            Ok((zone, outcome))
        }
        Err(error) => Err(explain(&error)),
    }
}

/// Puts the addresses of this host into a zone that asks for them.
async fn fill(
    args: &PublishArgs,
    source: &ZoneSource,
    zone: Zone,
    client: Option<&DhtClient>,
) -> Result<Zone, ExitCode> {
    if !zone.has_variables {
        return Ok(zone);
    }
    let dht = client.filter(|_| zone.has_ipv4).map(|client| &*client.dht);
    let interface = args.interface.as_deref();
    let found = addresses::find(interface, dht).await;
    let found = found.map_err(|error| fail(&error))?;
    // Of an interface it is known that it has none.
    if zone.has_ipv4 && found.ipv4.is_none() && dht.is_some() && interface.is_none() {
        complain(&addresses::UNKNOWN_IPV4);
        return Err(ExitCode::from(EXIT_NETWORK));
    }
    let zone = source.read(found).map_err(|lines| refuse(&lines))?;
    if zone.records.is_empty() && client.is_some() {
        return Err(refuse(&zone.left_out));
    }
    Ok(zone)
}

fn sign(
    source: &ZoneSource,
    zone: &Zone,
    replaces: Option<u64>,
) -> Result<crate::pkarr::SignedPacket, ExitCode> {
    let packet = source.sign(zone, replaces);
    let packet = packet.map_err(|error| fail(&format!("the packet cannot be signed: {error}")))?;
    if let Some(replaced) = replaces.filter(|replaced| packet.seq() == replaced + 1) {
        complain(&format!("warning: {}", report::from_the_future(replaced)));
    }
    Ok(packet)
}

fn explain(error: &PublishError) -> ExitCode {
    match error {
        PublishError::Overtaken { seq } => fail(&format!(
            "{error} (signed {}): somebody else who has the key publishes, too. Which packet stays is \
             open; see whose it is to be, and publish again",
            date(*seq)
        )),
        PublishError::Refused => fail(&format!(
            "{error}. It may be newer than the clock of this host; see what is published, and try again"
        )),
        PublishError::NotStored(_) | PublishError::NotReadBack(_) | PublishError::Lookup(_) => {
            complain(&format!("{error}; try again"));
            ExitCode::from(EXIT_NETWORK)
        }
    }
}

fn refuse(lines: &[String]) -> ExitCode {
    for line in lines {
        complain(&line);
    }
    ExitCode::FAILURE
}
