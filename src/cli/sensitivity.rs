//! What integers cost in each node.

use std::path::PathBuf;
use std::time::Duration;

use onnx_opt::passes::quantize::sensitivity::Sensitivity;
use onnx_opt::session::{self, Error, Listener as _};
use onnx_opt::static_quantization::{SensitivityReport, sensitivity};

use super::arguments::{Sensitive, source};
use super::format::numbers;
use super::interrupt;
use super::output::{NOTE, Stream, TITLE};
use super::progress::Progress;

/// Measures what integers cost in each node and prints that, the worst first.
pub fn run(arguments: &Sensitive) -> Result<(), Error> {
    let source = source(&arguments.model);
    interrupt::clean_up_in(PathBuf::new());
    let progress = Progress::new(arguments.json);
    progress.stage("optimize");
    let model = session::float_model(&source, arguments.level, &arguments.target)?;
    let (wanted, options) = (arguments.quantization(), arguments.run.options());
    let time = Duration::from_secs(arguments.time);
    let report = sensitivity(&model, &arguments.target, &wanted, &options, time, &progress)
        .map_err(|error| Error::Static { file: source.name(), source: Box::new(error) })?;
    drop(progress);
    if arguments.json {
        Stream::Out.print_json(&report)
    } else {
        Stream::Out.print(&text(&report, Stream::Out))
    }
}

fn text(report: &SensitivityReport, stream: Stream) -> String {
    let SensitivityReport { target, observer, samples, compared, .. } = report;
    let title =
        format!("int8 for {target}, ranges by {observer} of {samples} samples, compared on {compared}");
    let mut text = format!("{}\n", stream.paint(TITLE, &title));
    let row = |of: &Sensitivity| {
        let saves = format!("{:+.1} us", -of.saves / 1e3);
        vec![of.node.clone(), of.operator.clone(), decibels(of.sqnr_db), saves]
    };
    let header = ["node", "operator", "alone on integers", "time"];
    text += &numbers(Some(&header), report.nodes.iter().map(row).collect());
    text += &format!(" with all on integers that gain by it: {}\n", decibels(report.all_db));
    let mut note = |words: &str| text += &format!(" {} {words}\n", stream.paint(NOTE, "note:"));
    if report.left_out > 0 {
        note(&format!("there was no time for {} more nodes: see --time", report.left_out));
    }
    if report.random {
        note("samples were random; real ones, with --calibrate, are others");
    }
    text
}

/// A ratio of signal to error.
pub fn decibels(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "exact".to_owned(), |ratio| format!("{ratio:.1} dB"))
}
