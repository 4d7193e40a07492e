//! DNSSEC validation of what upstreams answer (RFC 4035 section 5).
//!
//! Upstreams are asked with CD, so that one that validates shows what it would withhold. An answer is
//! followed from the question's name along its aliases; each RRset on the way needs a signature of its
//! zone, or a proof that the zone is not signed, and the end of the way a proof if there is nothing.
//! Signatures, digests and hashes are computed by hickory over the upstream's bytes. Its own validator
//! (0.26.3) is not used: it takes a message whole or not at all, calls an alias to a name without records
//! bogus, and many a wildcard's answer, takes unsigned records of a foreign zone for a proof of absence,
//! and does not tell why it refuses.

mod anchors;
mod cause;
mod chain;
mod denial;
mod past;
mod proofs;
mod records;
mod signature;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::runtime::Handle;

pub use anchors::{Anchors, AnchorsError};

use self::cause::Cause;
use self::chain::{Chain, Standing, has_data, now, unchecked};
use self::denial::{Denials, Denied};
use self::past::Past;
use self::proofs::verified_proofs;
use self::records::{RrSet, read_sets};
use self::signature::{Work, Zone};
use super::answers::Question;
use super::failure::{Ede, Failure};
use super::response::Response;
use super::rewrite::{keep_proved, set_ad, strip};
use super::upstream::Forward;
use crate::pkarr::Suffixes;
use crate::wire::{self, Section};

/// Aliases that are followed in one answer.
const MAX_ALIASES: usize = 12;

/// Validates what another forwarder answers.
///
/// Not validated: questions with CD (RFC 4035 section 3.2.2), names with a rule of the operator's, and
/// names for which there is no trust anchor or a negative one. None of these gets AD.
#[derive(Debug)]
pub struct Validating {
    validator: Arc<Validator>,
    runtime: Handle,
}

#[derive(Debug)]
struct Validator {
    forward: Arc<dyn Forward>,
    chain: Arc<Chain>,
}

/// What has been found of an answer.
#[derive(Debug, Default)]
struct Verdict {
    /// A part of it is in no signed zone.
    insecure: bool,
    /// Why, if it is a strange reason.
    ede: Option<Ede>,
    /// The proved records, by their place in the message, and their TTLs in seconds.
    proved: HashMap<usize, u32>,
}

/// An answer under examination.
struct Examination<'a> {
    chain: &'a Arc<Chain>,
    question: &'a Question,
    rcode: u16,
    sets: &'a [RrSet],
    /// Where the answer ends, though an alias leads on.
    leads_to: Option<&'a Name>,
    work: Work,
    verdict: Verdict,
}

impl Validating {
    /// Validates the answers of `forward` from `anchors` down. Names at and below one of `negative` are
    /// not validated (RFC 7646), nor are those that `suffixes` says are not an upstream's to answer.
    ///
    /// All of it is done by the runtime that this is called in: an answer may take milliseconds of signatures,
    /// for which whoever asks, and reads queries beside that, cannot stand still.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(
        forward: Arc<dyn Forward>,
        anchors: Anchors,
        negative: Vec<Name>,
        suffixes: Suffixes,
    ) -> Self {
        let chain = Chain::new(Arc::clone(&forward), anchors, negative, suffixes);
        Self {
            validator: Arc::new(Validator { forward, chain }),
            runtime: Handle::current(),
        }
    }
}

impl Validator {
    fn is_exempt(&self, question: &Question) -> bool {
        // Signatures have none of their own (RFC 4035 section 2.2).
        let is_signatures = question.rtype == RecordType::RRSIG;
        question.checking_disabled || self.forward.has_rule_for(&question.name) || is_signatures
    }

    async fn ask_unchecked(&self, question: &Question) -> Result<Response, Failure> {
        let mut response = self.forward.forward(question).await?;
        set_ad(&mut response, false);
        Ok(response)
    }

    async fn ask(&self, question: &Question) -> Result<Response, Failure> {
        let asked = Question {
            dnssec_ok: true,
            checking_disabled: true,
            ..question.clone()
        };
        let mut past = Past::new(&*self.forward);
        loop {
            let found = self.ask_and_examine(question, &asked, &mut past).await;
            if let Some(found) = past.conclude(&question.name, found) {
                return found;
            }
        }
    }

    async fn ask_and_examine(
        &self,
        question: &Question,
        asked: &Question,
        past: &mut Past<'_>,
    ) -> Result<Response, Failure> {
        let mut response = past.ask(asked).await?;
        set_ad(&mut response, false);
        if !has_data(response.rcode) {
            if let Some(verdict) = past.verdict() {
                return Err(verdict.clone());
            }
            strip(&mut response, question)?;
            return Ok(response);
        }
        let sets = read_sets(&response);
        let mut examination = Examination {
            chain: &self.chain,
            question,
            rcode: response.rcode,
            sets: &sets,
            leads_to: response.leads_to.as_deref(),
            work: Work::new(),
            verdict: Verdict::default(),
        };
        examination.follow().await?;
        let verdict = examination.verdict;
        if verdict.insecure {
            strip(&mut response, question)?;
            response.edes.splice(0..0, verdict.ede);
            return Ok(response);
        }
        // AD vouches for the answer and authority sections (RFC 4035 section 3.2.3), so that nothing stays
        // that is not proved; nothing in the additional section is.
        keep_proved(&mut response, question, |index| {
            verdict.proved.get(&index).copied()
        })?;
        set_ad(&mut response, true);
        Ok(response)
    }
}

impl Forward for Validating {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        if self.validator.is_exempt(question) {
            return Box::pin(self.validator.ask_unchecked(question));
        }
        let (validator, question) = (Arc::clone(&self.validator), question.clone());
        let task = self
            .runtime
            .spawn(async move { validator.ask(&question).await });
        Box::pin(async move { task.await.unwrap_or(Err(Failure::Internal)) })
    }

    fn has_rule_for(&self, name: &Name) -> bool {
        self.validator.forward.has_rule_for(name)
    }

    fn is_down_for(&self, name: &Name) -> bool {
        self.validator.forward.is_down_for(name)
    }
}

impl<'a> Examination<'a> {
    /// Follows the aliases from the question's name to the records, or to the proof that there are none.
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut name = self.question.name.to_lowercase();
        name.set_fqdn(true);
        for _ in 0..=MAX_ALIASES {
            if !self.chain.is_ordinary(&name) || self.leads_to == Some(&name) {
                // What follows is not the upstream's to say, and nobody takes it from there; so it is not
                // looked at, and AD cannot be set.
                self.leave(None);
                return Ok(());
            }
            let rtype = self.question.rtype;
            let sets = self.sets;
            let answers = sets.iter().filter(|set| {
                let is_asked = set.is(rtype) || rtype == RecordType::ANY;
                set.section == Section::Answer && set.owner == name && is_asked
            });
            let mut is_answered = false;
            for set in answers {
                is_answered = true;
                match set.is(RecordType::CNAME) {
                    // It may follow from a DNAME.
                    true => drop(self.judge_alias(set).await?),
                    false => self.judge(set).await?,
                }
            }
            if is_answered {
                return match self.is_nxdomain() && !self.verdict.insecure {
                    true => Err(Cause::Forged.at(&name)),
                    false => Ok(()),
                };
            }
            let is_alias = |set: &&RrSet| {
                let is_here = set.section == Section::Answer && set.owner == name;
                is_here && set.is(RecordType::CNAME)
            };
            let Some(alias) = sets.iter().find(is_alias) else {
                return self.judge_absence(&name).await;
            };
            name = self.judge_alias(alias).await?;
        }
        Err(Failure::AliasChain)
    }

    /// Judges a CNAME and tells where it leads.
    async fn judge_alias(&mut self, alias: &'a RrSet) -> Result<Name, Failure> {
        let forged = || Cause::Forged.at(&alias.owner);
        let [target] = alias.rdatas.as_slice() else {
            return Err(forged());
        };
        let (target, _) = wire::read_name(target, 0).map_err(|_| forged())?;
        let is_dname = |set: &&RrSet| {
            let is_above = set.owner.zone_of(&alias.owner) && set.owner != alias.owner;
            set.section == Section::Answer && is_above && set.is(RecordType::DNAME)
        };
        let dname = self.sets.iter().find(is_dname);
        let Some(dname) = dname.filter(|_| alias.signatures.is_empty()) else {
            self.judge(alias).await?;
            return Ok(target);
        };
        // RFC 6672 section 5.3.1: the CNAME is not signed, and follows from the DNAME.
        self.judge(dname).await?;
        if follow_dname(dname, &alias.owner).as_ref() != Some(&target) {
            return Err(forged());
        }
        let ttl = dname
            .records
            .iter()
            .find_map(|index| self.verdict.proved.get(index));
        if let Some(ttl) = ttl.copied() {
            self.prove(alias, ttl);
        }
        Ok(target)
    }

    /// Judges an RRset of the answer section.
    async fn judge(&mut self, set: &'a RrSet) -> Result<(), Failure> {
        let Some(zone) = self.zone_of(set.signer(), &set.owner, set.rtype).await? else {
            return Ok(());
        };
        let verified = zone.verify(set, now(), &mut self.work);
        let verified = verified.map_err(|why| why.at(&set.owner))?;
        self.prove(set, verified.ttl);
        let Some(labels) = verified.expanded_from else {
            return Ok(());
        };
        let denied = self.absence(&zone, &set.owner, |denials| {
            denials.deny_nearer(&set.owner, labels)
        })?;
        match denied {
            Denied::NxDomain => {}
            Denied::OptOut => self.leave(None),
            Denied::Unchecked => self.leave(Some(unchecked())),
            Denied::NoData { .. } => return Err(Cause::NoDenial.at(&set.owner)),
        }
        Ok(())
    }

    /// Judges that there is nothing of the asked type at `name`.
    async fn judge_absence(&mut self, name: &Name) -> Result<(), Failure> {
        let rtype = self.question.rtype;
        let is_ds = rtype == RecordType::DS && !name.is_root();
        let sets = self.sets.iter().filter(|set| {
            let proofs = [RecordType::SOA, RecordType::NSEC, RecordType::NSEC3];
            set.section == Section::Authority && proofs.iter().any(|rtype| set.is(*rtype))
        });
        let signer = sets
            .flat_map(|set| set.signatures.iter().map(|signature| &signature.signer))
            .filter(|signer| signer.zone_of(name) && !(is_ds && *signer == name))
            .max_by_key(|signer| signer.iter().len());
        let Some(zone) = self.zone_of(signer, name, rtype.into()).await? else {
            return Ok(());
        };
        let denied = self.absence(&zone, name, |denials| denials.deny(name, rtype))?;
        let is_nxdomain = self.is_nxdomain();
        match denied {
            Denied::NoData { .. } if !is_nxdomain => {}
            Denied::NxDomain if is_nxdomain => {}
            Denied::OptOut => self.leave(None),
            Denied::Unchecked => self.leave(Some(unchecked())),
            Denied::NoData { .. } | Denied::NxDomain => return Err(Cause::NoDenial.at(name)),
        }
        Ok(())
    }

    /// The zone that must have signed what is said of `owner`; `None` if there is none, and the answer
    /// insecure. `signer` says that it has, which saves asking for each name between it and the owner: if
    /// it is not signed, nothing below it is.
    async fn zone_of(
        &mut self,
        signer: Option<&Name>,
        owner: &Name,
        rtype: u16,
    ) -> Result<Option<Arc<Zone>>, Failure> {
        let signer = signer.filter(|signer| self.chain.have_same_anchor(signer, owner));
        let name = match signer {
            Some(signer) => signer.clone(),
            // A DS is in the zone above its owner.
            None if rtype == u16::from(RecordType::DS) => owner.base_name(),
            None => owner.clone(),
        };
        match self.chain.standing(&name, &mut self.work).await? {
            Standing::Secure(zone) => Ok(Some(zone)),
            Standing::Insecure(ede) => {
                self.leave(ede);
                Ok(None)
            }
        }
    }

    /// Takes what `deny` makes of the zone's proofs of absence in the message.
    fn absence(
        &mut self,
        zone: &Zone,
        name: &Name,
        deny: impl FnOnce(&Denials<'_>) -> Result<Denied, Cause>,
    ) -> Result<Denied, Failure> {
        let proofs = verified_proofs(zone, self.sets, now(), &mut self.work);
        let proofs = proofs.map_err(|why| why.at(name))?;
        let denied = deny(&proofs.denials).map_err(|why| proofs.or_worse(why).at(name))?;
        for (set, ttl) in proofs.sets {
            self.prove(set, ttl);
        }
        Ok(denied)
    }

    fn is_nxdomain(&self) -> bool {
        self.rcode == u16::from(ResponseCode::NXDomain)
    }

    fn prove(&mut self, set: &RrSet, ttl: u32) {
        let records = set.records.iter().map(|index| (*index, ttl));
        self.verdict.proved.extend(records);
    }

    fn leave(&mut self, ede: Option<Ede>) {
        self.verdict.insecure = true;
        self.verdict.ede = self.verdict.ede.take().or(ede);
    }
}

/// Where a DNAME leads a name below its owner (RFC 6672 section 2.2).
fn follow_dname(dname: &RrSet, name: &Name) -> Option<Name> {
    let [target] = dname.rdatas.as_slice() else {
        return None;
    };
    let (target, _) = wire::read_name(target, 0).ok()?;
    let below = name.iter().len() - dname.owner.iter().len();
    let labels = name.iter().take(below).chain(target.iter());
    Name::from_labels(labels).ok()
}
