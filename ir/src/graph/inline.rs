//! Putting a graph in the place of a node.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{Graph, GraphError, Name, NewNode, NodeId, Producer, Slot, ValueId};
use crate::infer;

impl Graph {
    /// Replaces a node by its body number `body`, which must take no inputs: a branch of an `If` whose condition is
    /// known.
    ///
    /// # Errors
    /// If there is no such body or it has inputs, and as [`Graph::inline_graph`].
    pub fn inline_body(&mut self, node: NodeId, body: usize) -> Result<(), GraphError> {
        let owner = self.get_node(node).ok_or(GraphError::NoSuchNode(node))?;
        let body = owner.bodies().nth(body).filter(|body| body.inputs().is_empty()).cloned();
        let name = || owner.name().unwrap_or(owner.op_type()).to_owned();
        let body = body.ok_or_else(|| GraphError::NotInlinable(name()))?;
        self.splice(node, &body, &[], |name| Some(name.clone()))
    }

    /// Replaces a node by a graph whose inputs are the operands of the node and whose captured values are those that
    /// the node captures. Values of the graph lose their names, since a sibling may use them too; nodes get that of the
    /// node in front of theirs.
    ///
    /// # Errors
    /// If the graph takes other inputs or needs one that the node leaves out, has sparse initializers, or its
    /// results are not those of the node. This graph then computes what it did before.
    pub fn inline_graph(&mut self, node: NodeId, body: &Graph) -> Result<(), GraphError> {
        let owner = self.get_node(node).ok_or(GraphError::NoSuchNode(node))?;
        let operands = owner.inputs().to_vec();
        // The graph may take the place of several nodes, and names are to differ.
        let owner = owner.name().filter(|name| !name.is_empty()).map(str::to_owned);
        self.splice(node, body, &operands, |name| Some(format!("{}/{name}", owner.as_ref()?).into()))
    }

    fn splice(
        &mut self,
        node: NodeId,
        body: &Graph,
        operands: &[Option<ValueId>],
        name: impl Fn(&Name) -> Option<Name>,
    ) -> Result<(), GraphError> {
        let operand = |index: usize| operands.get(index).copied().flatten();
        let owner = self.get_node(node).ok_or(GraphError::NoSuchNode(node))?;
        let refuse = || GraphError::NotInlinable(owner.name().unwrap_or(owner.op_type()).to_owned());
        let sparse = body.values().any(|(_, value)| matches!(value.producer(), Producer::Sparse(_)));
        // An operand that is left out stays out where it is one, but nothing else can be left out.
        let needed = |input: ValueId| {
            body.is_output(input)
                || body.consumers(input).any(|consumer| matches!(consumer.slot, Slot::Capture(_)))
        };
        let lacks = |index: usize, input: ValueId| operand(index).is_none() && needed(input);
        if sparse
            || body.inputs().len() < operands.len()
            || body.outputs().len() < owner.outputs().len()
            || body.inputs().iter().enumerate().any(|(index, input)| lacks(index, input.value))
        {
            return Err(refuse());
        }
        let order = body.topological_order().map_err(|_| refuse())?;
        let position = owner.position();
        let results = owner.outputs().to_vec();

        let mut places: FxHashMap<ValueId, ValueId> = body
            .inputs()
            .iter()
            .enumerate()
            .filter_map(|(index, input)| Some((input.value, operand(index)?)))
            .collect();
        for (id, value) in body.values() {
            let place = match value.producer() {
                Producer::Captured { index, .. } => match self.node(node).captures().get(*index as usize) {
                    Some(&outer) => outer,
                    None => continue,
                },
                Producer::Constant(constant) => self.add_constant(constant.tensor.clone()),
                _ => continue,
            };
            places.insert(id, place);
        }
        let mut created = Vec::with_capacity(order.len());
        for id in order {
            let mut copy = body.node(id).clone();
            let place = |value: &ValueId| places.get(value).copied();
            copy.inputs = copy.inputs.iter().map(|input| input.as_ref().and_then(place)).collect();
            while copy.inputs.last() == Some(&None) {
                copy.inputs.pop();
            }
            copy.captures = copy.captures.iter().filter_map(place).collect();
            copy.position = position;
            copy.name = copy.name.as_ref().filter(|own| !own.is_empty()).and_then(&name);
            let outputs: SmallVec<[Option<ValueId>; 2]> = copy.outputs.clone();
            let new = self.insert_node(copy, |index| outputs[index].map(|_| None))?;
            for (old, new) in outputs.iter().zip(self.node(new).outputs()) {
                if let (Some(old), Some(new)) = (old, new) {
                    places.insert(*old, *new);
                }
            }
            created.push(new);
            infer::infer_bodies(self, new, 0);
            // A contradiction in the body was one before; the results stay unknown.
            let _ = self.infer_node(new);
        }

        for (result, output) in results.iter().zip(body.outputs()) {
            let (Some(old), Some(&new)) = (*result, places.get(&output.value)) else { continue };
            let successor = match self.check_replacement(old, new) {
                // An output of the graph needs a node of its own.
                Err(GraphError::OutputFixed { .. }) => {
                    let id = self.add_node(NewNode { position, ..NewNode::new("Identity", [new]) })?;
                    self.node(id).output(0).unwrap_or(new)
                }
                _ => new,
            };
            if let Err(error) = self.replace_all_uses(old, successor) {
                self.remove_dead(created, |_, _| {});
                return Err(error);
            }
        }
        self.remove_dead([node], |_, _| {});
        // What it computed for nobody goes with it.
        self.remove_dead(created, |_, _| {});
        Ok(())
    }
}
