//! What holds between nodes, edges, value table and use counts, whatever the operators mean.

use petgraph::Direction;
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;

use super::{Consumer, Graph, Node, NodeId, Producer, Slot, Use, Value, ValueId};

/// Operands of a node with their slots.
fn slots(node: &Node) -> impl Iterator<Item = (Slot, ValueId)> {
    let inputs = node.inputs.iter().enumerate();
    let inputs = inputs.filter_map(|(index, &value)| Some((Slot::Input(index as u32), value?)));
    let captures = node.captures.iter().enumerate();
    inputs.chain(captures.map(|(index, &value)| (Slot::Capture(index as u32), value)))
}

impl Graph {
    /// Whether edges, operands, results, consumers, use counts and captured indices agree; bodies are not looked
    /// into, except for the indices of what they capture.
    ///
    /// # Errors
    /// What does not agree.
    pub(crate) fn check_invariants(&self) -> Result<(), String> {
        for (id, node) in self.nodes() {
            self.check_links(id, node)?;
        }
        for (id, value) in self.values() {
            self.check_value(id, value)?;
        }
        let inputs = self.inputs.iter().map(|input| input.value);
        let outputs = self.outputs.iter().map(|output| output.value);
        match inputs.chain(outputs).chain(self.pinned.iter().copied()).find(|&v| self.get_value(v).is_none())
        {
            Some(gone) => Err(format!("value %{} of the interface was removed", gone.0)),
            None => Ok(()),
        }
    }

    fn check_links(&self, id: NodeId, node: &Node) -> Result<(), String> {
        let about = |what: &str| format!("node {} ({}): {what}", id.index(), node.op_type());
        let mut edges: SmallVec<[(NodeId, Use); 4]> = self
            .nodes
            .edges_directed(id.0, Direction::Incoming)
            .map(|edge| (NodeId(edge.source()), *edge.weight()))
            .collect();
        for (slot, value) in slots(node) {
            let operand = self.get_value(value).ok_or_else(|| about("an operand was removed"))?;
            if !operand.consumers.contains(&Consumer { node: id, slot }) {
                return Err(about("an operand does not know its consumer"));
            }
            if let Producer::Node { node: producer, .. } = operand.producer {
                let edge = (producer, Use { value, slot });
                let place = edges.iter().position(|known| *known == edge);
                edges.swap_remove(place.ok_or_else(|| about("an operand has no edge"))?);
            }
        }
        if !edges.is_empty() {
            return Err(about("an edge has no operand"));
        }
        for (index, value) in node.outputs.iter().enumerate() {
            let Some(value) = value else { continue };
            match self.get_value(*value).map(|value| &value.producer) {
                Some(Producer::Node { node, output }) if *node == id && *output as usize == index => {}
                _ => return Err(about("a result does not know its producer")),
            }
        }
        let captured = |value: &Value| match value.producer {
            Producer::Captured { index, .. } => index as usize >= node.captures.len(),
            _ => false,
        };
        if node.bodies().any(|body| body.values().any(|(_, value)| captured(value))) {
            return Err(about("a body captures past the captured operands"));
        }
        Ok(())
    }

    fn check_value(&self, id: ValueId, value: &Value) -> Result<(), String> {
        let about = |what: &str| format!("value `{}`: {what}", self.display_name(id));
        if let Producer::Node { node, output } = value.producer
            && self.get_node(node).and_then(|node| node.output(output as usize)) != Some(id)
        {
            return Err(about("its producer does not name it"));
        }
        for consumer in value.consumers.iter() {
            let operand = self.get_node(consumer.node).and_then(|node| match consumer.slot {
                Slot::Input(index) => node.input(index as usize),
                Slot::Capture(index) => node.captures.get(index as usize).copied(),
            });
            if operand != Some(id) {
                return Err(about("a consumer does not read it"));
            }
        }
        if self.outputs.iter().filter(|output| output.value == id).count() != value.outputs as usize {
            return Err(about("its count of formal outputs is wrong"));
        }
        Ok(())
    }
}
