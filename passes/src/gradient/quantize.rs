//! Quantization: the gradient passes straight through the steps.

use onnx_opt_ir::{ElementType, ValueId};

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::Written;

pub(super) const RULES: &[(&str, Rule)] = &[("DequantizeLinear", dequantize), ("QuantizeLinear", quantize)];

/// A scale or zero point with its axis where that of the tensor is.
fn along_axis(s: &mut Step<'_, '_>, vector: ValueId, x: ValueId) -> Written {
    if s.int("block_size").unwrap_or(0) != 0 {
        return Err("scales by blocks".into());
    }
    if s.rank(vector)? == 0 {
        return Ok(vector);
    }
    if s.fixed_axis(vector, 0) == Some(1) {
        return s.reshape(vector, &[]);
    }
    let axis = s.axis_of("axis", x)?;
    let behind: Vec<i64> = (1..(s.rank(x)? - axis) as i64).collect();
    s.unsqueeze(vector, &behind)
}

/// A gradient in the shape of x, summed to the scale.
fn to_scale(s: &mut Step<'_, '_>, gradient: ValueId, x: ValueId, scale: ValueId) -> Written {
    let rank = s.rank(x)?;
    let whole: Vec<usize> = match s.fixed_axis(scale, 0) {
        Some(size) if size != 1 => {
            let axis = s.axis_of("axis", x)?;
            (0..rank).filter(|&other| other != axis).collect()
        }
        _ => (0..rank).collect(),
    };
    let sum = s.sum(gradient, &whole, false)?;
    s.reshape_as(sum, scale)
}

/// A zero point as numbers of the type of `like`.
fn zero_point(s: &mut Step<'_, '_>, x: ValueId, like: ValueId) -> Written<Option<ValueId>> {
    let Some(zero) = s.node.input(2) else { return Ok(None) };
    let wide = along_axis(s, zero, x)?;
    super::elementwise::like(s, wide, like).map(Some)
}

/// (q − z)·s: g·s; the scale has Σ g·(q − z).
fn dequantize(s: &mut Step<'_, '_>) -> Gradients {
    let (g, q, scale) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let of_q = if s.wants(0) {
        let wide = along_axis(s, scale, q)?;
        Some(s.mul(g, wide)?)
    } else {
        None
    };
    let of_scale = if s.wants(1) {
        let numbers = super::elementwise::like(s, q, g)?;
        let centred = match zero_point(s, q, g)? {
            Some(zero) => s.sub(numbers, zero)?,
            None => numbers,
        };
        let product = s.mul(g, centred)?;
        Some(to_scale(s, product, q, scale)?)
    } else {
        None
    };
    Ok(vec![of_q, of_scale, None])
}

/// round(x/s) + z: g/s where that is in the range of the type; the scale has −Σ g·x/s² there. A quantized value is as
/// good as a real one here, so that rounding has slope 1.
fn quantize(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, scale) = (s.gradient()?, s.input(0)?, s.input(1)?);
    if s.graph.element(scale) != s.graph.element(x) {
        return Err("scale and operand differ in type".into());
    }
    let y = s.output(0)?;
    let (low, high) = match s.graph.element(y) {
        Some(ElementType::Uint8) => (0.0, 255.0),
        Some(ElementType::Int8) => (-128.0, 127.0),
        Some(ElementType::Uint16) => (0.0, 65535.0),
        Some(ElementType::Int16) => (-32768.0, 32767.0),
        Some(ElementType::Uint4) => (0.0, 15.0),
        Some(ElementType::Int4) => (-8.0, 7.0),
        _ => return Err("its result is of a type without a range".into()),
    };
    let wide = along_axis(s, scale, x)?;
    let quotient = s.div(x, wide)?;
    let shifted = match zero_point(s, x, x)? {
        Some(zero) => s.add(quotient, zero)?,
        None => quotient,
    };
    let (below, above) = (s.below(shifted, low)?, s.above(shifted, high)?);
    let outside = s.op("Or", &[below, above])?;
    let inside = s.where_not(outside, g)?;
    let of_x = s.div(inside, wide)?;
    let of_scale = if s.wants(1) {
        let product = s.mul(of_x, quotient)?;
        let negative = s.neg(product)?;
        Some(to_scale(s, negative, x, scale)?)
    } else {
        None
    };
    Ok(vec![Some(of_x), of_scale, None])
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub(super) fn examples() -> Vec<super::example::Example> {
    use onnx_opt_ir::{NewNode, Tensor};

    use super::example::{Example, Trial};

    // s₂·(q − z): what follows the quantizer, in the operators of a smooth graph.
    let clipped = |t: &mut Trial, x: ValueId, scale: ValueId| {
        let quotient = t.op("Div", &[x, scale]);
        let (low, high) = (t.scalar(-50.0), t.scalar(205.0));
        let clip = t.op("Clip", &[quotient, low, high]);
        let step = t.scalar(0.02);
        t.op("Mul", &[clip, step])
    };
    let quantized = |t: &mut Trial, x: ValueId, scale: ValueId, shape: &[usize]| {
        let count = shape.iter().product();
        let zeros = Tensor::from_f64(ElementType::Uint8, shape, &vec![50.0; count]).unwrap();
        let zero = t.tensor_constant(zeros);
        let q = t.node(NewNode::new("QuantizeLinear", [x, scale, zero]).with("axis", 1i64));
        let (step, zero) =
            (t.scalar(0.02), t.tensor_constant(Tensor::scalar(ElementType::Uint8, 50.0).unwrap()));
        t.op("DequantizeLinear", &[q, step, zero])
    };
    vec![
        Example::new("QuantizeLinear", "one scale", 18, move |t| {
            let x = t.input("x", &[2, 3, 4], -2.0, 4.0);
            let scale = t.input("scale", &[], 0.014, 0.014);
            quantized(t, x, scale, &[])
        })
        .with_smooth(move |t| {
            let x = t.input("x", &[2, 3, 4], -2.0, 4.0);
            let scale = t.input("scale", &[], 0.014, 0.014);
            clipped(t, x, scale)
        }),
        Example::new("QuantizeLinear", "a scale for each channel", 18, move |t| {
            let x = t.input("x", &[2, 3, 4], -2.0, 4.0);
            let scale = t.input("scale", &[3], 0.01, 0.02);
            quantized(t, x, scale, &[3])
        })
        .with_smooth(move |t| {
            let x = t.input("x", &[2, 3, 4], -2.0, 4.0);
            let scale = t.input("scale", &[3], 0.01, 0.02);
            let axes = t.integers(&[1]);
            let wide = t.op("Unsqueeze", &[scale, axes]);
            clipped(t, x, wide)
        }),
        Example::new("DequantizeLinear", "the scales", 18, |t| {
            let codes = [1.0, -2.0, 3.0, 4.0, -5.0, 6.0];
            let q = t.tensor_constant(Tensor::from_f64(ElementType::Int8, &[2, 3], &codes).unwrap());
            let scale = t.input("scale", &[2], 0.1, 0.3);
            let zero = t.tensor_constant(Tensor::from_f64(ElementType::Int8, &[2], &[1.0, 0.0]).unwrap());
            t.node(NewNode::new("DequantizeLinear", [q, scale, zero]).with("axis", 0i64))
        }),
    ]
}
