//! Two models on the same inputs.

use std::path::PathBuf;

use onnx_opt::session::{self, Effort, Error, Listener};
use onnx_opt::verify::{OutputReport, Status};

use super::arguments::{Compared, source};
use super::format::numbers;
use super::interrupt;
use super::optimize::verdict;
use super::output::Stream;
use super::progress::Progress;

/// Compares two models and prints the difference of each output.
pub fn run(arguments: &Compared) -> Result<(), Error> {
    let json = arguments.json;
    interrupt::clean_up_in(PathBuf::new());
    let progress = Progress::new(json);
    progress.stage("verify");
    let effort = arguments.runs.map_or(Effort::Auto, Effort::Runs);
    let report = session::compare(&source(&arguments.a), &source(&arguments.b), &arguments.trial(), effort)?;
    drop(progress);
    if json {
        return match report.status {
            Status::Verified => Stream::Out.print_json(&report),
            // The report says it all; the error only sets the exit code.
            _ => Stream::Out.print_json(&report).and(Err(Error::Told)),
        };
    }
    if !report.outputs.is_empty() {
        let header = ["output", "largest difference", "of its range", "cosine", "SQNR"];
        Stream::Out.print(&numbers(Some(&header), report.outputs.iter().map(row).collect()))?;
    }
    match report.status {
        Status::Verified => Stream::Out.print(&format!(" {}\n", verdict(&report, Stream::Out))),
        Status::Failed { reason } => Err(Error::Differ(reason)),
        Status::NotVerifiable { reason } => {
            Err(Error::NotVerifiable { file: arguments.a.display().to_string(), reason })
        }
    }
}

fn row(output: &OutputReport) -> Vec<String> {
    let number = |value: f64| if value == 0.0 { "0".to_owned() } else { format!("{value:.2e}") };
    vec![
        output.name.clone(),
        number(output.max_abs),
        number(output.max_relative_to_range),
        format!("{:.6}", output.cosine),
        output.sqnr_db.map_or_else(|| "exact".to_owned(), |value| format!("{value:.1} dB")),
    ]
}
