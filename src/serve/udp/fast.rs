//! The answers that cost least: plain queries whose answer a thread has at hand.
//!
//! Nothing here allocates, takes a lock or writes to what other threads read.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::Service;
use super::super::admit::Asked;
use super::super::edns::OPT;
use super::super::reply;
use crate::resolve::{Answer, Question, UDP_PAYLOAD_LEN};
use crate::wire::{self, CLASS_IN, HEADER_LEN, MAX_NAME_LEN, flags};

/// Places for answers at hand, in sets of [`WAYS`]: room for what is asked all the time. The rest is not
/// far, in the cache.
const SETS: usize = 2048;
/// Answers whose questions fall into the same set, of which none pushes the others out at once.
const WAYS: usize = 2;
/// How often the cache is told that an answer at hand is still in use, lest it lets go of it.
const TOUCH: Duration = Duration::from_secs(1);
/// Bytes of the longest key: name, type, and the two bits.
const MAX_KEY_LEN: usize = MAX_NAME_LEN + 3;
/// The DO bit in the flags of an OPT (RFC 3225 section 3).
const DO: u8 = 0x80;

/// A query as nearly all are: one question of class IN, perhaps a plain OPT, and nothing else. What is not
/// as plain is another's to judge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain<'a> {
    pub(crate) id: u16,
    /// RD, AD and CD; all other flags are zero.
    pub(crate) flags: u16,
    /// The question section.
    pub(crate) question: &'a [u8],
    /// The OPT: the largest datagram that the client takes, and the DO bit.
    pub(crate) opt: Option<(u16, bool)>,
}

impl<'a> Plain<'a> {
    pub(crate) fn read(message: &'a [u8]) -> Option<Self> {
        let (header, _) = message.split_first_chunk::<HEADER_LEN>()?;
        let &[i0, i1, f0, f1, 0, 1, 0, 0, 0, 0, 0, additionals] = header else {
            return None;
        };
        let flags = u16::from_be_bytes([f0, f1]);
        if flags & !(flags::RD | flags::AD | flags::CD) != 0 {
            return None;
        }
        let question = wire::plain_question(message)?;
        let rest = message.get(question.end..)?;
        let question = message.get(question)?;
        if !question.ends_with(&CLASS_IN.to_be_bytes()) {
            return None;
        }
        let opt = match (additionals, rest) {
            (0, []) => None,
            // Root, OPT, size, RCODE and version 0, DO or not, no options.
            (1, &[0, t0, t1, p0, p1, 0, 0, bits @ (0 | DO), 0, 0, 0])
                if u16::from_be_bytes([t0, t1]) == OPT =>
            {
                Some((u16::from_be_bytes([p0, p1]), bits == DO))
            }
            _ => return None,
        };
        Some(Self {
            id: u16::from_be_bytes([i0, i1]),
            flags,
            question,
            opt,
        })
    }

    fn dnssec_ok(&self) -> bool {
        self.opt.is_some_and(|(_, dnssec_ok)| dnssec_ok)
    }

    fn checking_disabled(&self) -> bool {
        self.flags & flags::CD != 0
    }

    /// The question; `None` if its name is none.
    pub(crate) fn question(&self) -> Option<Question> {
        let (name, end) = wire::read_name(self.question, 0).ok()?;
        Some(Question {
            name: name.to_lowercase(),
            rtype: wire::read_u16(self.question, end)?.into(),
            dnssec_ok: self.dnssec_ok(),
            checking_disabled: self.checking_disabled(),
        })
    }

    /// The key of the cache, as [`Question::cache_key`] has it, in
    /// `key`; its length.
    fn cache_key(&self, key: &mut [u8; MAX_KEY_LEN]) -> Option<usize> {
        let (name, tail) = self.question.split_at_checked(self.question.len() - 4)?;
        let &[t0, t1, _, _] = tail else {
            return None;
        };
        let bits = u8::from(self.dnssec_ok()) | (u8::from(self.checking_disabled()) << 1);
        let (lower, rest) = key.split_at_mut_checked(name.len())?;
        lower.copy_from_slice(name);
        // The lengths of labels are no letters.
        lower.make_ascii_lowercase();
        wire::write_at(rest, 0, &[t0, t1, bits]);
        Some(name.len() + 3)
    }
}

/// Answers that a thread has at hand.
#[derive(Debug)]
pub struct AtHand {
    sets: Box<[[Option<Kept>; WAYS]]>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Kept {
    hash: u64,
    answer: Arc<Answer>,
    /// DO and CD, as in the cache's key. The rest of the key stands in the answer itself.
    bits: u8,
    touched: Instant,
}

impl Kept {
    fn is_for(&self, key: &[u8]) -> bool {
        let Some((bits, question)) = key.split_last() else {
            return false;
        };
        let end = self.answer.question_end() - 2;
        self.bits == *bits && self.answer.wire().get(HEADER_LEN..end) == Some(question)
    }
}

impl Default for AtHand {
    fn default() -> Self {
        Self {
            sets: (0..SETS).map(|_| [const { None }; WAYS]).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl AtHand {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all: they are another cache's.
    pub(crate) fn clear(&mut self) {
        self.sets.fill_with(|| [const { None }; WAYS]);
    }

    /// The answer with this key; `cached` asks the cache.
    fn get(
        &mut self,
        key: &[u8],
        now: Instant,
        cached: impl FnOnce(&[u8]) -> Option<Arc<Answer>>,
    ) -> Option<&Answer> {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash).unwrap_or(0) % SETS;
        let set = self.sets.get_mut(index)?;
        let is_one = |kept: &Kept| kept.hash == hash && kept.is_for(key);
        let place = set
            .iter()
            .position(|kept| kept.as_ref().is_some_and(is_one));
        let is_good = |kept: &Kept| {
            now.saturating_duration_since(kept.touched) < TOUCH && kept.answer.is_current(now)
        };
        let place = match place {
            Some(place) if set.get(place)?.as_ref().is_some_and(is_good) => place,
            found => {
                let place = found.unwrap_or_else(|| {
                    // The one that came last goes second, and pushes that one out.
                    set.rotate_right(1);
                    0
                });
                let slot = set.get_mut(place)?;
                *slot = None;
                // Larger ones have to be cut to size, or do not fit at all.
                let fits = |answer: &Arc<Answer>| answer.wire().len() <= UDP_PAYLOAD_LEN.into();
                *slot = Some(Kept {
                    hash,
                    answer: cached(key).filter(fits)?,
                    bits: key.last().copied().unwrap_or(0),
                    touched: now,
                });
                place
            }
        };
        set.get(place)?.as_ref().map(|kept| &*kept.answer)
    }
}

/// What came of a query.
#[derive(Debug)]
pub(super) enum AtOnce {
    /// Its reply has been written.
    Answered,
    /// The cache has no answer.
    Missed(Box<Asked>),
    /// It is not plain, or its answer is not.
    Another,
}

impl Service {
    /// Writes the reply to a plain query over UDP whose answer is in the cache; `false` if it takes more, as
    /// [`respond`](Self::respond) does. What the threads do that read the sockets, without them.
    pub fn respond_at_once(
        &self,
        message: &[u8],
        client: SocketAddr,
        at_hand: &mut AtHand,
        reply: &mut Vec<u8>,
    ) -> bool {
        let done = self.answer_at_once(message, client, Instant::now(), at_hand, reply);
        matches!(done, AtOnce::Answered)
    }

    /// Writes the reply to a plain query whose answer is in the cache.
    pub(super) fn answer_at_once(
        &self,
        message: &[u8],
        client: SocketAddr,
        now: Instant,
        at_hand: &mut AtHand,
        reply: &mut Vec<u8>,
    ) -> AtOnce {
        if tracing::enabled!(tracing::Level::DEBUG) {
            // Whoever wants to see each question.
            return AtOnce::Another;
        }
        let Some(query) = Plain::read(message) else {
            return AtOnce::Another;
        };
        let Some(head) = self.gate.admit_plain(&query, client) else {
            return AtOnce::Another;
        };
        let mut key = [0; MAX_KEY_LEN];
        let key = query
            .cache_key(&mut key)
            .and_then(|length| key.get(..length));
        let mut missed = false;
        let cached = |key: &[u8]| {
            let answer = self.resolver.cached(key, now);
            missed = answer.is_none();
            answer
        };
        match key.and_then(|key| at_hand.get(key, now, cached)) {
            // One that is due starts a refresh, too.
            Some(answer) if !answer.is_due(now) => {
                reply::write_answer(reply, &head, answer, true, now);
                AtOnce::Answered
            }
            Some(_) => AtOnce::Another,
            None => {
                let asked = missed
                    .then(|| Asked::plain(&query, &head, client))
                    .flatten();
                asked.map_or(AtOnce::Another, AtOnce::Missed)
            }
        }
    }
}
