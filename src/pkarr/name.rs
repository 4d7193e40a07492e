//! Sorts names: which belong to a public key, and which merely must not leave this machine.

use hickory_proto::rr::{Name, RecordType};

use super::key::{KeyError, PublicKey, Z32_LEN};

/// The suffixes under which a key may stand, such as `pkarr`.
///
/// ```
/// use pkbridge::pkarr::{NameKind, Suffixes, parse_name};
///
/// let suffixes = Suffixes::new(["pkarr"]);
/// let key = "ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno";
/// let name = parse_name(&format!("www.{key}.pkarr"))?;
/// let NameKind::PublicKey(name) = suffixes.classify(&name) else {
///     panic!("it is a key's");
/// };
/// assert_eq!(name.key.to_string(), key);
/// assert_eq!(name.in_zone, parse_name(&format!("www.{key}"))?);
///
/// let ordinary = parse_name("www.example.com")?;
/// assert_eq!(suffixes.classify(&ordinary), NameKind::Ordinary);
/// # Ok::<(), pkbridge::pkarr::NameError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suffixes(Vec<Name>);

/// A name at or below the apex of a public key's zone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PublicKeyName {
    /// The key.
    pub key: PublicKey,
    /// The suffix that was asked with the key; the root for a bare key.
    pub suffix: Name,
    /// The name without the suffix: the key's label is the last.
    pub in_zone: Name,
}

/// What a name is to pkbridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameKind {
    /// At or below a key.
    PublicKey(PublicKeyName),
    /// Has a key's form where a key belongs, and is none.
    NotAKey(KeyError),
    /// A configured suffix itself.
    Suffix(Name),
    /// Below a configured suffix, and no key.
    UnderSuffix(Name),
    /// A label further left has a key's form: a stub put a search domain behind a key.
    SearchList,
    /// Everything else; the only kind that may be sent to an upstream.
    Ordinary,
}

/// Why text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not ASCII.
    #[error("write an internationalised name in its ASCII form (xn--...)")]
    NotAscii,
    /// A space, a control character or a backslash: nothing is escaped.
    #[error("a domain name cannot contain {0:?} here")]
    Character(char),
    /// An empty or too long label, or too many of them (RFC 1035 section 2.3.4).
    #[error("a domain name has labels of 1 to 63 characters, and at most 253 characters in all")]
    Labels,
}

/// Reads a name as people write it: with or without a final dot, and each character stands for
/// itself. A leading `pk:` is taken off, and of a URL its host is taken.
///
/// ```
/// use pkbridge::pkarr::parse_name;
///
/// assert_eq!(parse_name("https://www.example.com/index.html")?, parse_name("www.example.com.")?);
/// # Ok::<(), pkbridge::pkarr::NameError>(())
/// ```
///
/// # Errors
/// If it is no name.
pub fn parse_name(text: &str) -> Result<Name, NameError> {
    let text = match text.split_once("://") {
        Some((_, rest)) => rest.split(['/', ':', '?', '#']).next().unwrap_or_default(),
        None => text.strip_prefix("pk:").unwrap_or(text),
    };
    if text == "." {
        return Ok(Name::root());
    }
    if !text.is_ascii() {
        return Err(NameError::NotAscii);
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '\\') {
        return Err(NameError::Character(bad));
    }
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    Name::from_labels(labels.map(str::as_bytes)).map_err(|_| NameError::Labels)
}

impl Suffixes {
    /// Takes suffixes in the form of the configuration, such as `pkarr`; those that are no names are
    /// left out (the configuration has refused them).
    pub fn new<S: AsRef<str>>(suffixes: impl IntoIterator<Item = S>) -> Self {
        Self(
            suffixes
                .into_iter()
                .filter_map(|text| Name::from_ascii(text).ok())
                .map(|name| fqdn(name).to_lowercase())
                .filter(|name| !name.is_root())
                .collect(),
        )
    }

    /// Whether a name is a suffix or below one.
    pub(crate) fn cover(&self, name: &Name) -> bool {
        self.longest(name).is_some()
    }

    /// The suffix at or above a name; the longest, so that both `pkarr` and `dev.pkarr` can be
    /// configured.
    pub(crate) fn longest(&self, name: &Name) -> Option<&Name> {
        self.0
            .iter()
            .filter(|suffix| suffix.zone_of(name))
            .max_by_key(|suffix| suffix.num_labels())
    }

    /// Whether a name is ordinary already by the lengths of its labels and the last of them, which is so
    /// for nearly all; `None` is the name that has no labels.
    pub(crate) fn is_surely_ordinary(&self, longest: usize, last: Option<&[u8]>) -> bool {
        let is_last = |suffix: &Name| {
            let of_suffix = suffix.iter().next_back();
            of_suffix
                .zip(last)
                .is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
        };
        longest < Z32_LEN && !self.0.iter().any(is_last)
    }

    /// Sorts a name. Letter case does not matter.
    pub fn classify(&self, name: &Name) -> NameKind {
        let longest = name.iter().map(<[u8]>::len).max().unwrap_or(0);
        if self.is_surely_ordinary(longest, name.iter().next_back()) {
            return NameKind::Ordinary;
        }
        let suffix = self.longest(name);
        let suffix_labels = suffix.map_or(0, |suffix| suffix.iter().len());
        let count = name.iter().len() - suffix_labels;
        let last = count
            .checked_sub(1)
            .and_then(|index| name.iter().nth(index));

        if let Some(label) = last.filter(|label| PublicKey::is_key_like(label)) {
            return match PublicKey::from_label(label) {
                Ok(key) => match Name::from_labels(name.iter().take(count)) {
                    Ok(in_zone) => NameKind::PublicKey(PublicKeyName {
                        key,
                        suffix: suffix.cloned().unwrap_or_else(Name::root),
                        in_zone,
                    }),
                    // Cannot be: these are the labels of a name.
                    Err(_) => NameKind::NotAKey(KeyError::Spelling),
                },
                Err(error) => NameKind::NotAKey(error),
            };
        }
        match suffix {
            Some(suffix) if last.is_none() => NameKind::Suffix(suffix.clone()),
            Some(suffix) => NameKind::UnderSuffix(suffix.clone()),
            None if name.iter().any(PublicKey::is_key_like) => NameKind::SearchList,
            None => NameKind::Ordinary,
        }
    }
}

impl PublicKeyName {
    /// Takes a name with search domains behind a key for the key's own: what follows the last label
    /// that is a key becomes the suffix. `None` if no label is a key.
    // For the server and its tests.
    #[doc(hidden)]
    pub fn with_search_domain(name: &Name) -> Option<Self> {
        let labels: Vec<&[u8]> = name.iter().collect();
        let last = labels
            .iter()
            .rposition(|label| PublicKey::is_key_like(label))?;
        let (in_zone, suffix) = labels.split_at_checked(last + 1)?;
        Some(Self {
            key: PublicKey::from_label(labels.get(last)?).ok()?,
            suffix: fqdn(Name::from_labels(suffix.iter().copied()).ok()?),
            in_zone: fqdn(Name::from_labels(in_zone.iter().copied()).ok()?),
        })
    }

    /// A name of the zone as the client asked it: with the suffix.
    pub fn with_suffix(&self, name: &Name) -> Option<Name> {
        name.clone().append_name(&self.suffix).ok().map(fqdn)
    }

    /// Whether the name is the apex below a suffix and the type one that the suffix's zone answers.
    pub(crate) fn is_zone_cut_for(&self, rtype: RecordType) -> bool {
        rtype == RecordType::DS && !self.suffix.is_root() && self.in_zone.iter().len() == 1
    }

    /// The apex as the client asked it: the key's label and the suffix.
    pub fn apex(&self) -> Name {
        self.with_suffix(&self.in_zone.trim_to(1))
            .unwrap_or_else(Name::root)
    }
}

fn fqdn(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno";

    fn classify(text: &str) -> NameKind {
        let suffixes = Suffixes::new(["pkarr", "key", "dev.key"]);
        suffixes.classify(&Name::from_ascii(text).unwrap())
    }

    fn key_name(text: &str) -> (String, String) {
        match classify(text) {
            NameKind::PublicKey(name) => {
                assert_eq!(name.key.to_string(), KEY);
                (name.in_zone.to_ascii(), name.suffix.to_ascii())
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_key_bare_and_under_each_suffix() {
        let bare = format!("{KEY}.");
        for (asked, in_zone, suffix) in [
            (bare.clone(), bare.clone(), "."),
            (format!("_hello.{KEY}."), format!("_hello.{KEY}."), "."),
            (format!("a.b.{KEY}.pkarr."), format!("a.b.{KEY}."), "pkarr."),
            (format!("{KEY}.key."), bare.clone(), "key."),
            (format!("{KEY}.dev.key."), bare, "dev.key."),
        ] {
            assert_eq!(key_name(&asked), (in_zone, suffix.to_owned()));
        }
        let upper = format!("A.{KEY}.PkArr.").to_ascii_uppercase();
        assert!(matches!(classify(&upper), NameKind::PublicKey(_)));
    }

    #[test]
    fn near_misses_are_never_ordinary() {
        let weak = "y".repeat(52);
        let non_canonical = format!("{}9", &KEY[..51]);
        for (label, error) in [
            (&weak, KeyError::Weak),
            (&non_canonical, KeyError::NotCanonical),
        ] {
            for text in [
                format!("{label}."),
                format!("www.{label}."),
                format!("{label}.pkarr."),
            ] {
                assert_eq!(classify(&text), NameKind::NotAKey(error), "{text}");
            }
            assert_eq!(classify(&format!("{label}.lan.")), NameKind::SearchList);
        }
    }

    #[test]
    fn names_as_people_write_them() {
        for (text, name) in [
            (format!("pk:{KEY}"), format!("{KEY}.")),
            (format!("{KEY}."), format!("{KEY}.")),
            (format!("https://{KEY}/"), format!("{KEY}.")),
            (
                format!("http://www.{KEY}.pkarr:8080/x?y#z"),
                format!("www.{KEY}.pkarr."),
            ),
            ("Example.COM".to_owned(), "Example.COM.".to_owned()),
            (".".to_owned(), ".".to_owned()),
        ] {
            let parsed = parse_name(&text).unwrap();
            assert!(parsed.is_fqdn(), "{text}");
            assert_eq!(parsed.to_ascii(), name, "{text}");
        }
        let long = "a".repeat(64);
        for (text, error) in [
            ("", NameError::Labels),
            ("pk:", NameError::Labels),
            ("https://", NameError::Labels),
            ("a..b", NameError::Labels),
            (&long, NameError::Labels),
            ("a b", NameError::Character(' ')),
            ("a\\032b", NameError::Character('\\')),
            ("b\u{fc}cher.example", NameError::NotAscii),
        ] {
            assert_eq!(parse_name(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn what_stubs_make_of_search_lists() {
        for text in [
            format!("{KEY}.lan."),
            format!("_hello.{KEY}.corp.example.com."),
            format!("{KEY}.pkarr.lan."),
            format!("{}.LAN.", KEY.to_ascii_uppercase()),
        ] {
            assert_eq!(classify(&text), NameKind::SearchList, "{text}");
        }
    }

    #[test]
    fn a_search_domain_can_be_taken_for_a_suffix() {
        let asked = Name::from_ascii(format!("www.{KEY}.corp.example.")).unwrap();
        let name = PublicKeyName::with_search_domain(&asked).unwrap();
        assert_eq!(name.in_zone.to_ascii(), format!("www.{KEY}."));
        assert_eq!(name.suffix.to_ascii(), "corp.example.");
        assert_eq!(name.with_suffix(&name.in_zone), Some(asked));
        let weak = Name::from_ascii(format!("{}.lan.", "y".repeat(52))).unwrap();
        assert_eq!(PublicKeyName::with_search_domain(&weak), None);
    }

    #[test]
    fn the_rest() {
        let pkarr = Name::from_ascii("pkarr.").unwrap();
        assert_eq!(classify("pkarr."), NameKind::Suffix(pkarr.clone()));
        assert_eq!(classify("PKARR."), NameKind::Suffix(pkarr.clone()));
        assert_eq!(classify("www.pkarr."), NameKind::UnderSuffix(pkarr.clone()));
        let deep = format!("{KEY}.www.pkarr.");
        assert_eq!(classify(&deep), NameKind::UnderSuffix(pkarr));
        for text in [".", "example.com.", "pkarr.org.", "notpkarr.", &KEY[..51]] {
            assert_eq!(classify(text), NameKind::Ordinary, "{text}");
        }
    }
}
