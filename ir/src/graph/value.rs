//! Values: what flows along the edges.

use std::sync::Arc;

use onnx_opt_proto::{NodeProto, SparseTensorProto};

use super::consumers::Consumers;
use super::{Name, NodeId};
use crate::dim::Dim;
use crate::tensor::Tensor;
use crate::types::Type;

/// A value of one graph. Ids are never used again within it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// A number unique among the values that the graph ever had.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A place where a node takes a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Slot {
    /// Operand `0..` of the operator.
    Input(u32),
    /// A value that bodies of the node read from the surrounding graph.
    Capture(u32),
}

/// One use of one value by one node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Consumer {
    /// The node.
    pub node: NodeId,
    /// Where it takes the value.
    pub slot: Slot,
}

/// The weight of a petgraph edge from the producer to the consumer of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Use {
    /// The value.
    pub value: ValueId,
    /// The operand of the consumer.
    pub slot: Slot,
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Producer {
    /// An output of a node.
    Node {
        /// The node.
        node: NodeId,
        /// Which output.
        output: u32,
    },
    /// An input of the graph, with the initializer that callers may override.
    Input {
        /// The overridable default.
        default: Option<Arc<Tensor>>,
    },
    /// A constant.
    Constant(Constant),
    /// A sparse initializer.
    Sparse(Box<SparseTensorProto>),
    /// A value of the surrounding graph, read by a body.
    Captured {
        /// Index into the captured operands of the node that owns the body.
        index: u32,
        /// Its tensor, if it is a constant there.
        constant: Option<Arc<Tensor>>,
    },
}

/// A constant and how the file writes it.
#[derive(Clone, Debug)]
pub struct Constant {
    /// The tensor.
    pub tensor: Arc<Tensor>,
    /// How it is written.
    pub form: Form,
}

impl Constant {
    /// Whether another one has the same content, as far as that is soon seen: no if it has many elements.
    pub(super) fn is_small_twin_of(&self, other: &Self) -> bool {
        self.tensor.len() <= Value::MAX_ELEMENTS && self.tensor == other.tensor
    }
}

/// How a constant is written.
#[derive(Clone, Debug)]
pub enum Form {
    /// An initializer of the graph.
    Initializer,
    /// A `Constant` node at this position among the nodes, with the message it was read from.
    Node {
        /// Position in the node list.
        position: u32,
        /// The node as read, without its tensor; `None` for one that a rewrite made.
        origin: Option<Box<NodeProto>>,
    },
}

/// A value of a graph.
#[derive(Clone, Debug)]
pub struct Value {
    pub(super) name: Option<Name>,
    pub(super) producer: Producer,
    pub(super) ty: Option<Type>,
    pub(super) elements: Option<Arc<[Dim]>>,
    pub(super) consumers: Consumers,
    /// How many formal outputs of the graph it is.
    pub(super) outputs: u32,
}

impl Value {
    /// Integer tensors with at most this many elements are known element by element: more than any shape has.
    pub const MAX_ELEMENTS: usize = 256;

    pub(super) fn new(name: Option<Name>, producer: Producer, ty: Option<Type>) -> Self {
        Self { name, producer, ty, elements: None, consumers: Consumers::new(), outputs: 0 }
    }

    /// Name in the file. Values that a rewrite made have none until export.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Where it comes from.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Type as inferred.
    pub fn ty(&self) -> Option<&Type> {
        self.ty.as_ref()
    }

    /// Symbolic elements of a small integer tensor, row-major; constants are not stored here.
    pub fn elements(&self) -> Option<&[Dim]> {
        self.elements.as_deref()
    }
}
