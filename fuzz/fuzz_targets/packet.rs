//! Any bytes as the DNS message of a properly signed packet.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::packet(bytes));
