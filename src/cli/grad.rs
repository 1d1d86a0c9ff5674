//! Models of gradients.

use onnx_opt::report::GradientReport;
use onnx_opt::session::{self, Error};

use super::arguments::{Differentiated, source};
use super::format::{bytes, words};
use super::interrupt;
use super::output::{NOTE, Stream, TITLE};

/// Writes a model of gradients and prints what it has.
pub fn run(arguments: &Differentiated) -> Result<(), Error> {
    let source = source(&arguments.model);
    let destination = arguments.destination(&source);
    let stream = Stream::beside(&destination)?;
    interrupt::clean_up_beside(&destination);
    let report = session::differentiate(&source, &destination, &arguments.options())?;
    if arguments.json {
        stream.print_json(&report)
    } else if !arguments.quiet {
        stream.print(&text(&report, stream))
    } else {
        Ok(())
    }
}

/// So many gradients are named.
const NAMED: usize = 20;

fn text(report: &GradientReport, stream: Stream) -> String {
    let mut text = format!("{}\n", stream.paint(TITLE, &format!("{} -> {}", report.input, report.output)));
    let (before, after) = (report.nodes_before, report.nodes_after);
    text += &format!(" {before} operators became {after}, in {}\n", bytes(report.bytes));
    if !report.added_inputs.is_empty() {
        text += &format!(" the loss needs {}\n", report.added_inputs.join(", "));
    }
    text += &format!(" outputs: {} and {} gradients\n", report.loss, report.gradients.len());
    let row = |of: &str, output: &str| vec![of.to_owned(), output.to_owned()];
    let shown = report.gradients.iter().take(NAMED);
    text += &words(shown.map(|gradient| row(&gradient.of, &gradient.output)).collect());
    if report.gradients.len() > NAMED {
        text += &format!(" and {} more\n", report.gradients.len() - NAMED);
    }
    for gradient in report.gradients.iter().filter(|gradient| gradient.is_zero) {
        let note = stream.paint(NOTE, "note:");
        text += &format!(" {note} the loss does not depend on `{}`\n", gradient.of);
    }
    text
}
