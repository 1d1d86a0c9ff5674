//! Units: what computes with integers or with floats as a whole, an operator and the activation that vanishes into it.

use std::collections::BTreeSet;

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{ElementType, Graph, Node, NodeId, ValueId};
use rustc_hash::FxHashSet;

use super::grid::range_of;
use super::{Placement, Profile, QuantizeOptions, Ranges};
use crate::rewrite::place;
use crate::rules::clip::limits_of;

/// What an operator does with integers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// It multiplies its first operand by constant weights and sums up.
    Product {
        /// The axis of the weights along which the channels of the result lie.
        channels: usize,
    },
    /// It computes with integers of several grids.
    Elementwise,
    /// It moves integers about, or chooses among them.
    Move,
    /// It multiplies by a positive number, which is another scale of the same integers.
    Rescale(f64),
}

/// An operator that may compute with integers, with the activation behind it.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub node: NodeId,
    pub kind: Kind,
    /// The activation that takes its result and vanishes.
    pub activation: Option<NodeId>,
    /// Operands that are floats and not constant, by slot.
    pub operands: Vec<(usize, ValueId)>,
    /// Constant operands that are quantized as activations are, by slot.
    pub constants: Vec<(usize, ValueId)>,
    /// What leaves it.
    pub results: Vec<ValueId>,
}

/// The units of a graph, in its order, and nodes that the profile knows but that are none, with the reason.
pub(super) struct Units {
    pub units: Vec<Unit>,
    pub refused: Vec<(NodeId, String)>,
}

/// Names of the values whose ranges [`super::insert`] needs.
pub fn observed(graph: &Graph, profile: &Profile, options: &QuantizeOptions) -> BTreeSet<String> {
    let units = find(graph, profile, options, None).units;
    let values = units.iter().flat_map(|unit| {
        let inner = unit.activation.map(|_| graph.node(unit.node)).and_then(Node::single_output);
        unit.operands.iter().map(|&(_, value)| value).chain(unit.results.iter().copied()).chain(inner)
    });
    values.map(|value| graph.display_name(value)).collect()
}

/// The units of a graph. Without ranges those that may be, whatever they turn out to be.
pub(super) fn find(
    graph: &Graph,
    profile: &Profile,
    options: &QuantizeOptions,
    ranges: Option<&Ranges>,
) -> Units {
    let mut found = Units { units: Vec::new(), refused: Vec::new() };
    // A cycle was refused when the graph was read.
    let order = graph.topological_order().unwrap_or_default();
    let mut absorbed: FxHashSet<NodeId> = FxHashSet::default();
    for id in order {
        if absorbed.contains(&id) {
            continue;
        }
        let node = graph.node(id);
        let seeker = Seeker { graph, profile, id, node };
        let Some(unit) = seeker.unit() else { continue };
        let unit = unit.and_then(|mut unit| {
            if let Some(reason) = options.refusal(node, &place(graph, node)) {
                return Err(reason.to_owned());
            }
            seeker.absorb(&mut unit);
            if let Some(ranges) = ranges {
                check_ranges(graph, &unit, ranges)?;
            }
            Ok(unit)
        });
        match unit {
            Ok(unit) => {
                absorbed.extend(unit.activation);
                found.units.push(unit);
            }
            Err(reason) => found.refused.push((id, reason)),
        }
    }
    found
}

/// A mask adds so many times more than what it masks; an addition whose operands differ by more loses the smaller one.
const LARGEST_RATIO: f32 = 256.0;

fn check_ranges(graph: &Graph, unit: &Unit, ranges: &Ranges) -> Result<(), String> {
    let values = unit.operands.iter().map(|&(_, value)| value).chain(unit.results.iter().copied());
    for value in values {
        if !ranges.contains_key(&graph.display_name(value)) {
            return Err(format!("no range of `{}` is known", graph.display_name(value)));
        }
    }
    if !graph.node(unit.node).is("Add") {
        return Ok(());
    }
    let spans: Vec<f32> = graph
        .node(unit.node)
        .inputs()
        .iter()
        .flatten()
        .filter_map(|&value| match graph.constant(value) {
            Some(tensor) => range_of(&tensor.to_f32()?),
            None => ranges.get(&graph.display_name(value)).copied(),
        })
        .map(|range| range.low.abs().max(range.high.abs()))
        .collect();
    match spans[..] {
        [a, b] if a > b * LARGEST_RATIO || b > a * LARGEST_RATIO => {
            Err("one operand is so large that the integers of the sum lose the other".to_owned())
        }
        _ => Ok(()),
    }
}

struct Seeker<'g> {
    graph: &'g Graph,
    profile: &'g Profile,
    id: NodeId,
    node: &'g Node,
}

impl Seeker<'_> {
    /// The unit at this node, or why there is none; `None` for operators that the profile does not know.
    fn unit(&self) -> Option<Result<Unit, String>> {
        let (node, profile) = (self.node, self.profile);
        let op_type = node.op_type();
        if node.operator().is_none() || !node.domain().is_empty() {
            return None;
        }
        // Integers, indices and shapes are no matter of quantization.
        let element = node.output(0).and_then(|value| self.graph.element(value));
        if element.is_some_and(|element| !element.is_float()) {
            return None;
        }
        if profile.placement == Placement::Results
            && let Some(unit) = self.rescale()
        {
            return Some(Ok(unit));
        }
        let unit = if profile.products.contains_key(op_type) && self.has_constant_weights() {
            self.product()
        } else if profile.elementwise.contains_key(op_type) {
            self.elementwise()
        } else if profile.moves.contains_key(op_type) {
            self.moves()
        } else if profile.products.contains_key(op_type) {
            Err("its weights are not constant".to_owned())
        } else {
            return None;
        };
        Some(unit.and_then(|unit| match element {
            Some(ElementType::Float) => Ok(unit),
            Some(other) => Err(format!("it computes with {other}")),
            None => Err("its element type is not known".to_owned()),
        }))
    }

    fn has_constant_weights(&self) -> bool {
        self.node.input(1).is_some_and(|weights| self.graph.constant(weights).is_some())
    }

    fn made(&self, kind: Kind, operands: Vec<(usize, ValueId)>) -> Unit {
        let results = self.node.outputs().iter().flatten().copied().collect();
        Unit { node: self.id, kind, activation: None, operands, constants: Vec::new(), results }
    }

    fn product(&self) -> Result<Unit, String> {
        let (graph, node) = (self.graph, self.node);
        let operand = node.input(0).ok_or("it has no operand")?;
        if graph.constant(operand).is_some() {
            return Err("it is constant".to_owned());
        }
        let weights = node.input(1).and_then(|value| graph.constant(value)).ok_or("it has no weights")?;
        let bias = match node.input(2) {
            Some(bias) => Some(graph.constant(bias).ok_or("its bias is not constant")?),
            None => None,
        };
        let channels = match node.op_type() {
            "Conv" => 0,
            "ConvTranspose" => 1,
            "Gemm" => {
                if node.int("transA") == Some(1) {
                    return Err("it transposes its first operand".to_owned());
                }
                let factors = [node.float("alpha"), if bias.is_some() { node.float("beta") } else { None }];
                if factors.into_iter().flatten().any(|factor| factor != 1.0) {
                    return Err("it has a factor".to_owned());
                }
                usize::from(node.int("transB") != Some(1))
            }
            _ if weights.rank() != 2 => return Err("its weights are no matrix".to_owned()),
            _ => 1,
        };
        let count = *weights.shape().get(channels).ok_or("its weights have too few axes")?;
        let values = weights.to_f32().ok_or("its weights are not floats")?;
        if range_of(&values).is_none() {
            return Err("its weights are not finite, or there are none".to_owned());
        }
        if let Some(bias) = bias {
            // A convolution transposed by groups has the same channels in each group.
            let groups = if node.op_type() == "ConvTranspose" { node.int("group").unwrap_or(1) } else { 1 };
            let row = bias.shape().iter().rev().skip(1).all(|&size| size == 1);
            if !row || bias.len() as i64 != count as i64 * groups {
                return Err("its bias is no number for each channel".to_owned());
            }
            if bias.to_f32().is_none_or(|values| range_of(&values).is_none()) {
                return Err("its bias is not finite".to_owned());
            }
        }
        Ok(self.made(Kind::Product { channels }, vec![(0, operand)]))
    }

    /// Slots of the operands that are quantized.
    fn slots(&self) -> Vec<usize> {
        match self.node.op_type() {
            "Concat" | "Add" | "Mul" | "Sub" | "Div" | "MatMul" | "Max" | "Min" => {
                (0..self.node.inputs().len()).collect()
            }
            "Where" => vec![1, 2],
            _ => vec![0],
        }
    }

    fn elementwise(&self) -> Result<Unit, String> {
        let (mut operands, mut constants) = (Vec::new(), Vec::new());
        for slot in self.slots() {
            let value = self.node.input(slot).ok_or("an operand is left out")?;
            match self.graph.constant(value) {
                None => operands.push((slot, value)),
                Some(tensor) => {
                    let range = tensor.to_f32().and_then(|values| range_of(&values));
                    if range.is_none_or(|range| range.low.abs().max(range.high.abs()) > LARGEST) {
                        return Err("a constant operand is not finite, or empty, or a mask".to_owned());
                    }
                    constants.push((slot, value));
                }
            }
        }
        if operands.is_empty() {
            return Err("it is constant".to_owned());
        }
        if self.node.single_output().is_none() {
            return Err("it has several results".to_owned());
        }
        Ok(Unit { constants, ..self.made(Kind::Elementwise, operands) })
    }

    fn moves(&self) -> Result<Unit, String> {
        let node = self.node;
        let operand = node.input(0).ok_or("it has no operand")?;
        if self.graph.constant(operand).is_some() {
            return Err("it is constant".to_owned());
        }
        if node.is("Resize") && node.string("mode").is_some_and(|mode| mode != "nearest") {
            return Err("it computes values between its own".to_owned());
        }
        if !node.is("Split") && node.single_output().is_none() {
            return Err("it has several results".to_owned());
        }
        Ok(self.made(Kind::Move, vec![(0, operand)]))
    }

    /// A product with, or a division by, one positive number that leaves the shape as it is.
    fn rescale(&self) -> Option<Unit> {
        let (graph, node) = (self.graph, self.node);
        let number = |slot: usize| graph.constant(node.input(slot)?)?.single_f64();
        let (slot, factor) = match node.op_type() {
            "Mul" => match (number(0), number(1)) {
                (None, Some(factor)) => (0, factor),
                (Some(factor), None) => (1, factor),
                _ => return None,
            },
            "Div" => (0, 1.0 / number(1)?),
            _ => return None,
        };
        let (operand, result) = (node.input(slot)?, node.output(0)?);
        let same = graph.shape(operand)? == graph.shape(result)?;
        let single = graph.element(result) == Some(ElementType::Float);
        let ordinary = (1e-6..=1e6).contains(&factor);
        (same && single && ordinary).then(|| self.made(Kind::Rescale(factor), vec![(slot, operand)]))
    }

    /// Takes the activation along that alone takes the result.
    fn absorb(&self, unit: &mut Unit) {
        let graph = self.graph;
        if !matches!(unit.kind, Kind::Product { .. } | Kind::Elementwise) {
            return;
        }
        let &[result] = &unit.results[..] else { return };
        let Some(consumer) = graph.consumers(result).next() else { return };
        let activation = graph.node(consumer.node);
        let fits = graph.is_inner(result)
            && consumer.slot == Slot::Input(0)
            && self.profile.absorbs.contains(activation.op_type())
            && ["Relu", "Clip"].iter().any(|op_type| activation.is(op_type))
            && limits_of(graph, activation).is_some_and(|limits| limits.low <= 0.0 && limits.high >= 0.0);
        if fits && let Some(limited) = activation.output(0) {
            unit.activation = Some(consumer.node);
            unit.results = vec![limited];
        }
    }
}

/// What is larger stands for infinity.
const LARGEST: f32 = 1e9;
