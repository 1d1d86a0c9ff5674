//! Elementwise operators between two operators that move elements: what is moved before may be moved after.

use std::sync::Arc;

use onnx_opt_ir::{Graph, Node, NodeId, Tensor, ValueId};

use super::facts::{elementwise_operand, only_use};
use crate::rewrite::{Miss, Operand, Patch, found};

/// Elementwise operators in a row, the last one first, each with the operand by which it hangs on the next.
pub(super) struct Chain {
    links: Vec<(NodeId, usize)>,
    /// What the first of them works on.
    pub source: ValueId,
}

/// Longer chains are out of reach of the engine's work list.
const LENGTH: usize = 6;

impl Chain {
    /// The elementwise operators from `value` upwards to a producer that `ends` accepts. Each result has one use.
    ///
    /// # Errors
    /// If there is no such producer, or an inner result has other users.
    pub(super) fn up(graph: &Graph, value: ValueId, ends: impl Fn(&Node) -> bool) -> Result<Self, Miss> {
        let mut links = Vec::new();
        let mut value = value;
        loop {
            let (id, node, output) = found(graph.producer(value))?;
            if output == 0 && ends(node) {
                only_use(graph, value)?;
                return Ok(Self { links, source: value });
            }
            let operand = found(elementwise_operand(graph, node))?;
            if output != 0 || node.outputs().len() != 1 || links.len() == LENGTH {
                return Err(Miss::NoMatch);
            }
            only_use(graph, value)?;
            links.push((id, operand));
            value = found(node.input(operand))?;
        }
    }

    /// The operators, the last one first.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.links.iter().map(|&(id, _)| id)
    }

    /// Whether no operator lies in between.
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The same operators on another source, their constants as `constant` changes them.
    ///
    /// # Errors
    /// What `constant` says.
    pub(super) fn on(
        &self,
        graph: &Graph,
        patch: &mut Patch,
        source: ValueId,
        constant: impl Fn(&Arc<Tensor>) -> Result<Option<Tensor>, Miss>,
    ) -> Result<Operand, Miss> {
        self.on_operand(graph, patch, source.into(), constant)
    }

    /// The same on what may be new.
    ///
    /// # Errors
    /// What `constant` says.
    pub(super) fn on_operand(
        &self,
        graph: &Graph,
        patch: &mut Patch,
        source: Operand,
        constant: impl Fn(&Arc<Tensor>) -> Result<Option<Tensor>, Miss>,
    ) -> Result<Operand, Miss> {
        let mut result = source;
        for &(id, operand) in self.links.iter().rev() {
            let node = graph.node(id);
            let mut inputs = Vec::with_capacity(node.inputs().len());
            for (index, &input) in node.inputs().iter().enumerate() {
                inputs.push(match input.and_then(|input| graph.constant(input)) {
                    _ if index == operand => result,
                    Some(tensor) => match constant(tensor)? {
                        Some(changed) => patch.constant(changed),
                        None => input.into(),
                    },
                    None => input.into(),
                });
            }
            result = patch.node(node.op_type(), inputs, node.attributes().clone());
        }
        Ok(result)
    }
}
