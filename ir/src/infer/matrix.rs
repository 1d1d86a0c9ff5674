//! Products of matrices.

use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::equation::Equation;
use crate::types::{ElementType, Shape};

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "MatMul" => |cx| matmul(cx, 1, cx.element(0).or(cx.element(1))),
        "MatMulInteger" => |cx| matmul(cx, 1, Some(ElementType::Int32)),
        "QLinearMatMul" => |cx| matmul(cx, 3, cx.element(7)),
        "Gemm" => gemm,
        "Einsum" => einsum,
        "Det" => determinant,
        _ => return None,
    })
}

/// Operand 0 times operand `right`, as `numpy.matmul`: a vector is a row on the left and a column on the right, and
/// that axis is not in the result; axes before the last two are broadcast.
fn matmul(cx: &Inference<'_>, right: usize, element: Option<ElementType>) -> Answer {
    let (Some(a), Some(b)) = (cx.shape(0), cx.shape(right)) else {
        return cx.one(Fact::ranked(element, None));
    };
    let (Some((inner_a, rows)), Some(last)) = (a.split_last(), b.last()) else {
        return Err(cx.error("a scalar has no matrix product"));
    };
    let inner_b = if b.len() == 1 { last } else { &b[b.len() - 2] };
    if inner_a.proves_ne(inner_b) {
        return Err(cx.error(format!("inner sizes {inner_a} and {inner_b} differ")));
    }
    let batch_a = &a[..a.len().saturating_sub(2)];
    let batch_b = &b[..b.len().saturating_sub(2)];
    let mut shape = cx.broadcast(batch_a, batch_b)?;
    if a.len() > 1 {
        shape.extend(rows.last().cloned());
    }
    if b.len() > 1 {
        shape.push(last.clone());
    }
    cx.one(Fact::tensor(element, shape))
}

fn gemm(cx: &Inference<'_>) -> Answer {
    let flag = |name: &str| cx.node().int(name).unwrap_or(0) != 0;
    let operand = |index: usize, transposed: bool| match cx.shape(index) {
        Some([rows, columns]) if transposed => Ok((columns.clone(), rows.clone())),
        Some([rows, columns]) => Ok((rows.clone(), columns.clone())),
        Some(shape) => Err(cx.error(format!("operand {index} has rank {}, not 2", shape.len()))),
        None => Ok((cx.fresh(), cx.fresh())),
    };
    let (rows, inner_a) = operand(0, flag("transA"))?;
    let (inner_b, columns) = operand(1, flag("transB"))?;
    if inner_a.proves_ne(&inner_b) {
        return Err(cx.error(format!("inner sizes {inner_a} and {inner_b} differ")));
    }
    let element = cx.element(0).or(cx.element(1)).or(cx.element(2));
    cx.one(Fact::tensor(element, [rows, columns]))
}

/// The axes of the result have the sizes that their labels have in the operands.
fn einsum(cx: &Inference<'_>) -> Answer {
    let element = (0..cx.input_count()).find_map(|index| cx.element(index));
    let unranked = || cx.one(Fact::ranked(element, None));
    let text = cx.node().string("equation").unwrap_or_default();
    let Some(Equation { terms, result }) = Equation::parse(text) else {
        return Err(cx.error(format!("equation `{text}` cannot be read")));
    };
    if terms.len() != cx.input_count() {
        return Err(cx.error(format!("{} terms and {} operands", terms.len(), cx.input_count())));
    }

    let mut sizes: Vec<(char, Dim)> = Vec::new();
    // The axes of `...`; `None` while an operand that has them has no rank.
    let mut batch = Some(Shape::new());
    for (index, term) in terms.iter().enumerate() {
        let Some(shape) = cx.shape(index) else {
            if term.ellipsis.is_some() {
                batch = None;
            }
            continue;
        };
        let extra = match (shape.len().checked_sub(term.labels.len()), term.ellipsis) {
            (Some(extra), Some(_)) => extra,
            (Some(0), None) => 0,
            _ => {
                let labels = term.labels.len();
                return Err(cx.error(format!("{labels} labels for operand {index} of rank {}", shape.len())));
            }
        };
        let start = term.ellipsis.unwrap_or(0);
        if let (Some(known), Some(_)) = (&batch, term.ellipsis) {
            batch = Some(cx.broadcast(known, &shape[start..start + extra])?);
        }
        for (position, &label) in term.labels.iter().enumerate() {
            let axis = if term.ellipsis.is_some() && position >= start { position + extra } else { position };
            let size = &shape[axis];
            match sizes.iter_mut().find(|(known, _)| *known == label) {
                None => sizes.push((label, size.clone())),
                Some((_, known)) => {
                    let both = cx.broadcast(std::slice::from_ref(known), std::slice::from_ref(size))?;
                    *known = both[0].clone();
                }
            }
        }
    }

    let size = |label: char| {
        sizes.iter().find(|(known, _)| *known == label).map_or_else(|| cx.fresh(), |(_, size)| size.clone())
    };
    let mut shape: Shape = result.labels.iter().map(|&label| size(label)).collect();
    match (result.ellipsis, batch) {
        (Some(_), None) => return unranked(),
        (Some(at), Some(batch)) => shape.insert_many(at, batch),
        (None, _) => {}
    }
    cx.one(Fact::tensor(element, shape))
}

fn determinant(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return cx.one(Fact::ranked(cx.element(0), None)) };
    match shape {
        [batch @ .., rows, columns] if !rows.proves_ne(columns) => {
            cx.one(Fact::tensor(cx.element(0), batch.iter().cloned()))
        }
        _ => Err(cx.error("the operand is no square matrix")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::infer::testing::{shaped, ty};

    fn product(op_type: &str, operands: &[&str], equation: Option<&str>) -> Result<String, String> {
        let operands = operands.iter().map(|shape| shaped(ElementType::Float, shape)).collect();
        let attributes: Vec<_> = equation.map(|equation| ("equation", equation.into())).into_iter().collect();
        ty(17, op_type, operands, &attributes).map_err(|error| error.to_string())
    }

    #[test]
    fn matrix_products() {
        for (a, b, expected) in [
            ("N 4", "4 5", "float[N, 5]"),
            ("4", "4", "float[]"),
            ("4", "B 4 5", "float[B, 5]"),
            ("B 3 4", "4", "float[B, 3]"),
            ("B 1 3 4", "H 4 5", "float[B, H, 3, 5]"),
        ] {
            assert_eq!(product("MatMul", &[a, b], None).unwrap(), expected);
        }
        assert!(product("MatMul", &["2 3", "4 5"], None).unwrap_err().contains("3 and 4"));
        assert!(product("MatMul", &["", "4 5"], None).is_err());
    }

    #[test]
    fn equations() {
        for (equation, operands, expected) in [
            ("bij,bjk->bik", &["B 2 3", "B 3 4"][..], "float[B, 2, 4]"),
            ("ij,jk", &["2 3", "3 4"], "float[2, 4]"),
            ("...ij->...ji", &["A B 2 3"], "float[A, B, 3, 2]"),
            ("i...,i...", &["3 N", "3 1"], "float[N]"),
            ("ba", &["2 3"], "float[3, 2]"),
            ("ii->i", &["N N"], "float[N]"),
        ] {
            assert_eq!(product("Einsum", operands, Some(equation)).unwrap(), expected, "{equation}");
        }
        assert!(product("Einsum", &["2 3", "4 5"], Some("ij,jk")).is_err());
        assert!(product("Einsum", &["2 3"], Some("i$")).is_err());
    }
}
