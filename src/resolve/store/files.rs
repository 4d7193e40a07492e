//! The files of the store: opening, and saving what can be read of a damaged one.
//!
//! | file | |
//! |---|---|
//! | `packets.redb` | the store |
//! | `packets.new` | a store that is being built from a damaged one |
//! | `packets.damaged` | the last one that was damaged or of another version, as it was found |
//! | `packets.secret` | 16 random bytes, by which the store knows its own records (`record.rs`) |
//! | `packets.secret.new` | a secret that is being written |
//!
//! With the secret lost, packets count by their signatures, and a new store with a new secret is built
//! from them. What the lost one alone proved is gone: the `seq` of each key that has no packet, or one
//! above its packet's, and when packets were confirmed.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::backends::{FileBackend, InMemoryBackend};

use super::disk::{Disk, Tables, Trouble, guarded};
use super::overlay::Overlay;
use super::record::{MARK, MAX_RECORD_LEN, Record, Secret};

/// Only for us: the store tells what was asked.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// A file that is this many times as long as its records should need is compacted when opened ...
const COMPACT_FACTOR: u64 = 3;
/// ... unless it is this short.
const COMPACT_LEN: u64 = 8 << 20;
/// What a key without a packet takes in the file.
const SEQ_LEN: u64 = 200;
/// Length of the secret.
const SECRET_LEN: u64 = 16;
/// How much of a damaged file is looked at at once.
const CHUNK_LEN: usize = 1 << 20;
/// What is passed over where a disk cannot read.
const SECTOR_LEN: usize = 4096;
/// Records that are restored in one transaction.
const RESTORE_BATCH: usize = 4096;

/// The places of the files.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    max_bytes: u64,
}

/// A store that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) disk: Disk,
    pub(super) tables: Tables,
    /// Why there was something to save, and how much was found.
    pub(super) saved: Option<(String, u64)>,
    /// It is a copy in memory, without a lock on the file.
    pub(super) is_copy: bool,
}

impl Files {
    pub(super) fn new(directory: PathBuf, max_bytes: u64) -> Self {
        Self {
            directory,
            max_bytes,
        }
    }

    pub(super) fn store(&self) -> PathBuf {
        self.directory.join("packets.redb")
    }

    pub(super) fn damaged(&self) -> PathBuf {
        self.directory.join("packets.damaged")
    }

    fn secret(&self) -> PathBuf {
        self.directory.join("packets.secret")
    }

    fn new_store(&self) -> PathBuf {
        self.directory.join("packets.new")
    }

    /// Opens the store to write. One that is damaged, or was found to be (`distrusted` says how), is
    /// moved aside, and what can be read of it is in the new one. `release` is to close what this
    /// process has open of the file; it is called once the file may be written.
    ///
    /// All of it is guarded, so that what panics when it is dropped after an error is an error, too.
    pub(super) fn open(
        &self,
        distrusted: Option<&str>,
        release: impl FnOnce(),
    ) -> Result<Opened, Trouble> {
        guarded(|| {
            create_directory(&self.directory)?;
            let (path, new) = (self.store(), self.new_store());
            if new.exists() && !path.exists() {
                // A rebuilding was cut short between its two renamings.
                std::fs::rename(&new, &path)?;
            }
            let existed = path.exists();
            let file = open_private(&path, false)?;
            release();
            // The database library locks the same open file, so this lock becomes its own.
            file.try_lock().map_err(io::Error::from)?;
            if file.metadata()?.ino() != std::fs::metadata(&path)?.ino() {
                // Another process has just put a rebuilt one in its place.
                return Err(Trouble::Locked);
            }
            if new.exists() {
                // One that was cut short before.
                std::fs::remove_file(&new)?;
            }
            let secret = match self.read_secret()? {
                Some(secret) => secret,
                None => self.make_secret()?,
            };
            let is_empty = file.metadata()?.len() == 0;
            let damage = match distrusted {
                Some(reason) => Some(reason.to_owned()),
                None if is_empty => None,
                None => match inspect(&file, secret) {
                    Ok(()) => None,
                    Err(Trouble::Damaged(reason)) => Some(reason),
                    Err(trouble) => return Err(trouble),
                },
            };
            if let Some(reason) = damage {
                return self.replace(file, secret, reason);
            }
            let mut disk = Disk::open(file_backend(file)?, secret, false)?;
            let tables = Tables::read(&disk, self.max_bytes)?;
            self.compact(&mut disk, &tables);
            Ok(Opened {
                disk,
                tables,
                // There is nothing to move aside.
                saved: (is_empty && existed).then(|| ("the file is empty".to_owned(), 0)),
                is_copy: false,
            })
        })
    }

    /// Opens the store without writing to it; a damaged one is read into memory as far as it can be.
    /// Guarded as [`Self::open`] is.
    pub(super) fn open_to_read(&self) -> Result<Opened, Trouble> {
        guarded(|| {
            let file = File::open(self.store())?;
            file.try_lock_shared().map_err(io::Error::from)?;
            // Without its secret it is as one whose secret is lost.
            let secret = self.read_secret().ok().flatten();
            let secret = secret.unwrap_or_else(Secret::random);
            let readable = || {
                let disk = Disk::open(Overlay::new(file.try_clone()?)?, secret, true)?;
                disk.check_facts()?;
                let tables = Tables::read(&disk, self.max_bytes)?;
                Ok((disk, tables))
            };
            match readable() {
                Ok((disk, tables)) => Ok(Opened {
                    disk,
                    tables,
                    saved: None,
                    is_copy: false,
                }),
                Err(Trouble::Damaged(reason)) => {
                    let disk = Disk::open(InMemoryBackend::new(), secret, false)?;
                    let saved = self.save(&file, disk, secret, reason)?;
                    Ok(Opened {
                        is_copy: true,
                        ..saved
                    })
                }
                Err(trouble) => Err(trouble),
            }
        })
    }

    fn replace(&self, damaged: File, secret: Secret, reason: String) -> Result<Opened, Trouble> {
        let new = open_private(&self.new_store(), true)?;
        let disk = Disk::open(file_backend(new)?, secret, false)?;
        let opened = self.save(&damaged, disk, secret, reason)?;
        std::fs::rename(self.store(), self.damaged())?;
        std::fs::rename(self.new_store(), self.store())?;
        File::open(&self.directory)?.sync_all()?;
        Ok(opened)
    }

    /// Fills a database with what can be read of a damaged file.
    fn save(
        &self,
        damaged: &File,
        disk: Disk,
        secret: Secret,
        reason: String,
    ) -> Result<Opened, Trouble> {
        let mut tables = Tables::read(&disk, self.max_bytes)?;
        let mut found = Vec::new();
        scan(damaged, &secret, |record| {
            found.push(record);
            if found.len() < RESTORE_BATCH {
                return Ok(());
            }
            let restored = tables.restore(&disk, &found);
            found.clear();
            restored
        })?;
        tables.restore(&disk, &found)?;
        let count = tables.usage.packets + tables.usage.seqs;
        Ok(Opened {
            disk,
            tables,
            saved: Some((reason, count)),
            is_copy: false,
        })
    }

    /// None if it is missing or no secret.
    fn read_secret(&self) -> io::Result<Option<Secret>> {
        let path = self.secret();
        let bytes = match File::open(&path) {
            Ok(file) => {
                make_private(&file, &path)?;
                // One byte more than a secret shows one that is too long.
                let mut bytes = Vec::new();
                file.take(SECRET_LEN + 1).read_to_end(&mut bytes)?;
                bytes
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(<[u8; 16]>::try_from(bytes).ok().map(Secret))
    }

    fn make_secret(&self) -> io::Result<Secret> {
        let secret = Secret::random();
        let new = self.directory.join("packets.secret.new");
        let mut file = open_private(&new, true)?;
        file.write_all(&secret.0)?;
        file.sync_all()?;
        std::fs::rename(new, self.secret())?;
        File::open(&self.directory)?.sync_all()?;
        Ok(secret)
    }

    fn compact(&self, disk: &mut Disk, tables: &Tables) {
        let needed = tables.usage.bytes + tables.usage.seqs * SEQ_LEN;
        let len = std::fs::metadata(self.store()).map_or(0, |metadata| metadata.len());
        if len < COMPACT_LEN || len < needed * COMPACT_FACTOR {
            return;
        }
        let compacted = disk.compact();
        let shorter = std::fs::metadata(self.store()).map_or(0, |metadata| metadata.len());
        tracing::info!(
            ?compacted,
            from = len,
            to = shorter,
            "compacted the packet store"
        );
    }
}

/// Looks at all of a file without changing it.
fn inspect(file: &File, secret: Secret) -> Result<(), Trouble> {
    let disk = Disk::open(Overlay::new(file.try_clone()?)?, secret, true)?;
    let facts = disk.check_facts();
    disk.close();
    facts
}

fn file_backend(file: File) -> Result<FileBackend, Trouble> {
    FileBackend::new(file).map_err(|error| redb::Error::from(error).into())
}

fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE).create(path)
}

fn open_private(path: &Path, truncate: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(truncate);
    let file = options.mode(FILE_MODE).open(path)?;
    make_private(&file, path)?;
    Ok(file)
}

/// Closes a file to others, whoever opened it to them. It may belong to somebody else.
fn make_private(file: &File, path: &Path) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o077 != 0
        && let Err(error) = file.set_permissions(Permissions::from_mode(FILE_MODE))
    {
        tracing::debug!(path = %path.display(), %error, "others can read the packet store");
    }
    Ok(())
}

/// Gives every record in a file to `take`, wherever it stands, but in another record.
fn scan(
    file: &File,
    secret: &Secret,
    mut take: impl FnMut(Record) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let mut buffer = vec![0; CHUNK_LEN + MAX_RECORD_LEN];
    let mut start = 0_u64;
    loop {
        let len = read_what_can_be_read(file, start, &mut buffer)?;
        let bytes = buffer.get(..len).unwrap_or_default();
        let mut at = 0;
        // A record that begins in the overlap is found in the next chunk.
        while at < len.min(CHUNK_LEN) {
            let here = bytes.get(at..).unwrap_or_default();
            let record = here.starts_with(&MARK).then(|| Record::read(here, secret));
            if let Some(record) = record.flatten() {
                at += record.stored_len();
                take(record)?;
            } else {
                at += 1;
            }
        }
        if len <= CHUNK_LEN {
            return Ok(());
        }
        start += u64::try_from(at).unwrap_or(u64::MAX);
    }
}

/// Fills the buffer as far as the file goes, with zeros where it cannot be read.
fn read_what_can_be_read(file: &File, start: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let end = file.metadata()?.len();
    let wanted = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
    let wanted = wanted.min(buffer.len());
    let mut at = 0;
    while at < wanted {
        let rest = buffer.get_mut(at..wanted).unwrap_or_default();
        let from = start + u64::try_from(at).unwrap_or(u64::MAX);
        match file.read_at(rest, from) {
            Ok(0) => return Ok(at),
            Ok(count) => at += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                let sector = rest.len().min(SECTOR_LEN);
                rest.get_mut(..sector).unwrap_or_default().fill(0);
                at += sector;
            }
        }
    }
    Ok(wanted)
}
