//! The signed packet: a DNS message, a timestamp, and the key owner's signature over both.

use ed25519_dalek::{Signature, Signer, SigningKey};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};

use super::key::{KeyError, PublicKey};
use super::message::Writer;
use crate::wire::{Layout, WireError};

/// Longest DNS message in a packet, in bytes (BEP 44 bounds the value; the reference counts this).
pub const MAX_DNS_LEN: usize = 1000;
/// Key, signature and timestamp in front of the DNS message.
const PREFIX_LEN: usize = 32 + 64 + 8;

/// A DNS message that the owner of a key signed, with its time. Every value of this type has been
/// verified.
///
/// ```
/// use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey, compose, read_zone_file};
///
/// let secret = SigningKey::from_bytes(&[7; 32]);
/// let key = PublicKey::from(&secret);
/// let message = compose(&read_zone_file(b"www A 192.0.2.1", key)?);
/// let seq = 1_767_225_600_000_000; // microseconds of Unix time
/// let packet = SignedPacket::sign(&secret, seq, &message.dns)?;
/// assert_eq!((packet.key(), packet.seq()), (key, seq));
///
/// // What arrives is verified before it is a packet.
/// let mut bytes = packet.to_bytes();
/// assert_eq!(SignedPacket::from_bytes(&bytes)?, packet);
/// bytes[100] ^= 1;
/// assert!(SignedPacket::from_bytes(&bytes).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SignedPacket {
    key: PublicKey,
    signature: [u8; 64],
    seq: u64,
    dns: Box<[u8]>,
}

/// When a packet with this sequence number was signed, in seconds of Unix time.
pub fn signed_at(seq: u64) -> u64 {
    seq / 1_000_000
}

/// Why bytes are not a signed packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Too short to hold key, signature and timestamp.
    #[error("shorter than key, signature and timestamp")]
    Short,
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signature is not the key's over these bytes.
    #[error("the signature is not valid")]
    Signature,
    /// The timestamp does not fit BEP 44's signed 64-bit sequence number.
    #[error("the timestamp is 2^63 or above")]
    Seq,
    /// The DNS message is over 1000 bytes. Properly signed all the same.
    #[error("the DNS message has {0} bytes, over the limit of 1000")]
    TooLarge(usize),
    /// The signed bytes are no DNS message. Properly signed all the same.
    #[error("the signed bytes are no DNS message: {0}")]
    Dns(#[from] WireError),
}

impl PacketError {
    /// Whether the owner did sign this: then it supersedes older packets, although it says nothing
    /// that could be served.
    pub fn is_signed(&self) -> bool {
        matches!(self, Self::TooLarge(_) | Self::Dns(_))
    }
}

impl SignedPacket {
    /// Verifies the parts of a BEP 44 item: `seq` is the timestamp in microseconds of Unix time,
    /// `dns` the value.
    ///
    /// # Errors
    /// If the key has not signed this, or what it has signed is no packet; see [`PacketError::is_signed`].
    pub fn verify(
        key: PublicKey,
        signature: &[u8; 64],
        seq: u64,
        dns: &[u8],
    ) -> Result<Self, PacketError> {
        if i64::try_from(seq).is_err() {
            return Err(PacketError::Seq);
        }
        let verifier = key.verifying_key().ok_or(KeyError::NotOnCurve)?;
        verifier
            .verify_strict(&signable(seq, dns), &Signature::from_bytes(signature))
            .map_err(|_| PacketError::Signature)?;
        if dns.len() > MAX_DNS_LEN {
            return Err(PacketError::TooLarge(dns.len()));
        }
        Layout::read(dns)?;
        Ok(Self {
            key,
            signature: *signature,
            seq,
            dns: dns.into(),
        })
    }

    /// Verifies the stored form: key (32 bytes), signature (64), timestamp (8, big-endian), DNS
    /// message.
    ///
    /// # Errors
    /// As of [`SignedPacket::verify`], or if there is too little of it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PacketError> {
        let (key, rest) = bytes.split_first_chunk::<32>().ok_or(PacketError::Short)?;
        let (signature, rest) = rest.split_first_chunk::<64>().ok_or(PacketError::Short)?;
        let (seq, dns) = rest.split_first_chunk::<8>().ok_or(PacketError::Short)?;
        let key = PublicKey::from_bytes(key)?;
        Self::verify(key, signature, u64::from_be_bytes(*seq), dns)
    }

    /// The stored form; see [`SignedPacket::from_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PREFIX_LEN + self.dns.len());
        bytes.extend_from_slice(self.key.as_bytes());
        bytes.extend_from_slice(&self.signature);
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.dns);
        bytes
    }

    /// Signs a DNS message. `seq` is the time in microseconds of Unix time; publishers make it
    /// greater than the last one.
    ///
    /// # Errors
    /// If it is no DNS message, or more than [`MAX_DNS_LEN`], or `seq` is 2^63 or above.
    pub fn sign(secret: &SigningKey, seq: u64, dns: &[u8]) -> Result<Self, PacketError> {
        let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes())?;
        let signature = secret.sign(&signable(seq, dns)).to_bytes();
        Self::verify(key, &signature, seq, dns)
    }

    /// Signs records as one DNS message in the form that the reference implementation builds: a
    /// reply with ID 0, all records in the answer section, names compressed.
    // For the demo and the tests, which make their records with the DNS library; others take `compose`.
    #[doc(hidden)]
    pub fn sign_records(
        secret: &SigningKey,
        seq: u64,
        records: Vec<hickory_proto::rr::Record>,
    ) -> Result<Self, PacketError> {
        let mut writer = Writer::new();
        for record in records {
            let mut rdata = Vec::new();
            let mut encoder = BinEncoder::new(&mut rdata);
            encoder.set_name_encoding(NameEncoding::Uncompressed);
            let written = record.data.emit(&mut encoder);
            written.map_err(|_| WireError::BadName)?;
            let (rtype, class) = (record.record_type(), record.dns_class.into());
            writer.write(&record.name, rtype, class, record.ttl, &rdata);
        }
        Self::sign(secret, seq, &writer.finish())
    }

    /// The key that signed.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// The signature over timestamp and DNS message.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// When it was signed, in microseconds of Unix time; BEP 44's `seq`. Below 2^63.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The DNS message.
    pub fn dns(&self) -> &[u8] {
        &self.dns
    }

    /// Whether this one replaces `other`: the higher `seq`, on a tie the greater DNS bytes.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.seq, &self.dns) > (other.seq, &other.dns)
    }
}

/// What is signed: BEP 44's bencoded `seq` and `v`, without salt.
fn signable(seq: u64, dns: &[u8]) -> Vec<u8> {
    let mut bytes = format!("3:seqi{seq}e1:v{}:", dns.len()).into_bytes();
    bytes.extend_from_slice(dns);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    fn vectors(text: &str) -> Vec<serde_json::Value> {
        let file: serde_json::Value = serde_json::from_str(text).unwrap();
        file["vectors"].as_array().unwrap().clone()
    }

    fn packet_of(vector: &serde_json::Value) -> Result<SignedPacket, PacketError> {
        let key = unhex(vector["public_key_hex"].as_str().unwrap());
        let payload = unhex(vector["relay_payload_hex"].as_str().unwrap());
        SignedPacket::from_bytes(&[key, payload].concat())
    }

    #[test]
    fn all_valid_vectors_are_accepted_and_signed_alike() {
        for vector in vectors(include_str!("../../tests/vectors/valid.json")) {
            let name = vector["name"].as_str().unwrap();
            let packet = packet_of(&vector).unwrap_or_else(|e| panic!("{name}: {e}"));
            let bytes = unhex(vector["signed_packet_hex"].as_str().unwrap());
            assert_eq!(packet.to_bytes(), bytes, "{name}");
            let secret = unhex(vector["secret_key_hex"].as_str().unwrap());
            let secret = SigningKey::from_bytes(&secret.try_into().unwrap());
            let signed = SignedPacket::sign(&secret, packet.seq(), packet.dns());
            assert_eq!(signed, Ok(packet), "{name}");
        }
    }

    #[test]
    fn all_invalid_vectors_are_refused_with_the_reason() {
        for vector in vectors(include_str!("../../tests/vectors/invalid.json")) {
            let name = vector["name"].as_str().unwrap();
            let verdict = packet_of(&vector);
            if vector["expect"]["verify"] == "either" {
                continue;
            }
            let error = verdict.expect_err(name);
            let expected = match name {
                "payload_empty" | "payload_71" => PacketError::Short,
                "weak_key_identity" => PacketError::Key(KeyError::Weak),
                "key_not_on_curve" => PacketError::Key(KeyError::NotOnCurve),
                "v_1001" => PacketError::TooLarge(1001),
                "dns_empty" | "dns_short_header" | "dns_count_too_big" | "dns_count_65535"
                | "rdlength_overrun" => PacketError::Dns(WireError::Truncated),
                _ if name.starts_with("ptr_") => PacketError::Dns(WireError::BadName),
                "label_64" | "name_over_255" => PacketError::Dns(WireError::BadName),
                _ => PacketError::Signature,
            };
            assert_eq!(error, expected, "{name}");
        }
    }

    #[test]
    fn the_newest_of_each_sequence_wins() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/sequences.json")).unwrap();
        let key = unhex(file["public_key_hex"].as_str().unwrap());
        let packet = |name: &str| {
            let payload = unhex(file["payloads"][name].as_str().unwrap());
            SignedPacket::from_bytes(&[key.clone(), payload].concat()).unwrap()
        };
        for case in file["cases"].as_array().unwrap() {
            let mut held: Option<SignedPacket> = None;
            for name in case["feed"].as_array().unwrap() {
                let next = packet(name.as_str().unwrap());
                if held.as_ref().is_none_or(|held| next.is_newer_than(held)) {
                    held = Some(next);
                }
            }
            assert_eq!(held, Some(packet(case["winner"].as_str().unwrap())));
        }
    }

    #[test]
    fn a_seq_of_2_to_the_63_is_refused() {
        let secret = SigningKey::from_bytes(&[7; 32]);
        let dns = [0; 12];
        assert!(SignedPacket::sign(&secret, (1 << 63) - 1, &dns).is_ok());
        assert_eq!(
            SignedPacket::sign(&secret, 1 << 63, &dns),
            Err(PacketError::Seq)
        );
    }
}
