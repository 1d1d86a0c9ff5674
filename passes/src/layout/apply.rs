//! Moving the axes of operators: built anew on moved axes, with Transposes where the region ends.

use onnx_opt_ir::{Attributes, Graph, GraphError, NewNode, NodeId, Tensor, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::carry::Operand;
use super::permutation::Permutation;
use super::region::{Border, Region};

/// Moves the axes of `nodes`, which are of the region. `None` if a new operator or a replacement does not fit; the
/// graph is then as before.
pub(super) fn apply(graph: &mut Graph, region: &Region, nodes: &FxHashSet<NodeId>) -> Option<()> {
    let mut sorted: Vec<NodeId> = nodes.iter().copied().collect();
    sorted.sort_unstable();
    let mut dead = sorted.clone();
    dead.extend(transposes(graph, region));
    let mut build = Build {
        region,
        nodes,
        sorted,
        moved: FxHashMap::default(),
        plain: FxHashMap::default(),
        created: Vec::new(),
        constants: Vec::new(),
        graph,
    };
    let Some(replacements) = build.all() else {
        build.undo();
        return None;
    };
    for (old, new) in replacements {
        // A value that stays keeps the operators behind it.
        let _ = graph.replace_all_uses(old, new);
    }
    graph.remove_dead(dead, |_, _| {});
    Some(())
}

/// Transposes that take or make a value of the region.
fn transposes(graph: &Graph, region: &Region) -> Vec<NodeId> {
    let around = |value: ValueId| {
        let producer = graph.producer(value).map(|(id, ..)| id);
        producer.into_iter().chain(graph.consumers(value).map(|consumer| consumer.node))
    };
    let all = region.orders.keys().flat_map(|&value| around(value));
    let mut transposes: Vec<NodeId> = all.filter(|&id| graph.node(id).is("Transpose")).collect();
    transposes.sort_unstable();
    transposes.dedup();
    transposes
}

struct Build<'a> {
    graph: &'a mut Graph,
    region: &'a Region,
    nodes: &'a FxHashSet<NodeId>,
    /// The nodes by index.
    sorted: Vec<NodeId>,
    /// Values with their axes moved.
    moved: FxHashMap<ValueId, ValueId>,
    /// Results of `nodes` with their axes as before.
    plain: FxHashMap<ValueId, ValueId>,
    created: Vec<NodeId>,
    constants: Vec<ValueId>,
}

impl Build<'_> {
    /// Builds everything and gives the replacements, each of which would be accepted.
    fn all(&mut self) -> Option<Vec<(ValueId, ValueId)>> {
        for node in self.in_order() {
            self.build(node)?;
        }
        let mut replacements = Vec::new();
        for node in self.sorted.clone() {
            for value in self.graph.node(node).outputs().to_vec().into_iter().flatten() {
                let consumers: Vec<NodeId> =
                    self.graph.consumers(value).map(|consumer| consumer.node).collect();
                let mut needed = self.graph.is_output(value);
                for consumer in consumers {
                    match self.behind(consumer) {
                        Some((result, border)) => {
                            let order = self.region.orders.get(&value)?;
                            let rest = order.inverse().then(&border.permutation)?;
                            let new = self.transposed(*self.moved.get(&value)?, &rest, consumer)?;
                            self.replace(&mut replacements, result, new)?;
                        }
                        None => needed |= !self.nodes.contains(&consumer),
                    }
                }
                if needed {
                    let plain = self.plain(value)?;
                    self.replace(&mut replacements, value, plain)?;
                }
            }
        }
        Some(replacements)
    }

    /// What a Transpose makes, if it takes the moved axes in place of what it takes.
    fn behind(&self, node: NodeId) -> Option<(ValueId, Border)> {
        let result = self.graph.node(node).output(0)?;
        let border = self.region.border(self.graph, result)?;
        border.takes_moved().then_some((result, border))
    }

    /// The nodes, each after those whose results it takes.
    fn in_order(&self) -> Vec<NodeId> {
        let producers = |node: NodeId| {
            let operands = self.graph.node(node).operands();
            operands.filter_map(|value| self.graph.producer(value).map(|(producer, ..)| producer))
        };
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut entered: FxHashSet<NodeId> = FxHashSet::default();
        for &root in &self.sorted {
            let mut stack = vec![(root, false)];
            while let Some((node, done)) = stack.pop() {
                if done {
                    order.push(node);
                } else if self.nodes.contains(&node) && entered.insert(node) {
                    stack.push((node, true));
                    stack.extend(producers(node).map(|producer| (producer, false)));
                }
            }
        }
        order
    }

    /// Builds one operator on moved axes.
    fn build(&mut self, id: NodeId) -> Option<()> {
        let carried = self.region.nodes.get(&id)?;
        let node = self.graph.node(id);
        let (position, outputs) = (node.position(), node.outputs().to_vec());
        let name = node.name().map(Into::into);
        let mut inputs = node.inputs().to_vec();
        inputs.resize(inputs.len().max(carried.operands.len()), None);
        for (operand, input) in carried.operands.iter().zip(&mut inputs) {
            *input = match (operand, *input) {
                (Operand::Constant(tensor), _) => Some(self.constant(tensor.clone())),
                (_, None) => None,
                (Operand::Plain, Some(value)) => Some(self.plain(value)?),
                (Operand::Moved(order) | Operand::Spread(order), Some(value)) => {
                    Some(self.moved(value, order, id)?)
                }
                (Operand::Unsqueezed(axes), Some(value)) => {
                    let plain = self.plain(value)?;
                    Some(self.unsqueezed(plain, axes, position)?)
                }
            };
        }
        let new = self.add(NewNode {
            op_type: carried.op_type.to_owned(),
            name,
            inputs,
            outputs: outputs.len(),
            attributes: carried.attributes.clone(),
            position,
            ..NewNode::default()
        })?;
        let results = self.graph.node(new).outputs().to_vec();
        for ((old, new), order) in outputs.into_iter().zip(results).zip(&carried.results) {
            if let (Some(old), Some(new)) = (old, new) {
                let map = if order.is_identity() { &mut self.plain } else { &mut self.moved };
                map.insert(old, new);
            }
        }
        Some(())
    }

    fn add(&mut self, node: NewNode) -> Option<NodeId> {
        let id = self.graph.add_node(node).ok()?;
        self.created.push(id);
        Some(id)
    }

    /// Adds an operator of one result and gives that.
    fn result(&mut self, node: NewNode) -> Option<ValueId> {
        let id = self.add(node)?;
        self.graph.node(id).output(0)
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        let constant = self.graph.add_constant(tensor);
        self.constants.push(constant);
        constant
    }

    /// A value with its axes in another order, for `user`.
    fn moved(&mut self, value: ValueId, order: &Permutation, user: NodeId) -> Option<ValueId> {
        if let Some(&moved) = self.moved.get(&value) {
            return Some(moved);
        }
        if !self.region.orders.contains_key(&value) {
            // Only a constant has an order for each user.
            let tensor = self.graph.constant(value)?;
            let missing = order.rank().checked_sub(tensor.rank())?;
            let shape: Vec<usize> =
                std::iter::repeat_n(1, missing).chain(tensor.shape().iter().copied()).collect();
            let moved = tensor.reshaped(&shape)?.transposed(order.axes())?;
            return Some(self.constant(moved));
        }
        let border = self.region.border(self.graph, value).filter(Border::makes_moved);
        let source = self.graph.producer_of(value, "Transpose").and_then(|(_, node)| node.input(0));
        let moved = match (border, source) {
            (Some(border), Some(x)) => self.transposed(x, &border.permutation.then(order)?, user)?,
            _ => match self.twin(value, order) {
                Some(twin) => twin,
                None => self.transposed(value, order, user)?,
            },
        };
        self.moved.insert(value, moved);
        Some(moved)
    }

    /// The result of a Transpose that does this already.
    fn twin(&self, value: ValueId, order: &Permutation) -> Option<ValueId> {
        self.graph.consumers(value).find_map(|consumer| {
            let node = self.graph.node(consumer.node);
            let fits = node.is("Transpose") && Permutation::of(self.graph, node).as_ref() == Some(order);
            if fits { node.output(0) } else { None }
        })
    }

    /// A value with its axes as before.
    fn plain(&mut self, value: ValueId) -> Option<ValueId> {
        if let Some(&plain) = self.plain.get(&value) {
            return Some(plain);
        }
        let producer =
            self.graph.producer(value).map(|(node, ..)| node).filter(|node| self.nodes.contains(node));
        let Some(producer) = producer else { return Some(value) };
        let order = self.region.orders.get(&value)?;
        let plain = self.transposed(*self.moved.get(&value)?, &order.inverse(), producer)?;
        self.plain.insert(value, plain);
        Some(plain)
    }

    fn transposed(&mut self, x: ValueId, order: &Permutation, user: NodeId) -> Option<ValueId> {
        if order.is_identity() {
            return Some(x);
        }
        let position = self.graph.node(user).position();
        self.result(NewNode { position, ..NewNode::new("Transpose", [x]).with("perm", order.attribute()) })
    }

    fn unsqueezed(&mut self, x: ValueId, axes: &[i64], position: u32) -> Option<ValueId> {
        let mut node = NewNode { position, ..NewNode::new("Unsqueeze", [x]) };
        if self.graph.opset() < 13 {
            node.attributes = Attributes::from_pairs([("axes", axes.to_vec().into())]);
        } else {
            node.inputs.push(Some(self.constant(Tensor::vector_i64(axes))));
        }
        self.result(node)
    }

    /// Notes a replacement, by way of an Identity where an output of the graph needs an operator of its own.
    fn replace(
        &mut self,
        replacements: &mut Vec<(ValueId, ValueId)>,
        old: ValueId,
        new: ValueId,
    ) -> Option<()> {
        let is_taken = self.graph.is_output(old)
            && replacements.iter().any(|&(other, taken)| taken == new && self.graph.is_output(other));
        let new = match self.graph.check_replacement(old, new) {
            Ok(()) if !is_taken => new,
            Ok(()) | Err(GraphError::OutputFixed { .. }) => {
                let identity = self.result(NewNode::new("Identity", [new]))?;
                self.graph.check_replacement(old, identity).ok()?;
                identity
            }
            Err(_) => return None,
        };
        replacements.push((old, new));
        Some(())
    }

    fn undo(self) {
        for node in self.created.into_iter().rev() {
            // Nothing uses them: the uses were not moved yet.
            let _ = self.graph.remove_node(node);
        }
        for constant in self.constants {
            self.graph.remove_unused_constant(constant);
        }
    }
}
