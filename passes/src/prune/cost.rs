//! What a graph costs, as it is and with classes of lanes gone: multiply-accumulates, weights, energy.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{Dim, ElementType, Graph, NodeId, ValueId};
use serde::Serialize;

use super::lanes::{Axis, Lanes, Place, place};
use crate::macs::Macs;

/// What a run costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Multiply-accumulates; sizes that are not known count as one, or as the least power of two with which no size of
    /// the graph vanishes, as it would behind convolutions that are not padded.
    pub macs: u64,
    /// Elements of the weights.
    pub parameters: u64,
    /// Bytes of the weights.
    pub bytes: u64,
    /// Elements that nodes compute.
    pub activations: u64,
    /// An estimate of the energy in joules, see [`energy`].
    pub joules: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.macs = self.macs.saturating_add(other.macs);
        self.parameters = self.parameters.saturating_add(other.parameters);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.activations = self.activations.saturating_add(other.activations);
        self.joules += other.joules;
    }
}

/// Energy of one multiplication and one addition, in picojoules, for 45 nm: M. Horowitz, "Computing's energy problem",
/// ISSCC 2014.
const FP32: f64 = 3.7 + 0.9;
/// Of 16-bit floats, from the same table.
const FP16: f64 = 1.1 + 0.4;
/// Of 8-bit integers with 32-bit sums, from the same table.
const INT8: f64 = 0.2 + 0.1;
/// Of reading 32 bits from 8 KB of static memory, from the same table.
const SRAM: f64 = 5.0;
/// Of reading 32 bits from dynamic memory, from the same table.
const DRAM: f64 = 640.0;

/// An estimate of the energy of a run in joules: each multiply-accumulate, each weight read once from dynamic memory,
/// each computed element once from static memory.
pub fn energy(element: ElementType, macs: u64, weight_bytes: u64, activation_bytes: u64) -> f64 {
    let product = match element {
        ElementType::Float16 | ElementType::Bfloat16 => FP16,
        element if element.is_integer() && element.bits() <= 8 => INT8,
        _ => FP32,
    };
    let words = |bytes: u64| bytes as f64 / 4.0;
    1e-12 * (macs as f64 * product + words(weight_bytes) * DRAM + words(activation_bytes) * SRAM)
}

/// The sizes that are left of the axes of a graph.
pub struct Left<'a> {
    graph: &'a Graph,
    lanes: &'a Lanes,
    /// What sizes that are not known count as.
    unknown: i64,
    /// Numbers of lanes by the first lane of the axis.
    sizes: BTreeMap<u32, u64>,
}

/// Sizes of images and sequences are hardly larger.
const LARGEST: u32 = 14;

/// The least power of two with which no size of a graph vanishes, or 1.
fn unknown_size(graph: &Graph) -> i64 {
    let open: BTreeSet<&Dim> = graph
        .values()
        .filter_map(|(id, _)| graph.shape(id))
        .flatten()
        .filter(|size| !size.is_fixed())
        .collect();
    let proper = |unknown: &i64| {
        let mut sizes = open.iter().filter_map(|size| size.evaluate(&|_| Some(*unknown)));
        sizes.all(|size| size > 0)
    };
    (0..=LARGEST).map(|power| 1 << power).find(proper).unwrap_or(1)
}

impl<'a> Left<'a> {
    /// All of a graph.
    pub fn all(graph: &'a Graph, lanes: &'a Lanes) -> Self {
        Self { graph, lanes, unknown: unknown_size(graph), sizes: BTreeMap::new() }
    }

    /// What is left of the same graph when these classes are gone.
    #[must_use]
    pub fn without(&self, gone: &BTreeSet<u32>) -> Self {
        let mut is_gone = vec![false; self.lanes.count()];
        gone.iter().for_each(|&class| is_gone[class as usize] = true);
        let mut sizes = BTreeMap::new();
        for axis in self.lanes.places().flat_map(|(_, axes)| axes) {
            if let Axis::Lanes { start, .. } = axis {
                let left = axis.lanes().filter(|&lane| !is_gone[self.lanes.class(lane) as usize]).count();
                if left < axis.size() {
                    sizes.insert(*start, left as u64);
                }
            }
        }
        Self { sizes, ..*self }
    }

    /// The size of an axis of a tensor, if it has lost something.
    pub fn at(&self, place: Place, axis: usize) -> Option<u64> {
        match self.lanes.axes(place)?.get(axis)? {
            Axis::Lanes { start, .. } => self.sizes.get(start).copied(),
            Axis::Single | Axis::Open => None,
        }
    }

    /// The size of an axis of a value, if it has lost something: of a constant vector, at its first use.
    fn of_value(&self, value: ValueId, axis: usize) -> Option<u64> {
        self.at(self.place_of(value)?, axis)
    }

    fn place_of(&self, value: ValueId) -> Option<Place> {
        if self.lanes.axes(Place::Value(value)).is_some() {
            return Some(Place::Value(value));
        }
        let consumer = self.graph.consumers(value).next()?;
        match consumer.slot {
            Slot::Input(slot) => place(self.graph, consumer.node, slot as usize),
            Slot::Capture(_) => None,
        }
    }

    /// Elements of a value.
    fn volume(&self, value: ValueId) -> u64 {
        let Some(shape) = self.graph.shape(value) else { return 0 };
        let sizes = shape.iter().enumerate().map(|(axis, size)| {
            let own = || size.evaluate(&|_| Some(self.unknown)).and_then(|size| u64::try_from(size).ok());
            self.of_value(value, axis).or_else(own).unwrap_or(1)
        });
        sizes.fold(1, u64::saturating_mul)
    }

    /// Multiply-accumulates of a node; none where its shapes are not known.
    pub fn macs(&self, node: NodeId) -> u64 {
        let Some(node) = self.graph.get_node(node) else { return 0 };
        Macs::of_node(self.graph, node, self.unknown, &|value, axis| self.of_value(value, axis)).unwrap_or(0)
    }

    /// Multiply-accumulates of all nodes.
    pub fn total_macs(&self) -> u64 {
        self.graph.nodes().fold(0, |sum, (id, _)| sum.saturating_add(self.macs(id)))
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        let constants = self.graph.values().filter(|(id, _)| self.graph.constant(*id).is_some());
        constants.fold(0, |sum, (id, _)| sum.saturating_add(self.bytes(id, self.volume(id))))
    }

    /// Of so many elements of a value.
    fn bytes(&self, value: ValueId, volume: u64) -> u64 {
        let bits = self.graph.element(value).map_or(0, ElementType::bits) as u64;
        volume.saturating_mul(bits).div_ceil(8)
    }

    /// All of it.
    pub fn cost(&self) -> Cost {
        let mut cost = Cost::default();
        let mut activation_bytes = 0u64;
        let mut element = ElementType::Float;
        for (id, _) in self.graph.values() {
            let volume = self.volume(id);
            let bytes = self.bytes(id, volume);
            match self.graph.constant(id) {
                Some(tensor) => {
                    cost.parameters = cost.parameters.saturating_add(volume);
                    cost.bytes = cost.bytes.saturating_add(bytes);
                    if super::group::is_weight(tensor) {
                        element = tensor.element();
                    }
                }
                None if self.graph.producer(id).is_some() => {
                    cost.activations = cost.activations.saturating_add(volume);
                    activation_bytes = activation_bytes.saturating_add(bytes);
                }
                None => {}
            }
        }
        cost.macs = self.total_macs();
        cost.joules = energy(element, cost.macs, cost.bytes, activation_bytes);
        cost
    }
}
