//! Conversions of element types.

use onnx_opt_ir::{Attributes, ElementType, Tensor};

use super::facts::{becomes, element};
use crate::rewrite::{Miss, Patch, ensure, language::finish};

rules! {
    /// Cast to the type that the operand has.
    cast_to_same [exact, shared]: Cast(x){to: int to} => x
        where |site| ensure(Some(element(site.graph, x)?) == type_of(to), "the type changes");

    /// A type that holds every number of the operand's type need not lie on the way to a third one.
    cast_cast [exact, shared]: Cast(Cast(x){to: int inner}){to: int outer} => do |site| {
        let from = element(site.graph, x)?;
        let (Some(inner), Some(to)) = (type_of(inner), type_of(outer)) else { return Err(Miss::NoMatch) };
        ensure(is_plain(to), "casts to this type round in a way of their own")?;
        ensure(holds(inner, from), "the inner cast loses numbers")?;
        if from == to {
            return becomes(site, x);
        }
        let mut patch = Patch::new();
        let new = build!(site patch; Cast(x){to = outer});
        finish(site, patch, new)
    };

    /// Cast to a type that is known.
    cast_like_known [exact, since 15, shared]: CastLike(x, y) => do |site| {
        ensure(site.node().attributes().is_empty(), "it says how to round")?;
        let (from, to) = (element(site.graph, x)?, element(site.graph, y)?);
        if from == to {
            return becomes(site, x);
        }
        let mut patch = Patch::new();
        let new = build!(site patch; Cast(x){to = i64::from(to.code())});
        finish(site, patch, new)
    };

    /// One number in a shape that is computed is of the wanted type from the start.
    cast_of_constant_of_shape [exact]: Cast(ConstantOfShape(shape) as filled){to: int to} => do |site| {
        let (from, Some(to)) = (element(site.graph, filled)?, type_of(to)) else { return Err(Miss::NoMatch) };
        ensure(is_plain(from) && is_plain(to), "casts of this type round in a way of their own")?;
        let number = super::facts::uniform(site.graph, filled).ok_or(Miss::NoMatch)?;
        // Numbers of 64 bits that a double cannot tell apart are left alone.
        let tensor = Tensor::from_f64(to, &[1], &[number]);
        let tensor = tensor.filter(|tensor| number.abs() < 1e15 && tensor.single_f64() == Some(number));
        let tensor = tensor.ok_or("the number changes")?;
        let mut patch = Patch::new();
        let value = Attributes::from_pairs([("value", std::sync::Arc::new(tensor).into())]);
        let new = patch.node("ConstantOfShape", [shape], value);
        finish(site, patch, new)
    };
}

fn type_of(code: i64) -> Option<ElementType> {
    ElementType::from_code(i32::try_from(code).ok()?)
}

/// Booleans, integers of whole bytes and IEEE floats, between which a cast depends on the number alone.
fn is_plain(element: ElementType) -> bool {
    element == ElementType::Bool
        || (element.is_integer() && element.bits() >= 8)
        || significand(element).is_some()
}

/// Bits of the significand of a plain float, the leading one included.
fn significand(element: ElementType) -> Option<usize> {
    match element {
        ElementType::Float16 => Some(11),
        ElementType::Bfloat16 => Some(8),
        ElementType::Float => Some(24),
        ElementType::Double => Some(53),
        _ => None,
    }
}

/// Whether `to` has every number of `from`.
fn holds(to: ElementType, from: ElementType) -> bool {
    if !is_plain(to) || !is_plain(from) {
        return false;
    }
    if from == to || from == ElementType::Bool {
        return true;
    }
    // The bits that the magnitude of an integer needs.
    let magnitude = from.bits() - usize::from(from.is_signed_integer());
    match (significand(from), significand(to)) {
        (Some(_), None) => false,
        (None, Some(bits)) => magnitude <= bits,
        (Some(_), Some(_)) => to == ElementType::Double || (to == ElementType::Float && from.bits() == 16),
        (None, None) if to == ElementType::Bool => false,
        (None, None) => {
            magnitude <= to.bits() - usize::from(to.is_signed_integer())
                && (to.is_signed_integer() || from.is_unsigned_integer())
        }
    }
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{Dim, NewNode};

    use crate::testing::{Example, Fixture};

    // Casts in a row from an input of the first type; the second list nearly matches.
    let chain = |rule: &'static str, fires: &'static [ElementType], misses: &'static [ElementType]| {
        Example::new(rule, move |does| {
            let mut f = Fixture::new(13);
            let types = if does { fires } else { misses };
            let mut t = f.typed_input("x", types[0], [Dim::fixed(4)]);
            t = f.op("Identity", &[t]);
            for element in &types[1..] {
                t = f.node(NewNode::new("Cast", [t]).with("to", i64::from(element.code())));
            }
            let y = f.op("Identity", &[t]);
            f.with_output(y)
        })
    };
    use ElementType::{Bool, Double, Float, Float16, Int32, Int64, Uint8};
    vec![
        chain("cast_to_same", &[Float, Float], &[Float, Double]),
        chain("cast_cast", &[Float16, Float, Float16], &[Float, Float16, Float]),
        chain("cast_cast", &[Int32, Int64, Float], &[Int64, Int32, Float]),
        chain("cast_cast", &[Bool, Int64, Float], &[Int64, Bool, Float]),
        chain("cast_cast", &[Uint8, Float, Int32], &[Float, Uint8, Int32]),
        chain("cast_cast", &[Int32, Double, Int64], &[Int32, Float, Int64]),
        Example::new("cast_like_known", |fires| {
            let mut f = Fixture::new(15);
            let x = f.typed_input("x", Int64, [Dim::fixed(4)]);
            let t = f.op("Abs", &[x]);
            let like = f.input("like", &[1]);
            let t = f.op(if fires { "CastLike" } else { "Add" }, &[t, if fires { like } else { t }]);
            let y = f.op("Abs", &[t]);
            f.with_output(y)
        }),
        Example::new("cast_of_constant_of_shape", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", "3"]);
            let shape = f.op("Shape", &[x]);
            let value = Tensor::from_f64(Float, &[1], &[if fires { 2.0 } else { 0.5 }]);
            let filled = NewNode::new("ConstantOfShape", [shape]);
            let filled = match value {
                Some(value) => f.node(filled.with("value", std::sync::Arc::new(value))),
                None => f.node(filled),
            };
            let t = f.node(NewNode::new("Cast", [filled]).with("to", i64::from(Int64.code())));
            let y = f.op("Abs", &[t]);
            f.with_output(y)
        }),
    ]
}
