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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{operators, raised, refusal};
    use super::*;
    use crate::testing::Fixture;

    fn sum(b: &[i64], constant: bool, attributes: &[(&str, i64)]) -> Fixture {
        let mut f = Fixture::new(6);
        let a = f.input("a", &[2, 3, 4, 5]);
        let sizes: Vec<usize> = b.iter().map(|&size| size as usize).collect();
        let b = if constant { f.weights(&sizes) } else { f.input("b", b) };
        let mut node = NewNode::new("Add", [a, b]);
        attributes.iter().for_each(|(name, value)| node.attributes.set(name, *value));
        let y = f.node(node);
        f.with_output(y)
    }

    #[test]
    fn the_second_operand_gets_axes_behind_its_own() {
        let model = raised(sum(&[3], true, &[("broadcast", 1), ("axis", 1)]), 7);
        let (_, node) = model.graph.nodes().next().unwrap();
        assert!(node.attributes().is_empty());
        assert_eq!(model.graph.fixed_shape(node.input(1).unwrap()), Some(vec![3, 1, 1]));
        let model = raised(sum(&[3, 4], false, &[("broadcast", 1), ("axis", 1)]), 13);
        assert_eq!(operators(&model), ["Unsqueeze", "Add"]);
        assert_eq!(operators(&raised(sum(&[4, 5], false, &[("broadcast", 1), ("axis", 2)]), 7)), ["Add"]);
        assert_eq!(operators(&raised(sum(&[5], false, &[("broadcast", 1)]), 7)), ["Add"]);
    }

    #[test]
    fn an_axis_that_does_not_fit_is_refused() {
        let negative = sum(&[3], true, &[("broadcast", 1), ("axis", -1)]);
        assert!(refusal(negative, 7).contains("negative"));
        assert!(refusal(sum(&[3], true, &[("broadcast", 1), ("axis", 4)]), 7).contains("do not fit"));
    }

    #[test]
    fn slopes_lie_along_the_channels() {
        let slopes = |count: i64| {
            let mut f = Fixture::new(6);
            let x = f.input("x", &[2, 3, 4]);
            let slope = f.weights(&[count as usize]);
            let y = f.op("PRelu", &[x, slope]);
            let model = raised(f.with_output(y), 16);
            let (_, node) = model.graph.nodes().next().unwrap();
            model.graph.fixed_shape(node.input(1).unwrap()).unwrap()
        };
        assert_eq!((slopes(3), slopes(1)), (vec![3, 1], vec![1]));
    }
}
