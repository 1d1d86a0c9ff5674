//! Which units compute with integers: a minimal cut between what they cost so and so, and what it costs to turn values
//! from one into the other.
//!
//! A value becomes integers once however many take them, and floats once for each that takes floats: onnxruntime gives every
//! user of a DequantizeLinear one of its own, and others merge it into its user. So a cut leaves no hole of floats in a
//! region of integers that costs more than it saves, and no island of integers among floats.

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{Graph, NodeId, ValueId};
use petgraph::unionfind::UnionFind;
use rustc_hash::{FxHashMap, FxHashSet};

use super::Profile;
use super::costs::cost;
use super::sizes::Sizes;
use super::unit::{Kind, Unit};
use crate::cut::{Network, UNBOUNDED};

/// Which of the units compute with integers.
pub(super) struct Regions {
    /// By unit.
    pub integer: Vec<bool>,
    /// How many connected regions they form.
    pub count: usize,
    /// Whether they are expected to be faster so.
    pub fast: bool,
}

/// Chooses the units that compute with integers. Where none pays in so small a model, those that would in a larger one:
/// integers take less space at least.
pub(super) fn choose(sizes: &Sizes<'_>, profile: &Profile, units: &[Unit]) -> Regions {
    let flow = Flow::new(sizes.graph, units);
    let fast = flow.regions(sizes, profile);
    if fast.count > 0 {
        fast
    } else {
        Regions { fast: false, ..flow.regions(sizes, &profile.for_large_models()) }
    }
}

/// How values flow between units.
struct Flow<'a> {
    units: &'a [Unit],
    /// The values in order, with the unit that gives each, the units that take it, and how many others do.
    values: Vec<Crossing>,
}

struct Crossing {
    value: ValueId,
    producer: Option<usize>,
    takers: Vec<usize>,
    others: usize,
}

impl<'a> Flow<'a> {
    fn new(graph: &Graph, units: &'a [Unit]) -> Self {
        let owner: FxHashMap<NodeId, usize> = units
            .iter()
            .enumerate()
            .flat_map(|(index, unit)| {
                unit.activation.into_iter().chain([unit.node]).map(move |node| (node, index))
            })
            .collect();
        let mut values = Vec::new();
        let mut seen = FxHashSet::default();
        for unit in units {
            for value in unit.operands.iter().map(|&(_, value)| value).chain(unit.results.iter().copied()) {
                if !seen.insert(value) {
                    continue;
                }
                let mut crossing = Crossing {
                    value,
                    producer: graph.producer(value).and_then(|(node, ..)| owner.get(&node).copied()),
                    takers: Vec::new(),
                    others: usize::from(graph.is_output(value)),
                };
                for consumer in graph.consumers(value) {
                    match (owner.get(&consumer.node), consumer.slot) {
                        (Some(&taker), Slot::Input(slot)) if takes(&units[taker], slot) => {
                            crossing.takers.push(taker);
                        }
                        _ => crossing.others += 1,
                    }
                }
                crossing.takers.dedup();
                values.push(crossing);
            }
        }
        Self { units, values }
    }

    /// The regions of a minimal cut that have a product in them.
    fn regions(&self, sizes: &Sizes<'_>, profile: &Profile) -> Regions {
        let mut integer = self.cut(sizes, profile);
        let mut count = 0;
        for region in self.connected(&integer) {
            if region.iter().any(|&unit| matches!(self.units[unit].kind, Kind::Product { .. })) {
                count += 1;
            } else {
                region.iter().for_each(|&unit| integer[unit] = false);
            }
        }
        Regions { integer, count, fast: true }
    }

    fn cut(&self, sizes: &Sizes<'_>, profile: &Profile) -> Vec<bool> {
        const INTEGERS: usize = 0;
        const FLOATS: usize = 1;
        let at = |unit: usize| unit + 2;
        // Picoseconds.
        let capacity = |nanoseconds: f64| ((nanoseconds * 1e3).min(UNBOUNDED as f64 / 1e6)) as u64;
        let mut network = Network::new(self.units.len() + 2);
        for (index, unit) in self.units.iter().enumerate() {
            let cost = cost(sizes, profile, unit);
            network.connect(INTEGERS, at(index), capacity(cost.float));
            network.connect(at(index), FLOATS, capacity(cost.integer));
        }
        for crossing in &self.values {
            let count = sizes.elements(crossing.value);
            let open = crossing
                .producer
                .is_some_and(|unit| profile.open.contains(sizes.graph.node(self.units[unit].node).op_type()));
            if let Some(producer) = crossing.producer {
                let price = if open { 0 } else { capacity(profile.node + count * profile.dequantize) };
                network.connect(at(producer), FLOATS, price.saturating_mul(crossing.others as u64));
                crossing.takers.iter().for_each(|&taker| network.connect(at(producer), at(taker), price));
            }
            if !crossing.takers.is_empty() {
                let price = capacity(profile.node + count * profile.quantize);
                let turned = network.add_node();
                crossing.takers.iter().for_each(|&taker| network.connect(at(taker), turned, UNBOUNDED));
                network.connect(turned, crossing.producer.map_or(FLOATS, at), price);
            }
            for &taker in &crossing.takers {
                if let Some(price) = self.alone(sizes, profile, taker) {
                    network.connect(at(taker), self.origin(crossing).map_or(FLOATS, at), capacity(price));
                }
            }
            if let Some(producer) =
                crossing.producer.filter(|&unit| self.alone(sizes, profile, unit).is_some())
            {
                crossing.takers.iter().for_each(|&taker| network.connect(at(taker), at(producer), UNBOUNDED));
            }
        }
        let side = network.source_side(INTEGERS, FLOATS);
        side[2..2 + self.units.len()].to_vec()
    }

    /// The unit whose integers a value holds, moved or rescaled.
    fn origin(&self, crossing: &Crossing) -> Option<usize> {
        let mut origin = crossing.producer?;
        while matches!(self.units[origin].kind, Kind::Move | Kind::Rescale(_)) {
            let (_, operand) = *self.units[origin].operands.first()?;
            origin = self.values.iter().find(|crossing| crossing.value == operand)?.producer?;
        }
        Some(origin)
    }

    /// What a unit costs more where no integers come to it.
    fn alone(&self, sizes: &Sizes<'_>, profile: &Profile, unit: usize) -> Option<f64> {
        let unit = &self.units[unit];
        let each = profile.moves_alone.get(sizes.graph.node(unit.node).op_type())?;
        Some(each * unit.results.iter().map(|&value| sizes.elements(value)).sum::<f64>())
    }

    /// The connected parts of the units that compute with integers.
    fn connected(&self, integer: &[bool]) -> Vec<Vec<usize>> {
        let mut sets = UnionFind::new(integer.len());
        for crossing in &self.values {
            // What a value leaves and what takes it; units that merely take the same value are not connected by it.
            let Some(producer) = crossing.producer.filter(|&unit| integer[unit]) else { continue };
            for &taker in crossing.takers.iter().filter(|&&taker| integer[taker]) {
                sets.union(producer, taker);
            }
        }
        let mut parts: FxHashMap<usize, Vec<usize>> = FxHashMap::default();
        for unit in (0..integer.len()).filter(|&unit| integer[unit]) {
            parts.entry(sets.find_mut(unit)).or_default().push(unit);
        }
        let mut parts: Vec<Vec<usize>> = parts.into_values().collect();
        parts.sort();
        parts
    }
}

/// Whether a unit takes a value at a slot as an integer.
fn takes(unit: &Unit, slot: u32) -> bool {
    unit.operands.iter().any(|&(own, _)| own == slot as usize)
}
