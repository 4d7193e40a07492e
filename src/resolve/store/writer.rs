//! The store's own thread: opens the store, writes changes, and tries again when that fails.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::disk::{Tables, Trouble};
use super::files::Opened;
use super::pending::{Changes, MAX_CHANGES};
use super::{COMMIT_INTERVAL, Pending, Shared, StoreState};

/// So many changes are written at once, without gathering more.
pub(super) const MANY_CHANGES: usize = MAX_CHANGES / 4;
/// First and longest wait before a store that failed is opened to write again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(300);

/// Works until the store is closed.
pub(super) fn run(shared: &Shared) {
    let mut writer = Writer {
        shared,
        tables: None,
        failures: 0,
        retry_at: Instant::now(),
        distrusted: None,
        reads_copy: false,
    };
    writer.open();
    while writer.wait() {
        writer.work();
    }
    writer.finish();
}

struct Writer<'a> {
    shared: &'a Shared,
    /// There while the store can be written.
    tables: Option<Tables>,
    /// Failures since something was last written.
    failures: u32,
    /// When it is opened to write again, while it cannot be written.
    retry_at: Instant,
    /// What was found wrong with the file: it is to be replaced, however well it looks.
    distrusted: Option<String>,
    /// What is read is a copy in memory of a damaged file that could not be replaced. It stays until the
    /// file can be.
    reads_copy: bool,
}

impl Writer<'_> {
    /// Waits for something to do; false if that is to finish.
    fn wait(&self) -> bool {
        let mut pending = self.shared.lock();
        let idle = |pending: &mut Pending| {
            let has_work = self.tables.is_some() && !pending.waiting.is_empty();
            !pending.is_closing && pending.trouble.is_none() && !has_work
        };
        if self.tables.is_some() {
            let work = self.shared.work.wait_while(pending, idle);
            pending = work.unwrap_or_else(PoisonError::into_inner);
            let gathering = |pending: &mut Pending| {
                let many = pending.waiting.len() >= MANY_CHANGES;
                !pending.is_closing && pending.trouble.is_none() && !many
            };
            let work = &self.shared.work;
            let gathered = work.wait_timeout_while(pending, COMMIT_INTERVAL, gathering);
            pending = gathered.unwrap_or_else(PoisonError::into_inner).0;
        } else {
            let left = self.retry_at.saturating_duration_since(Instant::now());
            let waited = self.shared.work.wait_timeout_while(pending, left, idle);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !pending.is_closing
    }

    fn work(&mut self) {
        let trouble = self.shared.lock().trouble.take();
        if let Some(trouble) = trouble {
            self.fail(trouble);
        } else if self.tables.is_some() {
            self.write();
        } else if self.retry_at <= Instant::now() {
            self.open();
        }
    }

    /// Opens the store, to write if possible, else to read. What is open to read stays so until the
    /// file may be written, a copy until it is written.
    fn open(&mut self) {
        let release = || {
            if !self.reads_copy {
                close_disk(self.shared);
            }
        };
        let opened = self.shared.files.open(self.distrusted.as_deref(), release);
        match opened {
            Ok(opened) => {
                self.distrusted = None;
                self.tables = Some(self.publish(opened, None));
                self.settle(StoreState::Ready);
            }
            Err(trouble) => self.open_to_read(&trouble),
        }
    }

    /// Opens the store to read if it is not open, and sets the time when it is tried again to write.
    fn open_to_read(&mut self, trouble: &Trouble) {
        let delay = RETRY_DELAY.saturating_mul(1 << self.failures.min(16));
        self.retry_at = Instant::now() + delay.min(MAX_RETRY_DELAY);
        self.failures += 1;
        let disk = self.shared.disk.read();
        if disk.unwrap_or_else(PoisonError::into_inner).is_none() {
            match self.shared.files.open_to_read() {
                Ok(opened) => {
                    self.publish(opened, Some(trouble));
                }
                Err(error) => tracing::debug!(%error, "the packet store cannot be read either"),
            }
        }
        self.settle(state_of(trouble));
    }

    /// Hands a database to the readers, one to read alone because of a `trouble`. Gives back what the
    /// writer needs.
    fn publish(&mut self, opened: Opened, trouble: Option<&Trouble>) -> Tables {
        let Opened {
            disk,
            tables,
            saved,
            is_copy,
        } = opened;
        self.reads_copy = is_copy;
        let mut held = self
            .shared
            .disk
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = held.replace(disk);
        drop(held);
        if let Some(before) = before {
            before.close();
        }
        let mut pending = self.shared.lock();
        pending.usage = tables.usage;
        pending.generation += 1;
        let Some((reason, records)) = saved else {
            return tables;
        };
        if trouble.is_none() {
            pending.salvaged += records;
        }
        drop(pending);
        let (path, kept_as) = (self.shared.files.store(), self.shared.files.damaged());
        let path = path.display();
        match trouble {
            None => tracing::warn!(
                %path, kept_as = %kept_as.display(), %reason, records,
                "the packet store is damaged or of another version: \
                 what could be read of it is kept, and a new one takes its place"
            ),
            Some(trouble) => tracing::warn!(
                %path, %reason, records, %trouble,
                "the packet store is damaged or of another version, and cannot be replaced: \
                 what could be read of it is in memory, and the file is left as it is"
            ),
        }
        tables
    }

    /// Writes what is waiting.
    fn write(&mut self) {
        let Some(tables) = &mut self.tables else {
            return;
        };
        let mut pending = self.shared.lock();
        if tables.advance() {
            pending.touched.clear();
        }
        let changes = Arc::new(std::mem::take(&mut pending.waiting));
        pending.writing = Arc::clone(&changes);
        drop(pending);
        let held = self
            .shared
            .disk
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(disk) = held.as_ref() else {
            return;
        };
        let written = tables.apply(disk, &changes);
        drop(held);
        let mut pending = self.shared.lock();
        let writing = std::mem::take(&mut pending.writing);
        match written {
            Ok(()) => {
                pending.usage = tables.usage;
                pending.refused += std::mem::take(&mut tables.refused);
                self.failures = 0;
                drop(pending);
                self.shared.news.notify_all();
            }
            Err(trouble) => {
                drop(changes);
                put_back(&mut pending, writing);
                drop(pending);
                self.fail(trouble);
            }
        }
    }

    /// The database is of no more use. A damaged one is replaced at once, but not again and again.
    fn fail(&mut self, trouble: Trouble) {
        self.tables = None;
        close_disk(self.shared);
        if let Trouble::Damaged(reason) = &trouble {
            self.distrusted = Some(reason.clone());
            if self.failures == 0 {
                self.failures += 1;
                return self.open();
            }
        }
        self.open_to_read(&trouble);
    }

    /// Tells how the store is; logs it if that is another state than before.
    fn settle(&self, state: StoreState) {
        let mut pending = self.shared.lock();
        let before = std::mem::replace(&mut pending.state, state.clone());
        (pending.is_reopening, pending.trouble) = (false, None);
        drop(pending);
        self.shared.news.notify_all();
        if before == state {
            return;
        }
        let path = self.shared.files.store();
        let path = path.display();
        match state {
            StoreState::ReadOnly(reason) => tracing::warn!(
                %path, reason,
                "the packet store may not be written: it is read, and packets that come now are kept \
                 in memory alone"
            ),
            StoreState::Failing(reason) => tracing::warn!(
                %path, reason,
                "the packet store cannot be written: packets that come now are kept in memory, and it \
                 is tried again"
            ),
            StoreState::Ready if before == StoreState::Opening => {
                tracing::info!(%path, "opened the packet store");
            }
            StoreState::Ready => tracing::info!(%path, "the packet store works again"),
            StoreState::Opening | StoreState::Off(_) => {}
        }
    }

    /// A last try to write what is left.
    fn finish(&mut self) {
        if !self.shared.lock().waiting.is_empty() {
            if self.tables.is_none() {
                self.open();
            }
            self.write();
        }
        self.tables = None;
        close_disk(self.shared);
        let left = self.shared.lock().waiting.len();
        if left > 0 {
            let path = self.shared.files.store();
            tracing::warn!(
                path = %path.display(), packets = left,
                "the packet store is closed, and these are not in it"
            );
        }
        self.settle(StoreState::Off("closed".to_owned()));
    }
}

/// Closes what is open. Readers wait from here until the store is settled.
fn close_disk(shared: &Shared) {
    shared.lock().is_reopening = true;
    let mut held = shared.disk.write().unwrap_or_else(PoisonError::into_inner);
    let disk = held.take();
    drop(held);
    if let Some(disk) = disk {
        disk.close();
    }
}

/// What was not written waits again, before what has come since.
fn put_back(pending: &mut Pending, writing: Arc<Changes>) {
    let mut older = Arc::unwrap_or_clone(writing);
    older.then(std::mem::take(&mut pending.waiting));
    pending.dropped += std::mem::take(&mut older.dropped);
    pending.waiting = older;
}

fn state_of(trouble: &Trouble) -> StoreState {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    if let Trouble::Io(error) = trouble
        && matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
    {
        return StoreState::ReadOnly(error.to_string());
    }
    StoreState::Failing(trouble.to_string())
}
