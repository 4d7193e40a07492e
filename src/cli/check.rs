//! `pkbridge check`: reads the configuration as `serve` would, and says what is wrong with it.

use std::io::Write;
use std::process::ExitCode;

use super::{ConfigArgs, DEFAULT_CONFIG, log, refuse_config};

/// Checks; touches no network.
pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let (config, built_in) = match args.load() {
        Ok(loaded) => loaded,
        Err(error) => return refuse_config(&error),
    };
    if let Err(error) = log::filter(&config.log.level) {
        super::complain(&format!("[log] level: {error}"));
        return ExitCode::from(super::EXIT_CONFIG);
    }
    let verdict = match &args.config {
        Some(path) => format!("{}: ok", path.display()),
        None if built_in => format!("{DEFAULT_CONFIG}: not there; the built-in defaults apply"),
        None => format!("{DEFAULT_CONFIG}: ok"),
    };
    let _ = writeln!(std::io::stdout(), "{verdict}");
    ExitCode::SUCCESS
}
