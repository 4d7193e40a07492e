//! The configuration file: its settings, their defaults, and reading it.
//!
//! Every key and its bounds are explained in `config/pkbridge.toml`, which is also the file that is
//! shipped; reading it yields [`Config::default`]. A file is either taken whole or refused with all
//! the problems found in it.

mod error;
mod limits;
mod parse;
mod settings;
#[cfg(test)]
mod tests;
mod values;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use error::{ConfigError, Problem};
pub use settings::{
    Access, AuthenticData, Cache, Config, Control, Delegation, Dht, ForwardRule, KeepAlive, Listen,
    LocalRecord, Log, Names, Rebinding, RebindingGuard, Relays, SearchDomains, State, Strategy,
    Upstream, UpstreamMode,
};
pub use values::{bootstrap_node, format_duration, parse_duration};

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        match read_limited(path) {
            Ok(bytes) => parse_bytes(&bytes, &file),
            Err(error) => Err(ConfigError::unreadable(file, &error)),
        }
    }

    /// Reads the text of a file; `file` is the name that errors show. A table or key that is
    /// missing has its default. Nothing else is read, neither another file nor the network.
    ///
    /// # Errors
    ///
    /// If the text is not TOML, or if it has an unknown key or a value that is refused. The error
    /// lists all the problems that were found.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        parse_bytes(text.as_bytes(), file)
    }
}

/// Reads a file, but little more of it than is allowed: enough to see that it is too large.
fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(limits::MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_bytes(bytes: &[u8], file: &str) -> Result<Config, ConfigError> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limits::MAX_FILE_BYTES) {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                // Some editors put a byte order mark first; it is no column.
                let text = text.strip_prefix('\u{feff}').unwrap_or(text);
                parse::read(text).map_err(|faults| ConfigError::invalid(file, text, faults))
            }
            Err(error) => {
                let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let text = std::str::from_utf8(valid).unwrap_or_default();
                let message = "the text is not UTF-8; save the file in that encoding";
                let fault = parse::Fault::new(text.len(), "", message);
                Err(ConfigError::invalid(file, text, vec![fault]))
            }
        }
    } else {
        let message = "the file is larger than 1 MiB; is it a configuration file?";
        let fault = parse::Fault::new(0, "", message);
        Err(ConfigError::invalid(file, "", vec![fault]))
    }
}
