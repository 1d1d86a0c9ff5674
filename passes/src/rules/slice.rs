//! Slices of slices and of joined pieces.

use std::collections::BTreeMap;

use onnx_opt_ir::{Attributes, Dim, Graph, Node, Tensor, ValueId};

use super::facts::{axis, becomes, list, only_use, shape};
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "slice_slice",
            doc: "One Slice of a Slice.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Slice"],
            rewrite: slice_slice,
        }),
        Box::new(FunctionRule {
            name: "slice_computed",
            doc: "Computed bounds that take the whole of an axis are no bounds.",
            class: ErrorClass::Exact,
            since: 10,
            roots: &["Slice"],
            rewrite: slice_computed,
        }),
        Box::new(FunctionRule {
            name: "slice_concat",
            doc: "Slice of joined pieces that takes whole pieces.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Slice"],
            rewrite: slice_concat,
        }),
    ]
}

/// What a Slice takes of one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    /// The first index.
    pub start: i64,
    /// The first that is left out.
    pub end: i64,
    /// From one to the next.
    pub step: i64,
}

/// The axis of each bound of a Slice.
fn sliced_axes(graph: &Graph, node: &Node, rank: usize, count: usize) -> Result<Vec<usize>, Miss> {
    let axes = match list(graph, node, "axes", 3)? {
        Some(axes) => axes.iter().map(|&name| axis(name, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..count).collect(),
    };
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    sorted.dedup();
    ensure(
        axes.len() == count && sorted.len() == count && sorted.last().is_none_or(|&last| last < rank),
        "bounds and axes do not match",
    )?;
    Ok(axes)
}

/// The constant ranges of a Slice by axis.
///
/// # Errors
/// If they are not known.
pub(super) fn ranges(graph: &Graph, node: &Node, rank: usize) -> Result<BTreeMap<usize, Range>, Miss> {
    let starts = found(list(graph, node, "starts", 1)?)?;
    let ends = found(list(graph, node, "ends", 2)?)?;
    let axes = sliced_axes(graph, node, rank, starts.len())?;
    let steps = list(graph, node, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    ensure(ends.len() == starts.len() && steps.len() == starts.len(), "bounds differ in number")?;
    let range = |((&start, &end), &step)| Range { start, end, step };
    Ok(axes.into_iter().zip(starts.iter().zip(&ends).zip(&steps).map(range)).collect())
}

/// A Slice by constant bounds, which are attributes before opset 10.
fn sliced(
    site: &Site<'_>,
    patch: &mut Patch,
    x: ValueId,
    ranges: &BTreeMap<usize, Range>,
) -> Result<Operand, Miss> {
    let starts: Vec<i64> = ranges.values().map(|range| range.start).collect();
    let ends: Vec<i64> = ranges.values().map(|range| range.end).collect();
    let axes: Vec<i64> = ranges.keys().map(|&axis| axis as i64).collect();
    let steps: Vec<i64> = ranges.values().map(|range| range.step).collect();
    let steps_matter = steps.iter().any(|&step| step != 1);
    if site.graph.opset() < 10 {
        ensure(!steps_matter, "the opset knows no steps")?;
        let attributes =
            Attributes::from_pairs([("axes", axes.into()), ("ends", ends.into()), ("starts", starts.into())]);
        return Ok(patch.node("Slice", [x], attributes));
    }
    let mut operands = vec![x.into()];
    for bounds in [starts, ends, axes].into_iter().chain(steps_matter.then_some(steps)) {
        operands.push(patch.constant(Tensor::vector_i64(&bounds)));
    }
    Ok(patch.node("Slice", operands, Attributes::new()))
}

impl Range {
    /// This range of an axis of size `size` with bounds counted from the front.
    fn counted(self, size: &Dim) -> Result<Self, Miss> {
        let count = |bound: i64| match size.as_fixed() {
            _ if bound >= 0 => Ok(bound),
            Some(size) => Ok(bound.saturating_add(size).max(0)),
            None => Err(Miss::from("a bound counts from an unknown end")),
        };
        Ok(Self { start: count(self.start)?, end: count(self.end)?, step: self.step })
    }

    /// This range of what `first` takes; both count from the front and go step by step.
    fn of(self, first: Self) -> Self {
        let shifted = |bound: i64| bound.saturating_add(first.start);
        Self { start: shifted(self.start), end: shifted(self.end).min(first.end), step: 1 }
    }
}

fn slice_slice(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let (_, inner) = found(graph.producer_of(site.input(0)?, "Slice"))?;
    let x = found(inner.input(0))?;
    let (from, between) = (shape(graph, x)?, shape(graph, site.input(0)?)?);
    let mut merged = ranges(graph, inner, from.len())?;
    for (axis, second) in ranges(graph, site.node(), from.len())? {
        let range = match merged.get(&axis) {
            None => second,
            Some(first) => {
                ensure(first.step == 1 && second.step == 1, "one axis is sliced in steps")?;
                let (Some(whole), Some(part)) = (from.get(axis), between.get(axis)) else {
                    return Err("ranks differ".into());
                };
                second.counted(part)?.of(first.counted(whole)?)
            }
        };
        merged.insert(axis, range);
    }
    let mut patch = Patch::new();
    let new = sliced(site, &mut patch, x, &merged)?;
    finish(site, patch, new)
}

/// Bounds of which some are computed, where the computed ones belong to axes that stay whole.
fn slice_computed(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let is_constant =
        |index: usize| node.input(index).is_none_or(|operand| graph.constant(operand).is_some());
    if (1..5).all(is_constant) {
        return Err(Miss::NoMatch);
    }
    let x = site.input(0)?;
    let (from, result) = (shape(graph, x)?, shape(graph, site.output()?)?);
    let unknown = || Miss::from("a bound is not known");
    let (starts, ends) = (
        graph.elements(site.input(1)?).ok_or_else(unknown)?,
        graph.elements(site.input(2)?).ok_or_else(unknown)?,
    );
    let axes = sliced_axes(graph, node, from.len(), starts.len())?;
    let steps = list(graph, node, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    ensure(ends.len() == starts.len() && steps.len() == starts.len(), "bounds differ in number")?;
    let mut kept = BTreeMap::new();
    for (index, &axis) in axes.iter().enumerate() {
        let is_whole = from.get(axis) == result.get(axis);
        let step = steps[index];
        if is_whole && step > 0 {
            continue;
        }
        let (Some(start), Some(end)) = (starts[index].as_fixed(), ends[index].as_fixed()) else {
            return Err("a computed bound matters".into());
        };
        kept.insert(axis, Range { start, end, step });
    }
    if kept.is_empty() {
        return becomes(site, x);
    }
    let mut patch = Patch::new();
    let new = sliced(site, &mut patch, x, &kept)?;
    finish(site, patch, new)
}

/// A bound counted from the front and clamped to the end, as far as that is certain.
fn position(bound: &Dim, total: &Dim) -> Option<Dim> {
    /// What exporters write for the end of an axis.
    const FAR: i64 = i32::MAX as i64;
    match bound.as_fixed() {
        Some(bound) if bound >= FAR && total.as_fixed().is_none_or(|total| total <= bound) => {
            Some(total.clone())
        }
        Some(negative) if negative < 0 => {
            let counted = total + Dim::fixed(negative);
            counted.proves_ge(&Dim::fixed(0)).then_some(counted)
        }
        _ if bound.proves_ge(total) => Some(total.clone()),
        _ if bound.proves_ge(&Dim::fixed(0)) && total.proves_ge(bound) => Some(bound.clone()),
        _ => None,
    }
}

fn slice_concat(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let joined = site.input(0)?;
    let (_, concat) = found(graph.producer_of(joined, "Concat"))?;
    let sizes = shape(graph, joined)?;
    let along = axis(concat.int("axis").unwrap_or(1), sizes.len())?;
    let bounds = |attribute: &str, index: usize| -> Result<Vec<Dim>, Miss> {
        match node.ints(attribute) {
            Some(values) => Ok(values.iter().copied().map(Dim::fixed).collect()),
            None => graph.elements(site.input(index)?).ok_or_else(|| "a bound is not known".into()),
        }
    };
    let (starts, ends) = (bounds("starts", 1)?, bounds("ends", 2)?);
    let steps = list(graph, node, "steps", 4)?.unwrap_or_else(|| vec![1]);
    ensure(steps == [1], "it goes in steps")?;
    let axes = sliced_axes(graph, node, sizes.len(), starts.len())?;
    let ([start], [end], true) = (starts.as_slice(), ends.as_slice(), axes == [along]) else {
        return Err("another axis is sliced".into());
    };
    let at = |bound: &Dim| position(bound, &sizes[along]).ok_or_else(|| Miss::from("a bound is not certain"));
    let (start, end) = (at(start)?, at(end)?);
    // Where each piece begins.
    let mut offset = Dim::fixed(0);
    let mut pieces = Vec::new();
    let mut begun = false;
    for &piece in concat.inputs() {
        let piece = found(piece)?;
        let size = found(shape(graph, piece)?.get(along))?;
        begun |= offset == start && *size != Dim::fixed(0);
        if begun && offset == end {
            break;
        }
        if begun {
            pieces.push(piece);
        }
        offset = &offset + size;
    }
    ensure(!pieces.is_empty() && offset == end, "a piece is cut")?;
    if let &[piece] = pieces.as_slice() {
        return becomes(site, piece);
    }
    ensure(pieces.len() < concat.inputs().len(), "all pieces are taken")?;
    only_use(graph, joined)?;
    let mut patch = Patch::new();
    let new = patch.node("Concat", pieces, Attributes::from_pairs([("axis", (along as i64).into())]));
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    let slice = |f: &mut Fixture, x: ValueId, bounds: &[[i64; 4]]| {
        let column = |index: usize| bounds.iter().map(|bound| bound[index]).collect::<Vec<i64>>();
        let lists = [0, 1, 2, 3].map(column).map(|list| f.integers(&list));
        f.op("Slice", &[&[x][..], &lists].concat())
    };
    // Start, end, axis and step of two slices in a row; the third one nearly fits.
    let row = move |shape: &'static [&'static str],
                    first: &'static [[i64; 4]],
                    fires: &'static [[i64; 4]],
                    misses: &'static [[i64; 4]]| {
        Example::new("slice_slice", move |does| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", shape);
            let t = slice(&mut f, x, first);
            let t = slice(&mut f, t, if does { fires } else { misses });
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        })
    };
    let joined = move |shapes: [&'static [&'static str]; 3], fires: [i64; 3], misses: [i64; 3]| {
        Example::new("slice_concat", move |does| {
            let mut f = Fixture::new(13);
            let names = ["a", "b", "c"];
            let parts: Vec<ValueId> =
                names.iter().zip(shapes).map(|(name, shape)| f.symbolic_input(name, shape)).collect();
            let t = f.node(NewNode::new("Concat", parts).with("axis", 1));
            let [start, end, axis] = if does { fires } else { misses };
            let t = slice(&mut f, t, &[[start, end, axis, 1]]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        })
    };
    vec![
        row(&["N", "5"], &[[1, i64::MAX, 0, 1]], &[[-2, i64::MAX, 1, 1]], &[[-2, i64::MAX, 0, 1]]),
        row(&["N", "9"], &[[1, -1, 1, 1]], &[[2, -2, 1, 1]], &[[0, 5, 1, 2]]),
        row(&["N", "9"], &[[1, 5, 0, 1]], &[[0, 9, 0, 1]], &[[0, -1, 0, 1]]),
        row(&["9", "9"], &[[8, 2, 0, -2], [1, 3, 1, 1]], &[[1, 2, 1, 1]], &[[1, 2, 0, 1]]),
        Example::new("slice_slice", |fires| {
            let mut f = Fixture::new(9);
            let x = f.symbolic_input("x", &["N", "5"]);
            let mut t = x;
            for axis in [0, 1] {
                if axis == 1 && !fires {
                    t = f.op("Neg", &[t]);
                }
                let node = NewNode::new("Slice", [t]).with("axes", vec![axis]).with("starts", vec![1]);
                t = f.node(node.with("ends", vec![2 + axis]));
            }
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        Example::new("slice_computed", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", "5"]);
            let other = f.symbolic_input("other", &[if fires { "N" } else { "M" }]);
            let (zeros, three, axes) = (f.integers(&[0, 1]), f.integers(&[3]), f.integers(&[0, 1]));
            let size = f.op("Shape", &[other]);
            let ends = f.node(NewNode::new("Concat", [size, three]).with("axis", 0));
            let t = f.op("Slice", &[x, zeros, ends, axes]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        joined([&["N", "2"], &["N", "3"], &["N", "4"]], [2, 5, 1], [2, 4, 1]),
        joined([&["N", "2"], &["N", "3"], &["N", "4"]], [-7, i64::MAX, 1], [-6, i64::MAX, 1]),
        joined([&["4", "M"], &["4", "3"], &["4", "3"]], [0, -3, 1], [0, -3, 0]),
        Example::new("slice_concat", |fires| {
            let mut f = Fixture::new(13);
            let a = f.symbolic_input("a", &["M", "2"]);
            let b = f.symbolic_input("b", &["S", "2"]);
            let (a, b) = (f.op("Abs", &[a]), f.op("Abs", &[b]));
            let t = f.node(NewNode::new("Concat", [a, b]).with("axis", 0));
            let shape = f.op("Shape", &[if fires { a } else { b }]);
            let (zero, far) = (f.integers(&[0]), f.integers(&[i64::MAX]));
            let start = f.op("Gather", &[shape, zero]);
            let t = f.op("Slice", &[t, start, far, zero]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
    ]
}
