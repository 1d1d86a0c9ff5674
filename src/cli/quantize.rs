//! What quantization did.

use std::collections::BTreeMap;

use onnx_opt::quantization::QuantizationReport;

use super::format::{bytes, numbers, percent};
use super::output::{NOTE, Stream, TITLE};
use super::prune::distance;

/// So many nodes are named for each reason.
const NAMED: usize = 3;

/// What was quantized, by operator, and what was not and why.
pub fn text(report: &QuantizationReport, stream: Stream) -> String {
    let mut text = format!("{}\n", stream.paint(TITLE, &format!("quantized: {}", report.title)));
    let outcome = &report.outcome;
    let number = |counts: &BTreeMap<String, usize>, name: &str| match counts.get(name) {
        Some(count) => count.to_string(),
        None => String::new(),
    };
    let mut names: Vec<&String> = outcome.quantized.keys().chain(outcome.float.keys()).collect();
    names.sort();
    names.dedup();
    let row = |name: &String| {
        let counts = [&outcome.quantized, &outcome.native, &outcome.float];
        [name.clone()].into_iter().chain(counts.map(|counts| number(counts, name))).collect()
    };
    text += &numbers(Some(&["", "changed", "native", "left"]), names.into_iter().map(row).collect());
    let (before, after) = (outcome.weight_bytes_before, outcome.weight_bytes_after);
    text += &format!(
        " {} weights: {} -> {} ({}){}\n",
        outcome.weights,
        bytes(before),
        bytes(after),
        percent(before, after),
        outcome
            .weight_sqnr
            .map_or_else(String::new, |decibels| format!(", {decibels:.1} dB above their errors")),
    );
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in &outcome.nodes {
        if let Some(reason) = &node.float {
            reasons.entry(reason).or_default().push(&node.node);
        }
    }
    for (reason, nodes) in reasons {
        let more = match nodes.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let first: Vec<String> = nodes.iter().take(NAMED).map(|node| format!("`{node}`")).collect();
        text += &format!(" {} {}{more}: {reason}\n", stream.paint(NOTE, "left:"), first.join(", "));
    }
    if let Some(error) = &report.error {
        text += &format!(" against the original: {}\n", distance(error));
    }
    text
}
