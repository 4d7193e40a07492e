//! Data of types that few zones have.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use data_encoding::{BASE32HEX_NOPAD, BASE64, HEXLOWER_PERMISSIVE};

use super::ZoneFileError;
use super::lexer::Word;
use super::rdata::{Data, type_number};
use super::variables::{IPV4, IPV6};
use crate::pkarr::{days_of, months_of};

/// The equator, the prime meridian, and the altitude that is 100 km below the ellipsoid (RFC 1876 section 2).
const LOC_ZERO: u32 = 1 << 31;
const LOC_DEPTH: u64 = 10_000_000;
/// Size and precisions that are not written: 1 m, 10 km and 10 m (RFC 1876 section 3).
const LOC_SIZES: [u8; 3] = [0x12, 0x16, 0x13];

impl Data<'_> {
    /// RFC 4034 section 4.1.2: the types that are left, as bitmaps of 256 each.
    pub(super) fn read_types(&mut self) -> Result<(), ZoneFileError> {
        let mut windows = BTreeMap::<u8, [u8; 32]>::new();
        for word in self.take_rest() {
            let [window, low] = type_of(word)?.to_be_bytes();
            let bits = windows.entry(window).or_default();
            if let Some(byte) = bits.get_mut(usize::from(low / 8)) {
                *byte |= 0x80 >> (low % 8);
            }
        }
        for (window, bits) in windows {
            let last = bits.iter().rposition(|byte| *byte != 0);
            let used = bits.get(..=last.unwrap_or(0)).unwrap_or_default();
            // It is 32 at most.
            self.push(&[window, u8::try_from(used.len()).unwrap_or(u8::MAX)])?;
            self.push(used)?;
        }
        Ok(())
    }

    /// The name of a type, as its number.
    pub(super) fn read_type(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let number = type_of(&self.next(shown, "a type, such as A")?)?;
        self.push(&number.to_be_bytes())
    }

    /// RFC 4034 section 3.2: seconds, or YYYYMMDDHHmmSS.
    pub(super) fn read_date(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let word = self.next(shown, "a date such as 20261129120000")?;
        let text = word.plain().filter(|text| text.len() == 14);
        let seconds = match text.and_then(unix_time) {
            Some(seconds) => seconds,
            None => word.number(u32::MAX)?,
        };
        self.push(&seconds.to_be_bytes())
    }

    /// RFC 5155 section 3.3: hexadecimal, or `-` for none; with its length.
    pub(super) fn read_salt(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let word = self.next(shown, "a salt, or -")?;
        let text = word.plain().map(|text| if text == "-" { "" } else { text });
        let salt = text.and_then(|text| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok());
        let salt = salt.ok_or_else(|| wrong(&word, "is no salt in hexadecimal, or -"))?;
        self.push_with_length(&salt, &word)
    }

    /// RFC 5155 section 3.3: Base32 with the extended alphabet; with its length.
    pub(super) fn read_base32(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let word = self.next(shown, "a hash in Base32")?;
        let text = word.plain().map(str::to_ascii_uppercase);
        let hash = text.and_then(|text| BASE32HEX_NOPAD.decode(text.as_bytes()).ok());
        let hash = hash.filter(|hash| !hash.is_empty());
        let hash = hash.ok_or_else(|| wrong(&word, "is no hash in Base32 (0-9, A-V)"))?;
        self.push_with_length(&hash, &word)
    }

    /// RFC 6742: 64 bits in four groups of hexadecimal digits.
    pub(super) fn read_locator(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let word = self.next(shown, "64 bits such as 14:4fff:ff20:ee64")?;
        let groups = word.plain().unwrap_or_default().split(':');
        let is_group = |group: &&str| group.len() <= 4 && !group.starts_with('+');
        let groups: Option<Vec<u16>> = groups
            .map(|group| Some(group).filter(is_group))
            .map(|group| u16::from_str_radix(group?, 16).ok())
            .collect();
        let groups = groups.filter(|groups| groups.len() == 4);
        let groups = groups.ok_or_else(|| wrong(&word, "is not such as 14:4fff:ff20:ee64"))?;
        groups
            .iter()
            .try_for_each(|group| self.push(&group.to_be_bytes()))
    }

    /// RFC 3123 section 5: `[!]family:address/prefix`, any number of them.
    pub(super) fn read_prefixes(&mut self) -> Result<(), ZoneFileError> {
        for word in self.take_rest() {
            let item = word.plain().and_then(prefix);
            let item = item.ok_or_else(|| {
                wrong(
                    word,
                    "is no prefix such as 1:192.0.2.0/24 or !2:2001:db8::/32",
                )
            })?;
            self.push(&item)?;
        }
        Ok(())
    }

    /// RFC 4025 section 3.1: precedence, gateway type, algorithm, gateway, key.
    pub(super) fn read_ipseckey(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        self.read_u8(shown)?;
        let word = self.next(shown, "the type of its gateway, 0 to 3")?;
        let kind: u8 = word.number(3)?;
        self.push(&[kind])?;
        let algorithm = self.next(shown, "the algorithm of its key, 0 for none")?;
        let algorithm: u8 = algorithm.number(255)?;
        self.push(&[algorithm])?;
        match kind {
            0 => {
                let word = self.next(shown, "its gateway: . for none")?;
                if word.raw != b"." {
                    return Err(wrong(&word, "is a gateway, and type 0 has none; write ."));
                }
            }
            1 => {
                let address: Ipv4Addr = self.literal_address(shown, &IPV4)?;
                self.push(&address.octets())?;
            }
            2 => {
                let address: Ipv6Addr = self.literal_address(shown, &IPV6)?;
                self.push(&address.octets())?;
            }
            _ => self.read_name(shown)?,
        }
        match algorithm {
            0 => Ok(()),
            _ => self.read_base64(shown),
        }
    }

    /// RFC 8005 section 6: algorithm, HIT, key, rendezvous servers.
    pub(super) fn read_hip(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let algorithm: u8 = self.next(shown, "the algorithm of its key")?.number(255)?;
        let word = self.next(shown, "a host identity tag in hexadecimal")?;
        let tag = HEXLOWER_PERMISSIVE.decode(word.raw).ok();
        let tag = tag.filter(|tag| !tag.is_empty());
        let tag = tag.ok_or_else(|| wrong(&word, "is no host identity tag in hexadecimal"))?;
        let tag_length = u8::try_from(tag.len()).map_err(|_| wrong(&word, "is too long"))?;
        let word = self.next(shown, "a key in Base64, in one word")?;
        let key = BASE64.decode(word.raw).ok().filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| wrong(&word, "is no key in Base64"))?;
        let key_length = u16::try_from(key.len()).map_err(|_| wrong(&word, "is too long"))?;
        self.push(&[tag_length, algorithm])?;
        self.push(&key_length.to_be_bytes())?;
        self.push(&tag)?;
        self.push(&key)?;
        while !self.is_at_end() {
            self.read_name(shown)?;
        }
        Ok(())
    }

    /// RFC 1876 section 3: latitude, longitude, altitude, and three sizes that may be left out.
    pub(super) fn read_loc(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let latitude = self.read_angle(shown, 90, ["N", "S"])?;
        let longitude = self.read_angle(shown, 180, ["E", "W"])?;
        let word = self.next(shown, "an altitude such as 10m")?;
        let altitude = word.plain().and_then(altitude);
        let altitude = altitude.ok_or_else(|| wrong(&word, "is no altitude such as -12.5m"))?;
        let mut sizes = LOC_SIZES;
        for size in &mut sizes {
            if self.is_at_end() {
                break;
            }
            let word = self.next(shown, "a size")?;
            let read = word.plain().and_then(size_in_meters);
            *size = read.ok_or_else(|| wrong(&word, "is no size such as 30m, up to 90000000m"))?;
        }
        self.push(&[0])?;
        self.push(&sizes)?;
        for number in [latitude, longitude, altitude] {
            self.push(&number.to_be_bytes())?;
        }
        Ok(())
    }

    /// Degrees, minutes and seconds up to the letter of a direction, in thousandths of a second.
    fn read_angle(
        &mut self,
        shown: &str,
        max_degrees: u64,
        [plus, minus]: [&str; 2],
    ) -> Result<u32, ZoneFileError> {
        let what = format!("degrees, minutes and seconds, and {plus} or {minus}");
        let mut milliseconds = 0;
        // What one of each is, how many there may be, and their decimals.
        let parts = [(3_600_000, max_degrees, 0), (60_000, 59, 0), (1, 59_999, 3)];
        let mut parts = parts.into_iter();
        loop {
            let word = self.next(shown, &what)?;
            let text = word.plain().unwrap_or_default();
            let fault = || {
                wrong(
                    &word,
                    &format!("is not as wanted: {what}, such as 52 22 23.5 {plus}"),
                )
            };
            let is_plus = text.eq_ignore_ascii_case(plus);
            if parts.len() < 3 && (is_plus || text.eq_ignore_ascii_case(minus)) {
                let angle = u32::try_from(milliseconds).ok();
                let angle = angle.filter(|_| milliseconds <= max_degrees * 3_600_000);
                let angle = angle.ok_or_else(fault)?;
                return Ok(match is_plus {
                    true => LOC_ZERO + angle,
                    false => LOC_ZERO - angle,
                });
            }
            let (unit, max, decimals) = parts.next().ok_or_else(fault)?;
            let number = fixed_point(text, decimals).filter(|number| *number <= max);
            milliseconds += unit * number.ok_or_else(fault)?;
        }
    }

    /// What `word` stands for, and its length before.
    fn push_with_length(&mut self, bytes: &[u8], word: &Word<'_>) -> Result<(), ZoneFileError> {
        let length = u8::try_from(bytes.len());
        let length = length.map_err(|_| wrong(word, "has more than 255 bytes"))?;
        self.push(&[length])?;
        self.push(bytes)
    }
}

fn wrong(word: &Word<'_>, what: &str) -> ZoneFileError {
    word.error(format!("{} {what}", word.shown()))
}

fn type_of(word: &Word<'_>) -> Result<u16, ZoneFileError> {
    let number = word
        .plain()
        .filter(|_| !word.is_quoted)
        .and_then(type_number);
    number.ok_or_else(|| wrong(word, "is no record type, such as A"))
}

/// A number with up to so many decimals, times ten to their count.
fn fixed_point(text: &str, decimals: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) || fraction.len() > decimals
    {
        return None;
    }
    format!("{whole}{fraction:0<decimals$}").parse().ok()
}

/// Meters with up to two decimals, in centimeters.
fn centimeters(text: &str) -> Option<u64> {
    fixed_point(text.strip_suffix('m').unwrap_or(text), 2)
}

fn altitude(text: &str) -> Option<u32> {
    let altitude = match text.strip_prefix('-') {
        Some(below) => LOC_DEPTH.checked_sub(centimeters(below)?)?,
        None => LOC_DEPTH.checked_add(centimeters(text)?)?,
    };
    u32::try_from(altitude).ok()
}

/// Centimeters as a digit and a power of ten, of four bits each.
fn size_in_meters(text: &str) -> Option<u8> {
    let mut digit = centimeters(text)?;
    let mut power = 0;
    while digit > 9 {
        (digit, power) = (digit / 10, power + 1);
    }
    let digit = u8::try_from(digit).ok()?;
    (power <= 9).then_some((digit << 4) | power)
}

/// One item of RFC 3123 section 4.
fn prefix(text: &str) -> Option<Vec<u8>> {
    let (negation, text) = match text.strip_prefix('!') {
        Some(rest) => (0x80, rest),
        None => (0, text),
    };
    let (family, rest) = text.split_once(':')?;
    let (address, length) = rest.rsplit_once('/')?;
    let (family, mut address) = match family {
        "1" => (1_u16, address.parse::<Ipv4Addr>().ok()?.octets().to_vec()),
        "2" => (2, address.parse::<Ipv6Addr>().ok()?.octets().to_vec()),
        _ => return None,
    };
    let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse::<u8>().ok().filter(|_| is_number)?;
    if usize::from(length) > 8 * address.len() {
        return None;
    }
    // Zeros at the end are not written.
    let used = address.iter().rposition(|byte| *byte != 0);
    address.truncate(used.map_or(0, |last| last + 1));
    let count = u8::try_from(address.len()).ok()?;
    let [high, low] = family.to_be_bytes();
    Some([&[high, low, length, negation | count], address.as_slice()].concat())
}

/// YYYYMMDDHHmmSS in seconds of Unix time, modulo 2^32 (RFC 4034 section 3.1.5).
fn unix_time(text: &str) -> Option<u32> {
    let part = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| is_number)
    };
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    let months = months_of(year);
    let past = months.get(..usize::try_from(month.checked_sub(1)?).ok()?)?;
    let days_of_month = months.get(past.len())?;
    let is_time = hour < 24 && minute < 60 && second < 60;
    if year < 1970 || day == 0 || day > *days_of_month || !is_time {
        return None;
    }
    let days = (1970..year).map(days_of).sum::<u64>();
    let days = days + past.iter().sum::<u64>() + day - 1;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    u32::try_from(seconds & u64::from(u32::MAX)).ok()
}
