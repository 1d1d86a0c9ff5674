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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{AttributeValue, NewNode};

    use super::super::testing::{integers, last, raised, refusal};
    use crate::testing::Fixture;

    fn with(opset: i64, op_type: &str, attributes: &[(&str, AttributeValue)]) -> Fixture {
        let mut f = Fixture::new(opset);
        let x = f.input("x", &[1, 2, 4, 4]);
        let mut node = NewNode::new(op_type, [x]);
        attributes.iter().for_each(|(name, value)| node.attributes.set(name, value.clone()));
        let y = f.node(node);
        f.with_output(y)
    }

    #[test]
    fn hints_of_old_go_and_defaults_that_moved_are_written() {
        let model = raised(with(1, "Selu", &[("consumed_inputs", vec![0i64].into())]), 22);
        let selu = model.graph.node(last(&model, "Selu"));
        assert_eq!((selu.attributes().len(), selu.float("alpha")), (2, Some(1.6732)));
        let model = raised(with(1, "Concat", &[]), 13);
        assert_eq!(model.graph.node(last(&model, "Concat")).int("axis"), Some(1));
    }

    #[test]
    fn element_types_had_names() {
        let model = raised(with(1, "Cast", &[("to", "INT32".into())]), 13);
        assert_eq!(model.graph.node(last(&model, "Cast")).int("to"), Some(6));
        assert!(refusal(with(1, "Cast", &[("to", "int33".into())]), 13).contains("int33"));
    }

    #[test]
    fn orders_of_norms_are_integers() {
        let model = raised(with(1, "GlobalLpPool", &[("p", 3.0f32.into())]), 22);
        assert_eq!(model.graph.node(last(&model, "GlobalLpPool")).int("p"), Some(3));
        assert!(refusal(with(1, "GlobalLpPool", &[("p", 2.5f32.into())]), 22).contains("no integer"));
    }

    #[test]
    fn scatter_has_another_name() {
        let mut f = Fixture::new(9);
        let (x, updates) = (f.input("x", &[3]), f.input("u", &[1]));
        let indices = f.integers(&[2]);
        let y = f.op("Scatter", &[x, indices, updates]);
        let model = raised(f.with_output(y), 16);
        assert_eq!(integers(&model, "ScatterElements", 1), Some(vec![2]));
    }
}
