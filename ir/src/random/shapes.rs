//! Shapes computed in the graph, as exporters write them where sizes are open.

use std::sync::Arc;

use super::builder::{Builder, Step};
use crate::attributes::AttributeValue;
use crate::graph::{NewNode, ValueId};
use crate::tensor::Tensor;
use crate::types::ElementType;

pub(super) const STEPS: &[Step] = &[reshape, reshape, view, constant_of_shape, size_as_number, arithmetic];

/// The size of an axis, as a scalar.
fn size(builder: &mut Builder, value: ValueId, axis: usize) -> Option<ValueId> {
    let shape = builder.op("Shape", &[value])?;
    let index = builder.constant(Tensor::from_i64(&[], &[axis as i64])?);
    builder.node(NewNode::new("Gather", [shape, index]).with("axis", 0i64))
}

/// Scalars side by side.
fn stack(builder: &mut Builder, scalars: &[ValueId]) -> Option<ValueId> {
    let mut vectors = Vec::new();
    for &scalar in scalars {
        let node = if builder.graph.opset() < 13 {
            NewNode::new("Unsqueeze", [scalar]).with("axes", AttributeValue::Ints(vec![0]))
        } else {
            let axes = builder.integers(&[0]);
            NewNode::new("Unsqueeze", [scalar, axes])
        };
        vectors.push(builder.node(node)?);
    }
    builder.node(NewNode::new("Concat", vectors).with("axis", 0i64))
}

/// x.reshape(size(0), ..., -1), in the sizes of the graph.
fn reshape(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let rank = builder.rank(value).filter(|&rank| rank >= 2)?;
    let kept = 1 + builder.random.below(rank - 1);
    let mut sizes = Vec::new();
    for axis in 0..kept {
        sizes.push(size(builder, value, axis)?);
    }
    sizes.push(builder.constant(Tensor::from_i64(&[], &[-1])?));
    let shape = stack(builder, &sizes)?;
    builder.op("Reshape", &[value, shape])
}

/// Two axes merged by multiplying their sizes.
fn view(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let rank = builder.rank(value).filter(|&rank| rank >= 2)?;
    let (first, second) = (size(builder, value, 0)?, size(builder, value, 1)?);
    let mut sizes = vec![builder.op("Mul", &[first, second])?];
    for axis in 2..rank {
        sizes.push(size(builder, value, axis)?);
    }
    let shape = stack(builder, &sizes)?;
    builder.op("Reshape", &[value, shape])
}

fn constant_of_shape(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    if builder.element(value) != Some(ElementType::Float) {
        return None;
    }
    let shape = builder.op("Shape", &[value])?;
    let fill = Tensor::from_f64(ElementType::Float, &[1], &[builder.random.small()])?;
    let filled = builder.node(NewNode::new("ConstantOfShape", [shape]).with("value", Arc::new(fill)))?;
    builder.op("Add", &[value, filled])
}

/// A size as a factor.
fn size_as_number(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    if builder.element(value) != Some(ElementType::Float) {
        return None;
    }
    let (axis, _) = builder.axis(value)?;
    let size = size(builder, value, axis)?;
    let to = i64::from(ElementType::Float.code());
    let number = builder.node(NewNode::new("Cast", [size]).with("to", to))?;
    let root = builder.op("Sqrt", &[number])?;
    builder.op("Mul", &[value, root])
}

/// Sizes added, multiplied and divided.
fn arithmetic(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let (axis, _) = builder.axis(value)?;
    let size = size(builder, value, axis)?;
    let number = 1 + builder.random.below(4) as i64;
    let other = builder.constant(Tensor::from_i64(&[], &[number])?);
    let op_type = *builder.random.pick(&["Add", "Mul", "Div", "Sub", "Mod"]);
    builder.op(op_type, &[size, other])
}
