//! The main task: a model in, a smaller one and a table out.

use onnx_opt::report::{Macs, Places, Quantized, Report, Skipped, Summary, Verification};
use onnx_opt::session::{self, Error};
use onnx_opt::verify::{Status, VerifyReport};

use super::arguments::Optimize;
use super::format::{bytes, count, numbers, percent, seconds};
use super::interrupt;
use super::output::{BAD, GOOD, NOTE, Stream, TITLE};
use super::progress::Progress;
use super::{prune, quantize, static_quantization};

/// Optimizes as the arguments say and prints the report.
pub fn run(arguments: &Optimize) -> Result<(), Error> {
    let source = arguments.source();
    let destination = arguments.destination(&source);
    let stream = Stream::beside(&destination)?;
    interrupt::clean_up_beside(&destination);
    let progress = Progress::new(arguments.say.quiet);
    let report = session::optimize(&source, &destination, &arguments.options(), &progress)?;
    drop(progress);
    if arguments.say.json {
        stream.print_json(&report)
    } else if !arguments.say.quiet {
        stream.print(&text(&report, arguments.say.verbose, stream))
    } else {
        Ok(())
    }
}

fn text(report: &Report, verbose: bool, stream: Stream) -> String {
    let mut text = format!(
        "{}\n",
        stream.paint(TITLE, &format!("{} -> {} (O{})", report.input, report.output, report.level))
    );
    text += &numbers(Some(&["", "before", "after", "change"]), comparison(&report.before, &report.after));
    if let Some(rules) = rules(report) {
        text += &format!(" rules: {rules}\n");
    }
    text += &format!(" time: {}\n", times(report));
    let verification = match &report.verification {
        Verification::Skipped(Skipped::Off) => "not verified, as asked".to_owned(),
        Verification::Skipped(Skipped::Unchanged) => "nothing to verify: no rewrite applied".to_owned(),
        Verification::Done(done) => verdict(done, stream),
    };
    text += &format!(" {verification}\n");
    if let Some(pruning) = &report.pruning {
        text += &prune::text(pruning, stream);
    }
    match &report.quantization {
        Some(Quantized::Scheme(found)) => text += &quantize::text(found, stream),
        Some(Quantized::Static(found)) => {
            text += &static_quantization::text(found, &report.target, verbose, stream);
        }
        None => {}
    }
    if verbose {
        text += &passes(report);
    }
    text += &explanation(report);
    for name in &report.left_out {
        text +=
            &format!(" {} `{name}` was left out: with it the result differs\n", stream.paint(NOTE, "note:"));
    }
    for note in &report.notes {
        text += &format!(" {} {note}\n", stream.paint(NOTE, "note:"));
    }
    text
}

/// What a verification found, in a line.
pub fn verdict(report: &VerifyReport, stream: Stream) -> String {
    match &report.status {
        Status::Verified if report.runs == 0 => stream.paint(GOOD, "verified: both models are equal"),
        Status::Verified => {
            let worst = report.outputs.iter().map(|output| output.max_relative_to_range).fold(0.0, f64::max);
            let bits = report.outputs.iter().all(|output| output.equal_bits);
            let difference = if bits {
                "the same bits".to_owned()
            } else {
                format!("at most {worst:.1e} of the range apart")
            };
            let runs = if report.runs == 1 { "run" } else { "runs" };
            let text = format!("verified: {difference} in {} {runs} by {}", report.runs, report.engine);
            stream.paint(GOOD, &text)
        }
        Status::NotVerifiable { reason } => stream.paint(NOTE, &format!("not verified: {reason}")),
        Status::Failed { reason } => stream.paint(BAD, &format!("differs: {reason}")),
    }
}

/// The operators whose number changed, then the totals.
pub fn comparison(before: &Summary, after: &Summary) -> Vec<Vec<String>> {
    let number = |summary: &Summary, name: &str| summary.operators.get(name).copied().unwrap_or(0);
    let mut names: Vec<&String> = before.operators.keys().chain(after.operators.keys()).collect();
    names.sort();
    names.dedup();
    let mut rows: Vec<Vec<String>> = names
        .into_iter()
        .map(|name| (name, number(before, name), number(after, name)))
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| {
            let change = format!("{:+}", after as i64 - before as i64);
            vec![name.clone(), before.to_string(), after.to_string(), change]
        })
        .collect();
    let mut total = |name: &str, before: u64, after: u64, show: fn(u64) -> String| {
        rows.push(vec![name.to_owned(), show(before), show(after), percent(before, after)]);
    };
    total("operators", before.nodes as u64, after.nodes as u64, |value| value.to_string());
    total("parameters", before.parameters, after.parameters, count);
    total("bytes", before.bytes, after.bytes, bytes);
    total(&macs_title(&after.macs), before.macs.count, after.macs.count, count);
    rows
}

/// What the number of multiply-accumulates holds for.
pub fn macs_title(macs: &Macs) -> String {
    let mut conditions = Vec::new();
    if macs.symbolic {
        conditions.push("unknown sizes as 1".to_owned());
    }
    if macs.loops {
        conditions.push("loops once".to_owned());
    }
    if macs.uncounted > 0 {
        conditions.push(format!("{} nodes not counted", macs.uncounted));
    }
    if conditions.is_empty() { "MACs".to_owned() } else { format!("MACs ({})", conditions.join(", ")) }
}

fn times(report: &Report) -> String {
    let total: f64 = report.stages.iter().map(|stage| stage.seconds).sum();
    let parts: Vec<String> =
        report.stages.iter().map(|stage| format!("{} {}", stage.name, seconds(stage.seconds))).collect();
    format!("{} ({})", seconds(total), parts.join(", "))
}

fn passes(report: &Report) -> String {
    let mut rows = Vec::new();
    for pass in &report.passes {
        let nodes = format!("{} -> {}", pass.nodes_before, pass.nodes_after);
        rows.push(vec![pass.name.to_owned(), nodes, seconds(pass.seconds)]);
        let applied = pass.applied.iter().filter(|(rule, _)| **rule != pass.name);
        rows.extend(
            applied.map(|(rule, times)| vec![format!("  {rule}"), format!("{times} times"), String::new()]),
        );
    }
    numbers(Some(&["pass", "nodes", "time"]), rows)
}

/// So many rules are named in the table.
const NAMED_RULES: usize = 6;

/// The rules that did most, in a line.
fn rules(report: &Report) -> Option<String> {
    let applied: Vec<_> = report.rules.iter().filter(|rule| rule.fired > 0).collect();
    let first = applied.iter().take(NAMED_RULES).map(|rule| format!("{} {}", rule.rule, rule.fired));
    let mut words: Vec<String> = first.collect();
    if applied.len() > NAMED_RULES {
        words.push(format!("{} more", applied.len() - NAMED_RULES));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// Where each rule applied, and where it did not and why.
fn explanation(report: &Report) -> String {
    let mut text = String::new();
    for rule in &report.rules {
        if let Some(at) = &rule.at {
            text += &format!(" {} applied {}\n", rule.rule, places(at));
        }
        for declined in &rule.declined {
            text += &format!(" {} did not {}: {}\n", rule.rule, places(&declined.at), declined.reason);
        }
    }
    text
}

fn places(places: &Places) -> String {
    let times = if places.count == 1 { "once".to_owned() } else { format!("{} times", places.count) };
    let more = match places.count - places.first.len() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("{times} (at {}{more})", places.first.join(", "))
}
