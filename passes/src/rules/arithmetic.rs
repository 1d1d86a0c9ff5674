//! Signs and reciprocals that the operator behind them can take in.

use onnx_opt_ir::ElementType;

use super::facts::same_shape;
use crate::rewrite::ensure;

rules! {
    /// x + (−y) = x − y.
    add_neg [exact, since 7]: Add(x, Neg(y)) => Sub(x, y);

    /// x − (−y) = x + y.
    sub_neg [exact, since 7]: Sub(x, Neg(y)) => Add(x, y);

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
    vec![
        example("add_neg", "Add", "Mul"),
        example("sub_neg", "Sub", "Div"),
        reciprocal("Reciprocal"),
        reciprocal("Div"),
    ]
}
