//! The messages of the DHT: KRPC (BEP 5), mutable items (BEP 44), the requester's address (BEP 42).

use std::net::SocketAddrV4;
use std::sync::Arc;

use ed25519_dalek::{Signature, VerifyingKey};

use crate::bencode::{Dictionary, Value, Writer};
use crate::table::Id;

/// The largest value of an item, in bytes (BEP 44). Nodes differ in whether the bencoding counts;
/// the `mainline` crate, and this simulator, do not count it.
pub const MAX_VALUE: usize = 1000;

/// The largest salt (BEP 44); salts up to it are refused too, but with another error.
const MAX_SALT: usize = 64;

/// What a reply has of a node that it names: id, address and port (BEP 5).
const NODE_INFO: usize = 26;

/// A mutable item without a salt (BEP 44), whose value is a byte string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The Ed25519 public key.
    pub key: [u8; 32],
    /// The signature over `seq` and `value`. Items that are stored directly need not have a valid one.
    pub signature: [u8; 64],
    /// The sequence number.
    pub seq: i64,
    /// The byte string, not bencoded; at most [`MAX_VALUE`] bytes.
    pub value: Vec<u8>,
}

impl Item {
    /// Where the item is stored: SHA-1 of the key (BEP 44).
    pub fn target(&self) -> [u8; 20] {
        target(&self.key)
    }

    /// Whether the signature is one of the key over `seq` and `value` (BEP 44).
    pub fn is_signed(&self) -> bool {
        let mut writer = Writer::default();
        writer.bytes(b"seq").integer(self.seq);
        writer.bytes(b"v").bytes(&self.value);
        let key = VerifyingKey::from_bytes(&self.key);
        let signature = Signature::from_bytes(&self.signature);
        key.is_ok_and(|key| {
            ed25519_dalek::Verifier::verify(&key, &writer.finish(), &signature).is_ok()
        })
    }
}

/// SHA-1 of a key, under which its items are stored.
pub(crate) fn target(key: &[u8; 32]) -> [u8; 20] {
    sha1_smol::Sha1::from(key).digest().bytes()
}

/// A request, as far as it could be read.
#[derive(Debug, PartialEq)]
pub(crate) struct Request<'a> {
    /// The transaction id, of any length, to be echoed.
    pub(crate) transaction: &'a [u8],
    /// What is asked, or what is wrong with it.
    pub(crate) query: Result<Query<'a>, Refusal>,
}

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Query<'a> {
    Ping,
    FindNode { target: Id },
    GetPeers { target: Id },
    Get { target: Id, seq: Option<i64> },
    Put(Put<'a>),
}

/// A request to store an item.
#[derive(Debug, PartialEq)]
pub(crate) struct Put<'a> {
    pub(crate) item: Item,
    pub(crate) token: &'a [u8],
    pub(crate) cas: Option<i64>,
}

/// An error reply: its code (BEP 5, BEP 44) and text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Refusal(pub(crate) i64, pub(crate) &'static str);

impl Refusal {
    pub(crate) const FULL: Self = Self(202, "no room for another item");
    pub(crate) const TOKEN: Self = Self(203, "wrong token");
    const ARGUMENTS: Self = Self(203, "missing or malformed argument");
    const SALT: Self = Self(203, "items with a salt are not simulated");
    const METHOD: Self = Self(204, "unknown method");
    const VALUE_TOO_BIG: Self = Self(205, "v is too big");
    pub(crate) const SIGNATURE: Self = Self(206, "wrong signature");
    const SALT_TOO_BIG: Self = Self(207, "salt is too big");
    pub(crate) const CAS: Self = Self(301, "cas is not the current seq");
    pub(crate) const SEQ: Self = Self(302, "seq is not above the current one");
}

impl<'a> Request<'a> {
    /// Reads a datagram. `None` is to be met with silence: replies to nobody, and whatever has no
    /// transaction id to answer under.
    pub(crate) fn read(datagram: &'a [u8]) -> Option<Self> {
        let message = Dictionary::read(datagram)?;
        if message.bytes("y")? != b"q" {
            return None;
        }
        Some(Self {
            transaction: message.bytes("t")?,
            query: Query::read(&message),
        })
    }
}

impl<'a> Query<'a> {
    fn read(message: &Dictionary<'a>) -> Result<Self, Refusal> {
        let method = message.bytes("q").ok_or(Refusal::ARGUMENTS)?;
        let Some(Value::Dictionary(arguments)) = message.get("a") else {
            return Err(Refusal::ARGUMENTS);
        };
        let id = |name: &str| arguments.array(name).ok_or(Refusal::ARGUMENTS);
        // Every request names its sender (BEP 5). Tables are not learned, so nobody looks at it.
        id("id")?;
        Ok(match method {
            b"ping" => Self::Ping,
            b"find_node" => Self::FindNode {
                target: Id::from(id("target")?),
            },
            b"get_peers" => Self::GetPeers {
                target: Id::from(id("info_hash")?),
            },
            b"get" => Self::Get {
                target: Id::from(id("target")?),
                seq: optional_integer(arguments, "seq")?,
            },
            b"put" => Self::Put(Put::read(arguments)?),
            _ => return Err(Refusal::METHOD),
        })
    }
}

impl<'a> Put<'a> {
    fn read(arguments: &Dictionary<'a>) -> Result<Self, Refusal> {
        let salt = arguments.bytes("salt").unwrap_or_default();
        if salt.len() > MAX_SALT {
            return Err(Refusal::SALT_TOO_BIG);
        }
        if !salt.is_empty() {
            return Err(Refusal::SALT);
        }
        let value = arguments.bytes("v").ok_or(Refusal::ARGUMENTS)?;
        if value.len() > MAX_VALUE {
            return Err(Refusal::VALUE_TOO_BIG);
        }
        let item = Item {
            key: arguments.array("k").ok_or(Refusal::ARGUMENTS)?,
            signature: arguments.array("sig").ok_or(Refusal::ARGUMENTS)?,
            seq: arguments.integer("seq").ok_or(Refusal::ARGUMENTS)?,
            value: value.to_vec(),
        };
        Ok(Self {
            item,
            token: arguments.bytes("token").ok_or(Refusal::ARGUMENTS)?,
            cas: optional_integer(arguments, "cas")?,
        })
    }
}

/// An argument that may be missing, but not be of another kind.
fn optional_integer(arguments: &Dictionary<'_>, name: &str) -> Result<Option<i64>, Refusal> {
    match arguments.get(name) {
        None => Ok(None),
        Some(Value::Integer(number)) => Ok(Some(*number)),
        Some(Value::Bytes(_) | Value::List | Value::Dictionary(_)) => Err(Refusal::ARGUMENTS),
    }
}

/// What a reply may carry besides the id of its sender.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    /// Nodes near the target.
    pub(crate) nodes: Option<Vec<(Id, SocketAddrV4)>>,
    /// What allows the requester to put.
    pub(crate) token: Option<[u8; 8]>,
    /// The item, or its `seq` alone.
    pub(crate) item: Option<Shown>,
}

/// How much of an item a reply shows.
#[derive(Debug)]
pub(crate) enum Shown {
    /// All of it.
    Whole(Arc<Item>),
    /// Its `seq`, since the requester has this version or a newer one (BEP 44).
    SeqAlone(i64),
}

impl Reply {
    /// The datagram for the requester at `to`, from the node `id`.
    pub(crate) fn write(&self, id: Id, transaction: &[u8], to: SocketAddrV4) -> Vec<u8> {
        let (whole, seq) = match &self.item {
            Some(Shown::Whole(item)) => (Some(item), Some(item.seq)),
            Some(Shown::SeqAlone(seq)) => (None, Some(*seq)),
            None => (None, None),
        };
        let mut writer = Writer::default();
        writer.raw("d").bytes(b"ip").bytes(&compact(to));
        writer.bytes(b"r").raw("d");
        writer.bytes(b"id").bytes(&id.bytes());
        if let Some(item) = whole {
            writer.bytes(b"k").bytes(&item.key);
        }
        if let Some(nodes) = &self.nodes {
            let mut infos = Vec::with_capacity(nodes.len() * NODE_INFO);
            for (id, address) in nodes {
                infos.extend_from_slice(&id.bytes());
                infos.extend_from_slice(&compact(*address));
            }
            writer.bytes(b"nodes").bytes(&infos);
        }
        if let Some(seq) = seq {
            writer.bytes(b"seq").integer(seq);
        }
        if let Some(item) = whole {
            writer.bytes(b"sig").bytes(&item.signature);
        }
        if let Some(token) = &self.token {
            writer.bytes(b"token").bytes(token);
        }
        if let Some(item) = whole {
            writer.bytes(b"v").bytes(&item.value);
        }
        writer.raw("e").bytes(b"t").bytes(transaction);
        writer.bytes(b"y").bytes(b"r").raw("e");
        writer.finish()
    }
}

impl Refusal {
    /// The datagram for the requester at `to`.
    pub(crate) fn write(self, transaction: &[u8], to: SocketAddrV4) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.raw("d").bytes(b"e").raw("l");
        writer.integer(self.0).bytes(self.1.as_bytes()).raw("e");
        writer.bytes(b"ip").bytes(&compact(to));
        writer.bytes(b"t").bytes(transaction);
        writer.bytes(b"y").bytes(b"e").raw("e");
        writer.finish()
    }
}

/// Address and port in six bytes (BEP 5).
fn compact(address: SocketAddrV4) -> [u8; 6] {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [a, b, c, d, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "2:id20:abcdefghij0123456789";

    fn read(text: &str) -> Result<Query<'_>, Refusal> {
        let request = Request::read(text.as_bytes()).unwrap();
        assert_eq!(request.transaction, b"aa");
        request.query
    }

    #[test]
    fn the_requests_of_bep_5_are_read() {
        let target = Id::from(*b"mnopqrstuvwxyz123456");
        let ping = format!("d1:ad{ID}e1:q4:ping1:t2:aa1:y1:qe");
        assert_eq!(read(&ping), Ok(Query::Ping));
        let find = format!("d1:ad{ID}6:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe");
        assert_eq!(read(&find), Ok(Query::FindNode { target }));
        let peers =
            format!("d1:ad{ID}9:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe");
        assert_eq!(read(&peers), Ok(Query::GetPeers { target }));
        let get = format!(
            "d1:ad{ID}3:seqi5e6:target20:mnopqrstuvwxyz123456e1:q3:get1:t2:aa1:y1:q4:spam2:xxe"
        );
        let seq = Some(5);
        assert_eq!(read(&get), Ok(Query::Get { target, seq }));
    }

    #[test]
    fn bad_requests_have_the_error_of_their_kind() {
        for (request, code) in [
            ("d1:q4:ping1:t2:aa1:y1:qe".to_owned(), 203),
            ("d1:ade1:q4:ping1:t2:aa1:y1:qe".to_owned(), 203),
            ("d1:ad2:id3:abce1:q4:ping1:t2:aa1:y1:qe".to_owned(), 203),
            (format!("d1:ad{ID}e1:t2:aa1:y1:qe"), 203),
            (format!("d1:ad{ID}e1:q4:vote1:t2:aa1:y1:qe"), 204),
            (format!("d1:ad{ID}e1:q9:find_node1:t2:aa1:y1:qe"), 203),
            (
                format!("d1:ad{ID}6:target3:abce1:q3:get1:t2:aa1:y1:qe"),
                203,
            ),
            (
                format!("d1:ad{ID}3:seq1:56:target20:mnopqrstuvwxyz123456e1:q3:get1:t2:aa1:y1:qe"),
                203,
            ),
            (format!("d1:ad{ID}e1:q3:put1:t2:aa1:y1:qe"), 203),
            (
                format!("d1:ad{ID}4:salt1:x1:v1:xe1:q3:put1:t2:aa1:y1:qe"),
                203,
            ),
            (
                format!(
                    "d1:ad{ID}4:salt65:{}e1:q3:put1:t2:aa1:y1:qe",
                    "x".repeat(65)
                ),
                207,
            ),
            (
                format!(
                    "d1:ad{ID}1:v1001:{}e1:q3:put1:t2:aa1:y1:qe",
                    "x".repeat(1001)
                ),
                205,
            ),
        ] {
            let Refusal(got, _) = read(&request).unwrap_err();
            assert_eq!(got, code, "{request}");
        }
    }

    #[test]
    fn what_cannot_be_answered_is_no_request() {
        for datagram in [
            "",
            "GET / HTTP/1.1\r\n",
            "d1:t2:aa1:y1:re",
            "d1:rd2:id20:abcdefghij0123456789e1:t2:aa1:y1:re",
            "d1:q4:ping1:y1:qe",
            "d1:q4:ping1:t2:aae",
        ] {
            assert_eq!(Request::read(datagram.as_bytes()), None, "{datagram}");
        }
    }

    #[test]
    fn the_signature_of_the_bep_44_test_vector_holds_and_any_change_breaks_it() {
        let bytes = |hex: &str| -> Vec<u8> {
            let pairs = (0..hex.len()).step_by(2);
            pairs
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect()
        };
        let item = Item {
            key: bytes("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548")
                .try_into()
                .unwrap(),
            signature: bytes(
                "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff\
                 1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
            )
            .try_into()
            .unwrap(),
            seq: 1,
            value: b"Hello World!".to_vec(),
        };
        assert!(item.is_signed());
        let target = bytes("4a533d47ec9c7d95b1ad75f576cffc641853b750");
        assert_eq!(item.target().to_vec(), target);
        let newer = Item {
            seq: 2,
            ..item.clone()
        };
        assert!(!newer.is_signed());
        let other = Item {
            value: b"Hello world!".to_vec(),
            ..item
        };
        assert!(!other.is_signed());
    }

    #[test]
    fn replies_have_their_keys_in_order() {
        let item = Item {
            key: [b'k'; 32],
            signature: [b's'; 64],
            seq: -3,
            value: b"vv".to_vec(),
        };
        let id = Id::from([b'i'; 20]);
        let to = SocketAddrV4::new([127, 1, 2, 3].into(), 0x4142);
        let reply = Reply {
            nodes: Some(vec![(Id::from([b'n'; 20]), to)]),
            token: Some(*b"tokentok"),
            item: Some(Shown::Whole(Arc::new(item))),
        };
        let (k, s) = ("k".repeat(32), "s".repeat(64));
        let (i, n) = ("i".repeat(20), "n".repeat(20));
        let at = "\x7f\x01\x02\x03AB";
        let expected = format!(
            "d2:ip6:{at}1:rd2:id20:{i}1:k32:{k}5:nodes26:{n}{at}3:seqi-3e3:sig64:{s}\
             5:token8:tokentok1:v2:vve1:t5:trans1:y1:re"
        );
        let written = reply.write(id, b"trans", to);
        assert_eq!(String::from_utf8_lossy(&written), expected);
        let expected = format!("d1:eli204e14:unknown methode2:ip6:{at}1:t0:1:y1:ee");
        let written = Refusal::METHOD.write(b"", to);
        assert_eq!(String::from_utf8_lossy(&written), expected);
    }
}
