//! What a model holds and costs, and what was done to it.

mod explanation;
mod gradient;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onnx_opt_ir::graph::{Form, Producer};
use onnx_opt_ir::{Graph, Model, Node, Tensor};
use serde::Serialize;

pub use explanation::{Declined, Places, RuleReport, explain};
pub use gradient::{GradientReport, ParameterReport};
pub use onnx_opt_passes::macs::Macs;

use crate::pruning::PruneReport;
use crate::quantization::QuantizationReport;
use crate::static_quantization::StaticReport;
use crate::verify::VerifyReport;

/// One stage of the work.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Wall-clock time in seconds.
    pub seconds: f64,
}

/// What a model holds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Number of nodes, bodies included.
    pub nodes: usize,
    /// Nodes by operator, bodies included; operators outside the default domain with their domain before a colon.
    pub operators: BTreeMap<String, usize>,
    /// Elements of all constants, one that is shared counted once.
    pub parameters: u64,
    /// Bytes that the elements take.
    pub parameter_bytes: u64,
    /// Size of the file and of its external data, in bytes.
    pub bytes: u64,
    /// Multiply-accumulates of a run.
    pub macs: Macs,
}

impl Summary {
    /// The summary of a model whose files take `bytes`.
    pub fn of(model: &Model, bytes: u64) -> Self {
        let mut summary = Self {
            nodes: 0,
            operators: BTreeMap::new(),
            parameters: 0,
            parameter_bytes: 0,
            bytes,
            macs: Macs::of(&model.graph),
        };
        summary.add(&model.graph);
        summary.nodes = summary.operators.values().sum();
        summary
    }

    fn add(&mut self, graph: &Graph) {
        let mut operators: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for_each_constant(graph, &mut |_, tensor, node| {
            if node {
                *operators.entry(("", "Constant")).or_default() += 1;
            }
            self.parameters += tensor.len() as u64;
            self.parameter_bytes += tensor.byte_len() as u64;
        });
        for_each_node(graph, &mut |_, node| {
            *operators.entry((node.domain(), node.op_type())).or_default() += 1;
        });
        self.operators = operators
            .into_iter()
            .map(|((domain, op_type), count)| (qualified(domain, op_type), count))
            .collect();
    }
}

/// Visits the nodes of a graph and of its bodies. `Constant` nodes are constants, see [`for_each_constant`].
pub fn for_each_node<'a>(graph: &'a Graph, visit: &mut dyn FnMut(&'a Graph, &'a Node)) {
    for (_, node) in graph.nodes() {
        visit(graph, node);
        node.bodies().for_each(|body| for_each_node(body, visit));
    }
}

/// Visits the constants of a graph and of its bodies: name, tensor, and whether it is a `Constant` node.
pub fn for_each_constant<'a>(graph: &'a Graph, visit: &mut dyn FnMut(&'a str, &'a Arc<Tensor>, bool)) {
    for (_, value) in graph.values() {
        let name = value.name().unwrap_or_default();
        match value.producer() {
            Producer::Constant(constant) => {
                visit(name, &constant.tensor, matches!(constant.form, Form::Node { .. }));
            }
            Producer::Input { default: Some(tensor) } => visit(name, tensor, false),
            _ => {}
        }
    }
    for (_, node) in graph.nodes() {
        node.bodies().for_each(|body| for_each_constant(body, visit));
    }
}

/// Operator of a node; those outside the default domain with their domain before a colon.
pub fn operator_name(node: &Node) -> String {
    qualified(node.domain(), node.op_type())
}

fn qualified(domain: &str, op_type: &str) -> String {
    match domain {
        "" => op_type.to_owned(),
        domain => format!("{domain}:{op_type}"),
    }
}

/// What a pass did.
#[derive(Clone, Debug, Serialize)]
pub struct Pass {
    /// The pass.
    pub name: &'static str,
    /// Time it took, in seconds.
    pub seconds: f64,
    /// Nodes of the main graph before.
    pub nodes_before: usize,
    /// Nodes of the main graph after.
    pub nodes_after: usize,
    /// Applications by rule.
    pub applied: BTreeMap<&'static str, usize>,
    /// Where, by rule, if that was asked for.
    #[serde(skip)]
    pub places: BTreeMap<&'static str, Vec<String>>,
    /// Why not, by rule and place, if that was asked for.
    #[serde(skip)]
    pub declined: BTreeMap<(&'static str, String), String>,
}

/// How the result was held against the original.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Verification {
    /// It was not.
    Skipped(Skipped),
    /// Both ran, or could not.
    Done(VerifyReport),
}

/// Why nothing was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Skipped {
    /// The user did not want it.
    Off,
    /// No pass changed the model.
    Unchanged,
}

/// What was quantized.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Quantized {
    /// Weights, or products on the run.
    Scheme(Box<QuantizationReport>),
    /// Regions of integers with calibrated scales.
    Static(Box<StaticReport>),
}

/// What was done to a model.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it came from.
    pub input: String,
    /// Where it went.
    pub output: String,
    /// Level of optimization.
    pub level: u8,
    /// Where it will run.
    pub target: String,
    /// As it was.
    pub before: Summary,
    /// As it is.
    pub after: Summary,
    /// Time by stage.
    pub stages: Vec<Stage>,
    /// What the passes did.
    pub passes: Vec<Pass>,
    /// How often each rule applied; where, and where not and why, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleReport>,
    /// How the result was held against the original.
    pub verification: Verification,
    /// What was pruned, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruning: Option<PruneReport>,
    /// What was quantized, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantized>,
    /// Rules and passes that were left out because their result differed.
    pub left_out: BTreeSet<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}
