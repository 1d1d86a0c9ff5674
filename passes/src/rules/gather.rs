//! Gathers by constant indices.

use onnx_opt_ir::{Attributes, ElementType, Tensor};

use super::facts::{axis, becomes, list, only_use, shape};
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "gather_everything",
            doc: "Gather of all indices in order.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Gather"],
            rewrite: gather_everything,
        }),
        Box::new(FunctionRule {
            name: "unsqueeze_gather",
            doc: "Gather by one index, whose axis an Unsqueeze brings back, is Gather by a list of it.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Unsqueeze"],
            rewrite: |site| gather_with_rank(site, 0),
        }),
        Box::new(FunctionRule {
            name: "squeeze_gather",
            doc: "Gather by a list of one index, whose axis a Squeeze drops, is Gather by it.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Squeeze"],
            rewrite: |site| gather_with_rank(site, 1),
        }),
        Box::new(FunctionRule {
            name: "gather_by_cast",
            doc: "Gather by indices as they are before a cast from 32 to 64 bits.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Gather", "GatherElements"],
            rewrite: gather_by_cast,
        }),
    ]
}

fn gather_everything(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let x = site.input(0)?;
    let indices = found(graph.constant(site.input(1)?))?;
    ensure(indices.rank() == 1, "the indices are no list")?;
    let sizes = shape(graph, x)?;
    let size = sizes.get(axis(site.node().int("axis").unwrap_or(0), sizes.len())?);
    let size = size.and_then(|size| size.as_fixed());
    ensure(size == i64::try_from(indices.len()).ok(), "some are left out")?;
    let all = indices.to_i64().is_some_and(|indices| indices.into_iter().eq(0..size.unwrap_or(0)));
    ensure(all, "the order changes")?;
    becomes(site, x)
}

/// The root adds or drops the axis of a Gather by one constant index of rank `rank`: the index may do so itself.
fn gather_with_rank(site: &Site<'_>, rank: usize) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let gathered = site.input(0)?;
    let (_, gather) = found(graph.producer_of(gathered, "Gather"))?;
    let index = found(gather.input(1).and_then(|index| graph.constant(index)))?;
    ensure(index.len() == 1 && index.rank() == rank, "the index has another rank")?;
    let x = found(gather.input(0))?;
    let sizes = shape(graph, x)?;
    let along = axis(gather.int("axis").unwrap_or(0), sizes.len())?;
    // The root counts in the tensor that has the axis, which has the rank of `x`.
    let named = list(graph, root, "axes", 1)?.ok_or("no axis is named")?;
    let &[named] = named.as_slice() else { return Err("several axes are named".into()) };
    ensure(axis(named, sizes.len())? == along, "another axis is meant")?;
    only_use(graph, gathered)?;
    let other: &[usize] = if rank == 0 { &[1] } else { &[] };
    let index: Tensor = index.reshaped(other).ok_or(Miss::NoMatch)?;
    let mut patch = Patch::new();
    let index = patch.constant(index);
    let new =
        patch.node("Gather", [x.into(), index], Attributes::from_pairs([("axis", (along as i64).into())]));
    finish(site, patch, new)
}

fn gather_by_cast(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let (_, cast) = found(graph.producer_of(site.input(1)?, "Cast"))?;
    let indices = found(cast.input(0))?;
    // Both are index types; from others a cast is needed.
    let widens = graph.element(indices) == Some(ElementType::Int32)
        && graph.element(site.input(1)?) == Some(ElementType::Int64);
    ensure(widens, "the cast does more")?;
    let mut patch = Patch::new();
    let new = patch.node(site.node().op_type(), [site.input(0)?, indices], site.node().attributes().clone());
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{Dim, NewNode};

    use crate::testing::{Example, Fixture};

    let one = |rule: &'static str, op_type: &'static str, index_rank: usize| {
        Example::new(rule, move |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", "1", "3"]);
            let index = match index_rank {
                0 => Tensor::scalar(ElementType::Int64, 2.0),
                _ => Tensor::from_i64(&[1], &[-1]),
            };
            let index = index.map(|index| f.graph.add_constant(index)).unwrap_or(x);
            let axes = f.integers(&[if fires { 2 } else { 1 }]);
            let t = f.node(NewNode::new("Gather", [x, index]).with("axis", -1));
            let y = f.op(op_type, &[t, axes]);
            f.with_output(y)
        })
    };
    vec![
        Example::new("gather_everything", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", "3"]);
            let t = f.op("Abs", &[x]);
            let indices = f.integers(if fires { &[0, 1, 2] } else { &[0, 2, 1] });
            let t = f.node(NewNode::new("Gather", [t, indices]).with("axis", 1));
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        Example::new("gather_by_cast", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["3", "N"]);
            let element = if fires { ElementType::Int32 } else { ElementType::Uint8 };
            let ids = f.typed_input("ids", element, [Dim::fixed(2)]);
            let to = i64::from(ElementType::Int64.code());
            let ids = f.node(NewNode::new("Cast", [ids]).with("to", to));
            let y = f.op("Gather", &[x, ids]);
            f.with_output(y)
        }),
        one("unsqueeze_gather", "Unsqueeze", 0),
        one("squeeze_gather", "Squeeze", 1),
    ]
}
