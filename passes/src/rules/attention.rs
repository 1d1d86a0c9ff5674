//! Scaled dot-product attention written with matrix products.

use onnx_opt_ir::{Attributes, Dim, ElementType, Graph, NodeId, ValueId};

use super::product::{Scaled, scaled};
use super::support::{enclosed, supports};
use crate::rewrite::{Miss, Operand, Patch, Rewrite, Site, ensure, found, language::finish};

rules! {
    /// softmax(c·q·kᵀ + mask)·v by heads = Attention(q, k, v, mask).
    attention [rounding, since 23, shared]: MatMul(weights, v) => do |site| { attention_of(site) };
}

/// softmax(scale·q·kᵀ + mask)·v as matrix products of four axes.
pub(super) struct Products {
    pub q: ValueId,
    /// What a Transpose brings into the order that the product takes.
    pub key: ValueId,
    /// The axes of `key` as batch, heads, keys and size.
    pub perm: Vec<i64>,
    pub v: ValueId,
    pub mask: Option<ValueId>,
    pub scale: f64,
    /// The operators.
    pub nodes: Vec<NodeId>,
    /// The keys as the product takes them.
    transposed: Option<ValueId>,
}

impl Products {
    /// Reads a product as the last one.
    ///
    /// # Errors
    /// If it is none of these.
    pub(super) fn of(graph: &Graph, root: NodeId) -> Result<Self, Miss> {
        let (weights, v) = found(graph.node(root).input(0).zip(graph.node(root).input(1)))?;
        let (softmax, node) = found(graph.producer_of(weights, "Softmax"))?;
        found(matches!(node.int("axis"), Some(-1 | 3)).then_some(()))?;
        let scores = found(node.input(0))?;
        let mut nodes = vec![root, softmax];

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
        let key = found(node.input(0))?;
        let k = if perm == [0, 1, 2, 3] {
            found(peeled(graph, key))?
        } else {
            Scaled { factor: 1.0, value: key, nodes: Vec::new() }
        };

        nodes.extend([id, transpose]);
        let scale = products.factor * q.factor * transposed.factor * k.factor;
        for way in [&products, &q, &transposed, &k] {
            nodes.extend(&way.nodes);
        }
        let transposed = product.input(1);
        Ok(Self { q: q.value, key: k.value, perm, v, mask, scale, nodes, transposed })
    }

    /// Whether one operator may stand for them all. It broadcasts neither batches nor heads, and in onnxruntime not the
    /// last two axes of a mask either.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn check(&self, graph: &Graph) -> Result<(), Miss> {
        ensure(graph.element(self.q) != Some(ElementType::Double), "the scale is of single precision")?;
        ensure(self.scale.is_finite() && self.scale > 0.0, "the scale is not positive")?;
        let shape = |value: Option<ValueId>| value.and_then(|value| graph.shape(value));
        let (
            Some([batch, heads, queries, size]),
            Some([batch_k, heads_k, size_k, keys]),
            Some([batch_v, heads_v, keys_v, _]),
        ) = (shape(Some(self.q)), shape(self.transposed), shape(Some(self.v)))
        else {
            return Err("queries, keys and values are not of four axes".into());
        };
        let equal = batch == batch_k && batch == batch_v && heads == heads_k && heads == heads_v;
        ensure(equal && size == size_k && keys == keys_v, "batches, heads or sizes may differ")?;
        let Some(mask) = self.mask else { return Ok(()) };
        ensure(graph.element(mask) == graph.element(self.q), "the element type of the mask is not known")?;
        let whole = |found: &Dim, whole| found == whole || found.as_fixed() == Some(1);
        let fits = match graph.shape(mask) {
            Some([rows, columns]) => rows == queries && columns == keys,
            Some([b, h, rows, columns]) => {
                whole(b, batch) && whole(h, heads) && rows == queries && columns == keys
            }
            _ => false,
        };
        ensure(fits, "the mask is broadcast")
    }
}

/// A value as a constant times another one, as far as the products have no other users.
fn peeled(graph: &Graph, value: ValueId) -> Option<Scaled> {
    let inner = |way: &Scaled| {
        way.nodes.iter().all(|&node| graph.node(node).output(0).is_some_and(|value| graph.is_inner(value)))
    };
    scaled(graph, value).into_iter().rev().find(inner)
}

fn is_product(graph: &Graph, value: ValueId) -> bool {
    peeled(graph, value).is_some_and(|way| graph.producer_of(way.value, "MatMul").is_some())
}

fn attention_of(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let products = Products::of(graph, site.root)?;
    enclosed(graph, &products.nodes, site.output()?)?;
    supports(site, "Attention", products.q)?;
    products.check(graph)?;

    let mut patch = Patch::new();
    let k = match products.perm[..] {
        [0, 1, 2, 3] => products.key.into(),
        _ => {
            patch.node("Transpose", [products.key], Attributes::from_pairs([("perm", products.perm.into())]))
        }
    };
    let mask = products.mask.map_or(Operand::Absent, Operand::from);
    let attributes = Attributes::from_pairs([("scale", (products.scale as f32).into())]);
    let new = patch.node("Attention", [products.q.into(), k, products.v.into(), mask], attributes);
    finish(site, patch, new)
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
