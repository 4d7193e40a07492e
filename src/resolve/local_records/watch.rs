//! Reads the hosts file, and looks every second whether it is another one.
//!
//! A change counts once two looks running have seen the same: so a file that is being written, or gone for a
//! moment while an editor puts a new one in its place, is left alone.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::time::sleep;

use super::LocalRecords;
use super::hosts::{Hosts, Skipped};
use crate::file_look::{Seen, see};
use crate::pkarr::{NameKind, Suffixes};
use crate::resolve::answers::AnswerCache;
use crate::wire;

/// Time between two looks: what is written into the file holds within two.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// The file that the records are from.
    taken: Seen,
    /// The last look.
    last: Seen,
    /// The last look took in a file.
    is_new: bool,
    /// The file that was to be taken in last could not be read, and that has been said.
    has_failed: bool,
}

impl LocalRecords {
    /// Keeps the records in step with the hosts file for as long as they are in use. Of `answers`, those
    /// go whose names have become local. Must be called inside a tokio runtime.
    pub fn watch(self: &Arc<Self>, answers: AnswerCache) {
        if self.hosts_file.is_none() {
            return;
        }
        let records = Arc::downgrade(self);
        let mut state = self.first.clone();
        tokio::spawn(async move {
            loop {
                sleep(LOOK_EVERY).await;
                let Some(records) = records.upgrade() else {
                    return;
                };
                let answers = answers.clone();
                let look = move || records.look(state, &answers);
                // A disk may be slow, and a list long.
                let Ok(next) = tokio::task::spawn_blocking(look).await else {
                    return;
                };
                state = next;
            }
        });
    }

    pub(super) fn read_first(&self) -> State {
        let Some(path) = &self.hosts_file else {
            return State::default();
        };
        let seen = see(path);
        if seen == Seen::Missing {
            tracing::info!(file = %path.display(), "there is no hosts file");
        }
        let is_taken = self.take_in(path, &seen, false);
        State {
            taken: if is_taken {
                seen.clone()
            } else {
                Seen::default()
            },
            last: seen,
            is_new: false,
            has_failed: !is_taken,
        }
    }

    pub(super) fn look(&self, state: State, answers: &AnswerCache) -> State {
        let Some(path) = &self.hosts_file else {
            return state;
        };
        let now = see(path);
        let is_change = now != state.taken && now == state.last;
        let is_taken = is_change && self.take_in(path, &now, state.has_failed);
        if is_taken || state.is_new {
            // A second time, for answers that were on their way into the cache at the first.
            answers.forget(|name| self.has(name));
        }
        State {
            // One that could not be read is read again at the next look.
            taken: if is_taken { now.clone() } else { state.taken },
            last: now,
            is_new: is_taken,
            has_failed: if is_change {
                !is_taken
            } else {
                state.has_failed
            },
        }
    }

    /// Takes the records of what was seen at `path`, and tells whether it could. What cannot be read
    /// leaves those that there are; that is said unless `is_known`.
    fn take_in(&self, path: &Path, seen: &Seen, is_known: bool) -> bool {
        let file = path.display();
        let read = match seen {
            Seen::Missing => Ok((Hosts::default(), Skipped::default())),
            Seen::File(..) => read(path, &self.suffixes),
            Seen::Unreadable(kind) => Err(io::Error::from(*kind)),
        };
        match read {
            Ok((hosts, skipped)) => {
                if let Some((line, reason)) = skipped.first {
                    let count = skipped.count;
                    tracing::warn!(%file, line, count, "lines of the hosts file are left out: {reason}");
                }
                tracing::debug!(%file, names = hosts.len(), "hosts file taken in");
                self.replace(hosts);
                true
            }
            Err(error) => {
                if !is_known {
                    tracing::warn!(
                        %file,
                        %error,
                        "the hosts file cannot be read; it is tried again every second"
                    );
                }
                false
            }
        }
    }
}

fn read(path: &Path, suffixes: &Suffixes) -> io::Result<(Hosts, Skipped)> {
    let is_ordinary = |name: &[u8]| {
        let name = wire::read_name(name, 0).map_or_else(|_| Name::root(), |(name, _)| name);
        suffixes.classify(&name) == NameKind::Ordinary
    };
    Hosts::read(BufReader::new(File::open(path)?), is_ordinary)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_read_again_at_every_look() {
        let path = std::env::temp_dir().join(format!("pkbridge-watch-{:x}", rand::random::<u64>()));
        fs::create_dir(&path).unwrap();
        let records = LocalRecords::new(vec![], Some(path.clone()), Suffixes::default(), 60);
        let answers = AnswerCache::new(1 << 20);
        let first = records.first.clone();
        assert_eq!(first.taken, Seen::Missing);
        assert!(first.has_failed);
        for _ in 0..2 {
            let state = records.look(first.clone(), &answers);
            assert_eq!(state.taken, Seen::Missing);
            assert!(state.has_failed && !state.is_new);
        }
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "192.168.1.1 a.lan\n").unwrap();
        let state = records.look(records.look(first, &answers), &answers);
        assert_eq!(state.taken, see(&path));
        assert!(!state.has_failed && state.is_new);
        fs::remove_file(&path).unwrap();
    }
}
