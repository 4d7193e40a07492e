"""A DHT of libtorrent nodes on loopback, and a client of its wire protocol that can put packets signed
elsewhere.

libtorrent's own Python call signs by itself and counts `seq` up from what it finds, so a packet with a
given `seq` and signature is put by KRPC messages (BEP 5, BEP 44) made here: get, token, put.
"""

import hashlib
import os
import select
import socket
import time
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.name
import dns.rrset
import libtorrent as lt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"  # z-base-32
NODE_SETTINGS = {
    # Nothing outside: nobody to start from, no other ways to find peers.
    "dht_bootstrap_nodes": "",
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_dht": True,
    "allow_multiple_connections_per_ip": True,
    # All nodes are in one network and none has an id made from its address (BEP 42).
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_enforce_node_id": False,
    "dht_prefer_verified_node_ids": False,
    "dht_ignore_dark_internet": False,
    # By default 8,000 bytes a second leave a node: a few lookups on so small a network.
    "dht_upload_rate_limit": 100_000_000,
    "alert_mask": lt.alert.category_t.dht_notification,
}
# By default (5) a node that sends 50 messages within ten seconds is ignored for five minutes. On so
# small a network every lookup comes to every node.
BLOCK_RATE_LIMIT = 1_000_000
NEAREST = 8  # nodes that libtorrent puts an item on
REPLY_TIMEOUT = 2.0  # seconds for a node to answer, and for each of two tries
WINDOW = 48  # requests on the way at once; their replies fit the socket's buffer


def z32(key):
    """32 bytes in z-base-32, as they stand in a name."""
    bits = int.from_bytes(key, "big") << 4  # 52 characters are 260 bits
    return "".join(ALPHABET[bits >> 5 * at & 31] for at in reversed(range(52)))


@dataclass(frozen=True)
class Packet:
    """A signed packet: what a BEP 44 mutable item without salt carries."""

    key: bytes
    seq: int
    signature: bytes
    dns: bytes

    @property
    def name(self):
        """The public key as a label."""
        return z32(self.key)

    @property
    def target(self):
        """Where on the DHT it is."""
        return hashlib.sha1(self.key).digest()


class Secret:
    """A key pair made from a text, the same in each run."""

    def __init__(self, text):
        self.seed = hashlib.sha256(text.encode()).digest()
        self.private = Ed25519PrivateKey.from_private_bytes(self.seed)
        form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        self.public = self.private.public_key().public_bytes(*form)
        self.name = z32(self.public)

    def libtorrent_secret(self):
        """What libtorrent takes for a secret key: the scalar and the prefix (RFC 8032 section 5.1.5)."""
        expanded = bytearray(hashlib.sha512(self.seed).digest())
        expanded[0] &= 248
        expanded[31] = expanded[31] & 63 | 64
        return bytes(expanded)

    def message(self, records):
        """The DNS message of `(label, ttl, type, data)` records below the key; "" is the key itself."""
        message = dns.message.Message(id=0)
        message.flags = dns.flags.QR
        for label, ttl, rtype, data in records:
            owner = dns.name.from_text(f"{label}.{self.name}.".lstrip("."))
            message.answer.append(dns.rrset.from_text(owner, ttl, "IN", rtype, data))
        return message.to_wire()

    def sign(self, seq, message):
        """A packet of any bytes."""
        signed = b"3:seqi%de1:v%d:%b" % (seq, len(message), message)
        return Packet(self.public, seq, self.private.sign(signed), message)

    def packet(self, seq, records):
        """A packet of records."""
        return self.sign(seq, self.message(records))


@dataclass(frozen=True)
class Node:
    """A libtorrent session that is a DHT node."""

    session: lt.session
    address: tuple
    id: bytes


class Krpc:
    """Asks DHT nodes, many at a time. It answers nobody, and yet libtorrent takes whoever puts an item,
    "read-only" (BEP 43) or not, for a node and names it to others: one silent node, as real tables have.
    """

    # Nodes count by address who asks too much: never pkbridge's, and another for each of these.
    addresses = (f"127.0.65.{number}" for number in range(1, 255))

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((next(self.addresses), 0))
        self.socket.setblocking(False)
        self.id = os.urandom(20)
        self.last = 0
        self.largest = 0  # bytes of the largest reply so far

    def ask(self, requests):
        """Replies to `(address, method, arguments)`, each a dictionary, or None for a silent node."""
        replies = [None] * len(requests)
        for start in range(0, len(requests), WINDOW):
            window = range(start, min(start + WINDOW, len(requests)))
            for _ in range(2):
                silent = [at for at in window if replies[at] is None]
                self._ask(silent, requests, replies)
        return replies

    def _ask(self, window, requests, replies):
        waiting = {}
        for at in window:
            address, method, arguments = requests[at]
            self.last += 1
            transaction = self.last.to_bytes(4, "big")
            message = {b"t": transaction, b"y": b"q", b"q": method, b"ro": 1}
            message[b"a"] = {b"id": self.id, **arguments}
            self.socket.sendto(lt.bencode(message), address)
            waiting[transaction] = at
        deadline = time.monotonic() + REPLY_TIMEOUT
        while waiting and (left := deadline - time.monotonic()) > 0:
            if not select.select([self.socket], [], [], left)[0]:
                continue
            datagram, address = self.socket.recvfrom(65535)
            reply = lt.bdecode(datagram)
            at = waiting.get(reply.get(b"t"))
            if at is None or requests[at][0] != address:
                continue
            del waiting[reply[b"t"]]
            self.largest = max(self.largest, len(datagram))
            replies[at] = reply


class Network:
    """Some libtorrent DHT nodes that know each other, each at a loopback address of its own."""

    def __init__(self, nodes, settings=None):
        settings = {**NODE_SETTINGS, "dht_block_ratelimit": BLOCK_RATE_LIMIT, **(settings or {})}
        listen = [f"127.0.66.{number}" for number in range(1, nodes + 1)]
        sessions = [lt.session({**settings, "listen_interfaces": f"{ip}:0"}) for ip in listen]
        addresses = [(ip, session.listen_port()) for ip, session in zip(listen, sessions)]
        if not all(port for _, port in addresses):
            raise RuntimeError("a libtorrent session has no port")
        self.krpc = Krpc()
        for session in sessions:
            for address in addresses:
                if address[1] != session.listen_port():
                    session.add_dht_node(address)
        ids = self._wait_for_tables(addresses)
        self.nodes = [Node(*node) for node in zip(sessions, addresses, ids)]

    def _wait_for_tables(self, addresses):
        """Waits until each node names as many others as fit a reply; returns the nodes' ids."""
        deadline = time.monotonic() + 30
        full = min(NEAREST, len(addresses) - 1)
        while True:
            asked = [(address, b"find_node", {b"target": os.urandom(20)}) for address in addresses]
            replies = [(reply or {}).get(b"r", {}) for reply in self.krpc.ask(asked)]
            known = [len(reply.get(b"nodes", b"")) // 26 for reply in replies]
            if min(known) >= full:
                return [reply[b"id"] for reply in replies]
            if time.monotonic() > deadline:
                raise RuntimeError(f"the nodes did not find each other; they know {known}")
            time.sleep(0.05)

    def nearest(self, packet):
        """The nodes that a publisher would put it on."""
        target = int.from_bytes(packet.target, "big")
        distance = lambda node: int.from_bytes(node.id, "big") ^ target
        return sorted(self.nodes, key=distance)[:NEAREST]

    def get(self, pairs):
        """What `(packet, node)` pairs hold: the `r` of each reply."""
        asked = [(node.address, b"get", {b"target": packet.target}) for packet, node in pairs]
        return [(reply or {}).get(b"r", {}) for reply in self.krpc.ask(asked)]

    def try_put(self, pairs):
        """Puts each packet on its node; returns None for each that was taken, or the error."""
        puts = []
        for (packet, node), reply in zip(pairs, self.get(pairs)):
            arguments = {
                b"k": packet.key,
                b"seq": packet.seq,
                b"sig": packet.signature,
                b"token": reply.get(b"token", b""),
                b"v": packet.dns,
            }
            puts.append((node.address, b"put", arguments))
        return [reply.get(b"e") if reply else "silence" for reply in self.krpc.ask(puts)]

    def put(self, packets, nodes=None):
        """Puts packets on all of `nodes`, else each on those nearest to it."""
        pairs = [(packet, node) for packet in packets for node in nodes or self.nearest(packet)]
        refused = [error for error in self.try_put(pairs) if error]
        if refused:
            raise RuntimeError(f"{len(refused)} of {len(pairs)} puts were refused: {refused[0]}")

    def publish(self, secret, message):
        """Lets libtorrent sign and put; returns its alert about it, or None after ten seconds."""
        session = self.nodes[0].session
        session.pop_alerts()
        session.dht_put_mutable_item(secret.libtorrent_secret(), secret.public, message, b"")
        deadline = time.monotonic() + 10
        while (left := deadline - time.monotonic()) > 0:
            session.wait_for_alert(int(left * 1000))
            for alert in session.pop_alerts():
                if isinstance(alert, lt.dht_put_alert):
                    return alert
        return None

    def read(self, key, seq):
        """Lets libtorrent look for a key's item, by a node that publishes nothing; returns its alert about the
        item with this `seq`, or None after ten seconds."""
        session = self.nodes[-1].session
        session.pop_alerts()
        session.dht_get_mutable_item(key, b"")
        deadline = time.monotonic() + 10
        while (left := deadline - time.monotonic()) > 0:
            session.wait_for_alert(int(left * 1000))
            for alert in session.pop_alerts():
                # Its lookup goes on: where a silent node is near, for 15 seconds.
                if isinstance(alert, lt.dht_mutable_item_alert) and alert.seq == seq:
                    return alert
        return None

    def close(self):
        """Ends all nodes."""
        self.nodes = []
