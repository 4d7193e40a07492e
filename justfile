# What a developer runs. `just` alone lists the recipes.

_list:
    @just --list

# Formatting, lints, documentation: what CI checks before the tests
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# All tests
test:
    cargo test --workspace

# The main job on this machine alone
demo *args:
    cargo run --release -- demo {{ args }}

# dig and kdig against the demo (Debian packages bind9-dnsutils and knot-dnsutils)
dig:
    cargo build --release
    .ci/dig-check target/release/pkbridge

# unbound, dnsmasq, drill, glibc and musl in front of the demo (as root; packages as in .ci/run)
clients:
    cargo build --release
    .ci/clients-check target/release/pkbridge

# Names published on a loopback DHT of libtorrent nodes, by those and by pkbridge (packages as in .ci/run)
libtorrent *checks:
    cargo build --release
    .ci/libtorrent-check target/release/pkbridge {{ checks }}

# The same with bittorrent-dht, which npm installs
bittorrent-dht:
    cargo build --release
    .ci/bittorrent-dht-check target/release/pkbridge

# An upstream's answers as pkbridge, unbound and dnsdist give them (packages as in .ci/run, and dnsdist)
forward-check *args:
    cargo build --release
    .ci/forward-check target/release/pkbridge {{ args }}

# Signed, unsigned and forged answers as pkbridge and unbound validate them (packages as in .ci/run)
validate-check *args:
    cargo build --release
    .ci/validate-check target/release/pkbridge {{ args }}

# The commands of README.md's "Own a name in five minutes" and of docs/own-a-name.md, on a loopback DHT
readme-check:
    cargo build --release
    .ci/readme-check target/release/pkbridge

# A published zone whose host changes its addresses, in a network namespace (as root; Debian package iproute2)
watch-check:
    cargo build --release
    cargo build -p dht-simulator
    .ci/watch-check target/release/pkbridge target/debug/dht-simulator

# The systemd units (Debian package systemd)
units:
    cargo build --release
    .ci/systemd-check target/release/pkbridge

# The units under a systemd of their own: start, reload, crash, hang, socket activation, a publisher's credential
# (as root; Debian packages systemd, bind9-dnsutils and iproute2)
units-boot:
    cargo build --release
    cargo build -p dht-simulator
    cd target && apt-get download systemd-resolved
    .ci/systemd-boot-check target/release/pkbridge target/debug/dht-simulator target/systemd-resolved_*.deb

# Micro-benchmarks, and the instructions that a question costs (Debian package valgrind)
bench *args:
    cargo bench --bench pkbridge -- {{ args }}
    cargo bench --bench instructions

# Cold keys beside the bare DHT library, on a simulated network of a thousand nodes
bench-cold *args:
    cargo build --release -p dht-simulator
    cargo bench --bench cold -- {{ args }}

# Cache misses beside unbound and dnsdist (Debian packages unbound and dnsdist)
bench-forward *args:
    cargo bench --bench forward -- {{ args }}

# Cache hits beside other resolvers and an echo (Debian packages unbound, dnsdist, dnsmasq-base,
# knot-resolver, dnsperf; those that are not there are left out)
bench-hit *args:
    cargo bench --bench hit -- {{ args }}

# Bytes of a cached answer and packet, and whether bounds are kept, beside unbound (Debian package unbound)
bench-memory *args:
    cargo bench --bench memory -- {{ args }}

# Fuzz a target: answer, message, packet, name, zone_file or holder (needs `cargo install cargo-fuzz`)
fuzz target="answer" seconds="60":
    mkdir -p fuzz/corpus/{{ target }}
    RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none {{ target }} \
        fuzz/corpus/{{ target }} fuzz/seeds/{{ target }} -- -max_total_time={{ seconds }}

# The library's public API beside tests/public-api.txt; with --update, into it
public-api *args:
    .ci/public-api {{ args }}

# What the library's changes since a release, such as v0.1.0, do to its users (needs
# `cargo install cargo-semver-checks`)
semver release:
    cargo semver-checks --package pkbridge --baseline-rev {{ release }}

# Man pages, into target/man
man:
    cargo run --example man -- target/man

# Licences, bans and sources of the dependencies (needs `cargo install cargo-deny`)
deny:
    cargo deny --offline check licenses bans sources

# All that CI does
ci:
    bash .ci/run
