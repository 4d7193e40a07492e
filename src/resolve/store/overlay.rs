//! A file that is only read: what redb writes to it stays in memory.
//!
//! To look into a file redb may have to repair it, which writes. Not into a file that may be damaged or
//! of another version, or that cannot be written.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock};

use redb::StorageBackend;

/// What is kept of the file in memory at a time.
const BLOCK: u64 = 4096;

/// A file below, and blocks that have been written above.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    above: RwLock<Above>,
}

#[derive(Debug)]
struct Above {
    len: u64,
    /// Bytes of the file that still count: those after a shrinking are gone.
    file_len: u64,
    blocks: HashMap<u64, Vec<u8>>,
}

impl Overlay {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let above = RwLock::new(Above {
            len,
            file_len: len,
            blocks: HashMap::new(),
        });
        Ok(Self { file, above })
    }

    /// A whole block, zeros where there is nothing.
    fn block(&self, above: &Above, index: u64) -> io::Result<Vec<u8>> {
        if let Some(block) = above.blocks.get(&index) {
            return Ok(block.clone());
        }
        let start = index * BLOCK;
        let len = above.file_len.saturating_sub(start).min(BLOCK);
        let mut block = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut block, start)?;
        block.resize(usize::try_from(BLOCK).map_err(io::Error::other)?, 0);
        Ok(block)
    }
}

/// The parts of `len` bytes from `offset` on by block: its index, where in it, and how many.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    std::iter::from_fn(move || {
        let (index, within) = (at / BLOCK, at % BLOCK);
        let count = (BLOCK - within).min(end.checked_sub(at)?);
        at += count;
        let part = (
            index,
            usize::try_from(within).ok()?,
            usize::try_from(count).ok()?,
        );
        (count > 0).then_some(part)
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self
            .above
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let above = self.above.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = u64::try_from(out.len()).map_err(io::Error::other)?;
        if offset.checked_add(wanted).is_none_or(|end| end > above.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = out;
        for (index, within, count) in parts(offset, rest.len()) {
            let block = self.block(&above, index)?;
            let (part, after) = rest.split_at_mut(count);
            let from = block.get(within..within + count);
            part.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut above = self.above.write().unwrap_or_else(PoisonError::into_inner);
        if len < above.len {
            let whole = len / BLOCK;
            let mut last = self.block(&above, whole)?;
            let kept = usize::try_from(len % BLOCK).map_err(io::Error::other)?;
            if let Some(gone) = last.get_mut(kept..) {
                gone.fill(0);
            }
            above.blocks.retain(|index, _| *index < whole);
            above.blocks.insert(whole, last);
            above.file_len = above.file_len.min(len);
        }
        above.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut above = self.above.write().unwrap_or_else(PoisonError::into_inner);
        let mut rest = data;
        for (index, within, count) in parts(offset, data.len()) {
            let mut block = self.block(&above, index)?;
            let (part, after) = rest.split_at(count);
            let to = block.get_mut(within..within + count);
            to.ok_or(io::ErrorKind::UnexpectedEof)?
                .copy_from_slice(part);
            above.blocks.insert(index, block);
            rest = after;
        }
        let end = offset + u64::try_from(data.len()).map_err(io::Error::other)?;
        above.len = above.len.max(end);
        Ok(())
    }
}
