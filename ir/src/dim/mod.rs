//! Symbolic dimensions: the size of one axis, or one element of an integer tensor that carries shapes.
//!
//! A [`Dim`] is an integer, or a polynomial with integer coefficients over *atoms*: named and anonymous
//! symbols, floor and truncated divisions, minima and maxima. Every operation returns the one normal form of
//! its result, so `==` proves that two dimensions agree for all values of their symbols. The converse does
//! not hold: equal dimensions may have different forms.
//!
//! # Conventions
//!
//! * A symbol is a size: an integer of zero or more.
//! * Arithmetic is that of the integers, without wrapping.
//! * A quotient is taken where its divisor is not zero: `(N*S)/S` is `N`, and a divisor that cannot be
//!   negative counts as positive.
//! * What would overflow `i64`, or grow past a fixed size, becomes an *opaque* atom: equal only to the result
//!   of the same operation on the same operands.

mod bounds;
mod display;
mod extremum;
mod opaque;
mod polynomial;
#[cfg(test)]
mod properties;
mod quotient;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

use opaque::Operation;
use polynomial::{Atom, Expression, Polynomial};

/// An integer or a symbolic expression in normal form. See the [module](self) for its conventions.
///
/// The order is total and fixed, but says nothing about the order of the values: compare those with
/// [`proves_ge`](Dim::proves_ge).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Dim(Repr);

/// `min`, `max` and `clamp` are those of the values, like [`Dim::min`] and [`Dim::max`]: the lesser of two forms
/// means nothing, and a call on an owned dimension, where the methods of this trait come first, must not give it.
impl Ord for Dim {
    fn cmp(&self, other: &Dim) -> Ordering {
        self.0.cmp(&other.0)
    }

    fn min(self, other: Dim) -> Dim {
        Dim::min(&self, &other)
    }

    fn max(self, other: Dim) -> Dim {
        Dim::max(&self, &other)
    }

    fn clamp(self, low: Dim, high: Dim) -> Dim {
        self.max(low).min(high)
    }
}

impl PartialOrd for Dim {
    fn partial_cmp(&self, other: &Dim) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An expression is never constant: equal values have one representation.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Fixed(i64),
    Expression(Arc<Expression>),
}

/// An unknown size, zero or more.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Symbol {
    /// A size with a name of its own, such as `batch`.
    Named(Arc<str>),
    /// A size known by a number alone.
    Anonymous(u64),
}

impl Dim {
    /// The integer `value`.
    #[inline]
    pub const fn fixed(value: i64) -> Dim {
        Dim(Repr::Fixed(value))
    }

    /// The size called `name`.
    pub fn symbol(name: &str) -> Dim {
        Dim::from(Symbol::Named(name.into()))
    }

    /// The unnamed size number `id`.
    pub fn anonymous(id: u64) -> Dim {
        Dim::from(Symbol::Anonymous(id))
    }

    /// The value, if it is known.
    #[inline]
    pub fn as_fixed(&self) -> Option<i64> {
        match self.0 {
            Repr::Fixed(value) => Some(value),
            Repr::Expression(_) => None,
        }
    }

    /// The symbol, if this is one and nothing more.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        match &self.0 {
            Repr::Expression(expression) => match expression.polynomial.as_atom() {
                Some(Atom::Symbol(symbol)) => Some(symbol),
                _ => None,
            },
            Repr::Fixed(_) => None,
        }
    }

    /// Whether the value is known.
    #[inline]
    pub fn is_fixed(&self) -> bool {
        matches!(self.0, Repr::Fixed(_))
    }

    /// The product of `dims`; 1 if there are none.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::fixed(1), |product, dim| &product * dim)
    }

    /// The product of `dims`, if it is known: that of integers, and 0 where one is that.
    pub fn fixed_product<'a>(dims: impl IntoIterator<Item = &'a Dim> + Clone) -> Option<i64> {
        if dims.clone().into_iter().any(|dim| *dim == Dim::fixed(0)) {
            return Some(0);
        }
        dims.into_iter().try_fold(1_i64, |product, dim| product.checked_mul(dim.as_fixed()?))
    }

    /// The sum of `dims`; 0 if there are none.
    pub fn sum<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::fixed(0), |sum, dim| &sum + dim)
    }

    /// The size of an axis of `self` and `other` broadcast together, or `None` if the sizes leave it open or
    /// contradict each other.
    ///
    /// Equal sizes keep it, 1 yields to the other, and beside any other integer a symbolic size must be 1 or
    /// equal to it. Of two symbolic sizes one may be certain to cover the other: `N` covers `min(N, 512)`.
    pub fn broadcast(&self, other: &Dim) -> Option<Dim> {
        if self == other {
            return Some(self.clone());
        }
        match (self.as_fixed(), other.as_fixed()) {
            (Some(1), _) => Some(other.clone()),
            (_, Some(1)) => Some(self.clone()),
            (Some(size), None) | (None, Some(size)) if size >= 0 => Some(Dim::fixed(size)),
            (None, None) if self.covers(other) => Some(self.clone()),
            (None, None) if other.covers(self) => Some(other.clone()),
            _ => None,
        }
    }

    /// Whether `other`, broadcast with `self`, gives `self` if it gives anything: it is never greater, and not 0
    /// where `self` is 1.
    fn covers(&self, other: &Dim) -> bool {
        self.proves_ge(other) && other.proves_ge(&Dim::min(self, &Dim::fixed(1)))
    }

    /// The expression with each symbol replaced by what `f` gives for it; a symbol stays where `f` gives none.
    ///
    /// An opaque atom keeps at most 64 symbols; one of more is left as it is, like a symbol of its own.
    pub fn substitute(&self, f: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        let Repr::Expression(expression) = &self.0 else { return self.clone() };
        let terms = expression.polynomial.terms().iter().map(|term| {
            let atoms: Vec<Dim> = term.monomial.atoms().iter().map(|atom| atom.substitute(f)).collect();
            Dim::product(&atoms) * Dim::fixed(term.coefficient)
        });
        terms.fold(Dim::fixed(0), |sum, term| sum + term)
    }

    /// The symbols that the expression names, in order, each once.
    pub fn symbols(&self) -> Vec<Symbol> {
        let mut symbols = BTreeSet::new();
        self.collect_symbols(&mut symbols);
        symbols.into_iter().collect()
    }

    /// Whether it holds a symbol without a name: a size that inference could not derive.
    pub fn has_anonymous(&self) -> bool {
        !self.is_fixed() && self.symbols().iter().any(|symbol| matches!(symbol, Symbol::Anonymous(_)))
    }

    fn collect_symbols(&self, symbols: &mut BTreeSet<Symbol>) {
        if let Repr::Expression(expression) = &self.0 {
            expression.polynomial.collect_symbols(symbols);
        }
    }

    /// The value where each symbol has the value that `f` gives for it. `None` if `f` does not know one, if
    /// the value does not fit, at a division by zero, and for opaque atoms.
    pub fn evaluate(&self, f: &dyn Fn(&Symbol) -> Option<i64>) -> Option<i64> {
        match &self.0 {
            Repr::Fixed(value) => Some(*value),
            Repr::Expression(expression) => expression.polynomial.evaluate(f),
        }
    }
}

impl Atom {
    fn substitute(&self, f: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        match self {
            Atom::Symbol(symbol) => f(symbol).unwrap_or_else(|| Dim::from_atom(self.clone())),
            Atom::FloorDiv(dividend, divisor) => dividend.substitute(f).floor_div(&divisor.substitute(f)),
            Atom::TruncatedDiv(dividend, divisor) => {
                dividend.substitute(f).truncated_div(&divisor.substitute(f))
            }
            Atom::Extremum(side, operands) => {
                extremum::extremum(*side, operands.iter().map(|operand| operand.substitute(f)).collect())
            }
            Atom::Opaque(opaque) => opaque.substitute(f),
        }
    }
}

impl From<i64> for Dim {
    #[inline]
    fn from(value: i64) -> Dim {
        Dim::fixed(value)
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Dim {
        Dim::from_atom(Atom::Symbol(symbol))
    }
}

impl Add for &Dim {
    type Output = Dim;

    #[inline]
    fn add(self, other: &Dim) -> Dim {
        if let (Repr::Fixed(a), Repr::Fixed(b)) = (&self.0, &other.0)
            && let Some(sum) = a.checked_add(*b)
        {
            return Dim::fixed(sum);
        }
        Polynomial::add(&self.polynomial(), &other.polynomial())
            .map_or_else(|| Operation::Add.opaque(self, other), Dim::from_polynomial)
    }
}

impl Sub for &Dim {
    type Output = Dim;

    #[inline]
    fn sub(self, other: &Dim) -> Dim {
        if let (Repr::Fixed(a), Repr::Fixed(b)) = (&self.0, &other.0)
            && let Some(difference) = a.checked_sub(*b)
        {
            return Dim::fixed(difference);
        }
        Polynomial::subtract(&self.polynomial(), &other.polynomial())
            .map_or_else(|| Operation::Subtract.opaque(self, other), Dim::from_polynomial)
    }
}

impl Mul for &Dim {
    type Output = Dim;

    #[inline]
    fn mul(self, other: &Dim) -> Dim {
        if let (Repr::Fixed(a), Repr::Fixed(b)) = (&self.0, &other.0)
            && let Some(product) = a.checked_mul(*b)
        {
            return Dim::fixed(product);
        }
        Polynomial::multiply(&self.polynomial(), &other.polynomial())
            .map_or_else(|| Operation::Multiply.opaque(self, other), Dim::from_polynomial)
    }
}

impl Neg for &Dim {
    type Output = Dim;

    #[inline]
    fn neg(self) -> Dim {
        &Dim::fixed(0) - self
    }
}

impl Neg for Dim {
    type Output = Dim;

    #[inline]
    fn neg(self) -> Dim {
        -&self
    }
}

/// The same operator on owned operands.
macro_rules! by_value {
    ($($operator:ident::$method:ident),*) => {$(
        impl $operator for Dim {
            type Output = Dim;
            #[inline]
            fn $method(self, other: Dim) -> Dim {
                (&self).$method(&other)
            }
        }

        impl $operator<&Dim> for Dim {
            type Output = Dim;
            #[inline]
            fn $method(self, other: &Dim) -> Dim {
                (&self).$method(other)
            }
        }

        impl $operator<Dim> for &Dim {
            type Output = Dim;
            #[inline]
            fn $method(self, other: Dim) -> Dim {
                self.$method(&other)
            }
        }
    )*};
}

by_value!(Add::add, Sub::sub, Mul::mul);
