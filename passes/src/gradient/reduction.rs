//! Reductions, and sums along an axis.

use onnx_opt_ir::{NewNode, ValueId};

use super::Rule;
use super::elementwise::like;
use super::step::{Gradients, Step};
use super::writer::Written;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("CumSum", cumulative_sum),
    ("ReduceL1", |s| {
        reduction(s, |s, g, x, _| {
            let sign = s.op("Sign", &[x])?;
            s.mul(g, sign)
        })
    }),
    ("ReduceL2", |s| {
        reduction(s, |s, g, x, y| {
            let direction = s.div(x, y)?;
            let alive = s.above(y, 0.0)?;
            let product = s.mul(g, direction)?;
            s.where_only(alive, product)
        })
    }),
    ("ReduceLogSum", |s| {
        reduction(s, |s, g, _, y| {
            let sum = s.op("Exp", &[y])?;
            s.div(g, sum)
        })
    }),
    ("ReduceLogSumExp", |s| {
        reduction(s, |s, g, x, y| {
            let difference = s.sub(x, y)?;
            let share = s.op("Exp", &[difference])?;
            s.mul(g, share)
        })
    }),
    ("ReduceMax", extremum),
    ("ReduceMean", mean),
    ("ReduceMin", extremum),
    ("ReduceProd", product),
    ("ReduceSum", |s| reduction(s, |_, g, _, _| Ok(g))),
    ("ReduceSumSquare", |s| {
        reduction(s, |s, g, x, _| {
            let double = s.add(x, x)?;
            s.mul(g, double)
        })
    }),
];

/// The axes that a reduction goes over.
enum Axes {
    /// None: the result is the operand.
    None,
    All,
    Some(Vec<usize>),
    /// Those that an operand names when it runs.
    Named(ValueId),
}

fn axes(s: &Step<'_, '_>) -> Written<Axes> {
    let x = s.input(0)?;
    let Ok(list) = s.list("axes", 1) else { return Ok(Axes::Named(s.input(1)?)) };
    match list.filter(|list| !list.is_empty()) {
        None if s.int("noop_with_empty_axes")? != 0 => Ok(Axes::None),
        None => Ok(Axes::All),
        Some(list) => {
            let rank = s.rank(x)?;
            let axes: Written<Vec<usize>> = list.iter().map(|&axis| s.axis(axis, rank)).collect();
            let mut axes = axes?;
            axes.sort_unstable();
            Ok(Axes::Some(axes))
        }
    }
}

/// A reduced value with the axes back, each of size 1.
fn widened(s: &mut Step<'_, '_>, reduced: ValueId, axes: &Axes) -> Written {
    if s.int("keepdims")? != 0 {
        return Ok(reduced);
    }
    match axes {
        Axes::None => Ok(reduced),
        // A scalar fits any shape.
        Axes::All => Ok(reduced),
        Axes::Some(axes) => {
            let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
            s.unsqueeze(reduced, &axes)
        }
        Axes::Named(axes) => s.op("Unsqueeze", &[reduced, *axes]),
    }
}

/// The gradient of a reduction from g and y, with their axes back, and x.
fn reduction<'w, 'g>(
    s: &mut Step<'w, 'g>,
    derive: impl FnOnce(&mut Step<'w, 'g>, ValueId, ValueId, ValueId) -> Written,
) -> Gradients {
    let (g, x, y) = (s.gradient()?, s.input(0)?, s.output(0)?);
    let axes = axes(s)?;
    let (g, y) = (widened(s, g, &axes)?, widened(s, y, &axes)?);
    let gradient = derive(s, g, x, y)?;
    let whole = s.expand_as(gradient, x)?;
    s.first(whole)
}

/// Σ over the axes of the reduction, which stay with size 1.
fn summed(s: &mut Step<'_, '_>, op_type: &str, x: ValueId) -> Written {
    let mut inputs = vec![Some(x)];
    inputs.extend(s.node.input(1).map(Some));
    let mut node = NewNode { inputs, ..NewNode::new(op_type, []) };
    if let Some(noop) = s.node.int("noop_with_empty_axes") {
        node = node.with("noop_with_empty_axes", noop);
    }
    s.node(node.with("keepdims", 1i64))
}

/// g divided by the number of elements that were reduced.
fn mean(s: &mut Step<'_, '_>) -> Gradients {
    reduction(s, |s, g, x, _| {
        let axes = match axes(s)? {
            Axes::None => Vec::new(),
            Axes::All => (0..s.rank(x)?).collect(),
            Axes::Some(axes) => axes,
            Axes::Named(_) => {
                let one = s.number(x, 1.0)?;
                let ones = s.expand_as(one, x)?;
                let count = summed(s, "ReduceSum", ones)?;
                return s.div(g, count);
            }
        };
        let count = s.count(x, &axes, g)?;
        s.div(g, count)
    })
}

/// The elements that are equal to the result share g.
fn extremum(s: &mut Step<'_, '_>) -> Gradients {
    reduction(s, |s, g, x, y| {
        let equal = s.op("Equal", &[x, y])?;
        let shares = like(s, equal, x)?;
        let count = summed(s, "ReduceSum", shares)?;
        let part = s.div(g, count)?;
        s.mul(part, shares)
    })
}

/// g times the product of all others: P/x where no element is zero; P at the only zero, where P leaves zeros out; 0
/// elsewhere.
fn product(s: &mut Step<'_, '_>) -> Gradients {
    reduction(s, |s, g, x, _| {
        let zero = s.number(x, 0.0)?;
        let is_zero = s.op("Equal", &[x, zero])?;
        let one = s.number(x, 1.0)?;
        let others = s.op("Where", &[is_zero, one, x])?;
        let product = summed(s, "ReduceProd", others)?;
        let marks = like(s, is_zero, x)?;
        let zeros = summed(s, "ReduceSum", marks)?;
        // Zeros among the other elements.
        let rest = s.sub(zeros, marks)?;
        let alone = s.below(rest, 0.5)?;
        let quotient = s.div(product, others)?;
        let derivative = s.mul(g, quotient)?;
        s.where_only(alone, derivative)
    })
}

/// The sum from the other end.
fn cumulative_sum(s: &mut Step<'_, '_>) -> Gradients {
    let (g, axis) = (s.gradient()?, s.input(1)?);
    let (exclusive, reverse) = (s.int("exclusive")?, s.int("reverse")?);
    let node = NewNode::new("CumSum", [g, axis]).with("exclusive", exclusive);
    let gradient = s.node(node.with("reverse", i64::from(reverse == 0)))?;
    s.first(gradient)
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub(super) fn examples() -> Vec<super::example::Example> {
    use onnx_opt_ir::{ElementType, Tensor};

    use super::example::Example;

    let mut examples = Vec::new();
    for (op_type, _) in RULES.iter().filter(|(op_type, _)| *op_type != "CumSum") {
        let low = if ["ReduceLogSum", "ReduceProd"].contains(op_type) { 0.3 } else { -2.0 };
        for (words, axes, keep) in [
            ("two axes that go", &[0i64, 2][..], 0i64),
            ("an axis that stays", &[-1], 1),
            ("all axes", &[], 0),
        ] {
            examples.push(Example::new(op_type, words, 18, move |t| {
                let x = t.input("x", &[2, 3, 2], low, 1.9);
                let mut inputs = vec![x];
                if !axes.is_empty() {
                    inputs.push(t.integers(axes));
                }
                t.node(NewNode::new(op_type, inputs).with("keepdims", keep))
            }));
        }
    }
    examples.push(Example::new("ReduceProd", "with zeros", 18, |t| {
        let x = t.input("x", &[3, 3], -2.0, 1.9);
        let mask = t.constant(&[3, 3], &[1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
        let zeros = t.op("Mul", &[x, mask]);
        let axes = t.integers(&[1]);
        t.op("ReduceProd", &[zeros, axes])
    }));
    examples.push(Example::new("ReduceMean", "sizes that have names", 18, |t| {
        let x = t.symbolic_input("x", &["n", "m"], &[2, 3], -2.0, 2.0);
        let square = t.op("Mul", &[x, x]);
        let axes = t.integers(&[1]);
        t.node(NewNode::new("ReduceMean", [square, axes]).with("keepdims", 0i64))
    }));
    for (words, exclusive, reverse) in
        [("forwards", 0i64, 0i64), ("without its own element", 1, 0), ("backwards", 0, 1), ("both", 1, 1)]
    {
        examples.push(Example::new("CumSum", words, 18, move |t| {
            let x = t.input("x", &[3, 4], -2.0, 2.0);
            let axis = t.tensor_constant(Tensor::scalar(ElementType::Int64, 1.0).unwrap());
            t.node(NewNode::new("CumSum", [x, axis]).with("exclusive", exclusive).with("reverse", reverse))
        }));
    }
    examples
}
