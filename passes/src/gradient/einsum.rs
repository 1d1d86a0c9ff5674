//! Einsum: subscripts change places.

use std::collections::BTreeSet;

use onnx_opt_ir::ValueId;
use onnx_opt_ir::equation::{Equation, Term};

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::Written;

pub(super) const RULES: &[(&str, Rule)] = &[("Einsum", einsum)];

/// Of an operand: g and the other operands, with the subscripts of the operand as those of the result. An axis that
/// only this operand has was summed: g is repeated along it.
fn einsum(s: &mut Step<'_, '_>) -> Gradients {
    let g = s.gradient()?;
    let equation = s.string("equation");
    let Equation { terms, result } =
        Equation::parse(&equation).ok_or_else(|| format!("equation `{equation}`"))?;
    let operands: Vec<ValueId> = s.node.inputs().iter().flatten().copied().collect();
    if operands.len() != terms.len() {
        return Err("its equation is not of as many operands".into());
    }
    let mut gradients = Vec::new();
    for index in 0..operands.len() {
        gradients.push(match s.wants(index) {
            true => Some(of_operand(s, g, &operands, &terms, &result, index)?),
            false => None,
        });
    }
    Ok(gradients)
}

fn of_operand(
    s: &mut Step<'_, '_>,
    g: ValueId,
    operands: &[ValueId],
    terms: &[Term],
    result: &Term,
    index: usize,
) -> Written {
    let (term, operand) = (&terms[index], operands[index]);
    if term.repeats() {
        return Err("a diagonal is taken".into());
    }
    if term.ellipsis.is_some() && result.ellipsis.is_none() {
        return Err("axes of an ellipsis are summed".into());
    }
    let others: Vec<usize> = (0..terms.len()).filter(|&other| other != index).collect();
    let known: BTreeSet<char> =
        others.iter().flat_map(|&other| terms[other].labels.iter()).chain(&result.labels).copied().collect();
    // Where the operand has no ellipsis, its axes come first, and are summed afterwards.
    let ellipsis = result.ellipsis.map(|_| term.ellipsis.unwrap_or(0));
    let labels: Vec<char> = term.labels.iter().copied().filter(|label| known.contains(label)).collect();
    let before = |place: usize| term.labels[..place].iter().filter(|label| known.contains(label)).count();
    let target = Term { labels, ellipsis: ellipsis.map(before) };
    let left: Vec<String> = std::iter::once(result.to_string())
        .chain(others.iter().map(|&other| terms[other].to_string()))
        .collect();
    let mut inputs = vec![g];
    inputs.extend(others.iter().map(|&other| operands[other]));
    let equation = format!("{}->{}", left.join(","), target);
    let mut found = match others.is_empty() && target == *result {
        true => g,
        false => s.op_with("Einsum", &inputs, "equation", equation.as_str())?,
    };
    if target.labels.len() < term.labels.len() {
        if term.ellipsis.is_some() {
            return Err("an axis beside an ellipsis is summed".into());
        }
        let missing: Vec<i64> = term
            .labels
            .iter()
            .enumerate()
            .filter(|(_, label)| !known.contains(label))
            .map(|(axis, _)| axis as i64 - term.labels.len() as i64)
            .collect();
        found = s.unsqueeze(found, &missing)?;
        if ellipsis.is_none() {
            return s.expand_as(found, operand);
        }
        return Err("an axis is summed beside an ellipsis".into());
    }
    s.unbroadcast(found, operand)
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
pub(super) fn examples() -> Vec<super::example::Example> {
    use onnx_opt_ir::NewNode;

    use super::example::Example;

    let mut examples = Vec::new();
    const CASES: &[(&str, &[&[i64]])] = &[
        ("ij,jk->ik", &[&[2, 3], &[3, 4]]),
        ("bhid, bhjd -> bhij", &[&[1, 2, 3, 2], &[1, 2, 2, 2]]),
        ("ij->ji", &[&[2, 3]]),
        ("ij->i", &[&[2, 3]]),
        ("ij->", &[&[2, 3]]),
        ("i,j->ij", &[&[2], &[3]]),
        ("ij,jk", &[&[2, 3], &[3, 2]]),
        ("...ij,jk->...ik", &[&[2, 2, 3], &[3, 2]]),
        ("i,ij,j->", &[&[2], &[2, 3], &[3]]),
    ];
    for &(equation, shapes) in CASES {
        examples.push(Example::new("Einsum", equation, 18, move |t| {
            let names = ["a", "b", "c"];
            let inputs: Vec<ValueId> =
                names.iter().zip(shapes).map(|(name, shape)| t.input(name, shape, -1.0, 1.0)).collect();
            t.node(NewNode::new("Einsum", inputs).with("equation", equation))
        }));
    }
    examples
}
