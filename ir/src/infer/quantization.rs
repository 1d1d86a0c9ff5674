//! Quantization: the shape stays, the element type changes.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::types::{ElementType, Shape};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "QuantizeLinear" => quantize,
        "DequantizeLinear" => dequantize,
        "DynamicQuantizeLinear" => dynamic_quantize,
        _ => return None,
    })
}

fn attribute_type(cx: &Inference<'_>, name: &str) -> Option<ElementType> {
    ElementType::from_code(i32::try_from(cx.node().int(name)?).ok()?)
}

/// The zero point tells the type, else `output_dtype`, else it is `uint8`.
fn quantize(cx: &Inference<'_>) -> Answer {
    let element = match (cx.input(2), cx.node().int("output_dtype")) {
        (Some(_), None | Some(0)) => cx.element(2),
        (None, None | Some(0)) => Some(ElementType::Uint8),
        (_, Some(_)) => attribute_type(cx, "output_dtype"),
    };
    cx.one(Fact::ranked(element, cx.shape(0).map(Shape::from)))
}

/// The scale tells the type, unless `output_dtype` does.
fn dequantize(cx: &Inference<'_>) -> Answer {
    let element = match cx.node().int("output_dtype") {
        None | Some(0) => cx.element(1),
        Some(_) => attribute_type(cx, "output_dtype"),
    };
    cx.one(Fact::ranked(element, cx.shape(0).map(Shape::from)))
}

/// Codes, scale and zero point.
fn dynamic_quantize(cx: &Inference<'_>) -> Answer {
    Ok(Facts::from_iter([
        Fact::ranked(Some(ElementType::Uint8), cx.shape(0).map(Shape::from)),
        Fact::tensor(Some(ElementType::Float), []),
        Fact::tensor(Some(ElementType::Uint8), []),
    ]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::infer::testing::{shaped, ty};

    #[test]
    fn element_types() {
        let quantized = |zero_point: Option<ElementType>, output: Option<i64>| {
            let mut operands = vec![shaped(ElementType::Float, "N 4"), shaped(ElementType::Float, "")];
            operands.extend(zero_point.map(|element| shaped(element, "")));
            let attributes: Vec<_> = output.map(|code| ("output_dtype", code.into())).into_iter().collect();
            ty(21, "QuantizeLinear", operands, &attributes).unwrap()
        };
        assert_eq!(quantized(None, None), "uint8[N, 4]");
        assert_eq!(quantized(Some(ElementType::Int8), None), "int8[N, 4]");
        assert_eq!(quantized(None, Some(22)), "int4[N, 4]");
        assert_eq!(quantized(None, Some(99)), "?");
    }
}
