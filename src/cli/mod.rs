//! The command line: arguments in, tables, JSON and exit codes out.

mod arguments;
mod bench;
mod calibrate;
mod catalogue;
mod diff;
mod format;
mod grad;
mod inspect;
mod interrupt;
mod optimize;
mod output;
mod progress;
mod prune;
mod quantize;
mod sensitivity;
mod static_quantization;
mod verify;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use onnx_opt::session::Error;

use arguments::{Arguments, Command};
use output::{Complaint, Stream};

/// Place and words of the last panic.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs the program and gives its exit code.
pub fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let words = info.payload_as_str().unwrap_or("panic");
        let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = words.to_owned() + &place.unwrap_or_default();
    }));
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let json = arguments.json();
    let end = |error: &str, help: Option<&str>, exit_code: u8| {
        Complaint { error, help, exit_code }.say(json);
        ExitCode::from(exit_code)
    };
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(&arguments)));
    interrupt::give_way();
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error @ Error::Told)) => ExitCode::from(error.exit_code()),
        Ok(Err(error)) => end(&error.to_string(), error.help(), error.exit_code()),
        Err(_) => {
            let words = PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let help = "please report this, with the model if you can";
            end(&format!("internal error: {words}"), Some(help), 1)
        }
    }
}

fn parse() -> Result<Arguments, clap::Error> {
    let arguments = Arguments::try_parse()?;
    let conflict = |words| Arguments::command().error(ErrorKind::ArgumentConflict, words);
    arguments.optimize.check().map_err(conflict)?;
    Ok(arguments)
}

/// Help, version, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !help && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let help = Some("try --help");
        Complaint { error: first, help, exit_code: 2 }.say(true);
    } else {
        // Nobody is left to tell if the message itself cannot be printed.
        let _ = error.print();
    }
    ExitCode::from(if help { 0 } else { 2 })
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    match &arguments.command {
        None => optimize::run(&arguments.optimize),
        Some(Command::Inspect { model, json, text }) => inspect::run(model, *json, *text),
        Some(Command::Diff { a, b, json }) => diff::run(a, b, *json),
        Some(Command::Prune { model, level, json, groups: _ }) => prune::run(model, *level, *json),
        Some(Command::Grad(differentiated)) => grad::run(differentiated),
        Some(Command::Verify(compared)) => verify::run(compared),
        Some(Command::Bench(models)) => bench::run(models),
        Some(Command::Calibrate(arguments)) => calibrate::run(arguments),
        Some(Command::Sensitivity(arguments)) => sensitivity::run(arguments),
        Some(Command::Rules { name, json }) => catalogue::rules(name.as_deref(), *json),
        Some(Command::Passes { level, json }) => catalogue::passes(*level, *json),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "onnx-opt", &mut script);
            Stream::Out.print(&String::from_utf8_lossy(&script))
        }
    }
}
