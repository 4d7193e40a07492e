//! What has become of a zone, for people and for programs.

use data_encoding::HEXLOWER;
use hickory_proto::rr::Record as ProtoRecord;
use serde_json::{Value, json};

use super::network::Put;
use super::zone::{Zone, ZoneSource, shown};
use crate::cli::control::{Sheet, counted};
use crate::cli::explain::utc;
use crate::cli::query::{records_json, table};
use crate::cli::relays::Relayed;
use crate::pkarr::{MAX_DNS_LEN, SignedPacket, signed_at};

/// What has become of a zone.
pub(super) struct Outcome {
    pub(super) packet: SignedPacket,
    /// The sequence number of the packet before.
    pub(super) replaces: Option<u64>,
    /// `None` on a dry run.
    pub(super) put: Option<Put>,
}

impl Outcome {
    /// What relays have done.
    pub(super) fn relays(&self) -> &[Relayed] {
        self.put.as_ref().map_or(&[], |put| &put.relays)
    }

    pub(super) fn text(&self, source: &ZoneSource, zone: &Zone) -> String {
        let packet = &self.packet;
        let mut sheet = Sheet::default();
        sheet.line("key", &source.key.to_string());
        sheet.line(
            "seq",
            &format!("{}, signed {}", packet.seq(), date(packet.seq())),
        );
        let count = u64::try_from(zone.records.len()).unwrap_or(u64::MAX);
        let records = counted(count, "record", "records");
        let length = packet.dns().len();
        sheet.line(
            "packet",
            &format!("{records}, {length} of {MAX_DNS_LEN} bytes"),
        );
        let Some(put) = &self.put else {
            sheet.line("dry run", "nothing was published");
            return with_records(sheet, zone);
        };
        let replaces = self.replaces.map_or_else(
            || "none: there was no packet of this key".to_owned(),
            |seq| format!("the one of seq {seq}, signed {}", date(seq)),
        );
        sheet.line("replaces", &replaces);
        if let Some(published) = put.published {
            sheet.line("stored", &format!("on {}", nodes(published.stored)));
            let holders = published.holders;
            let mut line = format!("from {} that hold it", nodes(holders.newest));
            if holders.older > 0 {
                line += &format!("; {} still hold an older one", nodes(holders.older));
            }
            sheet.line("read back", &line);
        }
        if !put.relays.is_empty() {
            let lines: Vec<_> = put.relays.iter().map(Relayed::line).collect();
            sheet.lines("relays", "", &lines);
        }
        with_records(sheet, zone)
    }

    pub(super) fn json(&self, source: &ZoneSource, zone: &Zone) -> Value {
        let packet = &self.packet;
        let published = self.put.as_ref().and_then(|put| put.published);
        let records: Vec<ProtoRecord> = shown(&zone.records);
        let mut records = records_json(&records);
        for (record, size) in records.iter_mut().zip(&zone.composed.sizes) {
            if let Some(record) = record.as_object_mut() {
                record.insert("bytes".to_owned(), (*size).into());
            }
        }
        json!({
            "key": source.key.to_string(),
            "seq": packet.seq(),
            "signed_at": signed_at(packet.seq()),
            "bytes": packet.dns().len(),
            "max_bytes": MAX_DNS_LEN,
            "records": records,
            "signed_packet_hex": HEXLOWER.encode(&packet.to_bytes()),
            "replaces_seq": self.replaces,
            "stored": published.map(|published| published.stored),
            "holders": published.map(|published| published.holders.newest),
            "older_holders": published.map(|published| published.holders.older),
            "relays": self.relays().iter().map(Relayed::report).collect::<Vec<_>>(),
        })
    }
}

fn with_records(sheet: Sheet, zone: &Zone) -> String {
    let lines = table(shown(&zone.records).iter());
    let sizes = zone.composed.sizes.iter();
    let lines: Vec<String> = sizes
        .zip(lines)
        .map(|(size, line)| format!("{size:>4} B  {line}"))
        .collect();
    sheet.into_text() + "\n" + &lines.join("\n") + "\n"
}

pub(super) fn nodes(count: u32) -> String {
    counted(u64::from(count), "node", "nodes")
}

/// "1 node holds", "2 nodes hold".
pub(super) fn holding(count: u32) -> String {
    counted(u64::from(count), "node holds", "nodes hold")
}

/// Says that a packet that is replaced is of a time to come.
pub(super) fn from_the_future(replaced: u64) -> String {
    format!(
        "the packet before is of {}, which is later than the clock of this host",
        date(replaced)
    )
}

/// When a packet with this sequence number was signed.
pub(super) fn date(seq: u64) -> String {
    utc(signed_at(seq))
}
