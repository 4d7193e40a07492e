//! What the benchmarks of whole resolvers share: the resolvers, whom they forward to, and where they run.

#![allow(unreachable_pub, dead_code, reason = "each benchmark uses some of it")]

mod resolvers;
mod upstream;

use std::process::Command;

pub(crate) use resolvers::{Kind, Resolver};
pub(crate) use upstream::{Upstream, socket};

/// Those that this machine has; the others are named.
pub(crate) fn installed(mut kinds: Vec<Kind>) -> Vec<Kind> {
    kinds.retain(|kind| {
        let is_installed = kind.is_installed();
        if !is_installed {
            println!("{} is not installed", kind.name());
        }
        is_installed
    });
    kinds
}

/// CPUs, as taskset has them.
pub(crate) struct Cpus {
    pub(crate) own: String,
    pub(crate) resolver: String,
}

impl Cpus {
    /// By default the first CPU for this process, and the second one for the resolver.
    pub(crate) fn new(own: Option<String>, resolver: Option<String>) -> Self {
        let allowed = allowed_cpus();
        let default = |index: usize| {
            // With one CPU they share it: good for nothing but `--test`.
            let cpu = allowed.get(index).or(allowed.first()).unwrap();
            cpu.to_string()
        };
        Self {
            own: own.unwrap_or_else(|| default(0)),
            resolver: resolver.unwrap_or_else(|| default(1)),
        }
    }

    /// Puts this process on its CPUs, and with it the threads that it starts later.
    pub(crate) fn take_own(&self) {
        let pid = std::process::id().to_string();
        let mut command = Command::new("taskset");
        let command = command.args(["--pid", "--cpu-list", &self.own, &pid]);
        let output = command.output().unwrap_or_else(|e| panic!("taskset: {e}"));
        assert!(output.status.success(), "taskset: {output:?}");
    }
}

/// The CPUs that this process may run on (proc(5): `Cpus_allowed_list`, such as `0-3,6`).
fn allowed_cpus() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<usize>().unwrap()..=last.parse().unwrap()
    };
    list.unwrap().trim().split(',').flat_map(range).collect()
}

/// A query for the address of a name below `bench.example`, with the ID 0.
pub(crate) fn query(label: &str) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.push(u8::try_from(label.len()).unwrap());
    query.extend(label.as_bytes());
    query.extend(b"\x05bench\x07example\0\0\x01\0\x01");
    query
}

/// The memory of a process, in bytes: what is resident and no file's (proc_pid_status(5)).
pub(crate) fn memory_of(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let kib = lines.find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = kib.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

/// The middle of some figures, and how far they lie apart.
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        Self {
            median: figures[figures.len() / 2],
            least: figures[0],
            most: figures[figures.len() - 1],
        }
    }
}
