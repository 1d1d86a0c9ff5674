//! Attention, by the operators that it stands for.

use onnx_opt_ir::{ElementType, NewNode, ValueId};

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::{Size, Written};

pub(super) const RULES: &[(&str, Rule)] = &[("Attention", attention), ("RotaryEmbedding", rotary_embedding)];

/// What attention is told by attributes that is known here.
const ATTRIBUTES: &[&str] = &[
    "is_causal",
    "kv_num_heads",
    "q_num_heads",
    "qk_matmul_output_mode",
    "scale",
    "softcap",
    "softmax_precision",
];

/// softmax(scale·Q·Kᵀ + mask)·V for each head. Keys and values of fewer heads are shared by as many queries each. A
/// query that may look at nothing gives zeros.
fn attention(s: &mut Step<'_, '_>) -> Gradients {
    let (q, k, v) = (s.input(0)?, s.input(1)?, s.input(2)?);
    if (4..s.node.inputs().len()).any(|index| s.node.input(index).is_some()) {
        return Err("keys and values of the past".into());
    }
    if s.node.float("softcap").is_some_and(|cap| cap != 0.0) {
        return Err("a soft cap".into());
    }
    let other = s.node.attributes().iter().find(|attribute| !ATTRIBUTES.contains(&&*attribute.name));
    if let Some(other) = other {
        return Err(format!("`{}`", other.name).into());
    }
    let flat = s.rank(q)? == 3;
    s.by_parts(|s| {
        let query = heads(s, q, "q_num_heads")?;
        let (key, value) = (heads(s, k, "kv_num_heads")?, heads(s, v, "kv_num_heads")?);
        let (key, value) = (shared(s, key, query)?, shared(s, value, query)?);
        let turned = s.transpose_last(key)?;
        let product = s.op("MatMul", &[query, turned])?;
        let scale = match s.node.float("scale") {
            Some(scale) => f64::from(scale),
            None => {
                let depth = s.fixed_axis(query, 3).ok_or("the size of a head is not known")?;
                1.0 / (depth as f64).sqrt()
            }
        };
        let mut scores = s.times(product, scale)?;
        let mut allowed = if s.int("is_causal")? != 0 { Some(causal(s, scores)?) } else { None };
        if let Some(mask) = s.node.input(3) {
            let ends = |value: ValueId| s.graph.shape(value).and_then(<[_]>::last).cloned();
            if ends(mask).is_none() || ends(mask) != ends(scores) {
                return Err("a mask of another length".into());
            }
            match s.graph.element(mask) {
                Some(element) if element.is_float() => scores = s.add(scores, mask)?,
                Some(ElementType::Bool) => {
                    allowed = Some(match allowed {
                        Some(other) => s.op("And", &[other, mask])?,
                        None => mask,
                    });
                }
                _ => return Err("a mask that is neither of numbers nor of truth values".into()),
            }
        }
        if let Some(allowed) = allowed {
            scores = where_allowed(s, allowed, scores)?;
        }
        let mut weights = s.op_with("Softmax", &[scores], "axis", -1i64)?;
        if let Some(allowed) = allowed {
            weights = s.where_only(allowed, weights)?;
        }
        let mut result = s.op("MatMul", &[weights, value])?;
        if flat {
            let last = s.transpose(result, &[0, 2, 1, 3])?;
            result = s.reshape(last, &[0, 0, -1])?;
        }
        Ok(vec![result])
    })
}

/// [batch, heads, length, depth], also from [batch, length, heads·depth].
fn heads(s: &mut Step<'_, '_>, x: ValueId, count: &str) -> Written {
    if s.rank(x)? == 4 {
        return Ok(x);
    }
    let count = s.int(count)?;
    let depth = s.fixed_axis(x, 2).filter(|size| count > 0 && size % count == 0);
    let depth = depth.ok_or("the size of a head is not known")? / count;
    let split = s.reshape(x, &[0, 0, count, depth])?;
    s.transpose(split, &[0, 2, 1, 3])
}

/// Keys or values, each head repeated for the queries that share it.
fn shared(s: &mut Step<'_, '_>, x: ValueId, query: ValueId) -> Written {
    let (Some(few), Some(many)) = (s.fixed_axis(x, 1), s.fixed_axis(query, 1)) else {
        return Err("the number of heads is not known".into());
    };
    if few == many {
        return Ok(x);
    }
    if few == 0 || many % few != 0 {
        return Err("heads that are not shared evenly".into());
    }
    let wide = s.unsqueeze(x, &[2])?;
    let repeats = s.integers(&[1, 1, many / few, 1, 1]);
    let repeated = s.op("Expand", &[wide, repeats])?;
    s.reshape_to(repeated, &[Size::Of(x, 0), Size::Fixed(many), Size::Of(x, 2), Size::Of(x, 3)])
}

/// Whether a place of the keys is not after that of the query.
fn causal(s: &mut Step<'_, '_>, scores: ValueId) -> Written {
    let range = |s: &mut Step<'_, '_>, axis: usize| {
        let size = s.size_of(scores, axis)?;
        let size = s.reshape(size, &[])?;
        let (zero, one) = (s.integer(0)?, s.integer(1)?);
        s.op("Range", &[zero, size, one])
    };
    let (rows, columns) = (range(s, 2)?, range(s, 3)?);
    let rows = s.unsqueeze(rows, &[1])?;
    s.op("LessOrEqual", &[columns, rows])
}

/// Scores, and next to nothing where they do not count. Not minus infinity, of which engines make NaN.
fn where_allowed(s: &mut Step<'_, '_>, allowed: ValueId, scores: ValueId) -> Written {
    let lowest = match s.graph.element(scores) {
        Some(ElementType::Float16) => -65504.0,
        Some(ElementType::Double) => f64::MIN,
        _ => f64::from(f32::MIN),
    };
    let lowest = s.number(scores, lowest)?;
    s.op("Where", &[allowed, scores, lowest])
}

/// A rotation of pairs by angles: g rotated back, by the opposite sines.
fn rotary_embedding(s: &mut Step<'_, '_>) -> Gradients {
    let (g, sines) = (s.gradient()?, s.input(2)?);
    if s.wants(1) || s.wants(2) {
        return Err("its sines or cosines have a gradient".into());
    }
    let opposite = s.neg(sines)?;
    let mut inputs = s.node.inputs().to_vec();
    (inputs[0], inputs[2]) = (Some(g), Some(opposite));
    let attributes = s.node.attributes().clone();
    let gradient = s.node(NewNode { inputs, attributes, ..NewNode::new("RotaryEmbedding", []) })?;
    s.first(gradient)
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub(super) fn examples() -> Vec<super::example::Example> {
    use onnx_opt_ir::Tensor;

    use super::example::Example;

    let mut examples = vec![
        Example::new("Attention", "as it is", 23, |t| {
            let q = t.input("q", &[1, 2, 3, 4], -1.0, 1.0);
            let k = t.input("k", &[1, 2, 2, 4], -1.0, 1.0);
            let v = t.input("v", &[1, 2, 2, 3], -1.0, 1.0);
            t.op("Attention", &[q, k, v])
        }),
        Example::new("Attention", "three axes, causal", 23, |t| {
            let q = t.input("q", &[2, 3, 4], -1.0, 1.0);
            let k = t.input("k", &[2, 3, 4], -1.0, 1.0);
            let v = t.input("v", &[2, 3, 4], -1.0, 1.0);
            let node = NewNode::new("Attention", [q, k, v]).with("is_causal", 1i64);
            t.node(node.with("q_num_heads", 2i64).with("kv_num_heads", 2i64))
        }),
        Example::new("Attention", "shared keys and values", 23, |t| {
            let q = t.input("q", &[1, 4, 2, 2], -1.0, 1.0);
            let k = t.input("k", &[1, 2, 3, 2], -1.0, 1.0);
            let v = t.input("v", &[1, 2, 3, 2], -1.0, 1.0);
            t.node(NewNode::new("Attention", [q, k, v]).with("scale", 0.9f32))
        }),
        Example::new("Attention", "a mask of numbers", 23, |t| {
            let q = t.input("q", &[1, 2, 3, 2], -1.0, 1.0);
            let k = t.input("k", &[1, 2, 4, 2], -1.0, 1.0);
            let v = t.input("v", &[1, 2, 4, 2], -1.0, 1.0);
            let mask = t.input("mask", &[3, 4], -1.0, 1.0);
            t.op("Attention", &[q, k, v, mask])
        }),
    ];
    examples.push(Example::new("Attention", "a mask of truth values", 23, |t| {
        let q = t.input("q", &[1, 1, 2, 2], -1.0, 1.0);
        let k = t.input("k", &[1, 1, 3, 2], -1.0, 1.0);
        let v = t.input("v", &[1, 1, 3, 2], -1.0, 1.0);
        let allowed = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0];
        let mask = t.tensor_constant(Tensor::from_f64(ElementType::Bool, &[2, 3], &allowed).unwrap());
        t.op("Attention", &[q, k, v, mask])
    }));
    for (words, interleaved, dimensions) in
        [("halves", 0i64, 0i64), ("neighbours", 1, 0), ("a part of each head", 0, 2)]
    {
        examples.push(Example::new("RotaryEmbedding", words, 23, move |t| {
            let x = t.input("x", &[1, 2, 3, 4], -1.0, 1.0);
            let half = if dimensions == 0 { 2 } else { 1 };
            let (cosines, sines) = (t.weights(&[1, 3, half], -0.9, 0.9), t.weights(&[1, 3, half], -0.5, 0.8));
            let node = NewNode::new("RotaryEmbedding", [x, cosines, sines]).with("interleaved", interleaved);
            t.node(node.with("rotary_embedding_dim", dimensions))
        }));
    }
    examples
}
