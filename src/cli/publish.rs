//! `pkbridge publish`: signs a zone file and puts it on the DHT.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use hickory_proto::rr::Record as ProtoRecord;
use serde_json::{Value, json};

use super::control::{Sheet, counted};
use super::dht_client::DhtArgs;
use super::explain::utc;
use super::query::{printable, proto_record, records_json, table};
use super::{EXIT_NETWORK, complain, fail, key_file, print};
use crate::pkarr::{
    Composed, MAX_DNS_LEN, PublicKey, Record, SignedPacket, SigningKey, compose, read_zone_file,
    signed_at,
};
use crate::resolve::{PublishError, Published};

/// Longest zone file, in bytes: what is signed has 1000, and the rest is comments.
const MAX_FILE_LEN: u64 = 1024 * 1024;
/// Above this libtorrent's nodes refuse a packet: they count the bytes of its encoding, too.
const SAFE_LEN: usize = 996;
/// Above this the reply of a DHT node is fragmented on many ways, and lost on some.
const UNFRAGMENTED_LEN: usize = 720;
/// Nodes that should hold a packet: a put reaches some twenty, and half of them may be gone in hours.
const GOOD_HOLDERS: u32 = 10;
/// Records that are told of one that is too large.
const MAX_LARGEST: usize = 10;

/// Arguments of `pkbridge publish`.
#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// The zone file (RFC 1035 section 5). Names without a final dot end in the key, which is @
    #[arg(value_name = "ZONEFILE")]
    zone_file: PathBuf,

    /// The secret key file, as of `pkbridge keygen`
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Read, sign and show, and publish nothing
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    dht: DhtArgs,
}

/// What is to be published.
struct Zone {
    secret: SigningKey,
    key: PublicKey,
    records: Vec<Record>,
    composed: Composed,
}

/// What has become of it.
struct Outcome {
    packet: SignedPacket,
    /// The sequence number of the packet before.
    replaces: Option<u64>,
    /// `None` on a dry run.
    published: Option<Published>,
}

/// Reads, signs, publishes, and says what has become of it.
pub(super) async fn run(args: PublishArgs) -> ExitCode {
    let zone = match Zone::read(&args.zone_file, &args.key) {
        Ok(zone) => zone,
        Err(complaints) => {
            for line in complaints {
                complain(&line);
            }
            return ExitCode::FAILURE;
        }
    };
    zone.warn();
    let outcome = if args.dry_run {
        let packet = zone.sign(None);
        packet.map(|packet| Outcome {
            packet,
            replaces: None,
            published: None,
        })
    } else {
        publish(&zone, &args.dht).await
    };
    match outcome {
        Ok(outcome) => {
            outcome.warn();
            print(&if args.json {
                format!("{}\n", zone.report(&outcome))
            } else {
                zone.text(&outcome)
            })
        }
        Err(code) => code,
    }
}

async fn publish(zone: &Zone, dht: &DhtArgs) -> Result<Outcome, ExitCode> {
    let client = dht.join().await?;
    let newest = client.dht.newest(zone.key).await;
    let newest = newest.map_err(|error| {
        complain(&format!(
            "it is not known what the DHT has of this key, so nothing was published: {error}"
        ));
        ExitCode::from(EXIT_NETWORK)
    })?;
    let replaces = newest.map(|newest| newest.seq());
    let packet = zone.sign(replaces)?;
    match client.dht.publish(&packet, replaces).await {
        Ok(published) => Ok(Outcome {
            packet,
            replaces,
            published: Some(published),
        }),
        Err(error) => Err(explain(&error)),
    }
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

impl Zone {
    /// Reads the key, then the zone.
    ///
    /// # Errors
    /// Lines that say what is wrong.
    fn read(zone_file: &Path, key_file: &Path) -> Result<Self, Vec<String>> {
        let secret = key_file::read(key_file).map_err(|error| vec![error])?;
        let key = PublicKey::from(&secret);
        let shown = zone_file.display();
        let text = read_limited(zone_file)
            .map_err(|error| vec![format!("{shown}: the zone file cannot be read: {error}")])?;
        let records = read_zone_file(&text, key).map_err(|errors| {
            let lines = errors.iter().map(|error| format!("{shown}:{error}"));
            lines.collect::<Vec<_>>()
        })?;
        if records.is_empty() {
            return Err(vec![format!(
                "{shown}: there is no record; write one such as: @ A 192.0.2.1"
            )]);
        }
        let composed = compose(&records);
        if composed.dns.len() > MAX_DNS_LEN {
            let mut lines = vec![format!(
                "{shown}: its records make a packet of {} bytes, and the DHT takes {MAX_DNS_LEN}; the \
                 largest are:",
                composed.dns.len()
            )];
            lines.extend(largest(&records, &composed.sizes));
            return Err(lines);
        }
        Ok(Self {
            secret,
            key,
            records,
            composed,
        })
    }

    /// Says what may go wrong with a packet of this size.
    fn warn(&self) {
        let length = self.composed.dns.len();
        if length > SAFE_LEN {
            complain(&format!(
                "warning: the packet has {length} bytes; many DHT nodes refuse more than {SAFE_LEN}"
            ));
        } else if length > UNFRAGMENTED_LEN {
            complain(&format!(
                "warning: the packet has {length} bytes; above {UNFRAGMENTED_LEN} the datagrams that \
                 carry it are fragmented on some ways, and lost on a few"
            ));
        }
    }

    /// Signs with the time, or with more if the packet before is of a later one.
    fn sign(&self, replaces: Option<u64>) -> Result<SignedPacket, ExitCode> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_micros());
        let now = u64::try_from(now).unwrap_or(0);
        let seq = replaces.map_or(now, |replaced| now.max(replaced.saturating_add(1)));
        if seq > now {
            complain(&format!(
                "warning: the packet on the DHT is of {}, which is later than the clock of this host",
                date(replaces.unwrap_or(seq))
            ));
        }
        SignedPacket::sign(&self.secret, seq, &self.composed.dns)
            .map_err(|error| fail(&format!("the packet cannot be signed: {error}")))
    }

    fn text(&self, outcome: &Outcome) -> String {
        let packet = &outcome.packet;
        let mut sheet = Sheet::default();
        sheet.line("key", &self.key.to_string());
        sheet.line(
            "seq",
            &format!("{}, signed {}", packet.seq(), date(packet.seq())),
        );
        let count = u64::try_from(self.records.len()).unwrap_or(u64::MAX);
        let records = counted(count, "record", "records");
        let length = packet.dns().len();
        sheet.line(
            "packet",
            &format!("{records}, {length} of {MAX_DNS_LEN} bytes"),
        );
        match &outcome.published {
            None => sheet.line("dry run", "nothing was published"),
            Some(published) => {
                let nodes = |count: u32| counted(u64::from(count), "node", "nodes");
                sheet.line(
                    "replaces",
                    &match outcome.replaces {
                        Some(seq) => format!("the one of seq {seq}, signed {}", date(seq)),
                        None => "none: the DHT had no packet of this key".to_owned(),
                    },
                );
                sheet.line("stored", &format!("on {}", nodes(published.stored)));
                let holders = published.holders;
                let mut line = format!("from {} that hold it", nodes(holders.newest));
                if holders.older > 0 {
                    line += &format!("; {} still hold an older one", nodes(holders.older));
                }
                sheet.line("read back", &line);
            }
        }
        let lines = table(shown(&self.records).iter());
        let sizes = self.composed.sizes.iter();
        let lines: Vec<String> = sizes
            .zip(lines)
            .map(|(size, line)| format!("{size:>4} B  {line}"))
            .collect();
        sheet.into_text() + "\n" + &lines.join("\n") + "\n"
    }

    fn report(&self, outcome: &Outcome) -> Value {
        let packet = &outcome.packet;
        let mut records = records_json(&shown(&self.records));
        for (record, size) in records.iter_mut().zip(&self.composed.sizes) {
            if let Some(record) = record.as_object_mut() {
                record.insert("bytes".to_owned(), (*size).into());
            }
        }
        json!({
            "key": self.key.to_string(),
            "seq": packet.seq(),
            "signed_at": signed_at(packet.seq()),
            "bytes": packet.dns().len(),
            "max_bytes": MAX_DNS_LEN,
            "records": records,
            "signed_packet_hex": HEXLOWER.encode(&packet.to_bytes()),
            "replaces_seq": outcome.replaces,
            "stored": outcome.published.map(|published| published.stored),
            "holders": outcome.published.map(|published| published.holders.newest),
            "older_holders": outcome.published.map(|published| published.holders.older),
        })
    }
}

impl Outcome {
    fn warn(&self) {
        let Some(published) = self.published else {
            return;
        };
        let holders = published.holders.newest;
        if holders < GOOD_HOLDERS {
            let nodes = counted(u64::from(holders), "node holds", "nodes hold");
            complain(&format!(
                "warning: only {nodes} the packet, which may soon be lost; publish it again"
            ));
        }
    }
}

/// The records that take most, one a line.
fn largest(records: &[Record], sizes: &[usize]) -> Vec<String> {
    let mut lines: Vec<(usize, String)> = sizes
        .iter()
        .copied()
        .zip(table(shown(records).iter()))
        .collect();
    lines.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    let more = lines.len().saturating_sub(MAX_LARGEST);
    let mut told: Vec<String> = lines
        .iter()
        .take(MAX_LARGEST)
        .map(|(size, line)| format!("{size:>5} B  {line}"))
        .collect();
    if more > 0 {
        told.push(format!("         and {more} more"));
    }
    told
}

/// Records as they are shown.
fn shown(records: &[Record]) -> Vec<ProtoRecord> {
    records.iter().map(proto_record).collect()
}

/// When a packet with this sequence number was signed.
fn date(seq: u64) -> String {
    utc(signed_at(seq))
}

fn read_limited(path: &Path) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(MAX_FILE_LEN + 1).read_to_end(&mut text);
    match read {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length > MAX_FILE_LEN) => {
            Err(format!("it has more than {MAX_FILE_LEN} bytes"))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(printable(&error.to_string())),
    }
}
