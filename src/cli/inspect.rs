//! What a model holds and costs.

use std::collections::BTreeMap;
use std::path::Path;

use onnx_opt::ir::graph::{Graph, Producer};
use onnx_opt::ir::schema::domain_title;
use onnx_opt::ir::{self, ValueId};
use onnx_opt::passes::quantize::oracle::{Prediction, predict};
use onnx_opt::report::{Summary, for_each_constant};
use onnx_opt::session::{self, Error, Loaded};
use serde::Serialize;

use super::arguments::source;
use super::format::{bytes, count, numbers, words};
use super::optimize::macs_title;
use super::output::{NOTE, Stream, TITLE};

/// So many of the largest weights are shown.
const LARGEST: usize = 10;

#[derive(Serialize)]
struct Inspection {
    file: String,
    ir_version: i64,
    producer: String,
    opsets: BTreeMap<String, i64>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    functions: Vec<String>,
    summary: Summary,
    largest_weights: Vec<Weight>,
    /// What onnxruntime makes of a quantized model.
    #[serde(skip_serializing_if = "Option::is_none")]
    integers: Option<Prediction>,
    notes: Vec<String>,
}

/// An input or output.
#[derive(Serialize)]
struct Port {
    name: String,
    r#type: String,
    /// Whether a caller may leave it out.
    optional: bool,
}

#[derive(Serialize)]
struct Weight {
    name: String,
    r#type: String,
    bytes: u64,
}

/// Prints what a model holds and costs.
pub fn run(model: &Path, json: bool, text: bool) -> Result<(), Error> {
    let source = source(model);
    let loaded = session::load(&source)?;
    if text {
        return Stream::Out.print(&format!("{}\n", ir::print(&loaded.model).trim_end()));
    }
    let inspection = Inspection::of(source.name(), loaded);
    if json { Stream::Out.print_json(&inspection) } else { Stream::Out.print(&inspection.text()) }
}

impl Inspection {
    fn of(file: String, Loaded { model, bytes }: Loaded) -> Self {
        let graph = &model.graph;
        let rest = &model.rest;
        let mut largest_weights = Vec::new();
        for_each_constant(graph, &mut |name, tensor, _| {
            let (ty, bytes) = (tensor.ty().to_string(), tensor.byte_len() as u64);
            largest_weights.push(Weight { name: name.to_owned(), r#type: ty, bytes });
        });
        largest_weights.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        largest_weights.truncate(LARGEST);
        let functions = rest.functions.iter();
        Self {
            file,
            ir_version: model.ir_version(),
            producer: format!("{} {}", rest.producer_name(), rest.producer_version()).trim().to_owned(),
            opsets: graph.context().opsets().map(|(domain, version)| (domain.to_owned(), version)).collect(),
            inputs: graph.inputs().iter().map(|input| port(graph, input.value)).collect(),
            outputs: graph.outputs().iter().map(|output| port(graph, output.value)).collect(),
            functions: functions.map(|f| format!("{}:{}", f.domain(), f.name())).collect(),
            summary: Summary::of(&model, bytes),
            largest_weights,
            integers: Some(predict(graph)).filter(|prediction| !prediction.nodes.is_empty()),
            notes: model.notes.clone(),
        }
    }

    fn text(&self) -> String {
        let title = |text: &str| Stream::Out.paint(TITLE, text);
        let opsets: Vec<String> = self
            .opsets
            .iter()
            .map(|(domain, version)| format!("{} {version}", domain_title(domain)))
            .collect();
        let summary = &self.summary;
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let mut text = title(&self.file) + "\n";
        text += &words(vec![
            row("IR version", self.ir_version.to_string()),
            row("producer", self.producer.clone()),
            row("opsets", opsets.join(", ")),
            row("operators", summary.nodes.to_string()),
            row("parameters", format!("{} ({})", count(summary.parameters), bytes(summary.parameter_bytes))),
            row("bytes", bytes(summary.bytes)),
            row(&macs_title(&summary.macs), count(summary.macs.count)),
        ]);
        for (name, ports) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            text += &format!("{}\n", title(name));
            let optional = |port: &Port| if port.optional { "optional" } else { "" }.to_owned();
            text +=
                &words(ports.iter().map(|p| vec![p.name.clone(), p.r#type.clone(), optional(p)]).collect());
        }
        if !self.functions.is_empty() {
            text += &format!("{}\n", title("functions"));
            text += &words(self.functions.iter().map(|name| vec![name.clone()]).collect());
        }
        let mut operators: Vec<(&String, &usize)> = summary.operators.iter().collect();
        operators.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
        text += &format!("{}\n", title("operators"));
        text +=
            &numbers(None, operators.into_iter().map(|(name, count)| row(name, count.to_string())).collect());
        if !self.largest_weights.is_empty() {
            text += &format!("{}\n", title("largest weights"));
            let weight =
                |weight: &Weight| vec![weight.name.clone(), weight.r#type.clone(), bytes(weight.bytes)];
            text += &words(self.largest_weights.iter().map(weight).collect());
        }
        if let Some(integers) = &self.integers {
            text += &format!("{}\n", title("on integers in onnxruntime"));
            let kernels = integers.kernels.iter().map(|(name, count)| row(name, count.to_string()));
            text += &numbers(None, kernels.collect());
            for node in integers.floats() {
                let reason = node.reason.as_deref().unwrap_or_default();
                text += &format!(" {} `{}` runs on floats: {reason}\n", node.operator, node.node);
            }
        }
        for note in &self.notes {
            text += &format!("{} {note}\n", Stream::Out.paint(NOTE, "note:"));
        }
        text
    }
}

fn port(graph: &Graph, value: ValueId) -> Port {
    let optional =
        matches!(graph.value(value).producer(), Producer::Input { default: Some(_) } | Producer::Constant(_));
    Port {
        name: graph.display_name(value),
        r#type: graph.ty(value).map_or_else(|| "unknown".to_owned(), ToString::to_string),
        optional: optional && !graph.is_output(value),
    }
}
