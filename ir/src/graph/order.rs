//! Order of nodes: topological, and otherwise as in the file.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use petgraph::Direction;
use petgraph::stable_graph::NodeIndex;
use petgraph::visit::{EdgeRef, IntoEdgeReferences};

use super::{Form, Graph, NodeId, Producer, ValueId};

impl Graph {
    /// Nodes so that each comes after the producers of its operands, nearest to the order of the file.
    ///
    /// # Errors
    /// A node on or behind a cycle, if there is one.
    pub fn topological_order(&self) -> Result<Vec<NodeId>, NodeId> {
        if let Some(order) = self.order.get() {
            return Ok(order.clone());
        }
        let order = self.order_by_position().map_or_else(|| self.order_by_operands(), Ok)?;
        Ok(self.order.get_or_init(|| order).clone())
    }

    /// Nodes by position, if that is a topological order.
    fn order_by_position(&self) -> Option<Vec<NodeId>> {
        // Position and index as one number, which is sorted faster than a pair.
        let mut keys: Vec<u64> =
            self.nodes().map(|(id, node)| u64::from(node.position()) << 32 | id.index() as u64).collect();
        keys.sort_unstable();
        let order: Vec<NodeId> =
            keys.into_iter().map(|key| NodeId(NodeIndex::new(key as u32 as usize))).collect();
        let mut places = vec![0; self.node_bound()];
        for (place, id) in order.iter().enumerate() {
            places[id.index()] = place;
        }
        let mut edges = self.nodes.edge_references();
        edges.all(|edge| places[edge.source().index()] < places[edge.target().index()]).then_some(order)
    }

    /// Of the nodes whose producers are placed, the one that comes first in the file is next.
    fn order_by_operands(&self) -> Result<Vec<NodeId>, NodeId> {
        let mut waiting: Vec<usize> = vec![0; self.node_bound()];
        let mut ready = BinaryHeap::new();
        for (id, node) in self.nodes() {
            let pending = self.nodes.edges_directed(id.0, Direction::Incoming).count();
            waiting[id.index()] = pending;
            if pending == 0 {
                ready.push(Reverse((node.position(), id)));
            }
        }
        let mut order = Vec::with_capacity(self.node_count());
        while let Some(Reverse((_, id))) = ready.pop() {
            order.push(id);
            for next in self.nodes.neighbors_directed(id.0, Direction::Outgoing) {
                let pending = &mut waiting[next.index()];
                *pending -= 1;
                if *pending == 0 {
                    ready.push(Reverse((self.nodes[next].position(), NodeId(next))));
                }
            }
        }
        if order.len() == self.node_count() {
            return Ok(order);
        }
        let stuck = self.nodes().map(|(id, _)| id).find(|id| waiting[id.index()] > 0);
        Err(stuck.unwrap_or(NodeId(Default::default())))
    }

    /// Gives every node its place in topological order, bodies included. `Constant` nodes come first.
    ///
    /// # Errors
    /// A node on or behind a cycle, if there is one.
    pub fn sort(&mut self) -> Result<(), NodeId> {
        let order = self.topological_order()?;
        let mut constants: Vec<(u32, ValueId)> = self
            .values()
            .filter_map(|(id, value)| match value.producer() {
                Producer::Constant(constant) => match constant.form {
                    Form::Node { position, .. } => Some((position, id)),
                    Form::Initializer => None,
                },
                _ => None,
            })
            .collect();
        constants.sort_unstable();
        for (place, &(_, value)) in constants.iter().enumerate() {
            self.set_constant_position(value, place as u32);
        }
        for (place, &node) in order.iter().enumerate() {
            self.set_position(node, (constants.len() + place) as u32);
        }
        for &node in &order {
            for body in self.bodies_mut(node) {
                body.sort()?;
            }
        }
        self.order = order.into();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dim::Dim;
    use crate::graph::{Context, NewNode};
    use crate::types::{ElementType, Type};

    proptest! {
        /// Nodes by their positions, which take two values each that stand before them.
        #[test]
        fn a_short_way_to_the_same_order(
            nodes in prop::collection::vec((0u32..6, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..12),
            ascending: bool,
        ) {
            let mut graph = Graph::new(Context::with_opset(17));
            let mut values = vec![graph.add_input("x", Type::tensor(ElementType::Float, [Dim::fixed(2)]))];
            for (place, (position, left, right)) in nodes.iter().enumerate() {
                let operands = [left, right].map(|index| *index.get(&values));
                let position = if ascending { place as u32 / 2 } else { *position };
                let id = graph.add_node(NewNode { position, ..NewNode::new("Add", operands) }).unwrap();
                values.extend(graph.node(id).output(0));
            }
            let order = graph.order_by_operands().unwrap();
            prop_assert_eq!(&graph.topological_order().unwrap(), &order);
            let short = graph.order_by_position();
            prop_assert!(short.as_ref().is_none_or(|short| *short == order));
            prop_assert!(short.is_some() || !ascending);
        }
    }

    #[test]
    fn the_order_follows_every_edit() {
        let mut graph = Graph::new(Context::with_opset(17));
        let x = graph.add_input("x", Type::tensor(ElementType::Float, [Dim::fixed(2)]));
        let node = |position, operand| NewNode { position, ..NewNode::new("Neg", [operand]) };
        let first = graph.add_node(node(1, x)).unwrap();
        assert_eq!(graph.topological_order().unwrap(), [first]);
        let second = graph.add_node(node(0, x)).unwrap();
        assert_eq!(graph.topological_order().unwrap(), [second, first]);
        graph.set_position(second, 2);
        assert_eq!(graph.topological_order().unwrap(), [first, second]);
        let result = graph.node(second).output(0);
        graph.set_input(first, 0, result).unwrap();
        assert_eq!(graph.topological_order().unwrap(), [second, first]);
        graph.sort().unwrap();
        assert_eq!((graph.node(second).position(), graph.node(first).position()), (0, 1));
        assert_eq!(graph.topological_order().unwrap(), [second, first]);
        graph.remove_node(first).unwrap();
        assert_eq!(graph.topological_order().unwrap(), [second]);
    }
}
