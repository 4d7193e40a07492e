//! Secret key files: one is made once and never overwritten, and only its owner may read it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::complain;
use crate::pkarr::{SigningKey, read_secret_key, secret_key_text};

/// The owner may read and write it, and nobody else.
const MODE: u32 = 0o600;
/// What the others may do with a file.
const OTHERS: u32 = 0o077;
/// Longest file that is read: a key has 64 characters, and there may be space around it.
const MAX_LEN: u64 = 1024;

/// Reads a secret key; complains if others may read it, too.
///
/// # Errors
/// A text that names the file, and tells nothing of what is in it.
pub(super) fn read(path: &Path) -> Result<SigningKey, String> {
    let shown = path.display();
    let error = |error: io::Error| format!("{shown}: the key file cannot be read: {error}");
    let file = File::open(path).map_err(error)?;
    let mode = file.metadata().map_err(error)?.permissions().mode();
    // One byte more than there may be, and with room for it, so that nothing is copied when it grows.
    let mut text = Zeroizing::new(Vec::with_capacity(2 * 1024));
    file.take(MAX_LEN + 1)
        .read_to_end(&mut text)
        .map_err(error)?;
    let secret = read_secret_key(&text).map_err(|error| format!("{shown}: {error}"))?;
    if mode & OTHERS != 0 && !is_credential(path) {
        let mode = mode & 0o777;
        complain(&format!(
            "warning: {shown}: others may read or change this key file (mode {mode:04o}), and who has \
             it owns the name; chmod 600 it"
        ));
    }
    Ok(secret)
}

/// Whether systemd has given the file to this service (systemd.exec(5), LoadCredential=). It lets the service's user
/// read it by an access control list, which the mode shows as rights of the group.
fn is_credential(path: &Path) -> bool {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").unwrap_or_default();
    !directory.is_empty() && path.parent() == Some(Path::new(&directory))
}

/// Writes a new file with a secret key, to the disk before it returns.
///
/// # Errors
/// A text, also if there is such a file: whoever overwrites a key has lost the name.
pub(super) fn create(path: &Path, secret: &SigningKey) -> Result<(), String> {
    let shown = path.display();
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path);
    let mut file = file.map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            format!(
                "{shown} is there already; a key file is never overwritten, as the name would be lost \
                 with it; take another --out"
            )
        } else {
            format!("{shown}: the key file cannot be written: {error}")
        }
    })?;
    let text = secret_key_text(secret);
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_directory(path));
    written.map_err(|error| {
        // It is ours, and no whole key is lost with it: nobody knows its public half.
        let _ = std::fs::remove_file(path);
        format!("{shown}: the key file cannot be written: {error}")
    })
}

/// So that a power cut leaves the file's entry, too.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)?.sync_all()
}
