//! The files of the store: opening, and saving what can be read of a damaged one.
//!
//! | file | |
//! |---|---|
//! | `packets.redb` | the store |
//! | `packets.new` | a store that is being built from a damaged one |
//! | `packets.damaged` | the last one that was damaged or of another version, as it was found |

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::Database;
use redb::backends::{FileBackend, InMemoryBackend};

use super::disk::{Tables, Trouble, check_schema, close_database, open_database};
use super::overlay::Overlay;
use super::record::{MARK, MAX_RECORD_LEN, Record};

/// Only for us: the store tells what was asked.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// A file that is this many times as long as its records should need is compacted when opened ...
const COMPACT_FACTOR: u64 = 3;
/// ... unless it is this short.
const COMPACT_LEN: u64 = 8 << 20;
/// What a key without a packet takes in the file.
const SEQ_LEN: u64 = 200;
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
    pub(super) database: Database,
    pub(super) tables: Tables,
    /// Why there was something to save, and how much was found.
    pub(super) saved: Option<(String, u64)>,
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

    fn new_store(&self) -> PathBuf {
        self.directory.join("packets.new")
    }

    /// Opens the store to write. One that is damaged, or was found to be (`distrusted` says how), is
    /// moved aside, and what can be read of it is in the new one.
    pub(super) fn open(&self, distrusted: Option<&str>) -> Result<Opened, Trouble> {
        create_directory(&self.directory)?;
        let (path, new) = (self.store(), self.new_store());
        if new.exists() && !path.exists() {
            // A rebuilding was cut short between its two renamings.
            std::fs::rename(&new, &path)?;
        }
        let existed = path.exists();
        let file = open_private(&path, false)?;
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
        let is_empty = file.metadata()?.len() == 0;
        let damage = match distrusted {
            Some(reason) => Some(reason.to_owned()),
            None if is_empty => None,
            None => match inspect(&file) {
                Ok(()) => None,
                Err(Trouble::Damaged(reason)) => Some(reason),
                Err(trouble) => return Err(trouble),
            },
        };
        if let Some(reason) = damage {
            return self.replace(file, reason);
        }
        let mut database = open_database(file_backend(file)?, false)?;
        let tables = Tables::read(&database, self.max_bytes)?;
        self.compact(&mut database, &tables);
        Ok(Opened {
            database,
            tables,
            // There is nothing to move aside.
            saved: (is_empty && existed).then(|| ("the file is empty".to_owned(), 0)),
        })
    }

    /// Opens the store without writing to it; a damaged one is read into memory as far as it can be.
    pub(super) fn open_to_read(&self) -> Result<Opened, Trouble> {
        let file = File::open(self.store())?;
        file.try_lock_shared().map_err(io::Error::from)?;
        let readable = || {
            let database = open_database(Overlay::new(file.try_clone()?)?, true)?;
            check_schema(&database)?;
            let tables = Tables::read(&database, self.max_bytes)?;
            Ok((database, tables))
        };
        match readable() {
            Ok((database, tables)) => Ok(Opened {
                database,
                tables,
                saved: None,
            }),
            Err(Trouble::Damaged(reason)) => {
                let database = open_database(InMemoryBackend::new(), false)?;
                self.save(&file, database, reason)
            }
            Err(trouble) => Err(trouble),
        }
    }

    fn replace(&self, damaged: File, reason: String) -> Result<Opened, Trouble> {
        let new = open_private(&self.new_store(), true)?;
        let opened = self.save(&damaged, open_database(file_backend(new)?, false)?, reason)?;
        std::fs::rename(self.store(), self.damaged())?;
        std::fs::rename(self.new_store(), self.store())?;
        File::open(&self.directory)?.sync_all()?;
        Ok(opened)
    }

    /// Fills a database with what can be read of a damaged file.
    fn save(&self, damaged: &File, database: Database, reason: String) -> Result<Opened, Trouble> {
        let mut tables = Tables::read(&database, self.max_bytes)?;
        let mut found = Vec::new();
        scan(damaged, |record| {
            found.push(record);
            if found.len() < RESTORE_BATCH {
                return Ok(());
            }
            let restored = tables.restore(&database, &found);
            found.clear();
            restored
        })?;
        tables.restore(&database, &found)?;
        let count = tables.usage.packets + tables.usage.seqs;
        Ok(Opened {
            database,
            tables,
            saved: Some((reason, count)),
        })
    }

    fn compact(&self, database: &mut Database, tables: &Tables) {
        let needed = tables.usage.bytes + tables.usage.seqs * SEQ_LEN;
        let len = std::fs::metadata(self.store()).map_or(0, |metadata| metadata.len());
        if len < COMPACT_LEN || len < needed * COMPACT_FACTOR {
            return;
        }
        let compacted = crate::panics::isolate(|| database.compact());
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
fn inspect(file: &File) -> Result<(), Trouble> {
    let database = open_database(Overlay::new(file.try_clone()?)?, true)?;
    let schema = check_schema(&database);
    close_database(database);
    schema
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
    // One that others could read, whoever made it so. It may belong to somebody else.
    if file.metadata()?.permissions().mode() & 0o077 != 0
        && let Err(error) = file.set_permissions(Permissions::from_mode(FILE_MODE))
    {
        tracing::debug!(path = %path.display(), %error, "others can read the packet store");
    }
    Ok(file)
}

/// Gives every record in a file to `take`, wherever it stands.
fn scan(file: &File, mut take: impl FnMut(Record) -> Result<(), Trouble>) -> Result<(), Trouble> {
    let mut buffer = vec![0; CHUNK_LEN + MAX_RECORD_LEN];
    let mut start = 0_u64;
    loop {
        let len = read_what_can_be_read(file, start, &mut buffer)?;
        let bytes = buffer.get(..len).unwrap_or_default();
        // A record that begins in the overlap is found in the next chunk.
        for at in 0..len.min(CHUNK_LEN) {
            let here = bytes.get(at..).unwrap_or_default();
            if here.starts_with(&MARK)
                && let Some(record) = Record::read(here)
            {
                take(record)?;
            }
        }
        if len <= CHUNK_LEN {
            return Ok(());
        }
        start += u64::try_from(CHUNK_LEN).unwrap_or(u64::MAX);
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
