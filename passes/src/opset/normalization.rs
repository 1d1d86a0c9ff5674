//! `BatchNormalization`, `GroupNormalization`, `Dropout`.

use onnx_opt_ir::{Attributes, ElementType, NewNode, Tensor, ValueId};

use super::step::Step;

/// Version 7 of `BatchNormalization` tells training by the number of results, as all versions did that had `is_test`
/// to say it.
pub(super) fn inference_only(step: &mut Step<'_>) -> Result<(), String> {
    if step.node().int("is_test") == Some(0) {
        return Err("it trains".to_owned());
    }
    step.restate_attributes(step.attributes_without(&["is_test"]))
}

/// Version 9 of `BatchNormalization` has statistics for each channel. Without axes behind the channels those for each
/// activation are the same.
pub(super) fn per_channel(step: &mut Step<'_>) -> Result<(), String> {
    if step.node().int("spatial") == Some(0) && step.rank(0)? != 2 {
        return Err("its statistics are for each activation".to_owned());
    }
    step.restate_attributes(step.attributes_without(&["spatial"]))
}

/// Version 14 of `BatchNormalization` gives other statistics in training, which more than one result meant before.
pub(super) fn single_result(step: &mut Step<'_>) -> Result<(), String> {
    if step.node().outputs().len() > 1 {
        return Err("it trains".to_owned());
    }
    step.keep()
}

/// Version 21 of `GroupNormalization` has scale and bias for each channel, not for each group, and computes in single
/// precision unless told otherwise.
pub(super) fn group_per_channel(step: &mut Step<'_>) -> Result<(), String> {
    let x = step.input(0)?;
    let groups = step.node().int("num_groups").filter(|&groups| groups > 0);
    let groups = groups.ok_or("the number of groups is not known")?;
    let channels = step.graph.shape(x).and_then(|shape| shape.get(1)?.as_fixed());
    let channels = channels.ok_or("the number of channels is not known")?;
    if channels % groups != 0 {
        return Err("the channels do not make groups".to_owned());
    }
    let mut attributes = step.node().attributes().clone();
    if step.element(0)? == ElementType::Double {
        attributes.set("stash_type", i64::from(ElementType::Double.code()));
    }
    let mut inputs = vec![Some(x)];
    for index in [1, 2] {
        let per_group = step.input(index)?;
        inputs.push(Some(repeated(step, per_group, groups, channels / groups)?));
    }
    step.restate(&inputs, attributes)
}

/// Each element of a vector so many times in a row.
fn repeated(step: &mut Step<'_>, vector: ValueId, length: i64, times: i64) -> Result<ValueId, String> {
    if times == 1 {
        return Ok(vector);
    }
    if let Some(tensor) = step.graph.constant(vector)
        && let Some(values) = tensor.to_f64()
    {
        let element = tensor.element();
        let times = usize::try_from(times).map_err(|error| error.to_string())?;
        let values: Vec<f64> = values.iter().flat_map(|&value| std::iter::repeat_n(value, times)).collect();
        return step.constant(Tensor::from_f64(element, &[values.len()], &values));
    }
    let column = step.integers(&[length, 1]);
    let column = step.add(NewNode::new("Reshape", [vector, column]))?;
    let sizes = step.integers(&[length, times]);
    let table = step.add(NewNode::new("Expand", [column, sizes]))?;
    let all = step.integers(&[-1]);
    step.add(NewNode::new("Reshape", [table, all]))
}

/// Version 7 of `Dropout` does not draw.
pub(super) fn dropout_inference_only(step: &mut Step<'_>) -> Result<(), String> {
    if step.node().int("is_test") == Some(0) {
        return Err("it trains".to_owned());
    }
    step.restate_attributes(step.attributes_without(&["is_test"]))
}

/// Version 10 of `Dropout` has a mask of booleans.
pub(super) fn dropout_mask(step: &mut Step<'_>) -> Result<(), String> {
    if step.node().output(1).is_some() {
        let removed = step.graph.remove_output(step.id, 1);
        removed.map_err(|_| "its mask is used, which became one of booleans")?;
    }
    let attributes: Attributes = step.node().attributes().clone();
    step.restate_attributes(attributes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::raise;
    use super::super::testing::{numbers, operators, raised, refusal};
    use super::*;
    use crate::testing::Fixture;

    fn batch(opset: i64, shape: &[i64], results: usize, attributes: &[(&str, i64)]) -> Fixture {
        let mut f = Fixture::new(opset);
        let x = f.input("x", shape);
        let statistics: Vec<ValueId> = (0..4).map(|_| f.weights(&[shape[1] as usize])).collect();
        let mut node = NewNode::new("BatchNormalization", std::iter::once(x).chain(statistics));
        node.outputs = results;
        attributes.iter().for_each(|(name, value)| node.attributes.set(name, *value));
        let y = f.node(node);
        f.with_output(y)
    }

    #[test]
    fn statistics_for_each_channel_are_all_that_is_left() {
        for (opset, attributes) in [(6, &[("is_test", 1)][..]), (7, &[("spatial", 1)]), (7, &[]), (9, &[])] {
            let model = raised(batch(opset, &[2, 3, 4], 1, attributes), 15);
            let (_, node) = model.graph.nodes().next().unwrap();
            assert!(node.attributes().is_empty());
        }
        raised(batch(7, &[2, 3], 1, &[("spatial", 0)]), 15);
        assert!(refusal(batch(7, &[2, 3, 4], 1, &[("spatial", 0)]), 15).contains("for each activation"));
    }

    #[test]
    fn training_is_no_inference() {
        assert!(refusal(batch(6, &[2, 3, 4], 1, &[]), 15).contains("trains"));
        assert!(refusal(batch(9, &[2, 3, 4], 5, &[]), 15).contains("trains"));
        let dropout = |is_test: i64| {
            let mut f = Fixture::new(6);
            let x = f.input("x", &[2]);
            let y = f.node(NewNode::new("Dropout", [x]).with("is_test", is_test));
            f.with_output(y)
        };
        raised(dropout(1), 22);
        assert!(refusal(dropout(0), 22).contains("trains"));
    }

    fn group(shape: &[&str], constant: bool) -> Fixture {
        let mut f = Fixture::new(18);
        let x = f.symbolic_input("x", shape);
        let scale = if constant { f.floats(&[2], &[1.0, 2.0]) } else { f.input("scale", &[2]) };
        let bias = f.floats(&[2], &[3.0, 4.0]);
        let y = f.node(NewNode::new("GroupNormalization", [x, scale, bias]).with("num_groups", 2i64));
        f.with_output(y)
    }

    #[test]
    fn what_held_for_groups_holds_for_their_channels() {
        let model = raised(group(&["n", "4", "5"], true), 21);
        assert_eq!(numbers(&model, "GroupNormalization", 1), Some(vec![1.0, 1.0, 2.0, 2.0]));
        assert_eq!(numbers(&model, "GroupNormalization", 2), Some(vec![3.0, 3.0, 4.0, 4.0]));
        let model = raised(group(&["n", "4", "5"], false), 21);
        assert_eq!(operators(&model), ["Reshape", "Expand", "Reshape", "GroupNormalization"]);
        assert!(refusal(group(&["n", "c", "5"], true), 21).contains("number of channels"));
        let mut model = group(&["n", "4", "5"], true).into_model();
        assert_eq!(raise(&mut model, 21).unwrap(), 1);
    }
}
