//! Quantization that was done before.

use onnx_opt_ir::{ElementType, Node};

use super::facts::{becomes, element};
use crate::rewrite::{ErrorClass, FunctionRule, Rewrite, Rule, Site, ensure, found};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![Box::new(FunctionRule {
        name: "quantize_of_dequantize",
        doc: "QuantizeLinear of what DequantizeLinear made by the same scale and zero point.",
        class: ErrorClass::Exact,
        since: 10,
        roots: &["QuantizeLinear"],
        rewrite: quantize_of_dequantize,
    })]
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
    let operands = |node: &Node| (node.input(1), node.input(2));
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

/// Graphs on which this rule fires, and near misses.
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
