//! Exact kernels for `QuantizeLinear`, `DequantizeLinear`, `Cast` and `CastLike` over every numeric element type.
//! Where the standard leaves the result open (a float past the range of an integer type, say), they refuse.

use half::{bf16, f16};
use onnx_opt_ir::engine::EngineError;
use onnx_opt_ir::{AttributeValue, ElementType, Node, Tensor};

/// The result of `node`, or `None` if it is another operator.
pub fn evaluate(node: &Node, inputs: &[Option<&Tensor>]) -> Option<Result<Tensor, EngineError>> {
    let operand = |index: usize| inputs.get(index).copied().flatten();
    let result = if node.is("QuantizeLinear") {
        operand(0).zip(operand(1)).map(|(x, scale)| quantize(node, x, scale, operand(2)))
    } else if node.is("DequantizeLinear") {
        operand(0).zip(operand(1)).map(|(x, scale)| dequantize(node, x, scale, operand(2)))
    } else if node.is("Cast") {
        let to = node.int("to").and_then(element_of_code);
        operand(0).zip(to).map(|(x, to)| cast(x, to))
    } else if node.is("CastLike") {
        operand(0).zip(operand(1)).map(|(x, like)| cast(x, like.element()))
    } else {
        return None;
    };
    let reason = result.unwrap_or(Err("without its operands or attributes"));
    Some(reason.map_err(|reason| EngineError::Unsupported {
        engine: "the built-in kernel",
        what: format!("{} {reason}", node.op_type()),
    }))
}

type Kernel = Result<Tensor, &'static str>;

const RANGE: &str = "of a value that the type cannot hold";

fn element_of_code(code: i64) -> Option<ElementType> {
    ElementType::from_code(i32::try_from(code).ok()?)
}

/// The `output_dtype` attribute, 0 and absence meaning that the operands decide.
fn output_element(node: &Node) -> Option<ElementType> {
    element_of_code(node.attributes().get("output_dtype").and_then(AttributeValue::as_int)?)
}

/// `saturate(round(x / scale) + zero_point)`, rounding half to even, in single precision.
fn quantize(node: &Node, x: &Tensor, scale: &Tensor, zero_point: Option<&Tensor>) -> Kernel {
    let to = zero_point.map(Tensor::element).or_else(|| output_element(node)).unwrap_or(ElementType::Uint8);
    if node.int("precision").is_some_and(|code| code != 0 && code != i64::from(ElementType::Float.code())) {
        return Err("with a precision other than float");
    }
    if !single(x.element()) && x.element() != ElementType::Int32 || !single(scale.element()) {
        return Err("of operands of this type");
    }
    let scales = Blocks::new(node, x, scale).ok_or("with a scale that does not fit its operand")?;
    let zeros = zero_points(scale, zero_point)?;
    let mut values = Vec::with_capacity(x.len());
    for index in 0..x.len() {
        let place = scales.place(index);
        let ratio = at(x, index)? as f32 / at(scale, place)? as f32;
        values.push(f64::from(ratio));
    }
    if !to.is_integer() {
        if zeros.iter().flatten().any(|&zero| zero != 0.0) {
            return Err("to a float with a zero point");
        }
        return small_float(to, x.shape(), &values);
    }
    let (low, high) = range(to).ok_or("to this type")?;
    let mut integers = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        if value.is_nan() {
            return Err(RANGE);
        }
        let zero = zeros.as_ref().and_then(|zeros| zeros.get(scales.place(index))).copied().unwrap_or(0.0);
        integers.push((value.round_ties_even() + zero).clamp(low as f64, high as f64) as i64);
    }
    Tensor::from_integers(to, x.shape(), &integers).ok_or("to this type")
}

/// `(x - zero_point) · scale`, in single precision, rounded to the type of the result.
fn dequantize(node: &Node, x: &Tensor, scale: &Tensor, zero_point: Option<&Tensor>) -> Kernel {
    let to = output_element(node).unwrap_or(scale.element());
    if !single(scale.element())
        || !matches!(to, ElementType::Float | ElementType::Float16 | ElementType::Bfloat16)
    {
        return Err("with a scale of this type");
    }
    let scales = Blocks::new(node, x, scale).ok_or("with a scale that does not fit its operand")?;
    let zeros = zero_points(scale, zero_point)?;
    let mut values = Vec::with_capacity(x.len());
    for index in 0..x.len() {
        let place = scales.place(index);
        let zero = zeros.as_ref().and_then(|zeros| zeros.get(place)).copied().unwrap_or(0.0);
        values.push((at(x, index)? - zero) as f32 * at(scale, place)? as f32);
    }
    singles(to, x.shape(), &values)
}

/// The zero points as doubles, as many as scales.
fn zero_points(scale: &Tensor, zero_point: Option<&Tensor>) -> Result<Option<Vec<f64>>, &'static str> {
    let Some(zero_point) = zero_point else { return Ok(None) };
    if zero_point.len() != scale.len() {
        return Err("with a zero point that does not fit its scale");
    }
    zero_point.to_f64().map(Some).ok_or("with a zero point of this type")
}

/// Which scale belongs to which element: one for all, one an index of an axis, or one a block of an axis.
struct Blocks {
    /// Elements behind one index of the axis.
    inner: usize,
    /// Size of the axis.
    size: usize,
    /// Indices of the axis that share a scale.
    block: usize,
    /// Scales along the axis.
    count: usize,
    /// Whether there is a scale for each place of the other axes.
    everywhere: bool,
}

impl Blocks {
    fn new(node: &Node, x: &Tensor, scale: &Tensor) -> Option<Self> {
        let block = usize::try_from(node.int("block_size").unwrap_or(0)).ok()?;
        if block == 0 && scale.len() == 1 {
            return Some(Self { inner: 1, size: 1, block: 1, count: 1, everywhere: false });
        }
        let rank = i64::try_from(x.rank()).ok()?;
        let axis = node.int("axis").unwrap_or(1);
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
        let size = *x.shape().get(axis)?;
        let inner = x.shape().get(axis + 1..)?.iter().product();
        if block == 0 {
            return (scale.shape() == [size]).then_some(Self {
                inner,
                size,
                block: 1,
                count: size,
                everywhere: false,
            });
        }
        let mut expected = x.shape().to_vec();
        let count = size.div_ceil(block);
        expected[axis] = count;
        (scale.shape() == expected).then_some(Self { inner, size, block, count, everywhere: true })
    }

    /// Index of the scale of element `index`.
    fn place(&self, index: usize) -> usize {
        let along = index / self.inner % self.size / self.block;
        if self.everywhere {
            let outer = index / (self.inner * self.size);
            (outer * self.count + along) * self.inner + index % self.inner
        } else {
            along
        }
    }
}

/// The same numbers in another type, as far as the standard says which.
fn cast(x: &Tensor, to: ElementType) -> Kernel {
    let from = x.element();
    if from == to {
        return x.reshaped(x.shape()).ok_or("of this tensor");
    }
    let known = |element: ElementType| element != ElementType::String && !element.is_complex();
    if !known(from) || !known(to) || to == ElementType::Float8E8M0 {
        return Err("between these types");
    }
    let whole = from.is_integer() || from == ElementType::Bool;
    match to {
        ElementType::Bool => {
            let values = numbers(x)?;
            let bytes: Vec<u8> = values.iter().map(|&value| u8::from(value != 0.0)).collect();
            Tensor::from_raw(to, x.shape(), bytes.into()).map_err(|_| "of this tensor")
        }
        _ if to.is_integer() && whole => {
            let mut values = Vec::with_capacity(x.len());
            for index in 0..x.len() {
                values.push(x.i64_at(index).ok_or(RANGE)?);
            }
            let values = if to.bits() < 8 { values } else { wrap(values, to) };
            Tensor::from_integers(to, x.shape(), &values).ok_or(RANGE)
        }
        _ if to.is_integer() => {
            let (low, high) = range(to).ok_or("to this type")?;
            let mut values = Vec::with_capacity(x.len());
            for value in numbers(x)? {
                // Narrow types round in one engine and cut off in the other: only whole numbers are safe.
                let fits = value.trunc() >= low as f64
                    && value.trunc() < high as f64 + 1.0
                    && (to.bits() >= 8 || value.fract() == 0.0);
                if !fits {
                    return Err(RANGE);
                }
                values.push(value as i64);
            }
            Tensor::from_integers(to, x.shape(), &values).ok_or(RANGE)
        }
        ElementType::Double => Tensor::from_f64(to, x.shape(), &numbers(x)?).ok_or("of this tensor"),
        ElementType::Float | ElementType::Float16 | ElementType::Bfloat16 => {
            let mut values = Vec::with_capacity(x.len());
            for index in 0..x.len() {
                values.push(match x.i64_at(index) {
                    Some(value) if whole => value as f32,
                    _ => at(x, index)? as f32,
                });
            }
            singles(to, x.shape(), &values)
        }
        _ => small_float(to, x.shape(), &numbers(x)?),
    }
}

/// Integers reduced modulo the width of a type of 8 to 32 bits, as a conversion in C does.
fn wrap(mut values: Vec<i64>, to: ElementType) -> Vec<i64> {
    let unused = 64u32.saturating_sub(to.bits() as u32);
    for value in &mut values {
        let high = *value << unused;
        *value = if to.is_signed_integer() { high >> unused } else { ((high as u64) >> unused) as i64 };
    }
    values
}

fn numbers(x: &Tensor) -> Result<Vec<f64>, &'static str> {
    x.to_f64().ok_or("of operands of this type")
}

fn at(x: &Tensor, index: usize) -> Result<f64, &'static str> {
    x.f64_at(index).ok_or("of operands of this type")
}

/// Whether single precision holds every value of a float type.
fn single(element: ElementType) -> bool {
    element.is_float() && element != ElementType::Double
}

/// Single-precision numbers rounded once to a type of 32 or 16 bits.
fn singles(to: ElementType, shape: &[usize], values: &[f32]) -> Kernel {
    let raw: Vec<u8> = match to {
        ElementType::Float => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::Float16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
    };
    Tensor::from_raw(to, shape, raw.into()).map_err(|_| "of this tensor")
}

/// Numbers rounded to a float of at most 8 bits; past its largest value engines differ.
fn small_float(to: ElementType, shape: &[usize], values: &[f64]) -> Kernel {
    let tensor = Tensor::from_f64(to, shape, values).ok_or("to this type")?;
    let largest = match to {
        ElementType::Float8E4M3FN => 448.0,
        ElementType::Float8E4M3FNUZ => 240.0,
        ElementType::Float8E5M2 | ElementType::Float8E5M2FNUZ => 57344.0,
        ElementType::Float4E2M1 => 6.0,
        ElementType::Float6E2M3 => 7.5,
        ElementType::Float6E3M2 => 28.0,
        _ => return Err("to this type"),
    };
    if values.iter().any(|value| value.abs() > largest) {
        return Err(RANGE);
    }
    Ok(tensor)
}

/// Smallest and largest value of an integer type, as far as `i64` reaches.
fn range(element: ElementType) -> Option<(i64, i64)> {
    let bits = element.bits();
    match element {
        ElementType::Int64 => Some((i64::MIN, i64::MAX)),
        ElementType::Uint64 => Some((0, i64::MAX)),
        _ if element.is_signed_integer() => Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1)),
        _ if element.is_unsigned_integer() => Some((0, (1 << bits) - 1)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{Context, Graph, NewNode};

    use super::*;

    fn run(
        op_type: &str,
        operands: &[Option<&Tensor>],
        attributes: &[(&str, AttributeValue)],
    ) -> Result<Tensor, EngineError> {
        let mut graph = Graph::new(Context::with_opset(23));
        let inputs: Vec<_> =
            operands.iter().flatten().map(|&tensor| graph.add_constant(tensor.clone())).collect();
        let mut new = NewNode::new(op_type, inputs);
        for (name, value) in attributes {
            new = new.with(name, value.clone());
        }
        let node = graph.add_node(new).unwrap();
        evaluate(graph.node(node), operands).unwrap()
    }

    fn code(element: ElementType) -> AttributeValue {
        i64::from(element.code()).into()
    }

    #[test]
    fn quantize_rounds_half_to_even_and_saturates() {
        let x = Tensor::from_f32(&[6], &[0.5, 1.5, -0.5, 1000.0, -1000.0, 2.5]).unwrap();
        let scale = Tensor::from_f32(&[], &[1.0]).unwrap();
        let zero = Tensor::from_integers(ElementType::Uint8, &[], &[10]).unwrap();
        let y = run("QuantizeLinear", &[Some(&x), Some(&scale), Some(&zero)], &[]).unwrap();
        assert_eq!((y.element(), y.to_i64().unwrap()), (ElementType::Uint8, vec![10, 12, 10, 255, 0, 12]));
        let y =
            run("QuantizeLinear", &[Some(&x), Some(&scale)], &[("output_dtype", code(ElementType::Int4))]);
        assert_eq!(y.unwrap().to_i64().unwrap(), [0, 2, 0, 7, -8, 2]);
    }

    #[test]
    fn quantize_divides() {
        // 5 · (1/10) and 5 / 10 agree, 0.7 · (1/0.1) and 0.7 / 0.1 do not need to: the tie must come from division.
        let (x, s) = (1.05f32, 0.3f32);
        let x_tensor = Tensor::from_f32(&[1], &[x]).unwrap();
        let scale = Tensor::from_f32(&[], &[s]).unwrap();
        let y = run("QuantizeLinear", &[Some(&x_tensor), Some(&scale)], &[]).unwrap();
        assert_eq!(y.single_f64(), Some(f64::from((x / s).round_ties_even())));
    }

    #[test]
    fn dequantize_by_axis_and_by_block() {
        let x = Tensor::from_integers(ElementType::Int4, &[2, 3], &[1, 2, 3, 4, 5, -6]).unwrap();
        let scale = Tensor::from_f32(&[2], &[0.5, 2.0]).unwrap();
        let zero = Tensor::from_integers(ElementType::Int4, &[2], &[0, 1]).unwrap();
        let y =
            run("DequantizeLinear", &[Some(&x), Some(&scale), Some(&zero)], &[("axis", 0.into())]).unwrap();
        assert_eq!(y.to_f32().unwrap(), [0.5, 1.0, 1.5, 6.0, 8.0, -14.0]);

        let scale = Tensor::from_f32(&[2, 2], &[1.0, 10.0, 100.0, 1000.0]).unwrap();
        let blocks = [("axis", 1.into()), ("block_size", 2.into())];
        let y = run("DequantizeLinear", &[Some(&x), Some(&scale)], &blocks).unwrap();
        assert_eq!(y.to_f32().unwrap(), [1.0, 2.0, 30.0, 400.0, 500.0, -6000.0]);
        let wrong = Tensor::from_f32(&[3, 2], &[1.0; 6]).unwrap();
        assert!(run("DequantizeLinear", &[Some(&x), Some(&wrong)], &blocks).is_err());
    }

    #[test]
    fn cast_wraps_integers_and_cuts_floats() {
        let x = Tensor::from_i64(&[3], &[300, -1, 128]).unwrap();
        let y = run("Cast", &[Some(&x)], &[("to", code(ElementType::Uint8))]).unwrap();
        assert_eq!(y.to_i64().unwrap(), [44, 255, 128]);
        let y = run("Cast", &[Some(&x)], &[("to", code(ElementType::Int8))]).unwrap();
        assert_eq!(y.to_i64().unwrap(), [44, -1, -128]);
        let x = Tensor::from_f32(&[3], &[1.9, -1.9, 0.2]).unwrap();
        let y = run("Cast", &[Some(&x)], &[("to", code(ElementType::Int32))]).unwrap();
        assert_eq!(y.to_i64().unwrap(), [1, -1, 0]);
        let y = run("Cast", &[Some(&x)], &[("to", code(ElementType::Bool))]).unwrap();
        assert_eq!(y.to_i64().unwrap(), [1, 1, 1]);
    }

    #[test]
    fn cast_refuses_what_is_undefined() {
        let x = Tensor::from_f32(&[1], &[3e9]).unwrap();
        assert!(run("Cast", &[Some(&x)], &[("to", code(ElementType::Int32))]).is_err());
        let x = Tensor::from_f32(&[1], &[f32::NAN]).unwrap();
        assert!(run("Cast", &[Some(&x)], &[("to", code(ElementType::Int64))]).is_err());
        let x = Tensor::from_f32(&[1], &[1000.0]).unwrap();
        assert!(run("Cast", &[Some(&x)], &[("to", code(ElementType::Float8E4M3FN))]).is_err());
    }

    #[test]
    fn cast_rounds_once() {
        // Just above the tie between two half-precision numbers: the last bits of the mantissa decide.
        let x = Tensor::from_f32(&[1], &[f32::from_bits(0x3f80_1001)]).unwrap();
        let y = run("Cast", &[Some(&x)], &[("to", code(ElementType::Float16))]).unwrap();
        assert_eq!(y.single_f64(), Some(1.0 + 1.0 / 1024.0));
        let y = run("Cast", &[Some(&x)], &[("to", code(ElementType::Float8E4M3FN))]).unwrap();
        assert_eq!(y.single_f64(), Some(1.0));
    }
}
