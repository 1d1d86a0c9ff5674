//! Operators that work element by element: their operands, broadcast, have the lanes of the result.

use onnx_opt_ir::Node;

use super::{Reason, Rule, Site};
use crate::rules::facts::{BINARY, is_unary};

/// Operators of several tensors that are broadcast, beside those of two.
const BROADCAST: &[&str] =
    &["BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Mean", "Mod", "PRelu", "Sum", "Where"];

/// Operators that compare: with a constant of integers they look classes up, as in a one-hot code.
const COMPARISONS: &[&str] = &["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"];

pub(super) fn rule(node: &Node) -> Option<Rule> {
    if is_unary(node) || node.is("CastLike") {
        return Some(Rule::plain(first));
    }
    if node.is("Dropout") {
        return Some(Rule::plain(dropout));
    }
    let op_type = node.op_type();
    (BINARY.contains(&op_type) || BROADCAST.contains(&op_type)).then_some(Rule::plain(broadcast))
}

/// y_i = f(x_i); the other operands are bounds and types.
fn first(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    site.join_all(&x, &y);
    Ok(())
}

/// y_i = x_i, and a mask of the same shape.
fn dropout(site: &mut Site<'_>) -> Result<(), Reason> {
    first(site)?;
    let x = site.needed(0)?;
    if let Some(mask) = site.result(1)? {
        site.join_all(&x, &mask);
    }
    Ok(())
}

/// Whether an operand is a constant of integers.
fn is_integer(site: &Site<'_>, index: usize) -> bool {
    let constant = site.node.input(index).and_then(|value| site.graph.constant(value));
    constant.is_some_and(|tensor| tensor.element().is_integer())
}

/// y_i = f(a_i, b_i, …), where axes of size 1 are repeated.
fn broadcast(site: &mut Site<'_>) -> Result<(), Reason> {
    let old =
        site.node.attributes().get("broadcast").is_some() || site.node.attributes().get("axis").is_some();
    if old {
        return Err("it broadcasts as old versions do".to_owned());
    }
    let result = site.output()?;
    let compares = COMPARISONS.contains(&site.node.op_type());
    for index in 0..site.node.inputs().len() {
        let Some(operand) = site.operand(index)? else { continue };
        site.spread(&operand, &result);
        if compares && is_integer(site, index) {
            site.bar_all(&operand, "it compares with numbers of classes");
        }
    }
    Ok(())
}
