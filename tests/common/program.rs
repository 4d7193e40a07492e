//! The program itself, run to its end, and the files that its commands for the owner of a name are given.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use pkbridge::pkarr::PublicKey;
use serde_json::Value;

use super::{Directory, key_of, secret};

/// What the program has said.
pub struct Ended {
    pub code: i32,
    pub output: String,
    pub errors: String,
}

impl Ended {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        let Self { output, errors, .. } = &self;
        assert_eq!(self.code, code, "output:\n{output}\nerrors:\n{errors}");
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap()
    }

    #[track_caller]
    pub fn says(&self, text: &str) {
        assert!(self.errors.contains(text), "{text}: {}", self.errors);
    }
}

pub fn run_in(directory: &Path, arguments: &[&str]) -> Ended {
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

/// The same while this runtime goes on.
pub async fn run(directory: &Directory, arguments: &[&str]) -> Ended {
    let path = directory.0.clone();
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let run = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run_in(&path, &arguments)
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// The key of this number in the file `my.key`, as 64 digits.
pub fn write_key(directory: &Directory, number: u8) -> PublicKey {
    let path = directory.join("my.key");
    std::fs::write(&path, format!("{number:02x}").repeat(32)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    key_of(&secret(number))
}

pub fn write_zone(directory: &Directory, text: &str) {
    std::fs::write(directory.join("my.zone"), text).unwrap();
}
