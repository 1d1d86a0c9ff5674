//! A replacement under construction: new nodes and constants, and which values they replace.

use std::sync::Arc;

use onnx_opt_ir::{Attributes, Tensor, ValueId};

/// An operand of a new node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// A value that is in the graph.
    Value(ValueId),
    /// Result `output` of new node `node`.
    Node {
        /// Index of the new node.
        node: usize,
        /// Which of its results.
        output: usize,
    },
    /// A new constant.
    Constant(usize),
    /// Left out.
    Absent,
}

impl From<ValueId> for Operand {
    fn from(value: ValueId) -> Self {
        Self::Value(value)
    }
}

impl From<Option<ValueId>> for Operand {
    fn from(value: Option<ValueId>) -> Self {
        value.map_or(Self::Absent, Self::Value)
    }
}

#[derive(Debug)]
pub(super) struct PatchNode {
    pub op_type: String,
    pub domain: String,
    pub inputs: Vec<Operand>,
    pub outputs: usize,
    pub attributes: Attributes,
}

/// A replacement: committed whole or dropped.
#[derive(Debug, Default)]
pub struct Patch {
    pub(super) nodes: Vec<PatchNode>,
    pub(super) constants: Vec<Arc<Tensor>>,
    pub(super) replacements: Vec<(ValueId, Operand)>,
}

impl Patch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A patch that gives all uses of `old` to `new`.
    pub fn replacing(old: ValueId, new: impl Into<Operand>) -> Self {
        let mut patch = Self::new();
        patch.replace(old, new);
        patch
    }

    /// A new node of the default domain with one result.
    pub fn node<O: Into<Operand>>(
        &mut self,
        op_type: &str,
        inputs: impl IntoIterator<Item = O>,
        attributes: Attributes,
    ) -> Operand {
        self.node_with(op_type, inputs, attributes, 1)[0]
    }

    /// A new node of the default domain with several results.
    pub fn node_with<O: Into<Operand>>(
        &mut self,
        op_type: &str,
        inputs: impl IntoIterator<Item = O>,
        attributes: Attributes,
        outputs: usize,
    ) -> Vec<Operand> {
        self.node_of("", op_type, inputs, attributes, outputs)
    }

    /// A new node of any domain with several results.
    pub fn node_of<O: Into<Operand>>(
        &mut self,
        domain: &str,
        op_type: &str,
        inputs: impl IntoIterator<Item = O>,
        attributes: Attributes,
        outputs: usize,
    ) -> Vec<Operand> {
        let mut inputs: Vec<Operand> = inputs.into_iter().map(Into::into).collect();
        while inputs.last() == Some(&Operand::Absent) {
            inputs.pop();
        }
        let node = self.nodes.len();
        self.nodes.push(PatchNode {
            op_type: op_type.to_owned(),
            domain: domain.to_owned(),
            inputs,
            outputs: outputs.max(1),
            attributes,
        });
        (0..outputs.max(1)).map(|output| Operand::Node { node, output }).collect()
    }

    /// A new constant.
    pub fn constant(&mut self, tensor: impl Into<Arc<Tensor>>) -> Operand {
        self.constants.push(tensor.into());
        Operand::Constant(self.constants.len() - 1)
    }

    /// Gives all uses of `old` to `new` when the patch is committed.
    pub fn replace(&mut self, old: ValueId, new: impl Into<Operand>) {
        self.replacements.push((old, new.into()));
    }
}
