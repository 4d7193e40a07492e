//! The words of a zone file (RFC 1035 section 5.1): entries of one line, or of several in parentheses,
//! without comments; each word at its place.

use super::ZoneFileError;

/// Where something stands; both are counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    pub(super) fn error(self, message: impl Into<String>) -> ZoneFileError {
        ZoneFileError {
            line: self.line,
            column: self.column,
            message: message.into(),
        }
    }
}

/// A word, as it is written: escapes are still in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) place: Place,
    /// Without the quotes around it; `key="value"` keeps its own.
    pub(super) raw: &'a [u8],
    pub(super) is_quoted: bool,
}

/// A directive or a record.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// There is at least one.
    pub(super) words: Vec<Word<'a>>,
    /// Whether it begins with space, which stands for the owner of the entry before.
    pub(super) has_no_owner: bool,
    /// The place after its last word.
    pub(super) end: Place,
}

/// Takes a file apart.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    place: Place,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
        Self {
            text: text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text),
            at: 0,
            place: Place { line: 1, column: 1 },
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn advance(&mut self) {
        if let Some(byte) = self.peek() {
            self.at += 1;
            if byte == b'\n' {
                self.place.line += 1;
                self.place.column = 1;
            } else if byte & 0xc0 != 0x80 {
                // The bytes that go on with a character of UTF-8 are no characters.
                self.place.column += 1;
            }
        }
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|byte| byte != b'\n') {
            self.advance();
        }
    }

    /// The next entry; an error's line is left behind, so that reading can go on.
    fn entry(&mut self) -> Result<Option<Entry<'a>>, ZoneFileError> {
        let mut words = Vec::new();
        let mut open = Vec::new();
        let mut has_no_owner = matches!(self.peek(), Some(b' ' | b'\t'));
        let mut end = self.place;
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' if !open.is_empty() => self.advance(),
                b'\n' if words.is_empty() => {
                    self.advance();
                    has_no_owner = matches!(self.peek(), Some(b' ' | b'\t'));
                }
                b'\n' => break,
                b' ' | b'\t' | b'\r' => self.advance(),
                b';' => self.skip_line(),
                b'(' => {
                    open.push(self.place);
                    self.advance();
                }
                b')' if open.pop().is_some() => self.advance(),
                b')' => {
                    return Err(self.place.error(
                        "this parenthesis closes none; open it before, or put it in quotes if it is text",
                    ));
                }
                b'"' => {
                    words.push(self.quoted()?);
                    end = self.place;
                }
                _ => {
                    words.push(self.word()?);
                    end = self.place;
                }
            }
        }
        match open.first() {
            Some(place) => Err(place.error("this parenthesis is never closed")),
            None if words.is_empty() => Ok(None),
            None => Ok(Some(Entry {
                words,
                has_no_owner,
                end,
            })),
        }
    }

    fn quoted(&mut self) -> Result<Word<'a>, ZoneFileError> {
        let place = self.place;
        self.advance();
        let start = self.at;
        self.skip_to_quote(place)?;
        let raw = self.text.get(start..self.at).unwrap_or_default();
        self.advance();
        Ok(Word {
            place,
            raw,
            is_quoted: true,
        })
    }

    /// Goes on to the quote that closes the one at `opened`.
    fn skip_to_quote(&mut self, opened: Place) -> Result<(), ZoneFileError> {
        loop {
            match self.peek() {
                Some(b'"') => return Ok(()),
                Some(b'\\') => self.escape()?,
                None | Some(b'\n') => {
                    return Err(opened.error("this quote is not closed in its line"));
                }
                Some(_) => self.advance(),
            }
        }
    }

    fn word(&mut self) -> Result<Word<'a>, ZoneFileError> {
        let (start, place) = (self.at, self.place);
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' => break,
                b'\\' => self.escape()?,
                // RFC 9460 section 2.1: the value of a parameter may be quoted.
                b'"' if self.text.get(start..self.at).is_some_and(is_key) => {
                    let opened = self.place;
                    self.advance();
                    self.skip_to_quote(opened)?;
                    self.advance();
                }
                b'"' => {
                    return Err(self.place.error(
                        "a quote within a word; put the whole text in quotes, or write \\\" for one",
                    ));
                }
                0..0x20 | 0x7f => {
                    return Err(self.place.error(format!(
                        "a control character (code {byte}); write it as \\{byte:03} in quotes"
                    )));
                }
                _ => self.advance(),
            }
        }
        Ok(Word {
            place,
            raw: self.text.get(start..self.at).unwrap_or_default(),
            is_quoted: false,
        })
    }

    /// A backslash and what it protects.
    fn escape(&mut self) -> Result<(), ZoneFileError> {
        let place = self.place;
        self.advance();
        match self.peek() {
            None | Some(b'\n' | b'\r') => Err(place.error(
                "a backslash at the end of a line; lines go on in parentheses alone, and \\\\ is a \
                 backslash",
            )),
            Some(_) => {
                self.advance();
                Ok(())
            }
        }
    }
}

/// Whether a word so far is the key of a parameter and its equals sign.
fn is_key(word: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    word.strip_suffix(b"=")
        .is_some_and(|key| !key.is_empty() && key.iter().all(is_plain))
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Result<Entry<'a>, ZoneFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entry();
        if entry.is_err() {
            self.skip_line();
        }
        entry.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of all entries, `_` in front of one without an owner, and errors at their places.
    fn read(text: &str) -> Vec<String> {
        let shown = |entry: Result<Entry<'_>, ZoneFileError>| match entry {
            Ok(entry) => {
                let mut shown = vec![if entry.has_no_owner { "_" } else { "" }.to_owned()];
                shown.extend(entry.words.iter().map(|word| {
                    let raw = String::from_utf8_lossy(word.raw);
                    let place = word.place;
                    let quote = if word.is_quoted { "'" } else { "" };
                    format!("{}:{}={quote}{raw}{quote}", place.line, place.column)
                }));
                shown.join(" ").trim_start().to_owned()
            }
            Err(error) => error.to_string(),
        };
        Lexer::new(text.as_bytes()).map(shown).collect()
    }

    #[test]
    fn entries_comments_and_parentheses() {
        assert_eq!(
            read(
                "\u{feff}; comment\n\n@ A 1 ; more\r\n  B \"c ; ( d\"\n   \nx ( 1 ; one\n  2 ) 3\n"
            ),
            [
                "3:1=@ 3:3=A 3:5=1",
                "_ 4:3=B 4:5='c ; ( d'",
                "6:1=x 6:5=1 7:3=2 7:7=3",
            ]
        );
        assert_eq!(read(""), Vec::<String>::new());
        assert_eq!(read("a(b)c"), ["1:1=a 1:3=b 1:5=c"], "no space is needed");
    }

    #[test]
    fn escapes_protect_and_stay() {
        assert_eq!(
            read("a\\;b\\ c\\\" \"q\\\"r\" k=\"v w\\\"\" \"x\"\"y\" é z"),
            ["1:1=a\\;b\\ c\\\" 1:11='q\\\"r' 1:18=k=\"v w\\\"\" 1:28='x' 1:31='y' 1:35=é 1:37=z"]
        );
    }

    #[test]
    fn what_is_wrong_costs_its_line() {
        assert_eq!(
            read("a )\nb \"c\nd\\\ne f\"g\"\nh \u{1}\ni\n( j\nk"),
            [
                "1:3: this parenthesis closes none; open it before, or put it in quotes if it is text",
                "2:3: this quote is not closed in its line",
                "3:2: a backslash at the end of a line; lines go on in parentheses alone, and \\\\ is a backslash",
                "4:4: a quote within a word; put the whole text in quotes, or write \\\" for one",
                "5:3: a control character (code 1); write it as \\001 in quotes",
                "6:1=i",
                "7:1: this parenthesis is never closed",
            ]
        );
    }
}
