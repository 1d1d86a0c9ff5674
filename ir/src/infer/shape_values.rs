//! Operators that read shapes, and those that make tensors of a shape given as a value.

use super::elements::{Elements, fill, in_range, size};
use super::elementwise::dtype;
use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::graph::Value;
use crate::types::{ElementType, Shape};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "Shape" => shape,
        "Size" => count,
        "ConstantOfShape" => constant_of_shape,
        "Range" => range,
        "EyeLike" => |cx| cx.one(Fact::ranked(dtype(cx, None)?, cx.shape(0).map(Shape::from))),
        "BlackmanWindow" | "HammingWindow" | "HannWindow" => window,
        _ => return None,
    })
}

/// The sizes of the axes `start..end`, both clamped to the rank.
fn shape(cx: &Inference<'_>) -> Answer {
    let Some(sizes) = cx.shape(0) else {
        return cx.one(Fact::tensor(Some(ElementType::Int64), [cx.fresh()]));
    };
    let rank = sizes.len() as i64;
    let clamp = |at: i64| if at < 0 { at.saturating_add(rank).max(0) } else { at.min(rank) } as usize;
    let start = clamp(cx.node().int("start").unwrap_or(0));
    let end = clamp(cx.node().int("end").unwrap_or(rank));
    let sizes = sizes.get(start..end).unwrap_or_default();
    let ty = Fact::tensor(Some(ElementType::Int64), [Dim::fixed(sizes.len() as i64)]);
    cx.one(ty.with_elements(Some(sizes.to_vec())))
}

fn count(cx: &Inference<'_>) -> Answer {
    let count = cx.shape(0).map(|sizes| vec![Dim::product(sizes)]);
    cx.one(Fact::tensor(Some(ElementType::Int64), []).with_elements(count))
}

/// The shape that operand `index` asks for: where its elements are unknown but their number is known, so is the rank.
///
/// # Errors
/// If a size is negative.
pub(super) fn asked_shape(cx: &Inference<'_>, index: usize) -> Result<Option<Shape>, InferenceError> {
    let Some(asked) = Elements::of_or_unknown(cx, index) else { return Ok(None) };
    let Some([count]) = cx.shape(index) else { return Ok(None) };
    let Some(asked) = fill(std::slice::from_ref(count), |at| asked.at(at).cloned()) else { return Ok(None) };
    if let Some(negative) = asked.iter().find(|size| size.as_fixed().is_some_and(|size| size < 0)) {
        return Err(cx.error(format!("size {negative} is negative")));
    }
    Ok(Some(asked.iter().map(|asked| size(cx, asked)).collect()))
}

/// Without `value` the result holds float zeros.
fn constant_of_shape(cx: &Inference<'_>) -> Answer {
    let value = cx.node().attributes().get("value").map(|value| value.as_tensor());
    let element = match value {
        None => Some(ElementType::Float),
        Some(tensor) => tensor.map(|tensor| tensor.element()),
    };
    let shape = asked_shape(cx, 0)?;
    let elements = shape.as_ref().and_then(|shape| {
        let tensor = value.flatten().filter(|tensor| tensor.len() == 1)?;
        let number = Dim::fixed(tensor.i64_at(0)?);
        fill(shape, |_| Some(number.clone()))
    });
    cx.one(Fact::ranked(element, shape).with_elements(elements))
}

/// `max(ceil((limit - start) / delta), 0)` numbers.
fn range(cx: &Inference<'_>) -> Answer {
    let element = cx.element(0).or(cx.element(1)).or(cx.element(2));
    let known = || -> Option<(Dim, Option<Vec<Dim>>)> {
        let element = element?;
        let operand = |index| cx.elements(index)?.first().cloned();
        let (Some(start), Some(limit), Some(delta)) = (operand(0), operand(1), operand(2)) else {
            return Some((float_range(cx)?, None));
        };
        let length = match delta.as_fixed()? {
            0 => return None,
            step if step > 0 => (&limit - &start).ceil_div(&delta),
            _ => (&start - &limit).ceil_div(&-&delta),
        };
        let length = length.max(Dim::fixed(0));
        let few = length.as_fixed().is_some_and(|length| length <= Value::MAX_ELEMENTS as i64);
        let elements = few.then(|| {
            fill(std::slice::from_ref(&length), |at| {
                in_range(element, &start + &delta * Dim::fixed(*at.first()? as i64))
            })
        });
        Some((length, elements.flatten()))
    };
    let (length, elements) = known().unwrap_or_else(|| (cx.fresh(), None));
    cx.one(Fact::tensor(element, [length]).with_elements(elements))
}

/// The length of a range of floats. The difference is rounded to the element type, as runtimes do.
fn float_range(cx: &Inference<'_>) -> Option<Dim> {
    let operand = |index| cx.constant(index)?.single_f64();
    let (start, limit, delta) = (operand(0)?, operand(1)?, operand(2)?);
    let difference = match cx.element(0)? {
        ElementType::Float => f64::from(limit as f32 - start as f32),
        ElementType::Double => limit - start,
        _ => return None,
    };
    let length = (difference / delta).ceil().max(0.0);
    (length.is_finite() && length < 1e15).then(|| Dim::fixed(length as i64))
}

fn window(cx: &Inference<'_>) -> Answer {
    let code = cx.node().int("output_datatype").unwrap_or(1);
    let element = i32::try_from(code).ok().and_then(ElementType::from_code);
    let length = cx.elements(0).and_then(|elements| elements.first().map(|asked| size(cx, asked)));
    cx.one(Fact::tensor(element, [length.unwrap_or_else(|| cx.fresh())]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::infer::testing::{constant, elements, int64, ints, shaped, ty};
    use crate::tensor::Tensor;
    use std::sync::Arc;

    #[test]
    fn shape_takes_a_range_of_axes() {
        let x = || vec![shaped(ElementType::Float, "N 3 H W")];
        for (attributes, expected) in [
            (vec![], "N, 3, H, W"),
            (vec![("start", 1.into())], "3, H, W"),
            (vec![("start", (-2).into())], "H, W"),
            (vec![("end", (-1).into())], "N, 3, H"),
            (vec![("start", 3.into()), ("end", 1.into())], ""),
            (vec![("start", i64::MIN.into()), ("end", i64::MAX.into())], "N, 3, H, W"),
        ] {
            assert_eq!(elements(15, "Shape", x(), &attributes).unwrap().unwrap(), expected);
        }
        assert_eq!(elements(13, "Size", x(), &[]).unwrap().unwrap(), "3*H*N*W");
    }

    #[test]
    fn constant_of_shape_follows_its_operand() {
        assert_eq!(ty(9, "ConstantOfShape", vec![int64("N 2")], &[]).unwrap(), "float[N, 2]");
        let one: Arc<Tensor> = Tensor::vector_i64(&[7]).into();
        let value = [("value", one.into())];
        assert_eq!(elements(9, "ConstantOfShape", vec![ints(&[3])], &value).unwrap().unwrap(), "7, 7, 7");
        assert!(ty(9, "ConstantOfShape", vec![ints(&[-3])], &[]).is_err());
        let unknown = shaped(ElementType::Int64, "2");
        assert_eq!(ty(9, "ConstantOfShape", vec![unknown], &[]).unwrap().matches(',').count(), 1);
    }

    #[test]
    fn range_counts() {
        let scalar = |text| (ty_scalar(), Some(vec![text])).into();
        let range = |limit: Dim, delta: i64| {
            let operands = vec![scalar(Dim::fixed(0)), scalar(limit), scalar(Dim::fixed(delta))];
            ty(11, "Range", operands, &[]).unwrap()
        };
        assert_eq!(range(Dim::symbol("N"), 1), "int64[N]");
        assert_eq!(range(Dim::fixed(7), 2), "int64[4]");
        assert_eq!(range(Dim::fixed(-7), -2), "int64[4]");
        assert_eq!(range(Dim::fixed(-7), 2), "int64[0]");
        assert_eq!(range(Dim::fixed(i64::MAX), 1), format!("int64[{}]", i64::MAX));
        assert!(range(Dim::fixed(3), 0).starts_with("int64[?"));
        let float = |value| constant(Tensor::scalar(ElementType::Float, value).unwrap());
        assert_eq!(ty(11, "Range", vec![float(1.0), float(2.1), float(0.5)], &[]).unwrap(), "float[3]");
    }

    fn ty_scalar() -> crate::types::Type {
        crate::types::Type::tensor(ElementType::Int64, [])
    }
}
