//! Sequences and optional values.

use super::join::{join, member};
use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::attributes::AttributeValue;
use crate::dim::Dim;
use crate::types::{ElementType, Shape, Type};
use crate::types_proto;

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "SequenceEmpty" => empty,
        "SequenceConstruct" => construct,
        "SequenceAt" => at,
        "SequenceInsert" => insert,
        "SequenceErase" => |cx| cx.one(Fact { ty: cx.ty(0).cloned(), elements: None }),
        "SequenceLength" => |cx| cx.one(Type::tensor(ElementType::Int64, [])),
        "SplitToSequence" => split,
        "ConcatFromSequence" => concat,
        "Optional" => optional,
        "OptionalGetElement" => get_element,
        "OptionalHasElement" => |cx| cx.one(Type::tensor(ElementType::Bool, [])),
        _ => return None,
    })
}

fn sequence(inner: Option<Type>) -> Type {
    Type::Sequence(inner.map(Box::new))
}

/// The type of the members of operand 0.
fn members<'a>(cx: &Inference<'a>) -> Option<&'a Type> {
    match cx.ty(0)? {
        Type::Sequence(inner) => inner.as_deref(),
        _ => None,
    }
}

fn empty(cx: &Inference<'_>) -> Answer {
    let code = cx.node().int("dtype").unwrap_or(1);
    let element = i32::try_from(code).ok().and_then(ElementType::from_code);
    cx.one(sequence(element.map(Type::unranked)))
}

fn construct(cx: &Inference<'_>) -> Answer {
    let mut joined = cx.ty(0).cloned();
    for index in 1..cx.input_count() {
        joined = match (joined, cx.ty(index)) {
            (Some(joined), Some(ty)) => join(cx.graph().context(), &joined, ty),
            _ => None,
        };
    }
    cx.one(sequence(joined))
}

fn at(cx: &Inference<'_>) -> Answer {
    cx.one(Fact { ty: members(cx).map(|ty| member(cx.graph().context(), ty)), elements: None })
}

fn insert(cx: &Inference<'_>) -> Answer {
    let joined = match (members(cx), cx.ty(1)) {
        (Some(members), Some(ty)) => join(cx.graph().context(), members, ty),
        _ => None,
    };
    cx.one(sequence(joined))
}

/// Without `split` each member has size 1 on the axis, which `keepdims` may drop.
fn split(cx: &Inference<'_>) -> Answer {
    let Some(element) = cx.element(0) else { return cx.one(sequence(None)) };
    let Some(shape) = cx.shape(0) else { return cx.one(sequence(Some(Type::unranked(element)))) };
    let axis = cx.axis(cx.node().int("axis").unwrap_or(0), shape.len())?;
    let mut shape = Shape::from(shape);
    if cx.input(1).is_none() && cx.node().int("keepdims") == Some(0) {
        shape.remove(axis);
    } else {
        shape[axis] = split_size(cx, &shape[axis]);
    }
    cx.one(sequence(Some(Type::tensor(element, shape))))
}

/// The size of all members, if they have one size.
fn split_size(cx: &Inference<'_>, size: &Dim) -> Dim {
    if cx.input(1).is_none() {
        return Dim::fixed(1);
    }
    let same = || {
        let sizes = cx.elements(1)?;
        let first = sizes.first()?;
        let divides = cx.rank(1)? > 0 || size.exact_div(first).is_some();
        (divides && sizes.iter().all(|size| size == first)).then(|| first.clone())
    };
    same().unwrap_or_else(|| cx.fresh())
}

fn concat(cx: &Inference<'_>) -> Answer {
    let Some(ty) = members(cx) else { return cx.unknown() };
    let ty = member(cx.graph().context(), ty);
    let Some(shape) = ty.shape() else { return cx.one(ty) };
    let mut shape = Shape::from(shape);
    let axis = cx.node().int("axis").unwrap_or(0);
    if cx.node().int("new_axis").unwrap_or(0) != 0 {
        shape.insert(cx.axis(axis, shape.len() + 1)?, cx.fresh());
    } else {
        let axis = cx.axis(axis, shape.len())?;
        shape[axis] = cx.fresh();
    }
    cx.one(Fact::tensor(ty.element(), shape))
}

fn optional(cx: &Inference<'_>) -> Answer {
    let inner = match (cx.input(0), cx.node().attributes().get("type")) {
        (Some(_), _) => cx.ty(0).cloned(),
        (None, Some(AttributeValue::Type(ty))) => types_proto::from_proto(ty, cx.graph().context()),
        _ => None,
    };
    cx.one(Type::Optional(inner.map(Box::new)))
}

fn get_element(cx: &Inference<'_>) -> Answer {
    let ty = match cx.ty(0) {
        Some(Type::Optional(inner)) => inner.as_deref().cloned(),
        other => other.cloned(),
    };
    cx.one(Fact { ty, elements: None })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::infer::testing::{ints, shaped, ty};

    #[test]
    fn members_share_what_they_have_in_common() {
        let float = |shape: &str| shaped(ElementType::Float, shape);
        let made = ty(17, "SequenceConstruct", vec![float("N 3"), float("N 4")], &[]).unwrap();
        assert!(made.starts_with("seq(float[N, ?"), "{made}");
        let split = |sizes: &[i64]| {
            ty(17, "SplitToSequence", vec![float("6 N"), ints(sizes)], &[("axis", 0.into())]).unwrap()
        };
        assert_eq!(split(&[3, 3]), "seq(float[3, N])");
        assert!(split(&[2, 4]).starts_with("seq(float[?"));
        let single = ty(17, "SplitToSequence", vec![float("6 N")], &[("keepdims", 0.into())]).unwrap();
        assert_eq!(single, "seq(float[N])");
    }

    /// Two members of a sequence may differ in a size that is not known.
    #[test]
    fn unknown_sizes_of_members_differ() {
        let sequence = || {
            let member = Type::tensor(ElementType::Float, [Dim::anonymous(900), Dim::fixed(3)]);
            Type::Sequence(Some(Box::new(member))).into()
        };
        let position = shaped(ElementType::Int64, "");
        let taken = ty(17, "SequenceAt", vec![sequence(), position], &[]).unwrap();
        assert!(taken.ends_with(", 3]") && !taken.contains("?900"), "{taken}");
    }
}
