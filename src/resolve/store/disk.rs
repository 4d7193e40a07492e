//! The tables of the store, and what is done to them. Knows redb, not files.
//!
//! `records` has one [`Record`] a key; `order` lists the same keys, those without a packet first, each
//! kind by the tick at which it was last of use, with what the record counts for. Both change in one
//! transaction. `facts` tells the number of the schema, and a check by which the secret is known again.

use std::time::Duration;

use redb::{
    Database, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    WriteTransaction,
};
use tokio::time::Instant;

use super::pending::Changes;
use super::record::{Record, Secret};
use crate::panics::isolate;
use crate::pkarr::PublicKey;

/// The number of what is written here. Another one in a file means another version of this program.
pub(super) const SCHEMA: u64 = 1;
/// Keys without a packet whose highest `seq` is remembered; the oldest go first. They count for
/// 26 MB, and are one new key a second for a day and a half.
const MAX_SEQS: u64 = 131_072;
/// What a packet counts for beside its record: the key again, its place in the order, and about a fifth
/// for the room that a B-tree leaves in its pages.
pub(super) const RECORD_OVERHEAD: u64 = 200;
/// How long a tick lasts.
const TICK: Duration = Duration::from_secs(3600);
/// What redb may keep in memory. The system keeps the file in memory as well.
const CACHE_LEN: usize = 2 << 20;

const RECORDS: TableDefinition<'static, &[u8; 32], &[u8]> = TableDefinition::new("records");
const ORDER: TableDefinition<'static, &[u8; 37], u32> = TableDefinition::new("order");
const FACTS: TableDefinition<'static, &str, u64> = TableDefinition::new("facts");
const SCHEMA_KEY: &str = "schema";
/// The check of no bytes.
const SECRET_KEY: &str = "secret";

/// What is wrong with a store.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// Another one has it open.
    #[error("it is in use by another process, or by this one before a reload")]
    Locked,
    /// What the file says makes no sense.
    #[error("{0}")]
    Damaged(String),
    /// The system refuses.
    #[error("{0}")]
    Io(std::io::Error),
}

impl From<redb::Error> for Trouble {
    fn from(error: redb::Error) -> Self {
        use redb::Error::{DatabaseAlreadyOpen, Io, LockProtocolMismatch, PreviousIo};
        if matches!(error, DatabaseAlreadyOpen | LockProtocolMismatch) {
            Self::Locked
        } else if matches!(error, PreviousIo) {
            Self::Io(std::io::Error::other("it failed before"))
        } else if let Io(error) = error {
            Self::from(error)
        } else {
            Self::Damaged(error.to_string())
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof, WouldBlock};
        // What redb makes of a file that ends too early.
        if matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof) {
            Self::Damaged(error.to_string())
        } else if error.kind() == WouldBlock {
            Self::Locked
        } else {
            Self::Io(error)
        }
    }
}

/// Runs what redb may panic in, on a damaged file.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    isolate(run).unwrap_or_else(|panic| Err(Trouble::Damaged(panic)))
}

/// An open database, and the secret that its records are checked with.
#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
    secret: Secret,
}

impl Disk {
    /// Opens a database or begins one, and looks at all of it if `check`.
    pub(super) fn open(
        backend: impl redb::StorageBackend,
        secret: Secret,
        check: bool,
    ) -> Result<Self, Trouble> {
        let open = move || {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_LEN);
            builder.set_check_integrity_on_open(check);
            let database = builder.create_with_backend(backend);
            let database = database.map_err(|error| Trouble::from(redb::Error::from(error)))?;
            Ok(Self { database, secret })
        };
        guarded(open)
    }

    /// Closes it; what panics there is lost.
    pub(super) fn close(self) {
        let close = || {
            self.database
                .close()
                .map_err(|e| redb::Error::from(e).into())
        };
        if let Err(error) = guarded(close) {
            tracing::debug!(%error, "the packet store was not closed cleanly");
        }
    }

    pub(super) fn compact(&mut self) -> Result<bool, Trouble> {
        guarded(|| {
            let compacted = self.database.compact();
            compacted.map_err(|error| redb::Error::from(error).into())
        })
    }

    /// Whether it is of this schema and written with this secret. One that was just begun is.
    pub(super) fn check_facts(&self) -> Result<(), Trouble> {
        match guarded(|| Ok(self.read_facts()?))? {
            None => Ok(()),
            Some((SCHEMA, secret)) if secret == self.secret.check(&[]) => Ok(()),
            Some((SCHEMA, _)) => Err(Trouble::Damaged(
                "it was written with another secret than is beside it: what is not signed is lost"
                    .to_owned(),
            )),
            Some((other, _)) => Err(Trouble::Damaged(format!(
                "it is of another version of pkbridge (schema {other}, this one knows {SCHEMA})"
            ))),
        }
    }

    fn read_facts(&self) -> Result<Option<(u64, u64)>, redb::Error> {
        let read = self.database.begin_read()?;
        if read.list_tables()?.next().is_none() {
            return Ok(None);
        }
        let facts = match read.open_table(FACTS) {
            Ok(facts) => facts,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Some((0, 0))),
            Err(error) => return Err(error.into()),
        };
        let fact = |name| Ok::<_, StorageError>(facts.get(name)?.map_or(0, |fact| fact.value()));
        Ok(Some((fact(SCHEMA_KEY)?, fact(SECRET_KEY)?)))
    }

    /// The record of a key.
    pub(super) fn record(&self, key: &PublicKey) -> Result<OnDisk, Trouble> {
        let read = || -> Result<OnDisk, redb::Error> {
            let records = match self.database.begin_read()?.open_table(RECORDS) {
                Ok(records) => records,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(OnDisk::Nothing),
                Err(error) => return Err(error.into()),
            };
            let bytes = records.get(key.as_bytes())?;
            let record = bytes.map(|bytes| Record::read(bytes.value(), &self.secret));
            Ok(match record {
                None => OnDisk::Nothing,
                Some(Some(record)) if record.key == *key.as_bytes() => OnDisk::Record(record),
                Some(_) => OnDisk::Unusable,
            })
        };
        guarded(|| Ok(read()?))
    }
}

/// What the disk has of a key.
#[derive(Debug)]
pub(super) enum OnDisk {
    Nothing,
    /// Its packet is not verified yet.
    Record(Record),
    /// Something that cannot be read.
    Unusable,
}

/// A key and its place in the order.
type Listed = ([u8; 32], [u8; 37]);

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) packets: u64,
    /// What the packets count for: their records and [`RECORD_OVERHEAD`] each.
    pub(super) bytes: u64,
    /// Keys without a packet.
    pub(super) seqs: u64,
}

/// What the writer knows about the tables.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) usage: Usage,
    /// Records that were thrown away because they proved nothing.
    pub(super) refused: u64,
    max_bytes: u64,
    pub(super) max_seqs: u64,
    pub(super) tick: u32,
    tick_began: Instant,
}

/// A transaction under way.
struct Open<'txn> {
    records: Table<'txn, &'static [u8; 32], &'static [u8]>,
    order: Table<'txn, &'static [u8; 37], u32>,
    secret: &'txn Secret,
    usage: Usage,
    refused: u64,
    /// Whether there is anything to commit.
    changed: bool,
}

impl Tables {
    /// Counts what is there. A new tick begins.
    pub(super) fn read(disk: &Disk, max_bytes: u64) -> Result<Self, Trouble> {
        let count = || -> Result<(Usage, u32), redb::Error> {
            let (mut usage, mut newest) = (Usage::default(), 0);
            let order = match disk.database.begin_read()?.open_table(ORDER) {
                Ok(order) => order,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok((usage, newest)),
                Err(error) => return Err(error.into()),
            };
            for entry in order.iter()? {
                let (place, cost) = entry?;
                let (has_packet, tick, _) = read_place(place.value());
                usage.add(has_packet, cost.value());
                newest = newest.max(tick);
            }
            Ok((usage, newest))
        };
        let (usage, newest) = guarded(|| Ok(count()?))?;
        Ok(Self {
            usage,
            refused: 0,
            max_bytes,
            max_seqs: MAX_SEQS,
            tick: newest.saturating_add(1),
            tick_began: Instant::now(),
        })
    }

    /// Begins the next tick if this one is over.
    pub(super) fn advance(&mut self) -> bool {
        let over = self.tick_began.elapsed() >= TICK;
        if over {
            self.tick = self.tick.saturating_add(1);
            self.tick_began = Instant::now();
        }
        over
    }

    /// Writes changes, all or none, and waits until they are on the disk.
    pub(super) fn apply(&mut self, disk: &Disk, changes: &Changes) -> Result<(), Trouble> {
        let tick = self.tick;
        self.commit(disk, |open| {
            if changes.forget_all {
                for (key, _) in open.first(true, usize::MAX)? {
                    open.drop_packet(&key, tick)?;
                }
            }
            for (key, change) in changes.iter() {
                let before = open.record(key.as_bytes())?;
                let is_forged = |before: &Record| !before.is_genuine();
                if change.distrusted && before.as_ref().is_some_and(is_forged) {
                    open.refused += 1;
                }
                let after = Record::changed(before.clone(), key, change, tick);
                if before != after {
                    open.write(key.as_bytes(), before.as_ref(), after.as_ref())?;
                }
            }
            Ok(())
        })
    }

    /// Writes records from a damaged file where they are better than what is there.
    pub(super) fn restore(&mut self, disk: &Disk, found: &[Record]) -> Result<(), Trouble> {
        for record in found {
            self.tick = self.tick.max(record.tick.saturating_add(1));
        }
        self.commit(disk, |open| {
            for record in found {
                let before = open.record(&record.key)?;
                if before
                    .as_ref()
                    .is_none_or(|before| record.is_better_than(before))
                {
                    open.write(&record.key, before.as_ref(), Some(record))?;
                }
            }
            Ok(())
        })
    }

    fn commit(
        &mut self,
        disk: &Disk,
        change: impl FnOnce(&mut Open<'_>) -> Result<(), StorageError>,
    ) -> Result<(), Trouble> {
        let write = || -> Result<(Usage, u64), redb::Error> {
            let transaction = disk.database.begin_write()?;
            let (usage, refused, changed) = {
                let mut open = Open::new(&transaction, &disk.secret, self.usage, self.refused)?;
                change(&mut open)?;
                open.make_room(self.max_bytes, self.max_seqs, self.tick)?;
                (open.usage, open.refused, open.changed)
            };
            if changed {
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok((usage, refused))
        };
        (self.usage, self.refused) = guarded(|| Ok(write()?))?;
        Ok(())
    }
}

impl<'txn> Open<'txn> {
    fn new(
        transaction: &'txn WriteTransaction,
        secret: &'txn Secret,
        usage: Usage,
        refused: u64,
    ) -> Result<Self, redb::Error> {
        let mut facts = transaction.open_table(FACTS)?;
        let is_new = facts.get(SCHEMA_KEY)?.is_none();
        if is_new {
            facts.insert(SCHEMA_KEY, SCHEMA)?;
            facts.insert(SECRET_KEY, secret.check(&[]))?;
        }
        Ok(Self {
            records: transaction.open_table(RECORDS)?,
            order: transaction.open_table(ORDER)?,
            secret,
            usage,
            refused,
            changed: is_new,
        })
    }

    /// The record of a key. One that cannot be read goes; its place in the order goes when its turn
    /// comes.
    fn record(&mut self, key: &[u8; 32]) -> Result<Option<Record>, StorageError> {
        let bytes = self.records.get(key)?;
        let record = bytes
            .as_ref()
            .map(|bytes| Record::read(bytes.value(), self.secret));
        drop(bytes);
        match record {
            None => Ok(None),
            Some(Some(record)) if record.key == *key => Ok(Some(record)),
            Some(_) => {
                self.records.remove(key)?;
                (self.refused, self.changed) = (self.refused + 1, true);
                Ok(None)
            }
        }
    }

    fn write(
        &mut self,
        key: &[u8; 32],
        before: Option<&Record>,
        after: Option<&Record>,
    ) -> Result<(), StorageError> {
        self.changed = true;
        if let Some(before) = before {
            self.leave_order(&place(before))?;
        }
        let Some(after) = after else {
            self.records.remove(key)?;
            return Ok(());
        };
        let bytes = after.to_bytes(self.secret);
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let cost = u32::try_from(len + RECORD_OVERHEAD).unwrap_or(u32::MAX);
        self.records.insert(key, bytes.as_slice())?;
        let replaced = self
            .order
            .insert(&place(after), cost)?
            .map(|cost| cost.value());
        if let Some(replaced) = replaced {
            self.usage.subtract(after.has_packet(), replaced);
        }
        self.usage.add(after.has_packet(), cost);
        Ok(())
    }

    fn leave_order(&mut self, place: &[u8; 37]) -> Result<(), StorageError> {
        let cost = self.order.remove(place)?.map(|cost| cost.value());
        if let Some(cost) = cost {
            self.usage.subtract(read_place(place).0, cost);
        }
        self.changed = true;
        Ok(())
    }

    fn drop_packet(&mut self, key: &[u8; 32], tick: u32) -> Result<(), StorageError> {
        if let Some(before) = self.record(key)? {
            let mut after = before.clone();
            after.drop_packet();
            after.tick = tick;
            self.write(key, Some(&before), Some(&after))?;
        }
        Ok(())
    }

    /// The first keys with or without packets, the least useful first.
    fn first(&self, with_packet: bool, count: usize) -> Result<Vec<Listed>, StorageError> {
        let first = [[u8::from(with_packet)].as_slice(), &[0; 36]].concat();
        let last = [[u8::from(with_packet)].as_slice(), &[0xFF; 36]].concat();
        let (Ok(first), Ok(last)) = (<[u8; 37]>::try_from(first), <[u8; 37]>::try_from(last))
        else {
            return Ok(Vec::new());
        };
        let entries = self.order.range::<&[u8; 37]>(&first..=&last)?.take(count);
        let places = entries.map(|entry| Ok(*entry?.0.value()));
        places
            .map(|place: Result<[u8; 37], StorageError>| {
                place.map(|place| (read_place(&place).2, place))
            })
            .collect()
    }

    /// Keeps to the bounds. The `seq` of a packet that goes stays.
    fn make_room(&mut self, max_bytes: u64, max_seqs: u64, tick: u32) -> Result<(), StorageError> {
        while self.usage.bytes > max_bytes {
            let Some((key, listed)) = self.first(true, 1)?.pop() else {
                break;
            };
            match self.record(&key)? {
                Some(record) if place(&record) == listed => self.drop_packet(&key, tick)?,
                _ => self.leave_order(&listed)?,
            }
        }
        while self.usage.seqs > max_seqs {
            let Some((key, listed)) = self.first(false, 1)?.pop() else {
                break;
            };
            match self.record(&key)? {
                Some(record) if place(&record) == listed => {
                    self.write(&key, Some(&record), None)?
                }
                _ => self.leave_order(&listed)?,
            }
        }
        Ok(())
    }
}

impl Usage {
    fn add(&mut self, has_packet: bool, cost: u32) {
        if has_packet {
            self.packets += 1;
            self.bytes += u64::from(cost);
        } else {
            self.seqs += 1;
        }
    }

    fn subtract(&mut self, has_packet: bool, cost: u32) {
        if has_packet {
            self.packets = self.packets.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(u64::from(cost));
        } else {
            self.seqs = self.seqs.saturating_sub(1);
        }
    }
}

/// Where a record stands in the order: has it a packet, tick, key.
fn place(record: &Record) -> [u8; 37] {
    let mut place = [0; 37];
    let [kind, rest @ ..] = &mut place;
    *kind = u8::from(record.has_packet());
    let (tick, key) = rest.split_at_mut(4);
    tick.copy_from_slice(&record.tick.to_be_bytes());
    key.copy_from_slice(&record.key);
    place
}

fn read_place(place: &[u8; 37]) -> (bool, u32, [u8; 32]) {
    let [kind, rest @ ..] = place;
    let mut key = [0; 32];
    let [a, b, c, d, rest @ ..] = rest;
    key.copy_from_slice(rest);
    (*kind == 1, u32::from_be_bytes([*a, *b, *c, *d]), key)
}
