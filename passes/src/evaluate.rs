//! A small evaluator of single nodes, exact by construction: it moves elements bit by bit, counts in integers, and
//! otherwise knows only what IEEE 754 rounds correctly. Shape arithmetic and scalars fold through it without an
//! engine.

use std::sync::Arc;

use bytes::Bytes;
use onnx_opt_ir::engine::{ConstEval, EngineError};
use onnx_opt_ir::tensor::{element_count, row_major_strides};
use onnx_opt_ir::{Context, ElementType, Node, Tensor};

/// The built-in evaluator.
pub struct BuiltIn;

/// Arithmetic on more elements is left to an engine, which is faster.
const MAX_ARITHMETIC: usize = 1 << 16;

impl ConstEval for BuiltIn {
    fn evaluate(
        &self,
        _: &Context,
        node: &Node,
        inputs: &[Option<Arc<Tensor>>],
    ) -> Result<Vec<Option<Tensor>>, EngineError> {
        let operands: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_deref).collect();
        match result(node, &operands) {
            Some(tensor) => Ok(vec![Some(tensor)]),
            None => Err(EngineError::Unsupported {
                engine: "the built-in evaluator",
                what: node.op_type().to_owned(),
            }),
        }
    }
}

/// The one result of a node, if this evaluator knows it.
fn result(node: &Node, operands: &[Option<&Tensor>]) -> Option<Tensor> {
    if !node.is(node.op_type()) || node.outputs().len() != 1 {
        return None;
    }
    let operand = |index: usize| operands.get(index).copied().flatten();
    // An operand since some version of the operator, an attribute before.
    let list = |index: usize, name: &str| match operand(index) {
        Some(tensor) => tensor.to_i64(),
        None => node.ints(name).map(<[i64]>::to_vec),
    };
    let x = operand(0)?;
    match node.op_type() {
        "Identity" => Some(x.clone()),
        "Reshape" => x.reshaped(&reshape(x, &list(1, "shape")?, node.int("allowzero") == Some(1))?),
        "Flatten" => {
            let axis = place(node.int("axis")?, x.rank() + 1)?;
            let (front, back) = x.shape().split_at(axis);
            x.reshaped(&[element_count(front)?, element_count(back)?])
        }
        "Squeeze" => {
            let axes = list(1, "axes").map(|axes| places(&axes, x.rank()));
            let squeezed = |axis: usize| match &axes {
                Some(axes) => axes.as_ref().is_some_and(|axes| axes.contains(&axis)),
                None => x.shape()[axis] == 1,
            };
            let kept: Vec<usize> =
                (0..x.rank()).filter(|&axis| !squeezed(axis)).map(|axis| x.shape()[axis]).collect();
            x.reshaped(&kept)
        }
        "Unsqueeze" => {
            let axes = list(1, "axes")?;
            let rank = x.rank() + axes.len();
            let axes = places(&axes, rank)?;
            let mut rest = x.shape().iter().copied();
            let shape: Option<Vec<usize>> =
                (0..rank).map(|axis| if axes.contains(&axis) { Some(1) } else { rest.next() }).collect();
            x.reshaped(&shape?)
        }
        "Transpose" => match node.ints("perm") {
            Some(order) => x.transposed(&places(order, x.rank())?),
            None => x.transposed(&(0..x.rank()).rev().collect::<Vec<_>>()),
        },
        "Concat" => {
            let parts = operands.iter().copied().collect::<Option<Vec<_>>>()?;
            Tensor::concatenated(&parts, place(node.int("axis")?, x.rank())?)
        }
        "Slice" => {
            let (starts, ends) = (list(1, "starts")?, list(2, "ends")?);
            let axes = list(3, "axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
            let steps = operand(4).map_or_else(|| Some(vec![1; starts.len()]), Tensor::to_i64)?;
            sliced(x, &starts, &ends, &axes, &steps)
        }
        "Gather" => gathered(x, operand(1)?, node.int("axis")?),
        "Expand" => {
            let wanted: Option<Vec<usize>> =
                operand(1)?.to_i64()?.into_iter().map(|size| usize::try_from(size).ok()).collect();
            let shape = broadcast(x.shape(), &wanted?)?;
            picked(x, &shape, broadcast_index(x.shape(), &shape))
        }
        "Cast" => cast(x, ElementType::from_code(i32::try_from(node.int("to")?).ok()?)?),
        "Where" => {
            let (a, b) = (operand(1)?, operand(2)?);
            let shape = broadcast(&broadcast(x.shape(), a.shape())?, b.shape())?;
            chosen(x, a, b, &shape)
        }
        op_type => match operands {
            [Some(x)] => unary(op_type, x),
            [Some(a), Some(b)] => binary(op_type, a, b),
            _ => None,
        },
    }
}

// ---- Movement

/// An axis counted from the front.
fn place(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

fn places(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    axes.iter().map(|&axis| place(axis, rank)).collect()
}

/// The shape that `Reshape` asks for, 0 and -1 resolved.
fn reshape(x: &Tensor, wanted: &[i64], zero_is_zero: bool) -> Option<Vec<usize>> {
    let mut shape = Vec::with_capacity(wanted.len());
    for (axis, &size) in wanted.iter().enumerate() {
        shape.push(match size {
            0 if !zero_is_zero => *x.shape().get(axis)?,
            -1 => 1,
            size => usize::try_from(size).ok()?,
        });
    }
    if let Some(free) = wanted.iter().position(|&size| size == -1) {
        let rest = element_count(&shape)?;
        shape[free] = x.len().checked_div(rest)?;
    }
    Some(shape)
}

/// A tensor of the elements that `index` names by their places, row-major. `None` for sub-byte elements.
fn picked(x: &Tensor, shape: &[usize], index: impl Fn(usize) -> usize) -> Option<Tensor> {
    let count = element_count(shape)?;
    if let Some(strings) = x.strings() {
        let picked: Option<Vec<Bytes>> = (0..count).map(|place| strings.get(index(place)).cloned()).collect();
        return Tensor::from_strings(shape, picked?).ok();
    }
    let width = byte_width(x.element())?;
    let raw = x.raw();
    let mut out = Vec::with_capacity(count.checked_mul(width)?);
    for place in 0..count {
        let start = index(place).checked_mul(width)?;
        out.extend_from_slice(raw.get(start..start + width)?);
    }
    Tensor::from_raw(x.element(), shape, out.into()).ok()
}

fn byte_width(element: ElementType) -> Option<usize> {
    let bits = element.bits();
    (bits > 0 && bits.is_multiple_of(8)).then_some(bits / 8)
}

fn sliced(x: &Tensor, starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]) -> Option<Tensor> {
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return None;
    }
    let mut shape = x.shape().to_vec();
    let mut first = vec![0i64; x.rank()];
    let mut stride = vec![1i64; x.rank()];
    for (position, axis) in places(axes, x.rank())?.into_iter().enumerate() {
        let (size, step) = (i64::try_from(x.shape()[axis]).ok()?, steps[position]);
        let from_front = |bound: i64| if bound < 0 { bound.saturating_add(size) } else { bound };
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let start = from_front(starts[position]).clamp(low.max(0), high);
        let end = from_front(ends[position]).clamp(low, high);
        let length = match step {
            0 => return None,
            1.. => end.saturating_sub(start).max(0) as u64,
            _ => start.saturating_sub(end).max(0) as u64,
        };
        shape[axis] = usize::try_from(length.div_ceil(step.unsigned_abs())).ok()?;
        (first[axis], stride[axis]) = (start, step);
    }
    let (inner, outer) = (row_major_strides(x.shape()), row_major_strides(&shape));
    picked(x, &shape, |place| {
        (0..shape.len())
            .map(|axis| {
                let along = (place / outer[axis] % shape[axis]) as i64;
                (first[axis] + along * stride[axis]) as usize * inner[axis]
            })
            .sum()
    })
}

fn gathered(x: &Tensor, indices: &Tensor, axis: i64) -> Option<Tensor> {
    let axis = place(axis, x.rank())?;
    let size = x.shape()[axis];
    let rows = places(&indices.to_i64()?, size)?;
    let shape = [&x.shape()[..axis], indices.shape(), &x.shape()[axis + 1..]].concat();
    let inner = element_count(&x.shape()[axis + 1..])?;
    picked(x, &shape, |place| {
        let (outer, row) = (place / (inner * rows.len()), rows[place / inner % rows.len()]);
        (outer * size + row) * inner + place % inner
    })
}

// ---- Broadcasting

/// The shape of two operands broadcast together; `None` if they do not.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(axis) => shape[axis],
        None => 1,
    };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (a, b) if a == b => Some(a),
            (1, size) | (size, 1) => Some(size),
            _ => None,
        })
        .collect()
}

/// Where the element at a place of the broadcast tensor stands in the operand.
pub(crate) fn broadcast_index(operand: &[usize], shape: &[usize]) -> impl Fn(usize) -> usize {
    let (inner, outer) = (row_major_strides(operand), row_major_strides(shape));
    let lead = shape.len() - operand.len();
    let axes: Vec<[usize; 3]> = (0..operand.len())
        .filter(|&axis| operand[axis] > 1)
        .map(|axis| [outer[axis + lead], operand[axis], inner[axis]])
        .collect();
    move |place| axes.iter().map(|[outer, size, inner]| place / outer % size * inner).sum()
}

// ---- Arithmetic

fn is_plain_float(element: ElementType) -> bool {
    use ElementType::{Bfloat16, Double, Float, Float16};
    matches!(element, Float | Double | Float16 | Bfloat16)
}

/// A float of these numbers, each rounded once: what the operation rounded to double before is innocuous for
/// addition, multiplication, division and square roots, since a double has more than twice the digits.
fn floats(element: ElementType, shape: &[usize], values: &[f64]) -> Option<Tensor> {
    Tensor::from_f64(element, shape, values)
}

fn flags(shape: &[usize], values: impl Iterator<Item = bool>) -> Option<Tensor> {
    Tensor::from_integers(ElementType::Bool, shape, &values.map(i64::from).collect::<Vec<_>>())
}

/// The same numbers in another type, where the standard leaves no choice.
fn cast(x: &Tensor, to: ElementType) -> Option<Tensor> {
    let from = x.element();
    if from == to {
        return x.reshaped(x.shape());
    }
    if x.len() > MAX_ARITHMETIC {
        return None;
    }
    let whole = from.is_integer() || from == ElementType::Bool;
    if !whole && !is_plain_float(from) {
        return None;
    }
    if to == ElementType::Bool {
        return flags(x.shape(), x.to_f64()?.into_iter().map(|value| value != 0.0));
    }
    if to.is_integer() {
        let integers = match whole {
            true => x.to_i64()?,
            false => x.to_f64()?.into_iter().map(truncated).collect::<Option<_>>()?,
        };
        return Tensor::from_integers(to, x.shape(), &integers);
    }
    let values = x.to_f64()?;
    // Larger integers would be rounded twice; which bits of a NaN survive a cast is open.
    let exact = |value: &f64| !value.is_nan() && (!whole || value.abs() < (1u64 << 53) as f64);
    (is_plain_float(to) && values.iter().all(exact)).then(|| floats(to, x.shape(), &values))?
}

fn truncated(value: f64) -> Option<i64> {
    let bound = (1u64 << 63) as f64;
    (-bound < value && value < bound).then_some(value as i64)
}

fn chosen(condition: &Tensor, a: &Tensor, b: &Tensor, shape: &[usize]) -> Option<Tensor> {
    if a.element() != b.element() || condition.len() > MAX_ARITHMETIC {
        return None;
    }
    let flags = condition.to_i64()?;
    let both = Tensor::concatenated(&[&a.reshaped(&[a.len()])?, &b.reshaped(&[b.len()])?], 0)?;
    let flag = broadcast_index(condition.shape(), shape);
    let (in_a, in_b) = (broadcast_index(a.shape(), shape), broadcast_index(b.shape(), shape));
    picked(&both, shape, |place| match flags[flag(place)] {
        0 => a.len() + in_b(place),
        _ => in_a(place),
    })
}

fn unary(op_type: &str, x: &Tensor) -> Option<Tensor> {
    if x.len() > MAX_ARITHMETIC {
        return None;
    }
    if is_plain_float(x.element()) {
        let function: fn(f64) -> f64 = match op_type {
            "Neg" => |value| -value,
            "Abs" => f64::abs,
            "Sqrt" => f64::sqrt,
            "Floor" => f64::floor,
            "Ceil" => f64::ceil,
            _ => return None,
        };
        let values: Vec<f64> = x.to_f64()?.into_iter().map(function).collect();
        return floats(x.element(), x.shape(), &values);
    }
    let function: fn(i64) -> Option<i64> = match op_type {
        "Neg" if x.element().is_integer() => i64::checked_neg,
        "Abs" if x.element().is_integer() => i64::checked_abs,
        "Not" if x.element() == ElementType::Bool => |value| Some(1 - value),
        _ => return None,
    };
    let values: Vec<i64> = x.to_i64()?.into_iter().map(function).collect::<Option<_>>()?;
    Tensor::from_integers(x.element(), x.shape(), &values)
}

fn binary(op_type: &str, a: &Tensor, b: &Tensor) -> Option<Tensor> {
    let shape = broadcast(a.shape(), b.shape())?;
    let count = element_count(&shape)?;
    if a.element() != b.element() || count > MAX_ARITHMETIC {
        return None;
    }
    let (in_a, in_b) = (broadcast_index(a.shape(), &shape), broadcast_index(b.shape(), &shape));
    if is_plain_float(a.element()) {
        let (left, right) = (a.to_f64()?, b.to_f64()?);
        let pairs = (0..count).map(|place| (left[in_a(place)], right[in_b(place)]));
        if let Some(holds) = comparison(op_type) {
            return flags(&shape, pairs.map(|(a, b)| a.partial_cmp(&b).is_some_and(holds)));
        }
        let function: fn(f64, f64) -> f64 = match op_type {
            "Add" => |a, b| a + b,
            "Sub" => |a, b| a - b,
            "Mul" => |a, b| a * b,
            "Div" => |a, b| a / b,
            _ => return None,
        };
        let values: Vec<f64> = pairs.map(|(a, b)| function(a, b)).collect();
        return floats(a.element(), &shape, &values);
    }
    let (left, right) = (a.to_i64()?, b.to_i64()?);
    let pairs = (0..count).map(|place| (left[in_a(place)], right[in_b(place)]));
    if let Some(holds) = comparison(op_type) {
        return flags(&shape, pairs.map(|(a, b)| holds(a.cmp(&b))));
    }
    // What overflows is left alone: the standard does not say what comes of it.
    let function: fn(i64, i64) -> Option<i64> = match (op_type, a.element()) {
        ("And", ElementType::Bool) => |a, b| Some(a & b),
        ("Or", ElementType::Bool) => |a, b| Some(a | b),
        ("Xor", ElementType::Bool) => |a, b| Some(a ^ b),
        (_, ElementType::Bool) => return None,
        ("Add", _) => i64::checked_add,
        ("Sub", _) => i64::checked_sub,
        ("Mul", _) => i64::checked_mul,
        ("Div", _) => i64::checked_div,
        ("Min", _) => |a, b| Some(a.min(b)),
        ("Max", _) => |a, b| Some(a.max(b)),
        _ => return None,
    };
    let values: Vec<i64> = pairs.map(|(a, b)| function(a, b)).collect::<Option<_>>()?;
    Tensor::from_integers(a.element(), &shape, &values)
}

fn comparison(op_type: &str) -> Option<fn(std::cmp::Ordering) -> bool> {
    use std::cmp::Ordering;
    Some(match op_type {
        "Equal" => Ordering::is_eq,
        "Less" => Ordering::is_lt,
        "LessOrEqual" => Ordering::is_le,
        "Greater" => Ordering::is_gt,
        "GreaterOrEqual" => Ordering::is_ge,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::{Graph, NewNode};

    use super::*;

    fn run(opset: i64, new: NewNode, operands: &[Tensor]) -> Option<Tensor> {
        let mut graph = Graph::new(Context::with_opset(opset));
        let inputs = operands.iter().map(|tensor| Some(graph.add_constant(tensor.clone()))).collect();
        let node = graph.add_node(NewNode { inputs, ..new }).unwrap();
        let operands: Vec<_> = operands.iter().map(|tensor| Some(Arc::new(tensor.clone()))).collect();
        let results = BuiltIn.evaluate(graph.context(), graph.node(node), &operands).ok()?;
        let result = results.into_iter().next().flatten().unwrap();
        let value = graph.node(node).output(0).unwrap();
        assert!(!graph.ty(value).unwrap().contradicts(&result.ty()), "{:?}", graph.ty(value));
        Some(result)
    }

    fn op(op_type: &str) -> NewNode {
        NewNode::new(op_type, [])
    }

    fn ints(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::from_i64(shape, values).unwrap()
    }

    fn vector(values: &[i64]) -> Tensor {
        Tensor::vector_i64(values)
    }

    fn f32s(values: &[f32]) -> Tensor {
        Tensor::from_f32(&[values.len()], values).unwrap()
    }

    #[test]
    fn shapes() {
        let x = ints(&[2, 3, 1], &[0, 1, 2, 3, 4, 5]);
        let shape = |new, operands: &[Tensor]| run(13, new, operands).map(|tensor| tensor.shape().to_vec());
        assert_eq!(shape(op("Reshape"), &[x.clone(), vector(&[0, -1])]), Some(vec![2, 3]));
        assert_eq!(shape(op("Flatten").with("axis", 2), std::slice::from_ref(&x)), Some(vec![6, 1]));
        assert_eq!(shape(op("Squeeze"), std::slice::from_ref(&x)), Some(vec![2, 3]));
        assert_eq!(shape(op("Unsqueeze"), &[x.clone(), vector(&[-1, 0])]), Some(vec![1, 2, 3, 1, 1]));
        let turned = run(13, op("Transpose").with("perm", vec![1, 0, 2]), &[x]).unwrap();
        assert_eq!(turned, ints(&[3, 2, 1], &[0, 3, 1, 4, 2, 5]));
    }

    #[test]
    fn movement() {
        let x = ints(&[2, 3], &[0, 1, 2, 3, 4, 5]);
        let joined = run(13, op("Concat").with("axis", -1), &[x.clone(), ints(&[2, 1], &[8, 9])]);
        assert_eq!(joined, Some(ints(&[2, 4], &[0, 1, 2, 8, 3, 4, 5, 9])));
        let slice = |starts: i64, ends: i64, steps: i64| {
            let of = |value| vector(&[value]);
            run(13, op("Slice"), &[x.clone(), of(starts), of(ends), of(1), of(steps)])
        };
        assert_eq!(slice(-2, i64::MAX, 1), Some(ints(&[2, 2], &[1, 2, 4, 5])));
        assert_eq!(slice(-1, i64::MIN, -2), Some(ints(&[2, 2], &[2, 0, 5, 3])));
        assert_eq!(slice(2, 1, 1), Some(ints(&[2, 0], &[])));
        let rows = run(13, op("Gather").with("axis", 1), &[x.clone(), ints(&[2], &[-1, 0])]);
        assert_eq!(rows, Some(ints(&[2, 2], &[2, 0, 5, 3])));
        assert_eq!(run(13, op("Expand"), &[ints(&[2, 1], &[7, 8]), vector(&[1, 2])]).unwrap().len(), 4);
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let words = Tensor::from_strings(&[2], vec![bytes("a"), bytes("b")]).unwrap();
        let last = run(13, op("Gather"), &[words, vector(&[1])]).unwrap();
        assert_eq!(last.strings().unwrap(), [bytes("b")]);
    }

    #[test]
    fn bits_of_special_floats_survive_movement() {
        let odd = [f32::from_bits(0x7fc0_1234), -0.0, f32::from_bits(0xff80_0001), 1.0];
        let turned = run(13, op("Transpose"), &[f32s(&odd).reshaped(&[2, 2]).unwrap()]).unwrap();
        let expected = [odd[0], odd[2], odd[1], odd[3]];
        assert_eq!(turned, Tensor::from_f32(&[2, 2], &expected).unwrap());
        assert_eq!(run(13, op("Neg"), &[f32s(&[0.0])]), Some(f32s(&[-0.0])));
    }

    #[test]
    fn arithmetic_keeps_the_type() {
        let bytes =
            |values: &[i64]| Tensor::from_integers(ElementType::Uint8, &[values.len()], values).unwrap();
        assert_eq!(run(14, op("Add"), &[bytes(&[250]), bytes(&[5])]), Some(bytes(&[255])));
        assert_eq!(run(14, op("Add"), &[bytes(&[250]), bytes(&[6])]), None, "overflow");
        assert_eq!(run(14, op("Div"), &[vector(&[-7]), vector(&[2])]), Some(vector(&[-3])));
        assert_eq!(run(14, op("Div"), &[vector(&[1]), vector(&[0])]), None);
        let third = run(14, op("Div"), &[f32s(&[1.0, 2.0]), f32s(&[3.0])]);
        assert_eq!(third, Some(f32s(&[1.0 / 3.0, 2.0 / 3.0])));
        let less = run(14, op("Less"), &[f32s(&[f32::NAN, 0.0]), f32s(&[1.0])]).unwrap();
        assert_eq!(less.to_i64().unwrap(), [0, 1]);
        let flag = Tensor::from_integers(ElementType::Bool, &[2, 1], &[1, 0]).unwrap();
        let chosen = run(14, op("Where"), &[flag, vector(&[1, 2]), vector(&[3, 4])]);
        assert_eq!(chosen, Some(ints(&[2, 2], &[1, 2, 3, 4])));
    }

    #[test]
    fn casts_with_one_meaning() {
        let to =
            |tensor: Tensor, to: ElementType| run(13, op("Cast").with("to", i64::from(to.code())), &[tensor]);
        assert_eq!(to(f32s(&[-1.7, 2.9]), ElementType::Int64), Some(vector(&[-1, 2])));
        assert_eq!(to(f32s(&[f32::NAN]), ElementType::Int64), None);
        assert_eq!(to(vector(&[300]), ElementType::Int8), None);
        assert_eq!(to(vector(&[1 << 60]), ElementType::Float), None);
        let halves = to(f32s(&[0.1, -0.0]), ElementType::Float16).unwrap();
        assert_eq!(halves.raw()[..], [0x66, 0x2e, 0x00, 0x80]);
    }
}
