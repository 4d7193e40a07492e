//! `pkbridge key`: the public half of a secret key file, and how a key is shown.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use super::{fail, key_file, print};
use crate::pkarr::PublicKey;

/// Arguments of `pkbridge key`.
#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// The secret key file: an Ed25519 seed as 64 hexadecimal digits
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    show: ShowArgs,
}

/// How a public key is shown.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Show the address as a QR code, too
    #[arg(long, conflicts_with = "json")]
    qr: bool,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Reads the file and shows the public key.
pub(super) fn run(args: &KeyArgs) -> ExitCode {
    match key_file::read(&args.file) {
        Ok(secret) => args.show.show(PublicKey::from(&secret), None),
        Err(error) => fail(&error),
    }
}

impl ShowArgs {
    /// Prints a key, and where its secret is if that is news.
    pub(super) fn show(&self, key: PublicKey, secret_file: Option<&Path>) -> ExitCode {
        let url = format!("https://{key}.pkarr/");
        let text = if self.json {
            let mut report = serde_json::json!({ "key": key.to_string(), "url": url });
            if let Some((file, report)) = secret_file.zip(report.as_object_mut()) {
                report.insert("file".to_owned(), file.to_string_lossy().into());
            }
            format!("{report}\n")
        } else {
            let mut text = format!("key          {key}\naddress      {url}\n");
            if let Some(file) = secret_file {
                let _ = writeln!(text, "secret key   {}", file.display());
            }
            if self.qr {
                match qr_code(&url, std::io::stdout().is_terminal()) {
                    Ok(code) => text += &format!("\n{code}"),
                    Err(error) => return fail(&error),
                }
            }
            text
        };
        print(&text)
    }
}

/// A QR code as lines of text, two rows of it in each. On a terminal it sets its own colours: black on
/// white, whatever the terminal's are; elsewhere it is for light text on a dark ground.
fn qr_code(text: &str, is_terminal: bool) -> Result<String, String> {
    const BLACK_ON_WHITE: &str = "\x1b[30;107m";
    const RESET: &str = "\x1b[0m";
    // The address is read from a screen, where nothing is smudged: the smallest code is the best one.
    let code = QrCode::with_error_correction_level(text, EcLevel::L)
        .map_err(|error| format!("no QR code: {error}"))?;
    let mut renderer = code.render::<Dense1x2>();
    if !is_terminal {
        renderer
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark);
    }
    let mut lines = String::new();
    for line in renderer.build().lines() {
        let (start, end) = if is_terminal {
            (BLACK_ON_WHITE, RESET)
        } else {
            ("", "")
        };
        let _ = writeln!(lines, "{start}{line}{end}");
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qr_code_is_square_with_a_quiet_zone_and_its_own_colours_on_a_terminal() {
        let text = "https://ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno.pkarr/";
        let plain = qr_code(text, false).unwrap();
        let lines: Vec<&str> = plain.lines().collect();
        // Version 4 has 33 modules; four more on each side are the quiet zone.
        assert!(lines.iter().all(|line| line.chars().count() == 33 + 8));
        assert_eq!(lines.len(), (33 + 8_usize).div_ceil(2));
        assert_eq!(lines[0], "█".repeat(41), "light modules are drawn");
        assert!(lines[2].starts_with("████ ▄▄▄▄▄ █"), "{}", lines[2]);
        let coloured = qr_code(text, true).unwrap();
        let first = coloured.lines().next().unwrap();
        assert_eq!(first, format!("\x1b[30;107m{}\x1b[0m", " ".repeat(41)));
    }
}
