//! Reductions along axes.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::types::Shape;

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => reduce,
        _ => return None,
    })
}

/// The axes are an attribute in old versions and an operand in new ones. None, or none in the list, means all,
/// unless `noop_with_empty_axes` is set.
fn reduce(cx: &Inference<'_>) -> Answer {
    let element = cx.element(0);
    let keep = cx.node().int("keepdims").unwrap_or(1) != 0;
    let Some(shape) = cx.shape(0) else {
        let all = matches!(cx.ints_or_input("axes", 1), Ok(None)) && !keep;
        let all = all && cx.node().int("noop_with_empty_axes").unwrap_or(0) == 0;
        return cx.one(Fact::ranked(element, all.then(Shape::new)));
    };
    let rank = shape.len();
    let mut reduced = vec![false; rank];
    match cx.ints_or_input("axes", 1) {
        Ok(Some(axes)) if !axes.is_empty() => {
            for axis in axes {
                reduced[cx.axis(axis, rank)?] = true;
            }
        }
        Ok(_) => reduced.fill(cx.node().int("noop_with_empty_axes").unwrap_or(0) == 0),
        Err(()) => return cx.one(Fact::ranked(element, unknown_axes(cx, shape, keep))),
    }
    let size = |(size, reduced): (&Dim, &bool)| match (reduced, keep) {
        (false, _) => Some(size.clone()),
        (true, true) => Some(Dim::fixed(1)),
        (true, false) => None,
    };
    let result: Shape = shape.iter().zip(&reduced).filter_map(size).collect();
    let elements = match reduced[..] {
        [true] => fold(cx),
        [] | [false] => cx.elements(0).filter(|_| cx.node().op_type() != "ReduceSumSquare"),
        _ => None,
    };
    let elements = elements.filter(|_| is_exact(cx));
    cx.one(Fact::tensor(element, result).with_elements(elements))
}

/// Rank and sizes where the axes are not known but perhaps their number is.
fn unknown_axes(cx: &Inference<'_>, shape: &[Dim], keep: bool) -> Option<Shape> {
    let one = Dim::fixed(1);
    if keep {
        return Some(shape.iter().map(|size| if *size == one { one.clone() } else { cx.fresh() }).collect());
    }
    let count = match cx.shape(1)? {
        [] => 1,
        [count] => usize::try_from(count.as_fixed()?).ok()?,
        _ => return None,
    };
    let all = count == shape.len() || count == 0 && cx.node().int("noop_with_empty_axes").unwrap_or(0) == 0;
    if all {
        return Some(Shape::new());
    }
    Some(cx.fresh_shape(shape.len().checked_sub(count)?))
}

/// Whether symbolic elements stand for the elements of the result without rounding or wrapping.
fn is_exact(cx: &Inference<'_>) -> bool {
    matches!(cx.node().op_type(), "ReduceSum" | "ReduceProd" | "ReduceMin" | "ReduceMax")
        && cx.element(0).is_some_and(|element| element.is_integer())
}

/// The one element of a reduced vector.
fn fold(cx: &Inference<'_>) -> Option<Vec<Dim>> {
    let elements = cx.elements(0)?;
    let result = match cx.node().op_type() {
        "ReduceSum" => Dim::sum(&elements),
        "ReduceProd" => Dim::product(&elements),
        "ReduceMin" => elements.into_iter().reduce(|a, b| a.min(b))?,
        "ReduceMax" => elements.into_iter().reduce(|a, b| a.max(b))?,
        _ => return None,
    };
    Some(vec![result])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::attributes::AttributeValue;
    use crate::infer::testing::{Operand, elements, int64, ints, shaped, ty};
    use crate::types::ElementType;

    fn sum(opset: i64, axes: Option<Operand>, attributes: &[(&str, AttributeValue)]) -> String {
        let operands = [shaped(ElementType::Float, "N 3 4")].into_iter().chain(axes).collect();
        ty(opset, "ReduceSum", operands, attributes).unwrap()
    }

    #[test]
    fn axes() {
        let drop = ("keepdims", 0.into());
        let none = ("noop_with_empty_axes", 1.into());
        assert_eq!(sum(11, None, &[("axes", vec![1, -1].into())]), "float[N, 1, 1]");
        assert_eq!(sum(13, Some(ints(&[0])), std::slice::from_ref(&drop)), "float[3, 4]");
        assert_eq!(sum(13, None, std::slice::from_ref(&drop)), "float[]");
        assert_eq!(sum(13, None, std::slice::from_ref(&none)), "float[N, 3, 4]");
        let unknown = || shaped(ElementType::Int64, "1");
        assert_eq!(sum(13, Some(unknown()), &[]).matches('?').count(), 3);
        assert_eq!(sum(13, Some(unknown()), &[drop]).matches('?').count(), 2);
    }

    #[test]
    fn shapes() {
        let reduced = |op_type: &str| elements(13, op_type, vec![int64("N 3 2")], &[]).unwrap();
        assert_eq!(reduced("ReduceProd").as_deref(), Some("6*N"));
        assert_eq!(reduced("ReduceSum").as_deref(), Some("N + 5"));
        assert_eq!(reduced("ReduceMax").as_deref(), Some("max(N, 3)"));
        assert_eq!(reduced("ReduceL2"), None);
    }
}
