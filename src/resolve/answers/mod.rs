//! Answers as bytes, ready to be copied out, and the cache of them.

mod cache;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

use super::failure::{Ede, Failure, ede};
use crate::pkarr::Record;
use crate::wire::{self, Layout, Section, flags};

pub use cache::{AnswerCache, Reuse};

/// TTL of records whose time is over, in seconds (RFC 8767 section 4).
pub(super) const STALE_TTL: u32 = 30;
/// How long after a failed refresh nobody waits for the next one (RFC 8767 section 5 has the same
/// time between refreshes).
const FAILED_LATELY: Duration = Duration::from_secs(30);
/// An answer is asked for again when only this part of its time is left: a tenth, as in unbound.
const PREFETCH_PART: u32 = 10;
/// Answers with less time than this are not: little of it would be saved.
const MIN_PREFETCHED: Duration = Duration::from_secs(10);

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
        key.push(self.bits());
        key.into()
    }

    /// The key in the cache of an upstream's aliases from this name into a public key: that of the question,
    /// and one byte more.
    pub(super) fn alias_key(&self) -> Box<[u8]> {
        [&*self.cache_key(), &[0]].concat().into()
    }

    fn bits(&self) -> u8 {
        u8::from(self.dnssec_ok) | (u8::from(self.checking_disabled) << 1)
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

/// How much of an answer is an upstream's. The order is how far it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Nothing.
    Here,
    /// What stands before or behind an alias. It is looked up ahead of its end; past its time that part
    /// alone is used.
    Part,
    /// All of it, less what clients must not get for this name.
    Shortened,
    /// All of it, as it came.
    Whole,
}

/// An answer: a message without OPT, whose ID, question case, flags and TTLs are written anew for
/// each client.
#[derive(Debug, Clone)]
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
    /// And it is so because validation refuses what was said.
    bogus: bool,
    /// When the TTLs in `wire` were true.
    stored: Instant,
    expires: Instant,
    made_from: Vec<Arc<AtomicBool>>,
    origin: Origin,
    /// From then on a question also starts a refresh; `expires` if it is not to.
    refresh_at: Instant,
    /// Until then it is given if it cannot be refreshed; `expires` if it is not to be.
    stale_until: Instant,
    /// It says that its time is over.
    stale: bool,
    /// The last refresh has failed, and the next one starts no sooner than this.
    retry_at: Option<Instant>,
    /// Another answer has taken its place in the cache, or it has been forgotten.
    gone: Gone,
}

/// Whether a cached answer still counts, for those who have kept it at hand. A copy is another answer.
#[derive(Debug, Default)]
struct Gone(AtomicBool);

impl Clone for Gone {
    fn clone(&self) -> Self {
        Self::default()
    }
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
            bogus: false,
            stored,
            expires: stored + lifetime,
            made_from: Vec::new(),
            origin: Origin::Here,
            refresh_at: stored + lifetime,
            stale_until: stored + lifetime,
            stale: false,
            retry_at: None,
            gone: Gone::default(),
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
            bogus: matches!(failure, Failure::Bogus { .. }),
            stored: now,
            expires: now + lifetime,
            made_from: Vec::new(),
            origin: Origin::Here,
            refresh_at: now + lifetime,
            stale_until: now + lifetime,
            stale: false,
            retry_at: None,
            gone: Gone::default(),
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

    /// Says how much of it is an upstream's.
    pub(super) fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// Says how it is used beyond its time, as far as it is an upstream's.
    fn reused(mut self, reuse: &Reuse) -> Self {
        let lifetime = self.lifetime();
        if self.is_told() && !lifetime.is_zero() {
            if self.origin >= Origin::Shortened {
                self.stale_until = self.expires + reuse.max_stale;
            }
            if self.origin >= Origin::Part && reuse.prefetch && lifetime >= MIN_PREFETCHED {
                self.refresh_at = self.expires - lifetime / PREFETCH_PART;
            }
        }
        self
    }

    /// The same answer, whose refresh has failed before its time was over.
    fn refreshed_at(&self, retry_at: Instant) -> Self {
        Self {
            refresh_at: retry_at,
            retry_at: Some(retry_at),
            ..self.clone()
        }
    }

    /// The same answer, when `time` has passed that the clock did not count.
    fn older(&self, time: Duration) -> Self {
        let earlier = |at: Instant| at.checked_sub(time).unwrap_or(at);
        Self {
            stored: earlier(self.stored),
            expires: earlier(self.expires),
            refresh_at: earlier(self.refresh_at),
            stale_until: earlier(self.stale_until),
            retry_at: self.retry_at.map(earlier),
            ..self.clone()
        }
    }

    /// The same answer, which is not given past its time.
    fn not_stale(&self) -> Self {
        Self {
            stale_until: self.expires,
            ..self.clone()
        }
    }

    /// The same answer past its time (RFC 8767 section 4), which is given for `keep`: with other TTLs,
    /// and the reason in front of what is said of it already. AD goes: a signature may have ended, too.
    fn past_its_time(&self, reason: &str, keep: Duration, now: Instant) -> Self {
        let mut wire = self.wire.clone();
        for &offset in &self.ttl_offsets {
            wire::write_at(&mut wire, offset.into(), &STALE_TTL.to_be_bytes());
        }
        let word = wire::read_u16(&wire, 2).unwrap_or(0) & !flags::AD;
        wire::write_at(&mut wire, 2, &word.to_be_bytes());
        let code = if self.is_nxdomain() {
            ede::STALE_NXDOMAIN_ANSWER
        } else {
            ede::STALE_ANSWER
        };
        // The reason that was given before no longer counts.
        let own = self.edes.iter().skip(usize::from(self.stale)).cloned();
        let expires = self.stale_until.min(now + keep);
        Self {
            wire,
            edes: [Ede::new(code, reason)].into_iter().chain(own).collect(),
            stored: now,
            expires,
            refresh_at: expires,
            stale: true,
            retry_at: Some(expires),
            ..self.clone()
        }
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
        now < self.expires && !self.has_ended()
    }

    /// Whether it may be given, past its time or not.
    fn is_usable(&self, now: Instant) -> bool {
        now < self.expires.max(self.stale_until) && !self.has_ended()
    }

    fn has_ended(&self) -> bool {
        let has_ended = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        self.made_from.iter().any(has_ended)
    }

    /// Whether it is an upstream's own message, unchanged.
    pub(super) fn is_whole(&self) -> bool {
        self.origin == Origin::Whole
    }

    /// Whether the cache would still give it, for those who have kept it at hand.
    pub fn is_current(&self, now: Instant) -> bool {
        !self.gone.0.load(Ordering::Relaxed) && self.is_fresh(now)
    }

    /// Says that the cache gives it no more.
    fn let_go(&self) {
        self.gone.0.store(true, Ordering::Relaxed);
    }

    /// Whether a question now should start a refresh, too.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.refresh_at
    }

    /// Whether a refresh has failed so lately that nobody should wait for the next one.
    pub(super) fn has_failed_lately(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| now < at + FAILED_LATELY)
    }

    /// Whether it tells what there is. RFC 8767 section 4: all RCODEs but these two are failures.
    fn is_told(&self) -> bool {
        self.rcode == u16::from(ResponseCode::NoError) || self.is_nxdomain()
    }

    fn is_nxdomain(&self) -> bool {
        self.rcode == u16::from(ResponseCode::NXDomain)
    }

    /// Whether an upstream says plainly that the name that was asked does not exist. Not if it came there
    /// by an alias, nor if it has more to say of it: filters block single names.
    fn denies_its_name(&self) -> bool {
        let answers = wire::read_u16(&self.wire, 6);
        self.is_whole() && self.is_nxdomain() && answers == Some(0) && self.edes.is_empty()
    }

    /// Whether the name that was asked exists.
    fn shows_its_name(&self) -> bool {
        self.rcode == u16::from(ResponseCode::NoError)
    }

    /// What a refresh that came to this failed for.
    fn reason(&self) -> String {
        let said = self.edes.first().map(|ede| ede.text.as_str());
        let said = said.filter(|text| !text.is_empty());
        match (self.failure, said) {
            (true, Some(text)) => text.to_owned(),
            (_, said) => {
                let rcode: ResponseCode = self.rcode.into();
                let colon = if said.is_some() { ": " } else { "" };
                format!(
                    "the upstream says {rcode:?}{colon}{}",
                    said.unwrap_or_default()
                )
            }
        }
    }

    /// The message: header, question, records; no OPT.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The records of a section with the TTLs that are left; `None` for one whose data is not of its
    /// type's shape.
    pub(super) fn records(&self, section: Section, now: Instant) -> Vec<Option<Record>> {
        let Ok(layout) = Layout::read(&self.wire) else {
            return Vec::new();
        };
        let age = self.age(now);
        let records = layout.section(section).map(|record| {
            let rtype = record.rtype.into();
            Some(Record {
                owner: wire::read_name(&self.wire, record.start).ok()?.0,
                rtype,
                ttl: record.ttl.saturating_sub(age),
                rdata: wire::map_rdata(&self.wire, record.rdata.clone(), rtype, |name| name)?,
            })
        });
        records.collect()
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
        message.insert_answers(self.answers.iter().map(Record::opaque).collect());
        message.insert_authorities(self.authorities.iter().map(Record::opaque).collect());
        message.insert_additionals(self.additionals.iter().map(Record::opaque).collect());
        let wire = message.to_vec().map_err(|_| Failure::Unwritable)?;
        (wire.len() <= wire::MAX_MESSAGE_LEN)
            .then_some(wire)
            .ok_or(Failure::Unwritable)
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
