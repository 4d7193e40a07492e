//! `pkbridge flush`: makes the running service forget.

use std::process::ExitCode;

use super::control::{ControlArgs, counted};
use crate::control::{Flush, Flushed, Request};

/// Arguments of `pkbridge flush`.
#[derive(Debug, clap::Args)]
pub(super) struct FlushArgs {
    /// `all`, a domain name, or a public key with all that is below it; a leading `pk:` is taken off
    #[arg(value_name = "all|NAME|KEY", value_parser = str::parse::<Flush>)]
    what: Flush,

    #[command(flatten)]
    control: ControlArgs,
}

/// Flushes and says what.
pub(super) async fn run(args: FlushArgs) -> ExitCode {
    args.control.run(&Request::Flush(args.what), text).await
}

fn text(flushed: &Flushed) -> String {
    let answers = counted(flushed.answers, "answer", "answers");
    let packets = counted(flushed.packets, "packet", "packets");
    format!("flushed {answers} and {packets}\n")
}
