//! Any bytes as what a DHT node says that it holds of a key.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::holder(bytes));
