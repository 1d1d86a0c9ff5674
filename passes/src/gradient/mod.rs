//! Gradients as a graph rewrite: reverse-mode differentiation that appends standard operators, so that any engine runs
//! them.
//!
//! [`backward`] is the walk itself: given values and their gradients, it writes the gradients of others. Each operator
//! has one rule, a function that is given the node and the gradients of its results and writes those of its operands; a
//! file holds the rules of a theme, with a graph for each on which a test holds it against finite differences.
//! [`differentiate`] makes a model of losses and gradients.
//!
//! In the formulas g is the gradient of the result y. Where operands are broadcast, their gradients are summed back to
//! their shapes. Where an operator has a corner, the gradient is that of one side of it; where it is flat, there is
//! none, which counts as zero.

mod activation;
mod attention;
mod convolution;
mod einsum;
mod elementwise;
mod gather;
mod loss;
mod matmul;
mod model;
mod movement;
mod normalization;
mod pooling;
mod quantize;
mod recurrent;
mod reduction;
mod resize;
mod step;
mod walk;
mod window;
mod writer;

#[cfg(any(test, feature = "testing"))]
pub mod example;

use onnx_opt_ir::{Graph, Node, NodeId, ValueId};
use rustc_hash::FxHashSet;
use thiserror::Error;

use crate::opset::RaiseError;

pub use loss::Loss;
pub use model::{Differentiated, GradientOptions, Parameter, Wrt, differentiate};
use step::{Gradients, Step};
use walk::walk;
pub(crate) use writer::{Refusal, Size, Writer, Written};

/// The first operator set in which everything that is written here means what it should: reductions with axes as
/// operands, and scattering that adds.
pub const LOWEST_OPSET: i64 = 18;

/// Why there is no gradient.
#[derive(Debug, Error)]
pub enum GradientError {
    /// Nobody wrote a rule for the operator, or it has no gradient.
    #[error("no gradient for {op_type} (node \"{node}\")")]
    NoRule {
        /// The operator.
        op_type: String,
        /// Name of the node, or of its first result.
        node: String,
    },
    /// There is a rule, and it does not know this form of the operator.
    #[error("no gradient for {op_type} (node \"{node}\"): {reason}")]
    Refused {
        /// The operator.
        op_type: String,
        /// Name of the node, or of its first result.
        node: String,
        /// Why not.
        reason: String,
    },
    /// Gradients cannot be added up.
    #[error("no gradient: {0}")]
    Writing(String),
    /// The graph is of an operator set that lacks what gradients need.
    #[error("gradients need opset {LOWEST_OPSET}, the graph is of opset {0}")]
    Opset(i64),
    /// The model cannot follow to the operator set that gradients need.
    #[error("gradients need opset {LOWEST_OPSET}: {0}")]
    Raise(#[from] RaiseError),
    /// The graph cannot be put in order.
    #[error("the graph has a cycle")]
    Cycle,
    /// A name that nothing has.
    #[error("no value of the graph is called `{0}`")]
    NoSuchValue(String),
    /// A value has no gradient by its type.
    #[error("`{0}` has no gradient: its elements are no floating-point numbers")]
    NotFloat(String),
    /// A name that is no output.
    #[error("no output is called `{0}`")]
    NoSuchOutput(String),
    /// The loss needs an output that there is not.
    #[error("{0}")]
    Loss(String),
    /// There is nothing to differentiate by.
    #[error("the model has no floating-point {0} to differentiate by")]
    NothingAsked(&'static str),
    /// The result is no legal model.
    #[error("the gradient is not a legal model: {0}")]
    Illegal(#[from] onnx_opt_ir::CheckError),
}

impl GradientError {
    /// Whether it lies in what was asked for, and not in the model.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoSuchValue(_)
                | Self::NotFloat(_)
                | Self::NoSuchOutput(_)
                | Self::Loss(_)
                | Self::NothingAsked(_)
        )
    }

    fn writing(refusal: Refusal) -> Self {
        Self::Writing(refusal.0)
    }

    fn none(graph: &Graph, node: &Node) -> Self {
        Self::NoRule { op_type: node.op_type().to_owned(), node: name_of(graph, node) }
    }

    fn refused(graph: &Graph, node: &Node, reason: Refusal) -> Self {
        Self::Refused { op_type: node.op_type().to_owned(), node: name_of(graph, node), reason: reason.0 }
    }
}

/// Name of a node, or of its first result.
fn name_of(graph: &Graph, node: &Node) -> String {
    match (node.name(), node.outputs().iter().flatten().next()) {
        (Some(name), _) if !name.is_empty() => name.to_owned(),
        (_, Some(&output)) => graph.display_name(output),
        _ => String::new(),
    }
}

/// Appends to a graph the gradients of `wrt`, where each of `seeds` names a value and its gradient. A value that no
/// seed depends on has none. The graph must be of opset [`LOWEST_OPSET`] or later; it needs sorting afterwards.
///
/// # Errors
/// If an operator between has no gradient. What was appended is then removed again.
pub fn backward(
    graph: &mut Graph,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GradientError> {
    if graph.opset() < LOWEST_OPSET {
        return Err(GradientError::Opset(graph.opset()));
    }
    let order = graph.topological_order().map_err(|_| GradientError::Cycle)?;
    let mut writer = Writer::new(graph);
    let result = walk(&mut writer, &order, seeds, wrt);
    if result.is_err() {
        let added: FxHashSet<NodeId> = writer.nodes.iter().copied().collect();
        let mut last_first: Vec<NodeId> = writer.nodes;
        last_first.reverse();
        for node in last_first {
            // A node of the graph that only seeds use stays: it is none of those that were added.
            if added.contains(&node) {
                let _ = graph.remove_node(node);
            }
        }
    }
    result
}

/// Writes the gradients of the operands of a node.
type Rule = fn(&mut Step<'_, '_>) -> Gradients;

/// The rules by operator.
const RULES: &[&[(&str, Rule)]] = &[
    activation::RULES,
    attention::RULES,
    convolution::RULES,
    einsum::RULES,
    elementwise::RULES,
    gather::RULES,
    matmul::RULES,
    movement::RULES,
    normalization::RULES,
    pooling::RULES,
    quantize::RULES,
    recurrent::RULES,
    reduction::RULES,
    resize::RULES,
];

/// Operators whose results do not change with small changes of their operands, or depend on their shapes alone: the
/// gradient is zero, and nothing is written.
const FLAT: &[&str] =
    &["Ceil", "EyeLike", "Floor", "Hardmax", "RandomNormalLike", "RandomUniformLike", "Round", "Sign"];

fn rule(node: &Node) -> Option<Rule> {
    let mut rules = RULES.iter().copied().flatten();
    rules.find(|(op_type, _)| node.is(op_type)).map(|(_, rule)| *rule)
}

fn is_flat(node: &Node) -> bool {
    FLAT.iter().any(|op_type| node.is(op_type))
}

/// The operators that have a gradient, in alphabetical order.
pub fn operators() -> Vec<&'static str> {
    let mut names: Vec<&str> = RULES.iter().copied().flatten().map(|(op_type, _)| *op_type).collect();
    names.sort_unstable();
    names
}
