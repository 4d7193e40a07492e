//! What the owner of a name does: makes a key. By the real program, with the reference implementation on the
//! other side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::{Directory, key_of, secret};
use pkbridge::pkarr::PublicKey;
use serde_json::Value;

/// What the program has said.
struct Ended {
    code: i32,
    output: String,
    errors: String,
}

impl Ended {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        let Self { output, errors, .. } = &self;
        assert_eq!(self.code, code, "output:\n{output}\nerrors:\n{errors}");
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap()
    }
}

fn run_in(directory: &Path, arguments: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_pkbridge"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .current_dir(directory)
        .output()
        .unwrap();
    Ended {
        code: output.status.code().unwrap(),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The key of the file, as 64 digits.
fn write_key(directory: &Directory, number: u8) -> PublicKey {
    let path = directory.join("my.key");
    std::fs::write(&path, format!("{number:02x}").repeat(32)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    key_of(&secret(number))
}

#[test]
fn a_new_key_is_a_file_for_its_owner_alone_and_is_never_overwritten() {
    let directory = Directory::new();
    let made = run_in(&directory.0, &["keygen", "--out", "my.key"]).expect(0);
    let path = directory.join("my.key");
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.trim_end().len(), 64);
    assert!(!made.output.contains(text.trim()) && made.errors.is_empty());

    let again = run_in(&directory.0, &["keygen", "--out", "my.key"]).expect(1);
    assert!(
        again.errors.contains("never overwritten"),
        "{}",
        again.errors
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    let shown = run_in(&directory.0, &["key", "my.key", "--json"]).expect(0);
    assert_eq!(shown.errors, "");
    let key: PublicKey = shown.json()["key"].as_str().unwrap().parse().unwrap();
    let address = format!("https://{key}.pkarr/");
    assert_eq!(shown.json()["url"], address.as_str());
    assert!(made.output.contains(&key.to_string()) && made.output.contains(&address));

    let with_code = run_in(&directory.0, &["key", "my.key", "--qr"]).expect(0);
    assert!(
        with_code.output.contains(&"█".repeat(41)),
        "{}",
        with_code.output
    );

    // Without --out the key names the file; two are two.
    let one = run_in(&directory.0, &["keygen", "--json"]).expect(0).json();
    let two = run_in(&directory.0, &["keygen", "--json"]).expect(0).json();
    assert_ne!(one["key"], two["key"]);
    assert_eq!(one["file"], format!("{}.key", one["key"].as_str().unwrap()));
    assert!(directory.join(one["file"].as_str().unwrap()).exists());
}

#[test]
fn key_files_of_the_reference_implementation_and_ours_are_the_same() {
    let directory = Directory::new();
    let theirs = pkarr::Keypair::random();
    let path = directory.join("theirs.key");
    theirs.write_secret_key_file(&path).unwrap();
    let shown = run_in(&directory.0, &["key", "theirs.key", "--json"]).expect(0);
    assert_eq!(shown.json()["key"], theirs.to_z32());

    let made = run_in(&directory.0, &["keygen", "--out", "ours.key", "--json"]).expect(0);
    let read = pkarr::Keypair::from_secret_key_file(&directory.join("ours.key")).unwrap();
    assert_eq!(made.json()["key"], read.to_z32());
}

#[test]
fn a_key_file_that_is_none_is_refused_and_one_that_others_may_read_is_told() {
    let directory = Directory::new();
    let key = write_key(&directory, 3);
    let path = directory.join("my.key");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let shown = run_in(&directory.0, &["key", "my.key"]).expect(0);
    assert!(shown.errors.contains("(mode 0640)"), "{}", shown.errors);
    assert!(shown.output.contains(&key.to_string()));

    std::fs::write(&path, "5ec7e7".repeat(10)).unwrap();
    let refused = run_in(&directory.0, &["key", "my.key"]).expect(1);
    assert!(
        refused.errors.contains("this one has 60 characters"),
        "{}",
        refused.errors
    );
    assert!(!refused.errors.contains("5ec7e7"), "{}", refused.errors);
    run_in(&directory.0, &["key", "missing.key"]).expect(1);
    let unwritable = run_in(&directory.0, &["keygen", "--out", "no/such/directory.key"]).expect(1);
    assert!(
        unwritable.errors.contains("cannot be written"),
        "{}",
        unwritable.errors
    );
}
