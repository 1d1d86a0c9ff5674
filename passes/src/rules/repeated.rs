//! The same operator twice in a row, which does its work at once.

use onnx_opt_ir::{Attributes, ElementType, Node, Tensor, ValueId};

use super::facts::{axis, only_use, shape};
use super::pad::padding;
use super::reduction::{Reduction, reduce, reduction};
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "reduction_of_reduction",
            doc: "Reductions over one axis after the other are one over all of them, where these are the last axes.",
            class: ErrorClass::Rounding,
            since: 1,
            roots: &["ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"],
            rewrite: reduction_of_reduction,
        }),
        Box::new(FunctionRule {
            name: "tile_of_tile",
            doc: "Tile of a Tile repeats as often as both together.",
            class: ErrorClass::Exact,
            since: 6,
            roots: &["Tile"],
            rewrite: tile_of_tile,
        }),
        Box::new(FunctionRule {
            name: "expand_of_expand",
            doc: "Expand to a shape that names all sizes of the result need not start from an expanded one.",
            class: ErrorClass::Exact,
            since: 8,
            roots: &["Expand"],
            rewrite: expand_of_expand,
        }),
        Box::new(FunctionRule {
            name: "pad_of_pad",
            doc: "Pad of a Pad by the same number is one.",
            class: ErrorClass::Exact,
            since: 11,
            roots: &["Pad"],
            rewrite: pad_of_pad,
        }),
        Box::new(FunctionRule {
            name: "gather_of_gather",
            doc: "Gather of some of what was gathered along the same axis gathers those from the start.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Gather"],
            rewrite: gather_of_gather,
        }),
    ]
}

/// The producer of the root's first operand, if it is of the same operator and goes with it.
fn same_before<'a>(site: &Site<'a>) -> Result<&'a Node, Miss> {
    let middle = site.input(0)?;
    let (_, node) = found(site.graph.producer_of(middle, site.node().op_type()))?;
    only_use(site.graph, middle)?;
    Ok(node)
}

fn reduction_of_reduction(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let first = reduction(graph, same_before(site)?).ok_or("the axes are not constant")?;
    let second = reduction(graph, root).ok_or("the axes are not constant")?;
    ensure(first.keepdims == second.keepdims, "some axes stay, others do not")?;
    let rounds = root.op_type() == "ReduceMean" && !graph.element(first.x).is_some_and(ElementType::is_float);
    ensure(!rounds, "means of integers are rounded")?;
    let rank = shape(graph, first.x)?.len();
    let mut axes = first.axes_of(rank).ok_or("an axis is out of range")?;
    // Where axes are gone, the second counts those that are left.
    let left: Vec<usize> = (0..rank).filter(|axis| first.keepdims || !axes.contains(axis)).collect();
    let more = second.axes_of(left.len()).ok_or("an axis is out of range")?;
    axes.extend(more.iter().map(|&axis| left[axis]));
    axes.sort_unstable();
    axes.dedup();
    // Others are slow to reduce at once: in onnxruntime it takes up to twice as long.
    ensure(axes.iter().copied().eq(rank - axes.len()..rank), "the axes are not the last ones")?;
    let axes = axes.into_iter().map(|axis| axis as i64).collect();
    let mut patch = Patch::new();
    let both = Reduction { x: first.x, axes: Some(axes), keepdims: first.keepdims };
    let new = found(reduce(site, &mut patch, root.op_type(), &both))?;
    finish(site, patch, new)
}

fn tile_of_tile(site: &Site<'_>) -> Rewrite {
    let first = same_before(site)?;
    let repeats = |node: &Node| {
        let repeats = node.input(1).and_then(|repeats| site.graph.constant(repeats)).and_then(|t| t.to_i64());
        repeats.ok_or("the repeats are not constant")
    };
    let (inner, outer) = (repeats(first)?, repeats(site.node())?);
    ensure(inner.len() == outer.len(), "the ranks differ")?;
    let both = inner.iter().zip(&outer).map(|(a, b)| a.checked_mul(*b)).collect::<Option<Vec<i64>>>();
    let both = both.ok_or("the repeats overflow")?;
    let mut patch = Patch::new();
    let both = patch.constant(Tensor::vector_i64(&both));
    let new = patch.node("Tile", [found(first.input(0))?.into(), both], Attributes::new());
    finish(site, patch, new)
}

fn expand_of_expand(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let (_, first) = found(graph.producer_of(site.input(0)?, "Expand"))?;
    let wanted = site.input(1)?;
    let sizes = graph.elements(wanted).ok_or("the sizes are not known")?;
    ensure(*sizes == *shape(graph, site.output()?)?, "some sizes come from the first Expand")?;
    let mut patch = Patch::new();
    let new = patch.node("Expand", [found(first.input(0))?, wanted], Attributes::new());
    finish(site, patch, new)
}

fn pad_of_pad(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let first = same_before(site)?;
    let x = found(first.input(0))?;
    let rank = shape(graph, x)?.len();
    // What the second cuts off may be what the first added: no Pad that does is taken.
    let (inner, outer) = (padding(graph, first, rank)?, padding(graph, site.node(), rank)?);
    let (value, other) = (first.input(2), site.node().input(2));
    let is_zero = |value: Option<ValueId>| match value {
        None => true,
        Some(value) => graph
            .constant(value)
            .and_then(|value| value.single_f64())
            .is_some_and(|value| value == 0.0 && value.is_sign_positive()),
    };
    ensure(value == other || (is_zero(value) && is_zero(other)), "they pad with different numbers")?;
    let both = inner.iter().zip(&outer).map(|(a, b)| a.checked_add(*b)).collect::<Option<Vec<i64>>>();
    let mut patch = Patch::new();
    let both = patch.constant(Tensor::vector_i64(&both.ok_or("the padding is out of range")?));
    let mut operands: Vec<Operand> = vec![x.into(), both];
    operands.extend(value.map(Operand::from));
    let new = patch.node("Pad", operands, Attributes::new());
    finish(site, patch, new)
}

fn gather_of_gather(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let first = same_before(site)?;
    let x = found(first.input(0))?;
    let rank = shape(graph, x)?.len();
    let along = |node: &Node| axis(node.int("axis").unwrap_or(0), rank);
    ensure(along(first)? == along(site.node())?, "the axes differ")?;
    let constant = |node: &Node| found(node.input(1).and_then(|indices| graph.constant(indices)));
    let (inner, outer) = (constant(first)?, constant(site.node())?);
    ensure(inner.rank() == 1 && outer.rank() < 2, "the indices are no lists")?;
    let (Some(all), Some(chosen)) = (inner.to_i64(), outer.to_i64()) else { return Err(Miss::NoMatch) };
    let pick = |&index: &i64| {
        let index = if index < 0 { index.checked_add(all.len() as i64)? } else { index };
        all.get(usize::try_from(index).ok()?).copied()
    };
    let picked = chosen.iter().map(pick).collect::<Option<Vec<i64>>>().ok_or("an index is out of range")?;
    let indices = Tensor::from_i64(outer.shape(), &picked).ok_or(Miss::NoMatch)?;
    let mut patch = Patch::new();
    let indices = patch.constant(indices);
    let new = patch.node("Gather", [x.into(), indices], site.node().attributes().clone());
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{NewNode, schema};

    use crate::testing::{Example, Fixture};

    let reduced = |f: &mut Fixture, op_type: &str, x: ValueId, axes: &[i64], keepdims: i64| {
        let node = NewNode::new(op_type, [x]).with("keepdims", keepdims);
        let operator = schema::lookup("", op_type, f.graph.opset());
        if operator.is_some_and(|operator| operator.attribute("axes").is_some()) {
            return f.node(node.with("axes", axes.to_vec()));
        }
        let axes = f.integers(axes);
        f.node(NewNode { inputs: vec![Some(x), Some(axes)], ..node })
    };
    let twice = move |opset: i64, op_type: &'static str, axes: [&'static [i64]; 2], misses: (i64, i64)| {
        Example::new("reduction_of_reduction", move |fires| {
            let mut f = Fixture::new(opset);
            let x = f.symbolic_input("x", &["N", "2", "3", "4"]);
            let keeps = misses.0;
            let t = reduced(&mut f, op_type, x, axes[0], keeps);
            let y = reduced(&mut f, op_type, t, axes[1], if fires { keeps } else { misses.1 });
            f.with_output(y)
        })
    };
    // Two nodes whose second operands are lists.
    type Lists = [&'static [i64]; 2];
    let lists = |rule: &'static str,
                 op_type: &'static str,
                 shape: &'static [&'static str],
                 fires: Lists,
                 misses: Lists| {
        Example::new(rule, move |does| {
            let mut f = Fixture::new(13);
            let mut t = f.symbolic_input("x", shape);
            for values in if does { fires } else { misses } {
                let values = f.integers(values);
                t = f.op(op_type, &[t, values]);
            }
            f.with_output(t)
        })
    };
    vec![
        twice(13, "ReduceMean", [&[3], &[2]], (1, 0)),
        twice(18, "ReduceSum", [&[-1], &[-1, 1]], (0, 1)),
        twice(11, "ReduceMax", [&[2], &[2]], (0, 1)),
        lists("tile_of_tile", "Tile", &["N", "2"], [&[1, 2], &[3, 2]], [&[2, 2], &[i64::MAX, 1]]),
        lists("expand_of_expand", "Expand", &["1", "1", "2"], [&[4, 2], &[3, 4, 2]], [&[4, 2], &[3, 1, 2]]),
        lists(
            "pad_of_pad",
            "Pad",
            &["N", "2"],
            [&[0, 1, 0, 0], &[0, 0, 1, 2]],
            [&[0, 1, 0, 0], &[0, -1, 0, 2]],
        ),
        Example::new("pad_of_pad", |fires| {
            let mut f = Fixture::new(18);
            let x = f.symbolic_input("x", &["N", "2"]);
            let (pads, one, axis) = (f.integers(&[1, 2]), f.scalar(1.0), f.integers(&[-1]));
            let t = f.op("Pad", &[x, pads, one, axis]);
            let other = if fires { one } else { f.scalar(2.0) };
            let pads = f.integers(&[0, 1, 0, 0]);
            let y = f.op("Pad", &[t, pads, other]);
            f.with_output(y)
        }),
        lists("gather_of_gather", "Gather", &["5", "N"], [&[4, 0, 2], &[-1, 0, 1]], [&[4, 0, 2], &[0, 3]]),
        Example::new("gather_of_gather", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["5", "3"]);
            let indices = f.integers(&[1, -1]);
            let index =
                Tensor::scalar(ElementType::Int64, 1.0).map_or(x, |index| f.graph.add_constant(index));
            let t = f.node(NewNode::new("Gather", [x, indices]).with("axis", -1));
            let y = f.node(NewNode::new("Gather", [t, index]).with("axis", i64::from(fires)));
            f.with_output(y)
        }),
    ]
}
