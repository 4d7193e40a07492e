//! `pkbridge status`: how the running service is.

use std::process::ExitCode;

use super::control::{ControlArgs, Sheet, bytes, counted, seconds};
use crate::control::{CacheUse, Dht, KeepAlive, Relay, Request, Status, Store};

/// Asks and shows.
pub(super) async fn run(args: &ControlArgs) -> ExitCode {
    args.run(&Request::Status, text).await
}

fn text(status: &Status) -> String {
    let mut sheet = Sheet::default();
    let uptime = seconds(status.uptime_seconds);
    sheet.line("pkbridge", &format!("{}, up {uptime}", status.version));
    let listening: Vec<String> = status.listening.iter().map(ToString::to_string).collect();
    sheet.lines("listening", "nowhere", &listening);
    if status.lost_queries > 0 {
        let lost = counted(status.lost_queries, "query", "queries");
        sheet.line(
            "lost",
            &format!("{lost} that came faster than they could be read"),
        );
    }
    sheet.lines("upstreams", "none", &status.upstreams);
    sheet.line("answers", &cache(&status.answers));
    sheet.line("packets", &cache(&status.packets));
    sheet.lines(
        "store",
        "none",
        &status.store.as_ref().map_or_else(Vec::new, store),
    );
    dht(&mut sheet, &status.dht);
    if !status.relays.is_empty() {
        let lines: Vec<_> = status.relays.iter().map(relay).collect();
        sheet.lines("relays", "", &lines);
    }
    if let Some(status) = &status.keep_alive {
        sheet.line("keep-alive", &keep_alive(status));
    }
    sheet.into_text()
}

fn cache(cache: &CacheUse) -> String {
    let (used, max) = (bytes(cache.bytes), bytes(cache.max_bytes));
    format!("{}, {used} of {max}", cache.entries)
}

fn store(store: &Store) -> Vec<String> {
    let reason = store.reason.as_ref();
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let (used, max) = (bytes(store.bytes), bytes(store.max_bytes));
    let packets = counted(store.packets, "packet", "packets");
    let numbers = match store.sequence_numbers {
        0 => String::new(),
        count => {
            let numbers = counted(count, "sequence number", "sequence numbers");
            format!(" and {numbers} without one")
        }
    };
    let mut lines = vec![
        format!("{}{reason}", store.state),
        store.path.clone(),
        format!("{packets}{numbers}, {used} of {max}"),
    ];
    let rare = [
        (store.waiting, "waiting to be written"),
        (store.salvaged, "salvaged from a damaged file"),
        (store.dropped, "dropped unwritten"),
    ];
    let rare = rare.iter().filter(|(count, _)| *count > 0);
    lines.extend(rare.map(|(count, what)| format!("{count} {what}")));
    lines
}

fn dht(sheet: &mut Sheet, dht: &Dht) {
    let instances: Vec<String> = dht
        .instances
        .iter()
        .map(|instance| {
            let state = if instance.joined { "joined" } else { "joining" };
            let nodes = counted(instance.nodes, "node", "nodes");
            let at = if instance.address.is_empty() {
                ""
            } else {
                " at "
            };
            format!("{state}{at}{}, {nodes}", instance.address)
        })
        .collect();
    sheet.lines("DHT", "no node", &instances);
    let lookups = &dht.lookups;
    sheet.line(
        "lookups",
        &format!(
            "{} under way, {} waiting",
            lookups.under_way, lookups.waiting
        ),
    );
    for (count, what) in [
        (lookups.found, "found"),
        (lookups.absent, "absent"),
        (lookups.too_few_answers, "with too few answers"),
        (lookups.failed, "failed"),
        (lookups.invalid_packet, "with an invalid packet"),
        (
            lookups.refused,
            "refused: over a budget, or too many waiting",
        ),
    ] {
        if count > 0 {
            sheet.line("", &format!("{count} {what}"));
        }
    }
    if let Some(share) = dht.answered_share {
        sheet.line(
            "answered by",
            &format!("{:.0} % of the nodes asked", share * 100.0),
        );
    }
    let refused = dht.refused_packets.iter();
    let refused: Vec<String> = refused
        .map(|(why, count)| format!("{count} {why}"))
        .collect();
    if !refused.is_empty() {
        sheet.lines("bad packets", "", &refused);
    }
}

fn relay(relay: &Relay) -> String {
    let Relay {
        url,
        answered,
        failed,
        ..
    } = relay;
    let mut line = format!("{url}: {answered} answered, {failed} failed");
    if let Some(error) = &relay.last_error {
        line += &format!(", the last: {error}");
    }
    if relay.pause_seconds > 0 {
        line += &format!("; asked again in {}", seconds(relay.pause_seconds));
    }
    line
}

fn keep_alive(status: &KeepAlive) -> String {
    let done = status.kept + status.absent + status.let_go + status.failed;
    let counts = [
        (status.kept, "put on the DHT again"),
        (status.absent, "that nobody has"),
        (status.let_go, "let go"),
        (status.failed, "failed"),
        (status.keys.saturating_sub(done), "not yet"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let last = status.last_put_seconds_ago;
    let last = last.map_or_else(String::new, |ago| {
        format!("; the last {} ago", seconds(ago))
    });
    let keys = counted(status.keys, "key", "keys");
    format!("{keys}: {}{last}", counts.join(", "))
}
