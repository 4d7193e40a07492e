//! `pkbridge keygen`: makes a key, which is a domain.

use std::path::PathBuf;
use std::process::ExitCode;

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use super::key::ShowArgs;
use super::{fail, key_file};
use crate::pkarr::{PublicKey, SigningKey};

/// Arguments of `pkbridge keygen`.
#[derive(Debug, clap::Args)]
pub(super) struct KeygenArgs {
    /// The file for the secret key, which must not be there yet; by default it is named after the key, and
    /// stands in the current directory
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    show: ShowArgs,
}

/// Makes a key, writes it, and shows its public half.
pub(super) fn run(args: &KeygenArgs) -> ExitCode {
    let mut seed = Zeroizing::new([0; 32]);
    // The system's own generator: a key is used for years.
    if let Err(error) = SysRng.try_fill_bytes(seed.as_mut()) {
        return fail(&format!("the system gives no random numbers: {error}"));
    }
    let secret = SigningKey::from_bytes(&seed);
    let key = PublicKey::from(&secret);
    let default = || PathBuf::from(format!("{key}.key"));
    let path = args.out.clone().unwrap_or_else(default);
    match key_file::create(&path, &secret) {
        Ok(()) => args.show.show(key, Some(&path)),
        Err(error) => fail(&error),
    }
}
