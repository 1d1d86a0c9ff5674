//! Groups: classes of lanes that touch the same axes of the same tensors, so that one may go in place of another.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{Graph, Tensor, ValueId};
use serde::Serialize;

use super::couple::SPATIAL;
use super::lanes::{Axis, Lanes, Place};

/// Slices of one axis of one tensor that go with the units of a group.
#[derive(Clone, Debug)]
pub struct Member {
    /// The tensor.
    pub place: Place,
    /// Its value.
    pub value: ValueId,
    /// The axis.
    pub axis: usize,
    /// Lanes of each unit.
    pub block: usize,
    /// Indices along the axis, `block` for each unit.
    pub indices: Vec<u32>,
}

impl Member {
    /// The indices of a unit.
    pub fn of_unit(&self, unit: usize) -> &[u32] {
        self.indices.get(unit * self.block..(unit + 1) * self.block).unwrap_or_default()
    }
}

/// What can go one by one, and where it goes from.
#[derive(Clone, Debug)]
pub struct Group {
    /// The class of each unit.
    pub classes: Vec<u32>,
    /// Slices of constants: the weights that go.
    pub weights: Vec<Member>,
    /// Slices of values that nodes compute.
    pub activations: Vec<Member>,
    /// Why the result is not that of the original with the slices set to zero, if it is not.
    pub approximate: Vec<String>,
}

impl Group {
    /// Number of units.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there are no units.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// What is left of it when these classes are gone.
    #[must_use]
    pub fn without(&self, gone: &BTreeSet<u32>) -> Self {
        let left: Vec<usize> = (0..self.len()).filter(|&unit| !gone.contains(&self.classes[unit])).collect();
        let member = |member: &Member| Member {
            indices: left.iter().flat_map(|&unit| member.of_unit(unit)).copied().collect(),
            ..*member
        };
        Self {
            classes: left.iter().map(|&unit| self.classes[unit]).collect(),
            weights: self.weights.iter().map(member).collect(),
            activations: self.activations.iter().map(member).collect(),
            approximate: self.approximate.clone(),
        }
    }

    /// Channels of a unit: how many lanes it has of the weight that makes it.
    pub fn block(&self) -> usize {
        self.weights.first().map_or(1, |member| member.block)
    }

    /// The axes of weights, with their sizes and where they stand: groups of one topology may be ranked together.
    pub fn topology(&self, graph: &Graph) -> Vec<String> {
        let word = |member: &Member| {
            let users: Vec<&str> = graph
                .consumers(member.value)
                .filter_map(|consumer| graph.get_node(consumer.node))
                .map(|node| node.op_type())
                .collect();
            format!("{}:{}x{}", users.join(","), member.axis, member.block)
        };
        let mut words: Vec<String> = self.weights.iter().map(word).collect();
        words.sort();
        words
    }
}

/// The units of a graph, and what stays and why.
#[derive(Clone, Debug)]
pub struct Groups {
    /// The groups, in the order of their first weights.
    pub groups: Vec<Group>,
    /// Axes of weights that stay, wholly or in part; those of kernels over places are left out.
    pub barriers: Vec<Stays>,
}

/// An axis of a weight that stays.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stays {
    /// The weight.
    pub weight: String,
    /// The axis.
    pub axis: usize,
    /// Its size.
    pub size: usize,
    /// Lanes that stay.
    pub lanes: usize,
    /// Where the barrier is.
    pub at: String,
    /// The reason.
    pub reason: String,
}

impl Groups {
    /// The groups of a graph whose lanes are joined.
    pub fn of(graph: &Graph, lanes: &Lanes) -> Self {
        let axes: Vec<(Place, ValueId, usize, Axis)> = lanes
            .places()
            .filter_map(|(place, axes)| Some((place, value_of(graph, place)?, axes)))
            .flat_map(|(place, value, axes)| {
                axes.iter().enumerate().map(move |(index, &axis)| (place, value, index, axis))
            })
            .filter(|(.., axis)| axis.size() > 0)
            .collect();
        // By class: the axes it touches and where.
        let mut classes: BTreeMap<u32, Vec<(usize, Vec<u32>)>> = BTreeMap::new();
        for (number, &(.., axis)) in axes.iter().enumerate() {
            for (index, lane) in axis.lanes().enumerate() {
                if lanes.barrier(lane).is_some() {
                    continue;
                }
                let touched = classes.entry(lanes.class(lane)).or_default();
                match touched.last_mut() {
                    Some((last, indices)) if *last == number => indices.push(index as u32),
                    _ => touched.push((number, vec![index as u32])),
                }
            }
        }
        let mut approximate: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (lane, reason) in lanes.approximate() {
            let reasons = approximate.entry(lanes.class(lane)).or_default();
            if !reasons.iter().any(|known| known == reason) {
                reasons.push(reason.to_owned());
            }
        }
        let mut by_signature: BTreeMap<Vec<(usize, usize)>, Vec<u32>> = BTreeMap::new();
        for (&class, touched) in &classes {
            let signature: Vec<(usize, usize)> =
                touched.iter().map(|(number, indices)| (*number, indices.len())).collect();
            by_signature.entry(signature).or_default().push(class);
        }
        let mut groups: Vec<Group> = Vec::new();
        for (signature, members) in by_signature {
            let mut group =
                Group { classes: members, weights: vec![], activations: vec![], approximate: vec![] };
            for (position, &(number, block)) in signature.iter().enumerate() {
                let (place, value, axis, _) = axes[number];
                let indices = group
                    .classes
                    .iter()
                    .filter_map(|class| classes.get(class)?.get(position))
                    .flat_map(|(_, indices)| indices.iter().copied())
                    .collect();
                let member = Member { place, value, axis, block, indices };
                if graph.constant(value).is_some() {
                    group.weights.push(member);
                } else {
                    group.activations.push(member);
                }
            }
            let reasons = group.classes.iter().filter_map(|class| approximate.get(class)).flatten();
            for reason in reasons {
                if !group.approximate.contains(reason) {
                    group.approximate.push(reason.clone());
                }
            }
            let weighs =
                group.weights.iter().any(|member| graph.constant(member.value).is_some_and(|w| is_weight(w)));
            if weighs && !group.activations.is_empty() {
                group.weights.sort_by_key(|member| first_use(graph, member));
                groups.push(group);
            }
        }
        groups.sort_by_key(|group| group.weights.first().map(|member| first_use(graph, member)));
        Self { groups, barriers: barriers(graph, lanes, &axes) }
    }

    /// Number of units of all groups.
    pub fn units(&self) -> usize {
        self.groups.iter().map(Group::len).sum()
    }
}

/// The value at a place.
pub fn value_of(graph: &Graph, place: Place) -> Option<ValueId> {
    match place {
        Place::Value(value) => Some(value),
        Place::Operand(node, slot) => graph.get_node(node)?.input(slot as usize),
    }
}

/// Whether a constant is a matrix or more of numbers.
pub(super) fn is_weight(tensor: &Tensor) -> bool {
    let long = tensor.shape().iter().filter(|&&size| size != 1).count();
    let narrow = tensor.element().is_integer() && tensor.element().bits() <= 8;
    long > 1 && (tensor.element().is_float() || narrow)
}

/// Where the first node that takes a constant stands: the weights that make a channel come before those that take it,
/// and before their biases.
fn first_use(graph: &Graph, member: &Member) -> (u32, bool, usize, ValueId) {
    let nodes = graph.consumers(member.value).filter_map(|consumer| graph.get_node(consumer.node));
    let vector = !graph.constant(member.value).is_some_and(|tensor| is_weight(tensor));
    (nodes.map(|node| node.position()).min().unwrap_or(u32::MAX), vector, member.axis, member.value)
}

fn barriers(graph: &Graph, lanes: &Lanes, axes: &[(Place, ValueId, usize, Axis)]) -> Vec<Stays> {
    let mut stays = Vec::new();
    for &(place, value, index, axis) in axes {
        let constant = matches!(graph.value(value).producer(), Producer::Constant(_));
        let weight = graph.constant(value).is_some_and(|tensor| is_weight(tensor));
        if !matches!(place, Place::Value(_)) || !constant || !weight {
            continue;
        }
        let mut reasons: BTreeMap<_, usize> = BTreeMap::new();
        for lane in axis.lanes() {
            if let Some(barrier) = lanes.barrier(lane).filter(|barrier| barrier.reason != SPATIAL) {
                *reasons.entry(barrier).or_default() += 1;
            }
        }
        stays.extend(reasons.into_iter().map(|(barrier, count)| Stays {
            weight: graph.display_name(value),
            axis: index,
            size: axis.size(),
            lanes: count,
            at: barrier.at.clone(),
            reason: barrier.reason.clone(),
        }));
    }
    stays
}
