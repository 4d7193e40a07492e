//! `pkbridge explain`: what the running service knows of a name, and what it would do.

use std::process::ExitCode;

use hickory_proto::rr::Name;

use super::control::{ControlArgs, Sheet, bytes, counted, seconds};
use crate::control::{Cached, Explanation, FOUND, Freshness, Packet, Request, Source};
use crate::pkarr::{days_of, months_of, parse_name};

/// Arguments of `pkbridge explain`.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// Domain name or public key; a leading `pk:` is taken off
    #[arg(value_parser = parse_name)]
    name: Name,

    #[command(flatten)]
    control: ControlArgs,
}

/// Asks and shows.
pub(super) async fn run(args: ExplainArgs) -> ExitCode {
    args.control.run(&Request::Explain(args.name), text).await
}

fn text(explanation: &Explanation) -> String {
    let mut sheet = Sheet::default();
    sheet.line("name", &explanation.name);
    sheet.line("kind", &explanation.kind);
    if let Some(key) = &explanation.key {
        sheet.line("key", key);
        let packet = explanation.packet.as_ref();
        sheet.lines(
            "packet",
            "none known",
            &packet.map_or_else(Vec::new, packet_lines),
        );
    }
    let held_seq = explanation.packet.as_ref().map(|packet| packet.seq);
    if let Some(seq) = explanation.highest_seq
        && Some(seq) != held_seq
    {
        sheet.line("highest seq", &format!("{seq}: older packets are refused"));
    }
    sheet.lines("answers", "none cached", &answers(&explanation.answers));
    sheet.line("next", &explanation.next);
    sheet.into_text()
}

fn packet_lines(packet: &Packet) -> Vec<String> {
    let source = match packet.source {
        Source::Dht => "the network",
        Source::Disk => "disk",
    };
    let records = counted(packet.records, "record", "records");
    let mut lines = vec![
        format!("seq {}, signed {}", packet.seq, utc(packet.signed_at)),
        format!("{records}, {}, from {source}", bytes(packet.bytes)),
    ];
    let left = seconds(packet.fresh_left_seconds);
    lines.push(match packet.state {
        Freshness::Fresh => format!("fresh for {left}"),
        Freshness::Provisional => format!("provisional, for {left}: a newer one may follow"),
        Freshness::Stale => "stale: served only while no newer one can be had".to_owned(),
        Freshness::Expired => "expired: served no more".to_owned(),
    });
    if let Some(ago) = packet.confirmed_seconds_ago {
        let mut line = format!("confirmed {} ago", seconds(ago));
        if let Some(holders) = packet.holders {
            line += &format!(", held by {}", counted(holders, "node", "nodes"));
        }
        if let Some(older @ 1..) = packet.older_holders {
            line += &format!(", an older one by {older}");
        }
        lines.push(line);
    }
    // One that found the packet has confirmed it.
    if let Some(last) = &packet.last_lookup
        && last.outcome != FOUND
    {
        let ago = seconds(last.seconds_ago);
        lines.push(format!("last lookup {ago} ago: {}", last.outcome));
    }
    lines
}

/// A line for each answer, in columns, and one for each of its Extended DNS Errors.
fn answers(answers: &[Cached]) -> Vec<String> {
    let width = |cell: fn(&Cached) -> &str| {
        let lengths = answers.iter().map(|answer| cell(answer).chars().count());
        lengths.max().unwrap_or(0)
    };
    let types = width(|answer| &answer.rtype);
    let rcodes = width(|answer| &answer.rcode);
    let mut lines = Vec::new();
    for answer in answers {
        let (age, left) = (seconds(answer.age_seconds), seconds(answer.left_seconds));
        lines.push(format!(
            "{:<types$}  {:<rcodes$}  {}, {age} old, {left} left",
            answer.rtype,
            answer.rcode,
            bytes(answer.bytes),
        ));
        let errors = answer.extended_errors.iter();
        lines.extend(errors.map(|text| format!("{:types$}  {text}", "")));
    }
    lines
}

/// A time of Unix as `2026-01-31 23:59:59 UTC`.
pub(super) fn utc(time: u64) -> String {
    /// The Gregorian calendar repeats itself after 400 years.
    const CYCLE_DAYS: u64 = 146_097;
    let days = time / 86_400;
    // From the year of a cycle's beginning, 1970 + 400 n, on.
    let mut year = 1970 + days / CYCLE_DAYS * 400;
    let mut day = days % CYCLE_DAYS;
    loop {
        let length = days_of(year);
        if day < length {
            break;
        }
        day -= length;
        year += 1;
    }
    let mut month = 1;
    for length in months_of(year) {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600 % 24, time / 60 % 60, time % 60);
    let day = day + 1;
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        // As `date --utc --date=@SECONDS` has them.
        for (time, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (68_169_599, "1972-02-28 23:59:59 UTC"),
            (68_169_600, "1972-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (12_622_780_800, "2370-01-01 00:00:00 UTC"),
            (9_223_372_036_854, "294247-01-10 04:00:54 UTC"),
        ] {
            assert_eq!(utc(time), text);
        }
        // No time is too late for it.
        assert!(utc(u64::MAX).ends_with(" UTC"));
    }
}
