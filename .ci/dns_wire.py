"""DNS messages as bytes.

No DNS library: it would refuse, or tidy up, half of what is to be shown here.
"""

import struct
from dataclasses import dataclass

HEADER_LEN = 12
MAX_MESSAGE_LEN = 65_535
QR, AA, TC, RD, RA, Z, AD, CD = 0x8000, 0x400, 0x200, 0x100, 0x80, 0x40, 0x20, 0x10
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
A, NS, CNAME, SOA, MX, TXT, AAAA, SRV, NAPTR, DNAME = 1, 2, 5, 6, 15, 16, 28, 33, 35, 39
OPT, DS, RRSIG, NSEC, DNSKEY, NSEC3, NSEC3PARAM, ANY = 41, 43, 46, 47, 48, 50, 51, 255
IN = 1
EDE = 15
# What only those who asked for DNSSEC get, unless they asked for the type (RFC 4035 section 3.2.1).
DNSSEC_TYPES = {RRSIG, NSEC, NSEC3}
# Where the names in record data are: (bytes before, names), for the types whose names a sender may
# compress and a receiver has to expand (RFC 1035 section 3.3, RFC 3597 section 4).
RFC1035_NAMES = {rtype: (0, 1) for rtype in (2, 3, 4, 5, 7, 8, 9, 12)} | {
    6: (0, 2),
    14: (0, 2),
    15: (2, 1),
}
RFC3597_NAMES = RFC1035_NAMES | {rtype: (2, 1) for rtype in (18, 21, 36)}
# RP, SIG, PX, NXT, SRV, DNAME.
RFC3597_NAMES |= {17: (0, 2), 24: (18, 1), 26: (2, 2), 30: (0, 1), SRV: (6, 1), DNAME: (0, 1)}


class Malformed(Exception):
    """Bytes that are no DNS message."""


class Name(tuple):
    """A name: its labels."""

    def wire(self):
        """Uncompressed bytes."""
        return b"".join(bytes([len(label)]) + label for label in self) + b"\0"

    def lower(self):
        """As it is compared (RFC 4343)."""
        return Name(label.lower() for label in self)

    def below(self, *labels):
        """A name with further labels in front."""
        return Name(labels + tuple(self))

    def __str__(self):
        """For people: RFC 1035 section 5.1."""
        plain = lambda byte: (
            chr(byte) if 0x21 <= byte <= 0x7E and byte not in b'."\\' else f"\\{byte:03}"
        )
        return "".join("".join(map(plain, label)) + "." for label in self) or "."


ROOT = Name()


def name(text):
    """A name without escapes."""
    return Name(label.encode() for label in text.split(".") if label)


def read_name(message, at):
    """The name at a place, and where it ends."""
    labels, end, jumps = [], None, 0
    while True:
        if at >= len(message):
            raise Malformed("a name is cut short")
        length = message[at]
        if length >= 0xC0:
            if at + 1 >= len(message) or jumps > 127:
                raise Malformed("a bad pointer")
            end = end or at + 2
            at, jumps = (length & 0x3F) << 8 | message[at + 1], jumps + 1
        elif length > 63:
            raise Malformed("a label of an unknown kind")
        elif length == 0:
            return Name(labels), end or at + 1
        else:
            labels.append(bytes(message[at + 1 : at + 1 + length]))
            at += 1 + length


@dataclass(frozen=True)
class Record:
    """A record as it is compared: names in the data of well-known types are expanded."""

    owner: Name
    rtype: int
    rclass: int
    ttl: int
    rdata: bytes

    def folded(self):
        """Without the TTL and letter case: what two resolvers can agree on."""
        return self.owner.lower().wire(), self.rtype, self.rclass, fold_rdata(self.rtype, self.rdata)

    def exact(self):
        """Without the TTL."""
        return self.owner.wire(), self.rtype, self.rclass, self.rdata

    def __str__(self):
        return f"{self.owner} {self.ttl} CLASS{self.rclass} TYPE{self.rtype} {self.rdata.hex() or '-'}"


def name_place(rtype, rdata, at=0):
    """Where names begin in record data, and how many they are."""
    if rtype == NAPTR:  # behind three strings
        place = at + 4
        for _ in range(3):
            if place >= len(rdata):
                return None
            place += 1 + rdata[place]
        return place, 1
    before, count = RFC3597_NAMES.get(rtype, (0, 0))
    return (at + before, count) if count else None


def expand(message, rtype, start, end):
    """Record data with its names written out; as it stands where it does not have its type's shape."""
    raw = bytes(message[start:end])
    place = name_place(rtype, message[:end], start)
    if place is None:
        return raw
    at, count = place
    out = bytes(message[start:at])
    try:
        for _ in range(count):
            found, at = read_name(message, at)
            out += found.wire()
    except Malformed:
        return raw
    return out + bytes(message[at:end]) if at <= end else raw


def fold_rdata(rtype, rdata):
    """Expanded record data with the names in lower case."""
    place = name_place(rtype, rdata)
    if place is None:
        return rdata
    at, count = place
    out = rdata[:at]
    try:
        for _ in range(count):
            found, at = read_name(rdata, at)
            out += found.lower().wire()
    except Malformed:
        return rdata
    return out + rdata[at:]


class Message:
    """A message that was received."""

    def __init__(self, wire):
        self.wire = wire
        if len(wire) < HEADER_LEN:
            raise Malformed("shorter than a header")
        self.id, self.flags, questions, *counts = struct.unpack_from("!6H", wire)
        at, self.questions = HEADER_LEN, []
        for _ in range(questions):
            asked, at = read_name(wire, at)
            self.questions.append((asked, *unpack("!2H", wire, at)))
            at += 4
        self.sections, self.opt, opts = [], None, 0
        for count in counts:
            records = []
            for _ in range(count):
                owner, at = read_name(wire, at)
                rtype, rclass, ttl, length = unpack("!2HIH", wire, at)
                start, at = at + 10, at + 10 + length
                if at > len(wire):
                    raise Malformed("record data is cut short")
                if rtype == OPT:
                    self.opt = Opt(rclass, ttl, wire[start:at])
                    opts += 1
                else:
                    records.append(Record(owner, rtype, rclass, ttl, expand(wire, rtype, start, at)))
            self.sections.append(records)
        self.trailing = wire[at:]
        if opts > 1:
            raise Malformed("two OPT records")

    @property
    def rcode(self):
        """All 12 bits."""
        return self.flags & 15 | (self.opt.ttl >> 24 << 4 if self.opt else 0)

    @property
    def edes(self):
        """Extended DNS Errors: code and text."""
        options = self.opt.options if self.opt else []
        decode = lambda data: (struct.unpack_from("!H", data)[0], data[2:].rstrip(b"\0"))
        return [decode(data) for code, data in options if code == EDE and len(data) >= 2]


class Opt:
    """An OPT record."""

    def __init__(self, payload, ttl, rdata):
        self.payload, self.ttl, self.options = payload, ttl, []
        at = 0
        while at < len(rdata):
            code, length = unpack("!2H", rdata, at)
            self.options.append((code, rdata[at + 4 : at + 4 + length]))
            at += 4 + length

    @property
    def dnssec_ok(self):
        """DO."""
        return bool(self.ttl & 0x8000)


def unpack(form, data, at):
    """As struct's, and malformed instead of its error."""
    try:
        return struct.unpack_from(form, data, at)
    except struct.error:
        raise Malformed("cut short") from None


class Writer:
    """A message that is being written, with as much compression as wanted."""

    def __init__(self, compress):
        self.wire = bytearray(HEADER_LEN)
        # Names of the question are found in any spelling, as servers do; others are kept apart.
        self.of_question, self.exact = {}, {}
        self.compress = compress

    def name(self, wanted, may_compress=True, is_question=False):
        """Writes a name."""
        for index in range(len(wanted)):
            rest = Name(wanted[index:])
            at = self.exact.get(rest, self.of_question.get(rest.lower()))
            if at is not None and may_compress and self.compress != "none" and not is_question:
                self.wire += struct.pack("!H", 0xC000 | at)
                return
            if len(self.wire) < 0x4000:
                table, key = (self.of_question, rest.lower()) if is_question else (self.exact, rest)
                table.setdefault(key, len(self.wire))
            self.wire += bytes([len(rest[0])]) + rest[0]
        self.wire += b"\0"

    def record(self, owner, rtype, rclass, ttl, parts):
        """Writes a record; `parts` of its data are bytes and names."""
        self.name(owner)
        self.wire += struct.pack("!2HIH", rtype, rclass, ttl & 0xFFFF_FFFF, 0)
        start = len(self.wire)
        known = {"full": RFC1035_NAMES, "old": {**RFC3597_NAMES, NAPTR: ()}}.get(self.compress, {})
        for part in parts:
            if isinstance(part, Name):
                if rtype in known:
                    self.name(part)
                else:
                    self.wire += part.wire()
            else:
                self.wire += part
        struct.pack_into("!H", self.wire, start - 2, len(self.wire) - start)


def query_wire(owner, rtype, ident=0, flags=RD, edns=None):
    """A query; `edns` is None, or the payload size and DO."""
    wire = struct.pack("!6H", ident, flags, 1, 0, 0, int(edns is not None))
    wire += owner.wire() + struct.pack("!2H", rtype, IN)
    if edns is not None:
        payload, dnssec_ok = edns
        wire += b"\0" + struct.pack("!2HIH", OPT, payload, 0x8000 if dnssec_ok else 0, 0)
    return wire
