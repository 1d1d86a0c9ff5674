//! Activations that exporters write as elementwise arithmetic.

use crate::rewrite::ensure;

rules! {
    /// Relu(Relu(x)) = Relu(x).
    relu_relu [exact, shared]: Relu(Relu(x) as y) => y;

    /// GELU by the error function: 0.5·x·(1 + erf(x/√2)).
    gelu_erf [rounding, since 20]:
        Mul(Mul(x, Add(Erf(Div(x, 1.4142135)), 1.0)), 0.5)
        | Mul(Mul(x, 0.5), Add(Erf(Div(x, 1.4142135)), 1.0))
        | Mul(x, Mul(Add(Erf(Div(x, 1.4142135)), 1.0), 0.5))
        => Gelu(x)
        where |site| ensure(site.graph.opset() >= 20, "Gelu needs opset 20");

    /// Tested for the language: attributes, optional operands, rest, do.
    leaky_abs [approximate]: LeakyRelu(Abs(x)){alpha: float a} => do |site| {
        ensure(a >= 0.0, "negative slope")?;
        Ok(crate::rewrite::Patch::replacing(site.output()?, x))
    };
}
