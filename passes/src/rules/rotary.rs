//! Rotary position embeddings written in arithmetic.

use onnx_opt_ir::{Attributes, Dim, Graph, Node, NodeId, Tensor, ValueId};

use super::facts::{axis, element, list, shape};
use super::slice::ranges;
use super::support::{enclosed, supports};
use crate::rewrite::{Miss, Operand, Patch, Rewrite, Site, ensure, found, language::finish};

rules! {
    /// x·cos + (−x₂, x₁)·sin of halves x₁, x₂ of x, by heads, is RotaryEmbedding(x) where cos and sin repeat
    /// themselves in their second halves.
    rotary_embedding [rounding, since 23, shared]: Add(Mul(a, b) as p, Mul(c, d) as q)
        => do |site| { rotary_embedding_of(site, p, q) };
}

fn rotary_embedding_of(site: &Site<'_>, p: ValueId, q: ValueId) -> Rewrite {
    let graph = site.graph;
    let (straight, turned, sine, mut nodes) = found(read(graph, p, q).or_else(|| read(graph, q, p)))?;
    nodes.push(site.root);
    let (x, cosine) = straight;
    found((turned == x).then_some(()))?;
    let [batch, _, length, width] = shape(graph, x)? else { return Err("heads are no axis".into()) };
    supports(site, "RotaryEmbedding", x)?;
    ensure(element(graph, cosine)? == element(graph, x)?, "the angles are of another type")?;
    ensure(element(graph, sine)? == element(graph, x)?, "the angles are of another type")?;
    enclosed(graph, &nodes, site.output()?)?;
    let mut patch = Patch::new();
    let sizes = [batch, length, width];
    let cosine = halved(graph, &mut patch, cosine, "Cos", sizes)?;
    let sine = halved(graph, &mut patch, sine, "Sin", sizes)?;
    let new = patch.node("RotaryEmbedding", [x.into(), cosine, sine], Attributes::new());
    finish(site, patch, new)
}

type Product = (ValueId, ValueId);

/// `p` as x·cos, `q` as turned x·sin: the first product, x, the sine, and the operators.
fn read(graph: &Graph, p: ValueId, q: ValueId) -> Option<(Product, ValueId, ValueId, Vec<NodeId>)> {
    let orders = |value| {
        let (id, node) = graph.producer_of(value, "Mul")?;
        let (a, b) = (node.input(0)?, node.input(1)?);
        Some((id, [(a, b), (b, a)]))
    };
    let ((first, straight), (second, turned)) = (orders(p)?, orders(q)?);
    for (value, sine) in turned {
        let mut nodes = vec![first, second];
        let Some(x) = turned_by(graph, value, &mut nodes) else { continue };
        let product = straight.into_iter().find(|&(value, _)| value == x)?;
        return Some((product, x, sine, nodes));
    }
    None
}

/// `x` of (−x₂, x₁) along the last axis.
fn turned_by(graph: &Graph, value: ValueId, nodes: &mut Vec<NodeId>) -> Option<ValueId> {
    let (id, concat) = graph.producer_of(value, "Concat")?;
    let rank = graph.rank(value)?;
    if concat.inputs().len() != 2 || axis(concat.int("axis")?, rank).ok()? + 1 != rank {
        return None;
    }
    let (neg, node) = graph.producer_of(concat.input(0)?, "Neg")?;
    let (second, first) = (node.input(0)?, concat.input(1)?);
    nodes.extend([id, neg]);
    let ((a, one, part), (b, other, rest)) = (graph.producer(first)?, graph.producer(second)?);
    nodes.extend([a, b]);
    let x = one.input(0)?;
    let half = half_of_last(graph, x)?;
    let is_half =
        |value| graph.shape(value).and_then(|shape| shape.last()).and_then(Dim::as_fixed) == Some(half);
    let halves = if one.is("Split") {
        a == b
            && (part, rest) == (0, 1)
            && one.outputs().len() == 2
            && along_last(one, rank)
            && is_half(first)
    } else {
        other.input(0) == Some(x)
            && slice_of_last(graph, one, rank) == Some(0)
            && slice_of_last(graph, other, rank) == Some(half)
            && is_half(first)
    };
    (halves && is_half(second)).then_some(x)
}

fn along_last(node: &Node, rank: usize) -> bool {
    axis(node.int("axis").unwrap_or(0), rank).is_ok_and(|axis| axis + 1 == rank)
}

fn half_of_last(graph: &Graph, x: ValueId) -> Option<i64> {
    let size = graph.shape(x)?.last()?.as_fixed()?;
    (size > 0 && size % 2 == 0).then_some(size / 2)
}

/// Where a Slice of nothing but the last axis starts, step by step.
fn slice_of_last(graph: &Graph, node: &Node, rank: usize) -> Option<i64> {
    if !node.is("Slice") {
        return None;
    }
    let ranges = ranges(graph, node, rank).ok()?;
    let range = ranges.get(&(rank - 1)).filter(|range| ranges.len() == 1 && range.step == 1)?;
    Some(range.start)
}

/// The first half along the last axis of a value that repeats it in the second, as `[batch, length, width / 2]`, given
/// as a constant or as `function` of joined angles.
fn halved(
    graph: &Graph,
    patch: &mut Patch,
    value: ValueId,
    function: &str,
    sizes: [&Dim; 3],
) -> Result<Operand, Miss> {
    match graph.constant(value) {
        Some(tensor) => Ok(patch.constant(halved_constant(tensor, sizes)?)),
        None => halved_function(graph, patch, value, function, sizes),
    }
}

fn halved_constant(tensor: &Tensor, sizes: [&Dim; 3]) -> Result<Tensor, Miss> {
    let size = |dim: &Dim| dim.as_fixed().and_then(|size| usize::try_from(size).ok());
    let (Some(batch), Some(length), Some(width)) = (size(sizes[0]), size(sizes[1]), size(sizes[2])) else {
        return Err("the angles are constant and the sizes are not".into());
    };
    let lead = tensor.rank().checked_sub(2).ok_or("the angles have one axis")?;
    let (leading, rest) = tensor.shape().split_at(lead);
    let fits = lead <= 2 && leading.iter().all(|&size| size == 1) && rest == [length, width];
    ensure(fits, "the angles are broadcast")?;
    ensure(batch <= 2, "the angles would be repeated")?;
    let values = tensor.to_f64().ok_or("the angles are no numbers")?;
    let half = width / 2;
    let rows = values.chunks_exact(width.max(1));
    ensure(rows.clone().all(|row| row[..half] == row[half..]), "the halves of the angles differ")?;
    let first: Vec<f64> = rows.flat_map(|row| row[..half].iter().copied()).collect();
    Tensor::from_f64(tensor.element(), &[batch, length, half], &first.repeat(batch))
        .ok_or_else(|| "the angles have another type".into())
}

fn halved_function(
    graph: &Graph,
    patch: &mut Patch,
    value: ValueId,
    function: &str,
    [batch, length, width]: [&Dim; 3],
) -> Result<Operand, Miss> {
    let (_, unsqueeze) = graph.producer_of(value, "Unsqueeze").ok_or("the angles are not computed once")?;
    let axes = list(graph, unsqueeze, "axes", 1)?.unwrap_or_default();
    ensure(matches!(axes[..], [1 | -3]), "the angles are given otherwise")?;
    let (_, node) = found(unsqueeze.input(0).and_then(|value| graph.producer_of(value, function)))?;
    let (_, concat) = found(node.input(0).and_then(|angles| graph.producer_of(angles, "Concat")))?;
    let angles = found(concat.input(0))?;
    ensure(concat.inputs() == [Some(angles), Some(angles)], "the halves of the angles differ")?;
    let sizes = shape(graph, angles)?;
    let half = width.as_fixed().map(|width| width / 2);
    let fits = matches!(sizes, [b, l, h] if b == batch && l == length && h.as_fixed() == half && half.is_some())
        && axis(found(concat.int("axis"))?, 3)? == 2;
    ensure(fits, "the angles are broadcast")?;
    Ok(patch.node(function, [angles], Attributes::new()))
}

/// Graphs on which this rule fires, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    fn turned(f: &mut Fixture, x: ValueId, split: bool, fires: bool) -> ValueId {
        let (first, second) = if split {
            let sizes = f.integers(&[4, 4]);
            let node = NewNode { outputs: 2, ..NewNode::new("Split", [x, sizes]).with("axis", -1) };
            let first = f.node(node);
            let second = f.graph.producer(first).and_then(|(_, node, _)| node.output(1));
            (first, second.unwrap_or(first))
        } else {
            let mut half = |start: i64, end: i64| {
                let [start, end, axes] = [start, end, 3].map(|bound| f.integers(&[bound]));
                f.op("Slice", &[x, start, end, axes])
            };
            (half(0, 4), half(4, i64::MAX))
        };
        let (first, second) = if fires { (first, second) } else { (second, first) };
        let second = f.op("Neg", &[second]);
        f.node(NewNode::new("Concat", [second, first]).with("axis", -1))
    }
    /// Two equal halves of three rows.
    fn angles(f: &mut Fixture, fires: bool) -> ValueId {
        let value = |index: usize| ((index / 8 * 4 + index % 4) as f32 * 0.1).cos();
        let mut values: Vec<f32> = (0..24).map(value).collect();
        values[0] += if fires { 0.0 } else { 0.5 };
        f.floats(&[1, 1, 3, 8], &values)
    }
    vec![
        // The wrong half is negated.
        Example::new("rotary_embedding", |fires| {
            let mut f = Fixture::new(23);
            let x = f.input("x", &[1, 2, 3, 8]);
            let (cos, sin) = (angles(&mut f, true), angles(&mut f, true));
            let t = turned(&mut f, x, false, fires);
            let (p, q) = (f.op("Mul", &[x, cos]), f.op("Mul", &[t, sin]));
            let y = f.op("Add", &[p, q]);
            f.with_output(y)
        }),
        // The halves of the angles differ.
        Example::new("rotary_embedding", |fires| {
            let mut f = Fixture::new(23);
            let x = f.input("x", &[2, 2, 3, 8]);
            let (cos, sin) = (angles(&mut f, fires), angles(&mut f, true));
            let t = turned(&mut f, x, true, true);
            let (p, q) = (f.op("Mul", &[cos, x]), f.op("Mul", &[sin, t]));
            let y = f.op("Add", &[q, p]);
            f.with_output(y)
        }),
        // Angles of every position of every batch, symbolic; of one batch for all.
        Example::new("rotary_embedding", |fires| {
            let mut f = Fixture::new(23);
            let x = f.symbolic_input("x", &["batch", "2", "length", "8"]);
            let freqs = f.symbolic_input("freqs", &[if fires { "batch" } else { "1" }, "length", "4"]);
            let joined = f.node(NewNode::new("Concat", [freqs, freqs]).with("axis", -1));
            let axes = f.integers(&[1]);
            let [cos, sin] = ["Cos", "Sin"].map(|function| {
                let t = f.op(function, &[joined]);
                f.op("Unsqueeze", &[t, axes])
            });
            let t = turned(&mut f, x, false, true);
            let (p, q) = (f.op("Mul", &[x, cos]), f.op("Mul", &[t, sin]));
            let y = f.op("Add", &[p, q]);
            f.with_output(y)
        }),
    ]
}
