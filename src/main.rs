//! The command line of `onnx-opt`.

mod cli;

use std::process::ExitCode;

/// Graphs are many small allocations; this allocator makes large ones a third faster.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == onnx_opt::verify::SUBCOMMAND) {
        return onnx_opt::verify::child_main();
    }
    cli::main()
}
