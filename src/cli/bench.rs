//! How long models take, side by side.

use std::path::PathBuf;

use onnx_opt::ir::Model;
use onnx_opt::latency::latency;
use onnx_opt::session::{self, Error, Listener};
use serde::Serialize;

use super::arguments::{Bench, source};
use super::format::numbers;
use super::interrupt;
use super::output::Stream;
use super::progress::Progress;

#[derive(Serialize)]
struct Timed {
    file: String,
    /// Of the fastest run.
    seconds: f64,
}

#[derive(Serialize)]
struct Report {
    models: Vec<Timed>,
}

/// Times models and prints how long each takes, and as a share of the first.
pub fn run(arguments: &Bench) -> Result<(), Error> {
    interrupt::clean_up_in(PathBuf::new());
    let progress = Progress::new(arguments.json);
    progress.stage("bench");
    let sources = arguments.models.iter().map(|path| source(path)).collect::<Vec<_>>();
    let models: Vec<Model> =
        sources.iter().map(|source| Ok(session::load(source)?.model)).collect::<Result<_, Error>>()?;
    let file = || sources.iter().map(|source| source.name()).collect::<Vec<_>>().join(", ");
    let times = latency(&models.iter().collect::<Vec<_>>(), &arguments.run.options())
        .map_err(|error| Error::Calibrate { file: file(), source: error })?;
    drop(progress);
    let timed = |(source, seconds): (&session::Source, f64)| Timed { file: source.name(), seconds };
    let report = Report { models: sources.iter().zip(times).map(timed).collect() };
    if arguments.json {
        return Stream::Out.print_json(&report);
    }
    let first = report.models.first().map_or(1.0, |timed| timed.seconds);
    let row = |timed: &Timed| {
        let milliseconds = format!("{:.3} ms", timed.seconds * 1e3);
        vec![timed.file.clone(), milliseconds, format!("{:.2}", timed.seconds / first)]
    };
    let rows = report.models.iter().map(row).collect();
    Stream::Out.print(&numbers(Some(&["model", "fastest run", "of the first"]), rows))
}
