//! Which nodes hold what of a key: they are asked one by one, since the library tells what was found, and not
//! where.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use mainline::MutableItem;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::pkarr::{PublicKey, SignedPacket};
use crate::resolve::packets::Sighting;

/// Nodes that are asked, the nearest first: as many as the library puts an item on at least.
const MAX_ASKED: usize = 20;
/// How often a node that does not answer is asked.
const ROUNDS: usize = 2;
/// How long each of these rounds waits.
const ROUND_TIME: Duration = Duration::from_secs(1);
/// Longest datagram that is read: an item has 1,000 bytes, and what surrounds it a few hundred.
const MAX_REPLY: usize = 2048;

/// A node that was asked what it holds of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Where it is.
    pub address: SocketAddrV4,
    /// What it holds.
    pub holds: Holds,
}

/// What a node holds of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holds {
    /// An item that the key has signed.
    Item(Sighting),
    /// What the key has not signed, and why it is refused.
    Refused(String),
    /// No item.
    Nothing,
    /// It has not answered.
    Unknown,
}

impl Holds {
    /// What a node's reply to a `get` for a key says (BEP 44).
    // For the fuzz target: a stranger has written it.
    #[doc(hidden)]
    pub fn read(key: PublicKey, reply: &[u8]) -> Self {
        let Some(values) = entry(reply, b"r") else {
            return Self::Refused("it answers with an error".to_owned());
        };
        let Some(value) = entry(values, b"v") else {
            return Self::Nothing;
        };
        match item(key, values, value) {
            Ok(sighting) => Self::Item(sighting),
            Err(reason) => Self::Refused(reason),
        }
    }
}

/// Asks the nodes nearest to a key, which come first, what they hold of it.
///
/// # Errors
/// If there is no socket.
pub(super) async fn ask(key: PublicKey, nodes: &[SocketAddrV4]) -> std::io::Result<Vec<Holder>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let asker: [u8; 20] = rand::random();
    // Random, so that nobody else can answer for a node.
    let nearest = nodes.iter().take(MAX_ASKED);
    let asked: Vec<(SocketAddrV4, [u8; 4])> = nearest.map(|node| (*node, rand::random())).collect();
    let mut told: HashMap<SocketAddrV4, Holds> = HashMap::new();
    let mut buffer = vec![0; MAX_REPLY];
    for _ in 0..ROUNDS {
        for (node, transaction) in &asked {
            if !told.contains_key(node) {
                // One that cannot be sent to does not answer.
                let _ = socket.send_to(&get(key, &asker, transaction), node).await;
            }
        }
        let deadline = Instant::now() + ROUND_TIME;
        while told.len() < asked.len()
            && let Ok(received) = timeout_at(deadline, socket.recv_from(&mut buffer)).await
        {
            // An error tells that a node's port is closed (ICMP).
            let Ok((length, std::net::SocketAddr::V4(from))) = received else {
                continue;
            };
            let reply = buffer.get(..length).unwrap_or_default();
            let transaction = string(reply, b"t");
            let is_asked = |(node, own): &(SocketAddrV4, [u8; 4])| {
                *node == from && transaction == Some(own.as_slice())
            };
            if asked.iter().any(is_asked) {
                told.insert(from, Holds::read(key, reply));
            }
        }
    }
    let holder = |(address, _)| Holder {
        address,
        holds: told.remove(&address).unwrap_or(Holds::Unknown),
    };
    Ok(asked.into_iter().map(holder).collect())
}

/// The query `get` of BEP 44, from a node that answers none itself (BEP 43).
fn get(key: PublicKey, asker: &[u8; 20], transaction: &[u8; 4]) -> Vec<u8> {
    let target = MutableItem::target_from_key(key.as_bytes(), None);
    [
        b"d1:ad2:id20:".as_slice(),
        asker,
        b"6:target20:",
        target.as_bytes(),
        b"e1:q3:get2:roi1e1:t4:",
        transaction,
        b"1:y1:qe",
    ]
    .concat()
}

fn item(key: PublicKey, values: &[u8], value: &[u8]) -> Result<Sighting, String> {
    let (dns, _) = split_string(value).ok_or("the value is no byte string")?;
    let seq = entry(values, b"seq").and_then(integer);
    let seq = seq.ok_or("it has no seq, or one below zero")?;
    let signature = string(values, b"sig");
    let signature = signature.and_then(|bytes| <&[u8; 64]>::try_from(bytes).ok());
    let signature = signature.ok_or("it has no signature of 64 bytes")?;
    let verified = SignedPacket::verify(key, signature, seq, dns);
    Sighting::of(seq, verified).map_err(|error| error.to_string())
}

/// The value of a dictionary's key, bencoded (BEP 3).
fn entry<'b>(dictionary: &'b [u8], key: &[u8]) -> Option<&'b [u8]> {
    let mut rest = dictionary.strip_prefix(b"d")?;
    loop {
        let (name, after) = split_string(rest)?;
        let (value, after) = split_value(after)?;
        if name == key {
            return Some(value);
        }
        rest = after;
    }
}

/// The same of a key whose value is a byte string.
fn string<'b>(dictionary: &'b [u8], key: &[u8]) -> Option<&'b [u8]> {
    entry(dictionary, key)
        .and_then(split_string)
        .map(|(text, _)| text)
}

fn integer(value: &[u8]) -> Option<u64> {
    let digits = value.strip_prefix(b"i")?.strip_suffix(b"e")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The byte string at the beginning, and what follows.
fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let (length, rest) = bytes.split_at_checked(colon)?;
    let length = std::str::from_utf8(length).ok()?.parse().ok()?;
    rest.get(1..)?.split_at_checked(length)
}

/// The value at the beginning, and what follows. Without recursion: a stranger says how deep it is.
fn split_value(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    let mut depth = 0_usize;
    loop {
        rest = match rest.first()? {
            b'l' | b'd' => {
                depth += 1;
                rest.get(1..)?
            }
            b'e' => {
                depth = depth.checked_sub(1)?;
                rest.get(1..)?
            }
            b'i' => {
                let end = rest.iter().position(|byte| *byte == b'e')?;
                rest.get(end + 1..)?
            }
            _ => split_string(rest)?.1,
        };
        if depth == 0 {
            return bytes.split_at_checked(bytes.len() - rest.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::pkarr::SigningKey;

    fn secret() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    fn key() -> PublicKey {
        PublicKey::from_bytes(&secret().verifying_key().to_bytes()).unwrap()
    }

    fn reply(transaction: &[u8], values: &[u8]) -> Vec<u8> {
        let mut reply = b"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaa".to_vec();
        reply.extend_from_slice(values);
        reply.extend_from_slice(b"e1:t4:");
        reply.extend_from_slice(transaction);
        reply.extend_from_slice(b"1:y1:re");
        reply
    }

    /// The keys of a reply that a node gives for an item.
    fn values(packet: &SignedPacket, seq: u64) -> Vec<u8> {
        let mut values = format!("3:seqi{seq}e3:sig64:").into_bytes();
        values.extend_from_slice(packet.signature());
        values.extend_from_slice(format!("1:v{}:", packet.dns().len()).as_bytes());
        values.extend_from_slice(packet.dns());
        values
    }

    #[test]
    fn replies_are_verified_and_told_apart() {
        let packet = SignedPacket::sign(&secret(), 5, &[0; 12]).unwrap();
        let held = |values: &[u8]| Holds::read(key(), &reply(b"1234", values));
        let good = Holds::Item(Sighting::Packet(packet.clone()));
        assert_eq!(held(&values(&packet, 5)), good);
        let refused = |reason: &str| Holds::Refused(reason.to_owned());
        let forged = held(&values(&packet, 6));
        assert_eq!(forged, refused("the signature is not valid"));
        assert_eq!(held(b"5:token2:ab"), Holds::Nothing);
        assert_eq!(held(b"1:vi5e"), refused("the value is no byte string"));
        let unsigned = held(b"3:seqi1e1:v2:ab");
        assert_eq!(unsigned, refused("it has no signature of 64 bytes"));
        let error = Holds::read(key(), b"d1:eli203e5:Sorrye1:t4:12341:y1:ee");
        assert_eq!(error, refused("it answers with an error"));
    }

    #[test]
    fn what_is_no_bencode_is_nothing_and_ends() {
        let deep = [b"d1:r".as_slice(), &b"l".repeat(2000)].concat();
        for bytes in [
            b"".as_slice(),
            b"d",
            b"de",
            b"d1:r",
            b"d1:ri5",
            b"d1:r9999999999999999999999:",
            b"d1:r99:ab",
            b"d1:r-1:ab",
            &deep,
        ] {
            assert_eq!(entry(bytes, b"r"), None, "{}", bytes.escape_ascii());
        }
        assert_eq!(
            entry(b"d1:ad1:rle1:xi-7ee1:ri8ee", b"r"),
            Some(b"i8e".as_slice())
        );
    }

    /// A node that has a packet, one that answers under another transaction, and one that is silent.
    #[tokio::test]
    async fn a_node_is_believed_only_with_its_own_transaction() {
        let packet = SignedPacket::sign(&secret(), 5, &[0; 12]).unwrap();
        let mut nodes = Vec::new();
        for number in 0..3 {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let Ok(SocketAddr::V4(address)) = socket.local_addr() else {
                panic!();
            };
            nodes.push(address);
            let packet = packet.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 2048];
                loop {
                    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                    let query = &buffer[..length];
                    assert_eq!(string(query, b"q"), Some(b"get".as_slice()));
                    let transaction = string(query, b"t").unwrap().to_vec();
                    let reply = match number {
                        0 => reply(&transaction, &values(&packet, 5)),
                        1 => reply(b"0000", &values(&packet, 5)),
                        _ => continue,
                    };
                    socket.send_to(&reply, from).await.unwrap();
                }
            });
        }
        let holders = ask(key(), &nodes).await.unwrap();
        let holds: Vec<_> = holders.into_iter().map(|holder| holder.holds).collect();
        let good = Holds::Item(Sighting::Packet(packet));
        assert_eq!(holds, [good, Holds::Unknown, Holds::Unknown]);
    }
}
