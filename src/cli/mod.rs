//! The command line: arguments in, tables and exit codes out.

mod arguments;

use std::io::Write;
use std::panic;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;

use arguments::{Arguments, Optimize};
use onnx_opt::session::{self, Error, Target};

/// Place and words of the last panic.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs the program and gives its exit code.
pub fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let words = info.payload_as_str().unwrap_or("panic");
        let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) =
            format!("{}{}", words.replace('\n', " "), place.unwrap_or_default());
    }));
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = error.exit_code();
            // Nobody is left to tell if the message itself cannot be printed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    match panic::catch_unwind(|| run(&arguments)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            say_error(&error.to_string(), error.help());
            ExitCode::from(error.exit_code())
        }
        Err(_) => {
            let words = PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone();
            say_error(
                &format!("internal error: {words}"),
                Some("please report this, with the model if you can"),
            );
            ExitCode::FAILURE
        }
    }
}

fn say_error(message: &str, help: Option<&str>) {
    let mut text = format!("error: {message}\n");
    if let Some(help) = help {
        text += &format!("help: {help}\n");
    }
    // Standard error is the last resort.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    optimize(&arguments.optimize)
}

fn optimize(arguments: &Optimize) -> Result<(), Error> {
    let source = arguments.source();
    let target = arguments.target(&source);
    let report = session::optimize(&source, &target, &arguments.options(), &|_| {})?;
    if !arguments.quiet {
        let text = format!(
            "{} nodes, {} bytes -> {} nodes, {} bytes, not verified: {}\n",
            report.before.nodes(),
            report.before.bytes,
            report.after.nodes(),
            report.after.bytes,
            report.output
        );
        let _ = match target {
            Target::File(_) => std::io::stdout().lock().write_all(text.as_bytes()),
            Target::Stdout => std::io::stderr().lock().write_all(text.as_bytes()),
        };
    }
    Ok(())
}
