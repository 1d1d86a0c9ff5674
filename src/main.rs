//! The command line of `onnx-opt`.

mod allocator;
mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    if let Some(code) = onnx_opt::verify::serve() {
        return code;
    }
    cli::main()
}
