//! MultiHeadAttention of `com.microsoft` as the matrix products that it stands for: tract has it without mask and past.

use onnx_opt_ir::{Attributes, Tensor, ValueId};
use onnx_opt_passes::rewrite::{
    ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Site, ensure, found,
};

pub(super) const PARTS: FunctionRule = FunctionRule {
    name: "multi_head_attention_parts",
    doc: "MultiHeadAttention(q, k, v, mask, past) = softmax(c·q·kᵀ + mask)·v by heads, k and v behind the past.",
    class: ErrorClass::Rounding,
    since: 5,
    roots: &["com.microsoft:MultiHeadAttention"],
    rewrite: parts,
};

/// Heads and places change places.
const TURNED: [i64; 4] = [0, 2, 1, 3];

fn transpose(patch: &mut Patch, x: Operand, perm: [i64; 4]) -> Operand {
    patch.node("Transpose", [x], Attributes::from_pairs([("perm", perm.to_vec().into())]))
}

fn reshape(patch: &mut Patch, x: Operand, sizes: &[i64]) -> Operand {
    let sizes = patch.constant(Tensor::vector_i64(sizes));
    patch.node("Reshape", [x, sizes], Attributes::new())
}

fn parts(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let [q, k, v] = [site.input(0)?, site.input(1)?, site.input(2)?];
    let wide = [q, k, v].iter().all(|&value| graph.rank(value) == Some(3));
    let more = node
        .inputs()
        .iter()
        .enumerate()
        .any(|(index, operand)| operand.is_some() && !matches!(index, 0..=2 | 5..=7));
    ensure(wide && !more && node.outputs().len() <= 3, "it has operands of another form")?;
    ensure(node.int("unidirectional").unwrap_or(0) == 0, "it is causal")?;
    let heads = found(node.int("num_heads"))?;
    let scale = node.float("scale").filter(|&scale| scale != 0.0).ok_or("the scale is not written")?;
    let element = graph.element(q).ok_or("the element type is not known")?;

    let mut patch = Patch::new();
    let [q, k, v] = [q, k, v].map(|value| {
        let split = reshape(&mut patch, value.into(), &[0, 0, heads, -1]);
        transpose(&mut patch, split, TURNED)
    });
    let behind = |patch: &mut Patch, past: Option<ValueId>, new: Operand| match past {
        Some(past) => patch.node("Concat", [past.into(), new], Attributes::from_pairs([("axis", 2.into())])),
        None => new,
    };
    let k = behind(&mut patch, node.input(6), k);
    let v = behind(&mut patch, node.input(7), v);
    let turned = transpose(&mut patch, k, [0, 1, 3, 2]);
    let scores = patch.node("MatMul", [q, turned], Attributes::new());
    let scale = Tensor::scalar(element, scale.into()).ok_or(Miss::NoMatch)?;
    let scale = patch.constant(scale);
    let mut scores = patch.node("Mul", [scores, scale], Attributes::new());
    if let Some(mask) = node.input(5) {
        scores = patch.node("Add", [scores, mask.into()], Attributes::new());
    }
    let weights = patch.node("Softmax", [scores], Attributes::from_pairs([("axis", 3.into())]));
    let y = patch.node("MatMul", [weights, v], Attributes::new());
    let y = transpose(&mut patch, y, TURNED);
    let y = reshape(&mut patch, y, &[0, 0, -1]);
    for (old, new) in node.outputs().iter().zip([y, k, v]) {
        if let Some(old) = *old {
            patch.replace(old, new);
        }
    }
    Ok(patch)
}
