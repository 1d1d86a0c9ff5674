//! `Slice`, where bounds may be symbolic.

use super::elements::{Elements, fill, is_size};
use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::types::Shape;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    (op_type == "Slice").then_some(slice as Rule)
}

/// A bound this far out means the end of the axis: the standard recommends the greatest 32-bit or 64-bit integer
/// for an axis of unknown size.
const FAR: i64 = i32::MAX as i64;

/// What is taken of one axis: `length` elements from `first` on, `step` apart; `first` only where it is a number.
struct Part {
    length: Dim,
    first: Option<i64>,
    step: i64,
}

/// Bounds and axes are attributes before version 10 and operands, with steps, since.
fn slice(cx: &Inference<'_>) -> Result<Facts, InferenceError> {
    let Some(shape) = cx.shape(0) else { return cx.one(Fact::ranked(cx.element(0), None)) };
    let rank = shape.len();
    let list = |attribute: &str, index: usize| match cx.node().ints(attribute) {
        Some(values) => Some(values.iter().copied().map(Dim::fixed).collect()),
        None => cx.elements(index),
    };
    let (starts, ends) = (list("starts", 1), list("ends", 2));
    let count =
        [&starts, &ends].into_iter().flatten().map(Vec::len).next().or_else(|| {
            usize::try_from(cx.shape(1)?.first()?.as_fixed()?).ok().filter(|&count| count <= rank)
        });
    let axes = match (cx.ints_or_input("axes", 3), count) {
        (Ok(Some(axes)), _) => axes.iter().map(|&axis| cx.axis(axis, rank)).collect::<Result<_, _>>()?,
        (Ok(None), Some(count)) if count <= rank => (0..count).collect::<Vec<_>>(),
        (Ok(None), Some(count)) => return Err(cx.error(format!("{count} bounds for {rank} axes"))),
        _ => return cx.one(Fact::tensor(cx.element(0), cx.fresh_shape(rank))),
    };
    let steps = match cx.input(4) {
        Some(_) => cx.elements(4),
        None => Some(vec![Dim::fixed(1); axes.len()]),
    };
    if [&starts, &ends, &steps].into_iter().flatten().any(|list| list.len() != axes.len()) {
        return Err(cx.error(format!("starts, ends, steps and {} axes differ in number", axes.len())));
    }
    let at = |list: &Option<Vec<Dim>>, index: usize| list.as_ref().and_then(|list| list.get(index)).cloned();
    let mut parts: Vec<Part> =
        shape.iter().map(|size| Part { length: size.clone(), first: Some(0), step: 1 }).collect();
    for (index, &axis) in axes.iter().enumerate() {
        let step = at(&steps, index);
        if step == Some(Dim::fixed(0)) {
            return Err(cx.error("a step is 0"));
        }
        parts[axis] = part(&shape[axis], at(&starts, index), at(&ends, index), step)
            .unwrap_or_else(|| Part { length: cx.fresh(), first: None, step: 1 });
    }
    let result: Shape = parts.iter().map(|part| part.length.clone()).collect();
    let elements = Elements::of(cx, 0).and_then(|source| {
        fill(&result, |at| {
            let from = at.iter().zip(&parts).map(|(&at, part)| {
                let offset = i64::try_from(at).ok()?.checked_mul(part.step)?;
                usize::try_from(part.first?.checked_add(offset)?).ok()
            });
            source.at(&from.collect::<Option<Vec<_>>>()?).cloned()
        })
    });
    cx.one(Fact::tensor(cx.element(0), result).with_elements(elements))
}

/// What is taken of an axis of `size` elements, if it can be told.
///
/// Bounds are clamped only where it matters: what ends before it starts is empty anyway, so a start need not be
/// clamped from behind nor an end from the front. `a - max(b, c)` is written `min(a - b, a - c)`, where like terms
/// cancel.
fn part(size: &Dim, start: Option<Dim>, end: Option<Dim>, step: Option<Dim>) -> Option<Part> {
    let (start, end, step) = (start?, end?, step?.as_fixed()?);
    let (first, span) = if step > 0 { forward(size, &start, &end)? } else { backward(size, &start, &end)? };
    let stride = Dim::fixed(step.saturating_abs());
    let length = span.ceil_div(&stride).max(Dim::fixed(0));
    Some(Part { length, first: first.as_fixed(), step })
}

/// Whether a bound counts from the end of the axis, if that is certain.
fn from_end(bound: &Dim) -> Option<bool> {
    if is_size(bound) {
        Some(false)
    } else {
        bound.upper_bound().is_some_and(|upper| upper < 0).then_some(true)
    }
}

/// Whether a bound lies at or past the end of the axis.
fn is_far(size: &Dim, bound: &Dim) -> bool {
    bound.as_fixed().is_some_and(|bound| bound >= size.as_fixed().unwrap_or(FAR))
}

/// Whether a bound lies before the start of the axis.
fn is_far_before(size: &Dim, bound: &Dim) -> bool {
    bound.as_fixed().is_some_and(|bound| bound < 0i64.saturating_sub(size.as_fixed().unwrap_or(FAR - 1)))
}

/// The first element of a forward slice, and how many it spans, which may be below 0.
fn forward(size: &Dim, start: &Dim, end: &Dim) -> Option<(Dim, Dim)> {
    let end = if is_far(size, end) {
        size.clone()
    } else if is_far_before(size, end) {
        Dim::fixed(0)
    } else if from_end(end)? {
        size + end
    } else {
        Dim::min(end, size)
    };
    if is_far_before(size, start) {
        return Some((Dim::fixed(0), end));
    }
    if !from_end(start)? {
        return Some((start.clone(), end - start));
    }
    let start = size + start;
    Some((Dim::max(&start, &Dim::fixed(0)), Dim::min(&(&end - start), &end)))
}

/// The first element of a backward slice, and how many it spans, which may be below 0. A start before the first
/// element is left open: the standard clamps it to the first, numpy takes none.
fn backward(size: &Dim, start: &Dim, end: &Dim) -> Option<(Dim, Dim)> {
    let one = Dim::fixed(1);
    let last = size - &one;
    let first = if is_far(size, start) {
        last
    } else if from_end(start)? {
        let start = size + start;
        if !start.proves_ge(&-&one) {
            return None;
        }
        start
    } else {
        Dim::min(start, &last)
    };
    let all = &first + one;
    let span = if is_far_before(size, end) {
        all
    } else if from_end(end)? {
        Dim::min(&(&first - size - end), &all)
    } else {
        &first - end
    };
    Some((first, span))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::infer::testing::{Operand, elements, int64, ints, shaped, ty};
    use crate::types::ElementType;

    /// The size of the only axis after a slice.
    fn sliced(size: &str, start: &str, end: &str, step: i64) -> String {
        let operands =
            vec![shaped(ElementType::Float, size), int64(start), int64(end), ints(&[0]), ints(&[step])];
        let ty = ty(13, "Slice", operands, &[]).unwrap();
        ty.trim_start_matches("float[").trim_end_matches(']').to_owned()
    }

    #[test]
    fn lengths() {
        let max = &i64::MAX.to_string();
        let min = &i64::MIN.to_string();
        for (size, start, end, step, expected) in [
            ("10", "2", "5", 1, "3"),
            ("10", "-3", max, 1, "3"),
            ("10", "0", "10", 3, "4"),
            ("10", "7", "3", 1, "0"),
            ("10", min, max, 1, "10"),
            ("10", max, min, i64::MIN, "1"),
            ("10", "0", min, 1, "0"),
            ("10", "-1", min, -1, "10"),
            ("10", "8", "2", -2, "3"),
            ("0", "-1", min, -1, "0"),
            ("N", "0", max, 1, "N"),
            ("N", "0", "2147483647", 1, "N"),
            ("N", min, max, 1, "N"),
            ("N", "0", "N", 1, "N"),
            ("N", "0", "3", 1, "min(N, 3)"),
            ("N", "0", "-1", 1, "max(N, 1) - 1"),
            ("N", "-1", max, 1, "min(N, 1)"),
            ("N", "-1", min, -1, "N"),
            ("512", "0", "S", 1, "min(S, 512)"),
            ("N", "0", max, 2, "floor((N + 1)/2)"),
        ] {
            assert_eq!(sliced(size, start, end, step), expected, "{size}[{start}:{end}:{step}]");
        }
        // The standard and numpy disagree on a backward start before the first element.
        assert!(sliced("3", "-10", min, -1).starts_with('?'));
    }

    #[test]
    fn forms() {
        let x = || shaped(ElementType::Float, "N 8");
        let attributes = [("starts", vec![1].into()), ("ends", vec![-1].into()), ("axes", vec![-1].into())];
        assert_eq!(ty(9, "Slice", vec![x()], &attributes).unwrap(), "float[N, 6]");
        assert_eq!(ty(9, "Slice", vec![x()], &attributes[..2]).unwrap(), "float[max(N, 2) - 2, 8]");
        let unknown = || shaped(ElementType::Int64, "1");
        let partly = ty(13, "Slice", vec![x(), unknown(), unknown(), ints(&[0])], &[]).unwrap();
        assert!(partly.starts_with("float[?") && partly.ends_with(", 8]"), "{partly}");
        for (starts, ends, axes, steps) in [
            (vec![0], vec![1], vec![2], vec![1]),
            (vec![0], vec![1], vec![0], vec![0]),
            (vec![0, 0], vec![1], vec![0], vec![1]),
        ] {
            let operands = vec![x(), ints(&starts), ints(&ends), ints(&axes), ints(&steps)];
            assert!(ty(13, "Slice", operands, &[]).is_err(), "{starts:?} {ends:?} {axes:?} {steps:?}");
        }
    }

    #[test]
    fn elements_follow() {
        let slice = |start: i64, end: i64, step: i64| {
            let bounds: [Operand; 4] = [ints(&[start]), ints(&[end]), ints(&[0]), ints(&[step])];
            let operands = std::iter::once(int64("A B C D")).chain(bounds).collect();
            elements(13, "Slice", operands, &[]).unwrap().unwrap()
        };
        assert_eq!(slice(1, 3, 1), "B, C");
        assert_eq!(slice(-2, i64::MAX, 1), "C, D");
        assert_eq!(slice(-1, i64::MIN, -2), "D, B");
        assert_eq!(slice(0, i64::MAX, i64::MAX), "A");
    }
}
