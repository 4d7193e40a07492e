//! The packet store: what is known of keys, on disk across restarts.
//!
//! Every verified packet is kept by its key until room is needed, and the highest `seq` of a key for
//! longer than its packet, so that an old packet cannot come back after a restart. Nothing is served
//! from here that is not verified when it is read.
//!
//! - A caller never waits for the disk to write: changes are gathered in memory ([`pending`]) and
//!   written by a thread of the store's own ([`writer`]), a batch at a time.
//! - What is killed loses the last second at most: while there are changes, a batch is on the disk every
//!   [`COMMIT_INTERVAL`] and the time that writing takes.
//! - Whatever is wrong with the file, the program goes on, at worst without a store. A damaged file is
//!   moved aside and each record that is still whole in it is kept ([`files`]); for that a record proves
//!   itself ([`record`]). A file that cannot be written is read all the same. What panics inside the
//!   database library costs the store, not the process.
//! - No wall clock decides what is kept: what is of least use is told by a count of hours in which the
//!   store ran. When a packet was last confirmed is wall-clock time, and decides how long it is served
//!   stale.
//! - What strangers sign proves nothing but itself: the other records of the store are known by a secret
//!   beside it. If that is lost, so are the `seq`s that no packet proves ([`files`]).
//!
//! Two stores on one directory do no harm: the second finds the file locked, says so, keeps its changes
//! in memory and tries again until the first is closed. So before a reload the old one is to be closed.
//!
//! What is forgotten is no longer found, but the file may have its bytes until they are overwritten.
//!
//! The file is at most about two and a half times as long as what its packets count for and 200 bytes for
//! each key without a packet, for the database doubles it when it is full; under churn it stays so. To
//! write one packet alone takes 40 KiB, of many at once 7 KiB each. 50,000 packets are opened in 60 ms, a
//! read takes 60 microseconds, most of them for the signature, and a damaged file of 68 MiB is saved in
//! 1.5 s (a server's disk, the file in memory).

mod disk;
mod files;
mod overlay;
mod pace;
mod pending;
mod record;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::pkarr::{PublicKey, SignedPacket};
use disk::{Disk, OnDisk, Trouble, Usage};
use files::Files;
use pace::{Pace, READ_TIMEOUT};
use pending::{Change, Changes};
use record::Record;

/// How long changes are gathered before they are written.
const COMMIT_INTERVAL: Duration = Duration::from_millis(250);
/// Reads at once, each on a thread of its own. One takes microseconds.
const MAX_READS: usize = 16;
/// Longest time that closing waits for the disk: with the time for questions in flight it must be less
/// than what the service unit gives a stop (`TimeoutStopSec=`).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Keys known to have been touched in this tick, so that they need not be looked at again.
const MAX_TOUCHED: usize = 16_384;

/// Where the store is and how much it may hold.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The directory of its files; created if it is missing.
    pub directory: PathBuf,
    /// Bound of its packets in bytes, each with an overhead of 200.
    pub max_bytes: u64,
}

/// What is known of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Its newest packet that could be used. May be older than `seq`.
    pub packet: Option<StoredPacket>,
    /// The highest `seq` that was ever seen, as far as that is still known.
    pub seq: Option<u64>,
}

/// A packet and when the network last had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPacket {
    /// The packet, verified.
    pub packet: SignedPacket,
    /// By the wall clock, which may have been wrong; up to ten minutes early. For judging staleness,
    /// not correctness.
    pub confirmed: SystemTime,
}

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StoreHealth {
    /// Whether it can be used.
    pub state: StoreState,
    /// Packets on disk.
    pub packets: u64,
    /// What they count for, in bytes; see [`StoreSettings::max_bytes`].
    pub bytes: u64,
    /// Keys of which only the highest `seq` is on disk.
    pub seqs: u64,
    /// Keys with changes that are not on disk yet.
    pub dirty: usize,
    /// Records that were saved from damaged files since the start, each time that one was replaced.
    pub salvaged: u64,
    /// Changes that were lost since the start, for there were too many and the disk took none.
    pub dropped: u64,
    /// Records that were thrown away since the start, for they proved nothing.
    pub refused: u64,
}

/// Whether a store can be used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreState {
    /// Not yet.
    Opening,
    /// It is read and written.
    Ready,
    /// It may not be written, for the reason given. It is read; changes are gathered as far as there is
    /// room.
    ReadOnly(String),
    /// It cannot be written or opened, for the reason given, which may pass. It is read if possible;
    /// changes are gathered as far as there is room.
    Failing(String),
    /// It is neither read nor written any more.
    Off(String),
}

/// The packet store. Dropping it writes what is left, without waiting for it.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    reads: Arc<Semaphore>,
}

/// What callers and the store's thread have in common.
#[derive(Debug)]
struct Shared {
    files: Files,
    pending: Mutex<Pending>,
    /// Wakes the thread.
    work: Condvar,
    /// Wakes those who wait for the thread.
    news: Condvar,
    /// What is read from. Written to by the thread alone.
    disk: RwLock<Option<Disk>>,
    pace: Pace,
}

#[derive(Debug)]
struct Pending {
    /// What the thread has not seen.
    waiting: Changes,
    /// What the thread is writing.
    writing: Arc<Changes>,
    touched: HashSet<PublicKey>,
    /// What a reader found to be wrong.
    trouble: Option<Trouble>,
    /// The database is closed for the moment; readers wait.
    is_reopening: bool,
    /// Counts the databases that were opened.
    generation: u64,
    is_closing: bool,
    state: StoreState,
    usage: Usage,
    salvaged: u64,
    dropped: u64,
    refused: u64,
}

impl Store {
    /// Starts opening the store. Returns at once; reads wait for it within their time.
    pub fn open(settings: StoreSettings) -> Arc<Self> {
        let shared = Arc::new(Shared {
            files: Files::new(settings.directory, settings.max_bytes),
            pending: Mutex::new(Pending {
                waiting: Changes::default(),
                writing: Arc::default(),
                touched: HashSet::new(),
                trouble: None,
                is_reopening: true,
                generation: 0,
                is_closing: false,
                state: StoreState::Opening,
                usage: Usage::default(),
                salvaged: 0,
                dropped: 0,
                refused: 0,
            }),
            work: Condvar::new(),
            news: Condvar::new(),
            disk: RwLock::new(None),
            pace: Pace::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("packet store".to_owned());
        if let Err(error) = thread.spawn(move || writer::run(&of_thread)) {
            tracing::warn!(%error, "no thread for the packet store: packets are kept in memory alone");
            let mut pending = shared.lock();
            pending.state = StoreState::Off(error.to_string());
            pending.is_reopening = false;
        }
        Arc::new(Self {
            shared,
            reads: Arc::new(Semaphore::new(MAX_READS)),
        })
    }

    /// What is known of a key: `Some` with nothing in it if that is nothing, and `None` if it is not
    /// known whether the disk has something. That is so while the store cannot be read, and where it
    /// takes over a second, or 20 ms if the last read ran into its time. A packet that waits for the disk
    /// is known all the same.
    pub async fn get(&self, key: PublicKey) -> Option<Remembered> {
        let reads = Arc::clone(&self.reads);
        let shared = Arc::clone(&self.shared);
        let read = async move {
            let permit = reads.acquire_owned().await;
            // The permit stays with a read that hangs, so that their number is bounded.
            let read = move || {
                let start = Instant::now();
                let remembered = shared.read(&key);
                // Perhaps nobody waits for it any more.
                if remembered.is_some() && start.elapsed() < READ_TIMEOUT {
                    shared.note_read(true);
                }
                drop(permit);
                remembered
            };
            tokio::task::spawn_blocking(read).await.ok().flatten()
        };
        let read = tokio::time::timeout(self.shared.pace.patience(), read).await;
        read.unwrap_or_else(|_| {
            self.shared.note_read(false);
            self.shared.read_waiting(&key)
        })
    }

    /// Remembers a packet that the network had at `confirmed`. Does nothing if a newer one is known.
    pub fn put(&self, packet: &SignedPacket, confirmed: SystemTime) {
        let confirmed = confirmed.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.change(packet.key(), |change| {
            change.put(packet.clone(), confirmed.as_secs());
        });
    }

    /// Remembers that a newer item was seen, signed by the key, that is no packet.
    pub fn put_seq(&self, key: PublicKey, seq: u64) {
        self.change(key, |change| change.put_seq(seq));
    }

    /// Remembers that the key was asked for, to an hour.
    pub fn touch(&self, key: PublicKey) {
        let mut pending = self.shared.lock();
        if pending.touched.contains(&key) {
            return;
        }
        if pending.touched.len() >= MAX_TOUCHED {
            pending.touched.clear();
        }
        pending.touched.insert(key);
        drop(pending);
        self.change(key, |change| change.touched = true);
    }

    /// Forgets the packet of a key, or all packets; the highest `seq` of each stays.
    pub fn forget(&self, key: Option<PublicKey>) {
        match key {
            Some(key) => self.change(key, Change::forget),
            None => {
                self.shared.lock().waiting.forget_all();
                self.shared.work.notify_all();
            }
        }
    }

    /// Waits until it is known whether the store can be used, for this long at most. Blocks: for a start,
    /// so that the first who ask find it open.
    pub fn wait_until_open(&self, longest: Duration) {
        let pending = self.shared.lock();
        let opening = |pending: &mut Pending| pending.state == StoreState::Opening;
        let waited = self
            .shared
            .news
            .wait_timeout_while(pending, longest, opening);
        drop(waited);
    }

    /// Whether an answer that did not come in time is to be expected later.
    pub fn may_answer(&self) -> bool {
        let pending = self.shared.lock();
        matches!(pending.state, StoreState::Opening | StoreState::Ready)
    }

    /// How the store is.
    pub fn health(&self) -> StoreHealth {
        let pending = self.shared.lock();
        StoreHealth {
            state: pending.state.clone(),
            packets: pending.usage.packets,
            bytes: pending.usage.bytes,
            seqs: pending.usage.seqs,
            dirty: pending.waiting.len() + pending.writing.len(),
            salvaged: pending.salvaged,
            dropped: pending.dropped,
            refused: pending.refused,
        }
    }

    /// Writes what is left and closes the files. If that fails, or takes over 2 s, it is logged.
    pub async fn close(&self) {
        let shared = Arc::clone(&self.shared);
        let wait = move || {
            let mut pending = shared.lock();
            pending.is_closing = true;
            shared.work.notify_all();
            let open = |pending: &mut Pending| !matches!(pending.state, StoreState::Off(_));
            let waited = shared.news.wait_timeout_while(pending, CLOSE_TIMEOUT, open);
            waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
        };
        if tokio::task::spawn_blocking(wait).await.unwrap_or(true) {
            let path = self.shared.files.store();
            tracing::warn!(path = %path.display(), "the packet store does not close");
        }
    }

    fn change(&self, key: PublicKey, change: impl FnOnce(&mut Change)) {
        let mut pending = self.shared.lock();
        if matches!(pending.state, StoreState::Off(_)) {
            return;
        }
        let was_empty = pending.waiting.is_empty();
        change(pending.waiting.of(key));
        let is_many = pending.waiting.len() == writer::MANY_CHANGES;
        let lost = std::mem::take(&mut pending.waiting.dropped);
        let is_first_lost = lost > 0 && pending.dropped == 0;
        pending.dropped += lost;
        drop(pending);
        if was_empty || is_many {
            self.shared.work.notify_all();
        }
        if is_first_lost {
            let path = self.shared.files.store();
            tracing::warn!(
                path = %path.display(),
                "too many packets wait for the disk: the oldest changes are lost"
            );
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on disk and in memory of a key. Waits for the store to be opened.
    fn read(&self, key: &PublicKey) -> Option<Remembered> {
        // Taken first: what is written in between would be seen in neither place.
        let changes = self.changes(key);
        // A database that fails is opened anew, and then may be read.
        let found = match self.read_disk(key) {
            Some(Err(())) => self.read_disk(key),
            found => found,
        };
        let Some(Ok(found)) = found else {
            return self.read_waiting(key);
        };
        let is_readable = !matches!(found, OnDisk::Unusable);
        let record = match found {
            OnDisk::Record(record) => Some(record),
            OnDisk::Nothing | OnDisk::Unusable => None,
        };
        let record = changed(record, key, &changes);
        let is_known = record.is_some();
        let remembered = record.and_then(Remembered::verify);
        if !is_readable || is_known && remembered.is_none() {
            self.lock().waiting.of(*key).distrusted = true;
            self.work.notify_all();
        }
        Some(remembered.unwrap_or_default())
    }

    /// What waits for the disk, without what is there. Only a packet says enough.
    fn read_waiting(&self, key: &PublicKey) -> Option<Remembered> {
        let record = changed(None, key, &self.changes(key))?;
        Remembered::verify(record).filter(|remembered| remembered.packet.is_some())
    }

    /// What the disk has of a key; none without a database. An error is reported to the thread, which
    /// opens the database anew.
    fn read_disk(&self, key: &PublicKey) -> Option<Result<OnDisk, ()>> {
        let reopening = |pending: &mut Pending| pending.is_reopening;
        let waited = self
            .news
            .wait_timeout_while(self.lock(), READ_TIMEOUT, reopening);
        let generation = waited.unwrap_or_else(PoisonError::into_inner).0.generation;
        let found = {
            let disk = self.disk.read().unwrap_or_else(PoisonError::into_inner);
            disk.as_ref()?.record(key)
        };
        Some(found.map_err(|trouble| {
            let mut pending = self.lock();
            if pending.generation == generation {
                (pending.trouble, pending.is_reopening) = (Some(trouble), true);
                self.work.notify_all();
            }
        }))
    }

    /// What the disk may not know yet of a key.
    fn changes(&self, key: &PublicKey) -> [KeyChanges; 2] {
        let pending = self.lock();
        [pending.writing.as_ref(), &pending.waiting].map(|changes| KeyChanges {
            forget_all: changes.forget_all,
            change: changes.get(key).cloned(),
        })
    }

    /// Says when reads have become slow, and when they are quick again.
    fn note_read(&self, in_time: bool) {
        if !self.pace.note(in_time) {
            return;
        }
        let path = self.files.store();
        let path = path.display();
        if in_time {
            tracing::info!(%path, "the packet store is read in time again");
        } else {
            tracing::warn!(%path, "the packet store takes over a second to read");
        }
    }
}

/// What has happened to one key, of [`Changes`] to many.
struct KeyChanges {
    forget_all: bool,
    change: Option<Change>,
}

/// What is known of a key, when the disk has `record`.
fn changed(record: Option<Record>, key: &PublicKey, changes: &[KeyChanges]) -> Option<Record> {
    let mut record = record;
    for KeyChanges { forget_all, change } in changes {
        if *forget_all && let Some(record) = &mut record {
            record.drop_packet();
        }
        if let Some(change) = change {
            record = Record::changed(record, key, change, 0);
        }
    }
    record
}

impl Remembered {
    /// What a record says; none if its packet is not signed.
    fn verify(record: Record) -> Option<Self> {
        let confirmed = UNIX_EPOCH.checked_add(Duration::from_secs(record.confirmed));
        let packet = record.packet().map(|packet| StoredPacket {
            packet,
            confirmed: confirmed.unwrap_or(UNIX_EPOCH),
        });
        (packet.is_some() || !record.has_packet()).then_some(Self {
            packet,
            seq: Some(record.seq),
        })
    }
}
