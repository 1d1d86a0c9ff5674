//! Products of matrices.

use onnx_opt_ir::{NewNode, ValueId};

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::Written;

pub(super) const RULES: &[(&str, Rule)] = &[("Gemm", gemm), ("MatMul", matmul)];

/// A·B: g·Bᵀ, Aᵀ·g. A vector is a matrix of one row on the left, of one column on the right.
fn matmul(s: &mut Step<'_, '_>) -> Gradients {
    let (g, a, b) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let (rank_a, rank_b) = (s.rank(a)?, s.rank(b)?);
    let matrix_a = if rank_a == 1 { s.unsqueeze(a, &[0])? } else { a };
    let matrix_b = if rank_b == 1 { s.unsqueeze(b, &[1])? } else { b };
    let missing: &[i64] = match (rank_a, rank_b) {
        (1, 1) => &[-2, -1],
        (1, _) => &[-2],
        (_, 1) => &[-1],
        _ => &[],
    };
    let g = s.unsqueeze(g, missing)?;
    let mut gradients = vec![None, None];
    if s.wants(0) {
        let transposed = s.transpose_last(matrix_b)?;
        let product = s.op("MatMul", &[g, transposed])?;
        let summed = s.unbroadcast(product, matrix_a)?;
        gradients[0] = Some(s.reshape_as(summed, a)?);
    }
    if s.wants(1) {
        let product = of_right_factor(s, matrix_a, matrix_b, g)?;
        gradients[1] = Some(s.reshape_as(product, b)?);
    }
    Ok(gradients)
}

/// Aᵀ·g. Where B is one matrix for a batch of A, the batch is rows of A, and no product for each of the batch is held.
fn of_right_factor(s: &mut Step<'_, '_>, a: ValueId, b: ValueId, g: ValueId) -> Written {
    let (inner, outer) = (s.fixed_axis(b, 0), s.fixed_axis(b, 1));
    if let (Some(inner @ 1..), Some(outer @ 1..), 2) = (inner, outer, s.rank(b)?)
        && s.rank(a)? > 2
    {
        let (rows, g) = (s.reshape(a, &[-1, inner])?, s.reshape(g, &[-1, outer])?);
        let transposed = s.transpose_last(rows)?;
        return s.op("MatMul", &[transposed, g]);
    }
    let transposed = s.transpose_last(a)?;
    let product = s.op("MatMul", &[transposed, g])?;
    s.unbroadcast(product, b)
}

/// α·A′·B′ + β·C, where ′ may transpose: α·g·B′ᵀ and α·A′ᵀ·g, transposed where the operand is, and β·g.
fn gemm(s: &mut Step<'_, '_>) -> Gradients {
    let (g, a, b) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let (turn_a, turn_b) = (s.int("transA")? != 0, s.int("transB")? != 0);
    let (alpha, beta) = (s.node.float("alpha").unwrap_or(1.0), s.float("beta")?);
    let product = |s: &mut Step<'_, '_>, left: (ValueId, bool), right: (ValueId, bool)| {
        let node = NewNode::new("Gemm", [left.0, right.0]).with("alpha", alpha);
        s.node(node.with("transA", i64::from(left.1)).with("transB", i64::from(right.1)))
    };
    let mut gradients = vec![None, None, None];
    if s.wants(0) {
        gradients[0] = Some(match turn_a {
            false => product(s, (g, false), (b, !turn_b))?,
            true => product(s, (b, turn_b), (g, true))?,
        });
    }
    if s.wants(1) {
        gradients[1] = Some(match turn_b {
            false => product(s, (a, !turn_a), (g, false))?,
            true => product(s, (g, true), (a, turn_a))?,
        });
    }
    gradients[2] = s.broadcast_operand(2, |s| s.times(g, beta))?;
    Ok(gradients)
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
pub(super) fn examples() -> Vec<super::example::Example> {
    use super::example::Example;

    let mut examples = Vec::new();
    for (words, a, b) in [
        ("matrices", &[2, 3][..], &[3, 4][..]),
        ("a batch by a matrix", &[2, 2, 3], &[3, 2]),
        ("a matrix by a batch", &[2, 3], &[2, 3, 2]),
        ("batches that widen", &[2, 1, 2, 3], &[3, 3, 2]),
        ("a vector on the left", &[3], &[3, 2]),
        ("a vector on the right", &[2, 3], &[3]),
        ("a vector by a batch", &[3], &[2, 3, 2]),
        ("a batch by a vector", &[2, 2, 3], &[3]),
        ("two vectors", &[3], &[3]),
    ] {
        examples.push(Example::new("MatMul", words, 18, move |t| {
            let a = t.input("a", a, -1.0, 1.0);
            let b = t.input("b", b, -1.0, 1.0);
            t.op("MatMul", &[a, b])
        }));
    }
    examples.push(Example::new("MatMul", "a batch of a size that has a name", 18, |t| {
        let a = t.symbolic_input("a", &["n", "2", "3"], &[2, 2, 3], -1.0, 1.0);
        let b = t.symbolic_input("b", &["n", "3", "2"], &[2, 3, 2], -1.0, 1.0);
        t.op("MatMul", &[a, b])
    }));
    for (words, turn_a, turn_b, c) in [
        ("as it is", 0i64, 0i64, &[2, 4][..]),
        ("the left transposed", 1, 0, &[4]),
        ("the right transposed", 0, 1, &[2, 1]),
        ("both transposed", 1, 1, &[1]),
    ] {
        examples.push(Example::new("Gemm", words, 18, move |t| {
            let a = t.input("a", if turn_a == 1 { &[3, 2] } else { &[2, 3] }, -1.0, 1.0);
            let b = t.input("b", if turn_b == 1 { &[4, 3] } else { &[3, 4] }, -1.0, 1.0);
            let c = t.input("c", c, -1.0, 1.0);
            let node = NewNode::new("Gemm", [a, b, c]).with("transA", turn_a).with("transB", turn_b);
            t.node(node.with("alpha", 0.5f32).with("beta", 2.0f32))
        }));
    }
    examples
}
