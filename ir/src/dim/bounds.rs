//! Bounds, and the comparisons that they prove.

use super::extremum::Side;
use super::polynomial::{Atom, Monomial, Polynomial, Term};
use super::{Dim, Repr};

/// Beyond every `i64`, and far enough from the ends of `i128` for a sum of two.
const INFINITY: i128 = 1 << 100;
/// How many atoms a search for a bound replaces one inside another.
const SEARCH_DEPTH: u32 = 3;
/// How many polynomials a search for a bound looks at.
const SEARCH_STEPS: u32 = 48;

/// A range of integers, both ends included. The low end is minus [`INFINITY`] or an `i64`, the high end plus
/// [`INFINITY`] or an `i64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Interval {
    low: i128,
    high: i128,
}

impl Interval {
    pub(super) const ALL: Interval = Interval { low: -INFINITY, high: INFINITY };
    const SIZE: Interval = Interval { low: 0, high: INFINITY };

    /// The ends rounded outwards to what an interval may hold.
    fn new(low: i128, high: i128) -> Interval {
        let (least, greatest) = (i128::from(i64::MIN), i128::from(i64::MAX));
        Interval {
            low: if low < least { -INFINITY } else { low.min(greatest) },
            high: if high > greatest { INFINITY } else { high.max(least) },
        }
    }

    fn point(value: i64) -> Interval {
        Interval { low: value.into(), high: value.into() }
    }

    /// The value, if there is only one.
    pub(super) fn as_point(&self) -> Option<i64> {
        (self.low == self.high).then_some(self.low()).flatten()
    }

    pub(super) fn is_non_negative(&self) -> bool {
        self.low >= 0
    }

    pub(super) fn is_negative(&self) -> bool {
        self.high < 0
    }

    fn low(&self) -> Option<i64> {
        i64::try_from(self.low).ok()
    }

    fn high(&self) -> Option<i64> {
        i64::try_from(self.high).ok()
    }

    fn add(self, other: Interval) -> Interval {
        Interval::new(self.low + other.low, self.high + other.high)
    }

    fn multiply(self, other: Interval) -> Interval {
        let products = [
            self.low.saturating_mul(other.low),
            self.low.saturating_mul(other.high),
            self.high.saturating_mul(other.low),
            self.high.saturating_mul(other.high),
        ];
        let start = products[0];
        Interval::new(
            products.into_iter().fold(start, i128::min),
            products.into_iter().fold(start, i128::max),
        )
    }

    /// The quotients, rounded down, by a divisor that is positive or, where it is not, never used.
    pub(super) fn floor_div(self, divisor: Interval) -> Interval {
        if divisor.low < 0 {
            return Interval::ALL;
        }
        let (least, greatest) = (divisor.low.max(1), divisor.high.max(1));
        let quotient = |end: i128, towards_zero: bool| {
            if end.abs() == INFINITY {
                end
            } else {
                end.div_euclid(if towards_zero { greatest } else { least })
            }
        };
        Interval::new(quotient(self.low, self.low >= 0), quotient(self.high, self.high < 0))
    }

    /// The quotients without their fraction: no farther from zero than `self`.
    fn truncated_div(self, divisor: Interval) -> Interval {
        let size = self.high.max(-self.low).max(0);
        if divisor.low < 0 {
            return Interval::new(-size, size);
        }
        Interval::new(self.low.min(0), self.high.max(0))
    }

    fn extremum(side: Side, operands: &[Dim]) -> Interval {
        let mut intervals = operands.iter().map(Dim::interval);
        let Some(first) = intervals.next() else { return Interval::ALL };
        intervals.fold(first, |a, b| match side {
            Side::Min => Interval::new(a.low.min(b.low), a.high.min(b.high)),
            Side::Max => Interval::new(a.low.max(b.low), a.high.max(b.high)),
        })
    }

    fn of_atom(atom: &Atom) -> Interval {
        match atom {
            Atom::Symbol(_) => Interval::SIZE,
            Atom::FloorDiv(dividend, divisor) => dividend.interval().floor_div(divisor.interval()),
            Atom::TruncatedDiv(dividend, divisor) => dividend.interval().truncated_div(divisor.interval()),
            Atom::Extremum(side, operands) => Interval::extremum(*side, operands),
            Atom::Opaque(opaque) => opaque.interval(),
        }
    }

    fn of_monomial(monomial: &Monomial) -> Interval {
        monomial.atoms().iter().map(Interval::of_atom).fold(Interval::point(1), Interval::multiply)
    }

    /// The bounds of each term, added up.
    pub(super) fn of_terms(polynomial: &Polynomial) -> Interval {
        let terms = polynomial.terms().iter();
        terms.fold(Interval::point(0), |sum, term| {
            sum.add(Interval::point(term.coefficient).multiply(Interval::of_monomial(&term.monomial)))
        })
    }

    /// The tightest bounds that a short search finds: a sum may hold terms that bound each other.
    pub(super) fn of_polynomial(polynomial: &Polynomial) -> Interval {
        let plain = Interval::of_terms(polynomial);
        let mut atoms = polynomial.terms().iter().flat_map(|term| term.monomial.atoms());
        if polynomial.terms().len() < 2 || !atoms.any(Atom::has_relation) {
            return plain;
        }
        let low = |polynomial: &Polynomial| {
            let mut steps = SEARCH_STEPS;
            lower(polynomial, SEARCH_DEPTH, &mut steps)
        };
        let high = polynomial.negate().map_or(INFINITY, |negated| -low(&negated));
        Interval::new(low(polynomial).max(plain.low), high.min(plain.high))
    }
}

impl Atom {
    pub(super) fn is_non_negative(&self) -> bool {
        Interval::of_atom(self).is_non_negative()
    }

    /// Whether [`lower`] knows how it compares with its operands.
    fn has_relation(&self) -> bool {
        matches!(self, Atom::FloorDiv(..) | Atom::Extremum(..))
    }
}

impl Dim {
    pub(super) fn interval(&self) -> Interval {
        match &self.0 {
            Repr::Fixed(value) => Interval::point(*value),
            Repr::Expression(expression) => expression.interval(),
        }
    }

    /// A value that it never falls below, if one is known.
    pub fn lower_bound(&self) -> Option<i64> {
        self.interval().low()
    }

    /// A value that it never exceeds, if one is known.
    pub fn upper_bound(&self) -> Option<i64> {
        self.interval().high()
    }

    /// Whether `self >= other` is certain.
    pub fn proves_ge(&self, other: &Dim) -> bool {
        match (self.as_fixed(), other.as_fixed()) {
            (Some(a), Some(b)) => a >= b,
            _ => (self - other).interval().is_non_negative(),
        }
    }

    /// Whether `self > other` is certain.
    pub fn proves_gt(&self, other: &Dim) -> bool {
        match (self.as_fixed(), other.as_fixed()) {
            (Some(a), Some(b)) => a > b,
            _ => (self - other).interval().low > 0,
        }
    }

    /// Whether `self != other` is certain: one is greater, or they differ by what no multiple of the symbols
    /// makes up for, as `2*N` and `2*M + 1`.
    pub fn proves_ne(&self, other: &Dim) -> bool {
        if let (Some(a), Some(b)) = (self.as_fixed(), other.as_fixed()) {
            return a != b;
        }
        let difference = self - other;
        let Interval { low, high } = difference.interval();
        let polynomial = difference.polynomial();
        let constant = polynomial.coefficient(&Monomial::default()).unsigned_abs();
        low > 0
            || high < 0
            || constant.checked_rem(polynomial.variable_content()).is_some_and(|rest| rest != 0)
    }

    /// Whether `self > 0` is certain.
    pub fn proves_positive(&self) -> bool {
        self.interval().low > 0
    }
}

/// The best lower bound found by putting, for one atom after another, an expression that it is never below or
/// never above, so that what the terms share cancels: `N - min(N, 5)` is at least `N - N`.
fn lower(polynomial: &Polynomial, depth: u32, steps: &mut u32) -> i128 {
    let mut best = Interval::of_terms(polynomial).low;
    let Some(depth) = depth.checked_sub(1) else { return best };
    for term in polynomial.terms() {
        for (index, atom) in term.monomial.atoms().iter().enumerate() {
            let bound = match atom {
                Atom::FloorDiv(dividend, divisor) => Replacement::new(polynomial, term, index)
                    .and_then(|replacement| replacement.floor(dividend, divisor, depth, steps)),
                Atom::Extremum(side, operands) => Replacement::new(polynomial, term, index)
                    .and_then(|replacement| replacement.extremum(*side, operands, depth, steps)),
                Atom::Symbol(_) | Atom::TruncatedDiv(..) | Atom::Opaque(_) => None,
            };
            best = best.max(bound.unwrap_or(-INFINITY));
        }
    }
    best
}

/// The polynomial `rest + coefficient * factor * atom`, to be bounded without the atom. Each bound counts a step
/// for every polynomial that it looks at, and is `None` when they run out.
struct Replacement {
    rest: Polynomial,
    coefficient: i64,
    factor: Monomial,
}

impl Replacement {
    fn new(polynomial: &Polynomial, term: &Term, index: usize) -> Option<Replacement> {
        let rest = polynomial.subtract(&Polynomial::term(term.monomial.clone(), term.coefficient))?;
        Some(Replacement { rest, coefficient: term.coefficient, factor: term.monomial.without(index) })
    }

    /// The lower bound of `rest + coefficient * factor * operand`.
    fn with(&self, operand: &Polynomial, factor: &Monomial, depth: u32, steps: &mut u32) -> Option<i128> {
        *steps = steps.checked_sub(1)?;
        let polynomial = self.rest.add(&operand.scale(factor, self.coefficient)?)?;
        Some(lower(&polynomial, depth, steps))
    }

    /// With a minimum or maximum for the atom.
    fn extremum(&self, side: Side, operands: &[Dim], depth: u32, steps: &mut u32) -> Option<i128> {
        let bounds =
            operands.iter().map(|operand| self.with(&operand.polynomial(), &self.factor, depth, steps));
        if (side == Side::Min) == (self.coefficient > 0) {
            // It is one of its operands, whichever.
            bounds.collect::<Option<Vec<i128>>>()?.into_iter().min()
        } else if Interval::of_monomial(&self.factor).is_non_negative() {
            // Each operand bounds it.
            bounds.flatten().max()
        } else {
            None
        }
    }

    /// With a floor division for the atom: `x - d + 1 <= d*floor(x/d) <= x`.
    fn floor(&self, dividend: &Dim, divisor: &Dim, depth: u32, steps: &mut u32) -> Option<i128> {
        let positive = divisor.interval().is_non_negative();
        if !positive || !Interval::of_monomial(&self.factor).is_non_negative() {
            return None;
        }
        let not_negative = dividend.interval().is_non_negative();
        let (dividend, divisor) = (dividend.polynomial(), divisor.polynomial());
        let multiple = if self.coefficient > 0 {
            dividend.subtract(&divisor)?.add(&Polynomial::constant(1))?
        } else {
            dividend.clone().into_owned()
        };
        if let Some(divisor) = divisor.as_constant().filter(|divisor| *divisor > 0) {
            // The bound of divisor times the polynomial, divided and rounded up.
            let scaled = Replacement {
                rest: self.rest.scale(&Monomial::default(), divisor)?,
                coefficient: self.coefficient,
                factor: self.factor.clone(),
            };
            let bound = scaled.with(&multiple, &self.factor, depth, steps)?;
            return (bound != -INFINITY).then(|| -(-bound).div_euclid(divisor.into()));
        }
        if let [Term { monomial, coefficient: 1 }] = divisor.terms()
            && let Some(factor) = self.factor.divide(monomial)
        {
            return self.with(&multiple, &factor, depth, steps);
        }
        // floor(x/d) <= x where x is not negative
        (self.coefficient < 0 && not_negative)
            .then(|| self.with(&dividend, &self.factor, depth, steps))
            .flatten()
    }
}
