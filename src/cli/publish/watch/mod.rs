//! `pkbridge publish --watch`: keeps a zone published. It is put again before nodes forget it, and signed anew
//! when the file changes or the addresses of this host do.
//!
//! Whoever else publishes under the key meanwhile is not overwritten: what they have signed is kept alive in the
//! place of ours, until the owner changes this zone file, reloads this or starts it anew.

mod changes;
mod choice;
mod schedule;

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::network::{Network, NetworkError, Put};
use super::report::{Outcome, date, holding, nodes};
use super::zone::{Zone, ZoneSource};
use super::{GOOD_HOLDERS, PublishArgs, refuse};
use crate::cli::control::counted;
use crate::cli::dht_client::DhtClient;
use crate::cli::relays::Relayed;
use crate::cli::{fail, log, print};
use crate::pkarr::{HostAddresses, SignedPacket};
use crate::resolve::Sighting;
use crate::serve::systemd::{notify_ready, notify_status, notify_stopping};
use changes::{Change, Changes};
use choice::{Choice, choose};
use schedule::{Ended, Schedule};

/// Publishes until a signal ends it.
pub(super) async fn run(args: &PublishArgs, source: ZoneSource) -> ExitCode {
    // Before anything that takes time: a signal that comes meanwhile must not kill.
    let signals = [
        SignalKind::hangup(),
        SignalKind::terminate(),
        SignalKind::interrupt(),
    ];
    let [Ok(hangup), Ok(mut terminate), Ok(mut interrupt)] = signals.map(signal) else {
        return fail(&"cannot listen for signals");
    };
    let changes = Changes::new(&source.path, args.interface.clone());
    let zone = match source.read(HostAddresses::default()) {
        Ok(zone) => zone,
        Err(lines) => return refuse(&lines),
    };
    let network = match open(args) {
        Ok(network) => network,
        Err(code) => return code,
    };
    let mut watch = Watch {
        changes,
        source,
        network,
        is_filled: !zone.has_variables,
        zone,
        ours: None,
        is_new: true,
        is_json: args.json,
    };
    notify_ready("looking for the network");
    tokio::select! {
        never = watch.keep_published(hangup) => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify_stopping();
    progress("");
    tracing::info!("stopped; nodes forget the packet in some two hours");
    ExitCode::SUCCESS
}

fn open(args: &PublishArgs) -> Result<Network, ExitCode> {
    let config = args.dht.load()?;
    let relays = args.relays.open(&config)?;
    // Our own lines, and warnings of all else.
    let _level =
        log::start(&log::beside_libraries("pkbridge::cli=info")).map_err(|error| fail(&error))?;
    let client = match args.no_dht {
        true => None,
        false => Some(DhtClient::start(config).map_err(|error| fail(&error))?),
    };
    Ok(Network { client, relays })
}

struct Watch {
    source: ZoneSource,
    network: Network,
    changes: Changes,
    zone: Zone,
    /// Whether it has the addresses that it asks for.
    is_filled: bool,
    /// What was put last, whether or not that went well.
    ours: Option<SignedPacket>,
    /// Whether the owner has said something that was not put yet.
    is_new: bool,
    is_json: bool,
}

/// What a round has come to.
enum Round {
    Published(Outcome),
    /// Somebody else's packet was put again, unless it is no valid one.
    Others {
        seq: u64,
        put: Option<Put>,
    },
}

/// Why a round has come to nothing.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Of the addresses, or of signing.
    #[error("{0}")]
    Other(String),
}

impl Watch {
    async fn keep_published(&mut self, mut hangup: Signal) -> Infallible {
        progress("looking for the network");
        if let Some(dht) = self.network.dht() {
            dht.becomes(true).await;
        }
        if self.is_filled {
            self.warn();
        }
        let mut schedule = Schedule::default();
        loop {
            progress("publishing");
            let round = self.round().await;
            let ended = ended(&round);
            let pause = schedule.ended(ended);
            self.tell(&round, ended, pause);
            let dht = self.network.dht();
            let change = tokio::select! {
                change = self.changes.next(&schedule, &self.zone, dht) => change,
                _ = hangup.recv() => self.changes.reload(),
            };
            progress("");
            self.take(change);
        }
    }

    /// Looks what there is, and puts what is to be there.
    async fn round(&mut self) -> Result<Round, Trouble> {
        if !self.is_filled {
            self.fill().await?;
        }
        let before = self.network.look(self.source.key).await?;
        let newest = before.newest();
        let newest_seq = newest.as_ref().map(Sighting::seq);
        let own_seq = self.ours.as_ref().map(SignedPacket::seq);
        let dns = &self.zone.composed.dns;
        let packet = match choose(dns, self.is_new, self.ours.as_ref(), newest) {
            Choice::Again(packet) => packet,
            Choice::Sign => {
                let packet = self.source.sign(&self.zone, newest_seq.max(own_seq));
                packet.map_err(|error| Trouble::Other(error.to_string()))?
            }
            Choice::Others(packet) => {
                let put = self.network.put(&packet, &before).await?;
                return Ok(Round::Others {
                    seq: packet.seq(),
                    put: Some(put),
                });
            }
            Choice::OthersInvalid { seq } => return Ok(Round::Others { seq, put: None }),
        };
        // Even if it fails some may have it; whatever is newer then is somebody else's.
        (self.ours, self.is_new) = (Some(packet.clone()), false);
        let put = self.network.put(&packet, &before).await?;
        Ok(Round::Published(Outcome {
            packet,
            replaces: newest_seq,
            put: Some(put),
        }))
    }

    /// Finds the addresses that the zone asks for.
    async fn fill(&mut self) -> Result<(), Trouble> {
        let found = self.changes.find(&self.zone, self.network.dht()).await;
        found.map_err(Trouble::Other)?;
        let read = self.read();
        read.map_err(|lines| Trouble::Other(lines.join("; ")))
    }

    /// Takes the zone file with the addresses as they are known.
    fn read(&mut self) -> Result<(), Vec<String>> {
        let addresses = self.changes.addresses().unwrap_or_default();
        let zone = self.source.read(addresses)?;
        let is_filled = self.changes.know(&zone);
        if is_filled && zone.records.is_empty() {
            return Err(zone.left_out);
        }
        (self.zone, self.is_filled) = (zone, is_filled);
        if is_filled {
            self.warn();
        }
        Ok(())
    }

    fn take(&mut self, change: Change) {
        let is_owners = match change {
            Change::Due => return,
            Change::File | Change::Reload => true,
            Change::Addresses => false,
        };
        match self.read() {
            Ok(()) => self.is_new |= is_owners,
            Err(lines) => {
                for line in lines {
                    tracing::error!("{line}");
                }
                tracing::error!("the zone as it was before stays published");
            }
        }
    }

    fn warn(&self) {
        for line in self.zone.warnings() {
            tracing::warn!("{line}");
        }
    }

    /// Says what a round has come to, and when the next one is: a line.
    fn tell(&self, round: &Result<Round, Trouble>, ended: Ended, pause: Duration) {
        progress("");
        let minutes = counted(pause.as_secs().div_ceil(60), "minute", "minutes");
        let line = match round {
            Ok(round) => round.line(),
            Err(trouble) => format!("not published: {trouble}"),
        };
        let line = format!("{line}; next in {minutes}");
        if let Ok(Round::Published(Outcome { put: Some(put), .. })) = round {
            for fault in put.relays.iter().filter_map(Relayed::fault) {
                tracing::warn!("{fault}");
            }
        }
        if ended == Ended::Well && !matches!(round, Ok(Round::Others { .. })) {
            tracing::info!("{line}");
        } else {
            tracing::warn!("{line}");
        }
        notify_status(&line);
        if let Ok(Round::Published(outcome)) = round
            && self.is_json
        {
            print(&format!("{}\n", outcome.json(&self.source, &self.zone)));
        }
        progress(&format!("next in {minutes}; Ctrl-C ends it"));
    }
}

fn ended(round: &Result<Round, Trouble>) -> Ended {
    let put = match round {
        Err(_) => return Ended::Failed,
        Ok(Round::Published(outcome)) => outcome.put.as_ref(),
        Ok(Round::Others { put, .. }) => put.as_ref(),
    };
    let Some(put) = put else {
        return Ended::Well;
    };
    match put.published {
        Some(published) if published.holders.newest < GOOD_HOLDERS => Ended::Few,
        Some(_) => Ended::Well,
        None if put.is_nowhere() => Ended::Failed,
        None => Ended::Well,
    }
}

impl Round {
    fn line(&self) -> String {
        match self {
            Self::Published(Outcome { put: Some(put), .. }) if put.is_nowhere() => {
                "not published: no relay took the packet".to_owned()
            }
            Self::Published(outcome) => {
                let seq = outcome.packet.seq();
                let what = match outcome.replaces {
                    Some(replaced) if replaced == seq => "again, unchanged".to_owned(),
                    Some(replaced) => format!("in the place of that signed {}", date(replaced)),
                    None => "for the first time".to_owned(),
                };
                let where_to = outcome.put.as_ref().map(where_to).unwrap_or_default();
                format!("published seq {seq} {what}: {where_to}")
            }
            Self::Others { seq, put } => {
                let put = match put {
                    Some(put) => format!("it is kept alive ({})", where_to(put)),
                    None => "it is no valid packet".to_owned(),
                };
                format!(
                    "not published: somebody else who has the key published seq {seq} (signed {}), and \
                     {put}; change the zone file, or reload (SIGHUP), to publish it over theirs",
                    date(*seq)
                )
            }
        }
    }
}

fn where_to(put: &Put) -> String {
    let on_dht = put.published.map(|published| {
        let stored = nodes(published.stored);
        format!("on {stored}, {} it", holding(published.holders.newest))
    });
    let published = |relayed: &&Relayed| relayed.is_published();
    let taken = put.relays.iter().filter(published).count();
    let by_relays =
        (!put.relays.is_empty()).then(|| format!("by {taken} of {} relays", put.relays.len()));
    let all: Vec<String> = on_dht.into_iter().chain(by_relays).collect();
    all.join(", ")
}

/// Shows what is going on, on a terminal; the next takes its place.
fn progress(text: &str) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let dots = if text.is_empty() { "" } else { "…" };
        // When standard error is closed there is nobody to tell.
        let _ = write!(out, "\r\x1b[K{text}{dots}").and_then(|()| out.flush());
    }
}
