//! Signs and reciprocals that the operator behind them can take in.

use onnx_opt_ir::{Attributes, ElementType};

use super::facts::same_shape;
use crate::rewrite::{Patch, ensure, found, language::finish};

rules! {
    /// x + (−y) = x − y.
    add_neg [exact, since 7]: Add(x, Neg(y)) => Sub(x, y);

    /// x − (−y) = x + y.
    sub_neg [exact, since 7]: Sub(x, Neg(y)) => Add(x, y);

    /// A sum of two is what other operators take in.
    sum_of_two [exact, since 8, shared]: Sum(x, y) => Add(x, y);

    /// Not(a > b) = a ≤ b, where no operand is out of order.
    not_of_comparison [exact, since 12]: Not(Greater(a, b)) | Not(Less(a, b)) => do |site| {
        let (a_type, integers) = (site.graph.element(a), [ElementType::Int32, ElementType::Int64]);
        ensure(a_type.is_some_and(|a_type| integers.contains(&a_type)), "numbers may be in no order")?;
        let (_, comparison, _) = found(site.graph.producer(site.input(0)?))?;
        let opposite = if comparison.is("Greater") { "LessOrEqual" } else { "GreaterOrEqual" };
        let mut patch = Patch::new();
        let new = patch.node(opposite, [a, b], Attributes::new());
        finish(site, patch, new)
    };

    /// (1/x)·y = y/x, where that divides no more often.
    product_of_reciprocal [rounding, since 7]: Mul(Reciprocal(x), y) | Mul(Div(1.0, x), y) => Div(y, x)
        where |site| {
            ensure(site.graph.element(x).is_some_and(ElementType::is_float), "a reciprocal of integers is cut")?;
            same_shape(site.graph, x, site.output()?)
        };
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use crate::testing::{Example, Fixture};

    let example = |rule: &'static str, op_type: &'static str, miss: &'static str| {
        Example::new(rule, move |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.input("x", &[2, 3]), f.input("z", &[3]));
            let z = f.op("Neg", &[z]);
            let y = f.op(if fires { op_type } else { miss }, &[x, z]);
            f.with_output(y)
        })
    };
    // Multiplying is cheaper than dividing where x is broadcast.
    let reciprocal = |written: &'static str| {
        Example::new("product_of_reciprocal", move |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", if fires { &[2, 3] } else { &[3] });
            let z = f.input("z", &[2, 3]);
            let x = f.op("Exp", &[x]);
            let one = f.scalar(1.0);
            let t = if written == "Div" { f.op(written, &[one, x]) } else { f.op(written, &[x]) };
            let y = f.op("Mul", &[z, t]);
            f.with_output(y)
        })
    };
    let negated = |op_type: &'static str| {
        Example::new("not_of_comparison", move |fires| {
            let mut f = Fixture::new(13);
            let element = if fires { ElementType::Int64 } else { ElementType::Float };
            let sizes = || [onnx_opt_ir::Dim::fixed(3)];
            let (x, z) = (f.typed_input("x", element, sizes()), f.typed_input("z", element, sizes()));
            let t = f.op(op_type, &[x, z]);
            let y = f.op("Not", &[t]);
            f.with_output(y)
        })
    };
    vec![
        negated("Greater"),
        negated("Less"),
        Example::new("sum_of_two", |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.input("x", &[2, 3]), f.input("z", &[3]));
            let y = if fires { f.op("Sum", &[x, z]) } else { f.op("Sum", &[x, z, x]) };
            f.with_output(y)
        }),
        example("add_neg", "Add", "Mul"),
        example("sub_neg", "Sub", "Div"),
        reciprocal("Reciprocal"),
        reciprocal("Div"),
    ]
}
