//! Resampling of images.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::types::Shape;

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "Resize" => resize,
        "Upsample" => upsample,
        "GridSample" => grid_sample,
        "AffineGrid" => affine_grid,
        _ => return None,
    })
}

/// `floor(size·scale)`, where that does not depend on the precision of the product.
fn scaled(cx: &Inference<'_>, size: &Dim, scale: f64) -> Dim {
    if !(scale > 0.0 && scale.is_finite()) {
        return cx.fresh();
    }
    if let Some(size) = size.as_fixed() {
        let (wide, narrow) = ((size as f64 * scale).floor(), (size as f32 * scale as f32).floor());
        let agree = wide == f64::from(narrow) && wide < 9e15;
        return if agree { Dim::fixed(wide as i64) } else { cx.fresh() };
    }
    // A fraction whose denominator is a power of two is exact in binary.
    const DENOMINATOR: f64 = 64.0;
    let numerator = scale * DENOMINATOR;
    if numerator.fract() == 0.0 && numerator <= 65536.0 {
        let (numerator, denominator) = (numerator as i64, DENOMINATOR as i64);
        let shared = 1 << numerator.trailing_zeros().min(denominator.trailing_zeros());
        return (size * &Dim::fixed(numerator / shared)).floor_div(&Dim::fixed(denominator / shared));
    }
    cx.fresh()
}

fn all_scaled(cx: &Inference<'_>, shape: &[Dim], scales: Option<Vec<f64>>) -> Result<Shape, InferenceError> {
    match scales {
        Some(scales) if scales.len() == shape.len() => {
            Ok(shape.iter().zip(scales).map(|(size, scale)| scaled(cx, size, scale)).collect())
        }
        Some(scales) => {
            Err(cx.error(format!("{} scales for a tensor of rank {}", scales.len(), shape.len())))
        }
        None => Ok(cx.fresh_shape(shape.len())),
    }
}

/// The numbers of a constant operand; `None` if there are none.
fn numbers(cx: &Inference<'_>, index: usize) -> Option<Vec<f64>> {
    cx.constant(index)?.to_f64().filter(|numbers| !numbers.is_empty())
}

/// An operand that is there and not known to be empty: older files write an empty tensor for one left out.
fn is_given(cx: &Inference<'_>, index: usize) -> bool {
    cx.input(index).is_some() && !matches!(cx.shape(index), Some([size]) if size.as_fixed() == Some(0))
}

fn resize(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return cx.one(Fact::ranked(cx.element(0), None)) };
    if cx.version() < 11 {
        return cx.one(Fact::tensor(cx.element(0), all_scaled(cx, shape, numbers(cx, 1))?));
    }
    let axes = match cx.node().ints("axes") {
        Some(axes) => axes.iter().map(|&axis| cx.axis(axis, shape.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..shape.len()).collect(),
    };
    let node = cx.node();
    let crops = node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize");
    let stretches = matches!(node.string("keep_aspect_ratio_policy"), None | Some("stretch"));
    let mut result = Shape::from(shape);
    let (scales, sizes) = (is_given(cx, 2), is_given(cx, 3));
    let known = match (scales, sizes) {
        (true, false) if !crops => numbers(cx, 2).map(|scales| {
            let sizes = axes.iter().zip(&scales).map(|(&axis, &scale)| scaled(cx, &shape[axis], scale));
            (scales.len(), sizes.collect::<Vec<_>>())
        }),
        (false, true) if stretches => cx.elements(3).map(|sizes| (sizes.len(), sizes)),
        _ => None,
    };
    match known {
        Some((count, _)) if count != axes.len() => {
            return Err(cx.error(format!("{count} scales or sizes for {} axes", axes.len())));
        }
        Some((_, sizes)) => axes.iter().zip(sizes).for_each(|(&axis, size)| result[axis] = size),
        None => axes.iter().for_each(|&axis| result[axis] = cx.fresh()),
    }
    cx.one(Fact::tensor(cx.element(0), result))
}

fn upsample(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return cx.one(Fact::ranked(cx.element(0), None)) };
    let node = cx.node();
    let scales = match cx.version() {
        1 => node
            .float("height_scale")
            .zip(node.float("width_scale"))
            .map(|(height, width)| vec![1.0, 1.0, height.into(), width.into()]),
        7 => node.floats("scales").map(|scales| scales.iter().copied().map(f64::from).collect()),
        _ => numbers(cx, 1),
    };
    cx.one(Fact::tensor(cx.element(0), all_scaled(cx, shape, scales)?))
}

/// The grid is `[batch, sizes..., coordinates]`.
fn grid_sample(cx: &Inference<'_>) -> Answer {
    let shape = match (cx.shape(0), cx.shape(1)) {
        (Some([batch, channels, ..]), Some([_, sizes @ .., _])) => {
            Some([batch, channels].into_iter().chain(sizes).cloned().collect())
        }
        (Some(shape), None) => Some(cx.fresh_shape(shape.len())),
        (None, Some(grid)) => Some(cx.fresh_shape(grid.len())),
        _ => None,
    };
    cx.one(Fact::ranked(cx.element(0), shape))
}

/// From the size `[batch, channels, sizes...]` to `[batch, sizes..., coordinates]`.
fn affine_grid(cx: &Inference<'_>) -> Answer {
    let size = cx.elements(1).or_else(|| {
        let rank = cx.shape(1)?.first()?.as_fixed()?;
        matches!(rank, 4 | 5).then(|| (0..rank).map(|_| cx.fresh()).collect())
    });
    let shape = match size.as_deref() {
        Some([batch, _, sizes @ ..]) => {
            let coordinates = Dim::fixed(sizes.len() as i64);
            Some([batch].into_iter().chain(sizes).cloned().chain([coordinates]).collect())
        }
        _ => None,
    };
    cx.one(Fact::ranked(cx.element(0), shape))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::infer::testing::{Operand, constant, int64, ints, shaped, ty};
    use crate::tensor::Tensor;
    use crate::types::ElementType;

    #[test]
    fn scales_and_sizes() {
        let input = || shaped(ElementType::Float, "N 3 H 9");
        let resize = |operands| ty(19, "Resize", operands, &[]).map_err(|error| error.to_string());
        let scales = |scales: &[f32]| constant(Tensor::from_f32(&[scales.len()], scales).unwrap());
        let by = |factors: &[f32]| resize(vec![input(), Operand::Absent, scales(factors)]);
        assert_eq!(by(&[1.0, 1.0, 2.0, 0.5]).unwrap(), "float[N, 3, 2*H, 4]");
        assert_eq!(by(&[1.0, 1.0, 0.5, 1.5]).unwrap(), "float[N, 3, floor(H/2), 13]");
        assert!(by(&[1.0, 1.0, 0.3, 1.0]).unwrap().contains('?'));
        assert!(by(&[1.0, 2.0]).is_err());
        let to = vec![input(), Operand::Absent, Operand::Absent, int64("N 3 20 W")];
        assert_eq!(resize(to).unwrap(), "float[N, 3, 20, W]");
        // Before version 13 an empty tensor stood for scales left out.
        let old = vec![input(), scales(&[]), scales(&[]), ints(&[1, 3, 8, 8])];
        assert_eq!(ty(11, "Resize", old, &[]).unwrap(), "float[1, 3, 8, 8]");
    }
}
