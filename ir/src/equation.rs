//! Equations of `Einsum`.

use std::collections::BTreeMap;
use std::fmt;

/// The labels of the axes of an operand or of the result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// One for each axis that has a name.
    pub labels: Vec<char>,
    /// How many labels stand before `...`, the axes without a name, if there are such.
    pub ellipsis: Option<usize>,
}

impl Term {
    fn parse(text: &str) -> Option<Self> {
        let mut term = Self::default();
        let mut rest = text;
        while let Some(label) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("...") {
                if term.ellipsis.replace(term.labels.len()).is_some() {
                    return None;
                }
                rest = after;
            } else if label.is_ascii_alphabetic() {
                term.labels.push(label);
                rest = &rest[1..];
            } else {
                return None;
            }
        }
        Some(term)
    }

    /// Whether a label stands for two axes, of which the diagonal is taken.
    pub fn repeats(&self) -> bool {
        (1..self.labels.len()).any(|end| self.labels[..end].contains(&self.labels[end]))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, label) in self.labels.iter().enumerate() {
            if self.ellipsis == Some(place) {
                write!(f, "...")?;
            }
            write!(f, "{label}")?;
        }
        if self.ellipsis == Some(self.labels.len()) { write!(f, "...") } else { Ok(()) }
    }
}

/// The attribute `equation`: the labels of each operand and of the result. Products are summed over the labels that the
/// result has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equation {
    /// Of the operands.
    pub terms: Vec<Term>,
    /// Of the result. Where the text does not say it, it has the axes of `...`, then the labels that occur once in
    /// alphabetic order.
    pub result: Term,
}

impl Equation {
    /// Reads an equation; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let text: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (&*text, None),
        };
        let terms: Vec<Term> = left.split(',').map(Term::parse).collect::<Option<_>>()?;
        let result = match right {
            Some(right) => Term::parse(right)?,
            None => implied(&terms),
        };
        Some(Self { terms, result })
    }
}

fn implied(terms: &[Term]) -> Term {
    let mut counts = BTreeMap::new();
    for &label in terms.iter().flat_map(|term| &term.labels) {
        *counts.entry(label).or_insert(0) += 1;
    }
    let labels = counts.into_iter().filter(|&(_, count)| count == 1).map(|(label, _)| label).collect();
    Term { labels, ellipsis: terms.iter().any(|term| term.ellipsis.is_some()).then_some(0) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(text: &str) -> Option<String> {
        let equation = Equation::parse(text)?;
        let terms: Vec<String> = equation.terms.iter().map(Term::to_string).collect();
        Some(format!("{}->{}", terms.join(","), equation.result))
    }

    #[test]
    fn equations_are_read_and_implied_results_written() {
        for (text, expected) in [
            ("ij,jk->ik", Some("ij,jk->ik")),
            (" b i j , b j k -> b i k", Some("bij,bjk->bik")),
            ("kj,ji", Some("kj,ji->ik")),
            ("ii", Some("ii->")),
            ("a...,...b", Some("a...,...b->...ab")),
            ("i->", Some("i->")),
            (",->", Some(",->")),
            ("a.b->a", None),
            ("...a...->a", None),
            ("a1->a", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
        assert!(Equation::parse("iji").unwrap().terms[0].repeats());
        assert!(!Equation::parse("ij").unwrap().terms[0].repeats());
    }
}
