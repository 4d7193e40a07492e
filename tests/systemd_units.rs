//! The files under systemd/: what they must say, and what systemd says about them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The lines of a unit file (systemd.syntax(7)).
struct Unit {
    name: String,
    /// Section, key, value.
    lines: Vec<(String, String, String)>,
}

impl Unit {
    /// Reads a file under systemd/.
    fn read(name: &str) -> Unit {
        let text = std::fs::read_to_string(units().join(name)).unwrap();
        Unit::parse(name, &text)
    }

    fn parse(name: &str, text: &str) -> Unit {
        let mut lines = Vec::new();
        let mut section = String::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            assert!(
                !line.ends_with('\\'),
                "{name}: no continued lines, which this test cannot read"
            );
            if let Some(header) = line.strip_prefix('[') {
                section = header.strip_suffix(']').expect(line).to_owned();
            } else {
                let (key, value) = line.split_once('=').expect(line);
                lines.push((
                    section.clone(),
                    key.trim().to_owned(),
                    value.trim().to_owned(),
                ));
            }
        }
        Unit {
            name: name.to_owned(),
            lines,
        }
    }

    /// All values of a key, in order.
    fn values(&self, section: &str, key: &str) -> Vec<&str> {
        let here = self
            .lines
            .iter()
            .filter(|line| line.0 == section && line.1 == key);
        here.map(|line| line.2.as_str()).collect()
    }

    /// Fails unless each key has these values, one line each, and no other. A key that is given
    /// more than once here has them in this order.
    fn assert_says(&self, section: &str, expected: &[(&str, &str)]) {
        for (key, _) in expected {
            let values = expected
                .iter()
                .filter(|line| line.0 == *key)
                .map(|line| line.1);
            let values: Vec<&str> = values.collect();
            assert_eq!(
                self.values(section, key),
                values,
                "{}: [{section}] {key}=",
                self.name
            );
        }
    }

    /// Fails if a key is there at all.
    fn assert_silent(&self, section: &str, keys: &[&str]) {
        for key in keys {
            let values = self.values(section, key);
            assert!(
                values.is_empty(),
                "{}: [{section}] {key}={values:?}",
                self.name
            );
        }
    }
}

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

#[test]
fn the_service_starts_without_a_network_and_is_retried_for_ever() {
    let unit = Unit::read("pkbridge.service");
    unit.assert_says(
        "Unit",
        &[
            ("After", "network.target"),
            ("Before", "nss-lookup.target"),
            ("Wants", "nss-lookup.target"),
            ("StartLimitIntervalSec", "0"),
        ],
    );
    // Anything required could keep the resolver from starting.
    unit.assert_silent(
        "Unit",
        &[
            "Requires",
            "Requisite",
            "BindsTo",
            "PartOf",
            "StartLimitBurst",
        ],
    );
    unit.assert_silent(
        "Service",
        &["StartLimitIntervalSec", "Sockets", "ExecStartPre"],
    );
    unit.assert_says(
        "Service",
        &[
            ("Type", "notify"),
            ("NotifyAccess", "main"),
            ("ExecStart", "/usr/bin/pkbridge serve"),
            ("ExecReload", "/bin/kill -HUP $MAINPID"),
            ("Restart", "always"),
            ("RestartSec", "2s"),
            ("RestartPreventExitStatus", "2 78"),
            ("WatchdogSec", "30s"),
            ("TimeoutStopSec", "8s"),
            // The whole list: another variable would be news.
            ("Environment", "RUST_MIN_STACK=8388608"),
            ("LimitNOFILE", "65536"),
        ],
    );
    unit.assert_says("Install", &[("WantedBy", "multi-user.target")]);
    unit.assert_silent("Install", &["Also", "RequiredBy", "Alias"]);
}

#[test]
fn the_service_may_do_little() {
    let unit = Unit::read("pkbridge.service");
    unit.assert_says(
        "Service",
        &[
            ("DynamicUser", "yes"),
            ("StateDirectory", "pkbridge"),
            ("StateDirectoryMode", "0700"),
            ("RuntimeDirectory", "pkbridge"),
            ("ConfigurationDirectory", "pkbridge"),
            ("AmbientCapabilities", "CAP_NET_BIND_SERVICE"),
            ("CapabilityBoundingSet", "CAP_NET_BIND_SERVICE"),
            ("PrivateUsers", "no"),
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("PrivateTmp", "yes"),
            ("PrivateMounts", "yes"),
            ("PrivateDevices", "yes"),
            ("DevicePolicy", "closed"),
            ("ProtectClock", "yes"),
            ("ProtectControlGroups", "yes"),
            ("ProtectHostname", "yes"),
            ("ProtectKernelLogs", "yes"),
            ("ProtectKernelModules", "yes"),
            ("ProtectKernelTunables", "yes"),
            ("ProtectProc", "invisible"),
            ("ProcSubset", "pid"),
            ("RemoveIPC", "yes"),
            ("UMask", "0077"),
            ("KeyringMode", "private"),
            ("LockPersonality", "yes"),
            ("MemoryDenyWriteExecute", "yes"),
            ("RestrictNamespaces", "yes"),
            ("RestrictRealtime", "yes"),
            ("RestrictSUIDSGID", "yes"),
            ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
            ("SystemCallArchitectures", "native"),
            ("SystemCallFilter", "@system-service"),
            (
                "SystemCallFilter",
                "~@privileged @resources @aio @keyring @memlock @setuid",
            ),
            ("SystemCallErrorNumber", "EPERM"),
        ],
    );
    // What would take the above back.
    unit.assert_silent(
        "Service",
        &[
            "User",
            "Group",
            "SupplementaryGroups",
            "PermissionsStartOnly",
            "ReadWritePaths",
            "BindPaths",
            "DeviceAllow",
            "PassEnvironment",
            "EnvironmentFile",
        ],
    );
}

#[test]
fn the_publisher_has_its_key_as_a_credential_and_may_do_no_more_than_the_resolver() {
    let unit = Unit::read("pkbridge-publish@.service");
    unit.assert_says(
        "Service",
        &[
            ("Type", "notify"),
            (
                "ExecStart",
                "/usr/bin/pkbridge publish /etc/pkbridge/%i.zone --key %d/key --watch",
            ),
            ("ExecReload", "/bin/kill -HUP $MAINPID"),
            ("LoadCredential", "key:/etc/pkbridge/%i.key"),
            ("Restart", "always"),
            ("RestartPreventExitStatus", "2 78"),
            ("Environment", "RUST_MIN_STACK=8388608"),
            ("CapabilityBoundingSet", ""),
            ("PrivateUsers", "yes"),
            (
                "RestrictAddressFamilies",
                "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
            ),
        ],
    );
    unit.assert_silent(
        "Service",
        &["AmbientCapabilities", "StateDirectory", "User"],
    );
    unit.assert_says("Unit", &[("StartLimitIntervalSec", "0")]);
    // All the rest of what the resolver may not do.
    let resolver = Unit::read("pkbridge.service");
    let start = resolver
        .lines
        .iter()
        .position(|line| line.1 == "NoNewPrivileges");
    let others = ["RestrictAddressFamilies", "WantedBy"];
    for (section, key, _) in &resolver.lines[start.unwrap()..] {
        if !others.contains(&key.as_str()) {
            let expected = resolver.values(section, key);
            assert_eq!(unit.values(section, key), expected, "{key}");
        }
    }
}

#[test]
fn the_socket_unit_passes_udp_and_tcp_by_the_name_that_the_program_expects() {
    let unit = Unit::read("pkbridge.socket");
    unit.assert_says(
        "Socket",
        &[
            ("ListenDatagram", "127.0.0.1:53"),
            ("ListenDatagram", "[::1]:53"),
            ("ListenStream", "127.0.0.1:53"),
            ("ListenStream", "[::1]:53"),
            ("FileDescriptorName", "dns"),
            ("Accept", "no"),
            ("BindIPv6Only", "ipv6-only"),
            ("FreeBind", "yes"),
            ("Backlog", "1024"),
            ("ReceiveBuffer", "1M"),
            ("TriggerLimitIntervalSec", "2s"),
            ("TriggerLimitBurst", "20"),
        ],
    );
    // Found by its name; and neither unit needs or enables the other.
    unit.assert_silent("Socket", &["Service", "ReusePort"]);
    unit.assert_silent("Unit", &["Requires", "BindsTo", "PartOf"]);
    unit.assert_says("Install", &[("WantedBy", "sockets.target")]);
    unit.assert_silent("Install", &["Also", "RequiredBy"]);
}

#[test]
fn systemd_resolved_asks_for_pkarr_names_alone() {
    let drop_in = Unit::read("resolved.conf.d/pkbridge.conf");
    drop_in.assert_says("Resolve", &[("DNS", "127.0.0.1:53"), ("Domains", "~pkarr")]);
    assert_eq!(drop_in.lines.len(), 2, "nothing else is changed");
}

/// Runs .ci/systemd-check, which the continuous integration runs too.
fn check(units: &Path) -> Result<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/systemd-check");
    let output = Command::new(&script)
        .arg(env!("CARGO_BIN_EXE_pkbridge"))
        .arg(units)
        .output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

#[test]
fn systemd_accepts_the_units_and_their_exposure_is_low() {
    let report = check(&units()).unwrap_or_else(|report| panic!("{report}"));
    assert!(report.contains("Overall exposure level"), "{report}");
}

/// The check itself finds what it is there to find.
#[test]
fn the_check_finds_a_misspelt_key_and_a_lost_protection() {
    let directory = Directory::new("faults");
    let original = std::fs::read_to_string(units().join("pkbridge.service")).unwrap();
    for unit in ["pkbridge.socket", "pkbridge-publish@.service"] {
        std::fs::copy(units().join(unit), directory.0.join(unit)).unwrap();
    }
    let check_changed = |from: &str, to: &str| {
        assert!(original.contains(from), "{from}");
        let changed = original.replace(from, to);
        std::fs::write(directory.0.join("pkbridge.service"), changed).unwrap();
        check(&directory.0).expect_err(to)
    };
    let report = check_changed("\nProtectHome=", "\nProtectHom=");
    assert!(
        report.contains("ProtectHom") && report.contains("verify"),
        "{report}"
    );
    let report = check_changed("\nSystemCallFilter=", "\n#SystemCallFilter=");
    assert!(report.contains("exposure"), "{report}");
}

/// A directory for one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let name = format!("systemd-units-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
