//! Requests, as values and as lines.

use std::str::FromStr;

use hickory_proto::rr::Name;
use serde::{Deserialize, Serialize};

use crate::pkarr::{KeyError, NameError, PublicKey, parse_name};

/// What stands for everything in a `flush`. The name of that one label is written `all.`.
const ALL: &str = "all";

/// What is asked of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How it is.
    Status,
    /// To forget.
    Flush(Flush),
    /// What it knows of a name.
    Explain(Name),
}

/// What is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flush {
    /// All answers and packets.
    All,
    /// The packet of a key and all answers made of it.
    Key(PublicKey),
    /// The answers for a name, of every type; if it is at or below a key, as written or under a
    /// suffix, all that [`Flush::Key`] takes, for the packet would only give the same answers again.
    Name(Name),
}

/// Why a request is not understood.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not JSON, or not a request.
    #[error("not a request: {0}")]
    Form(#[from] serde_json::Error),
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name of one label that looks like a key and is none, of which nothing can be cached.
    #[error("not a public key: {0}")]
    Key(#[from] KeyError),
}

/// A request as it is written. `Status` has braces because serde lets a unit variant have any fields.
#[derive(Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Status {},
    Flush { what: String },
    Explain { name: String },
}

impl Request {
    /// Reads the JSON object of a line.
    ///
    /// # Errors
    /// If it is not one of the requests, has a field too many, or names something that is no name.
    pub fn parse(line: &[u8]) -> Result<Self, RequestError> {
        Ok(match serde_json::from_slice(line)? {
            Line::Status {} => Self::Status,
            Line::Flush { what } => Self::Flush(what.parse()?),
            Line::Explain { name } => Self::Explain(parse_name(&name)?),
        })
    }

    /// The JSON object, on one line without its end. Names are those that [`parse_name`] gives; what it
    /// would refuse is refused by the service.
    ///
    /// # Errors
    /// Never, as far as serde_json's documentation goes.
    pub fn to_line(&self) -> serde_json::Result<String> {
        serde_json::to_string(&match self {
            Self::Status => Line::Status {},
            Self::Flush(Flush::All) => Line::Flush { what: ALL.into() },
            Self::Flush(Flush::Key(key)) => Line::Flush {
                what: key.to_string(),
            },
            Self::Flush(Flush::Name(name)) => Line::Flush { what: plain(name) },
            Self::Explain(name) => Line::Explain { name: plain(name) },
        })
    }
}

/// `all`, a key, or a name, as [`parse_name`] reads it.
impl FromStr for Flush {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        if text == ALL {
            return Ok(Self::All);
        }
        let name = parse_name(text)?;
        let mut labels = name.iter();
        match (labels.next(), labels.next()) {
            (Some(label), None) if PublicKey::is_key_like(label) => {
                Ok(Self::Key(PublicKey::from_label(label)?))
            }
            _ => Ok(Self::Name(name)),
        }
    }
}

/// The labels as they are, each with its dot: what [`parse_name`] reads, which knows no escapes.
fn plain(name: &Name) -> String {
    let labels = name
        .iter()
        .map(|label| String::from_utf8_lossy(label) + ".");
    let text: String = labels.collect();
    if text.is_empty() {
        ".".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno";

    fn refusal(line: &str) -> String {
        Request::parse(line.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let name = |text| parse_name(text).unwrap();
        for (request, line) in [
            (Request::Status, r#"{"verb":"status"}"#.to_owned()),
            (
                Request::Flush(Flush::All),
                r#"{"verb":"flush","what":"all"}"#.to_owned(),
            ),
            (
                Request::Flush(Flush::Key(KEY.parse().unwrap())),
                format!(r#"{{"verb":"flush","what":"{KEY}"}}"#),
            ),
            (
                Request::Flush(Flush::Name(name("all."))),
                r#"{"verb":"flush","what":"all."}"#.to_owned(),
            ),
            (
                Request::Explain(name("0/25.2.0.192.in-addr.arpa")),
                r#"{"verb":"explain","name":"0/25.2.0.192.in-addr.arpa."}"#.to_owned(),
            ),
            (
                Request::Explain(name("_a\"b.Example")),
                r#"{"verb":"explain","name":"_a\"b.Example."}"#.to_owned(),
            ),
            (
                Request::Explain(Name::root()),
                r#"{"verb":"explain","name":"."}"#.to_owned(),
            ),
        ] {
            assert_eq!(request.to_line().unwrap(), line);
            assert_eq!(Request::parse(line.as_bytes()).unwrap(), request);
        }
    }

    #[test]
    fn a_name_of_bytes_that_cannot_be_typed_is_refused_and_not_taken_for_another() {
        let name = Name::from_labels([&b"a\x80b"[..], b"example"]).unwrap();
        let line = Request::Explain(name).to_line().unwrap();
        assert!(matches!(
            Request::parse(line.as_bytes()),
            Err(RequestError::Name(_))
        ));
    }

    #[test]
    fn what_is_not_a_request_is_refused_with_the_reason() {
        for (line, reason) in [
            ("", "EOF"),
            ("hello", "expected value"),
            ("[]", "not a request"),
            ("{}", "missing field `verb`"),
            (r#"{"verb":"dance"}"#, "unknown variant `dance`"),
            (r#"{"verb":"status","what":"all"}"#, "unknown field `what`"),
            (r#"{"verb":"flush"}"#, "missing field `what`"),
            (
                r#"{"verb":"flush","what":"all","now":1}"#,
                "unknown field `now`",
            ),
            (r#"{"verb":"flush","what":7}"#, "invalid type"),
            (
                r#"{"verb":"flush","what":"all","what":"a"}"#,
                "duplicate field",
            ),
            (r#"{"verb":"explain","name":""}"#, "labels of 1 to 63"),
            (r#"{"verb":"explain","name":"a..b"}"#, "labels of 1 to 63"),
            (r#"{"verb":"explain","name":"a b"}"#, "cannot contain ' '"),
            (r#"{"verb":"status"}{"verb":"status"}"#, "trailing"),
        ] {
            let told = refusal(line);
            assert!(told.contains(reason), "{line}: {told}");
        }
    }

    #[test]
    fn a_key_is_flushed_however_it_is_written_and_a_near_miss_is_told() {
        let key = Flush::Key(KEY.parse().unwrap());
        for text in [
            KEY.to_owned(),
            format!("{KEY}."),
            format!("pk:{KEY}"),
            KEY.to_uppercase(),
            format!("https://{KEY}/"),
        ] {
            assert_eq!(text.parse::<Flush>().unwrap(), key, "{text}");
        }
        let below = format!("www.{KEY}");
        assert!(matches!(below.parse(), Ok(Flush::Name(_))));
        let second_spelling = format!("{}9", &KEY[..51]);
        let told = second_spelling.parse::<Flush>().unwrap_err().to_string();
        assert!(told.contains("canonical"), "{told}");
    }
}
