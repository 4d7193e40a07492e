//! Replays the seeds of the fuzz targets (`fuzz/seeds`), so that what a fuzzer once found stays found
//! without one. A new crash gets its input there, under a name that says what it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "../fuzz/checks.rs"]
mod checks;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// More seeds, or more bytes of them, belong in the fuzzer's own corpus, outside of the repository.
const MAX_SEEDS: usize = 40;
const MAX_BYTES: usize = 40 * 1024;

fn replay(target: &str, check: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut bytes = 0;
    let mut count = 0;
    for seed in fs::read_dir(seeds.join(target)).unwrap() {
        let path = seed.unwrap().path();
        let seed = fs::read(&path).unwrap();
        count += 1;
        bytes += seed.len();
        assert!(catch_unwind(|| check(&seed)).is_ok(), "{}", path.display());
    }
    assert!((10..=MAX_SEEDS).contains(&count), "{count} seeds");
    assert!(bytes <= MAX_BYTES, "{bytes} bytes");
}

#[test]
fn seeds_of_messages() {
    replay("message", checks::message);
}

#[test]
fn seeds_of_names() {
    replay("name", checks::name);
}

#[test]
fn seeds_of_packets() {
    replay("packet", checks::packet);
}

#[test]
fn seeds_of_zone_files() {
    replay("zone_file", checks::zone_file);
}

#[test]
fn seeds_of_replies_of_holders() {
    replay("holder", checks::holder);
}

#[test]
fn seeds_of_answers() {
    replay("answer", checks::answer);
}
