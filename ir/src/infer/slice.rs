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
fn part(size: &Dim, start: Option<Dim>, end: Option<Dim>, step: Option<Dim>) -> Option<Part> {
    let (start, end, step) = (start?, end?, step?.as_fixed()?);
    let (first, length) = if step > 0 {
        let (first, end) = (forward_bound(size, &start)?, forward_bound(size, &end)?);
        let length = (end - &first).ceil_div(&Dim::fixed(step));
        (first, length)
    } else {
        let (first, end) = (backward_start(size, &start)?, backward_end(size, &end)?);
        let length = (&first - end).ceil_div(&-Dim::fixed(step));
        (first, length)
    };
    Some(Part { length: length.max(Dim::fixed(0)), first: first.as_fixed(), step })
}

/// Whether a bound counts from the end of the axis, if that is certain.
fn from_end(bound: &Dim) -> Option<bool> {
    if is_size(bound) {
        Some(false)
    } else {
        bound.upper_bound().is_some_and(|upper| upper < 0).then_some(true)
    }
}

/// A bound of a forward slice, clamped into `0..=size`.
fn forward_bound(size: &Dim, bound: &Dim) -> Option<Dim> {
    let zero = Dim::fixed(0);
    match bound.as_fixed() {
        Some(number) if number >= FAR && !size.is_fixed() => Some(size.clone()),
        Some(number) if number <= -FAR && !size.is_fixed() => Some(zero),
        _ if from_end(bound)? => Some((size + bound).max(zero)),
        _ => Some(Dim::min(bound, size)),
    }
}

/// The start of a backward slice, clamped into `..size`. One before the first element is left open: the standard
/// clamps it to the first, numpy to none.
fn backward_start(size: &Dim, start: &Dim) -> Option<Dim> {
    let last = size - Dim::fixed(1);
    match start.as_fixed() {
        Some(number) if number >= FAR && !size.is_fixed() => Some(last),
        _ if from_end(start)? => {
            let start = size + start;
            start.proves_ge(&Dim::fixed(-1)).then_some(start)
        }
        _ => Some(Dim::min(start, &last)),
    }
}

/// The end of a backward slice, clamped into `-1..size`.
fn backward_end(size: &Dim, end: &Dim) -> Option<Dim> {
    let before = Dim::fixed(-1);
    match end.as_fixed() {
        Some(number) if number <= -FAR && !size.is_fixed() => Some(before),
        _ if from_end(end)? => Some((size + end).max(before)),
        _ => Some(Dim::min(end, &(size - Dim::fixed(1)))),
    }
}
