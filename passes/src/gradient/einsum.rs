//! Einsum: subscripts change places.

use std::collections::BTreeSet;

use onnx_opt_ir::ValueId;

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::Written;

pub(super) const RULES: &[(&str, Rule)] = &[("Einsum", einsum)];

/// The subscripts of an operand or of the result: letters, and whether there is an ellipsis, and before which letter.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    letters: Vec<char>,
    ellipsis: Option<usize>,
}

impl Term {
    fn parse(text: &str) -> Option<Self> {
        let place = text.find("...");
        let letters: Vec<char> = text.replacen("...", "", 1).chars().collect();
        letters.iter().all(char::is_ascii_alphabetic).then_some(Self { letters, ellipsis: place })
    }

    fn text(&self) -> String {
        let mut letters: Vec<String> = self.letters.iter().map(char::to_string).collect();
        if let Some(place) = self.ellipsis {
            letters.insert(place, "...".to_owned());
        }
        letters.concat()
    }
}

fn parse(equation: &str) -> Option<(Vec<Term>, Term)> {
    let equation: String = equation.chars().filter(|letter| !letter.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_owned(), Some(right.to_owned())),
        None => (equation, None),
    };
    let terms: Vec<Term> = left.split(',').map(Term::parse).collect::<Option<_>>()?;
    let result = match right {
        Some(right) => Term::parse(&right)?,
        // Without a right side: the letters that occur once, in alphabetical order.
        None => {
            let all: Vec<char> = terms.iter().flat_map(|term| term.letters.iter().copied()).collect();
            let once: BTreeSet<char> = all
                .iter()
                .copied()
                .filter(|letter| all.iter().filter(|other| *other == letter).count() == 1)
                .collect();
            let ellipsis = terms.iter().any(|term| term.ellipsis.is_some()).then_some(0);
            Term { letters: once.into_iter().collect(), ellipsis }
        }
    };
    Some((terms, result))
}

/// Of an operand: g and the other operands, with the subscripts of the operand as those of the result. An axis that
/// only this operand has was summed: g is repeated along it.
fn einsum(s: &mut Step<'_, '_>) -> Gradients {
    let g = s.gradient()?;
    let equation = s.string("equation");
    let (terms, result) = parse(&equation).ok_or_else(|| format!("equation `{equation}`"))?;
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
    let distinct: BTreeSet<char> = term.letters.iter().copied().collect();
    if distinct.len() < term.letters.len() {
        return Err("a diagonal is taken".into());
    }
    if term.ellipsis.is_some() && result.ellipsis.is_none() {
        return Err("axes of an ellipsis are summed".into());
    }
    let others: Vec<usize> = (0..terms.len()).filter(|&other| other != index).collect();
    let known: BTreeSet<char> = others
        .iter()
        .flat_map(|&other| terms[other].letters.iter())
        .chain(&result.letters)
        .copied()
        .collect();
    // Where the operand has no ellipsis, its axes come first, and are summed afterwards.
    let ellipsis = result.ellipsis.map(|_| term.ellipsis.unwrap_or(0));
    let letters: Vec<char> = term.letters.iter().copied().filter(|letter| known.contains(letter)).collect();
    let before = |place: usize| term.letters[..place].iter().filter(|letter| known.contains(letter)).count();
    let target = Term { letters, ellipsis: ellipsis.map(before) };
    let left: Vec<String> =
        std::iter::once(result.text()).chain(others.iter().map(|&other| terms[other].text())).collect();
    let mut inputs = vec![g];
    inputs.extend(others.iter().map(|&other| operands[other]));
    let equation = format!("{}->{}", left.join(","), target.text());
    let mut found = match others.is_empty() && target == *result {
        true => g,
        false => s.op_with("Einsum", &inputs, "equation", equation.as_str())?,
    };
    if target.letters.len() < term.letters.len() {
        if term.ellipsis.is_some() {
            return Err("an axis beside an ellipsis is summed".into());
        }
        let missing: Vec<i64> = term
            .letters
            .iter()
            .enumerate()
            .filter(|(_, letter)| !known.contains(letter))
            .map(|(axis, _)| axis as i64 - term.letters.len() as i64)
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
