//! Operators that compute each element from the elements at its place.

use super::elements::{Elements, boolean, cast, equal, fill, greater, in_range, truth, unknown_integer};
use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::types::{ElementType, Shape};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "Abs" | "Acos" | "Acosh" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitwiseNot" | "Ceil" | "Celu"
        | "Cos" | "Cosh" | "CumProd" | "CumSum" | "Elu" | "Erf" | "Exp" | "Floor" | "Gelu"
        | "HardSigmoid" | "HardSwish" | "Hardmax" | "LeakyRelu" | "Log" | "LogSoftmax" | "Mish" | "Neg"
        | "Not" | "PRelu" | "Reciprocal" | "Relu" | "Round" | "Selu" | "Shrink" | "Sigmoid" | "Sign"
        | "Sin" | "Sinh" | "Softmax" | "Softplus" | "Softsign" | "SwiGLU" | "Sqrt" | "Swish" | "Tan"
        | "Tanh" | "ThresholdedRelu" | "Trilu" => unary,
        "Clip" => clip,
        "Identity" => identity,
        "Dropout" => dropout,
        "IsInf" | "IsNaN" | "RegexFullMatch" => |cx| cx.one(like(cx, Some(ElementType::Bool))),
        "Cast" | "BitCast" => convert,
        "CastLike" => |cx| cast_to(cx, cx.element(1)),
        "Bernoulli" | "RandomNormalLike" | "RandomUniformLike" => |cx| cx.one(like(cx, dtype(cx, None)?)),
        "RandomNormal" | "RandomUniform" => random,
        "Multinomial" => multinomial,
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "BitShift" | "BitwiseAnd" | "BitwiseOr"
        | "BitwiseXor" | "StringConcat" => |cx| binary(cx, cx.element(0)),
        "And" | "Or" | "Xor" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" => {
            |cx| binary(cx, Some(ElementType::Bool))
        }
        "Max" | "Mean" | "Min" | "Sum" => variadic,
        "Where" => select,
        _ => return None,
    })
}

/// A tensor of the shape of the first operand.
fn like(cx: &Inference<'_>, element: Option<ElementType>) -> Fact {
    Fact::ranked(element, cx.shape(0).map(Shape::from))
}

/// Type and shape of the first operand.
fn unary(cx: &Inference<'_>) -> Answer {
    let element = cx.element(0);
    let elements = element.zip(cx.elements(0)).and_then(|(element, elements)| {
        elements.iter().map(|value| unary_value(cx.node().op_type(), element, value)).collect()
    });
    cx.one(like(cx, element).with_elements(elements))
}

fn unary_value(op_type: &str, element: ElementType, value: &Dim) -> Option<Dim> {
    let zero = Dim::fixed(0);
    let result = match op_type {
        "Neg" => -value,
        "Abs" if value.proves_ge(&zero) => value.clone(),
        "Abs" if zero.proves_ge(value) => -value,
        "Sign" if *value == zero => zero,
        "Sign" if value.proves_positive() => Dim::fixed(1),
        "Sign" if zero.proves_gt(value) => Dim::fixed(-1),
        "Relu" => value.max(&zero),
        "Not" => return truth(value).map(|value| boolean(!value)),
        _ => return None,
    };
    in_range(element, result)
}

/// The bounds are attributes before version 11, for floats alone, and operands since.
fn clip(cx: &Inference<'_>) -> Answer {
    let bound = |index: usize| match cx.input(index) {
        Some(_) => cx.elements(index)?.first().cloned().map(Some),
        None => Some(None),
    };
    let bounds = if cx.version() < 11 { None } else { bound(1).zip(bound(2)) };
    let elements = bounds.zip(cx.elements(0)).and_then(|((low, high), elements)| {
        elements
            .into_iter()
            .map(|value| {
                let value = low.as_ref().map_or(value.clone(), |low| Dim::max(&value, low));
                let value = high.as_ref().map_or(value.clone(), |high| Dim::min(&value, high));
                in_range(cx.element(0)?, value)
            })
            .collect()
    });
    cx.one(like(cx, cx.element(0)).with_elements(elements))
}

/// The operand itself, of whatever kind.
fn identity(cx: &Inference<'_>) -> Answer {
    cx.one(Fact { ty: cx.ty(0).cloned(), elements: cx.elements(0).map(Into::into) })
}

/// Data and mask; the mask had the type of the data before version 10.
fn dropout(cx: &Inference<'_>) -> Answer {
    let mask = if cx.version() < 10 { cx.element(0) } else { Some(ElementType::Bool) };
    Ok(Facts::from_iter([like(cx, cx.element(0)), like(cx, mask)]))
}

/// `to` is a code since version 6 and a name before.
fn convert(cx: &Inference<'_>) -> Answer {
    let to = match cx.node().string("to") {
        Some(name) => {
            ElementType::ALL.iter().find(|element| element.name().eq_ignore_ascii_case(name)).copied()
        }
        None => code(cx, "to")?,
    };
    cast_to(cx, to)
}

fn cast_to(cx: &Inference<'_>, to: Option<ElementType>) -> Answer {
    let casts = cx.node().op_type() != "BitCast";
    let elements = to.filter(|_| casts).zip(cx.elements(0)).and_then(|(to, elements)| {
        elements
            .iter()
            .map(|value| if cx.element(0) == Some(to) { Some(value.clone()) } else { cast(to, value) })
            .collect()
    });
    cx.one(like(cx, to).with_elements(elements))
}

/// An attribute that holds the code of an element type.
fn code(cx: &Inference<'_>, attribute: &str) -> Result<Option<ElementType>, InferenceError> {
    let Some(code) = cx.node().int(attribute) else { return Ok(None) };
    match i32::try_from(code).ok().and_then(ElementType::from_code) {
        Some(element) => Ok(Some(element)),
        None => Err(cx.error(format!("{attribute} = {code} is no element type"))),
    }
}

/// The attribute `dtype`; without it and its default, `otherwise` or the type of the first operand.
pub(super) fn dtype(
    cx: &Inference<'_>,
    otherwise: Option<ElementType>,
) -> Result<Option<ElementType>, InferenceError> {
    Ok(code(cx, "dtype")?.or(otherwise).or_else(|| cx.element(0)))
}

fn random(cx: &Inference<'_>) -> Answer {
    let shape = cx.node().ints("shape").map(|sizes| sizes.iter().copied().map(Dim::fixed).collect::<Shape>());
    if shape.iter().flatten().any(|size| size.as_fixed() < Some(0)) {
        return Err(cx.error("a size is negative"));
    }
    cx.one(Fact::ranked(dtype(cx, Some(ElementType::Float))?, shape))
}

/// One row of samples for each row of the operand.
fn multinomial(cx: &Inference<'_>) -> Answer {
    let rows = cx.shape(0).and_then(<[Dim]>::first).cloned().unwrap_or_else(|| cx.fresh());
    let samples = cx.node().int("sample_size").filter(|&size| size >= 0);
    let samples = samples.map_or_else(|| cx.fresh(), Dim::fixed);
    cx.one(Fact::tensor(dtype(cx, Some(ElementType::Int32))?, [rows, samples]))
}

/// The shape of all operands broadcast together; before `since` it is that of the first.
fn broadcast(cx: &Inference<'_>, since: i64) -> Result<Option<Shape>, InferenceError> {
    if cx.version() < since {
        return Ok(cx.shape(0).map(Shape::from));
    }
    let mut shape = Shape::new();
    for index in 0..cx.input_count() {
        match cx.shape(index) {
            Some(other) => shape = cx.broadcast(&shape, other)?,
            None => return Ok(None),
        }
    }
    Ok(Some(shape))
}

/// Before version 7 the second operand is stretched to the shape of the first, if `broadcast` is set at all.
fn binary(cx: &Inference<'_>, result: Option<ElementType>) -> Answer {
    let shape = broadcast(cx, 7)?;
    let elements = (cx.version() >= 7)
        .then(|| {
            let (element, shape) = (cx.element(0)?, shape.as_ref()?);
            let (a, b) = (Elements::of(cx, 0)?, Elements::of(cx, 1)?);
            fill(shape, |at| binary_value(cx, element, a.broadcast_at(at)?, b.broadcast_at(at)?))
        })
        .flatten();
    cx.one(Fact::ranked(result, shape).with_elements(elements))
}

fn binary_value(cx: &Inference<'_>, element: ElementType, a: &Dim, b: &Dim) -> Option<Dim> {
    let zero = Dim::fixed(0);
    let result = match cx.node().op_type() {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" if *b != zero => a.truncated_div(b),
        // Without `fmod` the remainder has the sign of the divisor, with it that of the dividend.
        "Mod" if *b != zero && cx.node().int("fmod") == Some(0) => a.modulo(b),
        "Mod" if *b != zero => a - b * a.truncated_div(b),
        "Pow" => power(a, b)?,
        "And" => match (truth(a), truth(b)) {
            (Some(false), _) | (_, Some(false)) => boolean(false),
            (Some(true), Some(true)) => boolean(true),
            _ => return None,
        },
        "Or" => match (truth(a), truth(b)) {
            (Some(true), _) | (_, Some(true)) => boolean(true),
            (Some(false), Some(false)) => boolean(false),
            _ => return None,
        },
        "Xor" => boolean(truth(a)? != truth(b)?),
        "Equal" => boolean(equal(a, b)?),
        "Greater" => boolean(greater(a, b)?),
        "Less" => boolean(greater(b, a)?),
        "GreaterOrEqual" => boolean(!greater(b, a)?),
        "LessOrEqual" => boolean(!greater(a, b)?),
        _ => return None,
    };
    match cx.node().op_type() {
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" => in_range(element, result),
        _ => Some(result),
    }
}

/// A small power of a base.
fn power(base: &Dim, exponent: &Dim) -> Option<Dim> {
    match exponent.as_fixed()? {
        exponent @ 0..=4 => Some((0..exponent).fold(Dim::fixed(1), |product, _| product * base)),
        _ => None,
    }
}

/// Operands had to agree in shape before version 8.
fn variadic(cx: &Inference<'_>) -> Answer {
    let shape = broadcast(cx, 8)?;
    let elements = shape.as_ref().filter(|_| cx.version() >= 8).and_then(|shape| {
        let element = cx.element(0)?;
        let combine: fn(&Dim, &Dim) -> Dim = match cx.node().op_type() {
            "Max" => Dim::max,
            "Min" => Dim::min,
            _ => return None,
        };
        let operands: Vec<_> =
            (0..cx.input_count()).map(|index| Elements::of(cx, index)).collect::<Option<_>>()?;
        fill(shape, |at| {
            let mut values = operands.iter().map(|operand| operand.broadcast_at(at));
            let first = values.next()??.clone();
            in_range(element, values.try_fold(first, |result, value| Some(combine(&result, value?)))?)
        })
    });
    cx.one(Fact::ranked(cx.element(0), shape).with_elements(elements))
}

/// An element is known where the condition is certain, and where both branches agree.
fn select(cx: &Inference<'_>) -> Answer {
    let element = cx.element(1).or(cx.element(2));
    let shape = broadcast(cx, 0)?;
    let elements = shape.as_ref().and_then(|shape| {
        let condition = Elements::of(cx, 0);
        let (yes, no) = (Elements::of_or_unknown(cx, 1)?, Elements::of_or_unknown(cx, 2)?);
        fill(shape, |at| {
            let (yes, no) = (yes.broadcast_at(at)?, no.broadcast_at(at)?);
            let chosen = condition.as_ref().and_then(|condition| truth(condition.broadcast_at(at)?));
            match chosen {
                Some(true) => Some(yes.clone()),
                Some(false) => Some(no.clone()),
                None if yes == no => Some(yes.clone()),
                None if element == Some(ElementType::Int64) => Some(unknown_integer(cx)),
                None => None,
            }
        })
    });
    cx.one(Fact { ty: Fact::ranked(element, shape).ty, elements: elements.map(Into::into) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::infer::testing::{elements, int64, ints, shaped, ty};
    use crate::types::Type;

    const FLOAT: ElementType = ElementType::Float;

    #[test]
    fn shapes() {
        let x = || shaped(FLOAT, "N 1 3");
        for (op_type, operands, expected) in [
            ("Relu", vec![x()], "float[N, 1, 3]"),
            ("Softmax", vec![x()], "float[N, 1, 3]"),
            ("IsNaN", vec![x()], "bool[N, 1, 3]"),
            ("Add", vec![x(), shaped(FLOAT, "4 1")], "float[N, 4, 3]"),
            ("Less", vec![x(), shaped(FLOAT, "N 1 3")], "bool[N, 1, 3]"),
            ("Max", vec![x(), shaped(FLOAT, "2 1"), shaped(FLOAT, "5 1 1 1")], "float[5, N, 2, 3]"),
            ("CastLike", vec![x(), shaped(ElementType::Int64, "7")], "int64[N, 1, 3]"),
            ("Where", vec![shaped(ElementType::Bool, "2 1"), x(), shaped(FLOAT, "")], "float[N, 2, 3]"),
            ("Mul", vec![x(), Type::unranked(FLOAT).into()], "float[...]"),
        ] {
            assert_eq!(ty(18, op_type, operands, &[]).unwrap(), expected, "{op_type}");
        }
        assert!(ty(18, "Add", vec![shaped(FLOAT, "2"), shaped(FLOAT, "3")], &[]).is_err());
    }

    #[test]
    fn versions() {
        let operands = || vec![shaped(FLOAT, "2 3 4"), shaped(FLOAT, "3")];
        assert_eq!(ty(6, "Add", operands(), &[("axis", 1.into())]).unwrap(), "float[2, 3, 4]");
        assert!(ty(7, "Add", operands(), &[]).is_err());
        assert_eq!(ty(5, "Cast", vec![shaped(FLOAT, "2")], &[("to", "INT64".into())]).unwrap(), "int64[2]");
        assert_eq!(ty(6, "Cast", vec![shaped(FLOAT, "2")], &[("to", 7.into())]).unwrap(), "int64[2]");
        assert!(ty(6, "Cast", vec![shaped(FLOAT, "2")], &[("to", 99.into())]).is_err());
    }

    #[test]
    fn arithmetic_on_elements() {
        let sizes = || int64("N 6 S");
        for (op_type, operands, expected) in [
            ("Add", vec![sizes(), ints(&[1])], Some("N + 1, 7, S + 1")),
            ("Div", vec![sizes(), ints(&[2, 4, 1])], Some("floor(N/2), 1, S")),
            ("Max", vec![sizes(), ints(&[0])], Some("N, 6, S")),
            ("Equal", vec![sizes(), ints(&[-1])], Some("0, 0, 0")),
            ("GreaterOrEqual", vec![sizes(), ints(&[0])], Some("1, 1, 1")),
            ("Greater", vec![sizes(), ints(&[0])], None),
            ("Div", vec![sizes(), ints(&[0])], None),
            ("Abs", vec![sizes()], Some("N, 6, S")),
            ("Neg", vec![sizes()], Some("-N, -6, -S")),
        ] {
            assert_eq!(elements(18, op_type, operands, &[]).unwrap().as_deref(), expected, "{op_type}");
        }
    }

    #[test]
    fn casts_of_elements() {
        let cast =
            |value, code: i64| elements(18, "Cast", vec![int64(value)], &[("to", code.into())]).unwrap();
        assert_eq!(cast("N 3", 6).as_deref(), Some("N, 3"));
        assert_eq!(cast("0 3", 9).as_deref(), Some("0, 1"));
        assert_eq!(cast("N 3", 9), None);
        assert_eq!(cast("300", 2), None);
        assert_eq!(cast("N 3", 1), None);
    }

    #[test]
    fn where_takes_the_certain_branch() {
        let condition = |at| (Type::tensor(ElementType::Bool, [Dim::fixed(2)]), at);
        let known = condition(Some(vec![Dim::fixed(0), Dim::fixed(1)])).into();
        let operands = vec![known, int64("A B"), int64("C D")];
        assert_eq!(elements(18, "Where", operands, &[]).unwrap().as_deref(), Some("C, B"));
        let operands = vec![condition(None).into(), int64("A B"), int64("A D")];
        let result = elements(18, "Where", operands, &[]).unwrap().unwrap();
        assert!(result.starts_with("A, ") && !result.contains('B'), "{result}");
    }
}
