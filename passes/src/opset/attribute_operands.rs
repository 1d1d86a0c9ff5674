//! Attributes that became operands.

use onnx_opt_ir::{ElementType, Tensor};

use super::step::Step;

/// Version 5 of `Reshape`.
pub(super) fn reshape(step: &mut Step<'_>) -> Result<(), String> {
    let data = step.input(0)?;
    let shape = step.node().ints("shape").ok_or("the shape is not said")?.to_vec();
    let attributes = step.attributes_without(&["shape", "consumed_inputs"]);
    let shape = step.integers(&shape);
    step.restate(&[Some(data), Some(shape)], attributes)
}

/// Version 10 of `Slice`.
pub(super) fn slice(step: &mut Step<'_>) -> Result<(), String> {
    let data = step.input(0)?;
    let mut inputs = vec![Some(data)];
    for name in ["starts", "ends"] {
        let values = step.node().ints(name).ok_or("starts or ends are not said")?.to_vec();
        inputs.push(Some(step.integers(&values)));
    }
    if let Some(axes) = step.node().ints("axes").map(<[i64]>::to_vec) {
        inputs.push(Some(step.integers(&axes)));
    }
    step.restate(&inputs, step.attributes_without(&["starts", "ends", "axes"]))
}

/// Version 10 of `TopK`.
pub(super) fn top_k(step: &mut Step<'_>) -> Result<(), String> {
    let data = step.input(0)?;
    let count = step.node().int("k").ok_or("k is not said")?;
    let count = step.integers(&[count]);
    step.restate(&[Some(data), Some(count)], step.attributes_without(&["k"]))
}

/// Version 11 of `Clip`. Its bounds were the largest finite single-precision numbers where not said; by now they are
/// those of the element type.
pub(super) fn clip(step: &mut Step<'_>) -> Result<(), String> {
    let data = step.input(0)?;
    let element = step.element(0)?;
    let mut inputs = vec![Some(data)];
    for name in ["min", "max"] {
        let said = step.node().attributes().get(name).is_some();
        let bound = step.node().float(name).ok_or("a bound is not known")?;
        let bound = match said || element != ElementType::Float {
            true => Some(step.constant(Tensor::scalar(element, f64::from(bound)))?),
            false => None,
        };
        inputs.push(bound);
    }
    step.restate(&inputs, step.attributes_without(&["min", "max"]))
}

/// Version 11 of `Pad`.
pub(super) fn pad(step: &mut Step<'_>) -> Result<(), String> {
    let data = step.input(0)?;
    let pads = step.node().ints("pads").ok_or("pads are not said")?.to_vec();
    let value = step.node().float("value").ok_or("the value is not known")?;
    let pads = step.integers(&pads);
    let value = match value.to_bits() {
        0 => None,
        _ => {
            let element = step.element(0)?;
            Some(step.constant(Tensor::scalar(element, f64::from(value)))?)
        }
    };
    step.restate(&[Some(data), Some(pads), value], step.attributes_without(&["pads", "value"]))
}

/// Version 12 of `Dropout`, which draws only where an operand says so.
pub(super) fn dropout(step: &mut Step<'_>) -> Result<(), String> {
    let data = step.input(0)?;
    let ratio = match step.node().attributes().get("ratio") {
        None => None,
        Some(ratio) => Some(ratio.as_float().ok_or("the ratio is not known")?),
    };
    let ratio = match ratio {
        None => None,
        Some(ratio) => Some(step.constant(Tensor::scalar(ElementType::Float, f64::from(ratio)))?),
    };
    step.restate(&[Some(data), ratio], step.attributes_without(&["ratio"]))
}

/// Version 20 of `DFT`, with another axis where none is said.
pub(super) fn dft(step: &mut Step<'_>) -> Result<(), String> {
    let data = step.input(0)?;
    let length = step.node().input(1);
    let axis = step.node().int("axis").ok_or("the axis is not known")?;
    let axis = step.constant(Tensor::from_i64(&[], &[axis]))?;
    step.restate(&[Some(data), length, Some(axis)], step.attributes_without(&["axis"]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{AttributeValue, Dim, ElementType, NewNode};

    use super::super::testing::{integers, last, numbers, raised, refusal};
    use crate::testing::Fixture;

    /// One operator with these attributes on a tensor of 2x3.
    fn of(opset: i64, op_type: &str, element: ElementType, attributes: &[(&str, AttributeValue)]) -> Fixture {
        let mut f = Fixture::new(opset);
        let x = f.typed_input("x", element, [2, 3].map(Dim::fixed));
        let mut node = NewNode::new(op_type, [x]);
        node.outputs = if op_type == "TopK" { 2 } else { 1 };
        for (name, value) in attributes {
            node.attributes.set(name, value.clone());
        }
        let y = f.node(node);
        f.with_output(y)
    }

    #[test]
    fn attributes_become_operands() {
        let float = ElementType::Float;
        let shape = raised(of(1, "Reshape", float, &[("shape", vec![3i64, 2].into())]), 13);
        assert_eq!(integers(&shape, "Reshape", 1), Some(vec![3, 2]));
        let bounds =
            [("starts", vec![0i64].into()), ("ends", vec![2i64].into()), ("axes", vec![1i64].into())];
        let slice = raised(of(7, "Slice", float, &bounds), 10);
        assert_eq!([1, 2, 3].map(|index| integers(&slice, "Slice", index).unwrap()), [[0], [2], [1]]);
        let slice = raised(of(7, "Slice", float, &bounds[..2]), 10);
        assert_eq!(integers(&slice, "Slice", 3), None);
        let top = raised(of(1, "TopK", float, &[("k", 2i64.into())]), 11);
        assert_eq!(integers(&top, "TopK", 1), Some(vec![2]));
        let pads = ("pads", AttributeValue::from(vec![0i64, 1, 0, 0]));
        let pad = raised(of(2, "Pad", float, &[pads.clone(), ("value", 1.5f32.into())]), 11);
        assert_eq!((integers(&pad, "Pad", 1).unwrap().len(), numbers(&pad, "Pad", 2)), (4, Some(vec![1.5])));
        assert_eq!(numbers(&raised(of(2, "Pad", float, &[pads]), 11), "Pad", 2), None);
        let dropout = raised(of(7, "Dropout", float, &[("ratio", 0.25f32.into())]), 12);
        assert_eq!(numbers(&dropout, "Dropout", 1), Some(vec![0.25]));
    }

    #[test]
    fn bounds_that_are_not_said_are_those_of_single_precision() {
        let bounds = |fixture| {
            let model = raised(fixture, 13);
            [1, 2].map(|index| numbers(&model, "Clip", index))
        };
        let max = [("max", AttributeValue::from(2.0f32))];
        assert_eq!(bounds(of(6, "Clip", ElementType::Float, &max)), [None, Some(vec![2.0])]);
        let largest = f64::from(f32::MAX);
        assert_eq!(bounds(of(6, "Clip", ElementType::Double, &max)), [Some(vec![-largest]), Some(vec![2.0])]);
        // Before version 6 there were none.
        assert_eq!(
            bounds(of(1, "Clip", ElementType::Float, &max)),
            [Some(vec![f64::NEG_INFINITY]), Some(vec![2.0])]
        );
    }

    #[test]
    fn the_axis_of_a_transform_stays_where_its_default_moves() {
        let transform = |attributes: &[(&str, AttributeValue)]| {
            let mut f = Fixture::new(17);
            let x = f.input("x", &[1, 4, 5, 1]);
            let mut node = NewNode::new("DFT", [x]);
            attributes.iter().for_each(|(name, value)| node.attributes.set(name, value.clone()));
            let y = f.node(node);
            raised(f.with_output(y), 20)
        };
        assert_eq!(integers(&transform(&[]), "DFT", 2), Some(vec![1]));
        assert_eq!(integers(&transform(&[("axis", 2i64.into())]), "DFT", 2), Some(vec![2]));
    }

    #[test]
    fn masks_of_numbers_are_not_masks_of_booleans() {
        let masked = |used: bool| {
            let mut f = Fixture::new(7);
            let x = f.input("x", &[2, 3]);
            let node = NewNode { outputs: 2, ..NewNode::new("Dropout", [x]) };
            let id = f.graph.add_node(node).unwrap();
            let (y, mask) = (f.graph.node(id).output(0).unwrap(), f.graph.node(id).output(1).unwrap());
            if used {
                f.output("mask", mask);
            }
            f.with_output(y)
        };
        let model = raised(masked(false), 13);
        assert_eq!(model.graph.node(last(&model, "Dropout")).outputs().len(), 1);
        assert!(refusal(masked(true), 13).contains("its mask is used"));
    }
}
