//! A hosts file (hosts(5)) in memory, packed for lists of a million names: some forty bytes a
//! name.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, BufRead};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::MAX_NAME_LEN;

/// How much of the file is read, in bytes: room for as many names as are taken.
pub(super) const MAX_LEN: u64 = 64 << 20;
/// How many names are taken from it: the largest public block lists have fewer.
pub(super) const MAX_NAMES: usize = 1_000_000;
/// How many addresses a name can have: so many fit a message over TCP several times.
const MAX_ADDRESSES: usize = 256;

/// The names of a hosts file and their addresses.
#[derive(Default)]
pub(super) struct Hosts {
    /// Names as on the wire, in lower case, one behind the other.
    names: Vec<u8>,
    /// In the order of their hashes; those of one name in the order of the file.
    entries: Vec<Entry>,
    /// Addresses of the lines.
    addresses: Vec<IpAddr>,
    /// For each address the first canonical name that has it, by its place; in the order of addresses.
    canonical: Vec<(IpAddr, u32)>,
}

/// One name of one line.
struct Entry {
    hash: u32,
    name_at: u32,
    address_at: u32,
}

/// Lines, or names on them, that were left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) count: usize,
    /// The first one: its line, and what is wrong with it.
    pub(super) first: Option<(usize, &'static str)>,
}

impl Skipped {
    fn add(&mut self, line: usize, reason: &'static str) {
        self.count += 1;
        self.first.get_or_insert((line, reason));
    }
}

impl Hosts {
    /// Reads a hosts file. Takes the names (as on the wire) for which `is_ordinary`. Lines of loopback
    /// addresses mean this host alone, as Debian's `127.0.1.1 host.example.com host` does, and would lead
    /// all others to themselves; names at or below `localhost` are answered elsewhere. Both are left out
    /// without a word.
    pub(super) fn read(
        mut file: impl BufRead,
        is_ordinary: impl Fn(&[u8]) -> bool,
    ) -> io::Result<(Self, Skipped)> {
        let mut hosts = Self::default();
        let mut skipped = Skipped::default();
        let mut left = MAX_LEN;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let length = io::Read::take(&mut file, left + 1).read_until(b'\n', &mut line)?;
            let Some(rest) = left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) else {
                skipped.add(number, "the file is too long, and the rest is not read");
                break;
            };
            if length == 0 {
                break;
            }
            left = rest;
            if let Err(reason) = hosts.take_line(&line, &is_ordinary) {
                skipped.add(number, reason);
            }
            if hosts.entries.len() > MAX_NAMES {
                hosts.entries.truncate(MAX_NAMES);
                skipped.add(number, "too many names, and the rest is not read");
                break;
            }
        }
        hosts.pack();
        Ok((hosts, skipped))
    }

    /// Takes what a line has; says what is wrong with the rest.
    fn take_line(
        &mut self,
        line: &[u8],
        is_ordinary: &impl Fn(&[u8]) -> bool,
    ) -> Result<(), &'static str> {
        let code = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let mut words = code
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let Some(address) = words.next() else {
            return Ok(());
        };
        if address.contains(&b'%') {
            return Err("an address with a scope means nothing to other hosts");
        }
        let address = std::str::from_utf8(address).ok();
        let address: Option<IpAddr> = address.and_then(|text| text.parse().ok());
        let address = address.ok_or("the first word is not an IP address")?;
        if address.to_canonical().is_loopback() {
            return Ok(());
        }
        if self.addresses.last() != Some(&address) {
            self.addresses.push(address);
        }
        let address_at = place(self.addresses.len().saturating_sub(1))?;
        let mut result = Ok(());
        let mut is_canonical = true;
        let mut is_empty = true;
        for text in words {
            is_empty = false;
            let name_at = self.names.len();
            let name = match wire_name(text) {
                Some(name) if is_localhost(&name) => continue,
                Some(name) if !is_ordinary(&name) => {
                    result = Err("a public-key name, or one under a suffix, is not local");
                    continue;
                }
                Some(name) => name,
                None => {
                    result = Err("not a host name");
                    continue;
                }
            };
            let entry = Entry {
                hash: hash(&name),
                name_at: place(name_at)?,
                address_at,
            };
            if std::mem::take(&mut is_canonical) && has_reverse(address) {
                self.canonical.push((address, entry.name_at));
            }
            self.names.extend(name);
            self.entries.push(entry);
        }
        if is_empty {
            return Err("an address without a name");
        }
        result
    }

    /// Puts all in the order in which it is looked up.
    fn pack(&mut self) {
        self.entries.sort_by_key(|entry| entry.hash);
        self.canonical.sort_by_key(|(address, _)| *address);
        self.canonical.dedup_by_key(|(address, _)| *address);
        self.names.shrink_to_fit();
        self.entries.shrink_to_fit();
        self.addresses.shrink_to_fit();
        self.canonical.shrink_to_fit();
    }

    /// How many names there are, counted once a line.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The addresses of a name, which is given as on the wire, in lower case; each once.
    pub(super) fn addresses(&self, name: &[u8]) -> Vec<IpAddr> {
        let hash = hash(name);
        let from = self.entries.partition_point(|entry| entry.hash < hash);
        let mut found = Vec::new();
        for entry in self.entries.iter().skip(from) {
            if entry.hash != hash || found.len() >= MAX_ADDRESSES {
                break;
            }
            let address = index(entry.address_at).and_then(|at| self.addresses.get(at));
            if let Some(&address) = address
                && self.name_at(entry.name_at).starts_with(name)
                && !found.contains(&address)
            {
                found.push(address);
            }
        }
        found
    }

    /// The canonical name of an address, as on the wire.
    pub(super) fn name_of(&self, address: IpAddr) -> Option<&[u8]> {
        let at = self
            .canonical
            .binary_search_by_key(&address, |(address, _)| *address)
            .ok()?;
        let (_, name_at) = self.canonical.get(at)?;
        let names = self.name_at(*name_at);
        names.get(..crate::wire::skip_name(names, 0).ok()?)
    }

    /// All names from a place on; the first one ends in a zero byte.
    fn name_at(&self, at: u32) -> &[u8] {
        index(at)
            .and_then(|at| self.names.get(at..))
            .unwrap_or_default()
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hosts({} names)", self.len())
    }
}

/// Whether an address is told the name of: many names stand for the unspecified addresses in block
/// lists, and `localhost` alone for its own (RFC 6761 section 6.3).
pub(super) fn has_reverse(address: IpAddr) -> bool {
    let localhost = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    !address.is_unspecified() && !localhost.contains(&address)
}

fn hash(name: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    let [a, b, c, d, ..] = hasher.finish().to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

fn place(at: usize) -> Result<u32, &'static str> {
    u32::try_from(at).map_err(|_| "too many names")
}

fn index(at: u32) -> Option<usize> {
    usize::try_from(at).ok()
}

/// A name as people write it, each character for itself, as on the wire and in lower case.
fn wire_name(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    let is_good = |byte: &u8| byte.is_ascii_graphic() && *byte != b'\\';
    if !text.iter().all(is_good) || text.len() + 2 > MAX_NAME_LEN {
        return None;
    }
    let mut name = Vec::with_capacity(text.len() + 2);
    for label in text.split(|byte| *byte == b'.') {
        let length = u8::try_from(label.len()).ok();
        name.push(length.filter(|length| (1..=63).contains(length))?);
        name.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    name.push(0);
    Some(name)
}

fn is_localhost(name: &[u8]) -> bool {
    const LAST: &[u8] = b"\x09localhost\x00";
    // The 9 is a length: it is no character of a host name.
    name.ends_with(LAST)
}
