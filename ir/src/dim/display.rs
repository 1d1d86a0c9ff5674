//! How dimensions print: `2*N + 1`, `floor((N + 1)/2)`, `min(N, 512)`.

use std::fmt::{Debug, Display, Formatter, Result};

use super::extremum::Side;
use super::polynomial::{Atom, Monomial, Polynomial};
use super::{Dim, Repr, Symbol};

impl Display for Dim {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.0 {
            Repr::Fixed(value) => Display::fmt(value, f),
            Repr::Expression(expression) => Display::fmt(&expression.polynomial, f),
        }
    }
}

impl Debug for Dim {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        Display::fmt(self, f)
    }
}

impl Display for Symbol {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Symbol::Named(name) => f.write_str(name),
            Symbol::Anonymous(id) => write!(f, "?{id}"),
        }
    }
}

impl Debug for Symbol {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        Display::fmt(self, f)
    }
}

impl Display for Polynomial {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (index, term) in self.terms().iter().enumerate() {
            f.write_str(match (index, term.coefficient < 0) {
                (0, false) => "",
                (0, true) => "-",
                (_, false) => " + ",
                (_, true) => " - ",
            })?;
            match (term.coefficient.unsigned_abs(), term.monomial.is_one()) {
                (size, true) => write!(f, "{size}")?,
                (1, false) => write!(f, "{}", term.monomial)?,
                (size, false) => write!(f, "{size}*{}", term.monomial)?,
            }
        }
        Ok(())
    }
}

impl Display for Monomial {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (index, power) in self.atoms().chunk_by(|a, b| a == b).enumerate() {
            f.write_str(if index == 0 { "" } else { "*" })?;
            if let Some(atom) = power.first() {
                write!(f, "{atom}")?;
            }
            if power.len() > 1 {
                write!(f, "^{}", power.len())?;
            }
        }
        Ok(())
    }
}

impl Display for Atom {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Atom::Symbol(symbol) => Display::fmt(symbol, f),
            Atom::FloorDiv(dividend, divisor) => quotient(f, "floor", dividend, divisor),
            Atom::TruncatedDiv(dividend, divisor) => quotient(f, "truncate", dividend, divisor),
            Atom::Extremum(side, operands) => {
                let name = match side {
                    Side::Min => "min",
                    Side::Max => "max",
                };
                let (fixed, symbolic): (Vec<&Dim>, Vec<&Dim>) =
                    operands.iter().partition(|operand| operand.is_fixed());
                arguments(f, name, symbolic.into_iter().chain(fixed))
            }
            Atom::Opaque(opaque) => {
                arguments(f, &format!("opaque_{:032x}", opaque.fingerprint()), opaque.arguments().iter())
            }
        }
    }
}

fn quotient(f: &mut Formatter<'_>, name: &str, dividend: &Dim, divisor: &Dim) -> Result {
    write!(f, "{name}(")?;
    if dividend.polynomial().terms().len() > 1 {
        write!(f, "({dividend})/")?;
    } else {
        write!(f, "{dividend}/")?;
    }
    if divisor.is_fixed() || divisor.polynomial().as_atom().is_some() {
        write!(f, "{divisor})")
    } else {
        write!(f, "({divisor}))")
    }
}

fn arguments<'a>(f: &mut Formatter<'_>, name: &str, arguments: impl Iterator<Item = &'a Dim>) -> Result {
    write!(f, "{name}(")?;
    for (index, argument) in arguments.enumerate() {
        f.write_str(if index == 0 { "" } else { ", " })?;
        Display::fmt(argument, f)?;
    }
    f.write_str(")")
}
