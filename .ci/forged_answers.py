"""What is asked of the tree of signed_zones.py: honest answers, and all that may be wrong with one.

Each forgery is a function that takes an honest answer, and has names of its own in each of three zones: one
with NSEC, one with NSEC3, one with NSEC3 and opt-out. Forgeries of DS and DNSKEY answers have whole zones.
"""

import struct
from dataclasses import dataclass, replace

from dns_wire import (
    A,
    AAAA,
    ANY,
    CNAME,
    DNAME,
    DNSKEY,
    DS,
    IN,
    MX,
    NOERROR,
    NS,
    NSEC,
    NSEC3,
    NXDOMAIN,
    RRSIG,
    SERVFAIL,
    SOA,
    TXT,
    Name,
    Record,
    name,
    read_name,
)
from signed_zones import (
    BOGUS,
    DAY,
    ECDSAP256SHA256,
    ECDSAP384SHA384,
    ED448,
    ED25519,
    INSECURE,
    MAX_ALIASES,
    RSASHA1,
    RSASHA1_NSEC3,
    RSASHA256,
    RSASHA512,
    SECURE,
    SHA1_DIGEST,
    SHA256_DIGEST,
    SHA384_DIGEST,
    TTL,
    Denial,
    Plan,
    Reply,
    Tree,
    covered,
)

# Extended DNS Errors (RFC 8914 section 4).
FORGED, EXPIRED, NOT_YET, NO_KEY, NO_SIGNATURE, NO_DENIAL, ITERATIONS = 6, 7, 8, 9, 10, 12, 27
# An upstream's failure has the EDE of the upstream, if any; a loop of aliases none of DNSSEC's.
PASSED_ON, LOOP = (None,), (0,)
PAST, FUTURE = (-9 * DAY, -2 * DAY), (2 * DAY, 9 * DAY)
# Seconds for which the signature of `expires_soon` is valid: no TTL may be longer.
SOON = 300
# Iterations up to which proofs count, and beyond which pkbridge calls them bogus.
MAX_ITERATIONS, MAX_TOLERATED_ITERATIONS = 150, 500
# The zones that the forgeries have names in.
RICH = ("p256.nsec.", "p384.nsec3.", "out.nsec3.")
WORSE = {SECURE: 0, INSECURE: 1, BOGUS: 2}


@dataclass
class Forgery:
    """A way to tamper with an answer."""

    place: str
    standing: object  # what the answer is then; or, if that is not the same in all, by its zone
    edes: tuple
    apply: object
    what: str

    def __call__(self, *arguments):
        return self.apply(*arguments)

    def expected(self, zone):
        """What the answer is, if all beside it is honest."""
        standing = self.standing(zone) if callable(self.standing) else self.standing
        return standing, self.edes

    @property
    def label(self):
        """The label that its names begin with."""
        return self.apply.__name__.replace("_", "-")


FORGERIES = []


def forgery(place, standing=BOGUS, *edes):
    """Adds one, at a place of `PLACES`."""

    def add(apply):
        kind = "honest, odd" if standing == SECURE else place
        FORGERIES.append(Forgery(place, standing, edes, apply, kind))
        return apply

    return add


# Where a forgery's name is, by its label and zone, and the type that it is asked for.
PLACES = {
    "positive": ("host", A),
    "no such type": ("nodata", TXT),
    "no such name": ("absent", A),
    "wildcard": ("wild", A),
    "wildcard, no such type": ("wild", MX),
}


def unless_opt_out(standing):
    """Where opt-out applies, what is denied may exist unsigned: that is insecure."""
    return lambda zone: INSECURE if zone.plan.denial.opt_out else standing


def signatures(records):
    """The RRSIGs."""
    return [record for record in records if record.rtype == RRSIG]


def data(records):
    """All but the RRSIGs."""
    return [record for record in records if record.rtype != RRSIG]


def flip(record, at=-1):
    """With one bit of its data changed."""
    changed = bytearray(record.rdata)
    changed[at] ^= 1
    return replace(record, rdata=bytes(changed))


def is_proof(record):
    """NSEC and NSEC3, and their signatures."""
    return record.rtype in (NSEC, NSEC3) or record.rtype == RRSIG and covered(record) in (NSEC, NSEC3)


# ---------------------------------------------------------------------------------------------------
# Records


@forgery("positive", BOGUS, FORGED)
def another_address(tree, zone, owner, rtype, reply):
    reply.answer = [flip(r) if r.rtype == A else r for r in reply.answer]


@forgery("positive", BOGUS, FORGED)
def one_more_address(tree, zone, owner, rtype, reply):
    reply.answer.append(flip(data(reply.answer)[0]))


@forgery("positive", BOGUS, FORGED)
def broken_signature(tree, zone, owner, rtype, reply):
    reply.answer = [flip(r) if r.rtype == RRSIG else r for r in reply.answer]


@forgery("positive", BOGUS, FORGED)
def short_signature(tree, zone, owner, rtype, reply):
    reply.answer = [replace(r, rdata=r.rdata[:-40]) if r.rtype == RRSIG else r for r in reply.answer]


@forgery("positive", BOGUS, NO_SIGNATURE)
def no_signature(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)


@forgery("positive", BOGUS, NO_SIGNATURE, FORGED)
def signature_of_another_type(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer) + zone.signatures[zone.apex, SOA]


@forgery("positive", BOGUS, FORGED, NO_SIGNATURE)
def signature_of_another_name(tree, zone, owner, rtype, reply):
    stolen = zone.signatures[zone.apex.below(b"www"), A]
    reply.answer = data(reply.answer) + [replace(r, owner=owner) for r in stolen]


@forgery("positive", BOGUS, NO_KEY)
def unknown_key_tag(tree, zone, owner, rtype, reply):
    reply.answer = [flip(r, 17) if r.rtype == RRSIG else r for r in reply.answer]


@forgery("positive", BOGUS, NO_KEY)
def unknown_algorithm(tree, zone, owner, rtype, reply):
    reply.answer = [
        replace(r, rdata=r.rdata[:2] + b"\xc8" + r.rdata[3:]) if r.rtype == RRSIG else r
        for r in reply.answer
    ]


@forgery("positive", BOGUS, EXPIRED)
def expired(tree, zone, owner, rtype, reply):
    reply.answer = tree.at_other_times[zone.apex, PAST].records(owner, A)


@forgery("positive", BOGUS, NOT_YET)
def not_yet_valid(tree, zone, owner, rtype, reply):
    reply.answer = tree.at_other_times[zone.apex, FUTURE].records(owner, A)


@forgery("positive", BOGUS, EXPIRED, NOT_YET, FORGED)
def expires_before_it_begins(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, valid=(DAY, -DAY)))


@forgery("positive", SECURE)
def expired_and_valid(tree, zone, owner, rtype, reply):
    reply.answer[:0] = signatures(tree.at_other_times[zone.apex, PAST].records(owner, A))


@forgery("positive", SECURE)
def broken_and_valid(tree, zone, owner, rtype, reply):
    reply.answer[:0] = [flip(r) for r in signatures(reply.answer)]


@forgery("positive", SECURE)
def unknown_algorithm_and_valid(tree, zone, owner, rtype, reply):
    strange = [replace(r, rdata=r.rdata[:2] + b"\xc8" + r.rdata[3:]) for r in signatures(reply.answer)]
    reply.answer[:0] = strange


@forgery("positive", SECURE)
def raised_ttl(tree, zone, owner, rtype, reply):
    reply.answer = [replace(r, ttl=2 * TTL) for r in reply.answer]


@forgery("positive", SECURE)
def lowered_ttl(tree, zone, owner, rtype, reply):
    reply.answer = [replace(r, ttl=60) for r in reply.answer]


@forgery("positive", SECURE)
def written_twice(tree, zone, owner, rtype, reply):
    reply.answer.append(replace(data(reply.answer)[0], ttl=TTL - 1))


@forgery("positive", SECURE)
def in_capitals(tree, zone, owner, rtype, reply):
    reply.answer = [replace(r, owner=Name(map(bytes.upper, r.owner))) for r in reply.answer]


@forgery("positive", SECURE)
def signed_by_hand(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer))


@forgery("positive", SECURE)
def unsigned_beside(tree, zone, owner, rtype, reply):
    reply.answer.append(Record(name("bank.example"), A, IN, TTL, bytes(4)))
    reply.authority.append(Record(zone.apex, NS, IN, TTL, name("evil.example").wire()))


@forgery("positive", BOGUS, NO_KEY, NO_SIGNATURE, FORGED)
def signed_by_a_zone_beside(tree, zone, owner, rtype, reply):
    beside = tree.zones[name("ed25519.nsec.")]
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, signer=beside.apex, zone=beside))


@forgery("positive", BOGUS, NO_KEY, FORGED)
def signed_by_the_key_of_another(tree, zone, owner, rtype, reply):
    beside = tree.zones[name("ed25519.nsec.")]
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, signer=zone.apex, zone=beside))


@forgery("positive", BOGUS, NO_KEY, FORGED, NO_SIGNATURE)
def signer_below(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, signer=owner))


@forgery("positive", SECURE)
def signer_below_and_valid(tree, zone, owner, rtype, reply):
    reply.answer.append(zone.sign(data(reply.answer), signer=owner))


def has_P256(zone):
    """Whether a zone has a key that can sign by hand."""
    return zone.plan.algorithm == ECDSAP256SHA256


@forgery("positive", lambda zone: SECURE if has_P256(zone.parent) else BOGUS, NO_SIGNATURE)
def signed_by_the_zone_above(tree, zone, owner, rtype, reply):
    # RFC 4035 section 5.3.1 wants the signer to be the zone that the records are in. No validator that is
    # known to us checks it: who can sign for the zone above can change the DS as well.
    reply.answer = data(reply.answer)
    if has_P256(zone.parent):
        reply.answer.append(zone.sign(reply.answer, zone=zone.parent))


@forgery("positive", BOGUS, EXPIRED)
def expired_a_minute_ago(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, valid=(-7 * DAY, -60)))


@forgery("positive", BOGUS, NOT_YET)
def not_valid_for_a_while(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, valid=(600, 7 * DAY)))


@forgery("positive", SECURE)
def expires_soon(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, valid=(-DAY, SOON)))


@forgery("positive", BOGUS, FORGED)
def too_many_labels(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, labels=len(owner) + 1))


@forgery("positive", BOGUS, NO_DENIAL)
def said_to_be_a_wildcard(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, labels=len(owner) - 1))


@forgery("positive", BOGUS, NO_DENIAL)
def said_to_be_a_wildcard_above_the_zone(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(zone.sign(reply.answer, labels=len(zone.apex) - 1))


@forgery("positive", BOGUS, FORGED)
def nxdomain_beside_it(tree, zone, owner, rtype, reply):
    reply.rcode = NXDOMAIN


@forgery("positive", BOGUS, NO_DENIAL)
def nothing_at_all(tree, zone, owner, rtype, reply):
    reply.answer = []


@forgery("positive", BOGUS, NO_DENIAL)
def denied_without_proof(tree, zone, owner, rtype, reply):
    return Reply(NXDOMAIN, [], list(zone.records(zone.apex, SOA)))


@forgery("positive", BOGUS, NO_DENIAL)
def denied_by_its_own_proof(tree, zone, owner, rtype, reply):
    return tree.absent(zone, [owner])


@forgery("positive", BOGUS, NO_DENIAL)
def absent_by_its_own_proof(tree, zone, owner, rtype, reply):
    return tree.absent(zone, [owner], [], NXDOMAIN)


@forgery("positive", BOGUS, NO_DENIAL)
def absent_by_the_proof_of_another(tree, zone, owner, rtype, reply):
    other = Name((b"nothing", *owner[1:]))
    return tree.honest(other, rtype)


@forgery("positive", BOGUS, NO_DENIAL, NO_SIGNATURE)
def absent_unsigned(tree, zone, owner, rtype, reply):
    return Reply(NXDOMAIN, [], zone.sets[zone.apex][SOA])


@forgery("positive", BOGUS, FORGED, NO_SIGNATURE)
def an_unsigned_alias(tree, zone, owner, rtype, reply):
    target = name("www.unsigned.nsec.")
    return Reply(answer=[Record(owner, CNAME, IN, TTL, target.wire())], leads_to=target)


@forgery("positive", BOGUS, FORGED, NO_SIGNATURE)
def an_unsigned_dname(tree, zone, owner, rtype, reply):
    target = name("unsigned.nsec.")
    alias = Name(owner[:1] + target)
    records = [
        Record(Name(owner[1:]), DNAME, IN, TTL, target.wire()),
        Record(owner, CNAME, IN, TTL, alias.wire()),
    ]
    return Reply(answer=records, leads_to=alias)


# ---------------------------------------------------------------------------------------------------
# Absence


@forgery("no such type", SECURE)
def next_name_in_capitals(tree, zone, owner, rtype, reply):
    # RFC 6840 section 5.1: the next name of an NSEC is signed as it is written.
    if zone.plan.denial.hashed:
        return
    (proof,) = data(zone.matching(owner))
    length = len(read_name(proof.rdata, 0)[0].wire())
    proof = replace(proof, rdata=proof.rdata[:length].upper() + proof.rdata[length:])
    reply.authority = [*zone.records(zone.apex, SOA), proof, zone.sign([proof])]


@forgery("no such type", BOGUS, NO_DENIAL)
def type_denied_without_proof(tree, zone, owner, rtype, reply):
    reply.authority = zone.records(zone.apex, SOA)


@forgery("no such type", SECURE)
def type_denied_without_soa(tree, zone, owner, rtype, reply):
    reply.authority = zone.matching(owner)


@forgery("no such type", BOGUS, NO_SIGNATURE, NO_DENIAL)
def type_denied_by_an_unsigned_proof(tree, zone, owner, rtype, reply):
    reply.authority = [r for r in reply.authority if not (r.rtype == RRSIG and is_proof(r))]


@forgery("no such type", BOGUS, NO_SIGNATURE)
def type_denied_with_an_unsigned_soa(tree, zone, owner, rtype, reply):
    reply.authority = [r for r in reply.authority if is_proof(r) or r.rtype != RRSIG]


@forgery("no such type", BOGUS, FORGED)
def type_denied_by_a_forged_proof(tree, zone, owner, rtype, reply):
    reply.authority = [flip(r) if r.rtype in (NSEC, NSEC3) else r for r in reply.authority]


@forgery("no such type", BOGUS, EXPIRED)
def type_denied_by_an_expired_proof(tree, zone, owner, rtype, reply):
    past = tree.at_other_times[zone.apex, PAST]
    reply.authority = zone.records(zone.apex, SOA) + past.matching(owner)


@forgery("no such type", BOGUS, EXPIRED)
def type_denied_with_an_expired_soa(tree, zone, owner, rtype, reply):
    past = tree.at_other_times[zone.apex, PAST]
    reply.authority = past.records(zone.apex, SOA) + zone.matching(owner)


@forgery("no such type", BOGUS, NO_DENIAL)
def type_denied_with_unknown_flags(tree, zone, owner, rtype, reply):
    reply.authority = zone.records(zone.apex, SOA)
    if zone.plan.denial.hashed:
        # RFC 5155 section 8.2: such records are to be ignored.
        (proof,) = data(zone.matching(owner))
        proof = replace(proof, rdata=proof.rdata[:1] + b"\2" + proof.rdata[2:])
        reply.authority = [*reply.authority, proof, zone.sign([proof])]


@forgery("no such type", BOGUS, NO_DENIAL)
def type_denied_as_name(tree, zone, owner, rtype, reply):
    reply.rcode = NXDOMAIN


@forgery("no such type", BOGUS, NO_DENIAL)
def type_denied_by_the_proof_of_another(tree, zone, owner, rtype, reply):
    reply.authority = zone.records(zone.apex, SOA) + zone.matching(Name((b"www", *zone.apex)))


@forgery("no such type", BOGUS, NO_DENIAL)
def type_denied_by_a_wildcard(tree, zone, owner, rtype, reply):
    wildcard = Name((b"*", b"wild", *zone.apex))
    stem = [Name(wildcard[1:])] if zone.plan.denial.hashed else []
    reply.authority = tree.absent(zone, [wildcard, *stem]).authority


@forgery("no such type", BOGUS, NO_SIGNATURE, FORGED)
def type_there_unsigned(tree, zone, owner, rtype, reply):
    return Reply(answer=[Record(owner, rtype, IN, TTL, b"\3out")])


@forgery("no such name", unless_opt_out(SECURE))
def name_denied_in_capitals(tree, zone, owner, rtype, reply):
    reply.authority = [replace(r, owner=Name(map(bytes.upper, r.owner))) for r in reply.authority]


@forgery("no such name", BOGUS, NO_DENIAL)
def name_denied_without_proof(tree, zone, owner, rtype, reply):
    reply.authority = zone.records(zone.apex, SOA)


@forgery("no such name", unless_opt_out(BOGUS), NO_DENIAL)
def name_denied_by_nothing(tree, zone, owner, rtype, reply):
    reply.authority = []


@forgery("no such name", BOGUS, NO_SIGNATURE, NO_DENIAL)
def name_denied_by_unsigned_proofs(tree, zone, owner, rtype, reply):
    reply.authority = [r for r in reply.authority if not (r.rtype == RRSIG and is_proof(r))]


@forgery("no such name", BOGUS, FORGED)
def name_denied_by_forged_proofs(tree, zone, owner, rtype, reply):
    reply.authority = [flip(r) if r.rtype in (NSEC, NSEC3) else r for r in reply.authority]


@forgery("no such name", BOGUS, EXPIRED)
def name_denied_by_expired_proofs(tree, zone, owner, rtype, reply):
    past = tree.at_other_times[zone.apex, PAST]
    reply.authority = tree.honest_of(past, owner, rtype).authority


@forgery("no such name", unless_opt_out(BOGUS), NO_DENIAL)
def name_denied_without_its_wildcard(tree, zone, owner, rtype, reply):
    encloser, nearer = zone.encloser(owner)
    kept = zone.covering(nearer if zone.plan.denial.hashed else owner)
    if zone.plan.denial.hashed:
        kept = kept + zone.matching(encloser)
    reply.authority = list(dict.fromkeys(zone.records(zone.apex, SOA) + kept))


@forgery("no such name", BOGUS, NO_DENIAL)
def name_denied_by_its_wildcard_alone(tree, zone, owner, rtype, reply):
    encloser, _ = zone.encloser(owner)
    # The encloser is a name without records; its own proof says nothing of the name.
    proof = (
        zone.matching(encloser) if zone.plan.denial.hashed else zone.covering(Name((b"zzz", *zone.apex)))
    )
    reply.authority = zone.records(zone.apex, SOA) + proof


@forgery("no such name", BOGUS, NO_DENIAL)
def name_denied_without_its_encloser(tree, zone, owner, rtype, reply):
    if not zone.plan.denial.hashed:
        reply.authority = zone.records(zone.apex, SOA) + zone.matching(zone.apex)
        return
    encloser, nearer = zone.encloser(owner)
    without = zone.covering(nearer) + zone.covering(encloser.below(b"*"))
    match = {record.owner for record in zone.matching(encloser)}
    without = [record for record in without if record.owner not in match]
    reply.authority = zone.records(zone.apex, SOA) + list(dict.fromkeys(without))


@forgery("no such name", unless_opt_out(BOGUS), NO_DENIAL)
def name_denied_as_type(tree, zone, owner, rtype, reply):
    reply.rcode = NOERROR


@forgery("no such name", unless_opt_out(BOGUS), NO_DENIAL, NO_SIGNATURE, FORGED)
def name_there_unsigned(tree, zone, owner, rtype, reply):
    return Reply(answer=[Record(owner, rtype, IN, TTL, bytes(4))])


@forgery("no such name", BOGUS, FORGED, NO_DENIAL)
def name_there_from_a_wildcard_elsewhere(tree, zone, owner, rtype, reply):
    wildcard = zone.records(Name((b"*", b"wild", *zone.apex)), A)
    return Reply(answer=[replace(r, owner=owner) for r in wildcard], authority=reply.authority)


# ---------------------------------------------------------------------------------------------------
# Wildcards


@forgery("wildcard", unless_opt_out(SECURE))
def expanded(tree, zone, owner, rtype, reply):
    pass


@forgery("wildcard", BOGUS, NO_DENIAL)
def expanded_without_denial(tree, zone, owner, rtype, reply):
    reply.authority = []


@forgery("wildcard", BOGUS, NO_DENIAL)
def expanded_with_another_denial(tree, zone, owner, rtype, reply):
    reply.authority = zone.matching(Name((b"www", *zone.apex)))


@forgery("wildcard", BOGUS, NO_SIGNATURE, NO_DENIAL)
def expanded_with_an_unsigned_denial(tree, zone, owner, rtype, reply):
    reply.authority = data(reply.authority)


@forgery("wildcard", BOGUS, EXPIRED)
def expanded_with_an_expired_denial(tree, zone, owner, rtype, reply):
    past = tree.at_other_times[zone.apex, PAST]
    reply.authority = past.covering(owner)


@forgery("wildcard", BOGUS, NO_DENIAL)
def expanded_where_a_name_is(tree, zone, owner, rtype, reply):
    # `there.wild` has addresses of its own; the denial is of another name.
    wildcard = zone.records(Name((b"*", *owner[1:])), A)
    there = Name((b"there", *owner[1:]))
    proof = zone.matching(there)
    return Reply(answer=[replace(r, owner=owner) for r in wildcard], authority=proof)


@forgery("wildcard", BOGUS, FORGED)
def expanded_and_changed(tree, zone, owner, rtype, reply):
    reply.answer = [flip(r) if r.rtype == A else r for r in reply.answer]


@forgery("wildcard", unless_opt_out(BOGUS), NO_DENIAL)
def wildcard_hidden(tree, zone, owner, rtype, reply):
    encloser, nearer = zone.encloser(owner)
    proof = (
        zone.matching(encloser) + zone.covering(nearer)
        if zone.plan.denial.hashed
        else zone.covering(owner)
    )
    wildcard = zone.matching(encloser.below(b"*"))
    return Reply(NXDOMAIN, [], zone.records(zone.apex, SOA) + list(dict.fromkeys(proof + wildcard)))


@forgery("wildcard", unless_opt_out(BOGUS), NO_DENIAL)
def wildcard_said_to_lack_the_type(tree, zone, owner, rtype, reply):
    return tree.honest(owner, MX)


@forgery("wildcard, no such type", unless_opt_out(SECURE))
def wildcard_lacks_type(tree, zone, owner, rtype, reply):
    pass


@forgery("wildcard, no such type", BOGUS, NO_DENIAL)
def wildcard_lacks_type_without_cover(tree, zone, owner, rtype, reply):
    wildcard = Name((b"*", *owner[1:]))
    reply.authority = zone.records(zone.apex, SOA) + zone.matching(wildcard)


@forgery("wildcard, no such type", unless_opt_out(BOGUS), NO_DENIAL)
def wildcard_lacks_type_without_its_proof(tree, zone, owner, rtype, reply):
    wildcard = {r.owner for r in zone.matching(Name((b"*", *owner[1:])))}
    covering = zone.covering(owner)
    kept = [r for r in reply.authority if r.owner not in wildcard or r in covering]
    if not zone.plan.denial.hashed and any(r.owner in wildcard for r in covering):
        kept = zone.records(zone.apex, SOA)
    reply.authority = kept


@forgery("wildcard, no such type", unless_opt_out(BOGUS), NO_DENIAL)
def wildcard_lacks_type_as_name(tree, zone, owner, rtype, reply):
    reply.rcode = NXDOMAIN


# ---------------------------------------------------------------------------------------------------
# Zones: forged answers about DS and DNSKEY

ZONE_FORGERIES = []


def zone_forgery(rtype, standing=BOGUS, *edes):
    """Adds one, of what is said of a zone's DS or DNSKEY records."""

    def add(apply):
        ZONE_FORGERIES.append((rtype, Forgery("zone", standing, edes, apply, "zone")))
        return apply

    return add


@zone_forgery(DS, BOGUS, NO_DENIAL, NO_SIGNATURE)
def ds_stripped(tree, zone, owner, rtype, reply):
    return Reply(authority=zone.records(zone.apex, SOA))


@zone_forgery(DS, BOGUS, NO_DENIAL, NO_SIGNATURE)
def ds_empty(tree, zone, owner, rtype, reply):
    return Reply()


@zone_forgery(DS, BOGUS, NO_DENIAL)
def ds_denied_by_its_own_proof(tree, zone, owner, rtype, reply):
    return tree.absent(zone, [owner])


@zone_forgery(DS, BOGUS, NO_DENIAL)
def ds_denied_by_the_child(tree, zone, owner, rtype, reply):
    return tree.absent(tree.zones[owner], [owner])


@zone_forgery(DS, BOGUS, NO_DENIAL)
def ds_denied_by_an_unsigned_sibling(tree, zone, owner, rtype, reply):
    sibling = Name((b"unsigned", *owner[1:]))
    return tree.honest(sibling, DS)


@zone_forgery(DS, BOGUS, NO_DENIAL)
def ds_absent(tree, zone, owner, rtype, reply):
    reply = tree.honest(Name((b"nothing", *owner[1:])), DS)
    reply.rcode = NXDOMAIN
    return reply


@zone_forgery(DS, BOGUS, NO_SIGNATURE)
def ds_unsigned(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)


@zone_forgery(DS, BOGUS, FORGED)
def ds_forged(tree, zone, owner, rtype, reply):
    reply.answer = [flip(r) if r.rtype == DS else r for r in reply.answer]


@zone_forgery(DS, BOGUS, NO_SIGNATURE, FORGED)
def ds_signed_by_the_child(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)
    reply.answer.append(tree.zones[owner].sign(reply.answer))


@zone_forgery(DS, BOGUS, FORGED, NO_SIGNATURE)
def ds_is_an_unsigned_alias(tree, zone, owner, rtype, reply):
    return Reply(answer=[Record(owner, CNAME, IN, TTL, name("www.unsigned.nsec.").wire())])


@zone_forgery(DNSKEY, BOGUS, NO_KEY)
def keys_missing(tree, zone, owner, rtype, reply):
    reply.answer = []


@zone_forgery(DNSKEY, BOGUS, NO_KEY)
def keys_denied(tree, zone, owner, rtype, reply):
    return tree.absent(zone, [owner])


@zone_forgery(DNSKEY, BOGUS, NO_SIGNATURE)
def keys_unsigned(tree, zone, owner, rtype, reply):
    reply.answer = data(reply.answer)


@zone_forgery(DNSKEY, BOGUS, FORGED)
def keys_with_one_more(tree, zone, owner, rtype, reply):
    reply.answer.append(flip(data(reply.answer)[0]))


@zone_forgery(DNSKEY, BOGUS, NO_KEY)
def keys_of_another_zone(tree, zone, owner, rtype, reply):
    other = tree.zones[name("ed25519.nsec.")]
    reply.answer = [replace(r, owner=owner) for r in other.records(other.apex, DNSKEY)]


@zone_forgery(DNSKEY, BOGUS, EXPIRED)
def keys_expired(tree, zone, owner, rtype, reply):
    keys = data(reply.answer)
    reply.answer = [*keys, zone.sign(keys, valid=PAST)]


@zone_forgery(DNSKEY, BOGUS, NOT_YET)
def keys_not_yet_valid(tree, zone, owner, rtype, reply):
    keys = data(reply.answer)
    reply.answer = [*keys, zone.sign(keys, valid=FUTURE)]


@zone_forgery(DNSKEY, BOGUS, NO_KEY, 22, 23)
def keys_not_to_be_had(tree, zone, owner, rtype, reply):
    return Reply(SERVFAIL)


# ---------------------------------------------------------------------------------------------------
# The tree


def ds_data(zone, digest, rdata=None, algorithm=None):
    """A DS with other data."""
    tag, own, _ = struct.unpack_from("!HBB", zone.ds())
    return struct.pack("!HBB", tag, algorithm or own, digest) + (rdata or zone.ds(digest)[4:])


# A record of each type that one may meet, with capitals in the names: which of them are signed in lower
# case is a matter of the type (RFC 4034 section 6.2, RFC 6840 section 5.1).
TYPES = (
    "types A 192.0.2.10",
    "types PTR WWW",
    "types HINFO CPU OS",
    "types MX 10 WWW",
    "types MX 20 Mail.Example.",
    "types RP WWW TXT",
    "types AFSDB 1 WWW",
    "types RT 1 WWW",
    "types X25 31105551212",
    'types TXT "UPPER" ""',
    "types AAAA 2001:DB8::A",
    "types LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
    "types SRV 1 2 80 WWW",
    'types NAPTR 1 2 "S" "SIP+D2U" "" WWW',
    "types KX 1 WWW",
    "types CERT 1 1 8 AAAA",
    "types SSHFP 4 2 123456789ABCDEF67890123456789ABCDEF67890123456789ABCDEF123456789",
    "types DHCID AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA=",
    "types TLSA 3 1 1 d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971",
    "types CDS 12345 13 2 d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971",
    "types OPENPGPKEY AAAA",
    'types SPF "v=spf1 -all"',
    "types EUI48 00-00-5E-00-53-2A",
    'types URI 1 2 "https://WWW.example/"',
    'types CAA 0 issue "CA.example"',
    "types TYPE64 \\# 10 0001 03 575757 02 4e4c 00",
    "types TYPE65 \\# 10 0001 03 575757 02 4e4c 00",
    "types TYPE107 \\# 10 0001 03 575757 02 4e4c 00",
    "types TYPE42 \\# 0",
    "types TYPE10 \\# 3 414243",
    "types TYPE65280 \\# 10 0001 03 575757 02 4e4c 00",
    "types TYPE65281 \\# 0",
    "MiXed A 192.0.2.11",
    "to-alone CNAME www.ed25519.nsec.",
    f"{'a.' * 30}deepest A 192.0.2.14",
    "to-CAPITALS CNAME WWW.Ed25519.nsec.",
)


def plans():
    """All zones."""
    p256 = ECDSAP256SHA256
    nsec3 = Denial(1, "abcd")
    both = ["nsec.", "nsec3."]
    made = [
        Plan(".", RSASHA256, split=True),
        Plan("nsec.", p256, split=True, records=("alias CNAME www.p256", "wire A 192.0.2.7")),
        Plan("nsec3.", RSASHA256, Denial(0, "-", opt_out=True), split=True),
    ]
    common = (
        "www A 192.0.2.2",
        "www A 192.0.2.3",
        "www AAAA 2001:db8::2",
        'txt TXT "text" "more"',
        "@ MX 10 www",
        "a.b.ent A 192.0.2.4",
        "*.wild A 192.0.2.5",
        '*.wild TXT "wild"',
        "there.wild A 192.0.2.6",
        "there.wild MX 10 www",
        "alias CNAME www",
        "alias-absent CNAME nothing",
        "alias-lacks CNAME txt",
        "alias-loop CNAME alias-loop2",
        "alias-loop2 CNAME alias-loop",
        "*.aliases CNAME www",
    )
    rich = (
        common
        + TYPES
        + ("here.absent A 192.0.2.8", "lie.host A 192.0.2.12", "below.lie.host A 192.0.2.13")
    )
    for forged in FORGERIES:
        stem, _ = PLACES[forged.place]
        if stem in ("host", "nodata"):
            rich += (f"{forged.label}.{stem} A 192.0.2.9",)
    targets = (
        "www.ed25519.nsec.",
        "nothing.ed25519.nsec.",
        "txt.p256.nsec.",
        "x.wild.p384.nsec3.",
        "nothing.p384.nsec3.",
        "nothing.out.nsec3.",
        "www.unsigned.nsec.",
        "nothing.unsigned.nsec.",
        "www.unsigned.out.nsec3.",
        "back.unsigned.nsec.",
        "another-address.host.p256.nsec.",
        "no-signature.host.p384.nsec3.",
        "name-denied-without-proof.absent.p256.nsec.",
        "www.digest.nsec.",
        "www.expired.nsec.",
        "alias.p256.nsec.",
        "www.moved-0.p256.nsec.",
    )
    rich += tuple(f"to-{at} CNAME {target}" for at, target in enumerate(targets))
    moves = ("ed25519.nsec.", "unsigned.nsec.", "p384.nsec3.", "host.p256.nsec.", "expired.nsec.")
    rich += tuple(f"moved-{at} DNAME {target}" for at, target in enumerate(moves))
    denials = (Denial(), Denial(5, "8badf00d"), Denial(0, "-", opt_out=True))
    rich += ("moved-8 DNAME ed25519.nsec.", "moved-9 DNAME ed25519.nsec.")
    hops = (f"hop-{at} CNAME hop-{at + 1}.{RICH[at % 3]}" for at in range(9))
    rich += (*hops, "hop-9 CNAME www.ed25519.nsec.")
    algorithms = (p256, ECDSAP384SHA384, ED25519)
    for apex, algorithm, denial in zip(RICH, algorithms, denials):
        made.append(Plan(apex, algorithm, denial, rich, split=True))
        for child in ("deep", "replayed"):
            made.append(Plan(f"{child}.{apex}", p256, denial, common))
        made.append(Plan(f"unsigned.{apex}", None, records=common, standing=INSECURE))
        # What is below a zone that is not signed is not secure, whoever signs it.
        made.append(Plan(f"island.unsigned.{apex}", p256, denial, common))
        # But for one that has a trust anchor.
        made.append(Plan(f"isle.sea.unsigned.{apex}", p256, denial, common, anchored=True))
    made.append(Plan("isle.reef.unsigned.p256.nsec.", p256, records=common, anchored=True))
    for tld in both:
        back = common + ("back CNAME www.ed25519.nsec.", "forth CNAME another-address.host.p256.nsec.")
        made.append(Plan(f"unsigned.{tld}", None, records=back, standing=INSECURE))
    simple = lambda label, *args, **more: made.append(
        Plan(f"{label}.nsec.", *args, records=common, **more)
    )
    simple("ed25519", ED25519)
    simple("rsa256", RSASHA256, split=True)
    simple("rsa512", RSASHA512)
    simple("rsa-1024", RSASHA256, bits=1024)
    simple("rsa-768", RSASHA256, bits=768, standing=BOGUS, edes=(FORGED,))
    simple(
        "two", p256, second=ED25519, digests=lambda zone: [zone.ds(key=key) for key in zone.dnskeys()]
    )
    simple("two-of-one", p256, second=RSASHA256, digests=lambda zone: [zone.ds(key=zone.dnskeys()[1])])
    for denial in (Denial(), nsec3, Denial(0, "-", opt_out=True)):
        star = ("* A 192.0.2.15", '* TXT "star"', *common)
        made.append(
            Plan(
                f"star{denial.iterations or 0}{denial.opt_out:d}{denial.hashed:d}.nsec.",
                p256,
                denial,
                star,
            )
        )
    simple("rsa-3072", RSASHA256, bits=3072)
    simple("rsa-4096", RSASHA512, nsec3, bits=4096)
    simple("sha1", RSASHA1)
    simple("sha1-nsec3", RSASHA1_NSEC3, nsec3)
    simple("ed448", ED448, standing=INSECURE)
    for iterations in (100, 150, 151, 500, 600):
        simple(f"iterations{iterations}", p256, Denial(iterations))
    simple("expired", p256, valid=PAST, standing=BOGUS, edes=(EXPIRED,))
    simple("future", p256, valid=FUTURE, standing=BOGUS, edes=(NOT_YET,))
    simple("revoked", p256, split=True, revoked=True, digests=revoked_ds, standing=BOGUS, edes=(NO_KEY,))
    # DS records.
    wrong = lambda zone, digest=SHA256_DIGEST: ds_data(zone, digest, bytes(len(zone.ds(digest)) - 4))
    unknown = lambda zone: ds_data(zone, 99, bytes(32))
    alien = lambda zone: ds_data(zone, SHA256_DIGEST, algorithm=200)
    for label, digests, standing in (
        ("digest", lambda zone: [unknown(zone)], INSECURE),
        ("algorithm", lambda zone: [alien(zone)], INSECURE),
        ("digest-and-algorithm", lambda zone: [unknown(zone), alien(zone)], INSECURE),
        ("digest-and-good", lambda zone: [unknown(zone), zone.ds()], SECURE),
        ("algorithm-and-good", lambda zone: [alien(zone), zone.ds()], SECURE),
        ("digest-and-wrong", lambda zone: [unknown(zone), wrong(zone)], BOGUS),
        ("wrong", lambda zone: [wrong(zone)], BOGUS),
        ("wrong-and-good", lambda zone: [wrong(zone), zone.ds()], SECURE),
        ("ds-sha1", lambda zone: [zone.ds(SHA1_DIGEST)], SECURE),
        ("ds-sha384", lambda zone: [zone.ds(SHA384_DIGEST)], SECURE),
        ("ds-sha1-and-wrong", lambda zone: [zone.ds(SHA1_DIGEST), wrong(zone)], BOGUS),
        ("ds-wrong-sha1-and-good", lambda zone: [wrong(zone, SHA1_DIGEST), zone.ds()], SECURE),
        ("ds-wrong-sha384-and-good", lambda zone: [wrong(zone, SHA384_DIGEST), zone.ds()], SECURE),
    ):
        simple(label, p256, digests=digests, standing=standing, edes=(NO_KEY,))
    simple(
        "ds-of-zone-key",
        p256,
        split=True,
        digests=lambda zone: [zone.ds(key=zone.dnskeys()[1])],
        standing=BOGUS,
        edes=(NO_KEY, NO_SIGNATURE),
    )
    for tld in both:
        for _, forged in ZONE_FORGERIES:
            denial = Denial() if tld == "nsec." else nsec3
            apex = f"{forged.label}.{tld}"
            made.append(Plan(apex, p256, denial, common, standing=BOGUS, edes=forged.edes))
    return made


def revoked_ds(zone):
    """A DS of the key as it is, and of the key as it was before it was revoked."""
    key = zone.dnskeys()[0]
    before = key[:1] + bytes([key[1] & 0x7F]) + key[2:]
    return [zone.ds(), zone.ds(key=before)]


class World(Tree):
    """The tree, and the forgeries in it."""

    def __init__(self, directory):
        super().__init__(plans(), directory)
        self.at_other_times = {}
        self.forged = {}
        for zone in map(self.zones.get, map(name, RICH)):
            for valid in (PAST, FUTURE):
                self.at_other_times[zone.apex, valid] = self.at_other_time(zone, valid)
            for forged in FORGERIES:
                stem, rtype = PLACES[forged.place]
                owner = Name((forged.label.encode(), stem.encode(), *zone.apex))
                self.forged[owner, rtype] = self.tampers[owner, rtype] = forged
        for tld in ("nsec.", "nsec3."):
            for rtype, forged in ZONE_FORGERIES:
                owner = name(f"{forged.label}.{tld}")
                self.tampers[owner, rtype] = forged
                if rtype == DS:
                    self.forged[owner, rtype] = forged
        self.replay()

    def honest_of(self, zone, owner, rtype):
        """What another signing of a zone would say."""
        kept, self.zones[zone.apex] = self.zones[zone.apex], zone
        try:
            return self.honest(owner, rtype)
        finally:
            self.zones[zone.apex] = kept

    def replay(self):
        """What a parent says, in the place of its child's answer (RFC 6840 section 4.1)."""

        def at_the_cut(tree, zone, owner, rtype, reply):
            return tree.absent(zone.parent, [owner])

        def below_the_cut(tree, zone, owner, rtype, reply):
            parent = zone.parent
            if not parent.plan.denial.hashed:
                return tree.absent(parent, [], [owner, zone.apex.below(b"*")], NXDOMAIN)
            return tree.absent(parent, [zone.apex], [owner, zone.apex.below(b"*")], NXDOMAIN)

        def of_the_parent(tree, zone, owner, rtype, reply):
            # What is said to be nothing is at a name that the parent does not have, as a cut is above it.
            return tree.absent(zone.parent, [], [zone.apex], NXDOMAIN)

        def above_the_cut(tree, zone, owner, rtype, reply):
            above, nearest = zone.parent.parent, zone.parent.apex
            proof = [nearest] if above.plan.denial.hashed else []
            return tree.absent(above, proof, [owner], NXDOMAIN)

        def alias_alone(tree, zone, owner, rtype, reply):
            reply.leads_to = None

        def stranger_beside(tree, zone, owner, rtype, reply):
            reply.answer.append(Record(name("www.ed25519.nsec"), A, IN, TTL, bytes([6, 6, 6, 6])))

        def renamed_wildcard_proof(tree, zone, owner, rtype, reply):
            # Its signature holds for any name that the wildcard could give (CVE-2017-15105).
            proof = zone.matching(Name((b"*", *owner[1:])))
            return Reply(
                authority=zone.records(zone.apex, SOA) + [replace(r, owner=owner) for r in proof]
            )

        def below_a_dname(tree, zone, owner, rtype, reply):
            moved = Name(owner[1:])
            stem = [moved] if zone.plan.denial.hashed else []
            return tree.absent(zone, stem, [owner, moved.below(b"*")], NXDOMAIN)

        def not_there(tree, zone, owner, rtype, reply):
            return Reply(NXDOMAIN, [], zone.sets[zone.apex][SOA])

        def dname_leads_elsewhere(tree, zone, owner, rtype, reply):
            target = name("www.unsigned.nsec.")
            reply.answer[-1] = replace(reply.answer[-1], rdata=target.wire())
            reply.leads_to = target

        def add(owner, rtype, apply, standing=BOGUS, edes=(NO_DENIAL,)):
            forged = Forgery("replay", standing, edes, apply, "replay")
            self.forged[owner, rtype] = self.tampers[owner, rtype] = forged

        for apex in map(name, RICH):
            child = apex.below(b"replayed")
            for rtype in (AAAA, MX, TXT):
                add(child, rtype, at_the_cut)
            add(child.below(b"a", b"b", b"ent"), A, below_the_cut)
            add(child.below(b"nobody"), A, below_the_cut)
            add(child.below(b"no-one"), A, above_the_cut)
            add(apex.below(b"to-alone"), A, alias_alone)
            add(child.below(b"a", b"b", b"ent"), TXT, of_the_parent)
            # A lie that nobody can check must not be believed by those who could check.
            add(apex.below(b"lie", b"host"), RRSIG, not_there, INSECURE, ())
            add(apex.below(b"nobody", b"moved-9"), A, below_a_dname)
            elsewhere = apex.below(b"elsewhere", b"moved-8")
            add(elsewhere, A, dname_leads_elsewhere, edes=(FORGED, NO_SIGNATURE))

        add(name("there.wild.p256.nsec."), MX, renamed_wildcard_proof, edes=(FORGED, NO_DENIAL))
        add(name("www.unsigned.nsec3."), A, stranger_beside, INSECURE, ())
        add(name("reef.unsigned.p256.nsec."), A, not_there, INSECURE, ())

    def expected(self, owner, rtype):
        """What an answer is, and the EDEs of which one says why it is bogus."""
        worst, edes, seen = SECURE, (), set()
        for _ in range(MAX_ALIASES):
            zone = self.zone_of(owner, rtype)
            reply = self.step(owner, rtype)
            if reply.rcode == SERVFAIL:
                return BOGUS, PASSED_ON
            if reply.leads_to in seen:
                return BOGUS, LOOP
            forged = self.forged.get((owner, rtype))
            standing, why = zone.standing, zone.edes
            if rtype == RRSIG:
                # Signatures have none of their own (RFC 4035 section 2.2).
                return INSECURE, ()
            if standing == SECURE and forged:
                standing, why = forged.expected(zone)
            elif standing == SECURE and any(map(is_proof, reply.authority)):
                iterations = zone.plan.denial.iterations or 0
                if iterations > MAX_TOLERATED_ITERATIONS:
                    standing, why = BOGUS, (ITERATIONS,)
                elif iterations > MAX_ITERATIONS or reply.opt_out:
                    standing = INSECURE
            if WORSE[standing] > WORSE[worst]:
                worst, edes = standing, why
            elif standing == BOGUS:
                edes += why
            if reply.leads_to is None:
                break
            owner = reply.leads_to
            seen.add(owner)
        return worst, edes


@dataclass
class Case:
    """A question, and what its answer is."""

    what: str
    owner: Name
    rtype: int
    standing: str
    edes: tuple
    turn: int = 1  # those of a lower turn are asked before


def cases(world):
    """All that is asked."""
    made = {}

    def add(what, owner, rtype, turn=1):
        if (owner, rtype) not in made:
            made[owner, rtype] = Case(what, owner, rtype, *world.expected(owner, rtype), turn)

    for apex in map(name, RICH):
        add("before", apex.below(b"lie", b"host"), RRSIG, 0)
        add("after a lie", apex.below(b"lie", b"host"), A, 2)
        add("after a lie", apex.below(b"below", b"lie", b"host"), A, 2)
        if str(apex) == "p256.nsec.":
            add("before", apex.below(b"reef", b"unsigned"), A, 0)
            add("after a lie", apex.below(b"www", b"isle", b"reef", b"unsigned"), A, 2)
        for text in ("a.deepest", "b.deepest"):
            add("honest", Name((*[b"a"] * 29, *text.encode().split(b"."), *apex)), A)
        add("aliases", apex.below(b"hop-0"), A)
        add("before", apex.below(b"gone", b"absent"), A, 0)
        add("after NXDOMAIN", apex.below(b"gone", b"absent"), TXT, 2)
        add("after NXDOMAIN", apex.below(b"below", b"gone", b"absent"), A, 2)
    for (owner, rtype), forged in world.forged.items():
        add(forged.what, owner, rtype)
    for apex, zone in world.zones.items():
        if b"reef" in apex:
            continue
        rich = str(apex) in RICH
        below = lambda text: Name((*text.encode().split(b"."), *apex))
        what = {SECURE: "honest", INSECURE: "unsigned", BOGUS: "zone"}[zone.standing]
        for rtype in (SOA, NS, DNSKEY, DS, A) + (MX, ANY, NSEC, RRSIG, CNAME) * rich:
            # Whoever is told with CD that the apex does not exist may conclude so for all below (RFC 8020).
            if (apex[:1], rtype) != ((b"ds-absent",), DS):
                add("apex", apex, rtype)
        if len(apex) < 2:
            for text in ("nothing", "a.nothing-a"):
                add(what, below(text), A)
            add(what, below("nothing-ds"), DS)
            continue
        wanted = [("www", A), ("nothing", A), ("txt", A), ("x.wild", A), ("alias", A), ("b.ent", A)]
        if apex[0].startswith(b"star"):
            wanted += [("nothing", rtype) for rtype in (TXT, MX, CNAME)] + [
                ("z.ent", A),
                ("a.nothing", A),
            ]
            wanted += [("x.www", A), ("*", A), ("*", MX), ("a.b.nothing", MX)]
        if rich or zone.standing != BOGUS and (zone.standing == INSECURE or zone.plan.denial.hashed):
            wanted += [
                *[("www", rtype) for rtype in (AAAA, TXT, DS, DNSKEY, ANY, RRSIG, NSEC, NS, SOA)],
                *[("ent", A), ("ent", ANY), ("b.ent", DS), ("a.b.ent", A), ("x.b.ent", A)],
                *[
                    ("nothing-ds", DS),
                    ("a.nothing-a", A),
                    ("nothing-any", ANY),
                    ("nothing-rrsig", RRSIG),
                ],
                *[("x.wild", TXT), ("x.wild", AAAA), ("x.y.wild", A), ("there.wild", A), ("wild", A)],
                *[("there.wild", TXT), ("x.there.wild", A), ("*.wild", A), ("*.wild", AAAA)],
                *[("x.wild", DS), ("x.wild", ANY), ("x.aliases", A), ("x.aliases", CNAME)],
                *[
                    ("x.aliases", AAAA),
                    ("x.aliases", MX),
                    ("alias", CNAME),
                    ("alias", DS),
                    ("alias", ANY),
                ],
                *[("alias-absent", A), ("alias-lacks", A), ("alias-loop", A), ("alias", MX)],
            ]
        if rich:
            for rtype in sorted(zone.sets[below("types")]):
                add("types", below("types"), rtype)
            add("types", below("types"), ANY)
            add("types", below("mixed"), A)
            add("types", below("mixed"), TXT)
            aliases = [label for label in zone.names if label[0].startswith(b"to-")]
            for owner in sorted(aliases):
                for rtype in (A, TXT):
                    add("aliases", owner, rtype)
            for at in range(5):
                for text in ("www", "nothing", "txt", "alias", "x.wild", "another-address"):
                    add("DNAME", below(f"{text}.moved-{at}"), A)
                add("DNAME", below(f"moved-{at}"), DNAME)
                add("DNAME", below(f"moved-{at}"), A)
                add("DNAME", below(f"www.moved-{at}"), CNAME)
                add("DNAME", below(f"www.moved-{at}"), DS)
        for text, rtype in wanted:
            add(what, below(text), rtype)
    for text in ("back.unsigned.nsec.", "forth.unsigned.nsec.", "back.unsigned.nsec3."):
        add("aliases", name(text), A)
    return list(made.values())
