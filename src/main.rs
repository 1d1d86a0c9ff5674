//! The command line of `onnx-opt`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
