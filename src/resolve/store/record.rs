//! The bytes of one record: all that is remembered of one key, in a form that proves itself.
//!
//! A record must be readable without the database around it, from any place of a damaged file. So it
//! begins with a fixed mark, says its length, carries a check over itself, and repeats its key. The check
//! is keyed by the [`Secret`] of the store: a packet may hold any bytes, and so what looks like the record
//! of another key. A record whose check is wrong counts by the signature of its packet alone.
//!
//! | bytes | |
//! |---|---|
//! | 4 | [`MARK`] |
//! | 8 | SipHash-2-4 of all that follows, keyed by the secret |
//! | 2 | length of the body |
//! | 4 | the tick at which it was last of use, see [`Record::tick`] |
//! | 8 | when the packet was last confirmed, in seconds of Unix time |
//! | 8 | the highest `seq` seen of the key |
//! | 32, or 104 and more | the key alone, or the stored form of the packet, which begins with it |
//!
//! Numbers are big-endian.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::pending::Change;
use crate::pkarr::{MAX_DNS_LEN, PublicKey, SignedPacket};

/// What a record begins with. The last byte is the version of its form.
pub(super) const MARK: [u8; 4] = [0xF5, b'p', b'k', 1];
/// Mark and check.
const CHECKED_FROM: usize = 12;
/// Everything in front of the body.
const HEADER_LEN: usize = CHECKED_FROM + 2 + 4 + 8 + 8;
/// Key, signature and timestamp in front of a packet's DNS message.
const PREFIX_LEN: usize = 32 + 64 + 8;
/// Longest record.
pub(super) const MAX_RECORD_LEN: usize = HEADER_LEN + PREFIX_LEN + MAX_DNS_LEN;
/// A packet that is confirmed again sooner is not written again: this spares the disk, and at worst a
/// packet seems this much older after a restart.
const CONFIRMED_PRECISION: u64 = 600;

/// What only this store knows: nobody else can make a right check.
#[derive(Clone, Copy)]
pub(super) struct Secret(pub(super) [u8; 16]);

impl Secret {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    pub(super) fn check(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(bytes);
        hasher.finish()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// All that is remembered of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// When it was last confirmed or asked for, by a count of hours in which some store ran on this
    /// file. Wall clocks jump, this only grows; what is least goes first.
    pub(super) tick: u32,
    /// When the network last had the packet, by the wall clock, in seconds of Unix time.
    pub(super) confirmed: u64,
    /// The highest `seq` seen.
    pub(super) seq: u64,
    pub(super) key: [u8; 32],
    /// The newest packet in its stored form.
    packet: Option<Vec<u8>>,
}

impl Record {
    fn new(key: &PublicKey) -> Self {
        Self {
            tick: 0,
            confirmed: 0,
            seq: 0,
            key: *key.as_bytes(),
            packet: None,
        }
    }

    pub(super) fn to_bytes(&self, secret: &Secret) -> Vec<u8> {
        let body = self.packet.as_deref().unwrap_or(&self.key);
        let mut checked = Vec::with_capacity(MAX_RECORD_LEN);
        checked.extend_from_slice(&u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
        checked.extend_from_slice(&self.tick.to_be_bytes());
        checked.extend_from_slice(&self.confirmed.to_be_bytes());
        checked.extend_from_slice(&self.seq.to_be_bytes());
        checked.extend_from_slice(body);
        let sum = secret.check(&checked).to_be_bytes();
        [&MARK, sum.as_slice(), &checked].concat()
    }

    /// Reads the record at the start of `bytes`. If its check is wrong, its packet counts if that is
    /// signed, without what else the record says.
    pub(super) fn read(bytes: &[u8], secret: &Secret) -> Option<Self> {
        let rest = bytes.strip_prefix(&MARK)?;
        let (sum, rest) = rest.split_first_chunk::<8>()?;
        let (len, fields) = rest.split_first_chunk::<2>()?;
        let (tick, fields) = fields.split_first_chunk::<4>()?;
        let (confirmed, fields) = fields.split_first_chunk::<8>()?;
        let (seq, fields) = fields.split_first_chunk::<8>()?;
        let len = usize::from(u16::from_be_bytes(*len));
        let body = fields.get(..len)?;
        let (key, after_key) = body.split_first_chunk::<32>()?;
        let has_packet = !after_key.is_empty();
        if has_packet && !(PREFIX_LEN..=PREFIX_LEN + MAX_DNS_LEN).contains(&len) {
            return None;
        }
        let checked = rest.get(..HEADER_LEN - CHECKED_FROM + len)?;
        if secret.check(checked).to_be_bytes() == *sum {
            return Some(Self {
                tick: u32::from_be_bytes(*tick),
                confirmed: u64::from_be_bytes(*confirmed),
                seq: u64::from_be_bytes(*seq),
                key: *key,
                packet: has_packet.then(|| body.to_vec()),
            });
        }
        let packet = SignedPacket::from_bytes(body).ok()?;
        Some(Self {
            tick: 0,
            confirmed: 0,
            seq: packet.seq(),
            key: *key,
            packet: Some(body.to_vec()),
        })
    }

    /// How many bytes it was read from.
    pub(super) fn stored_len(&self) -> usize {
        HEADER_LEN + self.packet.as_deref().unwrap_or(&self.key).len()
    }

    pub(super) fn has_packet(&self) -> bool {
        self.packet.is_some()
    }

    /// The packet, verified.
    pub(super) fn packet(&self) -> Option<SignedPacket> {
        SignedPacket::from_bytes(self.packet.as_deref()?).ok()
    }

    /// Whether it has no packet, or one that is signed.
    pub(super) fn is_genuine(&self) -> bool {
        !self.has_packet() || self.packet().is_some()
    }

    /// The packet goes, its `seq` stays.
    pub(super) fn drop_packet(&mut self) {
        self.packet = None;
    }

    /// Whether this copy of a key's record is the better one of two that a damaged file holds.
    pub(super) fn is_better_than(&self, other: &Self) -> bool {
        let order = |record: &Self| (record.seq, record.tick, record.has_packet());
        (order(self), self.confirmed) > (order(other), other.confirmed)
    }

    /// The record after a change; none if there is still nothing to say.
    pub(super) fn changed(
        before: Option<Self>,
        key: &PublicKey,
        change: &Change,
        tick: u32,
    ) -> Option<Self> {
        let mut record = before.unwrap_or_else(|| Self::new(key));
        if change.distrusted && !record.is_genuine() {
            record = Self::new(key);
        }
        if change.forgotten && record.has_packet() {
            record.drop_packet();
            record.tick = tick;
        }
        if let Some((packet, confirmed)) = &change.packet {
            record.put(packet, *confirmed, tick);
        }
        if let Some(seq) = change.seq
            && seq > record.seq
        {
            (record.seq, record.tick) = (seq, tick);
        }
        if change.touched && record.has_packet() {
            record.tick = tick;
        }
        (record.seq > 0 || record.has_packet()).then_some(record)
    }

    fn put(&mut self, packet: &SignedPacket, confirmed: u64, tick: u32) {
        let bytes = packet.to_bytes();
        // Timestamp and DNS message follow key and signature: this order is that of
        // `SignedPacket::is_newer_than`.
        let version = |bytes: &[u8]| bytes.get(32 + 64..).map(<[u8]>::to_vec);
        let held = self.packet.as_deref().and_then(version);
        let new = version(&bytes);
        if held == new {
            if confirmed.abs_diff(self.confirmed) >= CONFIRMED_PRECISION {
                self.confirmed = confirmed;
            }
            self.tick = tick;
        } else if packet.seq() >= self.seq && new > held {
            self.packet = Some(bytes);
            (self.seq, self.confirmed, self.tick) = (packet.seq(), confirmed, tick);
        }
    }
}
