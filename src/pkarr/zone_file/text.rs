//! What stands in the words of a zone file: texts with escapes, names, numbers, times.

use hickory_proto::rr::Name;

use super::ZoneFileError;
use super::lexer::Word;

/// Longest TTL, in seconds (RFC 2181 section 8).
const MAX_TTL: u32 = (1 << 31) - 1;
/// Longest part of a word in a message, in characters.
const MAX_SHOWN: usize = 60;

impl Word<'_> {
    pub(super) fn error(&self, message: impl Into<String>) -> ZoneFileError {
        self.place.error(message)
    }

    /// The word in quotes, safe to print, for messages.
    pub(super) fn shown(&self) -> String {
        let text = String::from_utf8_lossy(self.raw);
        let mut shown: String = text.chars().take(MAX_SHOWN).collect();
        if shown.len() < text.len() {
            shown += "...";
        }
        format!("{shown:?}")
    }

    /// The word as plain ASCII: numbers, mnemonics, addresses; nothing is escaped in these.
    pub(super) fn plain(&self) -> Option<&str> {
        let text = std::str::from_utf8(self.raw).ok()?;
        (text.is_ascii() && !text.contains('\\')).then_some(text)
    }

    /// A number. `what` it is goes into the message.
    pub(super) fn number<N: TryFrom<u32>>(&self, max: u32) -> Result<N, ZoneFileError> {
        let text = self.plain().filter(|_| !self.is_quoted);
        let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        digits
            .and_then(|digits| digits.parse().ok())
            .filter(|number| *number <= max)
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| {
                let shown = self.shown();
                self.error(format!("{shown} is no number from 0 to {max}"))
            })
    }

    /// Seconds, also as `1h30m` (BIND's form).
    pub(super) fn time(&self) -> Result<u32, ZoneFileError> {
        self.plain()
            .filter(|_| !self.is_quoted)
            .and_then(time)
            .ok_or_else(|| {
                let shown = self.shown();
                self.error(format!(
                    "{shown} is no time; write seconds up to {MAX_TTL}, or such as 1h30m"
                ))
            })
    }

    /// The bytes of a text, without its escapes.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, ZoneFileError> {
        unescaped(self.raw).ok_or_else(|| self.bad_escape())
    }

    pub(super) fn bad_escape(&self) -> ZoneFileError {
        self.error("a backslash before digits stands for a byte: three digits, from \\000 to \\255")
    }

    /// A name: `@` is the origin, and one without a final dot is completed by it.
    pub(super) fn name(&self, origin: &Name) -> Result<Name, ZoneFileError> {
        let shown = self.shown();
        if self.is_quoted {
            return Err(self.error(format!("{shown} is a name, which has no quotes")));
        }
        if self.raw == b"@" {
            return Ok(origin.clone());
        }
        if self.raw == b"." {
            return Ok(Name::root());
        }
        if !self.raw.is_ascii() {
            return Err(self.error(format!(
                "{shown} is not ASCII; write an internationalised name in its form xn--..."
            )));
        }
        let (mut labels, is_absolute) = labels(self.raw).ok_or_else(|| self.bad_escape())?;
        if !is_absolute {
            labels.extend(origin.iter().map(<[u8]>::to_vec));
        }
        let name = match labels.iter().all(|label| !label.is_empty()) {
            true => Name::from_labels(labels.iter().map(Vec::as_slice)).ok(),
            false => None,
        };
        let mut name = name.ok_or_else(|| {
            self.error(format!(
                "{shown} is no domain name: labels have 1 to 63 bytes, and a name 255 with what \
                 completes it"
            ))
        })?;
        name.set_fqdn(true);
        Ok(name)
    }
}

/// A byte of a text, and how many bytes of the file it takes; `None` is a bad escape.
fn next_byte(raw: &[u8]) -> Option<(u8, usize)> {
    match raw {
        [b'\\', a, rest @ ..] if a.is_ascii_digit() => {
            let [b, c, ..] = rest else { return None };
            let digits = [*a, *b, *c];
            let is_number = digits.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(&digits).ok()?.parse().ok()?;
            is_number.then_some((number, 4))
        }
        [b'\\', escaped, ..] => Some((*escaped, 2)),
        [b'\\'] | [] => None,
        [byte, ..] => Some((*byte, 1)),
    }
}

/// A text without its escapes (RFC 1035 section 5.1).
pub(super) fn unescaped(mut raw: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(raw.len());
    while !raw.is_empty() {
        let (byte, length) = next_byte(raw)?;
        bytes.push(byte);
        raw = raw.get(length..)?;
    }
    Some(bytes)
}

/// The labels of a name without escapes, and whether it ends in a dot.
fn labels(mut raw: &[u8]) -> Option<(Vec<Vec<u8>>, bool)> {
    let mut labels = Vec::new();
    let mut label = Vec::new();
    let mut is_absolute = false;
    while let [first, ..] = raw {
        is_absolute = *first == b'.';
        if is_absolute {
            labels.push(std::mem::take(&mut label));
            raw = raw.get(1..)?;
        } else {
            let (byte, length) = next_byte(raw)?;
            label.push(byte);
            raw = raw.get(length..)?;
        }
    }
    if !is_absolute {
        labels.push(label);
    }
    Some((labels, is_absolute))
}

/// Seconds: a number, or numbers with the units s, m, h, d, w.
pub(super) fn time(text: &str) -> Option<u32> {
    let mut sum = 0_u32;
    let mut number = None::<u32>;
    let mut has_unit = false;
    for character in text.chars() {
        if let Some(digit) = character.to_digit(10) {
            number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(digit)?);
            continue;
        }
        let unit = match character.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        has_unit = true;
        sum = sum.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    let time = match number {
        // `1h30` is a slip of the pen.
        Some(_) if has_unit => return None,
        Some(number) => number,
        None => has_unit.then_some(sum)?,
    };
    (time <= MAX_TTL).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_and_without_units() {
        for (text, seconds) in [
            ("0", Some(0)),
            ("3600", Some(3600)),
            ("1h30m", Some(5400)),
            ("1W2D3H4M5S", Some(788_645)),
            ("2147483647", Some(2_147_483_647)),
            ("2147483648", None),
            ("99999999999", None),
            ("9999999w", None),
            ("", None),
            ("h", None),
            ("1h30", None),
            ("1x", None),
        ] {
            assert_eq!(time(text), seconds, "{text}");
        }
    }

    #[test]
    fn escapes_stand_for_bytes() {
        for (raw, bytes) in [
            ("plain", Some(&b"plain"[..])),
            ("a\\.b\\\\\\\"", Some(b"a.b\\\"")),
            ("\\000\\255x", Some(b"\x00\xffx")),
            ("\\256", None),
            ("\\12", None),
            ("\\1x2", None),
        ] {
            assert_eq!(unescaped(raw.as_bytes()).as_deref(), bytes, "{raw}");
        }
    }
}
