//! Edits that give up values: one takes the place of another, and what nothing uses goes.

use smallvec::SmallVec;

use super::node::resolve_operator;
use super::{Consumer, Form, Graph, GraphError, Node, NodeId, Producer, Value, ValueId};
use crate::infer::Fact;
use crate::schema::TypeKind;
use crate::types::ElementType;

impl Graph {
    /// Whether [`Graph::replace_all_uses`] would accept the pair.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_replacement(&self, old: ValueId, new: ValueId) -> Result<(), GraphError> {
        let old_value = self.get_value(old).ok_or(GraphError::NoSuchValue(old))?;
        let new_value = self.get_value(new).ok_or(GraphError::NoSuchValue(new))?;
        if let (Some(a), Some(b)) = (&old_value.ty, &new_value.ty)
            && a.contradicts(b)
        {
            return Err(GraphError::TypeChanges {
                old: self.display_name(old),
                old_type: Box::new(a.clone()),
                new_type: Box::new(b.clone()),
            });
        }
        if self.is_pinned(old) {
            return Err(GraphError::Pinned(self.display_name(old)));
        }
        if old_value.outputs > 0 {
            let refuse = |reason| {
                Err(GraphError::OutputFixed {
                    output: self.display_name(old),
                    value: self.display_name(new),
                    reason,
                })
            };
            match &new_value.producer {
                Producer::Constant(constant) if !self.constant_node_allows(constant.tensor.element()) => {
                    return refuse("a Constant node of this opset has no such element type");
                }
                Producer::Constant(_) => {}
                Producer::Node { .. } if new_value.outputs > 0 => return refuse("that is an output itself"),
                Producer::Node { .. } if self.is_pinned(new) => return refuse("that is pinned to its name"),
                Producer::Node { .. } => {}
                _ => return refuse("that comes from outside the graph"),
            }
        }
        Ok(())
    }

    /// Whether the `Constant` operator of this opset can hold elements of a type: before opset 9 only some floats.
    fn constant_node_allows(&self, element: ElementType) -> bool {
        resolve_operator(&self.context, "", "Constant")
            .and_then(|operator| operator.output(0))
            .is_some_and(|output| output.allows(TypeKind::Tensor(element)))
    }

    /// Gives every use of `old` to `new`. Where `old` is an output of the graph, `new` takes its name; a constant
    /// becomes a `Constant` node of that name.
    ///
    /// # Errors
    /// If types contradict each other, or an output of the graph cannot be `new`; the graph is then unchanged.
    pub fn replace_all_uses(&mut self, old: ValueId, new: ValueId) -> Result<(), GraphError> {
        self.check_replacement(old, new)?;
        if old == new {
            return Ok(());
        }
        if self.value(old).outputs > 0 {
            let successor = match &self.value(new).producer {
                Producer::Constant(constant) => {
                    let tensor = constant.tensor.clone();
                    self.add_constant_as(None, tensor, Form::Node { position: 0, origin: None })
                }
                _ => new,
            };
            let name = self.value_mut(old).and_then(|value| value.name.take());
            let mut moved = 0;
            for output in &mut self.outputs {
                if output.value == old {
                    output.value = successor;
                    moved += 1;
                }
            }
            if let Some(value) = self.value_mut(old) {
                value.outputs = 0;
            }
            if let Some(value) = self.value_mut(successor) {
                value.outputs += moved;
                value.name = name;
            }
        }
        let consumers: Vec<Consumer> = self.consumers(old).collect();
        for &Consumer { node, slot } in &consumers {
            self.set_slot(node, slot, Some(new));
        }
        let (old_value, new_value) = (self.value(old), self.value(new));
        let fact = Fact { ty: old_value.ty.clone(), elements: old_value.elements.clone() };
        // A constant tells more than its type, but not more than one of the same content.
        let is_told = match (&old_value.producer, &new_value.producer) {
            (Producer::Constant(old), Producer::Constant(new)) => old.is_small_twin_of(new),
            (_, new) => !matches!(new, Producer::Constant(_)),
        };
        let differs = old_value.ty != new_value.ty || old_value.elements != new_value.elements || !is_told;
        if differs {
            let others: Vec<NodeId> = if self.learn(new, fact) {
                self.consumers(new).map(|consumer| consumer.node).collect()
            } else {
                consumers.iter().map(|consumer| consumer.node).collect()
            };
            self.propagate(others);
        }
        Ok(())
    }

    /// Removes a node that nothing uses.
    ///
    /// # Errors
    /// If a result is used, or the node does not exist.
    pub fn remove_node(&mut self, node: NodeId) -> Result<(), GraphError> {
        let current = self.get_node(node).ok_or(GraphError::NoSuchNode(node))?;
        if let Some(&used) = current.outputs.iter().flatten().find(|&&value| !self.is_unused(value)) {
            return Err(GraphError::StillUsed(self.display_name(used)));
        }
        self.detach(node);
        Ok(())
    }

    pub(super) fn is_unused(&self, value: ValueId) -> bool {
        self.use_count(value) == 0 && !self.is_pinned(value)
    }

    /// Removes these nodes if nothing uses them, then whatever only they used, constants included. `removed` hears
    /// of each node before it goes. Returns how many nodes went.
    pub fn remove_dead(
        &mut self,
        seeds: impl IntoIterator<Item = NodeId>,
        mut removed: impl FnMut(NodeId, &Node),
    ) -> usize {
        let mut stack: Vec<NodeId> = seeds.into_iter().collect();
        let mut count = 0;
        while let Some(id) = stack.pop() {
            let Some(node) = self.get_node(id) else { continue };
            // A node without results is there for its effect.
            if node.outputs.iter().all(Option::is_none)
                || node.outputs.iter().flatten().any(|&value| !self.is_unused(value))
            {
                continue;
            }
            removed(id, node);
            let operands: SmallVec<[ValueId; 8]> = node.operands().collect();
            self.detach(id);
            count += 1;
            for operand in operands {
                match self.get_value(operand).map(|value| &value.producer) {
                    Some(Producer::Node { node, .. }) => stack.push(*node),
                    Some(Producer::Constant(_)) => self.remove_unused_constant(operand),
                    _ => {}
                }
            }
        }
        count
    }

    /// Removes a constant that nothing uses; others stay.
    pub fn remove_unused_constant(&mut self, value: ValueId) {
        let unused = matches!(self.get_value(value), Some(Value { producer: Producer::Constant(_), .. }))
            && self.is_unused(value)
            && !self.inputs.iter().any(|input| input.value == value);
        if unused {
            self.values[value.0 as usize] = None;
        }
    }

    /// Writes a constant as an initializer from now on, unless it is an output of the graph, which needs a node.
    pub fn lift_constant(&mut self, value: ValueId) -> bool {
        if self.context.ir_version() < 4 {
            return false;
        }
        match self.value_mut(value) {
            Some(Value { producer: Producer::Constant(constant), outputs: 0, .. })
                if matches!(constant.form, Form::Node { .. }) =>
            {
                constant.form = Form::Initializer;
                true
            }
            _ => false,
        }
    }
}
