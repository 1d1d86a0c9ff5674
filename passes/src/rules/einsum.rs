//! Einsums that another operator says more simply.

use onnx_opt_ir::equation::{Equation, Term};
use onnx_opt_ir::{Attributes, Dim, Graph, ValueId};

use super::facts::shape;
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "einsum_transpose",
            doc: "Einsum of one operand that sums nothing is a Transpose.",
            class: ErrorClass::Exact,
            since: 12,
            roots: &["Einsum"],
            rewrite: einsum_transpose,
        }),
        Box::new(FunctionRule {
            name: "einsum_mul",
            doc: "Einsum of two operands that sums nothing, whose axes lie as those of the result, is a Mul.",
            class: ErrorClass::Exact,
            since: 12,
            roots: &["Einsum"],
            rewrite: einsum_mul,
        }),
        Box::new(FunctionRule {
            name: "einsum_matmul",
            doc: "Einsum that sums over one axis of two operands whose other axes lie as in a product of matrices is a MatMul.",
            class: ErrorClass::Rounding,
            since: 12,
            roots: &["Einsum"],
            rewrite: einsum_matmul,
        }),
    ]
}

/// The equation, in which every axis has a label of its own.
fn plain(site: &Site<'_>) -> Result<Equation, Miss> {
    let equation = found(site.node().string("equation").and_then(Equation::parse))?;
    for term in equation.terms.iter().chain([&equation.result]) {
        ensure(term.ellipsis.is_none(), "axes have no label")?;
        ensure(!term.repeats(), "a diagonal is taken")?;
    }
    Ok(equation)
}

fn einsum_transpose(site: &Site<'_>) -> Rewrite {
    let Equation { terms, result } = plain(site)?;
    let [term] = &terms[..] else { return Err(Miss::NoMatch) };
    ensure(term.labels.len() == result.labels.len(), "an axis is summed")?;
    let places = result.labels.iter().map(|label| place(term, *label).map(|place| place as i64));
    let perm: Vec<i64> = found(places.collect())?;
    let mut patch = Patch::new();
    let attributes = Attributes::from_pairs([("perm", perm.into())]);
    let new = patch.node("Transpose", [site.input(0)?], attributes);
    finish(site, patch, new)
}

fn einsum_mul(site: &Site<'_>) -> Rewrite {
    let Equation { terms, result } = plain(site)?;
    let [a, b] = &terms[..] else { return Err(Miss::NoMatch) };
    let last = |term: &Term| result.labels.ends_with(&term.labels);
    ensure(last(a) && last(b), "axes do not lie as those of the result")?;
    let operands = [site.input(0)?, site.input(1)?];
    let mut patch = Patch::new();
    let new = patch.node("Mul", operands, Attributes::new());
    finish(site, patch, new)
}

/// With r, k, c for rows, what is summed over, and columns: `Prk,Qkc->Prc`, where Q are the last labels of P or the
/// other way round, and the same with the operands changed.
fn einsum_matmul(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let Equation { terms, result } = plain(site)?;
    let [first, second] = &terms[..] else { return Err(Miss::NoMatch) };
    let (first, second) = ((first, site.input(0)?), (second, site.input(1)?));
    let mut summed = first.0.labels.iter().filter(|label| !result.labels.contains(label));
    let (&label, None) = (found(summed.next())?, summed.next()) else {
        return Err("more than one axis is summed".into());
    };
    let sizes = [first, second].map(|(term, value)| size(graph, term, value, label));
    let [own, other] = sizes;
    ensure(own? == other?, "what is summed over is broadcast")?;
    let mut patch = Patch::new();
    let product = operands(graph, &mut patch, first, second, label, &result)
        .or_else(|_| operands(graph, &mut patch, second, first, label, &result))?;
    let new = patch.node("MatMul", product, Attributes::new());
    finish(site, patch, new)
}

/// The operands of the MatMul.
fn operands(
    graph: &Graph,
    patch: &mut Patch,
    (left, a): (&Term, ValueId),
    (right, b): (&Term, ValueId),
    summed: char,
    result: &Term,
) -> Result<[Operand; 2], Miss> {
    let [batch @ .., row, column] = &result.labels[..] else {
        return Err("the result is no matrix".into());
    };
    let of = |term: &Term, edges: [char; 2]| {
        let batch = batch.iter().copied().filter(|label| term.labels.contains(label));
        batch.chain(edges).collect::<Vec<char>>()
    };
    let (rows, columns) = (of(left, [*row, summed]), of(right, [summed, *column]));
    let batches = [&rows, &columns].map(|labels| &labels[..labels.len() - 2]);
    ensure(batches.iter().all(|own| batch.ends_with(own)), "batches do not lie as those of the result")?;
    ensure(batches.contains(&batch), "an axis of the batch is in neither operand")?;
    Ok([arranged(graph, patch, left, a, &rows)?, arranged(graph, patch, right, b, &columns)?])
}

/// An operand with its axes in this order: a constant is transposed for that, nothing else is.
fn arranged(
    graph: &Graph,
    patch: &mut Patch,
    term: &Term,
    value: ValueId,
    order: &[char],
) -> Result<Operand, Miss> {
    if term.labels == order {
        return Ok(value.into());
    }
    let tensor = graph.constant(value).ok_or("an operand would be transposed")?;
    let perm: Option<Vec<usize>> = order.iter().map(|label| place(term, *label)).collect();
    let perm = perm.filter(|perm| perm.len() == term.labels.len()).ok_or("labels do not fit")?;
    let moved = tensor.transposed(&perm).ok_or("a constant cannot be transposed")?;
    Ok(patch.constant(moved))
}

fn place(term: &Term, label: char) -> Option<usize> {
    term.labels.iter().position(|other| *other == label)
}

/// Size of a labelled axis.
fn size<'g>(graph: &'g Graph, term: &Term, value: ValueId, label: char) -> Result<&'g Dim, Miss> {
    let sizes = shape(graph, value)?;
    let place = place(term, label).ok_or("what is summed over is in one operand alone")?;
    sizes.get(place).ok_or_else(|| "labels do not fit".into())
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    let einsum = |f: &mut Fixture, equation: &str, operands: &[ValueId]| {
        f.node(NewNode::new("Einsum", operands.iter().copied()).with("equation", equation))
    };
    let of_inputs = move |rule: &'static str,
                          fires: &'static str,
                          misses: &'static str,
                          shapes: Vec<&'static [&'static str]>| {
        Example::new(rule, move |does| {
            let mut f = Fixture::new(13);
            let names = ["x", "z"];
            let operands: Vec<ValueId> =
                shapes.iter().zip(names).map(|(shape, name)| f.symbolic_input(name, shape)).collect();
            let y = einsum(&mut f, if does { fires } else { misses }, &operands);
            f.with_output(y)
        })
    };
    let cube: &[&str] = &["batch", "4", "4"];
    let square: &[&str] = &["4", "4"];
    vec![
        of_inputs("einsum_transpose", "abc->cab", "abc->ca", vec![&["batch", "2", "3"]]),
        of_inputs("einsum_mul", "abc,bc->abc", "abc,bc->acb", vec![cube, square]),
        of_inputs("einsum_matmul", "bqd,bdk->bqk", "bqd,bdk->qbk", vec![cube, cube]),
        of_inputs("einsum_matmul", "bdk,bqd->bqk", "bdk,bqd->bq", vec![cube, cube]),
        of_inputs("einsum_matmul", "abd,dk->abk", "abd,kd->abk", vec![cube, square]),
        of_inputs("einsum_matmul", "dk,abd", "dk,abd->akb", vec![square, cube]),
        // Weights are transposed as they stand; of two axes to sum over one could be broadcast.
        Example::new("einsum_matmul", move |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["batch", "n", if fires { "4" } else { "d" }]);
            let w = f.weights(&[5, 4]);
            let y = einsum(&mut f, "bnd,kd->bnk", &[x, w]);
            f.with_output(y)
        }),
    ]
}
