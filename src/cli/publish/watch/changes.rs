//! Notices what makes a new round necessary: the time, the zone file, the addresses of this host.
//!
//! A change counts once two looks running have seen the same: a file that is being written is left alone, and so
//! are addresses that are gone for a moment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::schedule::Schedule;
use crate::cli::publish::addresses::{self, UNKNOWN_IPV4};
use crate::cli::publish::zone::Zone;
use crate::file_look::{Seen, see};
use crate::pkarr::HostAddresses;
use crate::resolve::Dht;

/// Time between two looks at the file and the clock.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at the addresses of the interfaces.
const ADDRESSES_EVERY: Duration = Duration::from_secs(10);
/// How long what the DHT's nodes see is believed: to ask them is some 200 messages.
const SEEN_FOR: Duration = Duration::from_secs(300);

/// Why there is a new round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Its time has come.
    Due,
    File,
    Addresses,
    /// The operator wants it.
    Reload,
}

/// Notices changes.
#[derive(Debug)]
pub(super) struct Changes {
    file: FileChanges,
    addresses: AddressChanges,
}

impl Changes {
    /// Of a file that is about to be read.
    pub(super) fn new(path: &Path, interface: Option<String>) -> Self {
        let seen = see(path);
        Self {
            file: FileChanges {
                path: path.to_owned(),
                taken: seen.clone(),
                last: seen,
            },
            addresses: AddressChanges::new(interface),
        }
    }

    /// Waits for the next one. What it has seen stays if it is dropped.
    pub(super) async fn next(
        &mut self,
        schedule: &Schedule,
        zone: &Zone,
        dht: Option<&Dht>,
    ) -> Change {
        loop {
            sleep(LOOK_EVERY).await;
            if self.file.look(see(&self.file.path)) {
                return Change::File;
            }
            if zone.has_variables && self.addresses.look(zone, dht).await {
                return Change::Addresses;
            }
            if schedule.is_due() {
                return Change::Due;
            }
        }
    }

    /// Takes the file as it is now for read.
    pub(super) fn reload(&mut self) -> Change {
        self.file.taken = see(&self.file.path);
        Change::Reload
    }

    /// Finds the addresses now.
    ///
    /// # Errors
    /// A text, if it is not known what they are.
    pub(super) async fn find(&mut self, zone: &Zone, dht: Option<&Dht>) -> Result<(), String> {
        let found = self.addresses.find(zone, dht).await?;
        self.addresses.taken = Some(found);
        self.addresses.last = Some(found);
        Ok(())
    }

    /// Whether the addresses that a zone asks for are known, or known not to be there.
    pub(super) fn know(&self, zone: &Zone) -> bool {
        let AddressChanges {
            interface, taken, ..
        } = &self.addresses;
        let are_known =
            |taken: HostAddresses| addresses::are_known(zone, taken, interface.as_deref());
        !zone.has_variables || taken.is_some_and(are_known)
    }

    /// The addresses as they were taken last.
    pub(super) fn addresses(&self) -> Option<HostAddresses> {
        self.addresses.taken
    }
}

/// Whether the file is another one.
#[derive(Debug)]
struct FileChanges {
    path: PathBuf,
    taken: Seen,
    last: Seen,
}

impl FileChanges {
    fn look(&mut self, now: Seen) -> bool {
        let is_change = now != self.taken && now == self.last;
        if is_change {
            self.taken = now.clone();
        }
        self.last = now;
        is_change
    }
}

/// Whether the host has other addresses.
#[derive(Debug)]
struct AddressChanges {
    interface: Option<String>,
    /// `None` if they were never known.
    taken: Option<HostAddresses>,
    last: Option<HostAddresses>,
    looked: Option<Instant>,
    /// When the DHT's nodes were asked last.
    asked: Option<Instant>,
}

impl AddressChanges {
    fn new(interface: Option<String>) -> Self {
        Self {
            interface,
            taken: None,
            last: None,
            looked: None,
            asked: None,
        }
    }

    /// Looks, if it is time to.
    async fn look(&mut self, zone: &Zone, dht: Option<&Dht>) -> bool {
        // The first ones are found before the first round.
        if self.taken.is_none() || !is_over(self.looked, ADDRESSES_EVERY) {
            return false;
        }
        match self.find(zone, dht).await {
            Ok(found) => self.settle(found),
            // Those that there were stay.
            Err(_) => false,
        }
    }

    async fn find(&mut self, zone: &Zone, dht: Option<&Dht>) -> Result<HostAddresses, String> {
        let now = Instant::now();
        self.looked = Some(now);
        let dht = dht.filter(|_| zone.has_ipv4 && is_over(self.asked, SEEN_FOR));
        if dht.is_some() {
            self.asked = Some(now);
        }
        let interface = self.interface.as_deref();
        let mut found = addresses::find(interface, dht).await?;
        if !addresses::are_known(zone, found, interface) {
            // The nodes were asked a short while ago, or cannot be asked, or do not agree.
            found.ipv4 = self.last.and_then(|last| last.ipv4);
            if found.ipv4.is_none() {
                self.asked = None;
                return Err(UNKNOWN_IPV4.to_owned());
            }
        }
        Ok(found)
    }

    fn settle(&mut self, now: HostAddresses) -> bool {
        let is_change = Some(now) != self.taken && Some(now) == self.last;
        if is_change {
            self.taken = Some(now);
        }
        self.last = Some(now);
        is_change
    }
}

fn is_over(since: Option<Instant>, time: Duration) -> bool {
    since.is_none_or(|since| since.elapsed() >= time)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_change_counts_when_it_was_seen_twice() {
        let file = |number| Seen::File(1, 2, number, [0; 4]);
        let mut changes = FileChanges {
            path: PathBuf::new(),
            taken: file(1),
            last: file(1),
        };
        let gone = Seen::Unreadable(io::ErrorKind::PermissionDenied);
        let looks = [
            (file(1), false),
            // Replaced by an editor, or being written.
            (Seen::Missing, false),
            (file(1), false),
            (file(2), false),
            (file(3), false),
            (file(3), true),
            (file(3), false),
            (gone.clone(), false),
            (gone.clone(), true),
            (gone, false),
        ];
        for (number, (seen, is_change)) in looks.into_iter().enumerate() {
            assert_eq!(changes.look(seen), is_change, "{number}");
        }

        let address = |last| HostAddresses {
            ipv4: Some([192, 0, 2, last].into()),
            ipv6: None,
        };
        let mut changes = AddressChanges::new(None);
        changes.taken = Some(address(1));
        changes.last = changes.taken;
        let looks = [
            (1, false),
            (2, false),
            (1, false),
            (2, false),
            (2, true),
            (2, false),
        ];
        for (last, is_change) in looks {
            assert_eq!(changes.settle(address(last)), is_change);
        }
        assert_eq!(changes.taken, Some(address(2)));
    }
}
