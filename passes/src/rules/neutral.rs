//! Operands that leave the other operand of an operator as it is.

use onnx_opt_ir::{Graph, ValueId};

use super::facts::{becomes, element, same_shape, uniform};
use super::idiom::ends_normalization;
use crate::rewrite::{ErrorClass, FunctionRule, Miss, Rewrite, Rule, Site, ensure};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "neutral_operand",
            doc: "x−0, x+(−0), x·1, x/1, x¹, x∧true, x∨false and x⊻false are x.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor"],
            rewrite: |site| drop_operand(site, is_neutral),
        }),
        Box::new(FunctionRule {
            name: "add_zero",
            doc: "x+0 = x, but for the sign of a zero.",
            class: ErrorClass::Rounding,
            since: 1,
            roots: &["Add", "Sub"],
            rewrite: |site| drop_operand(site, |_, _, number| number == 0.0),
        }),
        Box::new(FunctionRule {
            name: "where_constant",
            doc: "Where of a constant condition is one of its branches.",
            class: ErrorClass::Exact,
            since: 9,
            roots: &["Where"],
            rewrite: where_constant,
        }),
    ]
}

/// Replaces the root by one operand if the other is a number that `neutral` accepts and does not widen the result.
fn drop_operand(site: &Site<'_>, neutral: fn(&Site<'_>, bool, f64) -> bool) -> Rewrite {
    let (a, b) = (site.input(0)?, site.input(1)?);
    let is_commutative = !matches!(site.node().op_type(), "Sub" | "Div" | "Pow");
    let mut miss = Miss::NoMatch;
    for (kept, other) in [(a, b), (b, a)].into_iter().take(if is_commutative { 2 } else { 1 }) {
        let Some(number) = uniform(site.graph, other) else { continue };
        let is_float = element(site.graph, kept)?.is_float();
        if !neutral(site, is_float, number) {
            continue;
        }
        match keeps_shape(site.graph, kept, other, site.output()?) {
            Ok(()) => {
                ensure(
                    !ends_normalization(site.graph, kept),
                    "runtimes know normalizations by scale and bias",
                )?;
                return becomes(site, kept);
            }
            Err(reason) => miss = reason,
        }
    }
    Err(miss)
}

/// Whether a second operand of this number changes nothing, not even a sign of zero or a rounding.
fn is_neutral(site: &Site<'_>, is_float: bool, number: f64) -> bool {
    match site.node().op_type() {
        "Add" => number == 0.0 && (!is_float || number.is_sign_negative()),
        "Sub" => number == 0.0 && (!is_float || number.is_sign_positive()),
        "Mul" | "Div" => number == 1.0,
        // Integers go through floating point.
        "Pow" => number == 1.0 && is_float,
        "And" => number == 1.0,
        "Or" | "Xor" => number == 0.0,
        _ => false,
    }
}

/// Whether the shape of `kept` is that of the result: provably, or because the other operand is a scalar.
fn keeps_shape(graph: &Graph, kept: ValueId, other: ValueId, result: ValueId) -> Result<(), Miss> {
    match graph.rank(other) {
        Some(0) => Ok(()),
        _ => same_shape(graph, kept, result),
    }
}

fn where_constant(site: &Site<'_>) -> Rewrite {
    let condition = site.input(0)?;
    let Some(number) = uniform(site.graph, condition) else { return Err(Miss::NoMatch) };
    let branch = site.input(if number != 0.0 { 1 } else { 2 })?;
    same_shape(site.graph, branch, site.output()?)?;
    becomes(site, branch)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{ElementType, NewNode, Tensor};

    use crate::testing::{Example, Fixture};

    // A constant in place `index` of an operator behind a Sigmoid, before a Relu.
    let beside = |op_type: &'static str, index: usize, shape: &'static [usize], fires: f32, misses: f32| {
        Example::new("neutral_operand", move |does| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3]);
            let t = f.op("Sigmoid", &[x]);
            let c = f.floats(shape, &vec![if does { fires } else { misses }; shape.iter().product()]);
            let t = if index == 0 { f.op(op_type, &[c, t]) } else { f.op(op_type, &[t, c]) };
            let y = f.op("Relu", &[t]);
            f.with_output(y)
        })
    };
    // A constant of ones that widens its operand, or not.
    let widening = |opposite: &'static [&'static str], shape: &'static [usize]| {
        Example::new("neutral_operand", move |does| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", if does { &["N", "3"] } else { opposite });
            let t = f.op("Sigmoid", &[x]);
            let c = f.floats(shape, &vec![1.0; shape.iter().product()]);
            let t = f.op("Mul", &[t, c]);
            let y = f.op("Relu", &[t]);
            f.with_output(y)
        })
    };
    let choice = |shape: &'static [usize], truth: f64| {
        Example::new("where_constant", move |does| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.input("x", &[2, 3]), f.input("z", if does { &[2, 3] } else { &[4, 2, 3] }));
            let count = shape.iter().product();
            let c = Tensor::from_f64(ElementType::Bool, shape, &vec![truth; count])
                .unwrap_or_else(|| unreachable!("the number of elements is that of the shape"));
            let c = f.graph.add_constant(c);
            let (a, b) = (f.op("Sigmoid", &[x]), f.op("Abs", &[z]));
            let t = if truth != 0.0 { f.op("Where", &[c, a, b]) } else { f.op("Where", &[c, b, a]) };
            let y = f.op("Relu", &[t]);
            f.with_output(y)
        })
    };
    vec![
        beside("Sub", 1, &[], 0.0, -0.0),
        beside("Add", 1, &[3], -0.0, 0.0),
        beside("Mul", 0, &[1, 1], 1.0, 1.000_000_1),
        beside("Mul", 1, &[2, 3], 1.0, -1.0),
        beside("Div", 1, &[1], 1.0, 2.0),
        beside("Pow", 1, &[], 1.0, 2.0),
        widening(&["N", "1"], &[3]),
        widening(&["3"], &[1, 3]),
        Example::new("neutral_operand", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let one = f.scalar(1.0);
            let t = if fires { f.op("Div", &[x, one]) } else { f.op("Pow", &[one, x]) };
            let y = f.op("Relu", &[t]);
            f.with_output(y)
        }),
        Example::new("neutral_operand", |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.input("x", &[4]), f.input("z", &[4]));
            let truth = f.node(NewNode::new("Less", [x, z]));
            let known = Tensor::scalar(ElementType::Bool, if fires { 1.0 } else { 0.0 });
            let known = known.map(|tensor| f.graph.add_constant(tensor)).unwrap_or(truth);
            let t = f.op("And", &[known, truth]);
            let y = f.op("Where", &[t, x, z]);
            f.with_output(y)
        }),
        // Zeros of a shape that is computed, added to what has it.
        Example::new("add_zero", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", "3"]);
            let z = f.symbolic_input("z", if fires { &["N", "3"] } else { &["2", "N", "3"] });
            let shape = f.op("Shape", &[z]);
            let zeros = NewNode::new("ConstantOfShape", [shape]);
            // Written, since engines disagree on the default.
            let zero = Tensor::from_f64(ElementType::Float, &[1], &[0.0]).map(std::sync::Arc::new);
            let zeros = f.node(match zero {
                Some(zero) => zeros.with("value", zero),
                None => zeros,
            });
            let t = f.op("Add", &[x, zeros]);
            let y = f.op("Relu", &[t]);
            f.with_output(y)
        }),
        choice(&[], 1.0),
        choice(&[2, 1], 0.0),
    ]
}
