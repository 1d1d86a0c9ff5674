//! What quantization did.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt::passes::quantize::accuracy::{Corrected, Rounding};
use onnx_opt::static_quantization::StaticReport;

use super::format::{bytes, numbers, percent, words};
use super::output::{Stream, TITLE};
use super::prune::distance;
use super::sensitivity::decibels;

/// What computes with integers and what not and why, and how far the result is from the original.
pub fn text(report: &StaticReport, target: &str, verbose: bool, stream: Stream) -> String {
    let placed = &report.placed;
    let samples = if report.samples == 1 { "sample" } else { "samples" };
    let random = if report.random { "random " } else { "" };
    let title = format!(
        "quantized: {} for {target}, ranges by {} of {} {random}{samples}{}",
        report.scheme,
        report.observer,
        report.samples,
        if report.rounding == Rounding::default().name() {
            String::new()
        } else {
            format!(", rounded by {}", report.rounding)
        }
    );
    let mut text = format!("{}\n", stream.paint(TITLE, &title));
    text += &before(report);
    let mut names: Vec<&String> = placed.quantized.keys().chain(placed.float.keys()).collect();
    names.sort();
    names.dedup();
    let number = |counts: &BTreeMap<String, usize>, name: &str| match counts.get(name) {
        Some(count) => count.to_string(),
        None => String::new(),
    };
    let rows = names
        .into_iter()
        .map(|name| vec![name.clone(), number(&placed.quantized, name), number(&placed.float, name)]);
    let strangers =
        report.no_kernel.iter().map(|(name, count)| vec![name.clone(), String::new(), count.to_string()]);
    let mut rows: Vec<Vec<String>> = rows.chain(strangers).collect();
    let float = placed.float.values().chain(report.no_kernel.values()).sum::<usize>();
    let total = placed.quantized.values().sum::<usize>();
    rows.push(vec!["nodes".to_owned(), total.to_string(), float.to_string()]);
    text += &numbers(Some(&["", report.scheme, "float"]), rows);
    let (before, after) = (placed.weight_bytes_before, placed.weight_bytes_after);
    let change = percent(before, after);
    let change = if change.is_empty() { change } else { format!(" ({change})") };
    let regions = if placed.regions == 1 { "region" } else { "regions" };
    text += &format!(
        " {} {regions}, {} values; {} constants of {} take {}{change}\n",
        placed.regions,
        placed.values,
        placed.weights,
        bytes(before),
        bytes(after)
    );
    if let Some(mixed) = &report.mixed {
        text += &format!(
            " {} with all on integers, {} wanted: {} nodes stay floats, {}\n",
            decibels(mixed.all_db),
            decibels(Some(mixed.wanted_db)),
            mixed.floats.len(),
            decibels(mixed.reached_db)
        );
    }
    if let Some(Corrected { biases, without, .. }) = report.corrected {
        let rest = if without > 0 { format!("; {without} products have none") } else { String::new() };
        text += &format!(" {biases} biases corrected{rest}\n");
    }
    text += &reasons(report, verbose);
    if let Some(error) = &report.error {
        text += &format!(" against the original: {}\n", distance(error));
    }
    if let Some(agreement) = &report.agreement {
        text += &format!(" onnxruntime against tract: {}\n", distance(agreement));
    }
    text
}

/// What was done to the model before its values were calibrated.
fn before(report: &StaticReport) -> String {
    let mut done = Vec::new();
    if let Some(pairs) = report.equalized.filter(|&pairs| pairs > 0) {
        done.push(format!("channels between {pairs} pairs of products were equalized"));
    }
    if let Some(count) = report.smoothed.filter(|&count| count > 0) {
        done.push(format!("outliers of {count} values that products take went into weights"));
    }
    if done.is_empty() { String::new() } else { format!(" before: {}\n", done.join("; ")) }
}

/// What onnxruntime makes of the integers, and why nodes compute with floats.
fn reasons(report: &StaticReport, verbose: bool) -> String {
    let mut groups: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    let mut integers = BTreeSet::new();
    for node in &report.placed.nodes {
        match &node.float {
            Some(reason) => groups.entry((&node.operator, reason.clone())).or_default().push(&node.node),
            None => drop(integers.insert(&*node.node)),
        }
    }
    let mut text = String::new();
    if let Some(prediction) = &report.onnxruntime {
        for node in prediction.floats().filter(|node| integers.contains(&*node.node)) {
            let reason = node.reason.as_deref().unwrap_or_default();
            let reason = format!("onnxruntime runs it on floats: {reason}");
            groups.entry((&node.operator, reason)).or_default().push(&node.node);
        }
        let kernels = prediction.kernels.iter().map(|(name, count)| format!("{count} {name}"));
        let kernels: Vec<String> = kernels.collect();
        if !kernels.is_empty() {
            text += &format!(" onnxruntime runs {}\n", kernels.join(", "));
        }
    }
    let row = |((operator, reason), nodes): (&(&str, String), &Vec<&str>)| {
        let shown = if verbose { nodes.len() } else { 1 };
        let mut at = nodes[..shown].join(", ");
        if shown < nodes.len() {
            at += &format!(" and {} more", nodes.len() - shown);
        }
        vec![format!("{operator} on floats"), reason.clone(), at]
    };
    let mut rows: Vec<Vec<String>> = groups.iter().map(row).collect();
    if !report.no_kernel.is_empty() {
        let names: Vec<&str> = report.no_kernel.keys().map(String::as_str).collect();
        rows.push(vec!["others on floats".to_owned(), "no integer kernel".to_owned(), names.join(", ")]);
    }
    if !rows.is_empty() {
        text += &words(rows);
    }
    text
}
