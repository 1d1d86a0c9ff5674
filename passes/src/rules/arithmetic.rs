//! Signs that the operator behind them can take in.

rules! {
    /// x + (−y) = x − y.
    add_neg [exact, since 7]: Add(x, Neg(y)) => Sub(x, y);

    /// x − (−y) = x + y.
    sub_neg [exact, since 7]: Sub(x, Neg(y)) => Add(x, y);
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
    vec![example("add_neg", "Add", "Mul"), example("sub_neg", "Sub", "Div")]
}
