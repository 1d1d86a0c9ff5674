//! Operators of onnxruntime's own domain, `com.microsoft`, for targets whose profiles list them. What onnxruntime makes of
//! standard operators itself when it loads a model needs no rule.

use onnx_opt_ir::{Attributes, ElementType, ValueId};

use super::attention::Products;
use super::facts::with_axes;
use super::heads::{Appended, Heads, TURNED, apart};
use super::support::enclosed;
use crate::rewrite::{Miss, Operand, Patch, Rewrite, Site, ensure, found};

const DOMAIN: &str = "com.microsoft";

rules! {
    /// softmax(c·q·kᵀ)·v between Transposes of heads and places = MultiHeadAttention(q, k, v), before there is Attention.
    multi_head_attention [rounding, since 5, shared]: Transpose(y){perm: ints perm}
        => do |site| { multi_head_attention_at(site, y, perm.as_deref(), false) };

    /// softmax(c·q·kᵀ + mask)·v of Concat(past, k) and Concat(past, v) between Transposes of heads and places =
    /// MultiHeadAttention(q, k, v, mask, past), which gives both as a whole, before there is Attention.
    multi_head_attention_with_past [rounding, since 5, shared]: Transpose(y){perm: ints perm}
        => do |site| { multi_head_attention_at(site, y, perm.as_deref(), true) };
}

fn multi_head_attention_at(site: &Site<'_>, y: ValueId, perm: Option<&[i64]>, cached: bool) -> Rewrite {
    let graph = site.graph;
    found((perm == Some(&TURNED)).then_some(()))?;
    let (id, _) = found(graph.producer_of(y, "MatMul"))?;
    let mut products = Products::of(graph, id)?;
    let (mut k, mut v) = (products.key, products.v);
    let mut pasts = [Operand::Absent; 2];
    let mut wholes = Vec::new();
    if cached {
        found((products.perm == [0, 1, 2, 3]).then_some(()))?;
        let [keys, values] = Appended::pair(graph, k, v, &products.nodes)?;
        (k, v) = (keys.new, values.new);
        pasts = [keys.past.into(), values.past.into()];
        wholes = vec![keys.whole, values.whole];
    }
    let k = match products.perm[..] {
        [0, 1, 2, 3] => Heads::turned(graph, k)?,
        _ if products.perm == TURNED => Heads::of(graph, k)?,
        _ => return Err(Miss::NoMatch),
    };
    let (q, v) = (Heads::turned(graph, products.q)?, Heads::turned(graph, v)?);

    products.nodes.push(site.root);
    enclosed(graph, &products.nodes, site.output()?)?;
    ensure(graph.opset() < 23, "the opset has Attention")?;
    ensure(graph.element(products.q) == Some(ElementType::Float), "it is not of single precision")?;
    products.check(graph)?;
    ensure(cached || products.mask.is_none(), "with a mask and no past it takes as long")?;
    ensure(!cached || k.size == v.size, "cached keys and values differ in size")?;

    let mut patch = Patch::new();
    let mask = match products.mask {
        Some(mask) if graph.rank(mask) == Some(2) => with_axes(site, &mut patch, "Unsqueeze", mask, &[0, 1]),
        mask => mask.into(),
    };
    let [past_keys, past_values] = pasts;
    let [x, keys, values] = [&q, &k, &v].map(|heads| heads.wide(&mut patch));
    let (bias, padding) = (Operand::Absent, Operand::Absent);
    let operands = [x, keys, values, bias, padding, mask, past_keys, past_values];
    let attributes =
        Attributes::from_pairs([("num_heads", q.count.into()), ("scale", (products.scale as f32).into())]);
    let results = patch.node_of(DOMAIN, "MultiHeadAttention", operands, attributes, 1 + wholes.len());
    let new = apart(&mut patch, results[0], q.count, v.size);
    patch.replace(site.output()?, new);
    for (old, &new) in wholes.into_iter().zip(&results[1..]) {
        patch.replace(old, new);
    }
    Ok(patch)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    fn turned(f: &mut Fixture, x: ValueId, perm: [i64; 4]) -> ValueId {
        f.node(NewNode::new("Transpose", [x]).with("perm", perm.to_vec()))
    }
    /// A projection by heads, not turned.
    fn heads(f: &mut Fixture, name: &str, places: &str, count: i64) -> ValueId {
        let x = f.symbolic_input(name, &["batch", places, "24"]);
        let sizes = f.integers(&[0, 0, count, 24 / count]);
        f.op("Reshape", &[x, sizes])
    }
    fn attention(f: &mut Fixture, scores: ValueId, v: ValueId) -> ValueId {
        let weights = f.node(NewNode::new("Softmax", [scores]).with("axis", 3_i64));
        let y = f.op("MatMul", &[weights, v]);
        turned(f, y, TURNED)
    }
    fn concat(f: &mut Fixture, name: &str, x: ValueId) -> ValueId {
        let past = f.symbolic_input(&format!("past_{name}"), &["batch", "3", "5", "8"]);
        let all = f.node(NewNode::new("Concat", [past, x]).with("axis", 2_i64));
        f.output(&format!("present_{name}"), all);
        all
    }

    vec![
        // As exporters write it, with other keys than queries; of an opset that has Attention.
        Example::new("multi_head_attention", |fires| {
            let mut f = Fixture::new(if fires { 17 } else { 23 });
            let q = heads(&mut f, "q", "queries", 3);
            let q = turned(&mut f, q, TURNED);
            let k = heads(&mut f, "k", "keys", 3);
            let k = turned(&mut f, k, [0, 2, 3, 1]);
            let v = heads(&mut f, "v", "keys", 3);
            let v = turned(&mut f, v, TURNED);
            let scores = f.op("MatMul", &[q, k]);
            let factor = f.scalar(8_f64.sqrt());
            let scores = f.op("Div", &[scores, factor]);
            let y = attention(&mut f, scores, v);
            let sizes = f.integers(&[0, 0, 24]);
            let y = f.op("Reshape", &[y, sizes]);
            f.with_output(y)
        }),
        // Of opset 11, with two Transposes of the keys, and the scale at the queries; with a mask.
        Example::new("multi_head_attention", |fires| {
            let mut f = Fixture::new(11);
            let [q, k, v] = ["q", "k", "v"].map(|name| {
                let x = heads(&mut f, name, "places", 2);
                turned(&mut f, x, TURNED)
            });
            let factor = f.scalar(0.25);
            let q = f.op("Mul", &[q, factor]);
            let k = turned(&mut f, k, [0, 1, 3, 2]);
            let mut scores = f.op("MatMul", &[q, k]);
            if !fires {
                let mask = f.symbolic_input("mask", &["batch", "1", "places", "places"]);
                scores = f.op("Add", &[scores, mask]);
            }
            let y = attention(&mut f, scores, v);
            f.with_output(y)
        }),
        // A step of a decoder with what it cached; a mask that is broadcast.
        Example::new("multi_head_attention_with_past", |fires| {
            let mut f = Fixture::new(18);
            let [q, k, v] = ["q", "k", "v"].map(|name| {
                let x = heads(&mut f, name, "2", 3);
                turned(&mut f, x, TURNED)
            });
            let (k, v) = (concat(&mut f, "k", k), concat(&mut f, "v", v));
            let k = turned(&mut f, k, [0, 1, 3, 2]);
            let scores = f.op("MatMul", &[q, k]);
            let factor = f.scalar(0.3);
            let scores = f.op("Mul", &[scores, factor]);
            let mask = f.symbolic_input("mask", &["batch", "1", if fires { "2" } else { "1" }, "7"]);
            let scores = f.op("Add", &[scores, mask]);
            let y = attention(&mut f, scores, v);
            f.with_output(y)
        }),
        // A mask of two axes for all; without a past.
        Example::new("multi_head_attention_with_past", |fires| {
            let mut f = Fixture::new(17);
            let [q, k, v] = ["q", "k", "v"].map(|name| {
                let x = heads(&mut f, name, "2", 3);
                turned(&mut f, x, TURNED)
            });
            let (k, v) = match fires {
                true => (concat(&mut f, "k", k), concat(&mut f, "v", v)),
                false => (k, v),
            };
            let k = turned(&mut f, k, [0, 1, 3, 2]);
            let scores = f.op("MatMul", &[q, k]);
            let mask = f.symbolic_input("mask", &["2", if fires { "7" } else { "2" }]);
            let scores = f.op("Add", &[mask, scores]);
            let y = attention(&mut f, scores, v);
            f.with_output(y)
        }),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::*;
    use crate::target::Target;
    use crate::testing::Fixture;
    use crate::{PassContext, pipeline};

    fn optimized(f: Fixture, target: &str) -> Vec<String> {
        let mut model = f.into_model();
        let context = PassContext { target: Target::named(target).unwrap(), ..PassContext::default() };
        pipeline(2).run(&mut model, &context, |_, _| {}).unwrap();
        Fixture { graph: model.graph }.operators()
    }

    #[test]
    fn targets_that_do_not_list_it_do_not_get_it() {
        for target in Target::names() {
            let operators = optimized(examples().swap_remove(0).fires, target);
            let listed = Target::named(target).unwrap().has(DOMAIN, "MultiHeadAttention");
            assert_eq!(operators.contains(&"MultiHeadAttention".to_owned()), listed, "{target}");
            assert_eq!(listed, target == "onnxruntime", "{target}");
        }
    }

    #[test]
    fn what_a_model_has_of_it_stays() {
        let mut f = Fixture::importing(DOMAIN, 1);
        let x = f.input("x", &[2, 5, 24]);
        let new = NewNode { domain: DOMAIN.to_owned(), ..NewNode::new("MultiHeadAttention", [x, x, x]) };
        let y = f.node(new.with("num_heads", 3_i64));
        let new = NewNode { domain: DOMAIN.to_owned(), ..NewNode::new("QuickGelu", [y]) };
        let y = f.node(new);
        let f = f.with_output(y);
        assert_eq!(f.graph.fixed_shape(f.graph.outputs()[0].value), None);
        for target in ["onnx", "onnxruntime"] {
            assert_eq!(optimized(f.clone(), target), ["MultiHeadAttention", "QuickGelu"], "{target}");
        }
    }
}
