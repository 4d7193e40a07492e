//! `pkbridge resolve`: a key's packet straight from the DHT and relays, without a running service, and who holds
//! it.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use hickory_proto::rr::{Name, Record as ProtoRecord, RecordType};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::control::{Sheet, ascii, bytes, counted, seconds};
use super::dht_client::{DhtArgs, DhtClient};
use super::explain::utc;
use super::query::{printable, proto_record, records_json, table};
use super::relays::{self, Asked, RelayArgs};
use super::{complain, fail, log, seq_of_now};
use crate::config::Config;
use crate::pkarr::{
    Lookup, NameKind, PublicKeyName, Record, SignedPacket, Suffixes, Zone, parse_name, signed_at,
};
use crate::resolve::{
    Asker, Dht, Ending, Failure, FetchPacket, Holder, Holds, RelayError, Sighting, Wanted,
};

/// Longest wait for the first DHT node to answer.
const JOIN_PATIENCE: Duration = Duration::from_secs(6);
/// The exit code for a usage error, as clap has it.
const EXIT_USAGE: u8 = 2;
/// The exit codes of `query`.
const EXIT_ABSENT: u8 = 1;
/// See [`EXIT_ABSENT`].
const EXIT_FAILURE: u8 = 3;

/// Arguments of `pkbridge resolve`.
#[derive(Debug, clap::Args)]
pub(super) struct ResolveArgs {
    /// Public key, or a name below one: bare, under a suffix such as pkarr, as pk:KEY or as a URL
    #[arg(value_name = "KEY_OR_NAME", value_parser = parse_name)]
    name: Name,

    #[command(flatten)]
    relays: RelayArgs,

    #[command(flatten)]
    dht: DhtArgs,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What came of it.
struct Report {
    name: PublicKeyName,
    verdict: Verdict,
    /// What the nodes nearest to the key hold, if they could be asked.
    holders: Vec<Holder>,
    /// What relays have, if any were to be asked.
    relays: Vec<Asked>,
    elapsed: Duration,
}

enum Verdict {
    /// The newest packet, and why there may be one that is newer still.
    Packet(SignedPacket, Option<String>),
    /// Enough nodes said that there is none.
    Absent,
    /// The newest item that the key signed is no packet.
    Invalid {
        seq: u64,
        reason: String,
    },
    Failure(String),
}

/// Looks and shows: exit code 0 if there is a packet with records of the name, 1 if there is none, 3 if
/// nobody can tell.
pub(super) async fn run(args: ResolveArgs) -> ExitCode {
    // What is wrong with the DHT is told here, in the report's own words.
    if let Err(error) = log::start("error") {
        return fail(&error);
    }
    let config = match args.dht.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let name = match public_key_name(&args.name, &config.names.suffixes) {
        Ok(name) => name,
        Err(error) => {
            complain(&printable(&error));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let relays = match args.relays.open(&config) {
        Ok(relays) => relays,
        Err(code) => return code,
    };
    let started = Instant::now();
    let ((newest, end, holders), relays) =
        tokio::join!(look(config, &name), relays::ask_each(&relays, name.key));
    let relayed = relays.iter().filter_map(|asked| asked.told.clone().ok()?);
    let newest = Sighting::newest(newest.into_iter().chain(relayed));
    let report = Report {
        name,
        verdict: Verdict::of(newest, &end),
        holders,
        relays,
        elapsed: started.elapsed(),
    };
    let text = if args.json {
        ascii(&report.json().to_string()) + "\n"
    } else {
        report.text()
    };
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(report.exit_code()),
        Err(_) => ExitCode::from(EXIT_FAILURE),
    }
}

/// The name's key and place in its zone.
fn public_key_name(name: &Name, suffixes: &[String]) -> Result<PublicKeyName, String> {
    let shown = name.to_ascii();
    let shown = shown.trim_end_matches('.');
    match Suffixes::new(suffixes).classify(name) {
        NameKind::PublicKey(mut name) => {
            name.in_zone.set_fqdn(true);
            Ok(name)
        }
        NameKind::NotAKey(error) => Err(format!("{shown} is under no public key: {error}")),
        NameKind::Suffix(suffix) | NameKind::UnderSuffix(suffix) => {
            let suffix = suffix.to_ascii();
            let suffix = suffix.trim_end_matches('.');
            Err(format!(
                "{shown} has no public key in front of the suffix {suffix}; write KEY.{suffix}"
            ))
        }
        NameKind::SearchList => Err(format!(
            "a public key must be the last label of {shown}, or stand under a suffix of [names] suffixes"
        )),
        NameKind::Ordinary => Err(format!(
            "{shown} has no public key in it; `pkbridge query` asks for ordinary names"
        )),
    }
}

/// How the lookup on the DHT ended, or why there was none.
type End = Result<Ending, String>;

/// Looks for the packet as the resolver does, then asks the nodes that should hold it one by one.
async fn look(config: Config, name: &PublicKeyName) -> (Option<Sighting>, End, Vec<Holder>) {
    let nodes = config.dht.bootstrap.join(", ");
    let failed = |error: String| (None, Err(error), Vec::new());
    let client = match DhtClient::start(config) {
        Ok(client) => client,
        Err(error) => return failed(error.to_string()),
    };
    let dht = &client.dht;
    if timeout(JOIN_PATIENCE, dht.becomes(true)).await.is_err() {
        return failed(format!("no DHT node answers; asked were {nodes}"));
    }
    let (newest, ending) = newest(dht, name).await;
    // Without them the packet is as good.
    let holders = dht.holders(name.key).await.unwrap_or_default();
    let held = holders.iter().filter_map(|holder| match &holder.holds {
        Holds::Item(item) => Some(item.clone()),
        Holds::Refused(_) | Holds::Nothing | Holds::Unknown => None,
    });
    (
        Sighting::newest(newest.into_iter().chain(held)),
        Ok(ending),
        holders,
    )
}

async fn newest(dht: &Dht, name: &PublicKeyName) -> (Option<Sighting>, Ending) {
    let wanted = Wanted {
        key: name.key,
        asker: Asker::Refresh,
        known_seq: None,
    };
    let mut newest = None;
    let mut see = |sighting: Sighting| newest = Some(sighting);
    let ending = dht.fetch(wanted, &mut see).await;
    (newest, ending)
}

impl Verdict {
    fn of(newest: Option<Sighting>, end: &End) -> Self {
        match (newest, end) {
            (Some(Sighting::Packet(packet)), end) => Self::Packet(packet, doubt(end)),
            (Some(Sighting::Invalid { seq, reason }), _) => Self::Invalid { seq, reason },
            (None, Ok(Ending::Complete(_))) => Self::Absent,
            (None, Ok(Ending::Poor | Ending::Relayed)) => {
                Self::Failure(Failure::DhtPoorMiss.to_string())
            }
            (None, Ok(Ending::Failed(failure))) => Self::Failure(failure.to_string()),
            (None, Err(why)) => Self::Failure(why.clone()),
        }
    }
}

/// Why there may be a newer packet than the one that was found.
fn doubt(end: &End) -> Option<String> {
    match end {
        Ok(Ending::Complete(_)) => None,
        Ok(Ending::Poor | Ending::Relayed) => Some("too few DHT nodes answered".to_owned()),
        Ok(Ending::Failed(failure)) => Some(failure.to_string()),
        Err(why) => Some(why.clone()),
    }
}

impl Report {
    fn exit_code(&self) -> u8 {
        match &self.verdict {
            Verdict::Packet(packet, _) => {
                let is_apex = self.name.in_zone.iter().len() == 1;
                let has_none = !is_apex && asked_records(&self.name.in_zone, packet).is_empty();
                if has_none { EXIT_ABSENT } else { 0 }
            }
            Verdict::Absent => EXIT_ABSENT,
            Verdict::Invalid { .. } | Verdict::Failure(_) => EXIT_FAILURE,
        }
    }

    fn text(&self) -> String {
        let mut sheet = Sheet::default();
        sheet.line("name", &self.name.in_zone.to_ascii());
        sheet.line("key", &self.name.key.to_string());
        match &self.verdict {
            Verdict::Packet(packet, doubt) => self.packet_text(&mut sheet, packet, doubt.as_ref()),
            Verdict::Absent => sheet.line("packet", "none: no DHT node has one"),
            Verdict::Invalid { seq, reason } => {
                sheet.lines("packet", "", &[unusable(*seq, reason), signed(*seq)]);
            }
            Verdict::Failure(reason) => sheet.line("packet", &format!("not known: {reason}")),
        }
        if !self.holders.is_empty() {
            sheet.lines("held by", "", &self.holder_lines());
        }
        if !self.relays.is_empty() {
            let lines: Vec<_> = self
                .relays
                .iter()
                .map(|asked| self.relay_line(asked))
                .collect();
            sheet.lines("relays", "", &lines);
        }
        let milliseconds = self.elapsed.as_millis();
        sheet.line("took", &format!("{milliseconds} ms"));
        sheet.into_text()
    }

    fn packet_text(&self, sheet: &mut Sheet, packet: &SignedPacket, doubt: Option<&String>) {
        let zone = Zone::new(packet, 0);
        let all = zone.records().len();
        let records = counted(u64_of(all), "record", "records");
        let size = bytes(u64_of(packet.dns().len()));
        let mut lines = vec![
            format!("seq {}, {}", packet.seq(), signed(packet.seq())),
            format!("{records}, {size}, signature valid"),
        ];
        lines.extend(doubt.map(|why| format!("there may be a newer one: {why}")));
        sheet.lines("packet", "", &lines);
        let asked = asked_records(&self.name.in_zone, packet);
        let none = match all {
            0 => "none".to_owned(),
            _ => format!(
                "none of {all} is at or below {}",
                self.name.in_zone.to_ascii()
            ),
        };
        let mut lines = table(asked.iter());
        if !asked.is_empty() && asked.len() < all {
            lines.push(format!("{} of {all} records of the packet", asked.len()));
        }
        sheet.lines("records", &none, &lines);
    }

    /// How many nodes hold what, and each of them.
    fn holder_lines(&self) -> Vec<String> {
        let counts: Vec<String> = self
            .counts()
            .into_iter()
            .filter(|(what, count)| *count > 0 || *what == "newest")
            .map(|(what, count)| match what {
                "newest" => {
                    let nodes = counted(u64_of(self.holders.len()), "node", "nodes");
                    format!("{count} of the {nodes} nearest to the key")
                }
                "older" => format!("an older one by {count}"),
                "refused" => format!("{count} with what is no packet of the key"),
                "none" => format!("{count} without one"),
                _ => format!("{count} silent"),
            })
            .collect();
        let line = |holder: &Holder| {
            let address = holder.address.to_string();
            let more = match &holder.holds {
                Holds::Item(item) => self.more_of(item),
                Holds::Refused(reason) => format!(": {reason}"),
                Holds::Nothing | Holds::Unknown => String::new(),
            };
            format!("{address:<21}  {}{more}", self.standing(holder))
        };
        std::iter::once(counts.join(", "))
            .chain(self.holders.iter().map(line))
            .collect()
    }

    fn relay_line(&self, asked: &Asked) -> String {
        let more = match &asked.told {
            Ok(Some(item)) => self.more_of(item),
            Ok(None) => String::new(),
            Err(error) => format!(": {error}"),
        };
        format!("{}  {}{more}", asked.url, self.relay_standing(asked))
    }

    fn relay_standing(&self, asked: &Asked) -> &'static str {
        match &asked.told {
            Ok(Some(item)) => self.age_of(item),
            Ok(None) => "none",
            Err(RelayError::Packet(_)) => "refused",
            Err(_) => "failed",
        }
    }

    fn relay_json(&self, asked: &Asked) -> Value {
        let (seq, error) = match &asked.told {
            Ok(Some(item)) => (Some(item.seq()), fault_of(item).cloned()),
            Ok(None) => (None, None),
            Err(error) => (None, Some(error.to_string())),
        };
        json!({
            "url": asked.url,
            "holds": self.relay_standing(asked),
            "seq": seq,
            "error": error,
        })
    }

    /// How many nodes hold what, by the word for it.
    fn counts(&self) -> [(&'static str, usize); 5] {
        ["newest", "older", "refused", "none", "silent"].map(|what| {
            let alike = |holder: &&Holder| self.standing(holder) == what;
            (what, self.holders.iter().filter(alike).count())
        })
    }

    fn standing(&self, holder: &Holder) -> &'static str {
        match &holder.holds {
            Holds::Item(item) => self.age_of(item),
            Holds::Refused(_) => "refused",
            Holds::Nothing => "none",
            Holds::Unknown => "silent",
        }
    }

    fn age_of(&self, item: &Sighting) -> &'static str {
        match self.is_newest(item) {
            true => "newest",
            false => "older",
        }
    }

    /// What is told of an item that is not the newest.
    fn more_of(&self, item: &Sighting) -> String {
        match self.is_newest(item) {
            true => String::new(),
            false => format!(": seq {}, {}", item.seq(), signed(item.seq())),
        }
    }

    fn is_newest(&self, item: &Sighting) -> bool {
        match (&self.verdict, item) {
            (Verdict::Packet(newest, _), Sighting::Packet(packet)) => newest == packet,
            (Verdict::Invalid { seq, .. }, Sighting::Invalid { seq: held, .. }) => seq == held,
            _ => false,
        }
    }

    fn json(&self) -> Value {
        let (status, packet, error) = match &self.verdict {
            Verdict::Packet(packet, doubt) => {
                let found = if self.exit_code() == 0 {
                    "found"
                } else {
                    "nodata"
                };
                (found, Some(self.packet_json(packet)), doubt.clone())
            }
            Verdict::Absent => ("absent", None, None),
            Verdict::Invalid { seq, reason } => ("invalid", None, Some(unusable(*seq, reason))),
            Verdict::Failure(reason) => ("failure", None, Some(reason.clone())),
        };
        let nodes = self.holders.iter().map(|holder| {
            let (seq, error) = match &holder.holds {
                Holds::Item(item) => (Some(item.seq()), fault_of(item)),
                Holds::Refused(reason) => (None, Some(reason)),
                Holds::Nothing | Holds::Unknown => (None, None),
            };
            json!({
                "address": holder.address.to_string(),
                "holds": self.standing(holder),
                "seq": seq,
                "error": error,
            })
        });
        json!({
            "name": self.name.in_zone.to_ascii(),
            "key": self.name.key.to_string(),
            "status": status,
            "packet": packet,
            "error": error,
            "held": self.counts().into_iter().map(|(what, count)| (what.to_owned(), count.into()))
                .collect::<serde_json::Map<String, Value>>(),
            "nodes": nodes.collect::<Vec<_>>(),
            "relays": self.relays.iter().map(|asked| self.relay_json(asked)).collect::<Vec<_>>(),
            "milliseconds": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn packet_json(&self, packet: &SignedPacket) -> Value {
        let signed_at = signed_at(packet.seq());
        json!({
            "seq": packet.seq(),
            "signed_at": signed_at,
            "signed": utc(signed_at),
            "age_seconds": now().checked_sub(signed_at),
            "bytes": packet.dns().len(),
            "signature": "valid",
            "record_count": Zone::new(packet, 0).records().len(),
            "records": records_json(&asked_records(&self.name.in_zone, packet)),
        })
    }
}

fn unusable(seq: u64, reason: &str) -> String {
    format!("the newest item, seq {seq}, cannot be used: {reason}")
}

/// Why an item is no packet.
fn fault_of(item: &Sighting) -> Option<&String> {
    match item {
        Sighting::Packet(_) => None,
        Sighting::Invalid { reason, .. } => Some(reason),
    }
}

/// The records of a packet at or below a name; if there are none, those above that would answer for it:
/// wildcards, delegations, and DNAMEs.
fn asked_records(name: &Name, packet: &SignedPacket) -> Vec<ProtoRecord> {
    let zone = Zone::new(packet, 0);
    let records = zone.records().iter();
    let below: Vec<_> = records
        .clone()
        .filter(|record| name.zone_of(&record.owner))
        .collect();
    let shown = match below.is_empty() {
        true => records
            .filter(|record| answers(&zone, name, record))
            .collect(),
        false => below,
    };
    shown.into_iter().map(proto_record).collect()
}

/// Whether a record above a name answers for it.
fn answers(zone: &Zone, name: &Name, record: &Record) -> bool {
    let is_above = |owner: &Name| owner.zone_of(name);
    match zone.lookup(name, record.rtype) {
        Lookup::Rrset { .. } | Lookup::Cname { .. } => {
            record.owner.is_wildcard() && is_above(&record.owner.base_name())
        }
        Lookup::Dname { owner, .. } => record.rtype == RecordType::DNAME && record.owner == owner,
        Lookup::Delegation { cut } => record.rtype == RecordType::NS && record.owner == cut,
        Lookup::NoData | Lookup::NxDomain => false,
    }
}

/// A `seq` as a date, and how long ago that was.
fn signed(seq: u64) -> String {
    let (at, now) = (signed_at(seq), now());
    let when = match now.checked_sub(at) {
        Some(age) => format!("{} ago", seconds(age)),
        None => format!(
            "{} ahead of this host's clock",
            seconds(at.saturating_sub(now))
        ),
    };
    format!("signed {}, {when}", utc(at))
}

fn now() -> u64 {
    signed_at(seq_of_now())
}

fn u64_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
