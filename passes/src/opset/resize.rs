//! `Upsample`, `Resize`, and others that sample: sizes, coordinates, modes.

use onnx_opt_ir::{Attributes, Tensor, ValueId};

use super::step::Step;

/// Version 7 of `Upsample`: one scale for each axis, and a mode by another name.
pub(super) fn upsample_scales(step: &mut Step<'_>) -> Result<(), String> {
    let scale = |name| step.node().float(name).ok_or("a scale is not said");
    let scales = vec![1.0, 1.0, scale("height_scale")?, scale("width_scale")?];
    let mut attributes = step.attributes_without(&["height_scale", "width_scale"]);
    attributes.set("scales", scales);
    if step.node().string("mode") == Some("bilinear") {
        attributes.set("mode", "linear");
    }
    step.restate_attributes(attributes)
}

/// Version 9 of `Upsample`: the scales are an operand.
pub(super) fn upsample_operand(step: &mut Step<'_>) -> Result<(), String> {
    let x = step.input(0)?;
    let scales = step.node().floats("scales").ok_or("the scales are not said")?.to_vec();
    let scales = step.constant(Tensor::from_f32(&[scales.len()], &scales))?;
    step.restate(&[Some(x), Some(scales)], step.attributes_without(&["scales"]))
}

/// `Upsample` was withdrawn in version 10 for `Resize`. That scales are at least 1 helps the `Resize` of version 11 to
/// say how coordinates are rounded, so that there is no stop between the two.
pub(super) fn upsample(step: &mut Step<'_>) -> Result<(), String> {
    let inputs = step.node().inputs().to_vec();
    let attributes = step.node().attributes().clone();
    match (step.version, step.target) {
        (10, 10) => step.become_operator("Resize", &inputs, attributes),
        (10, _) => Ok(()),
        _ => resize(step, Some("floor")),
    }
}

/// Version 11 of `Resize` says how coordinates map. Before, it was by the scales alone; the nearest element was at the
/// coordinate rounded down for scales from 1 on, and up for others, as onnxruntime has it, since the standard was
/// silent.
pub(super) fn coordinates(step: &mut Step<'_>) -> Result<(), String> {
    let scales = step.graph.constant(step.input(1)?).and_then(|scales| scales.to_f32());
    let rounding = match scales {
        Some(scales) if scales.iter().all(|&scale| scale >= 1.0) => Some("floor"),
        Some(scales) if scales.iter().all(|&scale| scale <= 1.0) => Some("ceil"),
        _ => None,
    };
    resize(step, rounding)
}

fn resize(step: &mut Step<'_>, rounding: Option<&str>) -> Result<(), String> {
    let (x, scales) = (step.input(0)?, step.input(1)?);
    let mode = step.node().string("mode").ok_or("the mode is not known")?.to_owned();
    let mut attributes = Attributes::new();
    attributes.set("mode", &*mode);
    attributes.set("coordinate_transformation_mode", "asymmetric");
    if mode == "nearest" {
        let rounding = rounding.ok_or("some scales may be smaller than 1, some larger")?;
        attributes.set("nearest_mode", rounding);
    }
    let nowhere = step.constant(Tensor::from_f32(&[0], &[]))?;
    step.become_operator("Resize", &[Some(x), Some(nowhere), Some(scales)], attributes)
}

/// Version 13 of `Resize`: operands that say nothing are left out, and `tf_half_pixel_for_nn` is no more.
pub(super) fn without_empty_operands(step: &mut Step<'_>) -> Result<(), String> {
    if step.node().string("coordinate_transformation_mode") == Some("tf_half_pixel_for_nn") {
        return Err("there is no tf_half_pixel_for_nn any more".to_owned());
    }
    let empty = |value: ValueId| step.graph.constant(value).is_some_and(|tensor| tensor.is_empty());
    let inputs: Vec<Option<ValueId>> =
        step.node().inputs().iter().map(|input| input.filter(|&value| !empty(value))).collect();
    let attributes = step.node().attributes().clone();
    step.restate(&inputs, attributes)
}

/// Version 16 of `RoiAlign` shifts coordinates by half a pixel unless told otherwise.
pub(super) fn roi_coordinates(step: &mut Step<'_>) -> Result<(), String> {
    let mut attributes = step.node().attributes().clone();
    attributes.set("coordinate_transformation_mode", "output_half_pixel");
    step.restate_attributes(attributes)
}

/// Version 20 of `GridSample` has other names for its modes.
pub(super) fn grid_modes(step: &mut Step<'_>) -> Result<(), String> {
    let mode = match step.node().string("mode") {
        Some("bilinear") => "linear",
        Some("bicubic") => "cubic",
        Some("nearest") => "nearest",
        _ => return Err("the mode is not known".to_owned()),
    };
    let mut attributes = step.node().attributes().clone();
    attributes.set("mode", mode);
    step.restate_attributes(attributes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{Model, NewNode};

    use super::super::testing::{last, raised, refusal};
    use crate::testing::Fixture;

    fn scaled(op_type: &str, mode: &str, scales: Option<[f32; 4]>) -> Fixture {
        let mut f = Fixture::new(if op_type == "Resize" { 10 } else { 9 });
        let x = f.input("x", &[1, 2, 6, 6]);
        let scales = match scales {
            Some(scales) => f.floats(&[4], &scales),
            None => f.input("scales", &[4]),
        };
        let y = f.node(NewNode::new(op_type, [x, scales]).with("mode", mode));
        f.with_output(y)
    }

    fn nearest(model: &Model) -> (usize, String, String) {
        let node = model.graph.node(last(model, "Resize"));
        let said = |name| node.string(name).unwrap().to_owned();
        (node.inputs().len(), said("coordinate_transformation_mode"), said("nearest_mode"))
    }

    #[test]
    fn upsample_becomes_a_resize_that_rounds_down() {
        for scales in [Some([1.0, 1.0, 2.0, 1.5]), None] {
            let model = raised(scaled("Upsample", "nearest", scales), 19);
            assert_eq!(nearest(&model), (3, "asymmetric".to_owned(), "floor".to_owned()));
        }
        let model = raised(scaled("Upsample", "nearest", None), 10);
        assert_eq!(model.graph.node(last(&model, "Resize")).inputs().len(), 2);
    }

    #[test]
    fn resize_rounds_by_its_scales() {
        let rounding = |scales| nearest(&raised(scaled("Resize", "nearest", Some(scales)), 13)).2;
        assert_eq!(rounding([1.0, 1.0, 2.0, 3.0]), "floor");
        assert_eq!(rounding([1.0, 1.0, 0.5, 1.0]), "ceil");
        let both = scaled("Resize", "nearest", Some([1.0, 1.0, 0.5, 2.0]));
        assert!(refusal(both, 13).contains("some scales"));
        assert!(refusal(scaled("Resize", "nearest", None), 13).contains("some scales"));
        raised(scaled("Resize", "linear", None), 13);
    }

    #[test]
    fn scales_of_the_first_version_are_of_two_axes() {
        let mut f = Fixture::new(1);
        let x = f.input("x", &[1, 2, 6, 6]);
        let node = NewNode::new("Upsample", [x]).with("mode", "bilinear");
        let y = f.node(node.with("height_scale", 2.0f32).with("width_scale", 3.0f32));
        let model = raised(f.with_output(y), 13);
        let node = model.graph.node(last(&model, "Resize"));
        let scales = model.graph.constant(node.input(2).unwrap()).unwrap().to_f32();
        assert_eq!((node.string("mode"), scales), (Some("linear"), Some(vec![1.0, 1.0, 2.0, 3.0])));
    }

    #[test]
    fn names_and_defaults_of_samplers() {
        let mut f = Fixture::new(16);
        let (x, grid) = (f.input("x", &[1, 2, 6, 6]), f.input("grid", &[1, 3, 3, 2]));
        let y = f.node(NewNode::new("GridSample", [x, grid]).with("mode", "bicubic"));
        let z = f.op("GridSample", &[y, grid]);
        let model = raised(f.with_output(z), 20);
        let mut modes: Vec<_> = model.graph.nodes().filter_map(|(_, node)| node.string("mode")).collect();
        modes.sort_unstable();
        assert_eq!(modes, ["cubic", "linear"]);
        let for_nn = |mode: &str| {
            let mut f = Fixture::new(11);
            let (x, roi) = (f.input("x", &[1, 2, 6, 6]), f.floats(&[0], &[]));
            let scales = f.floats(&[4], &[1.0, 1.0, 2.0, 2.0]);
            let y =
                f.node(NewNode::new("Resize", [x, roi, scales]).with("coordinate_transformation_mode", mode));
            f.with_output(y)
        };
        assert!(refusal(for_nn("tf_half_pixel_for_nn"), 13).contains("tf_half_pixel_for_nn"));
        let model = raised(for_nn("half_pixel"), 13);
        assert_eq!(model.graph.node(last(&model, "Resize")).input(1), None);
    }
}
