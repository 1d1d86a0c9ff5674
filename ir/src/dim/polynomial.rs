//! Polynomials with integer coefficients over atoms, in normal form, and what an expression is made of.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use super::bounds::Interval;
use super::extremum::Side;
use super::opaque::Opaque;
use super::{Dim, Repr, Symbol};

/// The most terms that an expression may have.
const MAXIMUM_TERMS: usize = 64;
/// The most atoms that one term may multiply.
const MAXIMUM_DEGREE: usize = 16;
/// The most terms and atoms that an expression may hold, those inside its atoms included.
const MAXIMUM_SIZE: u32 = 512;
/// The most atoms that may stand inside one another.
const MAXIMUM_DEPTH: u32 = 16;
/// The most products of terms that a multiplication forms.
const MAXIMUM_PRODUCTS: usize = 1024;

/// An indivisible integer of unknown value. Operands are in normal form, and so is the atom: no rule of its
/// operation applies to them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Atom {
    Symbol(Symbol),
    /// The greatest integer not above dividend / divisor.
    FloorDiv(Dim, Dim),
    /// dividend / divisor without its fraction.
    TruncatedDiv(Dim, Dim),
    /// The least or greatest of two or more operands, which are in order.
    Extremum(Side, Arc<[Dim]>),
    Opaque(Arc<Opaque>),
}

impl Atom {
    fn operands(&self) -> SmallVec<[&Dim; 2]> {
        match self {
            Atom::Symbol(_) => SmallVec::new(),
            Atom::FloorDiv(dividend, divisor) | Atom::TruncatedDiv(dividend, divisor) => {
                SmallVec::from_buf([dividend, divisor])
            }
            Atom::Extremum(_, operands) => operands.iter().collect(),
            Atom::Opaque(opaque) => opaque.arguments().iter().collect(),
        }
    }

    fn size(&self) -> u32 {
        let operands = self.operands().into_iter();
        operands.fold(1, |size, operand| {
            size.saturating_add(match &operand.0 {
                Repr::Fixed(_) => 1,
                Repr::Expression(expression) => expression.size,
            })
        })
    }

    fn depth(&self) -> u32 {
        let depths = self.operands().into_iter().map(|operand| match &operand.0 {
            Repr::Fixed(_) => 0,
            Repr::Expression(expression) => expression.depth,
        });
        depths.max().unwrap_or(0) + 1
    }

    fn evaluate(&self, f: &dyn Fn(&Symbol) -> Option<i64>) -> Option<i64> {
        match self {
            Atom::Symbol(symbol) => f(symbol),
            Atom::FloorDiv(dividend, divisor) => floor_quotient(dividend.evaluate(f)?, divisor.evaluate(f)?),
            Atom::TruncatedDiv(dividend, divisor) => dividend.evaluate(f)?.checked_div(divisor.evaluate(f)?),
            Atom::Extremum(side, operands) => {
                let mut values = operands.iter().map(|operand| operand.evaluate(f));
                let first = values.next()??;
                values.try_fold(first, |best, value| Some(side.of(best, value?)))
            }
            Atom::Opaque(_) => None,
        }
    }
}

/// The greatest integer not above `dividend / divisor`; `None` if the divisor is zero or the result overflows.
pub(super) fn floor_quotient(dividend: i64, divisor: i64) -> Option<i64> {
    let quotient = dividend.checked_div(divisor)?;
    let inexact = dividend.checked_rem(divisor)? != 0;
    Some(if inexact && (dividend < 0) != (divisor < 0) { quotient - 1 } else { quotient })
}

/// A product of atoms, in order, each as often as its power. Empty for the constant term.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Monomial(SmallVec<[Atom; 2]>);

/// Higher degree first, then by the atoms: a graded order that multiplication keeps, as division needs, with
/// the constant term at the end.
impl Ord for Monomial {
    fn cmp(&self, other: &Monomial) -> Ordering {
        other.0.len().cmp(&self.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Monomial {
    fn partial_cmp(&self, other: &Monomial) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Monomial {
    pub(super) fn atoms(&self) -> &[Atom] {
        &self.0
    }

    pub(super) fn is_one(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn multiply(&self, other: &Monomial) -> Monomial {
        let mut atoms: SmallVec<[Atom; 2]> = self.0.iter().chain(&other.0).cloned().collect();
        atoms.sort();
        Monomial(atoms)
    }

    /// `self / other`, if `other` divides it.
    pub(super) fn divide(&self, other: &Monomial) -> Option<Monomial> {
        let mut quotient = SmallVec::new();
        let mut divisor = other.0.iter().peekable();
        for atom in &self.0 {
            if divisor.peek() == Some(&atom) {
                divisor.next();
            } else {
                quotient.push(atom.clone());
            }
        }
        divisor.next().is_none().then_some(Monomial(quotient))
    }

    /// The monomial without the atom at `index`.
    pub(super) fn without(&self, index: usize) -> Monomial {
        let others = self.0.iter().enumerate().filter(|(position, _)| *position != index);
        Monomial(others.map(|(_, atom)| atom.clone()).collect())
    }

    /// The greatest monomial that divides both.
    pub(super) fn common(&self, other: &Monomial) -> Monomial {
        let mut rest = other.clone();
        let mut common = SmallVec::new();
        for atom in &self.0 {
            if let Some(index) = rest.0.iter().position(|candidate| candidate == atom) {
                rest = rest.without(index);
                common.push(atom.clone());
            }
        }
        Monomial(common)
    }

    /// The product of the atoms that `keep` accepts.
    pub(super) fn filter(&self, keep: impl Fn(&Atom) -> bool) -> Monomial {
        Monomial(self.0.iter().filter(|atom| keep(atom)).cloned().collect())
    }
}

impl From<Atom> for Monomial {
    fn from(atom: Atom) -> Monomial {
        let mut atoms = SmallVec::new();
        atoms.push(atom);
        Monomial(atoms)
    }
}

/// `coefficient * monomial`; the coefficient is not zero.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Term {
    pub(super) monomial: Monomial,
    pub(super) coefficient: i64,
}

/// A sum of terms in the order of their monomials, each monomial once. Empty for zero.
///
/// Operations return `None` where a coefficient overflows.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Polynomial(Vec<Term>);

impl Polynomial {
    pub(super) fn constant(value: i64) -> Polynomial {
        Polynomial::term(Monomial::default(), value)
    }

    pub(super) fn term(monomial: Monomial, coefficient: i64) -> Polynomial {
        if coefficient == 0 {
            Polynomial::default()
        } else {
            Polynomial(vec![Term { monomial, coefficient }])
        }
    }

    pub(super) fn terms(&self) -> &[Term] {
        &self.0
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_constant(&self) -> Option<i64> {
        match self.0.as_slice() {
            [] => Some(0),
            [term] if term.monomial.is_one() => Some(term.coefficient),
            _ => None,
        }
    }

    /// The atom, if the polynomial is one and nothing more.
    pub(super) fn as_atom(&self) -> Option<&Atom> {
        match self.0.as_slice() {
            [Term { monomial, coefficient: 1 }] => match monomial.atoms() {
                [atom] => Some(atom),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn coefficient(&self, monomial: &Monomial) -> i64 {
        let found = self.0.binary_search_by(|term| term.monomial.cmp(monomial));
        found.ok().and_then(|index| self.0.get(index)).map_or(0, |term| term.coefficient)
    }

    /// Whether the leading coefficient is below zero.
    pub(super) fn leads_negative(&self) -> bool {
        self.0.first().is_some_and(|term| term.coefficient < 0)
    }

    pub(super) fn add(&self, other: &Polynomial) -> Option<Polynomial> {
        self.combine(other, i64::checked_add, Some)
    }

    pub(super) fn subtract(&self, other: &Polynomial) -> Option<Polynomial> {
        self.combine(other, i64::checked_sub, i64::checked_neg)
    }

    /// Merges the terms: `both` joins coefficients of one monomial, `right` takes one that `other` alone has.
    fn combine(
        &self,
        other: &Polynomial,
        both: impl Fn(i64, i64) -> Option<i64>,
        right: impl Fn(i64) -> Option<i64>,
    ) -> Option<Polynomial> {
        let mut terms = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut left_terms, mut right_terms) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let order = match (left_terms.peek(), right_terms.peek()) {
                (Some(a), Some(b)) => a.monomial.cmp(&b.monomial),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Some(Polynomial(terms)),
            };
            let a = if order.is_le() { left_terms.next() } else { None };
            let b = if order.is_ge() { right_terms.next() } else { None };
            let coefficient = match (a, b) {
                (Some(a), Some(b)) => both(a.coefficient, b.coefficient)?,
                (Some(a), None) => a.coefficient,
                (None, Some(b)) => right(b.coefficient)?,
                (None, None) => return Some(Polynomial(terms)),
            };
            if let Some(term) = a.or(b)
                && coefficient != 0
            {
                terms.push(Term { monomial: term.monomial.clone(), coefficient });
            }
        }
    }

    pub(super) fn negate(&self) -> Option<Polynomial> {
        Polynomial::default().subtract(self)
    }

    /// `self * coefficient * monomial`.
    pub(super) fn scale(&self, monomial: &Monomial, coefficient: i64) -> Option<Polynomial> {
        if coefficient == 0 {
            return Some(Polynomial::default());
        }
        let terms = self.0.iter().map(|term| {
            Some(Term {
                monomial: term.monomial.multiply(monomial),
                coefficient: term.coefficient.checked_mul(coefficient)?,
            })
        });
        terms.collect::<Option<Vec<Term>>>().map(Polynomial)
    }

    /// The product; `None` also where it has too many terms.
    pub(super) fn multiply(&self, other: &Polynomial) -> Option<Polynomial> {
        if self.0.len().checked_mul(other.0.len())? > MAXIMUM_PRODUCTS {
            return None;
        }
        let mut products: Vec<(Monomial, i128)> = Vec::with_capacity(self.0.len() * other.0.len());
        for a in &self.0 {
            for b in &other.0 {
                let coefficient = i128::from(a.coefficient) * i128::from(b.coefficient);
                products.push((a.monomial.multiply(&b.monomial), coefficient));
            }
        }
        products.sort();
        let mut terms = Vec::with_capacity(products.len());
        let mut products = products.into_iter().peekable();
        while let Some((monomial, mut coefficient)) = products.next() {
            while let Some((_, other)) = products.next_if(|(next, _)| *next == monomial) {
                coefficient = coefficient.checked_add(other)?;
            }
            if coefficient != 0 {
                terms.push(Term { monomial, coefficient: i64::try_from(coefficient).ok()? });
            }
        }
        Some(Polynomial(terms))
    }

    /// `(quotient, remainder)` with `self == quotient * divisor + remainder`, where no term of the remainder
    /// holds a multiple of the leading term of `divisor`: unique, and zero if `divisor` divides `self`.
    ///
    /// The leading coefficient of `divisor` must be positive. `None` also after too many steps.
    pub(super) fn divide(&self, divisor: &Polynomial) -> Option<(Polynomial, Polynomial)> {
        let leading = divisor.0.first().filter(|term| term.coefficient > 0)?;
        let mut quotient = Vec::new();
        let mut remainder = self.clone();
        let mut index = 0;
        while let Some(term) = remainder.0.get(index) {
            let times = term.coefficient.div_euclid(leading.coefficient);
            match term.monomial.divide(&leading.monomial) {
                Some(monomial) if times != 0 => {
                    if quotient.len() == MAXIMUM_TERMS {
                        return None;
                    }
                    remainder = remainder.subtract(&divisor.scale(&monomial, times)?)?;
                    quotient.push(Term { monomial, coefficient: times });
                }
                _ => index += 1,
            }
        }
        Some((Polynomial(quotient), remainder))
    }

    /// `self / (coefficient * monomial)`, which must divide every term; the constant term may leave a
    /// fraction, which is rounded down.
    pub(super) fn divide_terms(&self, monomial: &Monomial, coefficient: i64) -> Option<Polynomial> {
        let terms = self.0.iter().map(|term| {
            Some(Term {
                monomial: term.monomial.divide(monomial)?,
                coefficient: floor_quotient(term.coefficient, coefficient)?,
            })
        });
        let mut terms = terms.collect::<Option<Vec<Term>>>()?;
        terms.retain(|term| term.coefficient != 0);
        Some(Polynomial(terms))
    }

    /// The greatest common divisor of the coefficients; 0 for zero.
    pub(super) fn content(&self) -> u64 {
        self.0.iter().fold(0, |content, term| gcd(content, term.coefficient.unsigned_abs()))
    }

    /// The greatest common divisor of the coefficients of all terms but the constant; 0 if there are none.
    pub(super) fn variable_content(&self) -> u64 {
        let variable = self.0.iter().filter(|term| !term.monomial.is_one());
        variable.fold(0, |content, term| gcd(content, term.coefficient.unsigned_abs()))
    }

    /// The greatest monomial that divides every term; `None` for zero, which all divide.
    pub(super) fn common_monomial(&self) -> Option<Monomial> {
        let mut monomials = self.0.iter().map(|term| &term.monomial);
        let first = monomials.next()?.clone();
        Some(monomials.fold(first, |common, monomial| common.common(monomial)))
    }

    pub(super) fn collect_symbols(&self, symbols: &mut BTreeSet<Symbol>) {
        for atom in self.0.iter().flat_map(|term| term.monomial.atoms()) {
            match atom {
                Atom::Symbol(symbol) => {
                    symbols.insert(symbol.clone());
                }
                _ => atom.operands().into_iter().for_each(|operand| operand.collect_symbols(symbols)),
            }
        }
    }

    pub(super) fn evaluate(&self, f: &dyn Fn(&Symbol) -> Option<i64>) -> Option<i64> {
        let mut sum = 0_i128;
        for term in &self.0 {
            let mut product = i128::from(term.coefficient);
            for atom in term.monomial.atoms() {
                product = product.checked_mul(i128::from(atom.evaluate(f)?))?;
            }
            sum = sum.checked_add(product)?;
        }
        i64::try_from(sum).ok()
    }

    fn within_limits(&self, size: u32, depth: u32) -> bool {
        self.0.len() <= MAXIMUM_TERMS
            && size <= MAXIMUM_SIZE
            && depth <= MAXIMUM_DEPTH
            && self.0.iter().all(|term| term.monomial.atoms().len() <= MAXIMUM_DEGREE)
    }
}

impl From<Atom> for Polynomial {
    fn from(atom: Atom) -> Polynomial {
        Polynomial::term(atom.into(), 1)
    }
}

/// The greatest common divisor.
pub(super) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A polynomial that is not constant, with what is known about it. Equality, hash and order are those of the
/// polynomial.
pub(super) struct Expression {
    pub(super) polynomial: Polynomial,
    /// Terms and atoms, those inside atoms included.
    size: u32,
    /// How deep atoms stand inside one another.
    depth: u32,
    /// Its bounds, once somebody has asked for them: most expressions are steps on the way to another.
    interval: OnceLock<Interval>,
}

impl Expression {
    pub(super) fn interval(&self) -> Interval {
        *self.interval.get_or_init(|| Interval::of_polynomial(&self.polynomial))
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.polynomial == other.polynomial
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.polynomial.hash(state);
    }
}

impl Ord for Expression {
    fn cmp(&self, other: &Expression) -> Ordering {
        self.polynomial.cmp(&other.polynomial)
    }
}

impl PartialOrd for Expression {
    fn partial_cmp(&self, other: &Expression) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Dim {
    pub(super) fn polynomial(&self) -> Cow<'_, Polynomial> {
        match &self.0 {
            Repr::Fixed(value) => Cow::Owned(Polynomial::constant(*value)),
            Repr::Expression(expression) => Cow::Borrowed(&expression.polynomial),
        }
    }

    /// The dimension of value `polynomial`; an opaque atom if that is too large to keep.
    pub(super) fn from_polynomial(polynomial: Polynomial) -> Dim {
        if let Some(value) = polynomial.as_constant() {
            return Dim::fixed(value);
        }
        let (mut size, mut depth) = (0_u32, 0);
        for term in polynomial.terms() {
            size = size.saturating_add(1);
            for atom in term.monomial.atoms() {
                size = size.saturating_add(atom.size());
                depth = depth.max(atom.depth());
            }
        }
        if !polynomial.within_limits(size, depth) {
            return Opaque::of_polynomial(&polynomial);
        }
        let interval = OnceLock::new();
        Dim(Repr::Expression(Arc::new(Expression { polynomial, size, depth, interval })))
    }

    pub(super) fn from_atom(atom: Atom) -> Dim {
        Dim::from_polynomial(atom.into())
    }
}
