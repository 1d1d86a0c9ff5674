//! Movement of elements, computing nothing.

use super::builder::{Builder, Step};
use crate::attributes::AttributeValue;
use crate::dim::Dim;
use crate::graph::{NewNode, ValueId};
use crate::tensor::Tensor;
use crate::types::ElementType;

pub(super) const STEPS: &[Step] = &[
    transpose, transpose, transpose, reshape, reshape, flatten, concat, concat, split, slice, slice,
    unsqueeze, squeeze, gather, expand, pad,
];

fn transpose(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let rank = builder.rank(value).filter(|&rank| rank >= 2)?;
    let mut permutation: Vec<i64> = (0..rank as i64).collect();
    for place in (1..rank).rev() {
        permutation.swap(place, builder.random.below(place + 1));
    }
    builder.node(NewNode::new("Transpose", [value]).with("perm", AttributeValue::Ints(permutation)))
}

/// Two neighbouring axes become one, or the shape stays; a zero keeps an axis, -1 is what is left.
fn reshape(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let shape = builder.shape(value)?;
    let numbers: Vec<Option<i64>> = shape.iter().map(Dim::as_fixed).collect();
    if numbers.contains(&Some(0)) {
        return None;
    }
    let mut target: Vec<i64> = numbers.iter().map(|number| number.unwrap_or(0)).collect();
    if shape.len() >= 2 && builder.random.chance(60) {
        let place = builder.random.below(shape.len() - 1);
        target.splice(place..place + 2, [-1]);
        // A zero copies the axis at its own place, which is another one behind the merged two.
        if target[place + 1..].contains(&0) {
            return None;
        }
    } else if let Some(place) = target.len().checked_sub(1) {
        target[place] = -1;
    }
    let target = builder.integers(&target);
    builder.op("Reshape", &[value, target])
}

fn flatten(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let (axis, _) = builder.axis(value)?;
    builder.node(NewNode::new("Flatten", [value]).with("axis", axis as i64))
}

/// With a value that differs from it along one axis at most, perhaps itself.
fn concat(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let (axis, written) = builder.axis(value)?;
    let (element, shape) = (builder.element(value)?, builder.shape(value)?);
    let other = builder.other(|graph, other| {
        let same = |(place, (a, b)): (usize, (&Dim, &Dim))| place == axis || a == b;
        graph.element(other) == Some(element)
            && graph.shape(other).is_some_and(|other| {
                other.len() == shape.len() && shape.iter().zip(other).enumerate().all(same)
            })
    })?;
    builder.node(NewNode::new("Concat", [value, other]).with("axis", written))
}

/// Into two halves, of which one may have no use.
fn split(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let (axis, written) = builder.axis(value)?;
    let size = builder.size(value, axis).filter(|&size| size >= 2)?;
    let first = 1 + builder.random.below(size - 1);
    let sizes = [first as i64, (size - first) as i64];
    let node = if builder.graph.opset() < 13 {
        NewNode::new("Split", [value]).with("split", AttributeValue::Ints(sizes.to_vec()))
    } else {
        let sizes = builder.integers(&sizes);
        NewNode::new("Split", [value, sizes])
    };
    builder.node(NewNode { outputs: 2, ..node.with("axis", written) })
}

/// Along one axis: a part where its size is a number, else all of it or its end.
fn slice(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let (axis, written) = builder.axis(value)?;
    let (start, end) = match builder.size(value, axis) {
        Some(size) => {
            let start = builder.random.below(size);
            let end = start + 1 + builder.random.below(size.saturating_sub(start));
            (start as i64, if builder.random.chance(30) { i64::MAX } else { end as i64 })
        }
        None => (*builder.random.pick(&[0, -1]), i64::MAX),
    };
    let mut inputs = vec![value, builder.integers(&[start]), builder.integers(&[end])];
    inputs.push(builder.integers(&[written]));
    if builder.random.chance(50) {
        inputs.push(builder.integers(&[1]));
    }
    builder.op("Slice", &inputs)
}

fn with_axes(builder: &mut Builder, op_type: &str, value: ValueId, axis: i64) -> Option<ValueId> {
    let node = if builder.graph.opset() < 13 {
        NewNode::new(op_type, [value]).with("axes", AttributeValue::Ints(vec![axis]))
    } else {
        let axes = builder.integers(&[axis]);
        NewNode::new(op_type, [value, axes])
    };
    builder.node(node)
}

fn unsqueeze(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let axis = builder.random.below(builder.rank(value)? + 1);
    with_axes(builder, "Unsqueeze", value, axis as i64)
}

fn squeeze(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let one = Dim::fixed(1);
    let axis = builder.shape(value)?.iter().position(|size| *size == one)?;
    with_axes(builder, "Squeeze", value, axis as i64)
}

fn gather(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let (axis, written) = builder.axis(value)?;
    let size = builder.size(value, axis).filter(|&size| size > 0)?;
    let index = builder.random.below(size) as i64;
    let indices = match builder.random.chance(50) {
        true => Tensor::from_i64(&[], &[index])?,
        false => Tensor::vector_i64(&[index, 0, index - size as i64]),
    };
    let indices = builder.constant(indices);
    builder.node(NewNode::new("Gather", [value, indices]).with("axis", written))
}

fn expand(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let shape: Vec<i64> = builder.shape(value)?.iter().map(|size| size.as_fixed().unwrap_or(1)).collect();
    let more = if builder.random.chance(50) { vec![2] } else { vec![] };
    let shape = builder.integers(&[more, shape].concat());
    builder.op("Expand", &[value, shape])
}

fn pad(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let rank = builder.rank(value).filter(|&rank| rank > 0)?;
    if builder.element(value) != Some(ElementType::Float) {
        return None;
    }
    let mut pads = vec![0; 2 * rank];
    for _ in 0..2 {
        let place = builder.random.below(2 * rank);
        pads[place] = builder.random.below(2) as i64;
    }
    let pads = builder.integers(&pads);
    builder.op("Pad", &[value, pads])
}
