//! Bencode (BEP 3), as much of it as requests and replies need.

use std::io::Write;

/// How deep dictionaries and lists may nest: a request needs two levels, its `v` may need a few more.
/// The reader recurses, so without a limit a datagram could exhaust the stack.
const MAX_DEPTH: usize = 16;

/// A value that borrows from the datagram.
#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// A byte string.
    Bytes(&'a [u8]),
    /// An integer of 64 bits.
    Integer(i64),
    /// A list; no request has one whose contents matter here.
    List,
    /// A dictionary.
    Dictionary(Dictionary<'a>),
}

/// A dictionary, its entries in the order they came in.
#[derive(Debug, PartialEq)]
pub(crate) struct Dictionary<'a>(Vec<(&'a [u8], Value<'a>)>);

impl<'a> Dictionary<'a> {
    /// Reads a datagram, which must be one dictionary and nothing more.
    pub(crate) fn read(datagram: &'a [u8]) -> Option<Self> {
        let mut rest = datagram;
        match value(&mut rest, 0)? {
            Value::Dictionary(dictionary) if rest.is_empty() => Some(dictionary),
            Value::Dictionary(_) | Value::Bytes(_) | Value::Integer(_) | Value::List => None,
        }
    }

    /// The value of the first entry with that key.
    pub(crate) fn get(&self, key: &str) -> Option<&Value<'a>> {
        let entry = self.0.iter().find(|(name, _)| *name == key.as_bytes());
        entry.map(|(_, value)| value)
    }

    /// The byte string of that key; `None` for any other kind of value.
    pub(crate) fn bytes(&self, key: &str) -> Option<&'a [u8]> {
        match self.get(key)? {
            Value::Bytes(bytes) => Some(bytes),
            Value::Integer(_) | Value::List | Value::Dictionary(_) => None,
        }
    }

    /// The byte string of that key, if it has exactly `N` bytes.
    pub(crate) fn array<const N: usize>(&self, key: &str) -> Option<[u8; N]> {
        self.bytes(key)?.try_into().ok()
    }

    /// The integer of that key; `None` for any other kind of value.
    pub(crate) fn integer(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Value::Integer(number) => Some(*number),
            Value::Bytes(_) | Value::List | Value::Dictionary(_) => None,
        }
    }
}

/// Reads one value and moves `rest` behind it.
fn value<'a>(rest: &mut &'a [u8], depth: usize) -> Option<Value<'a>> {
    if depth > MAX_DEPTH {
        return None;
    }
    match rest.first()? {
        b'i' => {
            take(rest, 1)?;
            number(rest, b'e').map(Value::Integer)
        }
        b'l' => {
            take(rest, 1)?;
            while rest.first()? != &b'e' {
                value(rest, depth + 1)?;
            }
            take(rest, 1)?;
            Some(Value::List)
        }
        b'd' => {
            take(rest, 1)?;
            let mut entries = Vec::new();
            while rest.first()? != &b'e' {
                let key = byte_string(rest)?;
                entries.push((key, value(rest, depth + 1)?));
            }
            take(rest, 1)?;
            Some(Value::Dictionary(Dictionary(entries)))
        }
        _ => byte_string(rest).map(Value::Bytes),
    }
}

fn byte_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest, b':')?).ok()?;
    take(rest, length)
}

/// Reads decimal digits, a minus sign allowed, up to `end`.
fn number(rest: &mut &[u8], end: u8) -> Option<i64> {
    let length = rest.iter().position(|byte| *byte == end)?;
    let digits = take(rest, length)?;
    take(rest, 1)?;
    if digits.first() == Some(&b'+') {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// Writes a message from its parts; the caller keeps the keys of a dictionary in order.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

/// What most replies fit into: eight nodes and no value.
const USUAL_REPLY: usize = 512;

impl Default for Writer {
    fn default() -> Self {
        Self(Vec::with_capacity(USUAL_REPLY))
    }
}

impl Writer {
    pub(crate) fn raw(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        // Writing to a vector cannot fail.
        let _ = write!(self.0, "{}:", bytes.len());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn integer(&mut self, number: i64) -> &mut Self {
        let _ = write!(self.0, "i{number}e");
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_gives_its_entries_by_kind() {
        let read =
            Dictionary::read(b"d1:ad2:id4:abcde1:lli1e1:xe1:ni-7e1:s3:\x00\x01\xffe").unwrap();
        assert_eq!(read.integer("n"), Some(-7));
        assert_eq!(read.bytes("s"), Some(&[0, 1, 255][..]));
        assert_eq!(read.array::<3>("s"), Some([0, 1, 255]));
        assert_eq!(read.array::<4>("s"), None);
        assert_eq!(read.bytes("n"), None);
        assert_eq!(read.integer("s"), None);
        assert_eq!(read.get("l"), Some(&Value::List));
        let Some(Value::Dictionary(inner)) = read.get("a") else {
            panic!("{read:?}");
        };
        assert_eq!(inner.bytes("id"), Some(&b"abcd"[..]));
    }

    #[test]
    fn what_is_not_one_whole_dictionary_is_refused() {
        for wrong in [
            &b""[..],
            b"d",
            b"de ",
            b"i1e",
            b"le",
            b"4:spam",
            b"d1:a",
            b"d1:a5:spame",
            b"d1:a-1:e",
            b"d1:a+1:xe",
            b"d1:ai+1ee",
            b"d1:aiee",
            b"d1:ai99999999999999999999ee",
            b"d1:a99999999999999999999:e",
            b"di1ei2ee",
            b"d1:ae",
        ] {
            let read = Dictionary::read(wrong);
            assert_eq!(read, None, "{}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn nesting_is_read_up_to_the_limit_and_refused_beyond() {
        let nested = |depth: usize| {
            let text = format!("d1:a{}{}e", "l".repeat(depth), "e".repeat(depth));
            Dictionary::read(text.as_bytes()).is_some()
        };
        assert!(nested(MAX_DEPTH));
        assert!(!nested(MAX_DEPTH + 1));
        assert!(!nested(1_000_000));
    }

    #[test]
    fn what_the_writer_writes_the_reader_reads() {
        let mut writer = Writer::default();
        writer.raw("d").bytes(b"k").bytes(&[b'e'; 300]);
        writer.bytes(b"n").integer(i64::MIN).raw("e");
        let written = writer.finish();
        let read = Dictionary::read(&written).unwrap();
        assert_eq!(read.bytes("k"), Some(&[b'e'; 300][..]));
        assert_eq!(read.integer("n"), Some(i64::MIN));
    }
}
