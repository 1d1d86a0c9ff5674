//! Broadcasting: said by attributes before version 7, by shapes since.

use onnx_opt_ir::{NewNode, ValueId};

use super::step::Step;

/// Arithmetic, comparison and logic. Before, `broadcast` let the second operand be smaller, and its axes were those of
/// the first one from `axis` on, or its last ones.
pub(super) fn elementwise(step: &mut Step<'_>) -> Result<(), String> {
    let (a, b) = (step.input(0)?, step.input(1)?);
    let axis = match step.node().int("broadcast") {
        Some(1) => step.node().int("axis"),
        _ => None,
    };
    let b = match axis {
        None => b,
        Some(axis) => {
            let (whole, part) = (step.rank(0)?, step.rank(1)?);
            let axis = usize::try_from(axis).map_err(|_| "the axis is negative")?;
            let missing = whole.checked_sub(axis + part);
            trailing(step, b, part, missing.ok_or("the operands do not fit")?)?
        }
    };
    step.restate(&[Some(a), Some(b)], step.attributes_without(&["broadcast", "axis", "consumed_inputs"]))
}

/// `Gemm`, whose summand broadcasts along its last axes, then and now.
pub(super) fn gemm(step: &mut Step<'_>) -> Result<(), String> {
    step.restate_attributes(step.attributes_without(&["broadcast", "consumed_inputs"]))
}

/// `PRelu`, whose slopes were one for all or one for each channel, which is axis 1.
pub(super) fn prelu(step: &mut Step<'_>) -> Result<(), String> {
    let (x, slope) = (step.input(0)?, step.input(1)?);
    let shape = step.graph.shape(slope).ok_or("the shape of the slope is not known")?;
    let slope = match shape {
        [] => slope,
        [single] if single.as_fixed() == Some(1) => slope,
        [_] => {
            let missing = step.rank(0)?.checked_sub(2).ok_or("the operand has no channels")?;
            trailing(step, slope, 1, missing)?
        }
        _ => return Err("the slope is no vector".to_owned()),
    };
    step.restate(&[Some(x), Some(slope)], step.attributes_without(&["consumed_inputs"]))
}

/// A value of this rank with so many axes of size 1 behind its own.
fn trailing(step: &mut Step<'_>, value: ValueId, rank: usize, count: usize) -> Result<ValueId, String> {
    if count == 0 || rank == 0 {
        return Ok(value);
    }
    if let Some(tensor) = step.graph.constant(value) {
        let mut shape = tensor.shape().to_vec();
        shape.resize(rank + count, 1);
        let tensor = tensor.reshaped(&shape);
        return step.constant(tensor);
    }
    let axes: Vec<i64> = (rank as i64..(rank + count) as i64).collect();
    step.add(NewNode::new("Unsqueeze", [value]).with("axes", axes))
}
