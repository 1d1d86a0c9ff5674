//! Sizes read as early as possible, so that what only carries them along can go.

use onnx_opt_ir::{Attributes, Dim, Graph, Tensor, ValueId};

use super::facts::{axis, is_unary, shape};
use super::identity::takes_all_axes;
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "shape_of_operand",
            doc: "The shape of a result is that of an operand of the same shape.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Shape", "Size"],
            rewrite: shape_of_operand,
        }),
        Box::new(FunctionRule {
            name: "size_of_input",
            doc: "One size of an inner result that is a size of an input is read there.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Gather"],
            rewrite: size_of_input,
        }),
    ]
}

/// Producers passed on the way up, at most.
const DEPTH: usize = 64;

fn shape_of_operand(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let x = site.input(0)?;
    let mut earliest = x;
    for _ in 0..DEPTH {
        let Some((_, node, _)) = graph.producer(earliest) else { break };
        // What a quantizer takes nothing else must take, or its producer does not compute with integers.
        if node.is("QuantizeLinear") {
            break;
        }
        let has_shape =
            |operand: ValueId| matches!((graph.shape(operand), graph.shape(x)), (Some(a), Some(b)) if a == b);
        let mut operands = node.inputs().iter().flatten().copied();
        // A constant of the shape would have been folded.
        let same = if is_unary(node) { node.input(0) } else { operands.find(|&operand| has_shape(operand)) };
        let Some(same) = same.filter(|&same| graph.constant(same).is_none()) else { break };
        earliest = same;
    }
    if earliest == x {
        return Err(Miss::NoMatch);
    }
    let mut patch = Patch::new();
    let new = patch.node(site.node().op_type(), [earliest], site.node().attributes().clone());
    finish(site, patch, new)
}

/// The first input of the graph that has a size, and its axis.
fn source(graph: &Graph, size: &Dim) -> Option<(ValueId, usize)> {
    graph.inputs().iter().find_map(|input| {
        let shape = graph.constant(input.value).is_none().then(|| graph.shape(input.value))??;
        shape.iter().position(|other| other == size).map(|axis| (input.value, axis))
    })
}

fn size_of_input(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let (_, node) = found(graph.producer_of(site.input(0)?, "Shape"))?;
    let x = found(node.input(0))?;
    ensure(takes_all_axes(node), "a part of the shape is meant")?;
    let index = graph.constant(site.input(1)?).and_then(|index| Some((index.single_i64()?, index.rank())));
    let (index, rank) = index.ok_or("several sizes are read")?;
    let sizes = shape(graph, x)?;
    let from = axis(index, sizes.len())?;
    let size = sizes.get(from).filter(|size| !size.is_fixed() && size.as_symbol().is_some());
    let (input, at) = size.and_then(|size| source(graph, size)).ok_or("no input has the size")?;
    if input == x && at == from {
        return Err(Miss::NoMatch);
    }
    let mut patch = Patch::new();
    let shape = patch.node("Shape", [input], Attributes::new());
    let index = Tensor::from_i64(if rank == 0 { &[] } else { &[1] }, &[at as i64]).ok_or(Miss::NoMatch)?;
    ensure(rank <= 1, "the index has several axes")?;
    let index = patch.constant(index);
    let new = patch.node("Gather", [shape, index], Attributes::new());
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use crate::testing::{Example, Fixture};

    vec![
        Example::new("shape_of_operand", |fires| {
            let mut f = Fixture::new(15);
            let x = f.symbolic_input("x", &["N", "3"]);
            let t = f.op(if fires { "Softmax" } else { "Transpose" }, &[x]);
            let t = if fires { f.op("Relu", &[t]) } else { t };
            let shape = f.op("Shape", &[t]);
            f.with_output(shape)
        }),
        Example::new("size_of_input", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", "3"]);
            let t = f.op("Transpose", &[x]);
            let shape = f.op("Shape", &[if fires { t } else { x }]);
            let index = f.integers(&[if fires { -1 } else { 0 }]);
            let y = f.op("Gather", &[shape, index]);
            f.with_output(y)
        }),
    ]
}
