//! Committing a patch: built, typed, checked, then applied whole; or dropped with a reason.

use onnx_opt_ir::{Graph, GraphError, NewNode, NodeId, ValueId};

use super::patch::{Operand, Patch};

/// What a committed patch touched.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// New nodes.
    pub created: Vec<NodeId>,
    /// Values whose uses or producers changed.
    pub values: Vec<ValueId>,
}

/// Applies a patch at `root`, or leaves the graph as it was and tells why.
pub(super) fn commit(graph: &mut Graph, root: NodeId, patch: Patch) -> Result<Touched, GraphError> {
    let (position, name) = {
        let node = graph.node(root);
        (node.position(), node.name().map(Into::into))
    };
    let root_is_identity = graph.node(root).is("Identity");
    let mut build = Build { graph, nodes: Vec::new(), constants: Vec::new() };
    match build.apply(&patch, position, name, root_is_identity) {
        Ok(replacements) => {
            let created = build.nodes.clone();
            Ok(finish(graph, created, &replacements))
        }
        Err(error) => {
            build.undo();
            Err(error)
        }
    }
}

struct Build<'a> {
    graph: &'a mut Graph,
    nodes: Vec<NodeId>,
    constants: Vec<ValueId>,
}

impl Build<'_> {
    fn apply(
        &mut self,
        patch: &Patch,
        position: u32,
        name: Option<onnx_opt_ir::graph::Name>,
        root_is_identity: bool,
    ) -> Result<Vec<(ValueId, ValueId)>, GraphError> {
        for tensor in &patch.constants {
            let constant = self.graph.add_constant(tensor.clone());
            self.constants.push(constant);
        }
        // The node that takes the root's place takes its name.
        let successor = match patch.replacements.first() {
            Some((_, Operand::Node { node, .. })) => Some(*node),
            _ => None,
        };
        for (index, node) in patch.nodes.iter().enumerate() {
            let inputs = node.inputs.iter().map(|&operand| self.resolve(operand)).collect();
            let id = self.graph.add_node(NewNode {
                op_type: node.op_type.clone(),
                domain: node.domain.clone(),
                name: if successor == Some(index) { name.clone() } else { None },
                inputs,
                outputs: node.outputs,
                attributes: node.attributes.clone(),
                captures: Vec::new(),
                position,
            })?;
            self.nodes.push(id);
        }
        let mut replacements = Vec::new();
        for &(old, operand) in &patch.replacements {
            let Some(mut new) = self.resolve(operand) else { continue };
            match self.graph.check_replacement(old, new) {
                Ok(()) => {}
                // The output of the graph needs a node of its own; an Identity there is as small as it gets.
                Err(GraphError::OutputFixed { .. }) if !root_is_identity => {
                    let identity =
                        NewNode { position, name: name.clone(), ..NewNode::new("Identity", [new]) };
                    let id = self.graph.add_node(identity)?;
                    self.nodes.push(id);
                    new = self.graph.node(id).output(0).unwrap_or(new);
                    self.graph.check_replacement(old, new)?;
                }
                Err(error) => return Err(error),
            }
            replacements.push((old, new));
        }
        for &(old, new) in &replacements {
            self.graph.replace_all_uses(old, new)?;
        }
        Ok(replacements)
    }

    fn resolve(&self, operand: Operand) -> Option<ValueId> {
        match operand {
            Operand::Value(value) => Some(value),
            Operand::Constant(index) => self.constants.get(index).copied(),
            Operand::Node { node, output } => self.graph.node(*self.nodes.get(node)?).output(output),
            Operand::Absent => None,
        }
    }

    fn undo(self) {
        for node in self.nodes.into_iter().rev() {
            // Nothing uses them: the uses were not moved yet.
            let _ = self.graph.remove_node(node);
        }
        for constant in self.constants {
            self.graph.remove_unused_constant(constant);
        }
    }
}

fn finish(graph: &mut Graph, created: Vec<NodeId>, replacements: &[(ValueId, ValueId)]) -> Touched {
    let mut values = Vec::new();
    let seeds: Vec<NodeId> =
        replacements.iter().filter_map(|&(old, _)| graph.producer(old).map(|(node, ..)| node)).collect();
    let mut operands = Vec::new();
    graph.remove_dead(seeds, |_, node| operands.extend(node.operands()));
    // A patch may build more than it uses.
    graph.remove_dead(created.clone(), |_, _| {});
    // That a constant has one use less is news only to its last one.
    operands.retain(|&operand| graph.constant(operand).is_none() || graph.use_count(operand) == 1);
    values.extend(replacements.iter().map(|&(_, new)| new));
    values.extend(operands);
    values.retain(|&value| graph.get_value(value).is_some());
    Touched { created: created.into_iter().filter(|&node| graph.get_node(node).is_some()).collect(), values }
}
