//! The cache of answers, and how an upstream's answers are used beyond their time.
//!
//! - **Past it** (RFC 8767): an answer stays for [`Reuse::max_stale`]. Whoever asks starts a refresh, and
//!   gets the old answer, with TTL 30 and EDE 3 or 19, when the refresh fails or takes too long. In its
//!   place is then kept what was given, so that it costs the next one no more than any hit, until the
//!   refresh may be tried again. Any answer with NOERROR or NXDOMAIN ends it, and one that is bogus.
//! - **Ahead of it**: a question late in an answer's time is answered, and starts a refresh.
//! - **For other names** (RFC 8020): NXDOMAIN holds for all types, and for all names below.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use moka::ops::compute::{CompResult, Op};
use moka::sync::Cache;
use tokio::time::Instant;

use super::{Answer, Origin, Question, STALE_TTL};
use crate::wire;

/// Bytes that the cache's own structures take for an entry, beside key and value: an estimate.
const ENTRY_OVERHEAD: usize = 300;
/// The part of the bytes that is for names that do not exist, once more by name.
const CUTS_SHARE: u64 = 8;
/// How many names are looked at for one that does not exist: more labels than names have that people
/// use (one of ip6.arpa has 34), and few enough to cost less than the question to an upstream.
const MAX_CUTS: usize = 40;
/// What stands behind the name in the key of a question: the type, and the two bits.
const QUESTION_TAIL_LEN: usize = 3;

/// See [`Question::cache_key`] and [`cut_key`].
type CacheKey = Box<[u8]>;

/// How an upstream's answers are used beyond what their TTLs say. By default they are not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reuse {
    /// How long an answer is given past its time if it cannot be refreshed; zero gives none.
    pub max_stale: Duration,
    /// How long the refresh is waited for before that; zero waits for
    /// [`STALE_PATIENCE`](crate::resolve::STALE_PATIENCE).
    pub stale_wait: Duration,
    /// Whether an answer that is asked for late in its time is refreshed ahead of its end.
    pub prefetch: bool,
    /// Whether NXDOMAIN holds for other types and for the names below.
    pub nxdomain_cut: bool,
}

/// The answers that are kept, bounded in bytes.
#[derive(Debug, Clone)]
pub struct AnswerCache {
    /// By question; an upstream's aliases into public keys once more, by a key of their own.
    answers: Cache<CacheKey, Arc<Answer>>,
    /// By name and bits, those that tell that a name does not exist. Apart, since each miss asks for the
    /// name and all above it: there are few of them, near at hand.
    cuts: Cache<CacheKey, Arc<Answer>>,
    /// Whether there has ever been any.
    has_cuts: Arc<AtomicBool>,
    reuse: Reuse,
}

impl AnswerCache {
    /// A cache of at most `max_bytes`. When it is full the least useful entries go (TinyLFU).
    pub fn new(max_bytes: u64) -> Self {
        let of_bytes = |max_bytes| {
            Cache::builder()
                .max_capacity(max_bytes)
                .weigher(|key: &CacheKey, answer: &Arc<Answer>| {
                    u32::try_from(key.len() + answer.size() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
                })
                .build()
        };
        let cuts_max_bytes = max_bytes / CUTS_SHARE;
        Self {
            answers: of_bytes(max_bytes - cuts_max_bytes),
            cuts: of_bytes(cuts_max_bytes),
            has_cuts: Arc::default(),
            reuse: Reuse::default(),
        }
    }

    /// Says how upstreams' answers are used beyond their time.
    #[must_use]
    pub fn with_reuse(mut self, reuse: Reuse) -> Self {
        self.reuse = reuse;
        self
    }

    /// How upstreams' answers are used beyond their time.
    pub(in crate::resolve) fn reuse(&self) -> &Reuse {
        &self.reuse
    }

    /// The answer to a question, while it is fresh.
    pub fn get(&self, key: &[u8], now: Instant) -> Option<Arc<Answer>> {
        self.answers.get(key).filter(|answer| answer.is_fresh(now))
    }

    /// The answer to a question while it is fresh, or while it is given for the lack of a better one.
    pub(in crate::resolve) fn held(&self, key: &[u8], now: Instant) -> Option<Arc<Answer>> {
        self.answers.get(key).filter(|answer| answer.is_usable(now))
    }

    /// Takes in what a lookup has come to, and tells what those who wait for it get: if it is no answer, the
    /// one that is held. The lookup is tried again after `retry` then. What validation refuses is no lack of
    /// an answer: it ends the one that is held at the end of its time.
    pub(in crate::resolve) fn take_in(
        &self,
        key: CacheKey,
        answer: Answer,
        retry: Duration,
    ) -> Arc<Answer> {
        self.take(key, answer, retry, true)
    }

    /// The same where none is held, which saves a look for the one that goes.
    pub(in crate::resolve) fn take_in_first(
        &self,
        key: CacheKey,
        answer: Answer,
        retry: Duration,
    ) -> Arc<Answer> {
        self.take(key, answer, retry, false)
    }

    fn take(&self, key: CacheKey, answer: Answer, retry: Duration, replaces: bool) -> Arc<Answer> {
        let now = Instant::now();
        if !answer.is_told()
            && let Some(held) = self.held(&key, now).filter(|held| held.is_told())
        {
            let is_over = held.stale || !held.is_fresh(now);
            let later = || held.refreshed_at(now + retry);
            match (is_over, answer.bogus) {
                (true, true) => {}
                (true, false) => return self.give_stale(key, &held, &answer.reason(), retry),
                (false, true) => return self.replace(key, &held, later().not_stale()),
                (false, false) => return self.replace(key, &held, later()),
            }
        }
        let answer = Arc::new(answer.reused(&self.reuse));
        if self.has_cuts() && answer.origin >= Origin::Part && answer.shows_its_name() {
            self.cuts.invalidate(&cut_key(&key));
        }
        if !answer.lifetime().is_zero() {
            if self.reuse.nxdomain_cut && answer.denies_its_name() {
                self.cuts.insert(cut_key(&key), Arc::clone(&answer));
                self.has_cuts.store(true, Ordering::Relaxed);
            }
            let old = replaces.then(|| self.answers.get(&key)).flatten();
            self.answers.insert(key, Arc::clone(&answer));
            if let Some(old) = old {
                old.let_go();
            }
        } else if answer.is_told() || answer.bogus {
            // It is news all the same.
            self.remove(&key);
        }
        answer
    }

    fn remove(&self, key: &[u8]) {
        if let Some(answer) = self.answers.remove(key) {
            answer.let_go();
        }
    }

    /// Gives an answer past its time, and keeps what it gives until a refresh is tried again.
    pub(in crate::resolve) fn give_stale(
        &self,
        key: CacheKey,
        held: &Arc<Answer>,
        reason: &str,
        retry: Duration,
    ) -> Arc<Answer> {
        let keep = retry.min(Duration::from_secs(STALE_TTL.into()));
        let stale = held.past_its_time(reason, keep, Instant::now());
        self.replace(key, held, stale)
    }

    /// Keeps `new` in place of `old`, unless that has been replaced by another one.
    fn replace(&self, key: CacheKey, old: &Arc<Answer>, new: Answer) -> Arc<Answer> {
        let new = Arc::new(new);
        let entry = self
            .answers
            .entry(key)
            .and_compute_with(|entry| match entry {
                Some(entry) if Arc::ptr_eq(entry.value(), old) => Op::Put(Arc::clone(&new)),
                _ => Op::Nop,
            });
        match entry {
            CompResult::Unchanged(entry) => entry.into_value(),
            CompResult::ReplacedWith(_) => {
                old.let_go();
                new
            }
            CompResult::Inserted(_) | CompResult::Removed(_) | CompResult::StillNone(_) => new,
        }
    }

    /// The fresh NXDOMAIN that holds for a name, of a question with the same two bits for it or for a name
    /// above it.
    pub(in crate::resolve) fn denial_of(
        &self,
        name: &Name,
        question: &Question,
        now: Instant,
    ) -> Option<Arc<Answer>> {
        if !self.has_cuts() {
            return None;
        }
        let mut key = wire::name_bytes(name);
        key.make_ascii_lowercase();
        key.push(question.bits());
        // The key of a name ends in those of the names above it.
        let mut key = key.as_slice();
        for _ in 0..MAX_CUTS {
            let (&length, above) = key.split_first().filter(|(length, _)| **length > 0)?;
            let cut = self.cuts.get(key).filter(|cut| cut.is_fresh(now));
            if cut.is_some() {
                return cut;
            }
            key = above.get(usize::from(length)..)?;
        }
        None
    }

    /// Whether what is held of a name, past its time or not, says that it exists: of the types that hosts are
    /// asked for, with the question's two bits.
    pub(in crate::resolve) fn has_been_there(&self, question: &Question, now: Instant) -> bool {
        [RecordType::A, RecordType::AAAA, RecordType::HTTPS]
            .into_iter()
            .any(|rtype| {
                let name = question.name.clone();
                let key = Question {
                    name,
                    rtype,
                    ..*question
                }
                .cache_key();
                let held = self.held(&key, now);
                held.is_some_and(|held| held.shows_its_name())
            })
    }

    fn has_cuts(&self) -> bool {
        self.has_cuts.load(Ordering::Relaxed)
    }

    /// Forgets the answers whose question's name is one of these; returns how many.
    pub fn forget(&self, mut is_one: impl FnMut(&Name) -> bool) -> u64 {
        let mut count = 0;
        for (key, _) in &self.cuts {
            let read = wire::read_name(&key, 0).ok();
            if read.is_none_or(|(name, _)| is_one(&name)) {
                self.cuts.invalidate(&*key);
            }
        }
        for (key, _) in &self.answers {
            let read = wire::read_name(&key, 0).ok();
            if read.as_ref().is_none_or(|(name, _)| is_one(name)) {
                self.remove(&key);
                let is_question = |(_, end)| key.len() == end + QUESTION_TAIL_LEN;
                count += u64::from(read.is_none_or(is_question));
            }
        }
        count
    }

    /// Counts time that the clock did not: while the host slept, what is held grew older all the same.
    pub fn grow_older(&self, time: Duration) {
        self.cuts.invalidate_all();
        for (key, answer) in &self.answers {
            self.replace(CacheKey::clone(&key), &answer, answer.older(time));
        }
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
        self.answers.iter().filter_map(of_name).collect()
    }

    /// Entries and bytes held. An NXDOMAIN that holds for other names is two entries, and so is an answer
    /// with an upstream's alias into a public key.
    pub fn usage(&self) -> (u64, u64) {
        let both = [&self.answers, &self.cuts];
        both.iter().for_each(|cache| cache.run_pending_tasks());
        let sum = |count: fn(&Cache<_, _>) -> u64| both.into_iter().map(count).sum();
        (sum(Cache::entry_count), sum(Cache::weighted_size))
    }
}

/// The key of a name that does not exist, from that of the question which told: lower-case name, and the
/// two bits. It is shorter than any question's of that name.
fn cut_key(question: &[u8]) -> CacheKey {
    let (name, tail) = question.split_at(question.len().saturating_sub(QUESTION_TAIL_LEN));
    let bits = tail.last().copied().unwrap_or_default();
    [name, &[bits]].concat().into()
}
