//! What `status`, `flush` and `explain` have in common: where the service is, and how its reports are
//! shown.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::query::printable;
use super::{ConfigArgs, fail, print, refuse_config};
use crate::config::format_duration;
use crate::control::{Request, ask};

/// Which service to ask, and how to show what it says.
#[derive(Debug, clap::Args)]
pub(super) struct ControlArgs {
    /// The service's control socket, instead of the one of the configuration
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl ControlArgs {
    /// Asks, and prints the report as `text` puts it, or as it came.
    pub(super) async fn run<R: DeserializeOwned>(
        &self,
        request: &Request,
        text: fn(&R) -> String,
    ) -> ExitCode {
        let socket = match &self.socket {
            Some(path) => path.clone(),
            None => match self.config.load() {
                Ok((config, _)) => match config.control.socket {
                    Some(path) => path,
                    None => {
                        return fail(
                            &"the service has no control socket: [control] socket is \"\"",
                        );
                    }
                },
                Err(error) => return refuse_config(&error),
            },
        };
        let report = match ask(&socket, request).await {
            Ok(report) => report,
            Err(error) => return fail(&printable(&error.to_string())),
        };
        let text = if self.json {
            ascii(&report.to_string()) + "\n"
        } else {
            match serde_json::from_value(report) {
                Ok(report) => text(&report),
                Err(error) => {
                    let error = printable(&error.to_string());
                    return fail(&format!(
                        "the service's report is not understood ({error}); if it is of another \
                         version than this program, restart it"
                    ));
                }
            }
        };
        print(&text)
    }
}

/// Lines of a label and a text, in two columns; a line without a label goes on with the one above.
#[derive(Debug, Default)]
pub(super) struct Sheet(String);

impl Sheet {
    /// Adds a line. What may come from the network is made safe to print.
    pub(super) fn line(&mut self, label: &str, text: &str) {
        /// The longest label and two spaces.
        const COLUMN: usize = 13;
        let line = format!("{label:<COLUMN$}{}", printable(text));
        self.0 += line.trim_end();
        self.0.push('\n');
    }

    /// Adds lines under one label; `none` if there are none.
    pub(super) fn lines(&mut self, label: &str, none: &str, texts: &[String]) {
        let none = [none.to_owned()];
        let texts = if texts.is_empty() { &none } else { texts };
        for (index, text) in texts.iter().enumerate() {
            self.line(if index == 0 { label } else { "" }, text);
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// `1 packet`, `2 packets`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A number of bytes in the largest unit that fits, with one decimal, cut off.
pub(super) fn bytes(count: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => {
            let tenth = count % unit * 10 / unit;
            format!("{}.{tenth} {name}", count / unit)
        }
        None => format!("{count} B"),
    }
}

/// A duration as the configuration writes it, such as `1h30m`.
pub(super) fn seconds(count: u64) -> String {
    format_duration(Duration::from_secs(count))
}

/// JSON with all that is not plain ASCII escaped: the same values, and nothing that drives a terminal.
pub(super) fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        // Only strings have such characters; serde_json has escaped those below the space.
        if character.is_ascii() && character != '\u{7f}' {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out += &format!("\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit_and_one_decimal() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1535, "1.4 KiB"),
            (48 << 20, "48.0 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn json_keeps_its_values_and_drives_no_terminal() {
        let value = serde_json::json!({ "te\u{9b}xt": "a\u{1b}\u{7f}\u{202e}\"\\ é \u{1f600}" });
        let text = ascii(&value.to_string());
        assert!(
            text.bytes().all(|byte| (b' '..0x7f).contains(&byte)),
            "{text}"
        );
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back, value);
    }

    #[test]
    fn a_sheet_has_two_columns_and_nothing_in_it_drives_the_terminal() {
        let mut sheet = Sheet::default();
        sheet.line("one", "a\u{1b}b");
        sheet.lines("two", "none", &[]);
        sheet.lines("three", "none", &["x".to_owned(), "y".to_owned()]);
        assert_eq!(
            sheet.into_text(),
            "one          a\\027b\ntwo          none\nthree        x\n             y\n"
        );
    }
}
