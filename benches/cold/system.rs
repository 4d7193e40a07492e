//! What the kernel counts.

use std::fs;
use std::time::Duration;

/// CPU time of this process so far.
pub(super) fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The second field is a name in parentheses; user and system time are the 14th and 15th (proc(5)).
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Datagrams that found a socket's buffer full, on the whole host.
pub(super) fn dropped() -> u64 {
    let snmp = fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = names.split(' ').zip(values.split(' '));
    let (_, value) = fields.find(|(name, _)| *name == "RcvbufErrors").unwrap();
    value.parse().unwrap()
}
