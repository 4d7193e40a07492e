//! Answers as bytes, ready to be copied out, and the cache of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{Name, RData, Record as ProtoRecord, RecordType};
use moka::sync::Cache;
use tokio::time::Instant;

use super::failure::{Ede, Failure};
use crate::pkarr::Record;
use crate::wire::{self, Layout};

/// Bytes that the cache's own structures take for an entry, beside key and value: an estimate.
const ENTRY_OVERHEAD: usize = 300;

/// What is asked, as far as it changes the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, in lower case.
    pub name: Name,
    /// The type.
    pub rtype: RecordType,
    /// The client wants DNSSEC records (RFC 3225).
    pub dnssec_ok: bool,
    /// The client wants data that failed validation, too (RFC 4035 section 3.2.2).
    pub checking_disabled: bool,
}

impl Question {
    /// The key of the cache: lower-case name, type, and the two bits.
    pub fn cache_key(&self) -> Box<[u8]> {
        let mut key = wire::name_bytes(&self.name);
        key.extend(u16::from(self.rtype).to_be_bytes());
        key.push(u8::from(self.dnssec_ok) | (u8::from(self.checking_disabled) << 1));
        key.into()
    }

    /// The question section: one entry of class IN.
    pub fn wire(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes);
        bytes
    }

    /// Appends the question section.
    pub(super) fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend(wire::name_bytes(&self.name));
        bytes.extend(u16::from(self.rtype).to_be_bytes());
        bytes.extend(wire::CLASS_IN.to_be_bytes());
    }
}

/// An answer: a message without OPT, whose ID, question case, flags and TTLs are written anew for
/// each client.
#[derive(Debug)]
pub struct Answer {
    wire: Box<[u8]>,
    question_end: usize,
    ttl_offsets: Box<[u16]>,
    rcode: u16,
    edes: Vec<Ede>,
    /// All of it comes from verified packets.
    verified: bool,
    /// It is the lack of an answer.
    failure: bool,
    /// When the TTLs in `wire` were true.
    stored: Instant,
    expires: Instant,
    made_from: Vec<Arc<AtomicBool>>,
}

impl Answer {
    /// Takes a message without OPT. `rcode` is all 12 bits of it; TTLs hold at `stored`.
    pub fn new(
        wire: Vec<u8>,
        rcode: u16,
        stored: Instant,
        lifetime: Duration,
    ) -> Result<Self, Failure> {
        let layout = Layout::read(&wire).map_err(|_| Failure::Unwritable)?;
        let offsets: Option<Vec<u16>> = layout
            .records
            .iter()
            .map(|record| u16::try_from(record.ttl_at).ok())
            .collect();
        Ok(Self {
            question_end: layout.question_end,
            ttl_offsets: offsets.ok_or(Failure::Unwritable)?.into(),
            wire: wire.into(),
            rcode,
            edes: Vec::new(),
            verified: false,
            failure: false,
            stored,
            expires: stored + lifetime,
            made_from: Vec::new(),
        })
    }

    /// SERVFAIL with the reason.
    pub fn failure(question: &Question, failure: &Failure, lifetime: Duration) -> Self {
        let now = Instant::now();
        let servfail = u16::from(ResponseCode::ServFail);
        let mut wire = vec![0, 0];
        wire.extend(servfail.to_be_bytes());
        wire.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        wire.extend(question.wire());
        Self {
            question_end: wire.len(),
            wire: wire.into(),
            ttl_offsets: Box::default(),
            rcode: servfail,
            edes: vec![failure.ede()],
            verified: false,
            failure: true,
            stored: now,
            expires: now + lifetime,
            made_from: Vec::new(),
        }
    }

    /// Says why the answer is not plain.
    pub fn with_edes(mut self, edes: Vec<Ede>) -> Self {
        self.edes = edes;
        self
    }

    /// Ties the answer to the packets that it was made from: when a flag is set, there is news of the
    /// packet and this answer goes.
    pub fn ends_with(mut self, flags: Vec<Arc<AtomicBool>>) -> Self {
        self.made_from = flags;
        self
    }

    /// Says whether all of it comes from verified packets.
    #[must_use]
    pub fn with_verified(mut self, verified: bool) -> Self {
        self.verified = verified;
        self
    }

    /// Whether all of it comes from packets whose signature was verified.
    pub fn is_verified(&self) -> bool {
        self.verified
    }

    /// Whether it is SERVFAIL with a reason of pkbridge's own.
    pub fn is_failure(&self) -> bool {
        self.failure
    }

    /// Whether it may still be given.
    pub fn is_fresh(&self, now: Instant) -> bool {
        let has_ended = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        now < self.expires && !self.made_from.iter().any(has_ended)
    }

    /// The message: header, question, records; no OPT.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The position after the question.
    pub fn question_end(&self) -> usize {
        self.question_end
    }

    /// Positions of the TTLs in the message.
    pub fn ttl_offsets(&self) -> &[u16] {
        &self.ttl_offsets
    }

    /// All 12 bits of the RCODE (RFC 6891 section 6.1.3).
    pub fn rcode(&self) -> u16 {
        self.rcode
    }

    /// Why the answer is not plain.
    pub fn edes(&self) -> &[Ede] {
        &self.edes
    }

    /// Whole seconds since the TTLs were true.
    pub fn age(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.stored).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// How long it may be given at the time when the TTLs were true.
    pub fn lifetime(&self) -> Duration {
        self.expires.saturating_duration_since(self.stored)
    }

    /// How long it may still be given.
    pub fn left(&self, now: Instant) -> Duration {
        self.expires.saturating_duration_since(now)
    }

    fn size(&self) -> usize {
        let ede_size = |ede: &Ede| ede.text.len() + size_of::<Ede>();
        let text: usize = self.edes.iter().map(ede_size).sum();
        self.wire.len() + 2 * self.ttl_offsets.len() + text + size_of::<Self>()
    }
}

/// A message that pkbridge composes itself.
#[derive(Debug, Default)]
pub(super) struct Composed {
    /// The RCODE.
    pub rcode: u16,
    /// Authoritative, for the zones that pkbridge itself is the authority of.
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authorities: Vec<Record>,
    /// The additional section.
    pub additionals: Vec<Record>,
}

impl Composed {
    /// The message: question in lower case, owner names compressed.
    pub(super) fn to_wire(&self, question: &Question) -> Result<Vec<u8>, Failure> {
        let mut message = Message::response(0, OpCode::Query);
        message.metadata.authoritative = self.authoritative;
        message.metadata.response_code =
            ResponseCode::from_low((self.rcode & 0xf).to_be_bytes()[1]);
        message.add_query(Query::query(question.name.clone(), question.rtype));
        message.insert_answers(self.answers.iter().map(proto_record).collect());
        message.insert_authorities(self.authorities.iter().map(proto_record).collect());
        message.insert_additionals(self.additionals.iter().map(proto_record).collect());
        let wire = message.to_vec().map_err(|_| Failure::Unwritable)?;
        (wire.len() <= wire::MAX_MESSAGE_LEN)
            .then_some(wire)
            .ok_or(Failure::Unwritable)
    }
}

/// Record data as bytes; `NULL::with` does not take none.
fn opaque(rdata: &[u8]) -> NULL {
    let mut null = NULL::new();
    null.anything.extend_from_slice(rdata);
    null
}

/// The record with its data as opaque bytes, so that it is written as it is.
fn proto_record(record: &Record) -> ProtoRecord {
    let data = RData::Unknown {
        code: record.rtype,
        rdata: opaque(&record.rdata),
    };
    ProtoRecord::from_rdata(record.owner.clone(), record.ttl, data)
}

/// The answers that are kept, bounded in bytes.
#[derive(Debug, Clone)]
pub struct AnswerCache(Cache<CacheKey, Arc<Answer>>);

/// See [`Question::cache_key`].
type CacheKey = Box<[u8]>;

/// What stands behind the name in it: the type, and the two bits.
const QUESTION_TAIL_LEN: usize = 3;

fn name_of(key: &[u8]) -> Option<Name> {
    Some(wire::read_name(key, 0).ok()?.0)
}

impl AnswerCache {
    /// A cache of at most `max_bytes`. When it is full the least useful entries go (TinyLFU).
    pub fn new(max_bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|key: &CacheKey, answer: &Arc<Answer>| {
                u32::try_from(key.len() + answer.size() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
            })
            .build();
        Self(cache)
    }

    /// The answer to a question, while it is fresh.
    pub fn get(&self, key: &[u8], now: Instant) -> Option<Arc<Answer>> {
        self.0.get(key).filter(|answer| answer.is_fresh(now))
    }

    /// Keeps an answer, unless it may be given only once.
    pub fn insert(&self, key: Box<[u8]>, answer: Arc<Answer>) {
        if !answer.lifetime().is_zero() {
            self.0.insert(key, answer);
        }
    }

    /// Forgets the answers whose question's name is one of these; returns how many.
    pub fn forget(&self, mut is_one: impl FnMut(&Name) -> bool) -> u64 {
        let mut count = 0;
        for (key, _) in &self.0 {
            if name_of(&key).is_none_or(|name| is_one(&name)) {
                self.0.invalidate(&*key);
                count += 1;
            }
        }
        count
    }

    /// The fresh answers to questions for a name, with the type that was asked.
    pub fn of_name(&self, name: &Name, now: Instant) -> Vec<(RecordType, Arc<Answer>)> {
        let name = wire::name_bytes(&name.to_lowercase());
        let of_name = |(key, answer): (Arc<CacheKey>, Arc<Answer>)| {
            let rest = key.strip_prefix(name.as_slice())?;
            let rtype = wire::read_u16(rest, 0)?;
            let matches = rest.len() == QUESTION_TAIL_LEN && answer.is_fresh(now);
            matches.then(|| (rtype.into(), answer))
        };
        self.0.iter().filter_map(of_name).collect()
    }

    /// Entries and bytes held.
    pub fn usage(&self) -> (u64, u64) {
        self.0.run_pending_tasks();
        (self.0.entry_count(), self.0.weighted_size())
    }
}

/// Sets every TTL of a message to lie within the bounds, and returns the lowest; `None` if it has no
/// records.
pub(super) fn clamp_ttls(message: &mut [u8], layout: &Layout, min: u32, max: u32) -> Option<u32> {
    let mut lowest = None::<u32>;
    for record in &layout.records {
        let ttl = wire::effective_ttl(record.ttl).clamp(min, max);
        wire::write_at(message, record.ttl_at, &ttl.to_be_bytes());
        lowest = Some(lowest.map_or(ttl, |lowest| lowest.min(ttl)));
    }
    lowest
}
