//! Type and shape inference, and symbolic values of the small integer tensors that carry shapes.
//!
//! A rule looks at one node and tells what it knows of the results. What has no rule is unknown, and a rule never
//! guesses: a size it cannot derive is a fresh anonymous symbol.

mod attention;
mod context;
mod contrib;
mod control_flow;
mod convolution;
mod elements;
mod elementwise;
mod generator;
mod graph;
mod indexing;
mod join;
mod matrix;
mod ml;
mod movement;
mod normalization;
mod preview;
mod quantization;
mod recurrent;
mod reduction;
mod resize;
mod sequence;
mod shape_values;
mod slice;
#[cfg(test)]
mod testing;

use smallvec::SmallVec;
use std::sync::Arc;
use thiserror::Error;

pub use context::Inference;
pub(crate) use graph::infer_bodies;
pub use graph::{contradiction, infer_graph};
pub(crate) use join::{map_sizes, outline};

use crate::dim::Dim;
use crate::graph::{Graph, NodeId};
use crate::types::{ElementType, Shape, Type};

/// What is known of one result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fact {
    /// Its type.
    pub ty: Option<Type>,
    /// Its elements, row-major, if it is a small integer or boolean tensor of known shape.
    pub elements: Option<Arc<[Dim]>>,
}

impl Fact {
    /// Nothing.
    pub fn unknown() -> Self {
        Self::default()
    }

    /// A tensor of this shape; unknown if the element type is.
    pub fn tensor(element: Option<ElementType>, shape: impl IntoIterator<Item = Dim>) -> Self {
        Self { ty: element.map(|element| Type::tensor(element, shape)), elements: None }
    }

    /// A tensor whose rank may be unknown; unknown if the element type is.
    pub fn ranked(element: Option<ElementType>, shape: Option<Shape>) -> Self {
        match shape {
            Some(shape) => Self::tensor(element, shape),
            None => Self { ty: element.map(Type::unranked), elements: None },
        }
    }

    /// With symbolic elements.
    #[must_use]
    pub fn with_elements(mut self, elements: Option<Vec<Dim>>) -> Self {
        self.elements = elements.map(Into::into);
        self
    }
}

impl From<Type> for Fact {
    fn from(ty: Type) -> Self {
        Self { ty: Some(ty), elements: None }
    }
}

/// What is known of the results of a node, in order. Missing entries are unknown.
pub type Facts = SmallVec<[Fact; 2]>;

/// Operands that no run could accept.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{op_type} `{node}`: {reason}")]
pub struct InferenceError {
    /// Name of the node, or of its first result.
    pub node: String,
    /// The operator.
    pub op_type: String,
    /// What does not fit.
    pub reason: String,
}

/// The inference rule of an operator.
type Rule = fn(&Inference<'_>) -> Result<Facts, InferenceError>;

/// The families of the default domain, each of which knows the rules of its operators.
const FAMILIES: &[fn(&str) -> Option<Rule>] = &[
    elementwise::rule,
    shape_values::rule,
    movement::rule,
    slice::rule,
    indexing::rule,
    attention::rule,
    control_flow::rule,
    convolution::rule,
    generator::rule,
    matrix::rule,
    normalization::rule,
    quantization::rule,
    recurrent::rule,
    reduction::rule,
    resize::rule,
    sequence::rule,
];

/// What is known of the results of a node.
///
/// # Errors
/// If its operands contradict each other so that no run could accept them.
pub fn infer(graph: &Graph, node: NodeId) -> Result<Facts, InferenceError> {
    let Some(current) = graph.get_node(node) else { return Ok(Facts::new()) };
    let rule = match current.domain() {
        "com.microsoft" if !graph.context().is_function("com.microsoft", current.op_type()) => {
            contrib::rule(current.op_type())
        }
        _ if current.operator().is_none() => None,
        "" => FAMILIES.iter().find_map(|family| family(current.op_type())),
        "ai.onnx.ml" => ml::rule(current.op_type()),
        "ai.onnx.preview" | "ai.onnx.preview.training" => preview::rule(current.op_type()),
        _ => None,
    };
    match rule {
        Some(rule) => {
            let inference = Inference::new(graph, current);
            let facts = rule(&inference)?;
            let sizes = facts.iter().filter_map(|fact| fact.ty.as_ref()?.shape()).flatten();
            match sizes.filter_map(Dim::as_fixed).find(|&size| size < 0) {
                Some(size) => Err(inference.error(format!("a result of size {size}"))),
                None => Ok(facts),
            }
        }
        None => Ok(Facts::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_operator_of_the_default_domain_has_a_rule() {
        let operators = schema::operators().iter().filter(|operator| operator.domain.is_empty());
        let without =
            operators.filter(|operator| !FAMILIES.iter().any(|family| family(operator.op_type).is_some()));
        let mut without: Vec<&str> = without.map(|operator| operator.op_type).collect();
        without.dedup();
        assert_eq!(without, [""; 0]);
    }
}
