//! The zone file that is published, with the key that signs it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use hickory_proto::rr::Record as ProtoRecord;

use crate::cli::query::{printable, proto_record, table};
use crate::cli::{key_file, seq_of_now};
use crate::pkarr::{
    Composed, FilledZone, HostAddresses, MAX_DNS_LEN, PacketError, PublicKey, Record, SignedPacket,
    SigningKey, compose, fill_zone_file,
};

/// Longest zone file, in bytes: what is signed has 1000, and the rest is comments.
const MAX_FILE_LEN: u64 = 1024 * 1024;
/// Above this libtorrent's nodes refuse a packet: they count the bytes of its encoding, too.
const SAFE_LEN: usize = 996;
/// Above this the reply of a DHT node is fragmented on many ways, and lost on some.
const UNFRAGMENTED_LEN: usize = 720;
/// Records that are told of one that is too large.
const MAX_LARGEST: usize = 10;

/// A zone file and the key that signs it.
pub(super) struct ZoneSource {
    pub(super) path: PathBuf,
    pub(super) key: PublicKey,
    secret: SigningKey,
}

/// What is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Zone {
    pub(super) records: Vec<Record>,
    pub(super) composed: Composed,
    /// Whether the file has the variable of an IPv4 address.
    pub(super) has_ipv4: bool,
    /// Whether it has any.
    pub(super) has_variables: bool,
    /// Lines about what was left out because its address is not known.
    pub(super) left_out: Vec<String>,
}

impl ZoneSource {
    /// Reads the key.
    ///
    /// # Errors
    /// A line that says what is wrong.
    pub(super) fn open(zone_file: &Path, key_file: &Path) -> Result<Self, String> {
        let secret = key_file::read(key_file)?;
        Ok(Self {
            path: zone_file.to_owned(),
            key: PublicKey::from(&secret),
            secret,
        })
    }

    /// Reads the zone.
    ///
    /// # Errors
    /// Lines that say what is wrong.
    pub(super) fn read(&self, addresses: HostAddresses) -> Result<Zone, Vec<String>> {
        let shown = self.path.display();
        let text = read_limited(&self.path)
            .map_err(|error| vec![format!("{shown}: the zone file cannot be read: {error}")])?;
        let filled = fill_zone_file(&text, self.key, addresses).map_err(|errors| {
            let lines = errors.iter().map(|error| format!("{shown}:{error}"));
            lines.collect::<Vec<_>>()
        })?;
        let FilledZone {
            records,
            has_ipv4,
            has_ipv6,
            left_out,
        } = filled;
        let left_out: Vec<String> = left_out
            .iter()
            .map(|note| format!("{shown}:{note}"))
            .collect();
        if records.is_empty() && left_out.is_empty() {
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
        Ok(Zone {
            records,
            composed,
            has_ipv4,
            has_variables: has_ipv4 || has_ipv6,
            left_out,
        })
    }

    /// Signs a zone with the time, or with more if the packet before is of a later one.
    ///
    /// # Errors
    /// If there is no later time.
    pub(super) fn sign(
        &self,
        zone: &Zone,
        replaces: Option<u64>,
    ) -> Result<SignedPacket, PacketError> {
        let now = seq_of_now();
        let seq = replaces.map_or(now, |replaced| now.max(replaced.saturating_add(1)));
        SignedPacket::sign(&self.secret, seq, &zone.composed.dns)
    }
}

impl Zone {
    /// What may go wrong with it: lines.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut lines = self.left_out.clone();
        let length = self.composed.dns.len();
        if length > SAFE_LEN {
            lines.push(format!(
                "the packet has {length} bytes; many DHT nodes refuse more than {SAFE_LEN}"
            ));
        } else if length > UNFRAGMENTED_LEN {
            lines.push(format!(
                "the packet has {length} bytes; above {UNFRAGMENTED_LEN} the datagrams that carry it \
                 are fragmented on some ways, and lost on a few"
            ));
        }
        lines
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
pub(super) fn shown(records: &[Record]) -> Vec<ProtoRecord> {
    records.iter().map(proto_record).collect()
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
