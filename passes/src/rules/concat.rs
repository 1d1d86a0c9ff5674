//! Joined pieces: of joined pieces, of nothing, and of what was one before.

use onnx_opt_ir::{Attributes, Dim, Graph, Node, ValueId};

use super::facts::{axis, becomes, same_shape, shape};
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "concat_concat",
            doc: "Concat along one axis of a Concat along it.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Concat"],
            rewrite: concat_concat,
        }),
        Box::new(FunctionRule {
            name: "concat_empty",
            doc: "Concat without operands that are empty along its axis.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Concat"],
            rewrite: concat_empty,
        }),
        Box::new(FunctionRule {
            name: "concat_of_split",
            doc: "Concat of all parts of a Split in their order.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Concat"],
            rewrite: concat_of_split,
        }),
        Box::new(FunctionRule {
            name: "split_of_concat",
            doc: "Split into the parts that a Concat joined.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Split"],
            rewrite: split_of_concat,
        }),
    ]
}

/// The axis of a Concat or Split as written: before opset 4 it may be left out.
fn written_axis(node: &Node) -> i64 {
    node.int("axis").unwrap_or(if node.is("Concat") { 1 } else { 0 })
}

/// Whether two nodes name the same axis of tensors that have the rank of `value`.
fn same_axis(graph: &Graph, value: ValueId, a: &Node, b: &Node) -> bool {
    let (a, b) = (written_axis(a), written_axis(b));
    let counted = |written: i64| axis(written, graph.rank(value)?).ok();
    a == b || (counted(a).is_some() && counted(a) == counted(b))
}

fn joined(site: &Site<'_>, operands: Vec<ValueId>) -> Rewrite {
    if let &[operand] = operands.as_slice() {
        return becomes(site, operand);
    }
    let mut patch = Patch::new();
    let new =
        patch.node("Concat", operands, Attributes::from_pairs([("axis", written_axis(site.node()).into())]));
    finish(site, patch, new)
}

fn concat_concat(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let result = site.output()?;
    let mut operands = Vec::new();
    let mut miss = Miss::NoMatch;
    for &operand in root.inputs().iter().flatten() {
        let inner = graph.producer_of(operand, "Concat").map(|(_, inner)| inner);
        match inner.filter(|inner| same_axis(graph, result, inner, root)) {
            Some(inner) if graph.is_inner(operand) => operands.extend(inner.inputs().iter().flatten()),
            Some(_) => {
                miss = "an inner result has other users".into();
                operands.push(operand);
            }
            None => operands.push(operand),
        }
    }
    // With none taken in there is nothing new; one taken in at least makes two of one, unless it has but one.
    if operands.iter().eq(root.inputs().iter().flatten()) {
        return Err(miss);
    }
    joined(site, operands)
}

fn concat_empty(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let along = axis(written_axis(root), shape(graph, site.output()?)?.len())?;
    let is_empty = |operand: ValueId| {
        graph.shape(operand).and_then(|shape| shape.get(along)).is_some_and(|size| *size == Dim::fixed(0))
    };
    let operands: Vec<ValueId> = root.inputs().iter().flatten().copied().collect();
    let kept: Vec<ValueId> = operands.iter().copied().filter(|&operand| !is_empty(operand)).collect();
    if kept.len() == operands.len() {
        return Err(Miss::NoMatch);
    }
    ensure(!kept.is_empty(), "all operands are empty")?;
    // The sizes of the other axes may be known by the empty ones alone.
    let rank_is_known = kept.iter().any(|&operand| graph.rank(operand).is_some());
    ensure(rank_is_known, "a shape is not known")?;
    joined(site, kept)
}

fn concat_of_split(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let first = found(root.input(0))?;
    let (_, split, _) = found(graph.producer(first).filter(|(_, node, _)| node.is("Split")))?;
    ensure(root.inputs() == split.outputs(), "other parts, or in another order")?;
    ensure(same_axis(graph, first, split, root), "the axes differ")?;
    becomes(site, found(split.input(0))?)
}

fn split_of_concat(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let joined = site.input(0)?;
    let (_, concat) = found(graph.producer_of(joined, "Concat"))?;
    ensure(same_axis(graph, joined, concat, root), "the axes differ")?;
    ensure(concat.inputs().len() == root.outputs().len(), "the numbers of parts differ")?;
    // An output of the graph may need an operator of its own.
    let outputs = root.outputs().iter().flatten().filter(|&&part| graph.is_output(part)).count();
    ensure(outputs < 2, "several parts are outputs of the graph")?;
    let mut patch = Patch::new();
    for (&part, &piece) in root.outputs().iter().zip(concat.inputs()) {
        let piece = found(piece)?;
        let part = part.ok_or("a part is left out")?;
        same_shape(graph, part, piece)?;
        patch.replace(part, piece);
    }
    Ok(patch)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    let concat = |f: &mut Fixture, parts: &[ValueId], axis: i64| {
        f.node(NewNode::new("Concat", parts.iter().copied()).with("axis", axis))
    };
    let split = |f: &mut Fixture, x: ValueId, parts: usize| {
        let id = f.graph.add_node(NewNode { outputs: parts, ..NewNode::new("Split", [x]).with("axis", 1) });
        let outputs = id.map(|id| f.graph.node(id).outputs().to_vec()).unwrap_or_default();
        outputs.into_iter().flatten().collect::<Vec<ValueId>>()
    };
    vec![
        Example::new("concat_concat", move |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.symbolic_input("x", &["N", "3"]), f.symbolic_input("z", &["N", "3"]));
            let t = concat(&mut f, &[x, z], if fires { -1 } else { 0 });
            let z = if fires { z } else { concat(&mut f, &[x, z], 0) };
            let y = concat(&mut f, &[z, t, z], 1);
            f.with_output(y)
        }),
        Example::new("concat_concat", move |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.symbolic_input("x", &["N", "3"]), f.symbolic_input("z", &["N", "3"]));
            let t = concat(&mut f, &[x, z], 1);
            if !fires {
                f.output("both", t);
            }
            let y = concat(&mut f, &[t, x], 1);
            f.with_output(y)
        }),
        Example::new("concat_empty", move |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3]);
            let (none, more) = (f.floats(&[2, 0], &[]), f.weights(&[2, 1]));
            let x = f.op("Abs", &[x]);
            let t = concat(&mut f, &[if fires { none } else { more }, x, more], 1);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        Example::new("concat_of_split", move |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", "6"]);
            let t = f.op("Abs", &[x]);
            let mut parts = split(&mut f, t, 3);
            if !fires {
                parts.swap(0, 1);
            }
            let t = concat(&mut f, &parts, -1);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        Example::new("split_of_concat", move |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", if fires { "3" } else { "2" }]);
            let z = f.symbolic_input("z", &["N", if fires { "3" } else { "4" }]);
            let t = concat(&mut f, &[x, z], 1);
            let parts = split(&mut f, t, 2);
            let y = f.op("Sub", &parts);
            f.with_output(y)
        }),
    ]
}
