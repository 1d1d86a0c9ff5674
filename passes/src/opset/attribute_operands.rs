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
