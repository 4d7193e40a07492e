//! The way down from a trust anchor to a name: which zones are signed, by which keys.
//!
//! Each step asks for one DS and, where a signed zone begins, for its keys. What a step found is kept,
//! so that a warm chain costs no question.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::dnssec::rdata::DS;
use hickory_proto::dnssec::{Algorithm, DigestType};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use moka::sync::Cache;
use tokio::time::Instant;

use super::anchors::{Anchor, Anchors};
use super::cause::Cause;
use super::denial::Denied;
use super::past::Past;
use super::proofs::{plain, verified_proofs};
use super::records::{RrSet, read_sets};
use super::signature::{Key, Work, Zone};
use crate::pkarr::{NameKind, Suffixes};
use crate::resolve::answers::Question;
use crate::resolve::failure::{Ede, Failure, ede};
use crate::resolve::flights::Flights;
use crate::resolve::upstream::Forward;
use crate::wire::{self, Section};

/// Bytes of what is remembered of zones: a signed one takes about 2 KiB, all others 300 bytes.
const MAX_KEPT_BYTES: u64 = 8 << 20;
/// Steps under way at once, over all questions.
const MAX_STEPS_UNDER_WAY: usize = 1024;
/// Longest time that a step is kept: a rollover or a new delegation is seen after it, whatever its TTL.
const MAX_KEPT: Duration = Duration::from_secs(3600);
/// Shortest time that a step is kept: records of TTL 0 must not cost each question a way from the root.
const MIN_KEPT: Duration = Duration::from_secs(5);
/// How long it is believed that a zone's signatures are bad (RFC 4035 section 4.7 wants it short).
const BOGUS_KEPT: Duration = Duration::from_secs(5);
/// How long it is believed that keys cannot be had, the least that RFC 9520 section 3.2 allows: it fails
/// every name below.
const UNREACHABLE_KEPT: Duration = Duration::from_secs(1);
/// DNSKEY records of a zone that are looked at. The largest sets in use have a dozen.
const MAX_KEYS: usize = 48;
/// DS records of a zone that are looked at: a digest of each key may be computed for each.
const MAX_DIGESTS: usize = 12;
/// What a name is to a validator (RFC 4035 section 4.3).
#[derive(Debug)]
pub(super) enum Standing {
    /// It is in this signed zone.
    Secure(Arc<Zone>),
    /// It is in no signed zone, for this reason if it is a strange one.
    Insecure(Option<Ede>),
}

/// What a step down to a name has found there.
#[derive(Debug, Clone)]
enum Cut {
    /// A signed zone begins.
    Signed(Arc<Zone>),
    /// A zone begins that is not signed, or not in a way known here.
    Unsigned(Option<Ede>),
    /// No zone begins.
    Inside,
    /// No name is here or below.
    Absent,
    /// It is not known.
    Failed(Failure),
}

#[derive(Debug)]
struct Kept {
    cut: Cut,
    until: Instant,
}

/// Finds out which zones are signed.
#[derive(Debug)]
pub(super) struct Chain {
    forward: Arc<dyn Forward>,
    anchors: Anchors,
    negative: Vec<Name>,
    suffixes: Suffixes,
    kept: Cache<Name, Arc<Kept>>,
    under_way: Arc<Flights<Name, Arc<Kept>>>,
}

impl Chain {
    /// Steps down from `anchors`; at and below `negative` nothing is signed (RFC 7646).
    pub(super) fn new(
        forward: Arc<dyn Forward>,
        anchors: Anchors,
        negative: Vec<Name>,
        suffixes: Suffixes,
    ) -> Arc<Self> {
        let kept = Cache::builder()
            .max_capacity(MAX_KEPT_BYTES)
            .weigher(|_: &Name, kept: &Arc<Kept>| kept.cut.weight())
            .build();
        Arc::new(Self {
            forward,
            anchors,
            negative,
            suffixes,
            kept,
            under_way: Flights::new(MAX_STEPS_UNDER_WAY),
        })
    }

    /// Whether a name is one that an upstream may be asked for.
    pub(super) fn is_ordinary(&self, name: &Name) -> bool {
        self.suffixes.classify(name) == NameKind::Ordinary
    }

    /// Whether no trust anchor and no negative one stands between a name and another above it.
    pub(super) fn have_same_anchor(&self, above: &Name, name: &Name) -> bool {
        self.nearest_anchor(above) == self.nearest_anchor(name)
    }

    /// The number of labels of the nearest zone at or above `name` with a trust anchor, and with a negative
    /// one.
    fn nearest_anchor(&self, name: &Name) -> (Option<usize>, Option<usize>) {
        let anchor = self.anchors.above(name).map(|(zone, _)| zone.iter().len());
        let negative = self.negative.iter().filter(|zone| zone.zone_of(name));
        (anchor, negative.map(|zone| zone.iter().len()).max())
    }

    /// What `name`, in lower case, is.
    pub(super) async fn standing(
        self: &Arc<Self>,
        name: &Name,
        work: &mut Work,
    ) -> Result<Standing, Failure> {
        let Some((anchor, _)) = self.anchors.above(name) else {
            return Ok(Standing::Insecure(None));
        };
        let (positive, negative) = self.nearest_anchor(name);
        if negative >= positive {
            return Ok(Standing::Insecure(None));
        }
        let mut zone = match self.step(None, anchor, work).await? {
            Cut::Signed(zone) => zone,
            Cut::Unsigned(ede) => return Ok(Standing::Insecure(ede)),
            Cut::Inside | Cut::Absent => return Err(Cause::KeyMissing.at(anchor)),
            Cut::Failed(failure) => return Err(failure),
        };
        for labels in anchor.iter().len()..name.iter().len() {
            let child = name.trim_to(labels + 1);
            match self.step(Some(&zone), &child, work).await? {
                Cut::Signed(below) => zone = below,
                Cut::Unsigned(ede) => return Ok(Standing::Insecure(ede)),
                Cut::Inside => {}
                Cut::Absent => break,
                Cut::Failed(failure) => return Err(failure),
            }
        }
        Ok(Standing::Secure(zone))
    }

    /// What is at `name`, one label below what is known of `parent`; without a parent it is an anchor.
    async fn step(
        self: &Arc<Self>,
        parent: Option<&Arc<Zone>>,
        name: &Name,
        work: &mut Work,
    ) -> Result<Cut, Failure> {
        let kept = self.kept.get(name);
        if let Some(kept) = kept.filter(|kept| Instant::now() < kept.until) {
            return Ok(kept.cut.clone());
        }
        if !work.step() {
            return Err(Cause::TooMuchWork.at(name));
        }
        let flight = self.under_way.join(name.clone(), |_| {
            let (chain, parent, name) = (Arc::clone(self), parent.cloned(), name.clone());
            async move {
                let kept = Arc::new(chain.look(parent.as_deref(), &name).await);
                if parent.is_none() {
                    chain.report_anchor(&name, &kept.cut);
                }
                chain.kept.insert(name, Arc::clone(&kept));
                kept
            }
        });
        let mut flight = flight.map_err(|_| Failure::Overloaded)?;
        let kept = flight.landed().await.map_err(|_| Failure::Internal)?;
        Ok(kept.cut.clone())
    }

    /// Logs when a trust anchor ceases to work, and when it works again.
    fn report_anchor(&self, apex: &Name, cut: &Cut) {
        let has_failed = |kept: Arc<Kept>| matches!(kept.cut, Cut::Failed(_));
        let had_failed = self.kept.get(apex).is_some_and(has_failed);
        match cut {
            Cut::Failed(failure) if !had_failed => tracing::error!(
                %failure,
                "nothing below the trust anchor of {apex} can be validated: either the upstream does not \
                 pass DNSSEC records on, or the clock is wrong, or the anchor is out of date"
            ),
            Cut::Signed(_) if had_failed => {
                tracing::info!("the trust anchor of {apex} works again")
            }
            Cut::Signed(_) | Cut::Unsigned(_) | Cut::Inside | Cut::Absent | Cut::Failed(_) => {}
        }
    }

    async fn look(&self, parent: Option<&Zone>, name: &Name) -> Kept {
        let mut past = Past::new(&*self.forward);
        let found = loop {
            let mut work = Work::of_step();
            let found = match parent {
                Some(parent) => self.look_below(parent, name, &mut past, &mut work).await,
                None => self.look_at_anchor(name, &mut past, &mut work).await,
            };
            if let Some(found) = past.conclude(name, found) {
                break found;
            }
        };
        let (cut, time) = match found {
            Ok((cut, ttl)) => {
                let time = Duration::from_secs(u64::from(ttl));
                (cut, time.clamp(MIN_KEPT, MAX_KEPT))
            }
            Err(failure @ Failure::Bogus { .. }) => (Cut::Failed(failure), BOGUS_KEPT),
            Err(failure) => (Cut::Failed(failure), UNREACHABLE_KEPT),
        };
        tracing::debug!(%name, ?cut, "a step of a chain of trust");
        Kept {
            cut,
            until: Instant::now() + time,
        }
    }

    async fn look_at_anchor(
        &self,
        apex: &Name,
        past: &mut Past<'_>,
        work: &mut Work,
    ) -> Result<(Cut, u32), Failure> {
        let anchors = self.anchors.above(apex).map(|(_, anchors)| anchors);
        let anchors = anchors.unwrap_or_default();
        let is_trusted = |rdata: &[u8], key: &Key| {
            anchors.iter().any(|anchor| match anchor {
                Anchor::Digest(ds) => covers(ds, apex, key),
                Anchor::Key(anchor) => anchor == rdata,
            })
        };
        let (zone, ttl) = self.keys(apex, is_trusted, past, work).await?;
        Ok((Cut::Signed(zone), ttl))
    }

    async fn look_below(
        &self,
        parent: &Zone,
        name: &Name,
        past: &mut Past<'_>,
        work: &mut Work,
    ) -> Result<(Cut, u32), Failure> {
        let (rcode, sets) = self.ask(name, RecordType::DS, past).await?;
        let now = now();
        let in_answer = |owner: &Name, rtype| {
            let is_it = |set: &&RrSet| {
                set.section == Section::Answer && set.owner == *owner && set.is(rtype)
            };
            sets.iter().find(is_it)
        };
        if let Some(set) = in_answer(name, RecordType::DS) {
            let verified = plain(parent.verify(set, now, work)).map_err(|why| why.at(name))?;
            let digests = match usable(set) {
                Ok(digests) => digests,
                Err(ede) => return Ok((Cut::Unsigned(Some(ede)), verified.ttl)),
            };
            let is_trusted = |_: &[u8], key: &Key| digests.iter().any(|ds| covers(ds, name, key));
            let (zone, ttl) = self.keys(name, is_trusted, past, work).await?;
            return Ok((Cut::Signed(zone), ttl.min(verified.ttl)));
        }
        if let Some(set) = in_answer(name, RecordType::CNAME) {
            // An alias is in its parent's zone, and nothing is below it (RFC 2181 section 10.1).
            let verified = plain(parent.verify(set, now, work)).map_err(|why| why.at(name))?;
            return Ok((Cut::Inside, verified.ttl));
        }
        let proofs = verified_proofs(parent, &sets, now, work).map_err(|why| why.at(name))?;
        let denied = proofs.denials.deny(name, RecordType::DS);
        let denied = denied.map_err(|why| proofs.or_worse(why).at(name))?;
        let cut = match denied {
            Denied::NoData { delegation: true } | Denied::OptOut => Cut::Unsigned(None),
            Denied::Unchecked => Cut::Unsigned(Some(unchecked())),
            Denied::NoData { delegation: false } => Cut::Inside,
            Denied::NxDomain if rcode == u16::from(ResponseCode::NXDomain) => Cut::Absent,
            Denied::NxDomain => return Err(Cause::NoDenial.at(name)),
        };
        Ok((cut, proofs.ttl))
    }

    /// The keys of the zone at `apex`, where `is_trusted` tells those that may sign them (RFC 4035 section
    /// 5.2), and for how many seconds they hold.
    async fn keys(
        &self,
        apex: &Name,
        is_trusted: impl Fn(&[u8], &Key) -> bool,
        past: &mut Past<'_>,
        work: &mut Work,
    ) -> Result<(Arc<Zone>, u32), Failure> {
        let (_, sets) = self.ask(apex, RecordType::DNSKEY, past).await?;
        let is_it = |set: &&RrSet| {
            let is_answer = set.section == Section::Answer && set.owner == *apex;
            is_answer && set.is(RecordType::DNSKEY)
        };
        let set = sets.iter().find(is_it);
        let set = set.ok_or_else(|| Cause::KeyMissing.at(apex))?;
        let rdatas = || set.rdatas.iter().take(MAX_KEYS);
        let trusted = rdatas().filter_map(|rdata| {
            let key = Key::read(rdata)?;
            is_trusted(rdata, &key).then_some(key)
        });
        let trusted = Zone {
            apex: apex.clone(),
            keys: trusted.collect(),
        };
        if trusted.keys.is_empty() {
            return Err(Cause::KeyMissing.at(apex));
        }
        let verified = plain(trusted.verify(set, now(), work)).map_err(|why| why.at(apex))?;
        let keys = rdatas().filter_map(|rdata| Key::read(rdata)).collect();
        let apex = apex.clone();
        Ok((Arc::new(Zone { apex, keys }), verified.ttl))
    }

    /// Asks for what the upstream has, validated or not.
    async fn ask(
        &self,
        name: &Name,
        rtype: RecordType,
        past: &mut Past<'_>,
    ) -> Result<(u16, Vec<RrSet>), Failure> {
        let failed = |reason: String| Failure::NoKeys {
            zone: name.to_string(),
            reason,
        };
        if !self.is_ordinary(name) {
            return Err(failed("it is no upstream's to know".to_owned()));
        }
        let question = Question {
            name: name.clone(),
            rtype,
            dnssec_ok: true,
            checking_disabled: true,
        };
        let response = past.ask(&question).await;
        let response = response.map_err(|failure| failed(failure.to_string()))?;
        if !has_data(response.rcode) {
            let rcode = response.rcode;
            return Err(failed(format!(
                "the upstream gave RCODE {rcode} for {rtype}"
            )));
        }
        Ok((response.rcode, read_sets(&response)))
    }
}

impl Cut {
    /// Bytes in the cache: an estimate.
    fn weight(&self) -> u32 {
        match self {
            Self::Signed(zone) => {
                500 + 500 * u32::try_from(zone.keys.len()).unwrap_or(u32::MAX / 1000)
            }
            Self::Unsigned(_) | Self::Inside | Self::Absent | Self::Failed(_) => 300,
        }
    }
}

/// The DS records that can be used; if there are none, why (RFC 4035 section 5.2, RFC 6840 section 5.2).
fn usable(set: &RrSet) -> Result<Vec<DS>, Ede> {
    let all = set.rdatas.iter().take(MAX_DIGESTS).filter_map(|rdata| {
        let [algorithm, digest_type] = *rdata.get(2..4)? else {
            return None;
        };
        let algorithm = Algorithm::from_u8(algorithm);
        let digest_type = DigestType::from(digest_type);
        let digest = rdata.get(4..)?.to_vec();
        let tag = wire::read_u16(rdata, 0)?;
        Some(DS::new(tag, algorithm, digest_type, digest))
    });
    let mut usable: Vec<DS> = all.filter(|ds| ds.algorithm().is_supported()).collect();
    if usable.is_empty() {
        let text = "all DS records have unsupported algorithms";
        return Err(Ede::new(ede::UNSUPPORTED_DNSKEY_ALGORITHM, text));
    }
    usable.retain(|ds| ds.digest_type().is_supported());
    if usable.is_empty() {
        let text = "all DS records have unsupported digest types";
        return Err(Ede::new(ede::UNSUPPORTED_DS_DIGEST, text));
    }
    // RFC 4509 section 3: SHA-1 counts where there is nothing better.
    let is_sha1 = |ds: &DS| ds.digest_type() == DigestType::SHA1;
    if !usable.iter().all(is_sha1) {
        usable.retain(|ds| !is_sha1(ds));
    }
    Ok(usable)
}

fn covers(ds: &DS, apex: &Name, key: &Key) -> bool {
    ds.key_tag() == key.tag
        && ds.algorithm() == key.algorithm
        && ds.covers(apex, &key.dnskey).unwrap_or(false)
}

/// Whether a message with this RCODE says what there is, or that there is nothing.
pub(super) fn has_data(rcode: u16) -> bool {
    [ResponseCode::NoError, ResponseCode::NXDomain]
        .map(u16::from)
        .contains(&rcode)
}

/// Says that proofs were not computed.
pub(super) fn unchecked() -> Ede {
    let text = "NSEC3 proofs with so many iterations are not computed";
    Ede::new(ede::UNSUPPORTED_NSEC3_ITERATIONS, text)
}

/// Seconds since 1970, as signatures count them.
pub(super) fn now() -> u32 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = time.unwrap_or_default().as_secs() & u64::from(u32::MAX);
    u32::try_from(seconds).unwrap_or(0)
}
