//! Quantization that was done before.

use onnx_opt_ir::{ElementType, Node};

use super::clip::limits_of;
use super::facts::{becomes, element, only_use, uniform};
use crate::quantize::Grid;
use crate::rewrite::language::finish;
use crate::rewrite::{ErrorClass, FunctionRule, Patch, Rewrite, Rule, Site, ensure, found};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    let vanishing = FunctionRule {
        name: "quantize_of_limits",
        doc: "QuantizeLinear of Relu or Clip is that of x where its integers end within the limits.",
        class: ErrorClass::Exact,
        since: 10,
        roots: &["QuantizeLinear"],
        rewrite: quantize_of_limits,
    };
    let back = FunctionRule {
        name: "quantize_of_dequantize",
        doc: "QuantizeLinear of what DequantizeLinear made by the same scale and zero point.",
        class: ErrorClass::Exact,
        since: 10,
        roots: &["QuantizeLinear"],
        rewrite: quantize_of_dequantize,
    };
    vec![Box::new(back), Box::new(vanishing)]
}

/// Scales between which no product with a difference of 16-bit integers leaves the normal numbers.
const SCALES: std::ops::Range<f64> = 1e-30..1e30;

fn quantize_of_dequantize(site: &Site<'_>) -> Rewrite {
    let (graph, quantize) = (site.graph, site.node());
    let (_, dequantize) = found(graph.producer_of(site.input(0)?, "DequantizeLinear"))?;
    let q = found(dequantize.input(0))?;
    let known = element(graph, q)?;
    // (q − z)·s/s rounds to q − z where a float has digits to spare.
    let short =
        matches!(known, ElementType::Int8 | ElementType::Uint8 | ElementType::Int16 | ElementType::Uint16);
    ensure(short && element(graph, site.output()?)? == known, "the integers are of other types")?;
    // One that is left out is zero.
    let zero_point =
        |node: &Node| node.input(2).filter(|&zero_point| uniform(graph, zero_point) != Some(0.0));
    let operands = |node: &Node| (node.input(1), zero_point(node));
    ensure(operands(quantize) == operands(dequantize), "scales or zero points differ")?;
    let scale = found(graph.constant(site.input(1)?))?;
    ensure(scale.element() == ElementType::Float, "the scale is not of single precision")?;
    let scales = scale.to_f64().unwrap_or_default();
    ensure(scales.iter().all(|scale| SCALES.contains(scale)), "a scale is out of range")?;
    if scale.rank() > 0 {
        let along = |node: &Node| (node.int("axis").unwrap_or(1), node.int("block_size").unwrap_or(0));
        ensure(along(quantize) == along(dequantize), "the axes differ")?;
    }
    becomes(site, q)
}

/// saturate(round(limit(x)/s) + z), where what is limited saturates all the same: rounding keeps the order, so that it
/// is enough to look at the limits.
fn quantize_of_limits(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let limited = site.input(0)?;
    let (_, limiter, _) = found(graph.producer(limited))?;
    let limits = found(limits_of(graph, limiter).filter(|_| limiter.is("Relu") || limiter.is("Clip")))?;
    only_use(graph, limited)?;
    ensure(element(graph, limited)? == ElementType::Float, "it is not of single precision")?;
    let number = |slot: usize| node.input(slot).and_then(|value| graph.constant(value));
    let scale = number(1).filter(|scale| scale.len() == 1 && scale.element() == ElementType::Float);
    let scale = scale.and_then(|scale| scale.single_f64()).ok_or("there is no single scale")?;
    ensure(SCALES.contains(&scale), "the scale is out of range")?;
    let zero = match node.input(2) {
        Some(_) => number(2).and_then(|zero| zero.single_i64()).ok_or("there is no single zero point")?,
        None => 0,
    };
    let grid = Grid { element: element(graph, site.output()?)?, scale: scale as f32, zero };
    ensure(grid.element.is_integer() && grid.element.bits() <= 16, "it is no integer of up to 16 bits")?;
    ensure(grid.ends_within(limits.low, limits.high), "the integers go beyond the limits")?;
    let mut patch = Patch::new();
    let operands = [limiter.input(0)].into_iter().chain(node.inputs()[1..].iter().copied());
    let new = patch.node("QuantizeLinear", operands, node.attributes().clone());
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{NewNode, Tensor, ValueId};

    use crate::testing::{Example, Fixture};

    fn zero(f: &mut Fixture, element: ElementType, count: usize) -> ValueId {
        let zeros = Tensor::from_integers(element, if count == 1 { &[] } else { &[3] }, &[0, 0, 0][..count]);
        f.graph.add_constant(zeros.unwrap_or(Tensor::vector_i64(&[])))
    }
    vec![
        // Another scale.
        Example::new("quantize_of_dequantize", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3]);
            let z = zero(&mut f, ElementType::Uint8, 1);
            let scale = f.scalar(0.02);
            let other = if fires { scale } else { f.scalar(0.03) };
            let q = f.op("QuantizeLinear", &[x, scale, z]);
            let t = f.op("DequantizeLinear", &[q, scale, z]);
            let q = f.op("QuantizeLinear", &[t, other, z]);
            let y = f.op("DequantizeLinear", &[q, scale, z]);
            f.with_output(y)
        }),
        // Zero in the middle of the integers.
        Example::new("quantize_of_limits", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3]);
            let t = f.op("Relu", &[x]);
            let scale = f.scalar(0.02);
            let lowest = Tensor::from_integers(ElementType::Int8, &[], &[if fires { -128 } else { 0 }]);
            let z = f.graph.add_constant(lowest.unwrap_or(Tensor::vector_i64(&[])));
            let q = f.op("QuantizeLinear", &[t, scale, z]);
            let y = f.op("DequantizeLinear", &[q, scale, z]);
            f.with_output(y)
        }),
        // A limit among the integers.
        Example::new("quantize_of_limits", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3]);
            let (low, high) = (f.scalar(-0.5), f.scalar(if fires { 3.0 } else { 2.0 }));
            let t = f.op("Clip", &[x, low, high]);
            let scale = f.scalar(0.01);
            let z = f.graph.add_constant(
                Tensor::from_integers(ElementType::Uint8, &[], &[50]).unwrap_or(Tensor::vector_i64(&[])),
            );
            let q = f.op("QuantizeLinear", &[t, scale, z]);
            let y = f.op("DequantizeLinear", &[q, scale, z]);
            f.with_output(y)
        }),
        // A zero point that is left out.
        Example::new("quantize_of_dequantize", |fires| {
            let mut f = Fixture::new(13);
            let q = f.typed_input("q", ElementType::Uint8, [onnx_opt_ir::Dim::fixed(4)]);
            let scale = f.scalar(0.02);
            let z = f.graph.add_constant(
                Tensor::from_integers(ElementType::Uint8, &[], &[i64::from(!fires)])
                    .unwrap_or(Tensor::vector_i64(&[])),
            );
            let t = f.op("DequantizeLinear", &[q, scale, z]);
            let q = f.op("QuantizeLinear", &[t, scale]);
            let y = f.op("DequantizeLinear", &[q, scale, z]);
            f.with_output(y)
        }),
        // Along another axis.
        Example::new("quantize_of_dequantize", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[3, 3]);
            let z = zero(&mut f, ElementType::Int8, 3);
            let scale = f.floats(&[3], &[0.01, 0.02, 0.03]);
            let node = |op_type: &str, x, axis: i64| NewNode::new(op_type, [x, scale, z]).with("axis", axis);
            let q = f.node(node("QuantizeLinear", x, 1));
            let t = f.node(node("DequantizeLinear", q, 1));
            let axis = if fires { 1 } else { 0 };
            let q = f.node(node("QuantizeLinear", t, axis));
            let y = f.node(node("DequantizeLinear", q, axis));
            f.with_output(y)
        }),
    ]
}
