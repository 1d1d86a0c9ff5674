//! What changed up to version 11 and fits under no other theme.

use onnx_opt_ir::{ElementType, Tensor};

use super::step::Step;

/// The order of a norm in a pool became an integer in version 2.
pub(super) fn norm_order(step: &mut Step<'_>) -> Result<(), String> {
    let order = step.node().float("p").ok_or("the order of the norm is not known")?;
    if order.fract() != 0.0 || !(1.0..=1e6).contains(&order) {
        return Err("the order of the norm is no integer".to_owned());
    }
    let mut attributes = step.node().attributes().clone();
    attributes.set("p", order as i64);
    step.restate_attributes(attributes)
}

/// `paddings` of `Pad` became `pads` in version 2.
pub(super) fn paddings(step: &mut Step<'_>) -> Result<(), String> {
    let pads = step.node().ints("paddings").ok_or("paddings are not said")?.to_vec();
    let mut attributes = step.attributes_without(&["paddings"]);
    attributes.set("pads", pads);
    step.restate_attributes(attributes)
}

/// Version 1 of `GRU` misspelled its default direction, which was no direction at all.
pub(super) fn direction(step: &mut Step<'_>) -> Result<(), String> {
    let mut attributes = step.node().attributes().clone();
    if step.node().string("direction") == Some("foward") {
        attributes.remove("direction");
    }
    step.restate_attributes(attributes)
}

/// The axis of `Concat` had a default before version 4.
pub(super) fn concat_axis(step: &mut Step<'_>) -> Result<(), String> {
    let mut attributes = step.node().attributes().clone();
    if attributes.get("axis").is_none() {
        attributes.set("axis", 1i64);
    }
    step.restate_attributes(attributes)
}

/// An optimization hint of runtimes of old went in version 6.
pub(super) fn consumed_inputs(step: &mut Step<'_>) -> Result<(), String> {
    step.restate_attributes(step.attributes_without(&["consumed_inputs"]))
}

/// The element type that `Cast` gives was a name before version 6.
pub(super) fn cast_by_name(step: &mut Step<'_>) -> Result<(), String> {
    let name = step.node().string("to").ok_or("the element type is not known")?.to_ascii_lowercase();
    let element = ElementType::ALL.iter().find(|element| element.name() == name);
    let element = element.ok_or_else(|| format!("there is no element type {name}"))?;
    let mut attributes = step.attributes_without(&["consumed_inputs"]);
    attributes.set("to", i64::from(element.code()));
    step.restate_attributes(attributes)
}

/// Bounds of `Clip` that are not said were none before version 6.
pub(super) fn clip_without_bounds(step: &mut Step<'_>) -> Result<(), String> {
    let mut attributes = step.attributes_without(&["consumed_inputs"]);
    for (name, none) in [("min", f32::NEG_INFINITY), ("max", f32::INFINITY)] {
        if attributes.get(name).is_none() {
            attributes.set(name, none);
        }
    }
    step.restate_attributes(attributes)
}

/// `Tile` repeated one axis before version 6.
pub(super) fn tile(step: &mut Step<'_>) -> Result<(), String> {
    let x = step.input(0)?;
    let number = |index| step.graph.constant(step.node().input(index)?)?.single_f64();
    let (Some(count), Some(axis)) = (number(1), number(2)) else {
        return Err("how often it repeats which axis is not constant".to_owned());
    };
    let mut repeats = vec![1; step.rank(0)?];
    let place = repeats.get_mut(axis as usize).filter(|_| axis >= 0.0 && axis.fract() == 0.0);
    *place.ok_or("there is no such axis")? = count as i64;
    let repeats = step.constant(Tensor::from_i64(&[repeats.len()], &repeats))?;
    step.restate(&[Some(x), Some(repeats)], step.attributes_without(&[]))
}

/// Recurrent layers of version 1 said whether they give the whole sequence; in version 7 it is by their results.
pub(super) fn output_sequence(step: &mut Step<'_>) -> Result<(), String> {
    step.restate_attributes(step.attributes_without(&["output_sequence"]))
}

/// Version 8 of `Scan` ran over batches of sequences.
pub(super) fn scan_batch(_: &mut Step<'_>) -> Result<(), String> {
    Err("it scans batches of sequences of their own lengths".to_owned())
}

/// `Scatter` is `ScatterElements` since version 11.
pub(super) fn scatter(step: &mut Step<'_>) -> Result<(), String> {
    let (inputs, attributes) = (step.node().inputs().to_vec(), step.node().attributes().clone());
    step.become_operator("ScatterElements", &inputs, attributes)
}
