//! `Swish`.

use onnx_opt_ir::{Attributes, NewNode, Tensor};

use super::step::Step;

/// Swish(x) = x·Sigmoid(α·x), as the standard defines it. onnxruntime has no `Swish` of its own, and expands the
/// definition in models of opset 24 only, so that a later one needs the parts.
pub(super) fn swish(step: &mut Step<'_>) -> Result<(), String> {
    let x = step.input(0)?;
    let alpha = step.node().float("alpha").ok_or("alpha is not known")?;
    let mut scaled = x;
    if alpha != 1.0 {
        let element = step.element(0)?;
        let alpha = step.constant(Tensor::scalar(element, f64::from(alpha)))?;
        scaled = step.add(NewNode::new("Mul", [x, alpha]))?;
    }
    let gate = step.add(NewNode::new("Sigmoid", [scaled]))?;
    step.become_operator("Mul", &[Some(x), Some(gate)], Attributes::new())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{operators, raised};
    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn swish_is_taken_apart_past_its_own_opset() {
        for (alpha, expected) in [(1.0f32, &["Sigmoid", "Mul"][..]), (2.0, &["Mul", "Sigmoid", "Mul"])] {
            let mut f = Fixture::new(24);
            let x = f.input("x", &[4]);
            let y = f.node(NewNode::new("Swish", [x]).with("alpha", alpha));
            assert_eq!(operators(&raised(f.with_output(y), 25)), expected);
        }
    }
}
