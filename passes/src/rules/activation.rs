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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::testing::Fixture;

    fn gelu(scale: f64) -> Fixture {
        let mut f = Fixture::new(20);
        let x = f.input("x", &[2, 3]);
        let (root, one, half) = (f.scalar(scale), f.scalar(1.0), f.scalar(0.5));
        let t = f.op("Div", &[x, root]);
        let t = f.op("Erf", &[t]);
        let t = f.op("Add", &[one, t]);
        let t = f.op("Mul", &[t, x]);
        let y = f.op("Mul", &[half, t]);
        f.output("y", y);
        f
    }

    #[test]
    fn gelu_in_either_order_of_operands() {
        assert_eq!(gelu(std::f64::consts::SQRT_2).rewritten(super::rules()), ["Gelu"]);
    }

    #[test]
    fn another_scale_is_no_gelu() {
        assert_eq!(gelu(1.5).rewritten(super::rules()).len(), 5);
    }

    #[test]
    fn an_inner_result_that_leaves_the_graph_stays() {
        let mut f = gelu(std::f64::consts::SQRT_2);
        let erf = f.result_of("Erf");
        f.output("erf", erf);
        assert_eq!(f.rewritten(super::rules()).len(), 5);
    }

    #[test]
    fn idempotent_pairs() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[4]);
        let t = f.op("Relu", &[x]);
        let t = f.op("Relu", &[t]);
        let y = f.op("Abs", &[t]);
        f.output("y", y);
        assert_eq!(f.rewritten(super::rules()), ["Relu"]);
    }

    #[test]
    fn relu6_from_minimum() {
        let build = |bound: f64| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let six = f.scalar(bound);
            let t = f.op("Relu", &[x]);
            let y = f.op("Min", &[six, t]);
            f.output("y", y);
            f.rewritten(super::rules())
        };
        assert_eq!(build(6.0), ["Clip"]);
        assert_eq!(build(7.0), ["Relu", "Min"]);
    }

    #[test]
    fn abs_of_something_else_stays() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[4]);
        let t = f.op("Neg", &[x]);
        let y = f.op("Abs", &[t]);
        f.output("y", y);
        assert_eq!(f.rewritten(super::rules()), ["Neg", "Abs"]);
    }

    #[test]
    fn mish_needs_its_own_argument() {
        let build = |same: bool| {
            let mut f = Fixture::new(18);
            let x = f.input("x", &[4]);
            let other = f.input("other", &[4]);
            let t = f.op("Softplus", &[if same { x } else { other }]);
            let t = f.op("Tanh", &[t]);
            let y = f.op("Mul", &[x, t]);
            f.output("y", y);
            f.rewritten(super::rules())
        };
        assert_eq!(build(true), ["Mish"]);
        assert_eq!(build(false), ["Softplus", "Tanh", "Mul"]);
    }
}
