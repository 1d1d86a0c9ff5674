//! Gemm of half precision as the operators that it stands for: tract makes single precision of it, and then refuses it.

use onnx_opt_ir::{Attributes, ElementType, Tensor};
use onnx_opt_passes::rewrite::{ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Site, ensure};

pub(super) const PARTS: FunctionRule = FunctionRule {
    name: "half_gemm_parts",
    doc: "Gemm(A, B, C) = α·A·B + β·C, of half precision.",
    class: ErrorClass::Rounding,
    since: 7,
    roots: &["Gemm"],
    rewrite: parts,
};

fn parts(site: &Site<'_>) -> Rewrite {
    let (graph, node) = (site.graph, site.node());
    let [a, b] = [site.input(0)?, site.input(1)?];
    ensure(graph.element(a) == Some(ElementType::Float16), "it is not of half precision")?;
    let mut patch = Patch::new();
    let turned = |patch: &mut Patch, value: Operand, wanted: &str| match node.int(wanted) {
        Some(1) => patch.node("Transpose", [value], Attributes::from_pairs([("perm", vec![1i64, 0].into())])),
        _ => value,
    };
    let a = turned(&mut patch, a.into(), "transA");
    let b = turned(&mut patch, b.into(), "transB");
    let scaled = |patch: &mut Patch, value: Operand, wanted: &str| -> Result<Operand, Miss> {
        let Some(factor) = node.float(wanted).filter(|&factor| factor != 1.0) else { return Ok(value) };
        let factor = Tensor::scalar(ElementType::Float16, factor.into()).ok_or(Miss::NoMatch)?;
        let factor = patch.constant(factor);
        Ok(patch.node("Mul", [value, factor], Attributes::new()))
    };
    let product = patch.node("MatMul", [a, b], Attributes::new());
    let mut y = scaled(&mut patch, product, "alpha")?;
    if let Some(c) = node.input(2) {
        let c = scaled(&mut patch, c.into(), "beta")?;
        y = patch.node("Add", [y, c], Attributes::new());
    }
    patch.replace(site.output()?, y);
    Ok(patch)
}
