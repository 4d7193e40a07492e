//! Names that the operator has given records on this host: in the configuration, and in a hosts file,
//! which is watched. PTR records of their addresses are made from both.
//!
//! A name with a local record is answered from local records alone: what it has none of is NODATA, and
//! nobody else is asked, since the name may mean nothing outside, and tell something.

mod hosts;
mod watch;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use hickory_proto::rr::{Name, RecordType};

use self::hosts::{Hosts, has_reverse};
use self::watch::State;
use crate::pkarr::{Record, Suffixes};
use crate::wire;

/// A record of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRecord {
    /// The owner; letter case does not matter.
    pub name: Name,
    /// The type.
    pub rtype: RecordType,
    /// The data, names uncompressed.
    pub rdata: Vec<u8>,
}

/// The type and data of each record of a name.
type Data = Vec<(RecordType, Vec<u8>)>;

/// The local records. The default has none.
#[derive(Debug, Default)]
pub struct LocalRecords {
    configured: HashMap<Name, Data>,
    hosts_file: Option<PathBuf>,
    suffixes: Suffixes,
    table: ArcSwap<Table>,
    /// Of the hosts file as it was read first.
    first: State,
    ttl: u32,
}

/// What a hosts file had when it was last read.
#[derive(Debug, Default)]
struct Table {
    hosts: Hosts,
    /// Set when the file has been read again: answers made from this table end.
    ended: Arc<AtomicBool>,
}

impl LocalRecords {
    /// The records of the configuration, and those of a hosts file, which is read at once; a file that is
    /// missing or cannot be read has none, and is looked for again. All have this TTL, in seconds.
    ///
    /// Lines of loopback addresses, names at or below `localhost`, public-key names and those under one
    /// of the `suffixes` are not taken from the file.
    pub fn new(
        records: Vec<LocalRecord>,
        hosts_file: Option<PathBuf>,
        suffixes: Suffixes,
        ttl: u32,
    ) -> Self {
        let mut local = Self {
            configured: with_pointers(records),
            hosts_file,
            suffixes,
            ttl,
            ..Self::default()
        };
        local.first = local.read_first();
        local
    }

    /// The TTL of all local records, in seconds.
    pub(super) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Whether a name has local records.
    pub fn has(&self, name: &Name) -> bool {
        !self.data_of(name, &self.table.load().hosts).is_empty()
    }

    /// The type and data of each record of a name, and what is set when they are no longer so; `None` if
    /// it has none.
    pub(super) fn of(&self, name: &Name) -> Option<(Data, Arc<AtomicBool>)> {
        let table = self.table.load();
        let data = self.data_of(name, &table.hosts);
        (!data.is_empty()).then(|| (data, Arc::clone(&table.ended)))
    }

    /// What is set when a name that has no local records now may have some.
    pub(super) fn ended(&self) -> Option<Arc<AtomicBool>> {
        let table = self.hosts_file.is_some().then(|| self.table.load());
        table.map(|table| Arc::clone(&table.ended))
    }

    /// A type that the configuration has for a name is not taken from the hosts file as well.
    fn data_of(&self, name: &Name, hosts: &Hosts) -> Data {
        let mut data = if self.configured.is_empty() {
            Data::new()
        } else {
            self.configured.get(name).cloned().unwrap_or_default()
        };
        if hosts.len() == 0 {
            return data;
        }
        let from_file = from_hosts(name, hosts);
        let is_configured = |rtype: RecordType| {
            data.iter()
                .any(|(of, _)| *of == rtype || *of == RecordType::CNAME)
        };
        let added: Data = from_file
            .into_iter()
            .filter(|(rtype, _)| !is_configured(*rtype))
            .collect();
        data.extend(added);
        data
    }

    /// Puts what was read in the place of what there was.
    fn replace(&self, hosts: Hosts) {
        let table = Table {
            hosts,
            ended: Arc::default(),
        };
        let old = self.table.swap(Arc::new(table));
        old.ended.store(true, Ordering::Relaxed);
    }
}

/// The addresses of a name in a hosts file, or the name of an address.
fn from_hosts(name: &Name, hosts: &Hosts) -> Data {
    let mut wire = wire::name_bytes(name);
    // Lengths are no letters: they are below 64.
    wire.make_ascii_lowercase();
    let mut data: Data = hosts.addresses(&wire).into_iter().map(data_of).collect();
    let owner = address_of(name).and_then(|address| hosts.name_of(address));
    data.extend(owner.map(|owner| (RecordType::PTR, owner.to_vec())));
    data
}

fn data_of(address: IpAddr) -> (RecordType, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (RecordType::A, address.octets().to_vec()),
        IpAddr::V6(address) => (RecordType::AAAA, address.octets().to_vec()),
    }
}

/// The address whose reverse name this is.
fn address_of(name: &Name) -> Option<IpAddr> {
    let address = name.parse_arpa_name().ok()?.addr();
    // Part of an address is read as a network, and leading zeros are not minded.
    (reverse_name(address) == *name).then_some(address)
}

fn reverse_name(address: IpAddr) -> Name {
    fqdn(address.into())
}

fn fqdn(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

/// The records by their names, and for each address a PTR to the first name that has it, unless the
/// configuration has one of its own.
fn with_pointers(records: Vec<LocalRecord>) -> HashMap<Name, Data> {
    let mut by_name: HashMap<Name, Data> = HashMap::new();
    let mut pointers = Vec::new();
    for LocalRecord { name, rtype, rdata } in records {
        let owner = fqdn(name.to_lowercase());
        let record = Record {
            owner,
            rtype,
            ttl: 0,
            rdata,
        };
        if let Some(address) = record.address().filter(|address| has_reverse(*address)) {
            pointers.push((reverse_name(address), wire::name_bytes(&record.owner)));
        }
        let data = by_name.entry(record.owner).or_default();
        let record = (rtype, record.rdata);
        if !data.contains(&record) {
            data.push(record);
        }
    }
    for (owner, target) in pointers {
        let data = by_name.entry(owner).or_default();
        let is_other = |(rtype, _): &(RecordType, Vec<u8>)| {
            *rtype != RecordType::PTR && *rtype != RecordType::CNAME
        };
        if data.iter().all(is_other) {
            data.push((RecordType::PTR, target));
        }
    }
    by_name
}

#[cfg(test)]
mod tests;
