//! Products: what is summed over is one axis of both factors.

use std::collections::BTreeMap;

use onnx_opt_ir::Node;
use onnx_opt_ir::equation::{Equation, Term};

use super::super::lanes::Axis;
use super::{Reason, Rule, Site};

pub(super) fn rule(node: &Node) -> Option<Rule> {
    Some(Rule::plain(match node.op_type() {
        "MatMul" => matmul,
        "Gemm" => gemm,
        "Einsum" => einsum,
        _ => return None,
    }))
}

/// y [.., M, N] = a [.., M, K] · b [.., K, N]; a vector is a row or a column, and the batch is broadcast.
fn matmul(site: &mut Site<'_>) -> Result<(), Reason> {
    let (a, b, y) = (site.needed(0)?, site.needed(1)?, site.output()?);
    let (Some((&a_inner, a_outer)), false) = (a.split_last(), b.is_empty()) else {
        return Err("a scalar is no matrix".to_owned());
    };
    let mut y = y;
    let b_batch = if b.len() == 1 {
        site.join(a_inner, b[0]);
        &[]
    } else {
        site.join(a_inner, b[b.len() - 2]);
        let columns = y.pop().ok_or("the ranks do not fit")?;
        site.join(b[b.len() - 1], columns);
        &b[..b.len() - 2]
    };
    let a_batch = if let Some((&rows, a_batch)) = a_outer.split_last() {
        let over = y.pop().ok_or("the ranks do not fit")?;
        site.join(rows, over);
        a_batch
    } else {
        &[]
    };
    site.spread(a_batch, &y);
    site.spread(b_batch, &y);
    Ok(())
}

/// y [M, N] = α·a·b + β·c, where a and b may be transposed and c is broadcast.
fn gemm(site: &mut Site<'_>) -> Result<(), Reason> {
    let (mut a, mut b, y) = (site.needed(0)?, site.needed(1)?, site.output()?);
    if a.len() != 2 || b.len() != 2 || y.len() != 2 || site.node.attributes().get("broadcast").is_some() {
        return Err("the operands are no matrices".to_owned());
    }
    if site.int("transA") == Some(1) {
        a.reverse();
    }
    if site.int("transB") == Some(1) {
        b.reverse();
    }
    site.join(a[1], b[0]);
    site.join(a[0], y[0]);
    site.join(b[1], y[1]);
    if let Some(c) = site.operand(2)? {
        site.spread(&c, &y);
    }
    Ok(())
}

/// Axes of the same label are one.
fn einsum(site: &mut Site<'_>) -> Result<(), Reason> {
    let text = site.node.string("equation").unwrap_or_default();
    let Equation { terms, result } = Equation::parse(text).ok_or("its equation cannot be read")?;
    let mut axes: BTreeMap<char, Axis> = BTreeMap::new();
    let mut tensors: Vec<(Term, Vec<Axis>)> = Vec::new();
    for (index, term) in terms.into_iter().enumerate() {
        tensors.push((term, site.needed(index)?));
    }
    tensors.push((result, site.output()?));
    for (term, tensor) in tensors {
        if term.ellipsis.is_some() || term.labels.len() != tensor.len() {
            return Err("its labels are not those of the axes".to_owned());
        }
        for (label, axis) in term.labels.into_iter().zip(tensor) {
            match axes.get(&label) {
                Some(&other) => site.join(other, axis),
                None => drop(axes.insert(label, axis)),
            }
        }
    }
    Ok(())
}
