//! Who may import whom: reads the sources and holds them against the map in `src/lib.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// For each module the other modules of the crate that it may name.
const ARROWS: [(&str, &[&str]); 13] = [
    ("main", &["cli", "panics"]),
    (
        "cli",
        &[
            "server",
            "control",
            "serve",
            "resolve",
            "pkarr",
            "wire",
            "config",
            "endpoint",
            "panics",
            "file_look",
        ],
    ),
    (
        "server",
        &[
            "control", "serve", "resolve", "pkarr", "wire", "config", "endpoint",
        ],
    ),
    ("control", &["pkarr"]),
    ("serve", &["resolve", "wire", "readable"]),
    (
        "resolve",
        &[
            "pkarr",
            "wire",
            "endpoint",
            "panics",
            "readable",
            "file_look",
        ],
    ),
    ("readable", &[]),
    ("file_look", &[]),
    ("pkarr", &["wire"]),
    ("wire", &[]),
    ("config", &["endpoint", "pkarr"]),
    ("endpoint", &["pkarr"]),
    ("panics", &[]),
];

/// Paths that only these modules may name. A place is a module: a file, or a directory of them.
const ONLY_IN: [(&str, &[&str]); 13] = [
    // The DHT library; the demo has its loopback network as well.
    ("mainline", &["resolve/dht", "cli/demo"]),
    ("redb", &["resolve/store"]),
    ("hyper", &["resolve/relays"]),
    ("hyper_util", &["resolve/relays"]),
    ("hickory_server", &["serve/admit"]),
    ("hickory_resolver", &["resolve/system", "resolve/recurse"]),
    ("ed25519_dalek", &["pkarr"]),
    // The command line, the service manager's sockets and messages, where logs go, the file's form.
    ("clap", &["cli"]),
    ("qrcode", &["cli/key"]),
    ("listenfd", &["serve/systemd"]),
    ("sd_notify", &["serve/systemd"]),
    ("tracing_subscriber", &["cli/log"]),
    ("toml", &["config"]),
];

/// Paths that nothing in these modules may name.
const NEVER_IN: [(&str, &[&str]); 5] = [
    // What a name means does not depend on the time, the network, or a log.
    (
        "pkarr",
        &["tokio", "std::time", "std::net::UdpSocket", "tracing"],
    ),
    (
        "wire",
        &["tokio", "std::time", "std::net::UdpSocket", "tracing"],
    ),
    // Reading a configuration touches no network.
    (
        "config",
        &[
            "tokio",
            "tracing",
            "std::net::UdpSocket",
            "std::net::TcpStream",
        ],
    ),
    (
        "config",
        &["std::net::TcpListener", "std::net::ToSocketAddrs"],
    ),
    // How clients are served does not depend on where answers come from.
    (
        "serve",
        &[
            "crate::resolve::Dht",
            "crate::resolve::Node",
            "crate::resolve::Upstreams",
            "crate::resolve::Packets",
        ],
    ),
];

/// Modules that may touch files.
const FILES_IN: [&str; 11] = [
    "config",
    "cli",
    "file_look",
    "control/listener",
    "resolve/dht",
    "resolve/recurse/hints",
    "resolve/local_records",
    "resolve/store",
    "resolve/system",
    "resolve/validate/anchors",
    "server/losses",
];
/// Keywords after which a path with `::` in front may stand.
const BEFORE_A_PATH: [&str; 6] = ["use", "return", "in", "as", "dyn", "mut"];
/// Longest source file without its tests, in lines.
const MAX_LINES: usize = 600;

/// A path in the source, such as `crate::wire::Layout`, with groups of a `use` taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    line: usize,
    segments: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    line: usize,
    text: String,
}

impl Token {
    fn is_name(&self) -> bool {
        self.text
            .starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The source without comments, strings and characters, line by line as before.
fn bare(source: &str) -> String {
    let characters: Vec<char> = source.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    let at_is = |at: usize, text: &str| {
        let text: Vec<char> = text.chars().collect();
        characters[at..].starts_with(&text)
    };
    while at < characters.len() {
        let start = at;
        if at_is(at, "//") {
            while at < characters.len() && characters[at] != '\n' {
                at += 1;
            }
        } else if at_is(at, "/*") {
            let mut depth = 0;
            loop {
                if at_is(at, "/*") {
                    (depth, at) = (depth + 1, at + 2);
                } else if at_is(at, "*/") {
                    (depth, at) = (depth - 1, at + 2);
                } else {
                    at += 1;
                }
                if depth == 0 || at >= characters.len() {
                    break;
                }
            }
        } else if let Some(end) = string_end(&characters, at) {
            at = end;
        } else {
            out.push(characters[at]);
            at += 1;
            continue;
        }
        let skipped = &characters[start..at.min(characters.len())];
        out.push(' ');
        out.extend(skipped.iter().filter(|&&c| c == '\n'));
    }
    out
}

/// The position after the string or character literal that begins here.
fn string_end(characters: &[char], at: usize) -> Option<usize> {
    let rest = &characters[at..];
    let in_word = at > 0 && (characters[at - 1].is_alphanumeric() || characters[at - 1] == '_');
    let prefix = rest.iter().take_while(|c| matches!(c, 'r' | 'b' | 'c'));
    let prefix = prefix.count();
    let raw = rest[..prefix].contains(&'r');
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let opening = rest.get(prefix + hashes);
    if prefix > 0 && in_word {
        return None;
    }
    if raw && opening == Some(&'"') {
        let mut end: Vec<char> = vec!['"'];
        end.resize(hashes + 1, '#');
        let from = prefix + hashes + 1;
        let found = rest[from..].windows(end.len()).position(|w| w == end);
        return Some(at + from + found.unwrap_or(rest.len()) + end.len());
    }
    let quote = *rest.get(prefix)?;
    match quote {
        '"' => {}
        // `'a` is a lifetime, `'a'` and `'\n'` are characters.
        '\'' if rest.get(prefix + 1) == Some(&'\\') || rest.get(prefix + 2) == Some(&'\'') => {}
        _ => return None,
    }
    let mut position = at + prefix + 1;
    while position < characters.len() {
        match characters[position] {
            '\\' => position += 2,
            c if c == quote => return Some(position + 1),
            _ => position += 1,
        }
    }
    Some(characters.len())
}

/// The source up to its module of tests.
fn without_tests(source: &str) -> &str {
    let mut end = 0;
    let mut attributes_from = None;
    for line in source.split_inclusive('\n') {
        let text = line.trim();
        if text == "#[cfg(test)]" {
            attributes_from.get_or_insert(end);
        } else if text.starts_with("mod ") && text.ends_with('{') && attributes_from.is_some() {
            break;
        } else if !text.starts_with("#[") {
            attributes_from = None;
        }
        end += line.len();
    }
    &source[..attributes_from.unwrap_or(end)]
}

fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (index, text) in bare(source).lines().enumerate() {
        let characters: Vec<char> = text.chars().collect();
        let mut at = 0;
        while at < characters.len() {
            let start = at;
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            if is_word(characters[at]) {
                while at < characters.len() && is_word(characters[at]) {
                    at += 1;
                }
            } else if characters[at] == ':' && characters.get(at + 1) == Some(&':') {
                at += 2;
            } else {
                at += 1;
            }
            let text: String = characters[start..at].iter().collect();
            if !text.trim().is_empty() {
                let line = index + 1;
                tokens.push(Token { line, text });
            }
        }
    }
    tokens
}

/// All paths of two segments or more, and those of a `use`; `super` and `self` at their start are
/// resolved for the module `module` (empty for the root of the crate).
fn paths(source: &str, module: &[&str]) -> Vec<Named> {
    let tokens = tokens(source);
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
    // The brace depths at which inline modules were opened.
    let mut opened = Vec::new();
    let mut depth = 0_usize;
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match text(at) {
            "mod" if text(at + 2) == "{" => {
                module.push(text(at + 1).to_owned());
                opened.push(depth);
                at += 2;
                continue;
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if opened.last() == Some(&depth) {
                    opened.pop();
                    module.pop();
                }
            }
            _ if tokens[at].is_name() && !BEFORE_A_PATH.contains(&text(at)) => {
                let before = |count: usize| at.checked_sub(count).map_or("", text);
                let absolute = BEFORE_A_PATH.contains(&before(2));
                let continues = before(1) == "::"
                    && !absolute
                    && (before(2) == ">" || at > 1 && tokens[at - 2].is_name());
                // `pub(in super::super)` uses nothing.
                let visibility = before(1) == "in" && before(2) == "(";
                let named = text(at + 1) == "::" || before(1) == "use";
                if named && !continues && !visibility {
                    let mut expanded = Vec::new();
                    at = expand(&tokens, at, Vec::new(), &mut expanded);
                    found.extend(expanded.into_iter().map(|named| resolve(named, &module)));
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Takes apart the path at `at`; returns the position after it.
fn expand(tokens: &[Token], mut at: usize, mut prefix: Vec<String>, out: &mut Vec<Named>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    loop {
        let Some(token) = tokens.get(at) else {
            return at;
        };
        if token.text == "{" {
            at += 1;
            while at < tokens.len() && text(at) != "}" {
                at = if text(at) == "," {
                    at + 1
                } else {
                    expand(tokens, at, prefix.clone(), out)
                };
            }
            return at + 1;
        }
        if !(token.is_name() || token.text == "*") {
            // `Vec::<u8>`, or something that is no path: what is known so far is the path.
            let line = token.line;
            out.push(Named {
                line,
                segments: prefix,
            });
            return at + usize::from(text(at) != "<");
        }
        prefix.push(token.text.clone());
        let line = token.line;
        at += 1;
        if text(at) != "::" {
            if text(at) == "as" {
                at += 2;
            }
            out.push(Named {
                line,
                segments: prefix,
            });
            return at;
        }
        at += 1;
    }
}

/// The path from the root of the crate, if it is one of the crate's: `crate::...`.
fn resolve(named: Named, module: &[String]) -> Named {
    let mut segments = named.segments.iter().peekable();
    let mut base = module.to_vec();
    match segments.peek().map(|first| first.as_str()) {
        Some("self") => {
            segments.next();
        }
        Some("super") => {}
        _ => return named,
    }
    while segments.next_if(|segment| *segment == "super").is_some() {
        base.pop();
    }
    let rest = segments.cloned();
    let segments = std::iter::once("crate".to_owned())
        .chain(base)
        .chain(rest)
        .collect();
    Named { segments, ..named }
}

/// A file's own place: `resolve/dht.rs` is `["resolve", "dht"]`.
fn module_of(file: &str) -> Vec<&str> {
    let parts = file.trim_end_matches(".rs").split('/');
    parts
        .filter(|part| !matches!(*part, "mod" | "lib"))
        .collect()
}

fn named(segments: &[String], path: &str) -> bool {
    let path: Vec<&str> = path.split("::").collect();
    segments.len() >= path.len() && segments.iter().zip(path).all(|(a, b)| a == b)
}

fn is_in(file: &str, place: &str) -> bool {
    file.strip_prefix(place)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// What a file does that it must not; `file` is its path below `src`.
fn violations(file: &str, source: &str) -> Vec<String> {
    let module = module_of(file);
    // The root of the crate names all modules.
    let Some(&own) = module.first() else {
        return Vec::new();
    };
    let arrows = BTreeMap::from(ARROWS);
    let code = without_tests(source);
    let mut out = Vec::new();
    if !arrows.contains_key(own) {
        out.push(format!("src/{file}:1: no arrows are laid down for {own}"));
    }
    let allowed = arrows.get(own).copied().unwrap_or_default();
    let mut say = |line: usize, what: String| out.push(format!("src/{file}:{line}: {what}"));
    for Named { line, segments } in paths(code, &module) {
        let path = segments.join("::");
        // The program sees the library from outside.
        let of_the_crate = matches!(segments[0].as_str(), "crate" | "pkbridge");
        if of_the_crate {
            let to = segments.get(1).map_or("", String::as_str);
            if to != own && !allowed.contains(&to) {
                say(line, format!("{own} must not use {path}"));
            }
        }
        for (name, places) in ONLY_IN {
            if named(&segments, name) && !places.iter().any(|place| is_in(file, place)) {
                say(line, format!("{path} belongs in {}", places.join(", ")));
            }
        }
        for (place, names) in NEVER_IN {
            if is_in(file, place) && names.iter().any(|name| named(&segments, name)) {
                say(line, format!("{path} has no place in {place}"));
            }
        }
        let reads_files = named(&segments, "std::fs") || named(&segments, "tokio::fs");
        if reads_files && !FILES_IN.iter().any(|place| is_in(file, place)) {
            say(line, format!("{path}: files are touched in {FILES_IN:?}"));
        }
    }
    let lines = code.lines().count();
    if lines > MAX_LINES {
        let what = format!("{lines} lines without tests, over {MAX_LINES}");
        say(MAX_LINES, what);
    }
    out
}

/// Lines of a manifest that name a dependency and have no comment above them.
fn unexplained(manifest: &str) -> Vec<String> {
    let mut in_dependencies = false;
    let mut above = "";
    let mut out = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line
                .trim_end_matches(']')
                .rsplit('.')
                .next()
                .is_some_and(|table| {
                    table
                        .trim_start_matches('[')
                        .trim_start_matches("dev-")
                        .trim_start_matches("build-")
                        == "dependencies"
                });
        }
        let starts = line.starts_with(|c: char| c.is_ascii_alphanumeric());
        if in_dependencies && starts && line.contains('=') && !above.starts_with('#') {
            out.push(format!(
                "Cargo.toml:{}: no comment above: {line}",
                index + 1
            ));
        }
        above = line;
    }
    out
}

/// All files below `directory`, by their paths relative to it.
fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(directory).unwrap().to_str().unwrap();
                found.push((name.to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_sources_keep_to_the_map() {
    let sources = sources(&root().join("src"));
    for (module, _) in ARROWS {
        let is_there = |(file, _): &(String, String)| module_of(file).first() == Some(&module);
        assert!(sources.iter().any(is_there), "src has no {module} any more");
    }
    let found: Vec<String> = sources
        .iter()
        .filter(|(file, _)| !file.ends_with("/tests.rs"))
        .flat_map(|(file, source)| violations(file, source))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let found = unexplained(&manifest);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn an_arrow_against_the_map_is_found_however_it_is_written() {
    for source in [
        "use crate::resolve::Resolver;",
        "use crate::{wire, resolve::Resolver};",
        "use crate::{\n    wire::{self, Header},\n    resolve,\n};",
        "fn f() -> crate::resolve::Answer { todo!() }",
        "use super::super::resolve::Dht;",
        "mod inner { use super::super::super::resolve; }",
        "mod inner {}\nuse super::super::resolve;",
        "use crate::resolve as r;",
        "use ::pkbridge::resolve::Dht;",
        "use crate::*;",
        "use super::super::*;",
        "use crate::{self};",
    ] {
        let found = violations("pkarr/zone.rs", source);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
        assert!(found[0].contains("pkarr must not use"), "{found:?}");
    }
    let found = violations("config/mod.rs", "\n\nuse super::server::Server;");
    assert_eq!(
        found,
        ["src/config/mod.rs:3: config must not use crate::server::Server"]
    );
    let found = violations("main.rs", "fn main() { pkbridge::server::f() }");
    assert_eq!(
        found,
        ["src/main.rs:1: main must not use pkbridge::server::f"]
    );
    let found = violations("extra.rs", "");
    assert_eq!(found, ["src/extra.rs:1: no arrows are laid down for extra"]);
}

#[test]
fn what_the_map_allows_and_what_is_no_code_is_no_violation() {
    for source in [
        "use crate::wire::Layout;",
        "use crate::pkarr::key::PublicKey;",
        "use super::key::PublicKey;",
        "use super::{key, name};",
        "use self::inner::X;",
        "pub(super) fn f() {}",
        "pub(in super::super) fn f() {}",
        "// use crate::resolve::Dht;\n/* crate::config /* tokio::x */ */",
        "/// See [`crate::resolve`].\nfn f<'a>(text: &'a str) -> char { '\"' }",
        "const T: &str = \"crate::resolve \\\" tokio::time\";",
        "const T: &str = r#\"crate::resolve \" tokio::time\"#;",
        "#[cfg(test)]\n#[allow(x)]\nmod tests {\n    use crate::resolve::Dht;\n}\n",
        "fn f(tokio: u8) -> u8 { tokio }",
        "let x = Vec::<u8>::new();",
    ] {
        let found = violations("pkarr/zone.rs", source);
        assert!(found.is_empty(), "{source}: {found:?}");
    }
}

#[test]
fn a_library_outside_of_its_place_is_found() {
    let one = |file: &str, source: &str| {
        let found = violations(file, source);
        assert_eq!(found.len(), 1, "{file}: {source}: {found:?}");
    };
    one("resolve/packets.rs", "use mainline::Dht;");
    one("server/mod.rs", "let x = ::mainline::Dht::client();");
    one("cli/serve.rs", "use mainline as m;");
    one("resolve/packets.rs", "use redb::Database;");
    one("serve/udp.rs", "use hickory_server::server::Request;");
    one("serve/admit.rs", "use hickory_resolver::x;");
    one("pkarr/key.rs", "use tokio::net::UdpSocket;");
    one("pkarr/key.rs", "fn f() { tracing::debug!(\"x\") }");
    one("wire.rs", "use std::{fmt, time::Duration};");
    one("wire.rs", "fn f() -> std::time::Instant { todo!() }");
    one("config/mod.rs", "use std::net::{IpAddr, UdpSocket};");
    one("serve/udp.rs", "use crate::resolve::{Answer, Dht};");
    one("server/mod.rs", "let x = std::fs::read(\"y\");");
    // Code after a `#[cfg(test)]` that is not the module of tests is code.
    one(
        "pkarr/key.rs",
        "#[cfg(test)]\nmod tests;\nmod other {\n    use tokio::x;\n}\n",
    );
    for (file, source) in [
        ("resolve/dht.rs", "use mainline::Dht;"),
        ("cli/demo.rs", "let x = mainline::Testnet::builder(1);"),
        ("serve/admit.rs", "use hickory_server::server::Request;"),
        ("resolve/system.rs", "use hickory_resolver::x;"),
        ("resolve/packets.rs", "use std::time::Duration;"),
        ("config/values.rs", "use std::time::Duration;"),
    ] {
        let found = violations(file, source);
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn a_long_file_is_found_but_its_tests_do_not_count() {
    let long = "\n".repeat(MAX_LINES + 1);
    assert_eq!(violations("wire.rs", &long).len(), 1);
    let lines = "\n".repeat(MAX_LINES);
    let tested = format!("{lines}#[cfg(test)]\nmod tests {{\n{lines}}}\n");
    assert!(violations("wire.rs", &tested).is_empty());
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# Why.\na = \"1\"\nb = \"2\"\n\n\
                    [target.'cfg(unix)'.dependencies]\nc = \"3\"\n[dev-dependencies]\nd = \"4\"\n\
                    [profile.dev]\nopt-level = 1\n";
    let found = unexplained(manifest);
    assert_eq!(
        found,
        [
            "Cargo.toml:6: no comment above: b = \"2\"",
            "Cargo.toml:9: no comment above: c = \"3\"",
            "Cargo.toml:11: no comment above: d = \"4\"",
        ]
    );
}
