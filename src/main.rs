//! The `salebell` program: reads the arguments and runs the subcommand.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = salebell::cli::Arguments::parse();
    // The allocator's memory is sparsely used: transparent huge pages would make the worker half as large again and no
    // faster. A kernel that does not support the call leaves them on, which costs only that memory.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let ended = salebell::cli::run(arguments);
    log::logger().flush();
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("salebell: {}", salebell::error::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
