//! Scaled dot-product attention written with matrix products.

use onnx_opt_ir::{Attributes, ElementType, Graph, NodeId, ValueId};

use super::product::{Scaled, scaled};
use super::support::{enclosed, supports};
use crate::rewrite::{Operand, Patch, Rewrite, Site, ensure, found, language::finish};

rules! {
    /// softmax(c·q·kᵀ + mask)·v by heads = Attention(q, k, v, mask).
    attention [rounding, since 23, shared]: MatMul(Softmax(scores){axis: int axis} as weights, v)
        => do |site| { attention_of(site, scores, axis, weights, v) };
}

/// A value as a constant times another one, as far as the products have no other users.
fn peeled(graph: &Graph, value: ValueId) -> Option<Scaled> {
    let inner = |way: &Scaled| {
        way.nodes.iter().all(|&node| graph.node(node).output(0).is_some_and(|value| graph.is_inner(value)))
    };
    scaled(graph, value).into_iter().rev().find(inner)
}

fn attention_of(site: &Site<'_>, scores: ValueId, axis: i64, weights: ValueId, v: ValueId) -> Rewrite {
    let graph = site.graph;
    found((axis == -1 || axis == 3).then_some(()))?;
    let mut nodes: Vec<NodeId> = vec![site.root, found(graph.producer(weights))?.0];

    let (sum, mask) = match graph.producer_of(scores, "Add") {
        Some((id, node)) => {
            nodes.push(id);
            let (a, b) = (found(node.input(0))?, found(node.input(1))?);
            // The scores are the side that leads to a product.
            if is_product(graph, a) { (a, Some(b)) } else { (b, Some(a)) }
        }
        None => (scores, None),
    };
    let products = found(peeled(graph, sum))?;
    let (id, product) = found(graph.producer_of(products.value, "MatMul"))?;
    let q = found(product.input(0).and_then(|q| peeled(graph, q)))?;
    let transposed = found(product.input(1).and_then(|k| peeled(graph, k)))?;
    let (transpose, node) = found(graph.producer_of(transposed.value, "Transpose"))?;
    let mut perm = found(node.ints("perm"))?.to_vec();
    found((perm.len() == 4).then_some(()))?;
    perm.swap(2, 3);
    // A factor of the keys may stand before or behind the Transpose.
    let in_order = perm == [0, 1, 2, 3];
    let key = found(node.input(0))?;
    let k = if in_order {
        found(peeled(graph, key))?
    } else {
        Scaled { factor: 1.0, value: key, nodes: Vec::new() }
    };

    nodes.extend([id, transpose]);
    let scale = products.factor * q.factor * transposed.factor * k.factor;
    for way in [&products, &q, &transposed, &k] {
        nodes.extend(&way.nodes);
    }
    enclosed(graph, &nodes, site.output()?)?;
    supports(site, "Attention", q.value)?;
    ensure(graph.element(q.value) != Some(ElementType::Double), "the scale is of single precision")?;
    ensure(scale.is_finite() && scale > 0.0, "the scale is not positive")?;
    check_shapes(site, q.value, product.input(1), v, mask)?;

    let mut patch = Patch::new();
    let k = if in_order {
        k.value.into()
    } else {
        patch.node("Transpose", [k.value], Attributes::from_pairs([("perm", perm.into())]))
    };
    let mask = mask.map_or(Operand::Absent, Operand::from);
    let attributes = Attributes::from_pairs([("scale", (scale as f32).into())]);
    let new = patch.node("Attention", [q.value.into(), k, v.into(), mask], attributes);
    finish(site, patch, new)
}

fn is_product(graph: &Graph, value: ValueId) -> bool {
    peeled(graph, value).is_some_and(|way| graph.producer_of(way.value, "MatMul").is_some())
}

/// Attention broadcasts neither batches nor heads, and onnxruntime not the last two axes of a mask either.
fn check_shapes(
    site: &Site<'_>,
    q: ValueId,
    transposed: Option<ValueId>,
    v: ValueId,
    mask: Option<ValueId>,
) -> Result<(), crate::rewrite::Miss> {
    let graph = site.graph;
    let shape = |value: Option<ValueId>| value.and_then(|value| graph.shape(value));
    let (
        Some([batch, heads, queries, size]),
        Some([batch_k, heads_k, size_k, keys]),
        Some([batch_v, heads_v, keys_v, _]),
    ) = (shape(Some(q)), shape(transposed), shape(Some(v)))
    else {
        return Err("queries, keys and values are not of four axes".into());
    };
    let equal = batch == batch_k && batch == batch_v && heads == heads_k && heads == heads_v;
    ensure(equal && size == size_k && keys == keys_v, "batches, heads or sizes may differ")?;
    let Some(mask) = mask else { return Ok(()) };
    ensure(graph.element(mask) == graph.element(q), "the element type of the mask is not known")?;
    let whole = |found: &onnx_opt_ir::Dim, whole| found == whole || found.as_fixed() == Some(1);
    let fits = match graph.shape(mask) {
        Some([rows, columns]) => rows == queries && columns == keys,
        Some([b, h, rows, columns]) => {
            whole(b, batch) && whole(h, heads) && rows == queries && columns == keys
        }
        _ => false,
    };
    ensure(fits, "the mask is broadcast")
}

/// Graphs on which this rule fires, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    fn softmax(f: &mut Fixture, x: ValueId, axis: i64) -> ValueId {
        f.node(NewNode::new("Softmax", [x]).with("axis", axis))
    }
    fn transpose(f: &mut Fixture, x: ValueId, perm: [i64; 4]) -> ValueId {
        f.node(NewNode::new("Transpose", [x]).with("perm", perm.to_vec()))
    }
    fn with(f: &mut Fixture, op_type: &str, x: ValueId, c: f64) -> ValueId {
        let c = f.scalar(c);
        f.op(op_type, &[x, c])
    }

    vec![
        // Plain; the softmax over another axis.
        Example::new("attention", |fires| {
            let mut f = Fixture::new(23);
            let [q, k, v] = ["q", "k", "v"].map(|name| f.input(name, &[2, 3, 4, 4]));
            let k = transpose(&mut f, k, [0, 1, 3, 2]);
            let t = f.op("MatMul", &[q, k]);
            let t = with(&mut f, "Div", t, 2.0);
            let t = softmax(&mut f, t, if fires { -1 } else { 2 });
            let y = f.op("MatMul", &[t, v]);
            f.with_output(y)
        }),
        // With a mask, keys by position first, symbolic sizes; a mask over keys only, which onnxruntime refuses.
        Example::new("attention", |fires| {
            let mut f = Fixture::new(23);
            let q = f.symbolic_input("q", &["batch", "3", "queries", "8"]);
            let k = f.symbolic_input("k", &["batch", "keys", "3", "8"]);
            let v = f.symbolic_input("v", &["batch", "3", "keys", "5"]);
            let mask = f.symbolic_input("mask", &["batch", "1", if fires { "queries" } else { "1" }, "keys"]);
            let k = transpose(&mut f, k, [0, 2, 3, 1]);
            let t = f.op("MatMul", &[q, k]);
            let t = with(&mut f, "Mul", t, 0.35);
            let t = f.op("Add", &[mask, t]);
            let t = softmax(&mut f, t, 3);
            let y = f.op("MatMul", &[t, v]);
            f.with_output(y)
        }),
        // As PyTorch exports it, with the scale split; one head of keys for all.
        Example::new("attention", |fires| {
            let mut f = Fixture::new(23);
            let heads = if fires { 3 } else { 1 };
            let q = f.input("q", &[2, 3, 4, 8]);
            let k = f.input("k", &[2, heads, 5, 8]);
            let v = f.input("v", &[2, heads, 5, 8]);
            let q = with(&mut f, "Mul", q, 0.6);
            let k = transpose(&mut f, k, [0, 1, 3, 2]);
            let k = with(&mut f, "Mul", k, 0.6);
            let t = f.op("MatMul", &[q, k]);
            let t = softmax(&mut f, t, -1);
            let y = f.op("MatMul", &[t, v]);
            f.with_output(y)
        }),
    ]
}
