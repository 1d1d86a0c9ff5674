//! What samples tell of a graph: it is written as further nodes, which an engine runs and whose results it sums.

mod totals;

use std::collections::BTreeMap;

use onnx_opt_ir::graph::GraphError;
use onnx_opt_ir::{Graph, Model, NewNode, ValueId};
use thiserror::Error;

use crate::dead_code::DeadCode;
use crate::gradient::{GradientError, LOWEST_OPSET, Refusal};
use crate::opset::raise;
use crate::pass::{Pass, PassContext};
use crate::rewrite::Statistics;

pub use totals::{DRAW, Total, Totals};
pub(crate) use totals::{draw, noise};

/// Why something could not be measured.
#[derive(Debug, Error)]
pub enum MeasureError {
    /// What is measured has no gradient.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// A graph that measures could not be written.
    #[error("what is measured cannot be written as a graph: {0}")]
    Writing(String),
    /// It does not run on the samples.
    #[error("what is measured cannot be run: {0}")]
    Running(String),
}

impl From<Refusal> for MeasureError {
    fn from(refusal: Refusal) -> Self {
        Self::Writing(refusal.0)
    }
}

impl From<GraphError> for MeasureError {
    fn from(error: GraphError) -> Self {
        Self::Writing(error.to_string())
    }
}

/// A graph as a model that gradients and sums can be written in.
pub(crate) fn prepared(graph: &Graph, base: &Model) -> Result<Model, MeasureError> {
    let mut model = Model { graph: graph.clone(), rest: base.rest.clone(), notes: Vec::new() };
    model.inline_functions(&mut |_, _| {});
    if model.graph.opset() < LOWEST_OPSET {
        raise(&mut model, LOWEST_OPSET).map_err(|error| MeasureError::Writing(error.to_string()))?;
    }
    Ok(model)
}

/// The sums of these values over all samples, by name.
pub(crate) fn sums(
    model: &mut Model,
    outputs: Vec<(String, ValueId)>,
    totals: &dyn Totals,
    rounds: usize,
) -> Result<BTreeMap<String, Total>, MeasureError> {
    let writing = |error: &dyn std::fmt::Display| MeasureError::Writing(error.to_string());
    let graph = &mut model.graph;
    graph.drop_outputs();
    for (name, value) in outputs {
        graph.add_output(&name, value).map_err(|error| writing(&error))?;
    }
    DeadCode.run(graph, &PassContext::default(), &mut Statistics::default());
    graph.sort().map_err(|_| MeasureError::Writing("the graph has a cycle".to_owned()))?;
    totals.totals(model, rounds).map_err(MeasureError::Running)
}

/// Puts the whole graph beside what is left of it, on the same inputs, and gives its values.
pub(crate) fn beside(
    graph: &mut Graph,
    whole: &Graph,
    wanted: &[ValueId],
) -> Result<BTreeMap<ValueId, ValueId>, MeasureError> {
    let writing = |error: &dyn std::fmt::Display| MeasureError::Writing(error.to_string());
    let mut body = whole.clone();
    body.drop_outputs();
    for (number, &value) in wanted.iter().enumerate() {
        body.add_output(&format!("{number}"), value).map_err(|error| writing(&error))?;
    }
    let inputs = graph.inputs().iter().map(|input| Some(input.value)).collect();
    // A node of a name that no operator has, for which the graph steps in.
    let place =
        NewNode { inputs, outputs: wanted.len(), domain: "onnx-opt".into(), ..NewNode::new("Whole", []) };
    let node = graph.add_node(place).map_err(|error| writing(&error))?;
    let mut results = Vec::new();
    for &result in graph.node(node).outputs() {
        results.extend(result);
    }
    // The node goes, and its results with it: copies of them stay.
    let mut copies = BTreeMap::new();
    for (&value, result) in wanted.iter().zip(results) {
        let copy = graph.add_node(NewNode::new("Identity", [result])).map_err(|error| writing(&error))?;
        if let Some(copy) = graph.node(copy).output(0) {
            copies.insert(value, copy);
        }
    }
    graph.inline_graph(node, &body).map_err(|error| writing(&error))?;
    Ok(copies)
}
