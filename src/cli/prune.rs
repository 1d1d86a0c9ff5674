//! What pruning did, and what it could do.

use std::path::Path;

use onnx_opt::passes::prune::Recovered;
use onnx_opt::passes::prune::group::Stays;
use onnx_opt::passes::prune::plan::Layer;
use onnx_opt::pruning::{GroupDescription, GroupsReport, PruneReport, Samples, Slices};
use onnx_opt::session::{self, Error};
use onnx_opt::verify::{Status, VerifyReport};

use super::arguments::source;
use super::format::{bytes, count, numbers, percent, words};
use super::optimize::verdict;
use super::output::{NOTE, Stream, TITLE};

/// Prints the groups of a model and what stands in the way of others.
pub fn run(model: &Path, level: u8, json: bool) -> Result<(), Error> {
    let report = session::groups(&source(model), level)?;
    if json { Stream::Out.print_json(&report) } else { Stream::Out.print(&groups(&report)) }
}

/// So many weights of a group are named.
const NAMED: usize = 4;

fn groups(report: &GroupsReport) -> String {
    let title = |text: &str| Stream::Out.paint(TITLE, text) + "\n";
    let mut text = title("groups");
    let mut rows = vec![["units", "channels each", "weights", ""].map(str::to_owned).to_vec()];
    rows.extend(report.groups.iter().map(group));
    text += &words(rows);
    if !report.barriers.is_empty() {
        text += &title("what stays");
        let mut rows = vec![["weight", "axis", "stays", "because of"].map(str::to_owned).to_vec()];
        rows.extend(report.barriers.iter().map(barrier));
        text += &words(rows);
    }
    text
}

fn group(group: &GroupDescription) -> Vec<String> {
    let slice = |slices: &Slices| format!("{}[{}]", slices.name, slices.axis);
    let mut weights: Vec<String> = group.weights.iter().take(NAMED).map(slice).collect();
    if group.weights.len() > NAMED {
        weights.push(format!("{} more", group.weights.len() - NAMED));
    }
    let approximate = match group.approximate.first() {
        Some(reason) => format!("approximate: {reason}"),
        None => String::new(),
    };
    vec![group.units.to_string(), group.block.to_string(), weights.join(", "), approximate]
}

fn barrier(stays: &Stays) -> Vec<String> {
    let lanes = format!("{} of {}", stays.lanes, stays.size);
    vec![stays.weight.clone(), stays.axis.to_string(), lanes, format!("{}: {}", stays.at, stays.reason)]
}

/// What was pruned, with every layer that lost something.
pub fn text(report: &PruneReport, stream: Stream) -> String {
    let mut text = format!("{}\n", stream.paint(TITLE, &format!("pruned: {}", report.title)));
    let outcome = &report.outcome;
    let (before, after) = (&outcome.before, &outcome.after);
    let row = |name: &str, a: String, b: String, change: String| vec![name.to_owned(), a, b, change];
    let millijoules = |joules: f64| format!("{:.3} mJ", joules * 1e3);
    let change =
        |a: f64, b: f64| if a > 0.0 { format!("{:+.1} %", (b - a) / a * 100.0) } else { String::new() };
    text += &numbers(
        Some(&["", "before", "after", "change"]),
        vec![
            row("MACs", count(before.macs), count(after.macs), percent(before.macs, after.macs)),
            row(
                "parameters",
                count(before.parameters),
                count(after.parameters),
                percent(before.parameters, after.parameters),
            ),
            row(
                "bytes of weights",
                bytes(before.bytes),
                bytes(after.bytes),
                percent(before.bytes, after.bytes),
            ),
            row(
                "energy (estimate, Horowitz 2014)",
                millijoules(before.joules),
                millijoules(after.joules),
                change(before.joules, after.joules),
            ),
        ],
    );
    let changed: Vec<Vec<String>> =
        outcome.layers.iter().filter(|layer| layer.before != layer.after).map(layer).collect();
    if !changed.is_empty() {
        text += &numbers(Some(&["layer", "weight before", "after", "MACs before", "after"]), changed);
    }
    for reason in &outcome.approximate {
        text += &format!(" {} approximate: {reason}\n", stream.paint(NOTE, "note:"));
    }
    if let Some(time) = report.time {
        text += &format!(" a run takes {:.0} % of the time\n", time * 100.0);
    }
    if let Some(Samples { count, random }) = report.samples {
        text += &format!(" measured on {count} {}samples\n", if random { "random " } else { "" });
    }
    if let Some(Recovered { products, channels, .. }) = report.recovered {
        text += &format!(" recovered: {products} layers by least squares, {channels} by mean and variance\n");
    }
    if let Some(masked) = &report.masked {
        text += &format!(" against the original with the slices set to zero: {}\n", verdict(masked, stream));
    }
    if let Some(error) = &report.error {
        text += &format!(" against the original: {}\n", distance(error));
    }
    text
}

fn layer(layer: &Layer) -> Vec<String> {
    let shape = |sizes: &[u64]| sizes.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
    vec![
        format!("{} {}", layer.op_type, layer.name),
        shape(&layer.before),
        shape(&layer.after),
        count(layer.macs_before),
        count(layer.macs_after),
    ]
}

/// How far outputs are from those of the original.
pub fn distance(report: &VerifyReport) -> String {
    if let Status::NotVerifiable { reason } = &report.status {
        return format!("not measured: {reason}");
    }
    let outputs = report.outputs.iter().map(|output| {
        let noise = output.sqnr_db.map_or_else(|| "exact".to_owned(), |value| format!("{value:.1} dB"));
        format!("`{}` {:.1e} of its range, {noise}", output.name, output.max_relative_to_range)
    });
    let runs = if report.runs == 1 { "run" } else { "runs" };
    format!("{} ({} {runs} by {})", outputs.collect::<Vec<_>>().join("; "), report.runs, report.engine)
}
