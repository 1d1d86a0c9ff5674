//! Arithmetic, and layers with weights.

use super::builder::{Builder, Step};
use crate::attributes::AttributeValue;
use crate::dim::Dim;
use crate::graph::{NewNode, ValueId};
use crate::tensor::Tensor;
use crate::types::ElementType;

pub(super) const ELEMENTWISE: &[Step] =
    &[unary, unary, binary, binary, binary, binary, clip, cast, choose, gelu, hard_swish, power];

pub(super) const WEIGHTED: &[Step] = &[
    matmul,
    matmul,
    gemm,
    convolution,
    convolution,
    batch_normalization,
    layer_normalization,
    normalization_by_hand,
    pool,
    softmax,
    reduce,
    reduce,
];

fn unary(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    const FLOAT: &[&str] = &[
        "Relu",
        "Neg",
        "Abs",
        "Sigmoid",
        "Tanh",
        "Erf",
        "Identity",
        "LeakyRelu",
        "HardSigmoid",
        "Elu",
        "Softplus",
        "Sin",
    ];
    let op_type = match builder.element(value)? {
        ElementType::Bool => *builder.random.pick(&["Not", "Identity"]),
        // Engines have float64 kernels for few operators.
        ElementType::Float => *builder.random.pick(FLOAT),
        _ => *builder.random.pick(&["Neg", "Abs", "Identity"]),
    };
    builder.op(op_type, &[value])
}

fn binary(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let element = builder.element(value)?;
    let other = partner(builder, value)?;
    let op_type = match element {
        ElementType::Bool => *builder.random.pick(&["And", "Or", "Xor"]),
        _ if element.is_integer() && builder.graph.opset() < 12 => "Add",
        _ => *builder.random.pick(&["Add", "Sub", "Mul", "Add", "Mul", "Max", "Min"]),
    };
    let pair = if builder.random.chance(50) { [value, other] } else { [other, value] };
    match (element.is_float(), builder.graph.constant(other).is_some()) {
        (true, true) if builder.random.chance(20) => {
            let divisor = Tensor::scalar(element, *builder.random.pick(&[0.5, 2.0, 1.0, 3.0, -1.0]))?;
            let divisor = builder.constant(divisor);
            builder.op("Div", &[value, divisor])
        }
        _ => builder.op(op_type, &pair),
    }
}

/// A value or constant that broadcasts with a value whatever the sizes.
fn partner(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let (element, shape) = (builder.element(value)?, builder.shape(value)?);
    if builder.random.chance(50) {
        let one = Dim::fixed(1);
        let fits = |a: &Dim, b: &Dim| a == b || *a == one || *b == one;
        return builder.other(|graph, other| {
            graph.element(other) == Some(element)
                && graph
                    .shape(other)
                    .is_some_and(|other| shape.iter().rev().zip(other.iter().rev()).all(|(a, b)| fits(a, b)))
        });
    }
    let rank = builder.random.below(shape.len() + 1);
    let sizes: Vec<usize> = shape[shape.len() - rank..]
        .iter()
        .map(|dim| dim.as_fixed().filter(|_| builder.random.chance(60)).unwrap_or(1).max(0) as usize)
        .collect();
    builder.weights(element, &sizes)
}

fn clip(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let element = builder.element(value).filter(|element| *element == ElementType::Float)?;
    let low = builder.constant(Tensor::scalar(element, 0.0)?);
    let high = builder.constant(Tensor::scalar(element, 6.0)?);
    builder.op("Clip", &[value, low, high])
}

/// To a wider type or a number, and perhaps back: no cast rounds to integers, where a tie decides.
fn cast(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let element = builder.element(value)?;
    let to = match element {
        ElementType::Float => ElementType::Double,
        ElementType::Double | ElementType::Bool | ElementType::Int32 => ElementType::Float,
        ElementType::Int64 => *builder.random.pick(&[ElementType::Float, ElementType::Int32]),
        _ => return None,
    };
    let cast = |to: ElementType, value| NewNode::new("Cast", [value]).with("to", i64::from(to.code()));
    let there = builder.node(cast(to, value))?;
    if element.is_float() && builder.random.chance(70) {
        return builder.node(cast(element, there));
    }
    Some(there)
}

fn choose(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let other = partner(builder, value)?;
    let scalar = |graph: &crate::Graph, value| {
        graph.element(value) == Some(ElementType::Bool) && graph.rank(value) == Some(0)
    };
    let condition = builder.other(scalar)?;
    builder.op("Where", &[condition, value, other])
}

/// x·0.5·(1 + erf(x/√2)), as exporters write it.
fn gelu(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    builder.element(value).filter(|element| *element == ElementType::Float)?;
    let mut scalar = |number: f64| Some(builder.constant(Tensor::scalar(ElementType::Float, number)?));
    let (root, one, half) = (scalar(std::f64::consts::SQRT_2)?, scalar(1.0)?, scalar(0.5)?);
    let scaled = builder.op("Div", &[value, root])?;
    let erf = builder.op("Erf", &[scaled])?;
    let shifted = builder.op("Add", &[erf, one])?;
    let product = builder.op("Mul", &[value, shifted])?;
    builder.op("Mul", &[product, half])
}

/// x·clip(x + 3, 0, 6)/6, as exporters write it.
fn hard_swish(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    builder.element(value).filter(|element| *element == ElementType::Float)?;
    let mut scalar = |number: f64| Some(builder.constant(Tensor::scalar(ElementType::Float, number)?));
    let (three, zero, six) = (scalar(3.0)?, scalar(0.0)?, scalar(6.0)?);
    let shifted = builder.op("Add", &[value, three])?;
    let clipped = builder.op("Clip", &[shifted, zero, six])?;
    let product = builder.op("Mul", &[value, clipped])?;
    builder.op("Div", &[product, six])
}

fn power(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let element = builder.element(value).filter(|element| *element == ElementType::Float)?;
    let exponent = *builder.random.pick(&[1.0, 2.0]);
    let exponent = builder.constant(Tensor::scalar(element, exponent)?);
    builder.op("Pow", &[value, exponent])
}

/// The last axis of a float value of at least two, if its size is a number.
fn features(builder: &Builder, value: ValueId) -> Option<usize> {
    let rank = builder.rank(value).filter(|&rank| rank >= 2 && builder.is_float(value))?;
    builder.size(value, rank - 1).filter(|&size| size > 0)
}

fn matmul(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let (inner, outer) = (features(builder, value)?, 1 + builder.random.below(6));
    let element = builder.element(value)?;
    let weights = builder.weights(element, &[inner, outer])?;
    let product = builder.op("MatMul", &[value, weights])?;
    if builder.random.chance(50) {
        let bias = builder.weights(element, &[outer])?;
        return builder.op("Add", &[product, bias]);
    }
    Some(product)
}

fn gemm(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    if builder.rank(value) != Some(2) || builder.element(value) != Some(ElementType::Float) {
        return None;
    }
    let (inner, outer) = (features(builder, value)?, 1 + builder.random.below(6));
    let transposed = builder.random.chance(50);
    let shape = if transposed { [outer, inner] } else { [inner, outer] };
    let weights = builder.weights(ElementType::Float, &shape)?;
    let bias = builder.weights(ElementType::Float, &[outer])?;
    let alpha = *builder.random.pick(&[1.0f32, 0.5]);
    let gemm = NewNode::new("Gemm", [value, weights, bias]).with("transB", i64::from(transposed));
    builder.node(gemm.with("alpha", alpha))
}

/// Channels of a float picture.
fn channels(builder: &Builder, value: ValueId) -> Option<usize> {
    if builder.rank(value) != Some(4) || builder.element(value) != Some(ElementType::Float) {
        return None;
    }
    let large = |axis| builder.size(value, axis).is_some_and(|size| size >= 3);
    builder.size(value, 1).filter(|&channels| channels > 0 && large(2) && large(3))
}

fn convolution(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let channels = channels(builder, value)?;
    let group = if builder.random.chance(25) { channels } else { 1 };
    let outer = group * (1 + builder.random.below(2));
    let kernel = *builder.random.pick(&[1, 3]);
    let weights = builder.weights(ElementType::Float, &[outer, channels / group, kernel, kernel])?;
    let pad = if kernel == 3 && builder.random.chance(60) { 1 } else { 0 };
    let mut inputs = vec![value, weights];
    if builder.random.chance(50) {
        inputs.push(builder.weights(ElementType::Float, &[outer])?);
    }
    let conv = NewNode::new("Conv", inputs).with("group", group as i64);
    let result = builder.node(conv.with("pads", AttributeValue::Ints(vec![pad; 4])))?;
    if builder.random.chance(40) {
        return batch_normalization(builder, result);
    }
    Some(result)
}

fn batch_normalization(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let channels = channels(builder, value)?;
    let mut inputs = vec![value];
    for _ in 0..3 {
        inputs.push(builder.weights(ElementType::Float, &[channels])?);
    }
    let variance: Vec<f64> = (0..channels).map(|_| 0.5 + builder.random.small().abs()).collect();
    let variance = Tensor::from_f64(ElementType::Float, &[channels], &variance)?;
    inputs.push(builder.constant(variance));
    builder.op("BatchNormalization", &inputs)
}

fn layer_normalization(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    let size = features(builder, value).filter(|_| builder.element(value) == Some(ElementType::Float))?;
    if builder.graph.opset() < 17 {
        return None;
    }
    let (scale, bias) =
        (builder.weights(ElementType::Float, &[size])?, builder.weights(ElementType::Float, &[size])?);
    builder.op("LayerNormalization", &[value, scale, bias])
}

/// (x - mean)/√(variance + ε), as exporters write it.
fn normalization_by_hand(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    features(builder, value).filter(|_| builder.element(value) == Some(ElementType::Float))?;
    let mean = mean(builder, value, -1)?;
    let centred = builder.op("Sub", &[value, mean])?;
    let two = builder.constant(Tensor::scalar(ElementType::Float, 2.0)?);
    let squared = builder.op("Pow", &[centred, two])?;
    let variance = self::mean(builder, squared, -1)?;
    let epsilon = builder.constant(Tensor::scalar(ElementType::Float, 1e-2)?);
    let shifted = builder.op("Add", &[variance, epsilon])?;
    let deviation = builder.op("Sqrt", &[shifted])?;
    builder.op("Div", &[centred, deviation])
}

fn mean(builder: &mut Builder, value: ValueId, axis: i64) -> Option<ValueId> {
    let node = reduction(builder, "ReduceMean", value, axis, true);
    builder.node(node)
}

/// A reduction over one axis: an attribute before opset 18, an operand since (ReduceSum: 13).
fn reduction(builder: &mut Builder, op_type: &str, value: ValueId, axis: i64, keep: bool) -> NewNode {
    let since = if op_type == "ReduceSum" { 13 } else { 18 };
    let node = if builder.graph.opset() < since {
        NewNode::new(op_type, [value]).with("axes", AttributeValue::Ints(vec![axis]))
    } else {
        let axes = builder.integers(&[axis]);
        NewNode::new(op_type, [value, axes])
    };
    node.with("keepdims", i64::from(keep))
}

fn reduce(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    if builder.element(value) != Some(ElementType::Float) {
        return None;
    }
    let (_, axis) = builder.axis(value)?;
    let op_type = *builder.random.pick(&["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"]);
    let keep = builder.random.chance(60);
    let node = reduction(builder, op_type, value, axis, keep);
    builder.node(node)
}

fn softmax(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    if builder.element(value) != Some(ElementType::Float) {
        return None;
    }
    let (_, axis) = builder.axis(value)?;
    builder.node(NewNode::new("Softmax", [value]).with("axis", axis))
}

fn pool(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    channels(builder, value)?;
    match builder.random.below(3) {
        0 => builder.op("GlobalAveragePool", &[value]),
        kind => {
            let op_type = if kind == 1 { "MaxPool" } else { "AveragePool" };
            let square = || AttributeValue::Ints(vec![2, 2]);
            let node = NewNode::new(op_type, [value]).with("kernel_shape", square());
            builder.node(node.with("strides", square()))
        }
    }
}
