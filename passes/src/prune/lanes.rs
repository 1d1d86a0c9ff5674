//! Lanes: one index of one axis of one tensor each, joined where one cannot go without the other.

use std::collections::BTreeMap;

use onnx_opt_ir::graph::{Producer, Slot};
use onnx_opt_ir::{Graph, NodeId, ValueId};

/// A tensor that has lanes of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Place {
    /// A value, wherever it is used: what is removed from it is gone for every user.
    Value(ValueId),
    /// A constant vector at one operand of one node. Equal vectors are often one constant for no deeper reason than
    /// that they are equal, and a copy costs nothing.
    Operand(NodeId, u32),
}

/// One axis of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Axis {
    /// Of size 1: it stays.
    Single,
    /// Lanes `start..start + size`.
    Lanes {
        /// The first lane.
        start: u32,
        /// Number of lanes.
        size: u32,
    },
    /// Of a size that is not known, or so large that nobody counts its lanes: it stays.
    Open,
}

impl Axis {
    /// Number of lanes; none where the axis stays anyway.
    pub fn size(self) -> usize {
        match self {
            Self::Lanes { size, .. } => size as usize,
            Self::Single | Self::Open => 0,
        }
    }

    /// Elements along it; none where that is not known.
    pub fn length(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Lanes { .. } | Self::Open => self.size(),
        }
    }

    /// Lane `index`.
    pub fn lane(self, index: usize) -> Option<u32> {
        match self {
            Self::Lanes { start, size } if index < size as usize => Some(start + index as u32),
            _ => None,
        }
    }

    /// All lanes.
    pub fn lanes(self) -> std::ops::Range<u32> {
        match self {
            Self::Lanes { start, size } => start..start + size,
            Self::Single | Self::Open => 0..0,
        }
    }
}

/// Axes longer than this stay.
const LONGEST: i64 = 1 << 20;

/// Why lanes stay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Barrier {
    /// The node, or what else stands in the way.
    pub at: String,
    /// The reason.
    pub reason: String,
}

/// The lanes of a graph, in classes of those that go together, and what keeps some of them from going.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Union-find: each lane leads to its class.
    parents: Vec<u32>,
    /// By class, one more than the index of the barrier; 0 for none.
    barred: Vec<u32>,
    barriers: Vec<Barrier>,
    places: BTreeMap<Place, Vec<Axis>>,
    /// Lanes whose removal changes what an operator computes from the others, and how.
    approximate: Vec<(u32, String)>,
}

impl Lanes {
    /// The lanes of a graph, none joined.
    pub(super) fn of(graph: &Graph) -> Self {
        let mut lanes = Self {
            parents: Vec::new(),
            barred: Vec::new(),
            barriers: Vec::new(),
            places: BTreeMap::new(),
            approximate: Vec::new(),
        };
        for (id, _) in graph.values() {
            if is_vector(graph, id) {
                for consumer in graph.consumers(id) {
                    if let Slot::Input(slot) = consumer.slot {
                        lanes.add(graph, id, Place::Operand(consumer.node, slot));
                    }
                }
            } else {
                lanes.add(graph, id, Place::Value(id));
            }
        }
        lanes
    }

    fn add(&mut self, graph: &Graph, value: ValueId, place: Place) {
        let Some(shape) = graph.shape(value) else { return };
        let axes = shape.iter().map(|size| match size.as_fixed() {
            Some(1) => Axis::Single,
            Some(size @ 2..=LONGEST) => {
                let start = self.parents.len() as u32;
                self.parents.extend(start..start + size as u32);
                Axis::Lanes { start, size: size as u32 }
            }
            _ => Axis::Open,
        });
        let axes = axes.collect();
        self.barred.resize(self.parents.len(), 0);
        self.places.insert(place, axes);
    }

    /// The axes of a tensor; none if its rank is not known.
    pub fn axes(&self, place: Place) -> Option<&[Axis]> {
        self.places.get(&place).map(Vec::as_slice)
    }

    /// The axes of operand `slot` of a node.
    pub fn operand(&self, graph: &Graph, node: NodeId, slot: usize) -> Option<&[Axis]> {
        self.axes(place(graph, node, slot)?)
    }

    /// All tensors and their axes.
    pub fn places(&self) -> impl Iterator<Item = (Place, &[Axis])> {
        self.places.iter().map(|(&place, axes)| (place, axes.as_slice()))
    }

    /// Number of lanes.
    pub fn count(&self) -> usize {
        self.parents.len()
    }

    /// The class of a lane.
    pub fn class(&self, lane: u32) -> u32 {
        let mut lane = lane;
        while self.parents[lane as usize] != lane {
            lane = self.parents[lane as usize];
        }
        lane
    }

    /// Why a lane stays.
    pub fn barrier(&self, lane: u32) -> Option<&Barrier> {
        let barred = self.barred[self.class(lane) as usize] as usize;
        self.barriers.get(barred.checked_sub(1)?)
    }

    /// Lanes whose removal is no mere masking, and why.
    pub fn approximate(&self) -> impl Iterator<Item = (u32, &str)> {
        self.approximate.iter().map(|(lane, reason)| (*lane, reason.as_str()))
    }

    /// Number of lanes.
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// Lets two lanes go together only.
    pub(super) fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.shorten(a), self.shorten(b));
        if a == b {
            return;
        }
        // The older lane leads, so that classes do not depend on the order of joins.
        let (lead, other) = (a.min(b), a.max(b));
        self.parents[other as usize] = lead;
        if self.barred[lead as usize] == 0 {
            self.barred[lead as usize] = self.barred[other as usize];
        }
    }

    /// The class of a lane, with the way to it made shorter.
    fn shorten(&mut self, lane: u32) -> u32 {
        let mut lane = lane;
        while self.parents[lane as usize] != lane {
            let next = self.parents[lane as usize];
            self.parents[lane as usize] = self.parents[next as usize];
            lane = next;
        }
        lane
    }

    /// Keeps lanes from going.
    pub(super) fn bar(&mut self, lanes: impl IntoIterator<Item = u32>, barrier: &Barrier) {
        let mut number = None;
        for lane in lanes {
            let class = self.shorten(lane) as usize;
            if self.barred[class] == 0 {
                let number = *number.get_or_insert_with(|| {
                    if self.barriers.last() != Some(barrier) {
                        self.barriers.push(barrier.clone());
                    }
                    self.barriers.len() as u32
                });
                self.barred[class] = number;
            }
        }
    }

    /// Says that an operator computes something else from the other lanes when these go.
    pub(super) fn mark_approximate(&mut self, lanes: impl IntoIterator<Item = u32>, reason: &str) {
        self.approximate.extend(lanes.into_iter().map(|lane| (lane, reason.to_owned())));
    }
}

/// The tensor at operand `slot` of a node.
pub fn place(graph: &Graph, node: NodeId, slot: usize) -> Option<Place> {
    let value = graph.get_node(node)?.input(slot)?;
    Some(if is_vector(graph, value) { Place::Operand(node, slot as u32) } else { Place::Value(value) })
}

/// Whether a value is a constant with no more than one axis that is longer than 1.
fn is_vector(graph: &Graph, value: ValueId) -> bool {
    let constant =
        matches!(graph.get_value(value).map(|value| value.producer()), Some(Producer::Constant(_)));
    let long = |tensor: &onnx_opt_ir::Tensor| tensor.shape().iter().filter(|&&size| size != 1).count();
    constant && !graph.is_output(value) && graph.constant(value).is_some_and(|tensor| long(tensor) <= 1)
}
