//! Resize: linear in its operand, axis by axis.

use onnx_opt_ir::{NewNode, ValueId};

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::{Size, Written};

pub(super) const RULES: &[(&str, Rule)] = &[("Resize", resize)];

/// Along each axis that changes, result = x·M with a matrix M of the weights, which is what the same `Resize` makes of
/// the unit matrix; the gradient is g·Mᵀ. Whole repeats of elements are summed instead.
fn resize(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    let rank = s.rank(x)?;
    let mode = s.string("coordinate_transformation_mode");
    if mode == "tf_crop_and_resize" {
        return Err(format!("mode {mode}").into());
    }
    let stretches = ["", "stretch"].contains(&s.string("keep_aspect_ratio_policy").as_str());
    if !stretches {
        return Err("sizes that keep an aspect ratio".into());
    }
    let axes: Vec<usize> = match s.node.ints("axes") {
        Some(axes) => axes.iter().map(|&axis| s.axis(axis, rank)).collect::<Written<_>>()?,
        None => (0..rank).collect(),
    };
    let (scales, sizes) = (s.node.input(2), s.node.input(3));
    let scales = match scales.filter(|&scales| s.graph.fixed_shape(scales).as_deref() != Some(&[0])) {
        Some(scales) => {
            let tensor = s.graph.constant(scales).ok_or("its scales are not constant")?;
            Some(tensor.to_f64().ok_or("its scales are no numbers")?)
        }
        None => None,
    };
    if scales.is_none() && sizes.is_none() {
        return Err("neither scales nor sizes".into());
    }
    let mut gradient = g;
    for (place, &axis) in axes.iter().enumerate() {
        let (small, large) = (s.fixed_axis(x, axis), s.fixed_axis(g, axis));
        let scale = scales.as_ref().and_then(|scales| scales.get(place)).copied();
        if scale == Some(1.0) || (scale.is_none() && small.is_some() && small == large) {
            continue;
        }
        let (Some(small), Some(large)) = (small, large) else {
            return Err(format!("size {axis} is not known").into());
        };
        gradient = match repeats(s, small, large, scale) {
            Some(times) => {
                let mut sizes: Vec<Size> = (0..rank).map(|axis| Size::Of(gradient, axis)).collect();
                sizes.splice(axis..=axis, [Size::Fixed(small), Size::Fixed(times)]);
                let parts = s.reshape_to(gradient, &sizes)?;
                s.sum(parts, &[axis + 1], false)?
            }
            None => along(s, gradient, axis, rank, (small, large), scale)?,
        };
    }
    s.first(gradient)
}

/// How often each element is repeated, if that is all that happens along an axis.
fn repeats(s: &Step<'_, '_>, small: i64, large: i64, scale: Option<f64>) -> Option<i64> {
    let nearest = ["", "nearest"].contains(&s.string("mode").as_str());
    let times = if small > 0 && large % small == 0 { large / small } else { return None };
    if !nearest || scale.is_some_and(|scale| scale != times as f64) {
        return None;
    }
    let rounding = s.string("nearest_mode");
    // Place q·k + r of the result is q + r/k, or q + (r + ½)/k − ½, of the operand.
    let plain = match s.string("coordinate_transformation_mode").as_str() {
        "asymmetric" => rounding == "floor",
        "" | "half_pixel" => rounding.is_empty() || rounding.starts_with("round_prefer"),
        _ => false,
    };
    plain.then_some(times)
}

/// g·Mᵀ along an axis.
fn along(
    s: &mut Step<'_, '_>,
    g: ValueId,
    axis: usize,
    rank: usize,
    (small, large): (i64, i64),
    scale: Option<f64>,
) -> Written {
    // The unit matrix, its rows a batch, its columns the axis.
    let batch = usize::from(axis == 0);
    let mut shape = vec![1usize; rank];
    if rank < 2 {
        return Err("of a vector".into());
    }
    (shape[batch], shape[axis]) = (small as usize, small as usize);
    let count = (small as usize).checked_mul(small as usize).ok_or("it is too large")?;
    let unit: Vec<f64> =
        (0..count).map(|place| f64::from(u8::from(place % (small as usize + 1) == 0))).collect();
    let unit = s.numbers(g, &shape, &unit)?;
    let mut node = NewNode::new("Resize", []);
    node.attributes = s.node.attributes().clone();
    node.attributes.remove("axes");
    node.attributes.remove("extrapolation_value");
    node.inputs = match scale {
        Some(scale) => {
            let mut scales = vec![1.0f32; rank];
            scales[axis] = scale as f32;
            let scales =
                onnx_opt_ir::Tensor::from_f32(&[rank], &scales).ok_or("its scales are no numbers")?;
            vec![Some(unit), None, Some(s.graph.add_constant(scales))]
        }
        None => {
            let mut sizes: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
            sizes[axis] = large;
            vec![Some(unit), None, None, Some(s.integers(&sizes))]
        }
    };
    let matrix = s.node(node)?;
    let matrix = s.reshape(matrix, &[small, large])?;
    let matrix = s.transpose(matrix, &[1, 0])?;
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(axis, rank - 1);
    let last = s.transpose(g, &order)?;
    let product = s.op("MatMul", &[last, matrix])?;
    s.transpose(product, &order)
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub(super) fn examples() -> Vec<super::example::Example> {
    use onnx_opt_ir::{ElementType, Tensor};

    use super::example::Example;

    let mut examples = Vec::new();
    for (words, mode, coordinates, nearest, scales) in [
        ("nearest, twice", "nearest", "asymmetric", "floor", &[1.0, 1.0, 2.0, 2.0]),
        (
            "nearest, thrice by half pixels",
            "nearest",
            "half_pixel",
            "round_prefer_floor",
            &[1.0, 1.0, 3.0, 1.0],
        ),
        ("nearest, smaller", "nearest", "asymmetric", "floor", &[1.0, 1.0, 0.5, 1.5]),
        ("linear, twice", "linear", "half_pixel", "", &[1.0, 1.0, 2.0, 2.0]),
        ("linear, smaller", "linear", "asymmetric", "", &[1.0, 1.0, 0.6, 1.5]),
        ("linear with corners aligned", "linear", "align_corners", "", &[1.0, 1.0, 1.5, 2.0]),
        ("cubic", "cubic", "half_pixel", "", &[1.0, 1.0, 1.5, 2.0]),
    ] {
        examples.push(Example::new("Resize", words, 18, move |t| {
            let x = t.input("x", &[1, 2, 4, 4], -2.0, 2.0);
            let scales = t.tensor_constant(Tensor::from_f64(ElementType::Float, &[4], scales).unwrap());
            let mut node = NewNode::new("Resize", []).with("mode", mode);
            node = node.with("coordinate_transformation_mode", coordinates);
            if !nearest.is_empty() {
                node = node.with("nearest_mode", nearest);
            }
            t.node(NewNode { inputs: vec![Some(x), None, Some(scales)], ..node })
        }));
    }
    examples.push(Example::new("Resize", "linear to sizes", 18, |t| {
        let x = t.input("x", &[1, 2, 3, 4], -2.0, 2.0);
        let sizes = t.integers(&[1, 2, 5, 6]);
        let node = NewNode::new("Resize", []).with("mode", "linear");
        t.node(NewNode { inputs: vec![Some(x), None, None, Some(sizes)], ..node })
    }));
    examples
}
