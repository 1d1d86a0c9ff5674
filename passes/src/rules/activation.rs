//! Activations, and what exporters write for them in elementwise arithmetic.

// Patterns spell constants the way models do.
#![allow(clippy::approx_constant)]

rules! {
    /// Relu(Relu(x)) = Relu(x).
    relu_relu [exact, shared]: Relu(Relu(x) as y) => y;

    /// |Relu(x)| = Relu(x).
    abs_of_relu [exact, shared]: Abs(Relu(x) as y) => y;

    /// GELU by the error function: 0.5·x·(1 + erf(x/√2)).
    gelu_erf [rounding, since 20]:
        Mul(Mul(x, Add(Erf(Div(x, 1.4142135)), 1.0)), 0.5)
        | Mul(Mul(x, 0.5), Add(Erf(Div(x, 1.4142135)), 1.0))
        | Mul(x, Mul(Add(Erf(Div(x, 1.4142135)), 1.0), 0.5))
        => Gelu(x);

    /// min(Relu(x), 6) = Clip(x, 0, 6).
    relu6 [exact, since 11]: Min(Relu(x), 6.0) => Clip(x, 0.0, 6.0);

    /// x·tanh(ln(1 + eˣ)) = Mish(x).
    mish [rounding, since 18]: Mul(x, Tanh(Softplus(x))) => Mish(x);
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use crate::testing::{Example, Fixture};

    vec![
        Example::new("relu_relu", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let t = f.op(if fires { "Relu" } else { "Neg" }, &[x]);
            let y = f.op("Relu", &[t]);
            f.with_output(y)
        }),
        Example::new("abs_of_relu", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let t = f.op(if fires { "Relu" } else { "Neg" }, &[x]);
            let y = f.op("Abs", &[t]);
            f.with_output(y)
        }),
        Example::new("gelu_erf", |fires| {
            let mut f = Fixture::new(20);
            let x = f.input("x", &[2, 3]);
            let root = f.scalar(if fires { std::f64::consts::SQRT_2 } else { 1.5 });
            let (one, half) = (f.scalar(1.0), f.scalar(0.5));
            let t = f.op("Div", &[x, root]);
            let t = f.op("Erf", &[t]);
            let t = f.op("Add", &[one, t]);
            let t = f.op("Mul", &[t, x]);
            let y = f.op("Mul", &[half, t]);
            f.with_output(y)
        }),
        // An inner result that leaves the graph must stay.
        Example::new("gelu_erf", |fires| {
            let mut f = Fixture::new(20);
            let x = f.input("x", &[2, 3]);
            let (root, one, half) = (f.scalar(std::f64::consts::SQRT_2), f.scalar(1.0), f.scalar(0.5));
            let t = f.op("Div", &[x, root]);
            let erf = f.op("Erf", &[t]);
            let t = f.op("Add", &[erf, one]);
            let half_x = f.op("Mul", &[x, half]);
            let y = f.op("Mul", &[half_x, t]);
            if !fires {
                f.output("erf", erf);
            }
            f.with_output(y)
        }),
        Example::new("relu6", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let six = f.scalar(if fires { 6.0 } else { 7.0 });
            let t = f.op("Relu", &[x]);
            let y = f.op("Min", &[six, t]);
            f.with_output(y)
        }),
        Example::new("mish", |fires| {
            let mut f = Fixture::new(18);
            let x = f.input("x", &[4]);
            let other = f.input("other", &[4]);
            let t = f.op("Softplus", &[if fires { x } else { other }]);
            let t = f.op("Tanh", &[t]);
            let y = f.op("Mul", &[x, t]);
            f.with_output(y)
        }),
    ]
}
