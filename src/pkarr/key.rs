//! Ed25519 public keys and their spelling as a DNS label: z-base-32, 52 characters.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{SigningKey, VerifyingKey};

/// The digits of z-base-32, in the order of their values.
pub const Z32_ALPHABET: &[u8; 32] = b"ybndrfg8ejkmcpqxot1uwisza345h769";
/// Characters of a key: 52 times 5 bits hold its 256 bits and leave 4 over.
pub const Z32_LEN: usize = 52;

/// An Ed25519 public key that is a point on the curve and of no small order. It is a domain: the records that
/// its owner signs stand at and below it.
///
/// ```
/// use pkbridge::pkarr::{KeyError, PublicKey};
///
/// let text = "ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno";
/// let key: PublicKey = text.parse()?;
/// assert_eq!(key.to_string(), text);
/// assert_eq!(format!("pk:{text}").parse(), Ok(key));
/// assert_eq!(PublicKey::from_label(text.to_uppercase().as_bytes()), Ok(key));
/// assert_eq!("example".parse::<PublicKey>(), Err(KeyError::Spelling));
/// # Ok::<(), KeyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Why something is not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 52 characters of the z-base-32 alphabet.
    #[error("not 52 characters of z-base-32")]
    Spelling,
    /// The four bits that are left over are not zero, so this is a second spelling of another label.
    #[error("not the canonical spelling of a key: it must end in y or o")]
    NotCanonical,
    /// The bytes are no point on the curve.
    #[error("not a point on the Ed25519 curve")]
    NotOnCurve,
    /// The key has small order: a signature under it proves nothing.
    #[error("a weak key, for which anybody can sign")]
    Weak,
}

impl PublicKey {
    /// Takes 32 bytes that are a usable key.
    ///
    /// # Errors
    /// If they are no point on the curve, or one of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotOnCurve)?;
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        Ok(Self(*bytes))
    }

    /// Reads the label of a key. Letter case does not matter, as DNS has none; only the canonical
    /// spelling counts.
    ///
    /// # Errors
    /// If the label is not that of a usable key.
    pub fn from_label(label: &[u8]) -> Result<Self, KeyError> {
        if label.len() != Z32_LEN {
            return Err(KeyError::Spelling);
        }
        let mut bytes = Vec::with_capacity(33);
        let (mut bits, mut held) = (0_u32, 0_u32);
        for &character in label {
            let value = z32_value(character).ok_or(KeyError::Spelling)?;
            bits = (bits << 5) | value;
            held += 5;
            if held >= 8 {
                held -= 8;
                bytes.push(u8::try_from(bits >> held).map_err(|_| KeyError::Spelling)?);
                bits &= (1 << held) - 1;
            }
        }
        if bits != 0 {
            return Err(KeyError::NotCanonical);
        }
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Spelling)?;
        Self::from_bytes(&bytes)
    }

    /// Whether a label has the form of a key: exactly 52 characters of the alphabet, in any case.
    /// Such a label is never somebody else's to see, even when it is no key.
    pub fn is_key_like(label: &[u8]) -> bool {
        label.len() == Z32_LEN && label.iter().all(|&c| z32_value(c).is_some())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key as `ed25519_dalek` uses it.
    pub(super) fn verifying_key(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(&self.0).ok()
    }
}

/// The public half of a secret key. It is never weak: the secret scalar is a multiple of 8 between 2^254
/// and 2^255 (RFC 8032 section 5.1.5), and none of these is one of the group's order.
impl From<&SigningKey> for PublicKey {
    fn from(secret: &SigningKey) -> Self {
        Self(secret.verifying_key().to_bytes())
    }
}

/// z-base-32, 52 characters, lower case.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(Z32_LEN);
        let (mut bits, mut held) = (0_u32, 0_u32);
        for &byte in &self.0 {
            bits = (bits << 8) | u32::from(byte);
            held += 8;
            while held >= 5 {
                held -= 5;
                text.push(z32_digit(bits >> held));
                bits &= (1 << held) - 1;
            }
        }
        text.push(z32_digit(bits << (5 - held)));
        f.write_str(&text)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads a key as people write it: a leading `pk:` is taken off.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_label(text.strip_prefix("pk:").unwrap_or(text).as_bytes())
    }
}

fn z32_value(character: u8) -> Option<u32> {
    let character = character.to_ascii_lowercase();
    let index = Z32_ALPHABET.iter().position(|&digit| digit == character)?;
    u32::try_from(index).ok()
}

fn z32_digit(value: u32) -> char {
    usize::try_from(value)
        .ok()
        .and_then(|index| Z32_ALPHABET.get(index))
        .map_or('y', |&digit| char::from(digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_vectors() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/z32.json")).unwrap();
        let canonical = file["vectors"][0]["label"].as_str().unwrap();
        let key = PublicKey::from_label(canonical.as_bytes()).unwrap();
        assert_eq!(key.to_string(), canonical);
        for vector in file["vectors"].as_array().unwrap() {
            let name = vector["name"].as_str().unwrap();
            let label = vector["label"].as_str().unwrap().as_bytes();
            let expected = match name {
                "canonical" | "uppercase" | "mixed_case" => Ok(key),
                "not_on_curve" => Err(KeyError::NotOnCurve),
                "all_y" | "identity_point" => Err(KeyError::Weak),
                _ if name.starts_with("noncanonical") => Err(KeyError::NotCanonical),
                _ => Err(KeyError::Spelling),
            };
            assert_eq!(PublicKey::from_label(label), expected, "{name}");
            let key_like = !matches!(expected, Err(KeyError::Spelling));
            assert_eq!(PublicKey::is_key_like(label), key_like, "{name}");
        }
    }

    #[test]
    fn a_key_written_by_people() {
        let text = "ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno";
        let key: PublicKey = format!("pk:{text}").parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(text.parse(), Ok(key));
    }
}
