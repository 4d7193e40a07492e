//! Trust anchors: what a chain of trust starts from.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXUPPER_PERMISSIVE};
use hickory_proto::dnssec::rdata::DS;
use hickory_proto::dnssec::{Algorithm, DigestType};
use hickory_proto::rr::Name;

use super::signature::Key;

/// The key-signing keys of the root, KSK-2017 and KSK-2024, as IANA publishes them in
/// <https://data.iana.org/root-anchors/root-anchors.xml>; taken on 2026-11-22 from Debian's dns-root-data,
/// and equal to those in hickory. A file takes their place when the root has a newer key. The README and
/// `config/pkbridge.toml` tell that date.
const ROOT: [(u16, &str); 2] = [
    (
        20326,
        "E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D",
    ),
    (
        38696,
        "683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16",
    ),
];
/// Longest file of trust anchors, in bytes. `root.key` has 2,000.
const MAX_FILE_LEN: u64 = 1 << 20;

/// Trust anchors by their zone.
#[derive(Debug, Clone, Default)]
pub struct Anchors(HashMap<Name, Vec<Anchor>>);

/// What a zone's key must be to be trusted.
#[derive(Debug, Clone)]
pub(super) enum Anchor {
    /// Its digest.
    Digest(DS),
    /// The whole of a DNSKEY's data.
    Key(Vec<u8>),
}

/// Why a file holds no trust anchors.
#[derive(Debug, thiserror::Error)]
pub enum AnchorsError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A record is not what it should be.
    #[error("{path}:{line}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line that the record begins in, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// There is no key-signing key and no DS in it.
    #[error("{path}: no DS record and no key-signing DNSKEY in it")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Anchors {
    /// The root's keys, as they were when this was built.
    pub fn built_in() -> Self {
        let root = ROOT.into_iter().filter_map(|(tag, digest)| {
            let digest = HEXUPPER_PERMISSIVE.decode(digest.as_bytes()).ok()?;
            let ds = DS::new(tag, Algorithm::RSASHA256, DigestType::SHA256, digest);
            Some(Anchor::Digest(ds))
        });
        Self(HashMap::from([(Name::root(), root.collect())]))
    }

    /// Reads DS and DNSKEY records as `unbound-anchor` and `dig` write them, and as they stand in Debian's
    /// `/usr/share/dns/root.key`. Of DNSKEYs the key-signing ones count (RFC 4034 section 2.1.1), and
    /// those that unbound notes as not yet, or no longer, trusted (RFC 5011) do not.
    pub fn from_file(path: &Path) -> Result<Self, AnchorsError> {
        let unreadable = |error| AnchorsError::Unreadable {
            path: path.to_owned(),
            error,
        };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_FILE_LEN)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        Self::from_text(&text, path)
    }

    /// Reads the text of the file at `path`.
    fn from_text(text: &str, path: &Path) -> Result<Self, AnchorsError> {
        let mut anchors = Self::default();
        for (line, record) in records(text) {
            let read = read_anchor(&record).map_err(|problem| AnchorsError::Malformed {
                path: path.to_owned(),
                line,
                problem,
            })?;
            if let Some((zone, anchor)) = read {
                anchors.0.entry(zone).or_default().push(anchor);
            }
        }
        match anchors.0.is_empty() {
            true => Err(AnchorsError::Empty {
                path: path.to_owned(),
            }),
            false => Ok(anchors),
        }
    }

    /// The nearest zone at or above `name` that has anchors, and these.
    pub(super) fn above(&self, name: &Name) -> Option<(&Name, &[Anchor])> {
        let above = self.0.iter().filter(|(zone, _)| zone.zone_of(name));
        let (zone, anchors) = above.max_by_key(|(zone, _)| zone.iter().len())?;
        Some((zone, anchors))
    }
}

/// The records of a zone file with the lines that they begin in, as words. Parentheses join lines (RFC
/// 1035 section 5.1). A record whose comment says that RFC 5011 does not trust it is left out.
fn records(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut records = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let (mut start, mut is_open, mut is_trusted) = (1, false, true);
    for (number, line) in (1..).zip(text.lines()) {
        let (content, comment) = line.split_once(';').unwrap_or((line, ""));
        if !is_open {
            start = number;
            is_trusted = true;
        }
        is_trusted &= is_trusted_by_rfc5011(comment);
        let spaced = content.replace('(', " ( ").replace(')', " ) ");
        for word in spaced.split_whitespace() {
            match word {
                "(" => is_open = true,
                ")" => is_open = false,
                word => words.push(word.to_owned()),
            }
        }
        if !is_open && !words.is_empty() {
            let record = std::mem::take(&mut words);
            if is_trusted {
                records.push((start, record));
            }
        }
    }
    if !words.is_empty() {
        records.push((start, words));
    }
    records
}

/// unbound notes a key's state behind it: 2 is valid, 3 valid and not seen lately.
fn is_trusted_by_rfc5011(comment: &str) -> bool {
    let state = comment.split_once("state=").map(|(_, state)| state);
    state.is_none_or(|state| state.starts_with(['2', '3']))
}

/// Owner, TTL and class where they are given, type, data. `None` for what is right and no anchor.
fn read_anchor(words: &[String]) -> Result<Option<(Name, Anchor)>, String> {
    let is_type = |word: &String| ["DS", "DNSKEY", "RRSIG"].contains(&word.to_uppercase().as_str());
    let (owner, rest) = words.split_first().ok_or("an empty record")?;
    let place = rest.iter().position(is_type);
    let place = place.ok_or_else(|| format!("neither a DS nor a DNSKEY record: {owner} …"))?;
    let (before, data) = rest.split_at(place);
    for word in before {
        let is_ttl = word.starts_with(|first: char| first.is_ascii_digit());
        if !is_ttl && !word.eq_ignore_ascii_case("IN") {
            return Err(format!("unexpected \"{word}\""));
        }
    }
    let mut owner = Name::from_ascii(owner).map_err(|error| format!("the owner: {error}"))?;
    owner.set_fqdn(true);
    let (rtype, data) = data.split_first().ok_or("a record without a type")?;
    let anchor = match rtype.to_uppercase().as_str() {
        "DS" => Some(read_ds(data)?),
        "DNSKEY" => read_dnskey(data)?,
        // dig prints them beside the keys.
        _ => None,
    };
    Ok(anchor.map(|anchor| (owner.to_lowercase(), anchor)))
}

fn read_ds(data: &[String]) -> Result<Anchor, String> {
    let [tag, algorithm, digest_type, digest @ ..] = data else {
        return Err("a DS has a key tag, an algorithm, a digest type and a digest".to_owned());
    };
    let tag: u16 = tag.parse().map_err(|_| format!("no key tag: {tag}"))?;
    let algorithm = Algorithm::from_u8(number(algorithm, "algorithm")?);
    let digest_type = DigestType::from(number(digest_type, "digest type")?);
    if !algorithm.is_supported() || !digest_type.is_supported() {
        return Err("a DS with an algorithm or digest type that is not supported".to_owned());
    }
    let digest = HEXUPPER_PERMISSIVE.decode(digest.concat().as_bytes());
    let digest = digest.map_err(|error| format!("the digest is not hexadecimal: {error}"))?;
    let expected = match digest_type {
        DigestType::SHA1 => 20,
        DigestType::SHA384 => 48,
        DigestType::SHA256 | DigestType::Unknown(_) => 32,
        // `DigestType` may grow.
        _ => digest.len(),
    };
    if digest.len() != expected {
        return Err(format!(
            "the digest has {} bytes, not {expected}",
            digest.len()
        ));
    }
    Ok(Anchor::Digest(DS::new(tag, algorithm, digest_type, digest)))
}

fn read_dnskey(data: &[String]) -> Result<Option<Anchor>, String> {
    /// Secure entry point: a key-signing key.
    const SEP: u16 = 1;
    let [flags, protocol, algorithm, key @ ..] = data else {
        return Err("a DNSKEY has flags, a protocol, an algorithm and a key".to_owned());
    };
    let flags: u16 = flags.parse().map_err(|_| format!("no flags: {flags}"))?;
    let protocol = number(protocol, "protocol")?;
    let algorithm = number(algorithm, "algorithm")?;
    let key = BASE64.decode(key.concat().as_bytes());
    let key = key.map_err(|error| format!("the key is not Base64: {error}"))?;
    let mut rdata = flags.to_be_bytes().to_vec();
    rdata.extend([protocol, algorithm]);
    rdata.extend(key);
    let Some(key) = Key::read(&rdata).filter(|_| flags & SEP != 0) else {
        return Ok(None);
    };
    if !key.algorithm.is_supported() {
        return Err("a DNSKEY with an algorithm that is not supported".to_owned());
    }
    Ok(Some(Anchor::Key(rdata)))
}

fn number(word: &str, what: &str) -> Result<u8, String> {
    word.parse().map_err(|_| format!("no {what}: {word}"))
}

#[cfg(test)]
mod tests {
    use hickory_proto::dnssec::rdata::DNSKEY;
    use hickory_proto::dnssec::{PublicKey, TrustAnchors};

    use super::*;

    /// The data of KSK-2024 in Base64, as hickory has it.
    fn ksk() -> String {
        let anchors = TrustAnchors::default();
        BASE64.encode(anchors.get(1).unwrap().public_bytes())
    }

    fn read(text: &str) -> Result<Anchors, AnchorsError> {
        Anchors::from_text(text, Path::new("root.key"))
    }

    fn error(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    fn count(text: &str) -> usize {
        let anchors = read(text).unwrap();
        anchors.above(&Name::root()).map_or(0, |(_, of)| of.len())
    }

    #[test]
    fn users_are_told_which_keys_are_built_in_and_as_of_when() {
        let comment = include_str!("anchors.rs")
            .split("taken on ")
            .nth(1)
            .unwrap();
        let date = comment.split(' ').next().unwrap();
        let [(first, _), (second, _)] = ROOT;
        for file in ["README.md", "config/pkbridge.toml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            let text = std::fs::read_to_string(path).unwrap();
            for told in [
                first.to_string(),
                second.to_string(),
                format!("as of {date}"),
            ] {
                assert!(text.contains(&told), "{file}: {told}");
            }
        }
    }

    #[test]
    fn the_digests_of_the_root_are_those_of_the_keys_that_hickory_has() {
        let keys = TrustAnchors::default();
        let built_in = Anchors::built_in();
        let (_, anchors) = built_in.above(&Name::root()).unwrap();
        assert_eq!(anchors.len(), keys.len());
        for (index, anchor) in anchors.iter().enumerate() {
            let key = keys.get(index).unwrap().clone();
            let dnskey = DNSKEY::new(true, true, false, key);
            let Anchor::Digest(ds) = anchor else {
                panic!("not a digest");
            };
            assert!(ds.covers(&Name::root(), &dnskey).unwrap());
            assert_eq!(ds.key_tag(), dnskey.calculate_key_tag().unwrap());
        }
    }

    #[test]
    fn files_of_debian_unbound_and_dig_are_read() {
        let ksk = ksk();
        let (front, back) = ksk.split_at(60);
        assert_eq!(count(&format!(". IN DNSKEY 257 3 8 {ksk}\n")), 1);
        assert_eq!(
            count(
                ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"
            ),
            1
        );
        let unbound = format!(
            "; autotrust trust anchor file\n;;id: . 1\n\
             .\t86400\tIN\tDNSKEY\t257 3 8 {ksk} ;{{id = 38696 (ksk)}} ;;state=2 [  VALID  ]\n\
             .\t86400\tIN\tDNSKEY\t257 3 8 {ksk} ;{{id = 1 (ksk)}} ;;state=1 [ ADDPEND ]\n"
        );
        assert_eq!(count(&unbound), 1);
        let dig = format!(
            ".\t\t172800 IN DNSKEY 256 3 8 {front}\n\
             .\t\t172800 IN DNSKEY 257 3 8 (\n\t{front}\n\t{back} ) ; KSK\n\
             .\t\t172800 IN RRSIG DNSKEY 8 0 172800 20260101000000 20251201000000 1 . AAAA\n"
        );
        assert_eq!(count(&dig), 1);
        let other = read(
            "Corp.Example. 60 ds 1 13 2 00112233445566778899aabbccddeeff 00112233445566778899AABBCCDDEEFF",
        );
        let name = Name::from_ascii("www.corp.example.").unwrap();
        assert_eq!(
            other.unwrap().above(&name).unwrap().0.to_ascii(),
            "corp.example."
        );
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_line() {
        let bad = "\n; a comment\n. IN DS 20326 8 2 E06D\n";
        assert_eq!(error(bad), "root.key:3: the digest has 2 bytes, not 32");
        assert_eq!(
            error(". IN A 192.0.2.1"),
            "root.key:1: neither a DS nor a DNSKEY record: . …"
        );
        assert!(error(". IN DNSKEY 257 3 8 ####").contains("not Base64"));
        assert!(error(". CH DS 1 8 2 00").contains("unexpected \"CH\""));
        assert!(error(". IN DS 1 8").contains("a DS has"));
        assert!(error(". IN DS 1 200 2 00").contains("not supported"));
        assert_eq!(
            error("; nothing\n"),
            "root.key: no DS record and no key-signing DNSKEY in it"
        );
        let missing = Anchors::from_file(Path::new("/nonexistent/root.key"));
        assert!(matches!(missing, Err(AnchorsError::Unreadable { .. })));
    }
}
