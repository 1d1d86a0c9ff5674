//! The graph: operators in petgraph, values in a table, bodies inside the nodes that own them.
//!
//! Fields are private. Every edit goes through a method of [`edit`] that keeps edges, value table and use counts in
//! step, and types are inferred where an edit reaches and nowhere else.

mod consumers;
mod context;
mod declare;
mod edit;
mod facts;
mod inline;
mod invariants;
mod node;
mod order;
mod regular;
mod replace;
mod value;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use onnx_opt_proto::{GraphProto, ValueInfoProto};
use petgraph::stable_graph::{NodeIndex, StableDiGraph};

pub use context::{Context, FunctionId};
pub use edit::{GraphError, NewNode};
pub(crate) use node::NamedOperator;
pub use node::{Node, NodeExtra};
pub use value::{Constant, Consumer, Form, Producer, Slot, Use, Value, ValueId};

use crate::dim::Dim;
use crate::tensor::Tensor;
use crate::types::{ElementType, Type};

/// A name of a value, node, operator or domain.
pub type Name = Arc<str>;

/// A node of one graph. Indices of removed nodes are used again: never keep one across an edit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub(crate) NodeIndex);

impl NodeId {
    /// A number unique among the nodes of the graph at this moment.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// A formal output of a graph.
#[derive(Clone, Debug)]
pub struct Output {
    /// The value that leaves the graph.
    pub value: ValueId,
    /// Name, type and documentation that the file declares; the name is part of the interface.
    pub(crate) declaration: ValueInfoProto,
}

/// A formal input of a graph.
#[derive(Clone, Debug)]
pub struct Input {
    /// The value. It is a constant where an old model (IR version below 4) lists an initializer among its inputs.
    pub value: ValueId,
    /// Name, type and documentation that the file declares.
    pub(crate) declaration: ValueInfoProto,
}

/// A graph of operators: the main graph of a model or the body of a control-flow operator.
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: StableDiGraph<Node, Use>,
    /// Indexed by [`ValueId`]; slots of removed values stay empty and are never used again.
    values: Vec<Option<Value>>,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    /// Types that the file declares for inner values, in its order; `None` where it names no value of this graph.
    pub(crate) value_info: Vec<(Option<ValueId>, ValueInfoProto)>,
    /// Values that stay even when nothing uses them (quantization annotations name them).
    pinned: BTreeSet<ValueId>,
    context: Context,
    /// How often the graph changed, bodies not counted; says whether it did, not by how much.
    edits: u64,
    /// The topological order, once somebody has asked for it since nodes changed.
    order: OnceLock<Vec<NodeId>>,
    /// The nodes with bodies, likewise.
    owners: OnceLock<Vec<NodeId>>,
    /// The rest of the message: name, documentation, quantization annotations, metadata.
    pub(crate) rest: GraphProto,
}

impl Graph {
    /// An empty graph.
    pub fn new(context: Context) -> Self {
        Self {
            nodes: StableDiGraph::default(),
            values: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            value_info: Vec::new(),
            pinned: BTreeSet::new(),
            context,
            edits: 0,
            order: OnceLock::new(),
            owners: OnceLock::new(),
            rest: GraphProto::default(),
        }
    }

    /// Opset versions and the rest that all graphs of a model share.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The version of the default domain's operator set.
    pub fn opset(&self) -> i64 {
        self.context.opset("").unwrap_or(1)
    }

    /// Name of the graph.
    pub fn name(&self) -> &str {
        self.rest.name()
    }

    /// Nodes by ascending index.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes
            .node_indices()
            .filter_map(|index| self.nodes.node_weight(index).map(|node| (NodeId(index), node)))
    }

    /// The nodes that own bodies, by ascending index.
    pub fn owners(&self) -> Vec<NodeId> {
        let owns = |(id, node): (NodeId, &Node)| node.bodies().next().map(|_| id);
        self.owners.get_or_init(|| self.nodes().filter_map(owns).collect()).clone()
    }

    /// Number of nodes, bodies not counted.
    pub fn node_count(&self) -> usize {
        self.nodes.node_count()
    }

    /// One more than the largest node index in use.
    pub fn node_bound(&self) -> usize {
        use petgraph::visit::NodeIndexable;
        self.nodes.node_bound()
    }

    /// The node with this index, if there is one.
    pub fn node_at(&self, index: usize) -> Option<NodeId> {
        let index = NodeIndex::new(index);
        self.nodes.contains_node(index).then_some(NodeId(index))
    }

    /// A node, if it exists.
    pub fn get_node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.node_weight(node.0)
    }

    /// A node.
    ///
    /// # Panics
    /// If it was removed: keep no `NodeId` across edits.
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.0]
    }

    /// Values by ascending id, which is the order of their creation.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| value.as_ref().map(|value| (ValueId(index as u32), value)))
    }

    /// One more than the largest value index that was ever in use.
    pub fn value_bound(&self) -> usize {
        self.values.len()
    }

    /// A value, if it exists.
    pub fn get_value(&self, value: ValueId) -> Option<&Value> {
        self.values.get(value.0 as usize).and_then(Option::as_ref)
    }

    /// A value.
    ///
    /// # Panics
    /// If it was removed. Ids are never used again, so an id that was kept names the same value or none.
    #[track_caller]
    pub fn value(&self, value: ValueId) -> &Value {
        match self.get_value(value) {
            Some(value) => value,
            None => panic!("value %{} was removed", value.0),
        }
    }

    fn value_mut(&mut self, value: ValueId) -> Option<&mut Value> {
        self.edits += 1;
        self.values.get_mut(value.0 as usize).and_then(Option::as_mut)
    }

    fn nodes_mut(&mut self) -> &mut StableDiGraph<Node, Use> {
        self.edits += 1;
        self.order.take();
        self.owners.take();
        &mut self.nodes
    }

    /// Formal inputs in order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Formal outputs in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Name of a value for people: its own, or `%id` when it has none yet.
    pub fn display_name(&self, value: ValueId) -> String {
        match self.get_value(value).and_then(|value| value.name.as_deref()) {
            Some(name) => name.to_owned(),
            None => format!("%{}", value.0),
        }
    }

    /// Type of a value as far as inference knows it. Declarations of inner values and outputs in the file are not
    /// trusted.
    pub fn ty(&self, value: ValueId) -> Option<&Type> {
        self.get_value(value).and_then(|value| value.ty.as_ref())
    }

    /// Element type of a dense tensor value.
    pub fn element(&self, value: ValueId) -> Option<ElementType> {
        self.ty(value).and_then(Type::element)
    }

    /// Shape of a dense tensor value of known rank.
    pub fn shape(&self, value: ValueId) -> Option<&[Dim]> {
        self.ty(value).and_then(Type::shape)
    }

    /// Shape of a dense tensor value, when every size is a number.
    pub fn fixed_shape(&self, value: ValueId) -> Option<Vec<i64>> {
        self.shape(value)?.iter().map(Dim::as_fixed).collect()
    }

    /// Number of axes of a dense tensor value.
    pub fn rank(&self, value: ValueId) -> Option<usize> {
        self.shape(value).map(<[Dim]>::len)
    }

    /// The tensor of a constant that no caller can replace: an initializer that is no overridable graph input, a
    /// `Constant` node, or such a value captured from an outer graph.
    pub fn constant(&self, value: ValueId) -> Option<&Arc<Tensor>> {
        match &self.get_value(value)?.producer {
            Producer::Constant(constant) => Some(&constant.tensor),
            Producer::Captured { constant, .. } => constant.as_ref(),
            Producer::Node { .. } | Producer::Input { .. } | Producer::Sparse(_) => None,
        }
    }

    /// The elements of an integer or boolean tensor of few elements, row-major, each a number or a symbolic size:
    /// from its constant or from what inference knows.
    pub fn elements(&self, value: ValueId) -> Option<Vec<Dim>> {
        if let Some(tensor) = self.constant(value) {
            if tensor.len() > Value::MAX_ELEMENTS {
                return None;
            }
            return Some(tensor.to_i64()?.into_iter().map(Dim::fixed).collect());
        }
        self.get_value(value)?.elements.as_ref().map(|elements| elements.to_vec())
    }

    /// The node that produces a value, and which of its outputs it is.
    pub fn producer(&self, value: ValueId) -> Option<(NodeId, &Node, usize)> {
        match self.get_value(value)?.producer {
            Producer::Node { node, output } => Some((node, self.get_node(node)?, output as usize)),
            _ => None,
        }
    }

    /// The node that produces a value, when it is the first output of an operator `op_type` of the default domain.
    pub fn producer_of(&self, value: ValueId, op_type: &str) -> Option<(NodeId, &Node)> {
        match self.producer(value) {
            Some((id, node, 0)) if node.is(op_type) => Some((id, node)),
            _ => None,
        }
    }

    /// Where the node that gives a value stands, or stood before the value became a constant.
    pub(crate) fn producer_position(&self, value: ValueId) -> Option<u32> {
        match self.get_value(value)?.producer() {
            Producer::Node { node, .. } => Some(self.get_node(*node)?.position()),
            Producer::Constant(constant) => match constant.form {
                Form::Node { position, .. } => Some(position),
                Form::Initializer => None,
            },
            _ => None,
        }
    }

    /// Uses of a value by nodes of this graph, by ascending node and slot. A body that reads it counts as a use of
    /// the body's owner.
    pub fn consumers(&self, value: ValueId) -> impl Iterator<Item = Consumer> {
        self.get_value(value).into_iter().flat_map(|value| value.consumers.iter())
    }

    /// How often a value is used: by nodes, and as an output of the graph.
    pub fn use_count(&self, value: ValueId) -> usize {
        self.get_value(value).map_or(0, |value| value.consumers.len() + value.outputs as usize)
    }

    /// Whether a value is an output of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.get_value(value).is_some_and(|value| value.outputs > 0)
    }

    /// Whether one operand of one node is the only use of a value, so that it may disappear with that node.
    pub fn is_inner(&self, value: ValueId) -> bool {
        self.use_count(value) == 1 && !self.is_output(value) && !self.is_pinned(value)
    }

    /// Whether a value must stay whatever uses it.
    pub fn is_pinned(&self, value: ValueId) -> bool {
        self.pinned.contains(&value)
    }

    /// The value of this name. Linear: for tests and messages.
    pub fn value_by_name(&self, name: &str) -> Option<ValueId> {
        self.values().find(|(_, value)| value.name.as_deref() == Some(name)).map(|(id, _)| id)
    }

    /// The node of this name. Linear: for tests and messages.
    pub fn node_by_name(&self, name: &str) -> Option<NodeId> {
        self.nodes().find(|(_, node)| node.name() == Some(name)).map(|(id, _)| id)
    }
}
