"""Generated zones with whatever an upstream may say."""

import socket
import struct
from dataclasses import dataclass, field

from dns_wire import (
    A,
    AA,
    AAAA,
    AD,
    ANY,
    CD,
    CNAME,
    DNAME,
    DNSKEY,
    DS,
    EDE,
    FORMERR,
    HEADER_LEN,
    IN,
    MAX_MESSAGE_LEN,
    MX,
    NOERROR,
    NOTIMP,
    NS,
    NSEC,
    NSEC3,
    NSEC3PARAM,
    NXDOMAIN,
    OPT,
    QR,
    RA,
    RD,
    REFUSED,
    ROOT,
    RRSIG,
    SERVFAIL,
    SOA,
    SRV,
    TXT,
    Z,
    Name,
    Writer,
    name,
    read_name,
)

# ---------------------------------------------------------------------------------------------------
# Cases


@dataclass
class RR:
    """A record of a case: its data in parts, bytes and names."""

    owner: Name
    rtype: int
    parts: list
    ttl: int = 300
    rclass: int = IN


@dataclass
class Case:
    """One question, and all that an upstream has to say to it."""

    category: str
    owner: Name
    rtype: int
    answer: list = field(default_factory=list)
    authority: list = field(default_factory=list)
    additional: list = field(default_factory=list)
    # These stand behind the others of their section, for those who set DO.
    signed: tuple = ((), (), ())
    rcode: int = NOERROR
    flags: int = RA
    secure: bool = False  # AD for those who set AD or DO
    bogus: bool = False  # SERVFAIL for those who did not set CD
    edes: list = field(default_factory=list)
    options: list = field(default_factory=list)  # further ones, in the OPT
    opt_place: str = "last"
    opt_ttl: int = 0  # further bits of the OPT's TTL
    payload: int = 1232
    compress: str = "full"
    mangle: object = None  # what is done to the message in the end
    # Queries with OPT are answered "well", as if there were none ("ignored"), or by an RCODE.
    edns: object = "well"
    is_malformed: bool = False
    is_asked: bool = True  # by the test itself

    @property
    def key(self):
        """What it is found by."""
        return self.owner.lower().wire(), self.rtype

    def reply(self, query):
        """The reply to a query that was received."""
        opt = query.opt
        rcode, edes = self.rcode, self.edes
        sections = [self.answer, self.authority, self.additional]
        signed = self.signed
        if opt and self.edns in (FORMERR, NOTIMP):
            rcode, sections, signed, opt = self.edns, [[], [], []], ((), (), ()), None
        elif opt and self.edns == "ignored":
            opt = None
        elif self.bogus and not query.flags & CD:
            rcode, edes = SERVFAIL, [(6, b"bad signature")]
            sections, signed = [[], [], []], ((), (), ())
        if opt and opt.dnssec_ok:
            sections = [[*plain, *more] for plain, more in zip(sections, signed)]
        if rcode > 15 and not opt:
            rcode, sections = SERVFAIL, [[], [], []]
        word = QR | query.flags & (RD | CD) | self.flags | rcode & 15
        if self.secure and (query.flags & AD or opt and opt.dnssec_ok):
            word |= AD
        writer = Writer(self.compress)
        asked, rtype, rclass = query.questions[0]
        writer.name(asked, is_question=True)
        writer.wire += struct.pack("!2H", rtype, rclass)
        counts = [len(section) for section in sections]
        own_opt = []
        if opt:
            options = [(EDE, struct.pack("!H", code) + text) for code, text in edes] + self.options
            data = b"".join(struct.pack("!2H", code, len(data)) + data for code, data in options)
            ttl = rcode >> 4 << 24 | opt.ttl & 0x8000 | self.opt_ttl
            own_opt = [RR(ROOT, OPT, [data], ttl, self.payload)]
            counts[2] += 1
        at = {"first": 0, "middle": len(sections[2]) // 2, "last": len(sections[2])}[self.opt_place]
        sections[2] = [*sections[2][:at], *own_opt, *sections[2][at:]]
        for section in sections:
            for record in section:
                writer.record(record.owner, record.rtype, record.rclass, record.ttl, record.parts)
        struct.pack_into("!6H", writer.wire, 0, query.id, word, 1, *counts)
        wire = bytes(writer.wire)
        assert len(wire) <= MAX_MESSAGE_LEN
        return self.mangle(wire) if self.mangle else wire


# ---------------------------------------------------------------------------------------------------
# Record data


def string(data):
    """A character string."""
    return bytes([len(data)]) + data


def bitmap(*types):
    """A type bitmap of the first window (RFC 4034 section 4.1.2)."""
    bits = bytearray(max(types) // 8 + 1)
    for rtype in types:
        bits[rtype // 8] |= 0x80 >> rtype % 8
    return bytes([0, len(bits)]) + bytes(bits)


class Data:
    """Record data by type, from a generator of random numbers."""

    def __init__(self, random):
        self.random = random

    def bytes(self, least, most=None):
        """Random bytes."""
        return self.random.randbytes(self.random.randint(least, most or least))

    def ipv4(self):
        """A public address: 5.0.0.0/8."""
        return bytes([5]) + self.bytes(3)

    def ipv6(self):
        """A public address: 2a00::/16."""
        return b"\x2a\x00" + self.bytes(14)

    def u16(self):
        """A number."""
        return self.bytes(2)

    def text(self):
        """A character string of letters."""
        count = self.random.randint(0, 40)
        return string(
            bytes(self.random.choice(b"abcdefghijklmnopqrstuvwxyz0123456789-") for _ in range(count))
        )

    def signature(self, zone, covered):
        """Data of an RRSIG."""
        return [
            struct.pack(
                "!HBBIIIH",
                covered,
                13,
                2,
                300,
                1_900_000_000,
                1_700_000_000,
                self.random.randrange(65536),
            ),
            zone,
            self.bytes(64),
        ]

    def soa(self, zone, minimum=300):
        """Data of an SOA."""
        return [
            zone.below(b"ns1"),
            zone.below(b"hostmaster"),
            struct.pack("!5I", 2024, 7200, 3600, 1_209_600, minimum),
        ]

    def of(self, rtype, zone):
        """Valid data of a type."""
        made = self.makers()[rtype](zone)
        return made if isinstance(made, list) else [made]

    def types(self):
        """The types that it knows."""
        return sorted(self.makers())

    def makers(self):
        """By type."""
        number, text, some = self.u16, self.text, self.bytes
        host = lambda zone: zone.below(f"h{self.random.randrange(99)}".encode())
        one_name = lambda zone: [host(zone)]
        preferred = lambda zone: [number(), host(zone)]
        keyed = lambda zone: some(2) + bytes([self.random.choice([5, 8, 13, 15])]) + some(20, 80)
        digest = lambda zone: number() + bytes([13, 2]) + some(32)
        texts = lambda zone: b"".join(text() for _ in range(self.random.randint(1, 6)))
        svcb = lambda zone: [
            struct.pack("!H", self.random.randint(1, 9)),
            host(zone),
            struct.pack("!2H", 1, 6) + string(b"h2") + string(b"h3"),
            struct.pack("!2H", 3, 2) + number(),
            struct.pack("!2H", 4, 4) + self.ipv4(),
        ]
        gateways = lambda zone: self.random.choice(
            [
                [b"\x0a\x00\x02", some(16)],
                [b"\x0a\x01\x02", self.ipv4(), some(16)],
                [b"\x0a\x02\x02", self.ipv6(), some(16)],
                [b"\x0a\x03\x02", host(zone), some(16)],
            ]
        )
        relays = lambda zone: self.random.choice(
            [
                [b"\x0a\x00"],
                [b"\x0a\x01", self.ipv4()],
                [b"\x0a\x82", self.ipv6()],
                [b"\x0a\x03", host(zone)],
            ]
        )
        return {
            1: lambda zone: self.ipv4(),
            2: one_name,
            3: one_name,
            4: one_name,
            6: self.soa,
            7: one_name,
            8: one_name,
            9: one_name,
            10: lambda zone: some(1, 90),
            11: lambda zone: self.ipv4() + b"\x06" + some(1, 9),
            12: one_name,
            13: lambda zone: text() + text(),
            14: lambda zone: [host(zone), host(zone)],
            15: preferred,
            16: texts,
            17: lambda zone: [host(zone), host(zone)],
            18: preferred,
            19: lambda zone: string(b"311061700956"),
            20: lambda zone: string(b"150862028003217") + string(b"004"),
            21: preferred,
            22: lambda zone: some(20),
            23: one_name,
            25: lambda zone: some(4, 60),
            26: lambda zone: [number(), host(zone), host(zone)],
            27: lambda zone: string(b"-32.6882") + string(b"116.8652") + string(b"10.0"),
            28: lambda zone: self.ipv6(),
            29: lambda zone: b"\x00\x12\x16\x13" + some(12),
            31: lambda zone: some(1, 30),
            32: lambda zone: some(1, 30),
            33: lambda zone: [some(6), host(zone)],
            34: lambda zone: b"\x01" + string(b"")[:0] + b"61200000000",
            35: lambda zone: [
                number() + number() + string(b"u") + string(b"E2U+sip") + string(b"!^.*$!sip:a@b!"),
                host(zone),
            ],
            36: preferred,
            37: lambda zone: number() + number() + b"\x08" + some(10, 90),
            39: one_name,
            40: lambda zone: some(3, 30),
            42: lambda zone: b"\x00\x01\x18\x03\xc0\x00\x02" + b"\x00\x02\x20\x84\x20\x01\x0d\xb8",
            43: digest,
            44: lambda zone: b"\x04\x02" + some(32),
            45: gateways,
            46: lambda zone: self.signature(zone, A),
            47: lambda zone: [host(zone), bitmap(1, 16, 46, 47)],
            48: lambda zone: b"\x01\x01\x03\x0d" + some(64),
            49: lambda zone: some(35),
            50: lambda zone: b"\x01\x00\x00\x05\x04" + some(4) + b"\x14" + some(20) + bitmap(1, 46),
            51: lambda zone: b"\x01\x00\x00\x05\x04" + some(4),
            52: lambda zone: b"\x03\x01\x01" + some(32),
            53: lambda zone: b"\x03\x01\x01" + some(32),
            55: lambda zone: [b"\x10\x02\x00\x20" + some(16) + some(32), host(zone)],
            56: texts,
            57: keyed,
            58: lambda zone: [host(zone), host(zone)],
            59: digest,
            60: lambda zone: b"\x01\x01\x03\x0d" + some(64),
            61: lambda zone: some(100, 400),
            62: lambda zone: struct.pack("!IH", 66, 3) + bitmap(1, 2, 28),
            63: lambda zone: some(4) + b"\x01\x01" + some(48),
            64: svcb,
            65: svcb,
            99: texts,
            104: lambda zone: number() + some(8),
            105: lambda zone: number() + some(4),
            106: lambda zone: number() + some(8),
            107: preferred,
            108: lambda zone: some(6),
            109: lambda zone: some(8),
            256: lambda zone: number() + number() + b"https://example.com/" + some(0, 9),
            257: lambda zone: b"\x80\x05issueletsencrypt.org",
            258: texts,
            259: lambda zone: some(20),
            260: relays,
            261: texts,
            32768: digest,
            32769: digest,
        }


# Record data that parsers stumble over, by type: all of it is what a server may send, or has sent.
def odd_data(data, zone):
    """`(type, [data, ...])` of one RRset each."""
    param = lambda key, value: struct.pack("!2H", key, len(value)) + value
    target = zone.wire()
    one = b"\x00\x01"
    svcb = [
        one + target + param(4, data.ipv4()) + param(1, string(b"h2")),  # out of order
        one + target + param(1, string(b"h2")) + param(1, string(b"h3")),  # twice
        one + target + param(0, b"\x00\x00"),  # mandatory: mandatory
        one + target + param(0, b""),  # mandatory: nothing
        one
        + target
        + param(0, b"\x00\x04\x00\x01")
        + param(1, string(b"h2")),  # not there, and out of order
        one + target + param(65280, b"\xc0\x0c\x00"),  # private use, like a pointer
        one + target + param(65535, b""),  # the invalid key
        one + target + param(3, b"\x01"),  # a port of one byte
        one + target + param(2, b"x"),  # no-default-alpn with a value
        one + target + param(4, b""),  # no hints
        one + target + param(4, b"\x05\x05\x05"),  # three quarters of a hint
        one + target + param(1, b""),  # no ALPN
        one + target + param(1, b"\x09h2"),  # an ALPN that is longer than the value
        one + b"\0" + param(7, b"/dns-query{?dns}") + param(5, data.bytes(90)),
        b"\x00\x00" + target + param(1, string(b"h2")),  # an alias with parameters
        b"\x00\x00\x00",  # an alias to the root
        one + target + b"\x00",  # half a parameter
    ]
    caa = [
        b"\x00\x05issue",
        b"\x00\x05issue;",
        b"\xff\x05issue;",
        b"\x01\x05issueca.example",
        b"\x00\x00",
        b"\x80\x00value",
        b"\x00\x03tbs\x00\xff",
        b"\x00\x05is-ue;",
        b"\x00\x06is\x00ue.x",
        b"\x00\xff" + b"a" * 255,
        b"\x00\x05iodefnot a url",
        b"\x00\x05ISSUECA.example",
        b"\x00\x05issue%%%=;=;",
    ]
    pointers = [
        b"\xc0\x0c",
        b"\xc0\x0c\xc0\x0c",
        b"\x01a\xc0\x0c",
        b"\x07example\x03com\x00",
        b"\xc0",
        b"\xff\xff",
        b"\x3f",
        b"\x00" * 40,
        b"\x00\x0a\xc0\x0c",
        zone.wire() + b"\xc0\x0c",
        data.bytes(200),
    ]
    unknown = [
        data.random.choice([65280, 65281, 65534, 54, 110, 1234, 4711, 262, 32770, 60000])
        for _ in pointers
    ]
    for rdata in svcb:
        yield data.random.choice([64, 65]), [rdata]
    yield 65, svcb[:6]
    for rdata in caa:
        yield 257, [rdata]
    yield 257, caa
    for rtype, rdata in zip(unknown, pointers):
        yield rtype, [rdata]
    yield 65280, pointers
    yield 65281, [b"", b"x"]
    yield 65282, [b""]
    yield 42, [b""]  # an APL of no items is valid (RFC 3123 section 4)
    yield 42, [b"\x00\x01\x00\x00", b"\x00\x01\x20\x84\x05\x05\x05\x05", b"\x00\x03\x08\x01\x09"]
    yield 10, [b""]
    yield 10, [b"\xc0\x0c", data.bytes(700)]
    yield 16, [string(b"x" * 255) * 12]
    yield 16, [string(b"") * 200]
    yield 16, [string(b"")]
    yield 16, [string(bytes(range(256))[:255]), string(b'"\\;$\x00\xff')]
    yield 29, [bytes(16), b"\x01" + bytes(15), b"\x00\xff\xff\xff" + b"\xff" * 12]
    yield 37, [b"\x00\x00\x00\x00\x00", b"\xff\xff\xff\xff\xff\x00"]
    yield 43, [b"\x00\x00\x00\x00\x00", data.bytes(4) + data.bytes(99)]  # RFC 8078: delete
    yield 59, [b"\x00\x00\x00\x00\x00"]
    yield 60, [b"\x00\x00\x03\x00\x00"]
    yield 61, [b"\x99"]
    yield 44, [b"\x00\x00", b"\xff\xff" + data.bytes(3)]
    yield 52, [b"\xff\xff\xff\x00", b"\x00\x00\x00" + data.bytes(700)]
    yield 51, [b"\x01\xff\xff\xff\x00", b"\xfe\x00\x00\x01\xff" + data.bytes(255)]
    yield 63, [data.bytes(4) + b"\xf0\xf0" + data.bytes(12)]
    yield 35, [b"\x00\x01\x00\x02" + string(b"") * 3 + b"\0", b"\xff" * 4 + string(b"\x00") * 3 + target]
    yield 33, [b"\x00\x00\x00\x00\x00\x00\x00", b"\xff" * 6 + target]
    yield 15, [b"\x00\x00\x00"]  # RFC 7505: no mail
    yield 45, [b"\x0a\x00\x00", b"\x0a\x00\xff\xc0\x0c"]
    yield 55, [b"\x00\x00\x00\x00", b"\x10\x02\x00\x20" + data.bytes(48) + b"\0" + target]
    yield 256, [b"\x00\x00\x00\x00x", b"\x00\x01\x00\x01\xc0\x0c"]
    yield 260, [b"\x00\x00", b"\x80\x01" + data.ipv4(), b"\x0a\x7f" + data.bytes(9)]
    yield 47, [b"\0" + bitmap(1), target + bitmap(2) + b"\xff\x20" + data.bytes(32)]
    yield 50, [b"\x01\x01\xff\xff\x00\x14" + data.bytes(20), b"\xff\x00\x00\x00\x00\x01x\x00\x01\x40"]
    yield 48, [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff" + data.bytes(300)]
    yield 104, [data.bytes(10)]
    yield 108, [data.bytes(6)]


# Data that does not have its type's shape.
def misshapen_data(data, zone):
    """`(type, [data])`."""
    yield 1, [b"\x05\x05\x05"]
    yield 1, [b"\x05\x05\x05\x05\x05"]
    yield 1, [b""]
    yield 28, [data.bytes(15)]
    yield 28, [b""]
    yield 16, [b""]
    yield 16, [b"\x09abc"]
    yield 13, [b"\x01a"]
    yield 33, [b"\x00\x00\x00"]
    yield 15, [b"\x00"]
    yield 2, [zone.wire() + b"more"]
    yield 6, [zone.wire() * 2 + b"short"]
    yield 257, [b"\x00"]
    yield 257, [b""]
    yield 257, [b"\x00\x09ca"]
    yield 65, [b""]
    yield 65, [b"\x00\x01"]
    yield 43, [b"\x00"]
    yield 108, [b"\x00"]
    yield 37, [b""]
    yield 48, [b""]
    yield 46, [b"\x00\x01"]
    yield 47, [b""]
    yield 29, [b"\x00"]
    yield 12, [b""]


# ---------------------------------------------------------------------------------------------------
# Zones


class Zones:
    """Generates cases, each for a name of its own."""

    COMPRESSIONS = ["none", "owner", "full", "full", "full", "old"]

    def __init__(self, random):
        self.random, self.data = random, Data(random)
        self.cases, self.serial = [], 0
        self.zone = self.start = None

    def generate(self, count):
        """So many zones."""
        self.zone = name("root")
        for rtype in (A, NS, SOA, TXT, DNSKEY, 65280):
            records = self.rrset(ROOT, rtype) if rtype != 65280 else [RR(ROOT, rtype, [b"\xc0\x0c"])]
            self.add("names", ROOT, rtype, answer=records)
        makers = [
            self.types,
            self.odd,
            self.spellings,
            self.aliases,
            self.sections,
            self.negatives,
            self.flagged,
            self.signed,
            self.options,
            self.ttls,
            self.sizes,
            self.classes,
            self.addresses,
            self.misshapen,
            self.naughty,
        ]
        for number in range(count):
            # Every zone has a name of its own, some of them right below the root.
            depth = self.random.choice([1, 2, 2, 2, 3])
            labels = [f"z{number}x{self.random.randrange(1 << 32):08x}", "fidelity", "example"]
            self.zone = name(".".join(labels[:depth]))
            makers[number % len(makers)]()
        return list(self.cases)

    def owner(self, *labels):
        """A name that nobody has asked for yet."""
        self.serial += 1
        return self.zone.below(*labels, f"n{self.serial}".encode())

    def add(self, category, owner, rtype, **fields):
        """A case, and those for the targets of its aliases: unbound asks for each of them."""
        fields.setdefault("compress", self.random.choice(self.COMPRESSIONS))
        case = Case(category, owner, rtype, **fields)
        self.cases.append(case)
        chain = case.answer
        while rtype != CNAME and any(
            record.rtype == CNAME and record.owner == owner for record in chain
        ):
            at = next(
                at for at, record in enumerate(chain) if record.rtype == CNAME and record.owner == owner
            )
            owner, chain = chain[at].parts[0], chain[at + 1 :]
            if owner != case.owner:
                rest = {**fields, "answer": chain, "compress": "none"}
                self.cases.append(Case(category, owner, rtype, is_asked=False, **rest))

    def rrset(self, owner, rtype, count=None, ttl=None):
        """Valid records."""
        ttl = self.random.randint(60, 5000) if ttl is None else ttl
        count = 1 if rtype in (SOA, DNAME) else count or self.random.randint(1, 5)
        made = {}
        for _ in range(count):
            parts = self.data.of(rtype, self.zone)
            plain = b"".join(part.lower().wire() if isinstance(part, Name) else part for part in parts)
            made[plain] = RR(owner, rtype, parts, ttl)
        return list(made.values())

    def soa(self, minimum=300, ttl=600):
        """The zone's."""
        return RR(self.zone, SOA, self.data.soa(self.zone, minimum), ttl)

    def signature(self, records):
        """RRSIG over an RRset."""
        first = records[0]
        return RR(first.owner, RRSIG, self.data.signature(self.zone, first.rtype), first.ttl)

    def types(self):
        """Every type, with valid data."""
        for rtype in self.random.sample(self.data.types(), 20):
            owner = self.owner()
            self.add("types", owner, rtype, answer=self.rrset(owner, rtype))
        rtype = self.random.randrange(262, 65535)
        if rtype not in (32768, 32769):
            owner = self.owner()
            self.add("types", owner, rtype, answer=[RR(owner, rtype, [self.data.bytes(0, 99)])])

    def odd(self):
        """Data that parsers stumble over."""
        for rtype, rdatas in self.random.sample(list(odd_data(self.data, self.zone)), 20):
            owner = self.owner()
            records = [RR(owner, rtype, [rdata]) for rdata in rdatas]
            self.add("odd data", owner, rtype, answer=records)

    def misshapen(self):
        """Data of the wrong shape, which is nobody's business but the client's."""
        for rtype, rdatas in self.random.sample(list(misshapen_data(self.data, self.zone)), 8):
            owner = self.owner()
            records = [RR(owner, rtype, [rdata]) for rdata in rdatas]
            self.add("misshapen data", owner, rtype, answer=records, compress="owner")

    def spellings(self):
        """Names with whatever bytes a label can have."""
        room = 255 - len(self.zone.wire())
        long = []
        while room > 64:
            long.append(b"l" * min(63, room - 66 if 64 < room - 64 < 66 else 63))
            room -= len(long[-1]) + 1
        if room > 1:
            long.append(b"e" * (room - 1))
        number = f"n{self.serial}".encode()
        odd_labels = [
            (b"a.b",),
            (b"\x00",),
            (b"\x00\x01\xff",),
            (b"\xff" * 63,),
            (b"x" * 63,),
            (b"*",),
            (b"*", b"a"),
            (b"a", b"*"),
            (b" ",),
            (b"\\",),
            (b'"',),
            (b"@",),
            (b"_sip", b"_tcp"),
            (b"xn--bcher-kva",),
            ("bücher".encode(),),
            (b"-",),
            (b"(;)",),
            (b"a",) * 40,
            (b"\xc0\x0c",),
            (b"127",),
        ]
        for labels in odd_labels:
            owner = self.owner(*labels)
            rtype = self.random.choice([A, AAAA, TXT, MX, NS, 65])
            self.add("names", owner, rtype, answer=self.rrset(owner, rtype))
        for rtype in (A, TXT):
            owner = Name([*long, *self.zone])
            self.add("names", owner, rtype, answer=self.rrset(owner, rtype))
        # Upper case in what the upstream says: it stays as it is.
        for rtype in (NS, MX, SRV, 12):
            owner = self.owner()
            shout = Name(label.upper() for label in self.zone.below(b"MiXed", number))
            parts = {NS: [shout], MX: [b"\0\1", shout], SRV: [b"\0" * 6, shout], 12: [shout]}[rtype]
            self.add(
                "names",
                owner,
                rtype,
                answer=[RR(owner, rtype, parts)],
                additional=[RR(shout, A, [self.data.ipv4()])],
            )
        # Names at the zone's top, which may be right below the root.
        for rtype in (A, NS, SOA, MX):
            self.add("names", self.zone, rtype, answer=self.rrset(self.zone, rtype))

    def aliases(self):
        """Chains."""
        for length in [1, 1, 2, 2, 3, 4, 6, 8, 10]:
            rtype = self.random.choice([A, AAAA, TXT, MX, 65, 65280])
            names = [self.owner() for _ in range(length + 1)]
            chain = [
                RR(one, CNAME, [two], self.random.randint(30, 900)) for one, two in zip(names, names[1:])
            ]
            # The end exists, has no such type, or does not exist.
            end = self.random.choice(["data", "data", "nodata", "nxdomain"])
            if end == "data" and rtype != 65280:
                self.add("aliases", names[0], rtype, answer=chain + self.rrset(names[-1], rtype))
            elif end == "data":
                self.add(
                    "aliases", names[0], rtype, answer=[*chain, RR(names[-1], rtype, [b"\xc0\x0c"])]
                )
            else:
                self.add(
                    "aliases",
                    names[0],
                    rtype,
                    answer=chain,
                    authority=[self.soa()],
                    rcode=NXDOMAIN if end == "nxdomain" else NOERROR,
                )
        for rtype in (CNAME, A, 65):
            owner, target = self.owner(), self.owner()
            self.add("aliases", owner, rtype, answer=[RR(owner, CNAME, [target])])
        owner = self.owner()
        self.add("aliases", owner, A, answer=[RR(owner, CNAME, [owner])])
        # DNAME, and the CNAME that is made of it (RFC 6672 section 3.1).
        for rtype in (A, TXT):
            top, other = self.owner(), self.owner()
            owner, target = top.below(b"www"), other.below(b"www")
            self.add(
                "aliases",
                owner,
                rtype,
                answer=[RR(top, DNAME, [other]), RR(owner, CNAME, [target]), *self.rrset(target, rtype)],
            )
        top, other = self.owner(), self.owner()
        self.add(
            "aliases",
            top.below(b"gone"),
            A,
            answer=[RR(top, DNAME, [other]), RR(top.below(b"gone"), CNAME, [other.below(b"gone")])],
            authority=[self.soa()],
            rcode=NXDOMAIN,
        )

    def sections(self):
        """Authority and additional sections beside an answer."""
        for rtype in [MX, SRV, NS, MX, SRV, 65]:
            owner, hosts = self.owner(), [self.owner() for _ in range(self.random.randint(1, 4))]
            front = {MX: [b"\0\x0a"], SRV: [b"\0\1\0\1\0\x35"], NS: [], 65: [b"\0\1"]}[rtype]
            answer = [RR(owner, rtype, [*front, host]) for host in hosts]
            glue = [
                RR(host, kind, self.data.of(kind, self.zone)) for host in hosts for kind in (A, AAAA)
            ]
            self.add("sections", owner, rtype, answer=answer, additional=glue)
        for rtype in (A, TXT, AAAA, 257):
            owner, servers = self.owner(), [self.owner() for _ in range(self.random.randint(1, 4))]
            self.add(
                "sections",
                owner,
                rtype,
                answer=self.rrset(owner, rtype),
                authority=[RR(self.zone, NS, [server]) for server in servers],
                additional=[RR(server, A, [self.data.ipv4()]) for server in servers],
            )
        # A referral, which a resolver should not give, and some do.
        for glue in (True, False):
            cut, server = self.owner(), self.owner()
            self.add(
                "referrals",
                cut.below(b"www"),
                A,
                authority=[RR(cut, NS, [server])],
                additional=[RR(server, A, [self.data.ipv4()])] if glue else [],
            )
        # What has nothing to do with the question.
        owner = self.owner()
        self.add(
            "sections",
            owner,
            A,
            answer=self.rrset(owner, A),
            additional=[
                RR(self.owner(), TXT, [string(b"unasked")]),
                RR(self.owner(), 65280, [b"\xc0\x0c"]),
            ],
        )
        owner = self.owner()
        self.add("sections", owner, A, answer=[*self.rrset(owner, A), *self.rrset(self.owner(), A)])
        owner = self.owner()
        self.add("sections", owner, A, answer=[*self.rrset(owner, A), *self.rrset(owner, TXT)])
        for _ in range(2):
            owner = self.owner()
            kinds = self.random.sample([A, AAAA, TXT, MX, 257, 65, 65280], 4)
            mixed = [
                RR(owner, kind, self.data.of(kind, self.zone) if kind != 65280 else [b"\xc0\x0c"])
                for kind in kinds
            ]
            self.add("sections", owner, ANY, answer=mixed)
        owner = self.owner()
        twice = self.rrset(owner, A, 1)
        self.add("sections", owner, A, answer=twice + twice)

    def negatives(self):
        """What is not there."""
        for rcode in (NOERROR, NXDOMAIN):
            for rtype in (A, TXT, 65, 65280):
                self.add(
                    "negative",
                    self.owner(),
                    rtype,
                    rcode=rcode,
                    authority=[
                        self.soa(
                            self.random.choice([0, 5, 300, 90_000]), self.random.choice([0, 60, 3600])
                        )
                    ],
                )
            self.add("negative", self.owner(), A, rcode=rcode)
            self.add(
                "negative",
                self.owner(),
                A,
                rcode=rcode,
                authority=[self.soa(), RR(self.zone, NS, [self.owner()])],
            )
            soa, denial = self.soa(), RR(self.owner(), NSEC, [self.owner(), bitmap(16, 46, 47)], 300)
            self.add(
                "negative",
                self.owner(),
                A,
                rcode=rcode,
                authority=[soa],
                secure=True,
                signed=((), (self.signature([soa]), denial, self.signature([denial])), ()),
            )
            hashed = [
                RR(
                    self.owner(b"0p9mhaveqvm6t7vbl5lop2u3t2rp3tom"),
                    NSEC3,
                    self.data.of(NSEC3, self.zone),
                )
                for _ in "ab"
            ]
            self.add(
                "negative",
                self.owner(),
                A,
                rcode=rcode,
                authority=[soa],
                secure=True,
                signed=((), (self.signature([soa]), *hashed), ()),
            )

    def flagged(self):
        """The bits of the header."""
        for word in (RA, 0, RA | AA, AA, RA | AD, RA | AA | AD, RA | Z, RA | AA | AD | Z):
            owner = self.owner()
            self.add("flags", owner, A, answer=self.rrset(owner, A), flags=word)
        for secure in (True, True, True, False):
            owner = self.owner()
            self.add("flags", owner, A, answer=self.rrset(owner, A), secure=secure)
            owner = self.owner()
            self.add("bogus", owner, A, answer=self.rrset(owner, A), bogus=secure)

    def signed(self):
        """What only those who set DO are told, and what is asked for by its type."""
        for rtype in (A, TXT, MX, 65, 52, 65280, SOA):
            owner = self.owner()
            records = self.rrset(owner, rtype) if rtype != 65280 else [RR(owner, rtype, [b"\xc0\x0c"])]
            self.add(
                "signed",
                owner,
                rtype,
                answer=records,
                secure=True,
                signed=((self.signature(records),), (), ()),
            )
        for rtype in (RRSIG, NSEC, NSEC3, NSEC3PARAM, DNSKEY, DS, 59, 60):
            owner = self.owner()
            records = self.rrset(owner, rtype)
            more = () if rtype == RRSIG else (self.signature(records),)
            self.add("signed", owner, rtype, answer=records, secure=True, signed=(more, (), ()))
        owner, target = self.owner(), self.owner()
        chain, end = [RR(owner, CNAME, [target])], self.rrset(target, A)
        self.add(
            "signed",
            owner,
            A,
            answer=chain + end,
            secure=True,
            signed=((self.signature(chain), self.signature(end)), (), ()),
        )
        owner, server = self.owner(), self.owner()
        records, servers = self.rrset(owner, A), [RR(self.zone, NS, [server])]
        glue = [RR(server, A, [self.data.ipv4()])]
        self.add(
            "signed",
            owner,
            A,
            answer=records,
            authority=servers,
            additional=glue,
            secure=True,
            signed=((self.signature(records),), (self.signature(servers),), (self.signature(glue),)),
        )

    def naughty(self):
        """An upstream that gives DNSSEC records to everybody."""
        for rtype in (A, TXT, 65):
            owner = self.owner()
            records = self.rrset(owner, rtype)
            self.add("unasked DNSSEC", owner, rtype, answer=[*records, self.signature(records)])
            owner, soa = self.owner(), self.soa()
            denial = RR(owner, NSEC, [self.owner(), bitmap(46, 47)])
            self.add(
                "unasked DNSSEC",
                owner,
                rtype,
                authority=[soa, self.signature([soa]), denial, self.signature([denial])],
            )
        owner = self.owner()
        hashed = RR(self.owner(), NSEC3, self.data.of(NSEC3, self.zone))
        self.add("unasked DNSSEC", owner, A, authority=[hashed, self.soa()], rcode=NXDOMAIN)

    def options(self):
        """What may stand in an OPT, and where."""
        errors = [
            (3, b""),
            (4, b"forged"),
            (15, b"blocked"),
            (17, "gefiltert: ü".encode()),
            (22, b""),
            (49152, b"private"),
            (18, b"x" * 200),
        ]
        for ede in errors:
            owner = self.owner()
            self.add("EDE", owner, A, answer=self.rrset(owner, A), edes=[ede])
        for count in (2, 3):
            owner = self.owner()
            self.add(
                "EDE", owner, A, answer=self.rrset(owner, A), edes=self.random.sample(errors, count)
            )
        self.add(
            "EDE", self.owner(), A, rcode=NXDOMAIN, authority=[self.soa()], edes=[(15, b"on a list")]
        )
        self.add("EDE", self.owner(), TXT, authority=[self.soa()], edes=[(29, b"")])
        unknown = [
            [(65001, b"private")],
            [(12, bytes(200))],
            [(3, b"upstream")],
            [(65535, b"")],
            [(11, b"\0\x64")],
            [(8, b"\0\1\x18\x18\5\5\5")],
            [(10, b"c" * 8 + b"s" * 16)],
            [(65001, b"\xc0\x0c")] * 3,
        ]
        for extra in unknown:
            owner = self.owner()
            self.add("OPT", owner, A, answer=self.rrset(owner, A), options=extra)
        owner = self.owner()
        self.add(
            "OPT",
            owner,
            A,
            answer=self.rrset(owner, A),
            options=[(65001, b"x")],
            edes=[(15, b"behind none")],
        )
        for place in ("first", "middle", "last"):
            for compress in self.COMPRESSIONS[1:]:
                owner, host = self.owner(), self.owner()
                self.add(
                    "OPT",
                    owner,
                    MX,
                    answer=[RR(owner, MX, [b"\0\1", host])],
                    opt_place=place,
                    compress=compress,
                    additional=[
                        RR(host, A, [self.data.ipv4()]),
                        RR(host, AAAA, [self.data.ipv6()]),
                        RR(host, 65280, [b"\xc0\x0c"]),
                        RR(self.zone, MX, [b"\0\1", host]),
                    ],
                )
        for payload in (0, 512, 65_535):
            owner = self.owner()
            self.add("OPT", owner, A, answer=self.rrset(owner, A), payload=payload)
        owner = self.owner()
        self.add("OPT", owner, A, answer=self.rrset(owner, A), opt_ttl=0x4001)  # Z bits
        owner = self.owner()
        self.add("OPT", owner, A, answer=self.rrset(owner, A), opt_ttl=0x10000)  # version 1

    def ttls(self):
        """TTLs from nothing to more than there are."""
        for ttl in (
            0,
            1,
            59,
            86_400,
            86_401,
            604_801,
            0x7FFF_FFFF,
            0x8000_0000,
            0x8000_0001,
            0xFFFF_FFFF,
        ):
            owner = self.owner()
            self.add("TTLs", owner, A, answer=self.rrset(owner, A, 2, ttl))
        for _ in range(3):
            owner = self.owner()
            records = self.rrset(owner, TXT, 4)
            for record in records:
                record.ttl = self.random.choice([0, 30, 300, 0x7FFF_FFFF, 0xFFFF_FFFF])
            self.add("TTLs", owner, TXT, answer=records)

    def sizes(self):
        """Messages of all sizes."""
        targets = [
            500,
            512,
            513,
            1200,
            1221,
            1232,
            1233,
            1300,
            4000,
            4096,
            4097,
            16_000,
            16_500,
            40_000,
            MAX_MESSAGE_LEN,
        ]
        for target in self.random.sample(targets, 6):
            owner = self.owner()
            self.add("sizes", owner, TXT, compress="owner", answer=self.filled(owner, target, 250))
        owner = self.owner()
        self.add(
            "sizes",
            owner,
            A,
            compress="owner",
            answer=[
                RR(owner, A, [self.data.ipv4()]) for _ in range(self.random.choice([60, 900, 3000]))
            ],
        )
        owner = self.owner()
        servers = [self.owner() for _ in range(self.random.choice([20, 200, 500]))]
        self.add(
            "sizes",
            owner,
            NS,
            compress="full",
            answer=[RR(owner, NS, [server]) for server in servers],
            additional=[RR(server, A, [self.data.ipv4()]) for server in servers],
        )

    def filled(self, owner, target, piece):
        """TXT records that make a message with OPT exactly so long."""
        left = target - HEADER_LEN - len(owner.wire()) - 4 - 11
        records = []
        while left > 0:
            length = min(left - 12, piece + 1)
            # The last one takes what is left, unless that is too little for a record.
            if 0 < left - 12 - length < 14:
                length -= 20
            records.append(RR(owner, TXT, [string(self.data.bytes(length - 1))]))
            left -= 12 + length
        return records

    def addresses(self):
        """Addresses that a guard against rebinding would drop. There is none where only this host is served."""
        private = [
            "0.0.0.0",
            "10.0.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
        ]
        private += [
            "::",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "2002:a00:1::",
            "64:ff9b::a00:1",
        ]
        for text in private:
            family, rtype = (socket.AF_INET6, AAAA) if ":" in text else (socket.AF_INET, A)
            address = socket.inet_pton(family, text)
            owner = self.owner()
            self.add("addresses", owner, rtype, answer=[RR(owner, rtype, [address])])
            owner, alias = self.owner(), self.owner()
            answer = [RR(alias, CNAME, [owner]), RR(owner, rtype, [address]), *self.rrset(owner, rtype)]
            self.add("addresses", alias, rtype, answer=answer)
        owner, host = self.owner(), self.owner()
        answer, glue = [RR(owner, MX, [b"\0\1", host])], [RR(host, A, [bytes([10, 0, 0, 1])])]
        self.add("addresses", owner, MX, answer=answer, additional=glue)

    def classes(self):
        """Classes other than IN."""
        for rclass in (2, 3, 4, 254, 255, 0, 65_280):
            owner = self.owner()
            self.add(
                "classes",
                owner,
                A,
                answer=self.rrset(owner, A),
                additional=[RR(self.owner(), TXT, [string(b"odd")], 300, rclass)],
            )
        owner = self.owner()
        self.add(
            "classes",
            owner,
            TXT,
            answer=[RR(owner, TXT, [string(b"in")]), RR(owner, TXT, [string(b"ch")], 300, 3)],
        )


# ---------------------------------------------------------------------------------------------------
# Servers that are odd as a whole: each has its own address, since resolvers remember how a server is.


def edns_cases(zones, edns):
    """A server to which OPT means nothing, or an error."""
    zones.zone = name(f"e{edns}x{zones.random.randrange(1 << 32):08x}.fidelity.example")
    before = len(zones.cases)
    for rtype in (A, AAAA, TXT, MX, 65, 65280, SOA, 257, 52, NS):
        owner = zones.owner()
        records = zones.rrset(owner, rtype) if rtype != 65280 else [RR(owner, rtype, [b"\xc0\x0c"])]
        zones.add("without EDNS", owner, rtype, answer=records, edns=edns)
    zones.add("without EDNS", zones.owner(), A, rcode=NXDOMAIN, authority=[zones.soa()], edns=edns)
    zones.add("without EDNS", zones.owner(), A, authority=[zones.soa()], edns=edns)
    owner = zones.owner()
    zones.add("without EDNS", owner, TXT, answer=zones.filled(owner, 3000, 200), edns=edns)
    return zones.cases[before:]


def rcode_cases(zones):
    """A server that fails in every way."""
    zones.zone = name(f"rx{zones.random.randrange(1 << 32):08x}.fidelity.example")
    before = len(zones.cases)
    for rcode in [*range(1, 25), 255, 3841, 4095]:
        if rcode == NXDOMAIN:
            continue
        zones.add("RCODEs", zones.owner(), A, rcode=rcode)
        zones.add("RCODEs", zones.owner(), A, rcode=rcode, edes=[(23, b"because")])
        owner = zones.owner()
        zones.add("RCODEs", owner, A, rcode=rcode, answer=zones.rrset(owner, A))
        zones.add("RCODEs", zones.owner(), TXT, rcode=rcode, authority=[zones.soa()])
    for rcode in (FORMERR, SERVFAIL, NOTIMP, REFUSED):
        bare = lambda wire: wire[:4] + bytes(8)
        zones.add("bare headers", zones.owner(), A, rcode=rcode, mangle=bare)
    return zones.cases[before:]


def malformed_cases(zones):
    """A server that sends what is no message, or none to this question."""
    zones.zone = name(f"mx{zones.random.randrange(1 << 32):08x}.fidelity.example")
    before = len(zones.cases)

    def patch(at, new):
        return lambda wire: wire[:at] + new + wire[at + len(new) :]

    def question_end(wire):
        return read_name(wire, HEADER_LEN)[1] + 4

    def owner_of_first(new):
        return lambda wire: wire[: question_end(wire)] + new + wire[question_end(wire) + 2 :]

    changes = {
        "cut short in a record": lambda wire: wire[:-15],
        "cut short in the header": lambda wire: wire[:9],
        "more answers announced": patch(6, b"\0\x09"),
        "very many announced": patch(6, b"\xff\xff"),
        "an owner that points at itself": lambda wire: owner_of_first(
            struct.pack("!H", 0xC000 | question_end(wire))
        )(wire),
        "an owner that points forward": owner_of_first(b"\xc0\xff"),
        "an owner that points into the header": owner_of_first(b"\xc0\x02"),
        "an owner with a label of an unknown kind": owner_of_first(b"\x80\x0c"),
        "two OPT records": lambda wire: patch(10, b"\0\2")(wire) + b"\0\0\x29\4\xd0" + bytes(6),
        "record data that is longer than the message": lambda wire: patch(
            question_end(wire) + 10, b"\xff\xff"
        )(wire),
    }
    for what, change in changes.items():
        owner = zones.owner()
        zones.add(
            f"malformed: {what}",
            owner,
            A,
            compress="owner",
            mangle=change,
            is_malformed=True,
            answer=[RR(owner, A, [zones.data.ipv4()])],
        )
    # These can be read, and are.
    owner = zones.owner()
    zones.add(
        "trailing bytes",
        owner,
        A,
        compress="owner",
        mangle=lambda wire: wire + b"garbage",
        answer=[RR(owner, A, [zones.data.ipv4()])],
    )
    return zones.cases[before:]
