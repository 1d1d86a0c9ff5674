//! Removal: slices of constants go, and what nodes say of sizes follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use onnx_opt_ir::graph::{Consumer, GraphError, Slot};
use onnx_opt_ir::{Graph, NewNode, NodeId, Tensor, ValueId};
use thiserror::Error;

use super::couple::{Change, Kept, Operand};
use super::lanes::{Axis, Lanes, Place};
use crate::rules::facts::axis;

/// Why slices could not be removed.
#[derive(Debug, Error)]
pub enum RemovalError {
    /// A constant could not be cut.
    #[error("`{0}` cannot be cut")]
    Cut(String),
    /// An edit was refused.
    #[error(transparent)]
    Edit(#[from] GraphError),
    /// The graph does not fit together any more.
    #[error("what is left does not fit together: {0}")]
    Contradiction(String),
}

/// Removes classes of lanes from a graph: constants are cut, nodes are told the sizes that are left, types are inferred
/// anew. Inputs and outputs stay as they are.
///
/// # Errors
/// If something does not fit; the graph is then no longer of use.
pub fn remove(graph: &mut Graph, lanes: &Lanes, classes: &BTreeSet<u32>) -> Result<(), RemovalError> {
    if classes.is_empty() {
        return Ok(());
    }
    let goes = |class: u32| classes.contains(&class);
    let changes: Vec<(NodeId, Change)> = graph
        .nodes()
        .filter_map(|(id, node)| Some((id, Kept { graph, id, node, lanes, goes: &goes }.change()?)))
        .collect();
    let cut = cut(graph, lanes, &goes)?;
    let old: BTreeSet<ValueId> = cut.operands.iter().map(|(value, ..)| *value).collect();
    for (value, tensor) in cut.values {
        graph.set_constant(value, tensor)?;
    }
    for (value, uses) in group_by_tensor(cut.operands) {
        replace(graph, value, uses)?;
    }
    let mut replaced = old;
    for (id, change) in changes {
        replaced.extend(apply(graph, id, change)?);
    }
    for value in replaced {
        match graph.producer(value).map(|(id, ..)| id) {
            Some(id) => drop(graph.remove_dead([id], |_, _| {})),
            None => graph.remove_unused_constant(value),
        }
    }
    match graph.infer_anew().into_iter().next() {
        Some(error) => Err(RemovalError::Contradiction(error.to_string())),
        None => Ok(()),
    }
}

/// Tells a node what changed; gives the operands that it had before.
fn apply(graph: &mut Graph, id: NodeId, change: Change) -> Result<Vec<ValueId>, GraphError> {
    for name in change.dropped {
        graph.remove_attribute(id, name)?;
    }
    for attribute in change.attributes {
        graph.set_attribute(id, &attribute.name, attribute.value)?;
    }
    let mut before = Vec::new();
    for (slot, operand) in change.operands {
        let old = graph.node(id).input(slot);
        before.extend(old);
        let new = match operand {
            Operand::Constant(tensor) => Some(graph.add_constant(tensor)),
            Operand::Joined(parts) => match old {
                Some(old) => joined(graph, old, parts)?,
                None => None,
            },
        };
        graph.set_input(id, slot, new)?;
    }
    Ok(before)
}

/// The result of a Concat as that of `old` with other parts.
fn joined(
    graph: &mut Graph,
    old: ValueId,
    parts: Vec<Option<Tensor>>,
) -> Result<Option<ValueId>, GraphError> {
    let Some((_, node)) = graph.producer_of(old, "Concat") else { return Ok(Some(old)) };
    let mut inputs = node.inputs().to_vec();
    let mut new = NewNode {
        attributes: node.attributes().clone(),
        position: node.position(),
        ..NewNode::new("Concat", [])
    };
    for (input, part) in inputs.iter_mut().zip(parts) {
        if let Some(tensor) = part {
            *input = Some(graph.add_constant(tensor));
        }
    }
    new.inputs = inputs;
    let node = graph.add_node(new)?;
    Ok(graph.node(node).output(0))
}

/// The constants that lose slices.
struct Cut {
    values: Vec<(ValueId, Tensor)>,
    operands: Vec<(ValueId, NodeId, u32, Tensor)>,
}

fn cut(graph: &Graph, lanes: &Lanes, goes: &dyn Fn(u32) -> bool) -> Result<Cut, RemovalError> {
    let mut cut = Cut { values: Vec::new(), operands: Vec::new() };
    for (place, axes) in lanes.places() {
        let value = super::group::value_of(graph, place).filter(|&value| graph.constant(value).is_some());
        let Some(value) = value else { continue };
        let Some(tensor) = sliced(graph, lanes, value, axes, goes)? else { continue };
        match place {
            Place::Value(value) => cut.values.push((value, tensor)),
            Place::Operand(node, slot) => cut.operands.push((value, node, slot, tensor)),
        }
    }
    Ok(cut)
}

/// What is left of a constant, if it loses anything.
fn sliced(
    graph: &Graph,
    lanes: &Lanes,
    value: ValueId,
    axes: &[Axis],
    goes: &dyn Fn(u32) -> bool,
) -> Result<Option<Tensor>, RemovalError> {
    let Some(tensor) = graph.constant(value) else { return Ok(None) };
    let mut left: Option<Tensor> = None;
    for (index, axis) in axes.iter().enumerate() {
        let kept: Vec<usize> = axis
            .lanes()
            .enumerate()
            .filter(|(_, lane)| !goes(lanes.class(*lane)))
            .map(|(at, _)| at)
            .collect();
        if kept.len() < axis.size() {
            let whole = left.as_ref().unwrap_or(tensor);
            let part = take(whole, index, &kept);
            left = Some(part.ok_or_else(|| RemovalError::Cut(graph.display_name(value)))?);
        }
    }
    Ok(left)
}

/// The slices of a tensor along an axis at these indices. `None` for elements without bytes of their own, and indices
/// out of range.
pub(super) fn take(tensor: &Tensor, axis: usize, indices: &[usize]) -> Option<Tensor> {
    let bits = tensor.element().bits();
    if bits == 0 || !bits.is_multiple_of(8) {
        return None;
    }
    let size = *tensor.shape().get(axis)?;
    let inner = tensor.shape()[axis + 1..].iter().product::<usize>() * (bits / 8);
    let outer: usize = tensor.shape()[..axis].iter().product();
    let raw = tensor.raw();
    let mut bytes = Vec::with_capacity(outer * indices.len() * inner);
    for row in 0..outer {
        for &index in indices {
            if index >= size {
                return None;
            }
            let start = (row * size + index) * inner;
            bytes.extend_from_slice(raw.get(start..start + inner)?);
        }
    }
    let mut shape = tensor.shape().to_vec();
    shape[axis] = indices.len();
    Tensor::from_raw(tensor.element(), &shape, Bytes::from(bytes)).ok()
}

/// A new tensor and the operands that it is for.
type Uses = Vec<(Arc<Tensor>, Vec<(NodeId, u32)>)>;

fn group_by_tensor(cut: Vec<(ValueId, NodeId, u32, Tensor)>) -> BTreeMap<ValueId, Uses> {
    let mut by_value: BTreeMap<ValueId, Uses> = BTreeMap::new();
    for (value, node, slot, tensor) in cut {
        let uses = by_value.entry(value).or_default();
        match uses.iter_mut().find(|(known, _)| **known == tensor) {
            Some((_, places)) => places.push((node, slot)),
            None => uses.push((Arc::new(tensor), vec![(node, slot)])),
        }
    }
    by_value
}

/// Gives the uses of a constant vector what is left of it for each; the name stays where all agree.
fn replace(graph: &mut Graph, value: ValueId, uses: Uses) -> Result<(), GraphError> {
    let all: usize = uses.iter().map(|(_, places)| places.len()).sum();
    if let [(tensor, _)] = &uses[..]
        && all == graph.use_count(value)
    {
        return graph.set_constant(value, tensor.clone());
    }
    for (tensor, places) in uses {
        let constant = graph.add_constant(tensor);
        for (node, slot) in places {
            graph.set_input(node, slot as usize, Some(constant))?;
        }
    }
    Ok(())
}

/// The graph with the slices of these classes set to zero in its weights: what is left of it computes the same, unless
/// a group says that it is approximate.
///
/// # Errors
/// If a constant could not be changed.
pub fn masked(graph: &Graph, lanes: &Lanes, classes: &BTreeSet<u32>) -> Result<Graph, RemovalError> {
    let mut result = graph.clone();
    for (place, axes) in lanes.places() {
        let Some(value) = super::group::value_of(graph, place) else { continue };
        let Some(tensor) = graph.constant(value) else { continue };
        let Some(zeros) = zeros(graph, value, tensor).filter(|_| !scales(graph, place)) else { continue };
        let mut bytes = tensor.raw().to_vec();
        let mut news = false;
        for (index, axis) in axes.iter().enumerate() {
            let width = tensor.element().bits() / 8;
            let inner = tensor.shape()[index + 1..].iter().product::<usize>() * width;
            for (at, lane) in axis.lanes().enumerate() {
                if !classes.contains(&lanes.class(lane)) {
                    continue;
                }
                news = true;
                let row = inner * axis.size();
                for start in (0..bytes.len()).step_by(row.max(1)) {
                    let slice = start + at * inner..start + (at + 1) * inner;
                    bytes[slice.clone()].copy_from_slice(&zeros[slice]);
                }
            }
        }
        if !news {
            continue;
        }
        let zeroed = Tensor::from_raw(tensor.element(), tensor.shape(), bytes.into())
            .map_err(|_| RemovalError::Cut(graph.display_name(value)))?;
        match place {
            Place::Value(value) => result.set_constant(value, zeroed)?,
            Place::Operand(node, slot) => {
                let constant = result.add_constant(zeroed);
                result.set_input(node, slot as usize, Some(constant))?;
            }
        }
    }
    Ok(result)
}

/// The bytes of a constant that is zero all over, which codes are at their zero points. `None` for integers that are no
/// codes.
fn zeros(graph: &Graph, value: ValueId, tensor: &Tensor) -> Option<Vec<u8>> {
    let mut zeros = vec![0; tensor.raw().len()];
    if tensor.element().is_float() {
        return Some(zeros);
    }
    let takes =
        |consumer: Consumer| (consumer.slot == Slot::Input(0)).then(|| graph.get_node(consumer.node))?;
    let node = graph.consumers(value).filter_map(takes).find(|node| node.is("DequantizeLinear"))?;
    let Some(points) = node.input(2) else { return Some(zeros) };
    let points = graph.constant(points)?;
    let width = points.element().bits() / 8;
    let axis = axis(node.int("axis").unwrap_or(1), tensor.shape().len()).unwrap_or(0);
    let inner = tensor.shape().iter().skip(axis + 1).product::<usize>() * width;
    let chunk = if points.len() == 1 { zeros.len() } else { inner };
    for (channel, codes) in zeros.chunks_mut(chunk.max(1)).enumerate() {
        let from = channel % points.len().max(1) * width;
        let point = points.raw().get(from..from + width)?;
        codes.chunks_mut(width.max(1)).for_each(|code| code.copy_from_slice(point));
    }
    Some(zeros)
}

/// Whether a constant divides: zeros in it would make what is no number.
pub(super) fn scales(graph: &Graph, place: Place) -> bool {
    match place {
        Place::Operand(node, slot) => divides(graph, node, slot),
        Place::Value(value) => is_divisor(graph, value),
    }
}

fn divides(graph: &Graph, node: NodeId, slot: u32) -> bool {
    let Some(node) = graph.get_node(node) else { return false };
    match node.op_type() {
        "BatchNormalization" => slot >= 3,
        "Div" | "Pow" | "Mod" | "QuantizeLinear" | "DequantizeLinear" => slot > 0,
        "Cast" | "Expand" | "Identity" | "Reshape" | "Squeeze" | "Transpose" | "Unsqueeze" => {
            slot == 0 && node.output(0).is_some_and(|moved| is_divisor(graph, moved))
        }
        _ => false,
    }
}

fn is_divisor(graph: &Graph, value: ValueId) -> bool {
    graph.consumers(value).any(|consumer| match consumer.slot {
        Slot::Input(slot) => divides(graph, consumer.node, slot),
        Slot::Capture(_) => false,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_taken_along_any_axis() {
        let tensor = Tensor::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let taken = |axis, indices: &[usize]| take(&tensor, axis, indices).and_then(|tensor| tensor.to_f32());
        assert_eq!(taken(1, &[0, 2]), Some(vec![1.0, 3.0, 4.0, 6.0]));
        assert_eq!(taken(0, &[1]), Some(vec![4.0, 5.0, 6.0]));
        assert_eq!((taken(1, &[3]), taken(2, &[0])), (None, None));
    }
}
