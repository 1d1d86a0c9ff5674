//! The grid of each value that is quantized.
//!
//! Integers that an operator only moves keep their grid, bit by bit, so that it can move them without turning them
//! into floats. A multiple of a value has the integers of that value, on a multiple of its grid.

use onnx_opt_ir::{Graph, Node, NodeId, ValueId};
use petgraph::unionfind::UnionFind;
use rustc_hash::{FxHashMap, FxHashSet};

use super::oracle::only_consumer;
use super::unit::{Kind, Unit};
use super::{Grid, Profile, Range, Ranges};
use crate::rules::clip::{Limits, limits_of};

/// Grids of the operands and results of these units.
pub(super) fn grids(
    graph: &Graph,
    profile: &Profile,
    units: &[&Unit],
    ranges: &Ranges,
) -> FxHashMap<ValueId, Grid> {
    let mut groups = Groups::of(graph, profile, units);
    // What a move gives lies within what it takes.
    let moved = units.iter().filter(|unit| unit.kind == Kind::Move).flat_map(|unit| &unit.results);
    let moved: FxHashSet<usize> = moved.map(|&value| groups.place(value)).collect();
    let limited: FxHashMap<ValueId, &Unit> =
        units.iter().flat_map(|&unit| unit.results.iter().map(move |&value| (value, unit))).collect();
    let mut spans: FxHashMap<usize, Range> = FxHashMap::default();
    for place in (0..groups.values.len()).filter(|place| !moved.contains(place)) {
        let value = groups.values[place];
        let Some(range) = range(graph, profile, limited.get(&value).copied(), ranges, value) else {
            continue;
        };
        let group = groups.root(place);
        let whole = spans.entry(group).or_insert(range);
        *whole = Range { low: whole.low.min(range.low), high: whole.high.max(range.high) };
    }
    let grid = |range| Grid::of(range, profile.activations, profile.symmetric);
    let mut found: FxHashMap<usize, Grid> =
        spans.into_iter().map(|(group, range)| (group, grid(range))).collect();
    for unit in units {
        if let (Some(limits), Some(&result)) = (limits(graph, unit), unit.results.first()) {
            let group = groups.place(result);
            let group = groups.root(group);
            found.entry(group).and_modify(|grid| *grid = grid.ending_within(limits.low, limits.high));
        }
        if let (Kind::Rescale(factor), &[(_, operand)], &[result]) =
            (unit.kind, &unit.operands[..], &unit.results[..])
        {
            let (from, to) = (groups.place(operand), groups.place(result));
            let (from, to) = (groups.root(from), groups.root(to));
            if let Some(&grid) = found.get(&from) {
                found.insert(to, grid.scaled(factor));
            }
        }
    }
    let places: Vec<ValueId> = groups.values.clone();
    places
        .into_iter()
        .enumerate()
        .filter_map(|(place, value)| Some((value, *found.get(&groups.root(place))?)))
        .collect()
}

/// For each operand and result of these units, what is the same number for all that share its grid.
pub(super) fn groups(graph: &Graph, profile: &Profile, units: &[&Unit]) -> FxHashMap<ValueId, usize> {
    let mut groups = Groups::of(graph, profile, units);
    let places = groups.values.clone().into_iter().enumerate();
    places.map(|(place, value)| (value, groups.root(place))).collect()
}

/// The range of one value: what calibration saw, within the limits of the activation that gives it.
fn range(
    graph: &Graph,
    profile: &Profile,
    unit: Option<&Unit>,
    ranges: &Ranges,
    value: ValueId,
) -> Option<Range> {
    let producer = graph.producer(value).map(|(_, node, _)| node);
    if let Some(fixed) = producer.and_then(|node| profile.fixed_range(node.op_type())) {
        return Some(fixed);
    }
    let mut range = *ranges.get(&graph.display_name(value))?;
    if let Some(floor) = gate_floor(graph, value) {
        range.low = range.low.max(floor as f32);
    }
    Some(match unit.and_then(|unit| limits(graph, unit)) {
        Some(limits) => {
            let (low, high) = (limits.low as f32, limits.high as f32);
            Range { low: range.low.clamp(low, high), high: range.high.clamp(low, high) }
        }
        None => range,
    })
}

/// What is taken by a gate alone, x·clip(x + c, 0, l)·f with c > 0 as in a HardSwish, is the same to it anywhere below
/// −c: the result is zero. Integers are not wasted on that, which may be most of the range.
fn gate_floor(graph: &Graph, value: ValueId) -> Option<f64> {
    let consumers: Vec<NodeId> = graph.consumers(value).map(|consumer| consumer.node).collect();
    let &[first, second] = &consumers[..] else { return None };
    if graph.is_output(value) {
        return None;
    }
    let (sum, product) = if graph.node(first).is("Add") { (first, second) } else { (second, first) };
    let (sum, product_node) = (graph.node(sum), graph.node(product));
    if !sum.is("Add") || !product_node.is("Mul") {
        return None;
    }
    let constant = |node: &Node| {
        let mut operands = node.inputs().iter().flatten();
        operands.find_map(|&operand| graph.constant(operand)?.single_f64())
    };
    let offset = constant(sum).filter(|&offset| offset > 0.0)?;
    let clip = only_consumer(graph, sum.single_output()?)?;
    limits_of(graph, graph.node(clip)).filter(|limits| limits.low == 0.0)?;
    let mut gate = graph.node(clip).single_output()?;
    for _ in 0..2 {
        let next = only_consumer(graph, gate)?;
        if next == product {
            return Some(-offset);
        }
        let scaled = graph.node(next);
        constant(scaled).filter(|_| scaled.is("Mul"))?;
        gate = scaled.single_output()?;
    }
    None
}

/// The limits of the activation that vanishes into a unit.
fn limits(graph: &Graph, unit: &Unit) -> Option<Limits> {
    limits_of(graph, graph.node(unit.activation?))
}

/// Sets of values that share a grid.
#[derive(Default)]
struct Groups {
    values: Vec<ValueId>,
    places: FxHashMap<ValueId, usize>,
    sets: UnionFind<usize>,
}

impl Groups {
    fn of(graph: &Graph, profile: &Profile, units: &[&Unit]) -> Self {
        let mut groups = Self::default();
        for unit in units {
            let values = unit.operands.iter().map(|&(_, value)| value).chain(unit.results.iter().copied());
            let places: Vec<usize> = values.map(|value| groups.place(value)).collect();
            let one_scale = profile.one_scale_in_concat && graph.node(unit.node).is("Concat");
            if unit.kind == Kind::Move || one_scale {
                places.windows(2).for_each(|pair| groups.join(pair[0], pair[1]));
            }
        }
        groups
    }

    fn place(&mut self, value: ValueId) -> usize {
        let next = self.values.len();
        let place = *self.places.entry(value).or_insert(next);
        if place == next {
            self.values.push(value);
            self.sets.new_set();
        }
        place
    }

    fn root(&mut self, place: usize) -> usize {
        self.sets.find_mut(place)
    }

    fn join(&mut self, a: usize, b: usize) {
        self.sets.union(a, b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn what_a_gate_alone_takes_ends_where_the_gate_is_shut() {
        let gate = |offset: f64, more: bool| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 4]);
            let x = f.op("Neg", &[x]);
            let [offset, low, high, factor] = [offset, 0.0, 6.0, 0.5].map(|value| f.scalar(value));
            let sum = f.op("Add", &[x, offset]);
            let clip = f.op("Clip", &[sum, low, high]);
            let scaled = f.op("Mul", &[clip, factor]);
            let y = f.op("Mul", &[x, scaled]);
            if more {
                let other = f.op("Abs", &[x]);
                f.output("other", other);
            }
            gate_floor(&f.with_output(y).graph, x)
        };
        assert_eq!(gate(3.0, false), Some(-3.0));
        assert_eq!(gate(3.0, true), None);
        assert_eq!(gate(-3.0, false), None);
    }
}
