//! What runtimes know as a whole although the opset has no operator for it: they fuse it when they load a model, unless
//! a part of it has gone elsewhere before.

use onnx_opt_ir::{Graph, ValueId};

use super::activation::through_constants;
use super::normalization::normalizes;
use super::product::products;
use crate::rewrite::{Miss, ensure};

/// Whether a value is `(x − mean)/√(variance + ε)`, scaled and shifted or not.
pub(super) fn ends_normalization(graph: &Graph, value: ValueId) -> bool {
    let mut value = value;
    // Shift, scale, quotient; casts of half precision between.
    for _ in 0..4 {
        let Some((id, node, _)) = graph.producer(value) else { return false };
        if normalizes(graph, id) {
            return true;
        }
        if !["Add", "Mul", "Cast"].iter().any(|&op_type| node.is(op_type)) {
            return false;
        }
        let mut computed = node.operands().filter(|&operand| graph.constant(operand).is_none());
        let (Some(operand), None) = (computed.next(), computed.next()) else { return false };
        value = operand;
    }
    false
}

/// Whether a value is a GELU written in arithmetic.
fn ends_gelu(graph: &Graph, value: ValueId) -> bool {
    products(graph, value).iter().any(|way| {
        ["Erf", "Tanh"].iter().any(|&function| through_constants(graph, way.gate, function).is_some())
    })
}

/// Whether the operator that gives `value` may go into one that takes it.
///
/// # Errors
/// If runtimes know the end of what `value` ends.
pub(super) fn known_as_part(graph: &Graph, value: ValueId) -> Result<(), Miss> {
    ensure(
        !ends_normalization(graph, value),
        "it is the end of a normalization, which runtimes know as a whole",
    )?;
    ensure(!ends_gelu(graph, value), "it is the end of a GELU, which runtimes know as a whole")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn ends_of_idioms() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[2, 3]);
        let (c, one, weights) = (f.scalar(0.7), f.scalar(1.0), f.weights(&[3]));
        let t = f.op("Mul", &[x, c]);
        let t = f.op("Erf", &[t]);
        let gate = f.op("Add", &[t, one]);
        let product = f.op("Mul", &[x, gate]);
        let gelu = f.op("Mul", &[product, c]);
        assert!(known_as_part(&f.graph, gelu).is_err() && known_as_part(&f.graph, gate).is_ok());

        let mean =
            |f: &mut Fixture, x| f.node(onnx_opt_ir::NewNode::new("ReduceMean", [x]).with("axes", vec![-1]));
        let m = mean(&mut f, x);
        let d = f.op("Sub", &[x, m]);
        let t = f.op("Mul", &[d, d]);
        let t = mean(&mut f, t);
        let t = f.op("Add", &[t, c]);
        let deviation = f.op("Sqrt", &[t]);
        let t = f.op("Div", &[d, deviation]);
        let scaled = f.op("Mul", &[t, weights]);
        let shifted = f.op("Add", &[scaled, weights]);
        let other = f.op("Div", &[x, deviation]);
        for end in [t, scaled, shifted] {
            assert!(known_as_part(&f.graph, end).is_err());
        }
        assert!(known_as_part(&f.graph, other).is_ok());
    }
}
