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
