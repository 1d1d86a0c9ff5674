//! Constant weights: what an operator does to each channel. Numbers are computed in double precision and rounded once, to
//! the element type of the weight.

use std::sync::Arc;

use half::{bf16, f16};
use multiversion::multiversion;
use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::tensor::element_count;
use onnx_opt_ir::{ElementType, Graph, Node, Tensor, ValueId};

use super::batch_normalization::BatchNormalization;
use crate::matrix;
use crate::rewrite::{Miss, ensure, found};

/// The axis of a tensor that holds its channels.
pub(super) struct Channels {
    /// Number of axes of the tensor.
    pub rank: usize,
    /// Which of them.
    pub axis: usize,
    /// Its size.
    pub count: usize,
}

impl Channels {
    /// The axis `axis` of a value that must provably have `count` channels.
    pub fn of(graph: &Graph, value: ValueId, axis: usize, count: usize) -> Result<Self, Miss> {
        let shape = graph.shape(value).ok_or("the shape of the operand is not known")?;
        let size = shape.get(axis).and_then(|size| size.as_fixed());
        ensure(size == i64::try_from(count).ok(), "the operand is not known to have all channels")?;
        Ok(Self { rank: shape.len(), axis, count })
    }
}

/// `x ↦ scale·x + shift`, with one entry for each channel.
pub(super) struct Affine {
    /// Factors.
    pub scale: Vec<f64>,
    /// Summands.
    pub shift: Vec<f64>,
}

impl Affine {
    /// What a BatchNormalization, Mul, Div, Add or Sub by constants does to its operand `x`.
    ///
    /// # Errors
    /// If it is not the same number for the whole of each channel, or changes the shape.
    pub fn read(graph: &Graph, node: &Node, x: ValueId, channels: &Channels) -> Result<Self, Miss> {
        ensure(channels.count > 0, "there are no channels")?;
        if node.is("BatchNormalization") {
            let affine = BatchNormalization::read(graph, node)?.affine();
            let fits = channels.axis == 1 && affine.scale.len() == channels.count;
            ensure(fits, "the channels of the normalization are others")?;
            return Ok(affine);
        }
        let first = node.input(0) == Some(x);
        let constant = found(node.input(usize::from(first)))?;
        let values = per_channel(graph, node, constant, channels)?;
        let (ones, zeros) = (vec![1.0; channels.count], vec![0.0; channels.count]);
        Ok(match (node.op_type(), first) {
            ("Mul", _) => Self { scale: values, shift: zeros },
            ("Div", true) => Self { scale: values.iter().map(|value| 1.0 / value).collect(), shift: zeros },
            ("Add", _) => Self { scale: ones, shift: values },
            ("Sub", true) => Self { scale: ones, shift: values.iter().map(|value| -value).collect() },
            ("Sub", false) => Self { scale: vec![-1.0; channels.count], shift: values },
            _ => return Err(Miss::NoMatch),
        })
    }

    /// This, then `next`.
    pub fn then(&self, next: &Self) -> Self {
        let scale = self.scale.iter().zip(&next.scale).map(|(a, b)| a * b).collect();
        Self { scale, shift: next.apply(&self.shift) }
    }

    /// The images of one number for each channel.
    pub fn apply(&self, values: &[f64]) -> Vec<f64> {
        self.scale
            .iter()
            .zip(&self.shift)
            .zip(values)
            .map(|((scale, shift), value)| scale * value + shift)
            .collect()
    }

    /// Whether it multiplies.
    pub fn scales(&self) -> bool {
        self.scale.iter().any(|&scale| scale != 1.0)
    }

    /// Whether it adds.
    pub fn shifts(&self) -> bool {
        self.shift.iter().any(|&shift| shift != 0.0)
    }
}

/// The entries, one for each channel, of a constant operand of an elementwise `node` whose result has these channels.
///
/// # Errors
/// If the constant varies along another axis or would change the shape of the result.
fn per_channel(graph: &Graph, node: &Node, constant: ValueId, channels: &Channels) -> Result<Vec<f64>, Miss> {
    let tensor = graph.constant(constant).ok_or("the operand is not constant")?;
    let axis = if graph.opset() < 7 { old_axis(node, constant, tensor, channels)? } else { None };
    channel_values(tensor, axis, channels)
}

/// Before version 7 only the second operand is broadcast, where an attribute says so, from the axis that another says.
fn old_axis(
    node: &Node,
    constant: ValueId,
    tensor: &Tensor,
    channels: &Channels,
) -> Result<Option<usize>, Miss> {
    if node.int("broadcast") != Some(1) {
        ensure(tensor.rank() == channels.rank, "the operand has another rank")?;
        return Ok(None);
    }
    ensure(node.input(1) == Some(constant), "only the second operand is broadcast")?;
    match node.int("axis") {
        None => Ok(None),
        Some(axis) => Ok(Some(usize::try_from(axis).map_err(|_| "the axis is negative")?)),
    }
}

/// The entries of a tensor that is broadcast to these channels, its first axis at `axis` or its last at the last.
pub(super) fn channel_values(
    tensor: &Tensor,
    axis: Option<usize>,
    channels: &Channels,
) -> Result<Vec<f64>, Miss> {
    let start = match axis {
        Some(axis) => axis,
        None => channels.rank.checked_sub(tensor.rank()).ok_or("the operand has a higher rank")?,
    };
    let end = start.checked_add(tensor.rank()).ok_or("the axis is out of range")?;
    ensure(end <= channels.rank, "the operand has a higher rank")?;
    for (place, &size) in tensor.shape().iter().enumerate() {
        let fits = size == 1 || (start + place == channels.axis && size == channels.count);
        ensure(fits, "the operand varies along other axes than that of the channels")?;
    }
    let values = numbers(tensor)?;
    match values[..] {
        [value] => Ok(vec![value; channels.count]),
        _ => Ok(values),
    }
}

/// The tensor of a weight that disappears from the file when its only user does.
///
/// # Errors
/// If it is not constant, or stays.
pub(super) fn own_weight(graph: &Graph, weight: ValueId) -> Result<&Arc<Tensor>, Miss> {
    let tensor = graph.constant(weight).ok_or("the weight is not constant")?;
    let local = matches!(graph.get_value(weight).map(|value| value.producer()), Some(Producer::Constant(_)));
    let formal = graph.inputs().iter().any(|input| input.value == weight);
    ensure(local && graph.is_inner(weight) && !formal, "the weight has other users")?;
    Ok(tensor)
}

/// The entries of a constant bias vector, zeros for one left out.
///
/// # Errors
/// If it is not constant or has another length.
pub(super) fn bias_values(graph: &Graph, bias: Option<ValueId>, count: usize) -> Result<Vec<f64>, Miss> {
    let Some(bias) = bias else { return Ok(vec![0.0; count]) };
    let tensor = graph.constant(bias).ok_or("the bias is not constant")?;
    ensure(tensor.shape() == [count], "the bias has another shape")?;
    numbers(tensor)
}

/// The elements of a floating-point tensor, row-major.
///
/// # Errors
/// For other types.
pub(super) fn numbers(tensor: &Tensor) -> Result<Vec<f64>, Miss> {
    let mut all = Vec::with_capacity(tensor.len());
    decode(tensor.element(), &tensor.to_raw(), &mut all)?;
    Ok(all)
}

/// Shows the elements of a floating-point tensor in rows of so many, of which one at a time is held.
///
/// # Errors
/// For other types.
pub(super) fn each_row(tensor: &Tensor, length: usize, visit: &mut dyn FnMut(&[f64])) -> Result<(), Miss> {
    let bytes = tensor.element().raw_len(length).unwrap_or(0).max(1);
    let mut row = Vec::with_capacity(length);
    for raw in tensor.to_raw().chunks(bytes) {
        row.clear();
        decode(tensor.element(), raw, &mut row)?;
        visit(&row);
    }
    Ok(())
}

/// Appends the numbers that these bytes are.
#[multiversion(targets("x86_64+avx2"))]
fn decode(element: ElementType, raw: &[u8], numbers: &mut Vec<f64>) -> Result<(), Miss> {
    match element {
        ElementType::Float => {
            numbers.extend(raw.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))));
        }
        ElementType::Double => {
            numbers.extend(raw.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)))
        }
        ElementType::Float16 => {
            numbers.extend(raw.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f64()));
        }
        ElementType::Bfloat16 => {
            numbers.extend(raw.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f64()));
        }
        _ => return Err("the constant is not floating-point".into()),
    }
    Ok(())
}

/// A tensor of these numbers, each rounded to the element type.
///
/// # Errors
/// If the type is not floating-point, or a number leaves its range.
pub(super) fn rounded(
    element: ElementType,
    shape: &[usize],
    values: impl Iterator<Item = f64>,
) -> Result<Tensor, Miss> {
    let mut finite = true;
    let mut raw =
        Vec::with_capacity(element_count(shape).and_then(|count| element.raw_len(count)).unwrap_or(0));
    macro_rules! encode {
        ($round:expr) => {
            for value in values {
                let value = $round(value);
                finite &= value.is_finite();
                raw.extend_from_slice(&value.to_le_bytes());
            }
        };
    }
    match element {
        ElementType::Float => encode!(|value| value as f32),
        ElementType::Double => encode!(|value: f64| value),
        ElementType::Float16 => encode!(f16::from_f64),
        ElementType::Bfloat16 => encode!(bf16::from_f64),
        _ => return Err("the weight is not floating-point".into()),
    }
    ensure(finite, "a folded weight would leave the range of its type")?;
    Tensor::from_raw(element, shape, raw.into()).map_err(|error| error.to_string().into())
}

/// The product of two row-major matrices of weights, of `[rows, inner]` and `[inner, columns]` elements, unrounded.
///
/// # Errors
/// If the weights are not floating-point, or of two types.
pub(super) fn product(left: &Tensor, right: &Tensor, sizes: [usize; 3]) -> Result<Vec<f64>, Miss> {
    ensure(left.element() == right.element(), "the weights differ in type")?;
    macro_rules! product_as {
        ($type:ty) => {{
            let number = |bytes| <$type>::from_le_bytes(bytes).into();
            matrix::product(left.to_raw().as_chunks().0, right.to_raw().as_chunks().0, number, sizes)
        }};
    }
    Ok(match left.element() {
        ElementType::Float => product_as!(f32),
        ElementType::Double => product_as!(f64),
        ElementType::Float16 => product_as!(f16),
        ElementType::Bfloat16 => product_as!(bf16),
        _ => return Err("the weight is not floating-point".into()),
    })
}

/// Sums that are added up side by side, as one would wait for the other.
pub(super) const LANES: usize = 8;

/// Σ aᵢ·bᵢ
#[multiversion(targets("x86_64+avx2"))]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut add = |a: &[f64], b: &[f64]| {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    };
    a.iter().zip(b).for_each(|(a, b)| add(a, b));
    add(a_rest, b_rest);
    sums.iter().sum()
}

/// Each number so many times.
pub(super) fn repeated(numbers: &[f64], times: usize) -> Vec<f64> {
    let mut all = Vec::with_capacity(numbers.len() * times);
    numbers.iter().for_each(|&number| all.extend(std::iter::repeat_n(number, times)));
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn constants_of_channels_in_every_spelling() {
        let channels = Channels { rank: 4, axis: 1, count: 3 };
        let values = |shape: &[usize], axis| {
            let count: usize = shape.iter().product();
            let tensor = Tensor::from_f64(ElementType::Double, shape, &vec![2.0; count]).unwrap();
            channel_values(&tensor, axis, &channels).ok()
        };
        for shape in [&[][..], &[1], &[3, 1, 1], &[1, 3, 1, 1], &[1, 1, 1, 1]] {
            assert_eq!(values(shape, None), Some(vec![2.0; 3]), "{shape:?}");
        }
        assert_eq!(values(&[3], Some(1)), Some(vec![2.0; 3]));
        for shape in [&[3][..], &[2, 1, 1], &[3, 3, 1, 1], &[1, 3, 1, 2], &[1, 1, 1, 1, 1], &[0]] {
            assert_eq!(values(shape, None), None, "{shape:?}");
        }
        assert_eq!(values(&[3], Some(3)), None);
        assert_eq!(values(&[3], Some(usize::MAX - 1)), None);
    }

    #[test]
    fn sums_of_products() {
        assert_eq!(dot(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.0, -1.0, 2.0, 0.5, 3.0]), 22.0);
        assert_eq!(dot(&[], &[]), 0.0);
    }
}
