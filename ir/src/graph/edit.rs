//! Edits. Each keeps edges, value table, use counts and types in step, or changes nothing and says why.

use std::sync::Arc;

use onnx_opt_proto::ValueInfoProto;
use petgraph::Direction;
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;
use thiserror::Error;

use super::node::resolve_operator;
use super::{
    Constant, Consumer, Context, Form, Graph, Input, Name, Node, NodeId, Output, Producer, Slot, Use, Value,
    ValueId,
};
use crate::attributes::{AttributeValue, Attributes};
use crate::infer::{self, InferenceError};
use crate::tensor::Tensor;
use crate::types::Type;

/// Why an edit was refused.
#[derive(Debug, Error)]
pub enum GraphError {
    /// A value is gone or belongs to another graph.
    #[error("value %{} is not in the graph", .0.index())]
    NoSuchValue(ValueId),
    /// The graph has fewer inputs.
    #[error("the graph has no input {0}")]
    NoSuchInput(usize),
    /// A node is gone or belongs to another graph.
    #[error("node {} is not in the graph", .0.index())]
    NoSuchNode(NodeId),
    /// A node still has users.
    #[error("`{0}` is still used")]
    StillUsed(String),
    /// A value must stay as it is.
    #[error("`{0}` is named by a quantization annotation and stays")]
    Pinned(String),
    /// An output of the graph cannot be given to this value.
    #[error("output `{output}` cannot become `{value}`: {reason}")]
    OutputFixed {
        /// Name of the output.
        output: String,
        /// The value that should leave the graph instead.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// Old and new value differ in type.
    #[error("`{old}` is {old_type}, its replacement is {new_type}")]
    TypeChanges {
        /// The value.
        old: String,
        /// Its type.
        old_type: Box<Type>,
        /// The type of the replacement.
        new_type: Box<Type>,
    },
    /// A value is no constant that may become another.
    #[error("`{0}` is no constant of its own")]
    NotConstant(String),
    /// A body cannot take the place of its node.
    #[error("the body of `{0}` cannot take its place")]
    NotInlinable(String),
    /// Operands do not fit the operator.
    #[error(transparent)]
    Inference(#[from] InferenceError),
}

/// A node to be added.
#[derive(Clone, Debug, Default)]
pub struct NewNode {
    /// Operator name.
    pub op_type: String,
    /// Domain; the default one is the empty string.
    pub domain: String,
    /// Name of the node.
    pub name: Option<Name>,
    /// Operands.
    pub inputs: Vec<Option<ValueId>>,
    /// Number of results.
    pub outputs: usize,
    /// Attributes.
    pub attributes: Attributes,
    /// Values of this graph that the bodies among the attributes capture, by index.
    pub captures: Vec<ValueId>,
    /// Place in the node list; see [`Graph::sort`].
    pub position: u32,
}

impl NewNode {
    /// An operator of the default domain with one result.
    pub fn new(op_type: &str, inputs: impl IntoIterator<Item = ValueId>) -> Self {
        Self {
            op_type: op_type.to_owned(),
            inputs: inputs.into_iter().map(Some).collect(),
            outputs: 1,
            ..Self::default()
        }
    }

    /// With an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<AttributeValue>) -> Self {
        self.attributes.set(name, value);
        self
    }
}

impl Graph {
    /// Makes room for so many more nodes with so many operands in all, and so many more values.
    pub(crate) fn reserve(&mut self, nodes: usize, operands: usize, values: usize) {
        self.nodes.reserve_exact_nodes(nodes);
        self.nodes.reserve_exact_edges(operands);
        // Rewrites add values, and what nobody reaches for takes no memory: moving all of them does.
        self.values.reserve_exact(values + values / 2);
    }

    pub(crate) fn add_value(&mut self, name: Option<Name>, producer: Producer, ty: Option<Type>) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(Some(Value::new(name, producer, ty)));
        id
    }

    /// Adds a constant, written as an initializer where the file format allows it. It is named at export.
    pub fn add_constant(&mut self, tensor: impl Into<Arc<Tensor>>) -> ValueId {
        // Before IR version 4 every initializer had to be an input of the graph as well; a node is none.
        let form = match self.context.ir_version() {
            ..=3 => Form::Node { position: 0, origin: None },
            _ => Form::Initializer,
        };
        self.add_constant_as(None, tensor.into(), form)
    }

    pub(crate) fn add_constant_as(&mut self, name: Option<Name>, tensor: Arc<Tensor>, form: Form) -> ValueId {
        let ty = tensor.ty();
        self.add_value(name, Producer::Constant(Constant { tensor, form }), Some(ty))
    }

    /// Adds to a body a value of the surrounding graph: number `index` of those that the owner captures.
    pub fn add_capture(&mut self, index: u32) -> ValueId {
        self.add_value(None, Producer::Captured { index, constant: None }, None)
    }

    /// Adds a formal input.
    pub fn add_input(&mut self, name: &str, ty: Type) -> ValueId {
        let declaration = crate::export::value_info(name, &ty);
        let value = self.add_value(Some(name.into()), Producer::Input { default: None }, Some(ty));
        self.inputs.push(Input { value, declaration });
        value
    }

    pub(crate) fn push_input(&mut self, value: ValueId, declaration: ValueInfoProto) {
        self.edits += 1;
        self.inputs.push(Input { value, declaration });
    }

    /// Makes a value a formal output of this name. The value takes the name.
    ///
    /// # Errors
    /// If the value does not exist.
    pub fn add_output(&mut self, name: &str, value: ValueId) -> Result<(), GraphError> {
        let ty = self.ty(value).cloned();
        self.value_mut(value).ok_or(GraphError::NoSuchValue(value))?.name = Some(name.into());
        let declaration = match ty {
            Some(ty) => crate::export::value_info(name, &ty),
            None => ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() },
        };
        self.push_output(value, declaration)
    }

    pub(crate) fn push_output(
        &mut self,
        value: ValueId,
        declaration: ValueInfoProto,
    ) -> Result<(), GraphError> {
        self.value_mut(value).ok_or(GraphError::NoSuchValue(value))?.outputs += 1;
        self.outputs.push(Output { value, declaration });
        Ok(())
    }

    /// Adds a node and infers the types of its results.
    ///
    /// # Errors
    /// If an operand does not exist or inference shows that the operands do not fit; the graph is then unchanged.
    pub fn add_node(&mut self, new: NewNode) -> Result<NodeId, GraphError> {
        let domain = if new.domain.is_empty() { None } else { Some(new.domain.as_str().into()) };
        let node = Node {
            operator: resolve_operator(&self.context, &new.domain, &new.op_type),
            op_type: new.op_type.as_str().into(),
            domain,
            name: new.name,
            inputs: new.inputs.into(),
            captures: new.captures,
            outputs: SmallVec::from_elem(None, new.outputs),
            attributes: new.attributes,
            position: new.position,
            extra: None,
        };
        let id = self.insert_node(node, |_| Some(None))?;
        // What contradicts itself inside a body matters only if that runs.
        infer::infer_bodies(self, id, 0);
        match self.infer_node(id) {
            Ok(_) => Ok(id),
            Err(error) => {
                self.detach(id);
                Err(error.into())
            }
        }
    }

    /// Adds a node as it is; `name` tells the name of each result, or `None` for a result that is left out.
    pub(crate) fn insert_node(
        &mut self,
        mut node: Node,
        name: impl Fn(usize) -> Option<Option<Name>>,
    ) -> Result<NodeId, GraphError> {
        if let Some(missing) = node.operands().find(|&value| self.get_value(value).is_none()) {
            return Err(GraphError::NoSuchValue(missing));
        }
        let outputs = node.outputs.len();
        let inputs = node.inputs.clone();
        let captures = node.captures.clone();
        node.outputs.clear();
        let id = NodeId(self.nodes_mut().add_node(node));
        let results: SmallVec<[Option<ValueId>; 2]> = (0..outputs)
            .map(|output| {
                let name = name(output)?;
                Some(self.add_value(name, Producer::Node { node: id, output: output as u32 }, None))
            })
            .collect();
        self.nodes_mut()[id.0].outputs = results;
        for (slot, &value) in inputs.iter().enumerate() {
            if let Some(value) = value {
                self.attach(id, Slot::Input(slot as u32), value);
            }
        }
        for (slot, &value) in captures.iter().enumerate() {
            self.attach(id, Slot::Capture(slot as u32), value);
        }
        Ok(id)
    }

    /// Gives a node that was added without them its operands, captured values and attributes.
    pub(crate) fn fill_node(
        &mut self,
        node: NodeId,
        inputs: &[Option<ValueId>],
        captures: Vec<ValueId>,
        attributes: Attributes,
    ) {
        let place = &mut self.nodes_mut()[node.0];
        place.inputs = inputs.into();
        place.captures.clone_from(&captures);
        place.attributes = attributes;
        for (slot, &value) in inputs.iter().enumerate() {
            if let Some(value) = value {
                self.attach(node, Slot::Input(slot as u32), value);
            }
        }
        for (slot, value) in captures.into_iter().enumerate() {
            self.attach(node, Slot::Capture(slot as u32), value);
        }
    }

    fn attach(&mut self, node: NodeId, slot: Slot, value: ValueId) {
        let Some(entry) = self.value_mut(value) else { return };
        entry.consumers.insert(Consumer { node, slot });
        if let Producer::Node { node: producer, .. } = entry.producer {
            self.nodes_mut().add_edge(producer.0, node.0, Use { value, slot });
        }
    }

    fn detach_slot(&mut self, node: NodeId, slot: Slot, value: ValueId) {
        // What goes with its producer, and what has none, has no edge.
        let Some(entry) = self.value_mut(value) else { return };
        entry.consumers.remove(&Consumer { node, slot });
        if !matches!(entry.producer, Producer::Node { .. }) {
            return;
        }
        let edge = self
            .nodes
            .edges_directed(node.0, Direction::Incoming)
            .find(|edge| *edge.weight() == Use { value, slot })
            .map(|edge| edge.id());
        if let Some(edge) = edge {
            self.nodes_mut().remove_edge(edge);
        }
    }

    /// Takes a node out, with its results, whatever uses them.
    pub(super) fn detach(&mut self, node: NodeId) -> Option<Node> {
        let removed = self.nodes_mut().remove_node(node.0)?;
        for (slot, value) in removed.inputs.iter().enumerate() {
            if let Some(value) = value.and_then(|value| self.value_mut(value)) {
                value.consumers.remove(&Consumer { node, slot: Slot::Input(slot as u32) });
            }
        }
        for (slot, &value) in removed.captures.iter().enumerate() {
            if let Some(value) = self.value_mut(value) {
                value.consumers.remove(&Consumer { node, slot: Slot::Capture(slot as u32) });
            }
        }
        for output in removed.outputs.iter().flatten() {
            self.values[output.0 as usize] = None;
        }
        Some(removed)
    }

    pub(super) fn set_slot(&mut self, node: NodeId, slot: Slot, value: Option<ValueId>) {
        let place = &mut self.nodes_mut()[node.0];
        let old = match slot {
            Slot::Input(index) => std::mem::replace(&mut place.inputs[index as usize], value),
            // Captured operands are never left out.
            Slot::Capture(index) => match value {
                Some(value) => Some(std::mem::replace(&mut place.captures[index as usize], value)),
                None => return,
            },
        };
        if let Some(old) = old {
            self.detach_slot(node, slot, old);
        }
        if let Some(value) = value {
            self.attach(node, slot, value);
        }
    }

    /// Replaces the operands of a node; there may be more or fewer than before.
    ///
    /// # Errors
    /// If the node or an operand does not exist.
    pub fn set_inputs(&mut self, node: NodeId, inputs: &[Option<ValueId>]) -> Result<(), GraphError> {
        let count = self.get_node(node).ok_or(GraphError::NoSuchNode(node))?.inputs.len();
        if let Some(&missing) = inputs.iter().flatten().find(|&&value| self.get_value(value).is_none()) {
            return Err(GraphError::NoSuchValue(missing));
        }
        for index in 0..count {
            self.set_slot(node, Slot::Input(index as u32), None);
        }
        self.nodes_mut()[node.0].inputs = SmallVec::from_elem(None, inputs.len());
        for (index, &value) in inputs.iter().enumerate() {
            self.set_slot(node, Slot::Input(index as u32), value);
        }
        self.propagate([node]);
        Ok(())
    }

    /// Replaces one operand.
    ///
    /// # Errors
    /// If the node, the operand or the new value does not exist.
    pub fn set_input(
        &mut self,
        node: NodeId,
        index: usize,
        value: Option<ValueId>,
    ) -> Result<(), GraphError> {
        let mut inputs = self.get_node(node).ok_or(GraphError::NoSuchNode(node))?.inputs.to_vec();
        if index >= inputs.len() {
            inputs.resize(index + 1, None);
        }
        inputs[index] = value;
        self.set_inputs(node, &inputs)
    }

    /// Sets an attribute and infers the node again.
    ///
    /// # Errors
    /// If the node does not exist.
    pub fn set_attribute(
        &mut self,
        node: NodeId,
        name: &str,
        value: impl Into<AttributeValue>,
    ) -> Result<(), GraphError> {
        self.nodes_mut()
            .node_weight_mut(node.0)
            .ok_or(GraphError::NoSuchNode(node))?
            .attributes
            .set(name, value);
        self.propagate([node]);
        Ok(())
    }

    /// Removes an attribute and infers the node again.
    ///
    /// # Errors
    /// If the node does not exist.
    pub fn remove_attribute(&mut self, node: NodeId, name: &str) -> Result<(), GraphError> {
        self.nodes_mut().node_weight_mut(node.0).ok_or(GraphError::NoSuchNode(node))?.attributes.remove(name);
        self.propagate([node]);
        Ok(())
    }

    /// Makes a node another operator of the default domain, or another version of its own, with these operands and
    /// attributes, all at once. Its results, name, place and captured values stay; the version is the one that the
    /// context names now.
    ///
    /// # Errors
    /// If the node or an operand does not exist.
    pub fn restate_node(
        &mut self,
        node: NodeId,
        op_type: &str,
        inputs: &[Option<ValueId>],
        attributes: Attributes,
    ) -> Result<(), GraphError> {
        let count = self.get_node(node).ok_or(GraphError::NoSuchNode(node))?.inputs.len();
        if let Some(&missing) = inputs.iter().flatten().find(|&&value| self.get_value(value).is_none()) {
            return Err(GraphError::NoSuchValue(missing));
        }
        for index in 0..count {
            self.set_slot(node, Slot::Input(index as u32), None);
        }
        let operator = resolve_operator(&self.context, "", op_type);
        let place = &mut self.nodes_mut()[node.0];
        place.operator = operator;
        place.op_type = op_type.into();
        place.attributes = attributes;
        place.inputs = SmallVec::from_elem(None, inputs.len());
        for (index, &value) in inputs.iter().enumerate() {
            self.set_slot(node, Slot::Input(index as u32), value);
        }
        self.propagate([node]);
        Ok(())
    }

    /// Leaves out a result that nothing uses.
    ///
    /// # Errors
    /// If the node does not exist or the result is used.
    pub fn remove_output(&mut self, node: NodeId, index: usize) -> Result<(), GraphError> {
        let current = self.get_node(node).ok_or(GraphError::NoSuchNode(node))?;
        let Some(value) = current.output(index) else { return Ok(()) };
        if self.use_count(value) > 0 || self.is_pinned(value) {
            return Err(GraphError::StillUsed(self.display_name(value)));
        }
        let outputs = &mut self.nodes_mut()[node.0].outputs;
        outputs[index] = None;
        while outputs.last() == Some(&None) {
            outputs.pop();
        }
        self.values[value.0 as usize] = None;
        Ok(())
    }

    /// The result `index` of a node, which it gives from now on where it was left out.
    ///
    /// # Errors
    /// If the node does not exist, or the result does not fit the operator.
    pub fn add_result(&mut self, node: NodeId, index: usize) -> Result<ValueId, GraphError> {
        let current = self.get_node(node).ok_or(GraphError::NoSuchNode(node))?;
        if let Some(value) = current.output(index) {
            return Ok(value);
        }
        let producer = Producer::Node { node, output: index as u32 };
        let value = self.add_value(None, producer, None);
        let before = self.nodes[node.0].outputs.len();
        let outputs = &mut self.nodes_mut()[node.0].outputs;
        outputs.resize((index + 1).max(before), None);
        outputs[index] = Some(value);
        if let Err(error) = self.infer_node(node) {
            let outputs = &mut self.nodes_mut()[node.0].outputs;
            outputs[index] = None;
            outputs.truncate(before);
            self.values[value.0 as usize] = None;
            return Err(error.into());
        }
        Ok(value)
    }

    /// Takes all formal outputs off the graph, so that it can have others. The values stay.
    pub fn drop_outputs(&mut self) {
        for output in std::mem::take(&mut self.outputs) {
            if let Some(value) = self.value_mut(output.value) {
                value.outputs = 0;
            }
        }
    }

    /// Lets `edit` change the bodies of a node, then drops captured operands that no body reads any more and infers
    /// the node again. Where nothing changed, nothing is done.
    ///
    /// # Errors
    /// If the node does not exist.
    pub fn edit_bodies<T>(
        &mut self,
        node: NodeId,
        edit: impl FnOnce(&mut [&mut Graph]) -> T,
    ) -> Result<T, GraphError> {
        let owner = self.nodes.node_weight_mut(node.0).ok_or(GraphError::NoSuchNode(node))?;
        // The bodies leave the node while they change, so that nobody sees a half-edited one.
        let mut attributes = std::mem::take(&mut owner.attributes);
        let mut bodies: Vec<&mut Graph> =
            attributes.iter_mut().flat_map(|attribute| attribute.value.graphs_mut()).collect();
        let before = edits(&bodies);
        let result = edit(&mut bodies);
        if edits(&bodies) == before {
            self.nodes[node.0].attributes = attributes;
            return Ok(result);
        }
        let captures = self.nodes[node.0].captures.clone();
        let mut kept = vec![None; captures.len()];
        let mut next = 0u32;
        for body in &bodies {
            for (id, value) in body.values() {
                if let Producer::Captured { index, .. } = value.producer
                    && !body.is_unused(id)
                    && let Some(place @ None) = kept.get_mut(index as usize)
                {
                    *place = Some(0);
                }
            }
        }
        for place in kept.iter_mut().flatten() {
            *place = next;
            next += 1;
        }
        for body in &mut bodies {
            body.renumber_captures(&kept);
        }
        self.nodes_mut()[node.0].attributes = attributes;
        for (slot, &value) in captures.iter().enumerate() {
            self.detach_slot(node, Slot::Capture(slot as u32), value);
        }
        let captures: Vec<ValueId> =
            captures.iter().zip(&kept).filter_map(|(&value, place)| place.map(|_| value)).collect();
        for (slot, &value) in captures.iter().enumerate() {
            self.attach(node, Slot::Capture(slot as u32), value);
        }
        self.nodes[node.0].captures = captures;
        if self.node(node).bodies().any(|body| !body.inputs().is_empty()) {
            self.propagate([node]);
        } else if matches!(self.infer_node(node), Ok(true)) {
            // Bodies that are told nothing but what they capture have kept their types in step themselves.
            self.propagate(self.users(node));
        }
        Ok(result)
    }

    /// Gives captured values their new indices and removes those without one.
    fn renumber_captures(&mut self, places: &[Option<u32>]) {
        for slot in &mut self.values {
            if let Some(Value { producer: Producer::Captured { index, .. }, .. }) = slot {
                match places.get(*index as usize).copied().flatten() {
                    Some(place) => *index = place,
                    None => *slot = None,
                }
            }
        }
    }

    /// Gives a constant another tensor, of any type, under the name that it has. What was inferred from the old one
    /// stays until [`Graph::infer_anew`].
    ///
    /// # Errors
    /// If the value is no constant of this graph, or a formal input declares its type.
    pub fn set_constant(&mut self, value: ValueId, tensor: impl Into<Arc<Tensor>>) -> Result<(), GraphError> {
        let declared = self.inputs.iter().any(|input| input.value == value);
        let name = self.display_name(value);
        let tensor = tensor.into();
        match self.value_mut(value) {
            Some(Value { producer: Producer::Constant(constant), ty, elements, .. }) if !declared => {
                *ty = Some(tensor.ty());
                *elements = None;
                constant.tensor = tensor;
                if let Form::Node { origin, .. } = &mut constant.form {
                    *origin = None;
                }
                Ok(())
            }
            Some(_) => Err(GraphError::NotConstant(name)),
            None => Err(GraphError::NoSuchValue(value)),
        }
    }

    /// Forgets declarations of inner values that name no value of this graph.
    pub fn drop_stale_declarations(&mut self) {
        let values = &self.values;
        let lives = |value: &ValueId| values.get(value.0 as usize).is_some_and(Option::is_some);
        self.value_info.retain(|(value, _)| value.as_ref().is_some_and(lives));
    }

    /// Gives this graph and its bodies another context.
    pub(crate) fn set_context(&mut self, context: &Context) {
        self.context = context.clone();
        for node in self.nodes.node_weights_mut() {
            let bodies = node.attributes.iter_mut().flat_map(|attribute| attribute.value.graphs_mut());
            bodies.for_each(|body| body.set_context(context));
        }
    }

    /// Takes constants off the list of formal inputs.
    pub(crate) fn drop_constant_inputs(&mut self) {
        let values = &self.values;
        self.inputs.retain(|input| match values.get(input.value.0 as usize) {
            Some(Some(value)) => !matches!(value.producer, Producer::Constant(_)),
            _ => true,
        });
    }

    /// Keeps a value whatever uses it.
    pub(crate) fn pin(&mut self, value: ValueId) {
        self.pinned.insert(value);
    }

    pub(crate) fn set_position(&mut self, node: NodeId, position: u32) {
        self.order.take();
        if let Some(node) = self.nodes.node_weight_mut(node.0) {
            node.position = position;
        }
    }

    pub(crate) fn bodies_mut(&mut self, node: NodeId) -> Vec<&mut Graph> {
        self.nodes
            .node_weight_mut(node.0)
            .into_iter()
            .flat_map(|node| node.attributes.iter_mut())
            .flat_map(|attribute| attribute.value.graphs_mut())
            .collect()
    }

    pub(crate) fn set_constant_position(&mut self, value: ValueId, place: u32) {
        if let Some(Value { producer: Producer::Constant(constant), .. }) = self.value_mut(value)
            && let Form::Node { position, .. } = &mut constant.form
        {
            *position = place;
        }
    }
}

/// How often these graphs changed in all.
fn edits(graphs: &[&mut Graph]) -> u64 {
    graphs.iter().map(|graph| graph.edits).sum()
}
