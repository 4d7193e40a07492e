//! The text of a secret key file, as the reference tools write it: the 32 bytes of the Ed25519 seed
//! (RFC 8032 section 5.1.5) in hexadecimal.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

/// Bytes of a seed.
const SEED_LEN: usize = 32;

/// Why a text is no secret key. It tells nothing of what the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretKeyError {
    /// Another number of characters.
    #[error(
        "a secret key file has 64 hexadecimal digits, the 32 bytes of an Ed25519 seed; this one has \
         {0} characters"
    )]
    Length(usize),
    /// A character that is no digit, counted from 1.
    #[error(
        "a secret key file has 64 hexadecimal digits, the 32 bytes of an Ed25519 seed; character {0} \
         of this one is no such digit"
    )]
    Digit(usize),
}

/// Reads the text of a secret key file, as `pkbridge keygen` and the reference tools write it. Space around the
/// digits does not count.
///
/// ```
/// use pkbridge::pkarr::{SigningKey, read_secret_key, secret_key_text};
///
/// // Of 32 bytes from the system's random number generator, in earnest.
/// let secret = SigningKey::from_bytes(&[0xab; 32]);
/// let text = secret_key_text(&secret);
/// assert_eq!(*text, "ab".repeat(32) + "\n");
/// assert_eq!(read_secret_key(text.as_bytes())?, secret);
/// # Ok::<(), pkbridge::pkarr::SecretKeyError>(())
/// ```
///
/// # Errors
/// If it is not 64 hexadecimal digits.
pub fn read_secret_key(text: &[u8]) -> Result<SigningKey, SecretKeyError> {
    let digits = text.trim_ascii();
    let leading = text.len() - text.trim_ascii_start().len();
    if let Some(at) = digits.iter().position(|digit| !digit.is_ascii_hexdigit()) {
        return Err(SecretKeyError::Digit(leading + at + 1));
    }
    if digits.len() != 2 * SEED_LEN {
        return Err(SecretKeyError::Length(digits.len()));
    }
    let mut seed = Zeroizing::new([0; SEED_LEN]);
    let decoded = HEXLOWER_PERMISSIVE.decode_mut(digits, seed.as_mut_slice());
    decoded.map_err(|partial| SecretKeyError::Digit(leading + partial.error.position + 1))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// The text of a secret key file: 64 hexadecimal digits in lower case and an end of line, which the
/// reference tools pass over. It is cleared from memory when it is dropped.
pub fn secret_key_text(secret: &SigningKey) -> Zeroizing<String> {
    let seed = Zeroizing::new(secret.to_bytes());
    // With room for all, so that nothing is copied when it grows.
    let mut text = Zeroizing::new(String::with_capacity(2 * SEED_LEN + 1));
    HEXLOWER.encode_append(seed.as_slice(), &mut text);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let secret = SigningKey::from_bytes(&std::array::from_fn(|at| (at * 9) as u8));
        let text = secret_key_text(&secret);
        assert_eq!(text.len(), 65);
        assert!(text.starts_with("0009121b242d363f48"), "{}", *text);
        assert_eq!(read_secret_key(text.as_bytes()), Ok(secret));
    }

    #[test]
    fn both_cases_and_space_around_it() {
        let secret = SigningKey::from_bytes(&[0xab; 32]);
        for text in [
            "ab".repeat(32),
            "AB".repeat(32),
            "\r\n aB".trim().repeat(32),
        ] {
            assert_eq!(read_secret_key(text.as_bytes()), Ok(secret.clone()));
            let spaced = format!("\n {text}\r\n");
            assert_eq!(read_secret_key(spaced.as_bytes()), Ok(secret.clone()));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_telling_it() {
        let refused = |text: &str| read_secret_key(text.as_bytes()).unwrap_err();
        assert_eq!(refused(""), SecretKeyError::Length(0));
        assert_eq!(refused(&"ab".repeat(31)), SecretKeyError::Length(62));
        assert_eq!(refused(&"ab".repeat(33)), SecretKeyError::Length(66));
        assert_eq!(
            refused(&format!(" {}", "ab".repeat(31) + "ax")),
            SecretKeyError::Digit(65)
        );
        let error = refused(&format!("{}z", "5ec7e7".repeat(10)));
        assert!(!error.to_string().contains("5ec7e7"), "{error}");
    }
}
