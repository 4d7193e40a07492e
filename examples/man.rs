//! Writes the man pages: `cargo run --example man -- DIRECTORY`.

use clap::CommandFactory;

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, "usage: man DIRECTORY")
    })?;
    std::fs::create_dir_all(&directory)?;
    clap_mangen::generate_to(pkbridge::cli::Cli::command(), directory)
}
