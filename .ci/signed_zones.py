"""A tree of zones, signed by ldns-signzone, and a full resolver that knows nothing else.

It answers as a resolver that validates nothing does: aliases are followed, and signatures and proofs of
absence stand beside the records if the DO bit is set. What it says of one name and type may be tampered
with (forged_answers.py). Names and record data are in lower case throughout, which is their canonical
form (RFC 4034 section 6.2).
"""

import base64
import hashlib
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import dns.zone
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from dns_wire import (
    ANY,
    CNAME,
    DNAME,
    DNSKEY,
    DS,
    IN,
    NOERROR,
    NS,
    NSEC,
    NSEC3,
    NXDOMAIN,
    ROOT,
    RRSIG,
    SERVFAIL,
    SOA,
    Name,
    Record,
    name,
    read_name,
)

MAX_ALIASES = 12
RSASHA1, RSASHA1_NSEC3, RSASHA256, RSASHA512 = 5, 7, 8, 10
ECDSAP256SHA256, ECDSAP384SHA384, ED25519, ED448 = 13, 14, 15, 16
MNEMONICS = {
    RSASHA1: "RSASHA1",
    RSASHA1_NSEC3: "RSASHA1-NSEC3-SHA1",
    RSASHA256: "RSASHA256",
    RSASHA512: "RSASHA512",
    ECDSAP256SHA256: "ECDSAP256SHA256",
    ECDSAP384SHA384: "ECDSAP384SHA384",
    ED25519: "ED25519",
    ED448: "ED448",
}
RSA = {RSASHA1, RSASHA1_NSEC3, RSASHA256, RSASHA512}
SHA1_DIGEST, SHA256_DIGEST, SHA384_DIGEST = 1, 2, 4
DIGESTS = {SHA1_DIGEST: hashlib.sha1, SHA256_DIGEST: hashlib.sha256, SHA384_DIGEST: hashlib.sha384}
HOUR, DAY = 3600, 86_400
TTL = 3600
NEGATIVE_TTL = 300
# What a zone, or an answer, is to a validator (RFC 4035 section 4.3).
SECURE, INSECURE, BOGUS = "secure", "insecure", "bogus"


@dataclass
class Denial:
    """How a zone denies: by NSEC, unless there are NSEC3 parameters."""

    iterations: int | None = None
    salt: str = "-"
    opt_out: bool = False

    @property
    def hashed(self):
        """By NSEC3."""
        return self.iterations is not None


@dataclass
class Plan:
    """A zone to be made."""

    apex: str
    algorithm: int | None = None  # None: not signed
    denial: Denial = field(default_factory=Denial)
    records: tuple = ()  # lines of the zone file, besides those that all have
    split: bool = False  # a key-signing and a zone-signing key
    bits: int = 2048
    valid: tuple = (-HOUR, 7 * DAY)  # seconds from now
    digests: object = None  # from the zone to its DS records' data; else one with SHA-256
    second: int | None = None  # algorithm of a second set of signatures
    revoked: bool = False  # its key-signing key
    anchored: bool = False  # has a trust anchor of its own, as the root has
    standing: str = SECURE
    edes: tuple = ()  # what names a bogus standing


class Key:
    """A key that can sign by hand. Its algorithm is one of elliptic curves."""

    def __init__(self, base):
        text = base.with_suffix(base.suffix + ".private").read_text()
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        self.algorithm = int(fields["Algorithm"].split()[0])
        secret = base64.b64decode(fields["PrivateKey"])
        self.curve = {ECDSAP256SHA256: ec.SECP256R1(), ECDSAP384SHA384: ec.SECP384R1()}.get(
            self.algorithm
        )
        if self.curve:
            self.secret = ec.derive_private_key(int.from_bytes(secret, "big"), self.curve)
        else:
            self.secret = ed25519.Ed25519PrivateKey.from_private_bytes(secret)

    def sign(self, data):
        """The signature (RFC 6605 section 4, RFC 8080 section 4)."""
        if not self.curve:
            return self.secret.sign(data)
        digest = hashes.SHA256() if self.algorithm == ECDSAP256SHA256 else hashes.SHA384()
        size = self.curve.key_size // 8
        pair = utils.decode_dss_signature(self.secret.sign(data, ec.ECDSA(digest)))
        return b"".join(number.to_bytes(size, "big") for number in pair)


def key_tag(rdata):
    """RFC 4034 appendix B."""
    total = sum(byte << 8 if at % 2 == 0 else byte for at, byte in enumerate(rdata))
    return (total + (total >> 16)) & 0xFFFF


def canonical(owner):
    """The key by which names are ordered (RFC 4034 section 6.1)."""
    return tuple(reversed(owner))


def is_below(owner, above):
    """At or below."""
    return len(owner) >= len(above) and owner[len(owner) - len(above) :] == above


def covered(rrsig):
    """The type that an RRSIG covers."""
    return struct.unpack_from("!H", rrsig.rdata)[0]


class Zone:
    """A zone, signed or not, as its file says."""

    def __init__(self, plan, parent, file, keys):
        self.plan, self.apex, self.parent = plan, name(plan.apex), parent
        self.keys = keys  # base names of files
        self.sets, self.signatures, self.made = {}, {}, {}
        read = dns.zone.from_file(str(file), origin=plan.apex, relativize=False, check_origin=False)
        for owner, rdataset in read.iterate_rdatasets():
            owner = Name(label.lower() for label in owner.labels[:-1])
            rtype = int(rdataset.rdtype)
            records = [Record(owner, rtype, IN, rdataset.ttl, rdata.to_wire()) for rdata in rdataset]
            if rtype == RRSIG:
                self.signatures[owner, int(rdataset.covers)] = records
            else:
                self.sets.setdefault(owner, {})[rtype] = records
        hashed = self.plan.denial.hashed
        chain = [owner for owner, sets in self.sets.items() if (NSEC3 if hashed else NSEC) in sets]
        self.chain = sorted(chain, key=canonical)
        # The owners of NSEC3 are no names of the zone (RFC 5155 section 7.2.8).
        self.names = set()
        for owner, sets in self.sets.items():
            if NSEC3 not in sets:
                self.names |= {Name(owner[at:]) for at in range(len(owner) - len(self.apex) + 1)}
        self.cuts = {owner for owner, sets in self.sets.items() if NS in sets and owner != self.apex}

    @property
    def standing(self):
        """What all in it is, if not tampered with: nothing below a zone that is not signed is."""
        above = self.parent.standing if self.parent and not self.plan.anchored else SECURE
        return above if above != SECURE else self.plan.standing

    @property
    def edes(self):
        """What may be said of the bogus standing."""
        above = self.parent.standing if self.parent else SECURE
        return self.parent.edes if above == BOGUS else self.plan.edes

    def records(self, owner, rtype):
        """An RRset with its signatures."""
        return self.sets.get(owner, {}).get(rtype, []) + self.signatures.get((owner, rtype), [])

    def dnskeys(self):
        """The data of the zone's keys, those that sign keys first."""
        keys = [record.rdata for record in self.sets[self.apex][DNSKEY]]
        return sorted(keys, key=lambda rdata: not rdata[1] & 1)

    def ds(self, digest=SHA256_DIGEST, algorithm=None, key=None):
        """The data of a DS of its key-signing key (RFC 4034 section 5.1)."""
        key = key or self.dnskeys()[0]
        hashed = DIGESTS.get(digest, hashlib.sha256)(self.apex.wire() + key).digest()
        return struct.pack("!HBB", key_tag(key), algorithm or key[3], digest) + hashed

    def hash(self, owner):
        """RFC 5155 section 5."""
        salt = b"" if self.plan.denial.salt == "-" else bytes.fromhex(self.plan.denial.salt)
        digest = hashlib.sha1(owner.wire() + salt).digest()
        for _ in range(self.plan.denial.iterations):
            digest = hashlib.sha1(digest + salt).digest()
        return self.apex.below(base64.b32hexencode(digest).lower())

    def matching(self, owner):
        """The proof at a name; nothing if it has none."""
        if self.plan.denial.hashed:
            return self.records(self.hash(owner), NSEC3)
        return self.records(owner, NSEC)

    def covering(self, owner):
        """The proof across a name."""
        owner = self.hash(owner) if self.plan.denial.hashed else owner
        before = [one for one in self.chain if canonical(one) < canonical(owner)]
        return self.records(
            before[-1] if before else self.chain[-1], NSEC3 if self.plan.denial.hashed else NSEC
        )

    def encloser(self, owner):
        """The longest name above this one that exists, and the one below it on the way."""
        at = next(at for at in range(1, len(owner) + 1) if Name(owner[at:]) in self.names)
        return Name(owner[at:]), Name(owner[at - 1 :])

    def encloser_of_opted_out(self, owner):
        """As `encloser`, of the names that have NSEC3 records."""
        at = next(at for at in range(1, len(owner) + 1) if self.matching(Name(owner[at:])))
        return Name(owner[at:]), Name(owner[at - 1 :])

    def sign(self, records, signer=None, zone=None, labels=None, valid=(-HOUR, DAY)):
        """A signature of an RRset by hand, with the key of this zone or that of another one; `labels` is
        what it claims."""
        zone, first = zone or self, records[0]
        if (known := (tuple(records), signer, zone.apex, labels, valid)) in self.made:
            # Signatures by ECDSA have random numbers in them; all who ask shall get the same.
            return self.made[known]
        secret = Key(zone.keys[-1])
        dnskey = zone.dnskeys()[-1]
        full = len(first.owner) - (first.owner[:1] == (b"*",))
        labels = full if labels is None else labels
        now = int(time.time())
        head = struct.pack(
            "!HBBIIIH",
            first.rtype,
            secret.algorithm,
            labels,
            first.ttl,
            now + valid[1],
            now + valid[0],
            key_tag(dnskey),
        )
        head += (zone.apex if signer is None else signer).wire()
        owner = first.owner
        if labels < full:
            owner = Name((b"*", *owner[len(owner) - labels :]))
        data = head
        for rdata in sorted({record.rdata for record in records}):
            data += owner.wire() + struct.pack("!2HIH", first.rtype, IN, first.ttl, len(rdata)) + rdata
        self.made[known] = Record(first.owner, RRSIG, IN, first.ttl, head + secret.sign(data))
        return self.made[known]


@dataclass
class Reply:
    """What is said of one name, without what its aliases lead to."""

    rcode: int = NOERROR
    answer: list = field(default_factory=list)
    authority: list = field(default_factory=list)
    leads_to: Name | None = None
    opt_out: bool = False  # the proof covers what may exist unsigned (RFC 5155 section 6)


class Tree:
    """All zones."""

    def __init__(self, plans, directory):
        self.directory, self.zones, self.tampers = directory, {}, {}
        self.plans = {name(plan.apex): plan for plan in plans}
        with ThreadPoolExecutor(4) as pool:
            keys = dict(zip(self.plans, pool.map(self.make_keys, self.plans.values())))
        by_depth = sorted(self.plans, key=len, reverse=True)
        files = {}
        # A zone's DS records stand in its parent, which is signed after it.
        loose = {}
        for apex in by_depth:
            files[apex] = self.make_file(self.plans[apex], keys[apex], loose)
            loose[apex] = Zone(self.plans[apex], None, files[apex], keys[apex])
        for apex in reversed(by_depth):
            loose[apex].parent = self.parent(apex)
            self.zones[apex] = loose[apex]

    def parent(self, apex):
        """The zone above a zone."""
        above = (self.zones.get(Name(apex[at:])) for at in range(1, len(apex) + 1))
        return next((zone for zone in above if zone), None)

    def run(self, *command):
        """What a program prints."""
        done = subprocess.run(
            list(map(str, command)), cwd=self.directory, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr}{done.stdout}")
        return done.stdout.strip()

    def make_keys(self, plan):
        """The base names of a zone's key files, the one for the zone's records last."""
        if plan.algorithm is None:
            return []
        size = ["-b", plan.bits] if plan.algorithm in RSA else []
        make = lambda *flags: self.directory / self.run(
            "ldns-keygen",
            "-r",
            "/dev/urandom",
            "-a",
            MNEMONICS[plan.algorithm],
            *size,
            *flags,
            plan.apex,
        )
        keys = [make("-k"), make()] if plan.split else [make("-k")]
        if plan.second:
            keys += self.make_keys(replace(plan, algorithm=plan.second, second=None))
        if plan.revoked:
            self.run("ldns-revoke", keys[0].with_suffix(keys[0].suffix + ".key"))
        return keys

    def make_file(self, plan, keys, below):
        """Writes and signs a zone file."""
        lines = [
            f"$ORIGIN {plan.apex}",
            f"@ {TTL} IN SOA ns hostmaster 1 7200 3600 604800 {NEGATIVE_TTL}",
            f"@ {TTL} IN NS ns",
            f"ns {TTL} IN A 192.0.2.1",
        ]
        for line in plan.records:
            owner, rest = line.split(" ", 1)
            lines.append(f"{owner} {TTL} IN {rest}")
        apex = name(plan.apex)
        for child, zone in below.items():
            nearest = next(
                above for at in range(1, len(child) + 1) if (above := Name(child[at:])) in self.plans
            )
            if nearest != apex:
                continue
            lines.append(f"{child} {TTL} IN NS ns.{child}")
            lines.append(f"ns.{child} {TTL} IN A 192.0.2.1")
            digests = zone.plan.digests or (lambda zone: [zone.ds()] if zone.plan.algorithm else [])
            for rdata in digests(zone):
                tag, algorithm, digest = struct.unpack_from("!HBB", rdata)
                lines.append(f"{child} {TTL} IN DS {tag} {algorithm} {digest} {rdata[4:].hex()}")
        stem = self.directory / f"zone-{plan.apex}"
        stem.write_text("\n".join(lines) + "\n")
        return self.signed(plan, keys, stem, plan.valid, "signed") if keys else stem

    def signed(self, plan, keys, stem, valid, suffix):
        """Signs a zone file."""
        out, now = stem.with_name(f"{stem.name}{suffix}"), int(time.time())
        hashed = []
        if plan.denial.hashed:
            hashed = ["-n", "-t", plan.denial.iterations, "-p" * plan.denial.opt_out]
            hashed += ["-s", plan.denial.salt] if plan.denial.salt != "-" else []
        self.run(
            *["ldns-signzone", "-o", plan.apex, "-i", now + valid[0], "-e", now + valid[1], "-f", out],
            *filter(lambda word: word != "", hashed),
            *[stem, *keys],
        )
        return out

    def at_other_time(self, zone, valid):
        """The same zone, signed by the same keys for another time."""
        stem = self.directory / f"zone-{zone.plan.apex}"
        file = self.signed(zone.plan, zone.keys, stem, valid, f"signed{valid[0]}")
        return Zone(zone.plan, zone.parent, file, zone.keys)

    def zone_of(self, owner, rtype):
        """The zone that answers. A DS is its parent's (RFC 4035 section 2.4)."""
        start = 1 if rtype == DS and owner and owner in self.zones else 0
        return next(
            zone for at in range(start, len(owner) + 1) if (zone := self.zones.get(Name(owner[at:])))
        )

    def anchor(self):
        """The file of trust anchors."""
        lines = ""
        for zone in self.zones.values():
            if zone.apex == ROOT or zone.plan.anchored:
                rdata = zone.ds()
                tag, algorithm, digest = struct.unpack_from("!HBB", rdata)
                lines += f"{zone.apex} IN DS {tag} {algorithm} {digest} {rdata[4:].hex()}\n"
        return lines

    def step(self, owner, rtype):
        """What is said of one name."""
        owner = owner.lower()
        reply = self.honest(owner, rtype)
        tamper = self.tampers.get((owner, rtype)) or self.tampers.get((owner, None))
        if tamper:
            reply = tamper(self, self.zone_of(owner, rtype), owner, rtype, reply) or reply
        return reply

    def honest(self, owner, rtype):
        """What the zone says of one name."""
        zone = self.zone_of(owner, rtype)
        sets = zone.sets.get(owner, {})
        if rtype in (ANY, RRSIG):
            found = [record for kind in sets for record in zone.records(owner, kind)]
            found = [record for record in found if rtype == ANY or record.rtype == RRSIG]
        else:
            found = zone.records(owner, rtype)
        if found:
            return Reply(answer=found)
        if CNAME in sets and rtype != RRSIG:
            target, _ = read_name(sets[CNAME][0].rdata, 0)
            return Reply(answer=zone.records(owner, CNAME), leads_to=target)
        if owner in zone.names:
            return self.absent(zone, [owner])
        above = [Name(owner[at:]) for at in range(1, len(owner) - len(zone.apex) + 1)]
        moved = next((one for one in above if DNAME in zone.sets.get(one, {})), None)
        if moved is not None:
            target, _ = read_name(zone.sets[moved][DNAME][0].rdata, 0)
            target = Name(owner[: len(owner) - len(moved)] + target)
            alias = Record(owner, CNAME, IN, TTL, target.wire())
            # RFC 1034 section 4.3.2 step 3a: a question for the alias itself is answered with it.
            leads_to = None if rtype in (CNAME, ANY) else target
            return Reply(answer=[*zone.records(moved, DNAME), alias], leads_to=leads_to)
        encloser, nearer = zone.encloser(owner)
        wildcard = encloser.below(b"*")
        denied = [nearer if zone.plan.denial.hashed else owner]
        opt_out = zone.plan.denial.opt_out
        if wildcard not in zone.sets:
            proof = [encloser] if zone.plan.denial.hashed else []
            return self.absent(zone, proof, denied + [wildcard], NXDOMAIN)
        here = zone.sets[wildcard]
        kinds = [kind for kind in here if kind == rtype or rtype in (ANY, RRSIG)] or [CNAME] * (
            CNAME in here
        )
        if not kinds:
            proof = [encloser, wildcard] if zone.plan.denial.hashed else [wildcard]
            return self.absent(zone, proof, denied)
        answer = [replace(r, owner=owner) for kind in kinds for r in zone.records(wildcard, kind)]
        # The wildcard's own proof stays where it is.
        answer = [r for r in answer if r.rtype != NSEC and not (r.rtype == RRSIG and covered(r) == NSEC)]
        if rtype == RRSIG:
            answer = [record for record in answer if record.rtype == RRSIG]
        is_alias = CNAME in here and rtype not in (CNAME, ANY, RRSIG)
        authority = zone.covering(denied[0]) if zone.keys else []
        leads_to = read_name(answer[0].rdata, 0)[0] if is_alias else None
        return Reply(answer=answer, authority=authority, leads_to=leads_to, opt_out=opt_out)

    def absent(self, zone, matching, covering=(), rcode=NOERROR):
        """A negative answer with its proof."""
        authority = list(zone.records(zone.apex, SOA))
        opt_out = bool(covering) and zone.plan.denial.opt_out
        if zone.keys:
            for owner in matching:
                proof = zone.matching(owner)
                if not proof and not zone.plan.denial.hashed:
                    # A name without records.
                    proof = zone.covering(owner)
                elif not proof:
                    # RFC 5155 section 7.2.4: a delegation that opt-out has left out.
                    encloser, nearer = zone.encloser_of_opted_out(owner)
                    proof, opt_out = zone.matching(encloser) + zone.covering(nearer), True
                authority += proof
            for owner in covering:
                authority += zone.covering(owner)
        return Reply(rcode, [], list(dict.fromkeys(authority)), opt_out=opt_out)

    def resolve(self, owner, rtype, dnssec_ok=True):
        """The RCODE, answer and authority sections of a resolver's answer."""
        answer, authority, seen = [], [], set()
        for _ in range(MAX_ALIASES):
            reply = self.step(owner, rtype)
            if reply.rcode == SERVFAIL:
                return SERVFAIL, [], []
            answer += reply.answer
            authority += reply.authority
            if reply.leads_to is None or reply.leads_to in seen:
                break
            owner = reply.leads_to
            seen.add(owner)
        if not dnssec_ok:
            hidden = {RRSIG, NSEC, NSEC3} - {rtype}
            show = lambda record: record.rtype not in hidden or rtype == ANY
            answer, authority = filter(show, answer), filter(show, authority)
        return reply.rcode, list(dict.fromkeys(answer)), list(dict.fromkeys(authority))
