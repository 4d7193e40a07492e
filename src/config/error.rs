//! Why a configuration file was refused, with the places in it.

use std::fmt;
use std::io;

use super::{limits, parse};

/// Why a configuration file was refused. It displays as one line for each problem, without a line
/// feed after the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: String,
    cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    Unreadable {
        error: String,
        not_found: bool,
    },
    Invalid {
        problems: Vec<Problem>,
        omitted: usize,
    },
}

/// One thing that is wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted in characters from 1.
    pub column: usize,
    /// The setting, such as `[cache].max-ttl`; empty if the text is not TOML.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl ConfigError {
    /// The problems, in the order of the file; empty if the file could not be read. At most the
    /// first hundred are listed.
    pub fn problems(&self) -> &[Problem] {
        match &self.cause {
            Cause::Unreadable { .. } => &[],
            Cause::Invalid { problems, .. } => problems,
        }
    }

    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        match &self.cause {
            Cause::Unreadable { not_found, .. } => *not_found,
            Cause::Invalid { .. } => false,
        }
    }

    pub(super) fn unreadable(file: String, error: &io::Error) -> Self {
        ConfigError {
            file,
            cause: Cause::Unreadable {
                error: error.to_string(),
                not_found: error.kind() == io::ErrorKind::NotFound,
            },
        }
    }

    /// Locates the faults that were found in `text`, in the order of the file.
    pub(super) fn invalid(file: &str, text: &str, mut faults: Vec<parse::Fault>) -> Self {
        faults.sort_by_key(|fault| fault.offset);
        let omitted = faults.len().saturating_sub(limits::MAX_PROBLEMS);
        faults.truncate(limits::MAX_PROBLEMS);
        let locate = |fault: parse::Fault| {
            let before = text.get(..fault.offset).unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or_default();
            Problem {
                line: before.matches('\n').count() + 1,
                column: line.chars().count() + 1,
                key: fault.key,
                message: fault.message,
            }
        };
        ConfigError {
            file: file.to_owned(),
            cause: Cause::Invalid {
                problems: faults.into_iter().map(locate).collect(),
                omitted,
            },
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.cause {
            Cause::Unreadable { error, .. } => write!(f, "{file}: cannot read: {error}"),
            Cause::Invalid { problems, omitted } => {
                for (index, problem) in problems.iter().enumerate() {
                    let feed = if index == 0 { "" } else { "\n" };
                    write!(f, "{feed}{file}:{problem}")?;
                }
                match omitted {
                    0 => Ok(()),
                    1 => write!(f, "\n{file}: 1 more problem is not shown"),
                    _ => write!(f, "\n{file}: {omitted} more problems are not shown"),
                }
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
