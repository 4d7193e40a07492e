//! Replays the seeds of the fuzz targets (`fuzz/seeds`), so that what a fuzzer once found stays found
//! without one. A new crash gets its input there, under a name that says what it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../fuzz/checks.rs"]
mod checks;

use std::collections::{BTreeMap, BTreeSet};
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

/// The fuzz targets are a workspace of their own, so that no other build brings their lock file up to date.
#[test]
fn the_lock_file_of_the_targets_has_the_versions_of_the_programs() {
    let packages = |file: &str| -> BTreeMap<String, BTreeSet<String>> {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let lock: toml::Table = text.parse().unwrap();
        let mut packages = BTreeMap::<_, BTreeSet<_>>::new();
        for package in lock["package"].as_array().unwrap() {
            let part = |key: &str| package[key].as_str().unwrap().to_owned();
            packages
                .entry(part("name"))
                .or_default()
                .insert(part("version"));
        }
        packages
    };
    let (own, program) = (packages("fuzz/Cargo.lock"), packages("Cargo.lock"));
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    for name in manifest["dependencies"].as_table().unwrap().keys() {
        let how = "copy Cargo.lock to fuzz/Cargo.lock and run cargo metadata in fuzz";
        assert!(own.contains_key(name), "{name} is missing: {how}");
        assert!(own[name].is_subset(&program[name]), "{name}: {how}");
    }
}
