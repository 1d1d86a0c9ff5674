//! Regions: operators that could all work on moved axes, and which of them should.
//!
//! In a region every value has one order that its axes would be moved to, and every operator works either on the axes
//! as they are or on the moved ones. A value needs a Transpose where operators on both sides of it disagree. Transposes
//! at the border side with the moved axes if that makes them superfluous; whatever else is at the border sides with
//! the axes as they are. The best sides for all are a minimal cut.

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{Dim, Graph, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::carry::{Carried, Operand, Place, carry, is_free};
use super::permutation::Permutation;
use crate::cut::{Network, UNBOUNDED};
use crate::rewrite::ErrorClass;

/// What a Transpose costs, beside the elements that it moves: more than any number of elements that counts.
const TRANSPOSE: u64 = 1 << 32;

/// What a size that is not known counts as.
const NOMINAL: i64 = 64;

/// Operators and values that could have their axes moved together.
#[derive(Default)]
pub(super) struct Region {
    /// The operators on moved axes.
    pub nodes: FxHashMap<NodeId, Carried>,
    /// The order for each value's axes; never the present one.
    pub orders: FxHashMap<ValueId, Permutation>,
    /// The same by age, for results that do not depend on hashes.
    values: Vec<ValueId>,
}

/// How a user or the producer of a value takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Takes the side of this operator.
    Node(NodeId),
    /// Has the moved axes.
    Moved,
    /// Has the axes as they are.
    Plain,
    /// Takes any side.
    None,
}

impl Region {
    /// Everything that hangs together with a value whose axes get another order, up to `budget` operators.
    pub fn around(
        graph: &Graph,
        seed: ValueId,
        order: Permutation,
        class: ErrorClass,
        budget: &mut usize,
    ) -> Self {
        let mut region = Self::default();
        region.add_value(seed, order);
        let mut next = 0;
        while let Some(&value) = region.values.get(next) {
            next += 1;
            let order = region.orders[&value].clone();
            if let Some((node, _, result)) = graph.producer(value) {
                region.add_node(graph, node, Place::Result(result), &order, class, budget);
            }
            for consumer in graph.consumers(value) {
                if let Slot::Input(index) = consumer.slot {
                    let place = Place::Operand(index as usize);
                    region.add_node(graph, consumer.node, place, &order, class, budget);
                }
            }
        }
        region
    }

    fn add_value(&mut self, value: ValueId, order: Permutation) {
        if !order.is_identity() && !self.orders.contains_key(&value) {
            self.orders.insert(value, order);
            self.values.push(value);
        }
    }

    fn add_node(
        &mut self,
        graph: &Graph,
        id: NodeId,
        place: Place,
        order: &Permutation,
        class: ErrorClass,
        budget: &mut usize,
    ) {
        if *budget == 0 || self.nodes.contains_key(&id) {
            return;
        }
        *budget -= 1;
        let Some(carried) = carry(graph, id, place, order, class) else { return };
        let node = graph.node(id);
        let moved: Vec<(ValueId, &Permutation)> = node
            .inputs()
            .iter()
            .zip(&carried.operands)
            .filter_map(|(value, operand)| match operand {
                Operand::Moved(order) => Some(((*value)?, order)),
                _ => None,
            })
            .filter(|&(value, _)| !is_free(graph, value))
            .chain(
                node.outputs()
                    .iter()
                    .zip(&carried.results)
                    .filter_map(|(value, order)| Some(((*value)?, order))),
            )
            .collect();
        // A value has one order, also if that is its own.
        let agrees = |&(value, order): &(ValueId, &Permutation)| {
            graph.rank(value) == Some(order.rank())
                && match self.orders.get(&value) {
                    Some(known) => known == order,
                    None => order.is_identity() || !self.makes(graph, value),
                }
        };
        if moved.iter().all(agrees) {
            for (value, order) in moved {
                self.add_value(value, order.clone());
            }
            self.nodes.insert(id, carried);
        }
    }

    /// Whether an operator of the region makes a value.
    fn makes(&self, graph: &Graph, value: ValueId) -> bool {
        graph.producer(value).is_some_and(|(node, ..)| self.nodes.contains_key(&node))
    }

    /// The operators that should have their axes moved, if that costs less than leaving all as they are.
    pub fn best_sides(&self, graph: &Graph) -> Option<FxHashSet<NodeId>> {
        let mut numbers: FxHashMap<NodeId, usize> = FxHashMap::default();
        let mut nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        nodes.sort_unstable();
        // Source and sink are nodes 0 and 1.
        numbers.extend(nodes.iter().enumerate().map(|(index, &node)| (node, index + 2)));
        let mut network = Network::new(nodes.len() + 2);
        let mut present = 0;
        let costs: Vec<(u64, Vec<Part>)> =
            self.values.iter().map(|&value| (self.cost(graph, value), self.parts(graph, value))).collect();
        for (cost, parts) in &costs {
            if parts.contains(&Part::Moved)
                && parts.iter().any(|part| matches!(part, Part::Plain | Part::Node(_)))
            {
                present += cost;
            }
            let (enter, leave) = (network.add_node(), network.add_node());
            network.connect(enter, leave, *cost);
            for part in parts {
                let number = match part {
                    Part::Node(node) => numbers[node],
                    Part::Moved => 0,
                    Part::Plain => 1,
                    Part::None => continue,
                };
                network.connect(number, enter, UNBOUNDED);
                network.connect(leave, number, UNBOUNDED);
            }
        }
        for node in &nodes {
            network.connect(numbers[node], 1, self.extra(*node));
        }
        let sides = network.source_side(0, 1);
        let is_moved = |node: &NodeId| numbers.get(node).is_some_and(|&number| sides[number]);
        let sides_of = |parts: &[Part]| {
            let has = |wanted: bool| {
                parts.iter().any(|part| match part {
                    Part::Node(node) => is_moved(node) == wanted,
                    Part::Moved => wanted,
                    Part::Plain => !wanted,
                    Part::None => false,
                })
            };
            has(true) && has(false)
        };
        let split: u64 = costs.iter().filter(|(_, parts)| sides_of(parts)).map(|(cost, _)| cost).sum();
        let moved: FxHashSet<NodeId> = nodes.into_iter().filter(is_moved).collect();
        let extra: u64 = moved.iter().map(|&node| self.extra(node)).sum();
        (split + extra < present).then_some(moved)
    }

    /// What a node on moved axes costs beside Transposes: operators that give operands more axes.
    fn extra(&self, node: NodeId) -> u64 {
        let operands = self.nodes.get(&node).map(|carried| &carried.operands);
        let unsqueezed =
            operands.into_iter().flatten().filter(|operand| matches!(operand, Operand::Unsqueezed(_)));
        TRANSPOSE * unsqueezed.count() as u64
    }

    /// What a Transpose of a value costs.
    fn cost(&self, graph: &Graph, value: ValueId) -> u64 {
        let shape = graph.shape(value).unwrap_or_default();
        let order = &self.orders[&value];
        let wide = |axis: &&usize| shape.get(**axis) != Some(&Dim::fixed(1));
        if order.axes().iter().filter(wide).is_sorted() {
            // No element moves.
            return TRANSPOSE;
        }
        let elements = shape
            .iter()
            .try_fold(1_i64, |product, size| product.checked_mul(size.evaluate(&|_| Some(NOMINAL))?.max(0)));
        TRANSPOSE + elements.map_or(TRANSPOSE - 1, |count| (count as u64).min(TRANSPOSE - 1))
    }

    fn parts(&self, graph: &Graph, value: ValueId) -> Vec<Part> {
        let order = &self.orders[&value];
        let mut parts = Vec::new();
        parts.push(match graph.producer(value) {
            Some((id, _, result)) if self.carries(id, Place::Result(result), order) => Part::Node(id),
            Some((_, node, _)) if node.is("Transpose") => match self.border(graph, value) {
                Some(Border { makes: Some(makes), .. }) => makes,
                _ => Part::Plain,
            },
            _ => Part::Plain,
        });
        if graph.is_output(value) || graph.is_pinned(value) {
            parts.push(Part::Plain);
        }
        for consumer in graph.consumers(value) {
            parts.push(match consumer.slot {
                Slot::Input(index) if self.carries(consumer.node, Place::Operand(index as usize), order) => {
                    Part::Node(consumer.node)
                }
                Slot::Input(0) => match graph.node(consumer.node).output(0) {
                    Some(result) if graph.node(consumer.node).is("Transpose") => {
                        self.border(graph, result).and_then(|border| border.takes).unwrap_or(Part::Plain)
                    }
                    _ => Part::Plain,
                },
                _ => Part::Plain,
            });
        }
        parts
    }

    /// Whether a node of the region has a value at this place, with its axes moved.
    fn carries(&self, node: NodeId, place: Place, order: &Permutation) -> bool {
        self.nodes.get(&node).is_some_and(|carried| match place {
            Place::Operand(index) => {
                matches!(carried.operands.get(index), Some(Operand::Moved(other)) if other == order)
            }
            Place::Result(index) => carried.results.get(index) == Some(order),
        })
    }

    /// How the Transpose that makes `value` takes part at both of its ends.
    pub(super) fn border(&self, graph: &Graph, value: ValueId) -> Option<Border> {
        let (_, transpose) = graph.producer_of(value, "Transpose")?;
        let permutation = Permutation::of(graph, transpose)?;
        let before = self.orders.get(&transpose.input(0)?);
        let after = self.orders.get(&value);
        let takes = before.map(|order| if *order == permutation { Part::Moved } else { Part::None });
        let makes = after.map(|order| if order.inverse() == permutation { Part::Moved } else { Part::None });
        // Between two values of the region it takes part in the better way, and at its other end as it is.
        let (takes, makes) = match (takes, makes) {
            (Some(_), Some(Part::Moved)) => (Some(Part::Plain), makes),
            (Some(_), Some(_)) => (takes, Some(Part::Plain)),
            one_end => one_end,
        };
        Some(Border { permutation, takes, makes })
    }
}

/// A Transpose at the border of a region.
pub(super) struct Border {
    /// What it does.
    pub permutation: Permutation,
    /// Its part in the value that it takes, if that is in the region.
    takes: Option<Part>,
    /// Its part in the value that it makes, if that is in the region.
    makes: Option<Part>,
}

impl Border {
    /// Whether it may take the moved axes in place of what it takes.
    pub fn takes_moved(&self) -> bool {
        matches!(self.takes, Some(Part::Moved | Part::None))
    }

    /// Whether the moved axes of what it makes come from what it takes.
    pub fn makes_moved(&self) -> bool {
        matches!(self.makes, Some(Part::Moved | Part::None))
    }
}
