//! Minimum and maximum.

use std::collections::BTreeSet;

use super::Dim;
use super::opaque::Operation;
use super::polynomial::{Atom, Monomial, Polynomial, gcd};

/// The most operands that one minimum or maximum may have.
const MAXIMUM_OPERANDS: usize = 16;

/// Which end of a set of values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Side {
    Min,
    Max,
}

impl Side {
    pub(super) fn of(self, a: i64, b: i64) -> i64 {
        match self {
            Side::Min => a.min(b),
            Side::Max => a.max(b),
        }
    }

    /// Whether `a` can be left out beside `b`.
    fn yields(self, a: &Dim, b: &Dim) -> bool {
        match self {
            Side::Min => a.proves_ge(b),
            Side::Max => b.proves_ge(a),
        }
    }

    fn operation(self) -> Operation {
        match self {
            Side::Min => Operation::Min,
            Side::Max => Operation::Max,
        }
    }
}

impl Dim {
    /// The lesser of both.
    pub fn min(&self, other: &Dim) -> Dim {
        match (self.as_fixed(), other.as_fixed()) {
            (Some(a), Some(b)) => Dim::fixed(a.min(b)),
            _ => extremum(Side::Min, vec![self.clone(), other.clone()]),
        }
    }

    /// The greater of both.
    pub fn max(&self, other: &Dim) -> Dim {
        match (self.as_fixed(), other.as_fixed()) {
            (Some(a), Some(b)) => Dim::fixed(a.max(b)),
            _ => extremum(Side::Max, vec![self.clone(), other.clone()]),
        }
    }
}

/// The normal form of the least or greatest of `operands`, of which there is at least one.
///
/// Nested extrema are spread, what another operand bounds is dropped, and a common summand or factor stands
/// outside: `min(2*N + 1, 2*M + 3)` is `2*min(N, M + 1) + 1`.
pub(super) fn extremum(side: Side, operands: Vec<Dim>) -> Dim {
    let mut operands = independent(side, operands);
    if operands.len() > 1 {
        operands = independent(side, flatten(side, operands));
    }
    if let [operand] = operands.as_slice() {
        return operand.clone();
    }
    if operands.len() > MAXIMUM_OPERANDS {
        return side.operation().opaque_of(&operands);
    }
    let polynomials: Vec<Polynomial> =
        operands.iter().map(|operand| operand.polynomial().into_owned()).collect();
    match factor(&polynomials) {
        Some(Factored { summand, factor, operands }) => {
            let inner = extremum(side, operands.into_iter().map(Dim::from_polynomial).collect());
            Dim::from_polynomial(summand) + Dim::from_polynomial(factor) * inner
        }
        None => Dim::from_atom(Atom::Extremum(side, operands.into())),
    }
}

/// The operands with those that are extrema of the same side replaced by theirs, in order, each once.
fn flatten(side: Side, operands: Vec<Dim>) -> Vec<Dim> {
    let mut flat = BTreeSet::new();
    let mut open = operands;
    while let Some(operand) = open.pop() {
        match spread(side, &operand) {
            Some(inner) if flat.len() + open.len() + inner.len() <= MAXIMUM_OPERANDS => open.extend(inner),
            _ => {
                flat.insert(operand);
            }
        }
    }
    flat.into_iter().collect()
}

/// `p + c*min(x, y)` as `[p + c*x, p + c*y]`, whose minimum it is, for a factor c that cannot be negative and
/// p without another minimum. Likewise for the maximum.
fn spread(side: Side, operand: &Dim) -> Option<Vec<Dim>> {
    let polynomial = operand.polynomial();
    let mut found = polynomial.terms().iter().flat_map(|term| {
        term.monomial.atoms().iter().enumerate().filter_map(move |(index, atom)| match atom {
            Atom::Extremum(inner, operands) if *inner == side => Some((term, index, operands)),
            _ => None,
        })
    });
    let (term, index, operands) = found.next()?;
    let factor = term.monomial.without(index);
    if found.next().is_some() || term.coefficient < 0 || !factor.atoms().iter().all(Atom::is_non_negative) {
        return None;
    }
    let rest = polynomial.subtract(&Polynomial::term(term.monomial.clone(), term.coefficient))?;
    let spread = operands.iter().map(|operand| {
        rest.add(&operand.polynomial().scale(&factor, term.coefficient)?).map(Dim::from_polynomial)
    });
    spread.collect()
}

/// The operands in order, without those that another one makes superfluous.
fn independent(side: Side, mut operands: Vec<Dim>) -> Vec<Dim> {
    operands.sort();
    operands.dedup();
    if operands.len() > MAXIMUM_OPERANDS {
        return operands;
    }
    let mut index = 0;
    while let Some(operand) = operands.get(index) {
        let others = operands.iter().enumerate().filter(|(other, _)| *other != index);
        if others.into_iter().any(|(_, other)| side.yields(operand, other)) {
            operands.remove(index);
        } else {
            index += 1;
        }
    }
    operands
}

/// `summand + factor * operand` for each operand.
struct Factored {
    summand: Polynomial,
    factor: Polynomial,
    operands: Vec<Polynomial>,
}

/// What the operands have in common; `None` if nothing, or if a coefficient would overflow.
fn factor(operands: &[Polynomial]) -> Option<Factored> {
    // The least coefficient of each monomial moves with a summand of all operands, so the rest does not.
    let monomials: BTreeSet<&Monomial> =
        operands.iter().flat_map(|operand| operand.terms()).map(|term| &term.monomial).collect();
    let mut summand = Polynomial::default();
    for monomial in monomials {
        let least = operands.iter().map(|operand| operand.coefficient(monomial)).min()?;
        summand = summand.add(&Polynomial::term(monomial.clone(), least))?;
    }
    let operands: Vec<Polynomial> =
        operands.iter().map(|operand| operand.subtract(&summand)).collect::<Option<_>>()?;

    let content = operands.iter().fold(0, |content, operand| gcd(content, operand.content()));
    let content = i64::try_from(content).ok()?.max(1);
    let monomials = operands.iter().filter_map(Polynomial::common_monomial);
    let common = monomials.reduce(|common, monomial| common.common(&monomial)).unwrap_or_default();
    let common = common.filter(Atom::is_non_negative);
    if summand.is_zero() && content == 1 && common.is_one() {
        return None;
    }
    let operands =
        operands.iter().map(|operand| operand.divide_terms(&common, content)).collect::<Option<_>>()?;
    Some(Factored { summand, factor: Polynomial::term(common, content), operands })
}
