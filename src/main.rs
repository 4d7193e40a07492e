//! The `pkbridge` program; see the library for the map of the code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pkbridge::panics::end_process_on_panic();
    pkbridge::cli::run()
}
