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
