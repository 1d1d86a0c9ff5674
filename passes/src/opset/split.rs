//! `Split`: its parts.

use super::step::Step;

/// Version 2: the sizes of the parts are an attribute only, and the axis has a default.
pub(super) fn without_operand(step: &mut Step<'_>) -> Result<(), String> {
    if step.node().inputs().len() > 1 {
        return Err("the sizes of the parts are an operand".to_owned());
    }
    if step.node().attributes().get("axis").is_none() {
        return Err("the axis is not said".to_owned());
    }
    step.keep()
}

/// Version 13: the sizes of the parts are an operand.
pub(super) fn operand(step: &mut Step<'_>) -> Result<(), String> {
    let data = step.input(0)?;
    let attributes = step.attributes_without(&["split"]);
    let sizes = step.node().ints("split").map(<[i64]>::to_vec);
    let sizes = sizes.map(|sizes| step.integers(&sizes));
    step.restate(&[Some(data), sizes], attributes)
}

/// Version 18: without sizes the number of parts is said. Parts were equal before.
pub(super) fn number_of_results(step: &mut Step<'_>) -> Result<(), String> {
    if step.node().input(1).is_some() {
        return step.keep();
    }
    let mut attributes = step.node().attributes().clone();
    attributes.set("num_outputs", step.node().outputs().len() as i64);
    let data = step.input(0)?;
    step.restate(&[Some(data)], attributes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{Model, NewNode};

    use super::super::testing::{integers, last, raised, refusal};
    use crate::testing::Fixture;

    fn split(opset: i64, sizes: Option<Vec<i64>>, axis: Option<i64>) -> Fixture {
        let mut f = Fixture::new(opset);
        let x = f.input("x", &[6, 2]);
        let mut node = NewNode { outputs: 2, ..NewNode::new("Split", [x]) };
        if let Some(sizes) = sizes {
            node = node.with("split", sizes);
        }
        if let Some(axis) = axis {
            node = node.with("axis", axis);
        }
        let y = f.node(node);
        f.with_output(y)
    }

    fn parts(model: &Model) -> Option<i64> {
        model.graph.node(last(model, "Split")).int("num_outputs")
    }

    #[test]
    fn sizes_become_an_operand_and_equal_parts_a_number() {
        let sized = raised(split(11, Some(vec![1, 5]), Some(0)), 18);
        assert_eq!((integers(&sized, "Split", 1), parts(&sized)), (Some(vec![1, 5]), None));
        assert_eq!(parts(&raised(split(11, None, None), 17)), None);
        assert_eq!(parts(&raised(split(11, None, None), 18)), Some(2));
    }

    #[test]
    fn an_axis_that_nobody_said_is_no_axis() {
        assert_eq!(parts(&raised(split(1, None, Some(0)), 18)), Some(2));
        assert!(refusal(split(1, None, None), 18).contains("the axis is not said"));
    }
}
