//! What an inference rule may ask.

use std::sync::Arc;

use super::{Fact, Facts, InferenceError};
use crate::dim::Dim;
use crate::graph::{Graph, Node, ValueId};
use crate::tensor::Tensor;
use crate::types::{ElementType, Shape, Type};

/// One node, its operands and what is known of them.
pub struct Inference<'a> {
    graph: &'a Graph,
    node: &'a Node,
}

impl<'a> Inference<'a> {
    pub(super) fn new(graph: &'a Graph, node: &'a Node) -> Self {
        Self { graph, node }
    }

    /// The node; its accessors know attribute defaults.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// The graph around the node.
    pub fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// The version of the operator in force (`since_version`).
    pub fn version(&self) -> i64 {
        self.node.operator().map_or(0, |operator| operator.since_version)
    }

    /// Number of operands, left-out ones in between included.
    pub fn input_count(&self) -> usize {
        self.node.inputs().len()
    }

    /// Number of results that the node names.
    pub fn output_count(&self) -> usize {
        self.node.outputs().len()
    }

    /// Operand `index`, if it is there.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.node.input(index)
    }

    /// Type of operand `index`.
    pub fn ty(&self, index: usize) -> Option<&'a Type> {
        self.graph.ty(self.input(index)?)
    }

    /// Element type of operand `index`.
    pub fn element(&self, index: usize) -> Option<ElementType> {
        self.ty(index)?.element()
    }

    /// Shape of operand `index`.
    pub fn shape(&self, index: usize) -> Option<&'a [Dim]> {
        self.ty(index)?.shape()
    }

    /// Rank of operand `index`.
    pub fn rank(&self, index: usize) -> Option<usize> {
        self.shape(index).map(<[Dim]>::len)
    }

    /// Tensor of operand `index`, if it is a constant that no caller can replace.
    pub fn constant(&self, index: usize) -> Option<&'a Arc<Tensor>> {
        self.graph.constant(self.input(index)?)
    }

    /// Symbolic elements of operand `index`, row-major.
    pub fn elements(&self, index: usize) -> Option<Vec<Dim>> {
        self.graph.elements(self.input(index)?)
    }

    /// Elements of operand `index` when all are numbers (axes, pads, steps).
    pub fn integers(&self, index: usize) -> Option<Vec<i64>> {
        self.elements(index)?.iter().map(Dim::as_fixed).collect()
    }

    /// A list that is an attribute in old versions and operand `index` in new ones. `Ok(None)`: left out.
    /// `Err(())`: there, but not known.
    #[allow(clippy::result_unit_err, reason = "there is nothing to say but that the operand is not known")]
    pub fn ints_or_input(&self, attribute: &str, index: usize) -> Result<Option<Vec<i64>>, ()> {
        if let Some(values) = self.node.ints(attribute) {
            return Ok(Some(values.to_vec()));
        }
        match self.input(index) {
            Some(_) => self.integers(index).map(Some).ok_or(()),
            None => Ok(None),
        }
    }

    /// A size equal to no other.
    pub fn fresh(&self) -> Dim {
        self.graph.context().fresh_dim()
    }

    /// A shape of unknown sizes.
    pub fn fresh_shape(&self, rank: usize) -> Shape {
        (0..rank).map(|_| self.fresh()).collect()
    }

    /// An axis counted from the front.
    ///
    /// # Errors
    /// If it is not in `-rank..rank`.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, InferenceError> {
        let counted = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        match counted.and_then(|axis| usize::try_from(axis).ok()) {
            Some(axis) if axis < rank => Ok(axis),
            _ => Err(self.error(format!("axis {axis} is outside a tensor of rank {rank}"))),
        }
    }

    /// The shape of numpy-style broadcasting.
    ///
    /// # Errors
    /// If two sizes differ and neither is 1.
    pub fn broadcast(&self, a: &[Dim], b: &[Dim]) -> Result<Shape, InferenceError> {
        let rank = a.len().max(b.len());
        let at = |shape: &[Dim], axis: usize| {
            (axis + shape.len()).checked_sub(rank).map_or(Dim::fixed(1), |axis| shape[axis].clone())
        };
        (0..rank)
            .map(|axis| {
                let (a, b) = (at(a, axis), at(b, axis));
                match a.broadcast(&b) {
                    Some(dim) => Ok(dim),
                    None if a.is_fixed() && b.is_fixed() => {
                        Err(self.error(format!("sizes {a} and {b} do not broadcast")))
                    }
                    None => Ok(self.fresh()),
                }
            })
            .collect()
    }

    /// An error about this node.
    pub fn error(&self, reason: impl Into<String>) -> InferenceError {
        let name = match (self.node.name(), self.node.outputs().iter().flatten().next()) {
            (Some(name), _) if !name.is_empty() => name.to_owned(),
            (_, Some(&output)) => self.graph.display_name(output),
            _ => String::new(),
        };
        InferenceError { node: name, op_type: self.node.op_type().to_owned(), reason: reason.into() }
    }

    /// One result.
    pub fn one(&self, fact: impl Into<Fact>) -> Result<Facts, InferenceError> {
        Ok(Facts::from_iter([fact.into()]))
    }

    /// Nothing is known.
    pub fn unknown(&self) -> Result<Facts, InferenceError> {
        Ok(Facts::new())
    }
}
