//! Operators that pick elements by index, and those that give indices.

use super::elements::{Elements, fill, size, truth};
use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::types::{ElementType, Shape};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "Gather" => gather,
        "GatherElements" => |cx| cx.one(Fact::ranked(cx.element(0), cx.shape(1).map(Shape::from))),
        "GatherND" => gather_nd,
        "Scatter" | "ScatterElements" | "ScatterND" | "TensorScatter" => {
            |cx| cx.one(Fact::ranked(cx.element(0), cx.shape(0).map(Shape::from)))
        }
        "OneHot" => one_hot,
        "TopK" => top_k,
        "NonZero" => non_zero,
        "Unique" => unique,
        "Compress" => compress,
        "ArgMax" | "ArgMin" => arg_extremum,
        "NonMaxSuppression" => {
            |cx| cx.one(Fact::tensor(Some(ElementType::Int64), [cx.fresh(), Dim::fixed(3)]))
        }
        _ => return None,
    })
}

/// The axis gives way to the axes of the indices.
fn gather(cx: &Inference<'_>) -> Answer {
    let (Some(data), Some(indices)) = (cx.shape(0), cx.shape(1)) else {
        return cx.one(Fact::ranked(cx.element(0), None));
    };
    let axis = cx.axis(cx.node().int("axis").unwrap_or(0), data.len())?;
    let result: Shape = data[..axis].iter().chain(indices).chain(&data[axis + 1..]).cloned().collect();
    let elements = Elements::of(cx, 0).zip(Elements::of(cx, 1)).and_then(|(source, chosen)| {
        fill(&result, |at| {
            let (outer, rest) = at.split_at_checked(axis)?;
            let (inner, tail) = rest.split_at_checked(indices.len())?;
            let index = chosen.at(inner)?.as_fixed()?;
            let index = if index < 0 { index.checked_add(data[axis].as_fixed()?)? } else { index };
            let index = usize::try_from(index).ok()?;
            source.at(&[outer, &[index], tail].concat()).cloned()
        })
    });
    cx.one(Fact::tensor(cx.element(0), result).with_elements(elements))
}

/// The last axis of the indices holds coordinates of the axes after `batch_dims`.
fn gather_nd(cx: &Inference<'_>) -> Answer {
    let unranked = || cx.one(Fact::ranked(cx.element(0), None));
    let (Some(data), Some(indices)) = (cx.shape(0), cx.shape(1)) else { return unranked() };
    let Some((depth, outer)) = indices.split_last() else {
        return Err(cx.error("the indices have no axis"));
    };
    let Some(depth) = depth.as_fixed() else { return unranked() };
    let batch = cx.node().int("batch_dims").unwrap_or(0);
    let inner = batch.checked_add(depth).and_then(|first| data.get(usize::try_from(first).ok()?..));
    let Some(inner) = inner.filter(|_| batch >= 0 && depth >= 0) else {
        return Err(cx.error(format!("{depth} coordinates after {batch} axes of {}", data.len())));
    };
    cx.one(Fact::tensor(cx.element(0), outer.iter().chain(inner).cloned()))
}

/// A new axis as long as `depth`; the type is that of the two values.
fn one_hot(cx: &Inference<'_>) -> Answer {
    let Some(indices) = cx.shape(0) else { return cx.one(Fact::ranked(cx.element(2), None)) };
    let axis = cx.axis(cx.node().int("axis").unwrap_or(-1), indices.len() + 1)?;
    let number =
        cx.constant(1).and_then(|depth| depth.single_f64()).filter(|depth| (0.0..1e15).contains(depth));
    let depth = match number {
        // A depth may be a float; it counts without its fraction.
        Some(depth) => Some(Dim::fixed(depth as i64)),
        None => cx.elements(1).and_then(|depth| depth.first().map(|depth| size(cx, depth))),
    };
    let mut result = Shape::from(indices);
    result.insert(axis, depth.unwrap_or_else(|| cx.fresh()));
    cx.one(Fact::tensor(cx.element(2), result))
}

/// `k` is an attribute before version 10 and an operand since.
fn top_k(cx: &Inference<'_>) -> Answer {
    let both = |shape: Option<Shape>| {
        Ok(Facts::from_iter([
            Fact::ranked(cx.element(0), shape.clone()),
            Fact::ranked(Some(ElementType::Int64), shape),
        ]))
    };
    let Some(shape) = cx.shape(0) else { return both(None) };
    let axis = cx.axis(cx.node().int("axis").unwrap_or(-1), shape.len())?;
    let k = match cx.node().int("k") {
        Some(k) => Some(Dim::fixed(k)),
        None => cx.elements(1).and_then(|k| k.first().cloned()),
    };
    if let Some((k, length)) = k.as_ref().and_then(Dim::as_fixed).zip(shape[axis].as_fixed())
        && !(0..=length).contains(&k)
    {
        return Err(cx.error(format!("the first {k} of {length} elements")));
    }
    let mut result = Shape::from(shape);
    result[axis] = k.map_or_else(|| cx.fresh(), |k| size(cx, &k));
    both(Some(result))
}

/// One row of coordinates for each axis; a scalar is left open, as runtimes disagree.
fn non_zero(cx: &Inference<'_>) -> Answer {
    let rank = match cx.rank(0) {
        None | Some(0) => cx.fresh(),
        Some(rank) => Dim::fixed(rank as i64),
    };
    let truths =
        cx.elements(0).and_then(|elements| elements.iter().map(truth).collect::<Option<Vec<bool>>>());
    let Some(truths) = truths.filter(|_| cx.rank(0) != Some(0)) else {
        return cx.one(Fact::tensor(Some(ElementType::Int64), [rank, cx.fresh()]));
    };
    let positions =
        truths.iter().enumerate().filter(|(_, truth)| **truth).map(|(at, _)| Dim::fixed(at as i64));
    let positions: Vec<Dim> = positions.collect();
    let count = Dim::fixed(positions.len() as i64);
    let elements = (cx.rank(0) == Some(1)).then_some(positions);
    cx.one(Fact::tensor(Some(ElementType::Int64), [rank, count]).with_elements(elements))
}

/// Values, where each first stands, which value each element is, and how often each stands.
fn unique(cx: &Inference<'_>) -> Answer {
    let count = cx.fresh();
    let (values, length) = match (cx.node().int("axis"), cx.shape(0)) {
        (None, shape) => {
            (Some(Shape::from_iter([count.clone()])), shape.map_or_else(|| cx.fresh(), Dim::product))
        }
        (Some(_), None) => (None, cx.fresh()),
        (Some(axis), Some(shape)) => {
            let axis = cx.axis(axis, shape.len())?;
            let mut values = Shape::from(shape);
            values[axis] = count.clone();
            (Some(values), shape[axis].clone())
        }
    };
    let indices = |length: Dim| Fact::tensor(Some(ElementType::Int64), [length]);
    Ok(Facts::from_iter([
        Fact::ranked(cx.element(0), values),
        indices(count.clone()),
        indices(length),
        indices(count),
    ]))
}

/// Keeps the places, along an axis or of the flattened tensor, where the condition holds.
fn compress(cx: &Inference<'_>) -> Answer {
    let condition =
        cx.elements(1).and_then(|elements| elements.iter().map(truth).collect::<Option<Vec<bool>>>());
    let kept = condition.map(|condition| condition.iter().filter(|kept| **kept).count());
    let kept = kept.map_or_else(|| cx.fresh(), |kept| Dim::fixed(kept as i64));
    let result = match (cx.node().int("axis"), cx.shape(0)) {
        (None, _) => Some(Shape::from_iter([kept])),
        (Some(_), None) => None,
        (Some(axis), Some(shape)) => {
            let axis = cx.axis(axis, shape.len())?;
            let mut result = Shape::from(shape);
            result[axis] = kept;
            Some(result)
        }
    };
    cx.one(Fact::ranked(cx.element(0), result))
}

/// Indices of extrema along an axis, which stays with size 1 unless `keepdims` is 0.
fn arg_extremum(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return cx.one(Fact::ranked(Some(ElementType::Int64), None)) };
    let axis = cx.axis(cx.node().int("axis").unwrap_or(0), shape.len())?;
    let mut result = Shape::from(shape);
    if cx.node().int("keepdims").unwrap_or(1) == 0 {
        result.remove(axis);
    } else {
        result[axis] = Dim::fixed(1);
    }
    cx.one(Fact::tensor(Some(ElementType::Int64), result))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::infer::testing::{Operand, elements, int64, ints, shaped, ty, types};
    use crate::types::Type;

    fn float(shape: &str) -> Operand {
        shaped(ElementType::Float, shape)
    }

    fn indices(shape: &str) -> Operand {
        shaped(ElementType::Int64, shape)
    }

    #[test]
    fn gathers() {
        let axis = |axis: i64| [("axis", axis.into())];
        let table = || vec![float("V 64"), indices("N S")];
        assert_eq!(ty(13, "Gather", table(), &[]).unwrap(), "float[N, S, 64]");
        assert_eq!(ty(13, "Gather", table(), &axis(-1)).unwrap(), "float[V, N, S]");
        assert!(ty(13, "Gather", table(), &axis(2)).is_err());
        assert_eq!(ty(13, "GatherElements", table(), &[]).unwrap(), "float[N, S]");
        let batch = [("batch_dims", 1.into())];
        let deep = || vec![float("N 4 5 6"), indices("N K 2")];
        assert_eq!(ty(13, "GatherND", deep(), &batch).unwrap(), "float[N, K, 6]");
        assert_eq!(ty(13, "GatherND", deep(), &[]).unwrap(), "float[N, K, 5, 6]");
        assert!(ty(13, "GatherND", deep(), &[("batch_dims", i64::MAX.into())]).is_err());
    }

    #[test]
    fn gathered_elements() {
        let gather = |at: &[i64]| elements(13, "Gather", vec![int64("A B C"), ints(at)], &[]).unwrap();
        assert_eq!(gather(&[2, -3]).unwrap(), "C, A");
        assert_eq!(gather(&[3]), None);
        assert_eq!(gather(&[i64::MIN]), None);
        let scalar = (Type::tensor(ElementType::Int64, []), Some(vec![Dim::fixed(1)])).into();
        assert_eq!(elements(13, "Gather", vec![int64("A B C"), scalar], &[]).unwrap().unwrap(), "B");
    }

    #[test]
    fn selections() {
        let k = |k| vec![float("N 8"), int64(k)];
        assert_eq!(types(11, "TopK", k("3"), &[], 2).unwrap(), ["float[N, 3]", "int64[N, 3]"]);
        assert_eq!(ty(11, "TopK", k("K"), &[]).unwrap(), "float[N, K]");
        assert!(ty(11, "TopK", k("9"), &[]).is_err());
        assert_eq!(ty(9, "TopK", vec![float("N 8")], &[("k", 3.into())]).unwrap(), "float[N, 3]");
        let keep = [("axis", 1.into()), ("keepdims", 0.into())];
        assert_eq!(ty(13, "ArgMax", vec![float("N 8")], &keep).unwrap(), "int64[N]");
        assert_eq!(ty(13, "ArgMin", vec![float("N 8")], &[]).unwrap(), "int64[1, 8]");
        let condition = || ints(&[1, 0, 1]);
        assert_eq!(ty(11, "Compress", vec![float("N 8"), condition()], &[]).unwrap(), "float[2]");
        let axis = [("axis", 0.into())];
        assert_eq!(ty(11, "Compress", vec![float("N 8"), condition()], &axis).unwrap(), "float[2, 8]");
    }

    #[test]
    fn results_of_unknown_length() {
        let found = types(11, "Unique", vec![float("N 8")], &[("axis", 0.into())], 4).unwrap();
        assert_eq!(
            found[0].replace("float[", "").replace(", 8]", ""),
            found[1].replace("int64[", "").replace(']', "")
        );
        assert_eq!(found[2], "int64[N]");
        assert!(ty(13, "NonZero", vec![float("N 8")], &[]).unwrap().starts_with("int64[2, ?"));
        assert_eq!(elements(13, "NonZero", vec![ints(&[0, 5, 7])], &[]).unwrap().unwrap(), "1, 2");
    }

    #[test]
    fn one_hot_adds_an_axis() {
        let operands = || vec![indices("N S"), int64("V"), float("2")];
        assert_eq!(ty(11, "OneHot", operands(), &[]).unwrap(), "float[N, S, V]");
        assert_eq!(ty(11, "OneHot", operands(), &[("axis", 0.into())]).unwrap(), "float[V, N, S]");
        assert!(ty(11, "OneHot", operands(), &[("axis", 3.into())]).is_err());
    }
}
