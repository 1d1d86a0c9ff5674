//! Division: floor, ceiling, truncated and exact, and the remainder.

use super::Dim;
use super::opaque::Operation;
use super::polynomial::{Atom, Monomial, Polynomial, floor_quotient, gcd};

impl Dim {
    /// The greatest integer not above `self / divisor`.
    pub fn floor_div(&self, divisor: &Dim) -> Dim {
        match (self.as_fixed(), divisor.as_fixed()) {
            (_, Some(1)) => return self.clone(),
            (_, Some(0)) => return Dim::from_atom(Atom::FloorDiv(self.clone(), divisor.clone())),
            (Some(a), Some(b)) => {
                if let Some(quotient) = floor_quotient(a, b) {
                    return Dim::fixed(quotient);
                }
            }
            _ => {}
        }
        floor(&self.polynomial(), &divisor.polynomial())
            .unwrap_or_else(|| Operation::FloorDiv.opaque(self, divisor))
    }

    /// The least integer not below `self / divisor`.
    pub fn ceil_div(&self, divisor: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_fixed(), divisor.as_fixed())
            && let (Some(floor), Some(rest)) = (floor_quotient(a, b), a.checked_rem(b))
        {
            return Dim::fixed(floor + i64::from(rest != 0));
        }
        if divisor.proves_ge(&Dim::fixed(0)) {
            (self + divisor - Dim::fixed(1)).floor_div(divisor)
        } else if Dim::fixed(0).proves_ge(divisor) {
            (-self).ceil_div(&-divisor)
        } else {
            -(-self).floor_div(divisor)
        }
    }

    /// `self - divisor * floor(self / divisor)`: the remainder with the sign of the divisor, as in Python.
    pub fn modulo(&self, divisor: &Dim) -> Dim {
        if divisor.as_fixed() == Some(0) {
            return Operation::Modulo.opaque(self, divisor);
        }
        self - divisor * self.floor_div(divisor)
    }

    /// `self / divisor` without its fraction, as ONNX `Div` divides integers.
    pub fn truncated_div(&self, divisor: &Dim) -> Dim {
        match (self.as_fixed(), divisor.as_fixed()) {
            (_, Some(0)) => return Dim::from_atom(Atom::TruncatedDiv(self.clone(), divisor.clone())),
            (Some(a), Some(b)) => {
                return a
                    .checked_div(b)
                    .map_or_else(|| Operation::TruncatedDiv.opaque(self, divisor), Dim::fixed);
            }
            _ => {}
        }
        let zero = Dim::fixed(0);
        if divisor.proves_ge(&zero) {
            if self.proves_ge(&zero) {
                return self.floor_div(divisor);
            }
            if zero.proves_ge(self) {
                return -(-self).floor_div(divisor);
            }
        } else if zero.proves_ge(divisor) {
            return (-self).truncated_div(&-divisor);
        }
        self.exact_div(divisor)
            .or_else(|| truncated(&self.polynomial(), &divisor.polynomial()))
            .unwrap_or_else(|| Operation::TruncatedDiv.opaque(self, divisor))
    }

    /// The `q` with `self == q * divisor` for all values of the symbols, if one is found. A divisor that may
    /// be zero divides its multiples: `N*S` by `S` is `N`.
    pub fn exact_div(&self, divisor: &Dim) -> Option<Dim> {
        match (self.as_fixed(), divisor.as_fixed()) {
            (_, Some(0)) => return None,
            (Some(a), Some(b)) => return (a.checked_rem(b)? == 0).then(|| Dim::fixed(a / b)),
            _ => {}
        }
        let (mut dividend, mut divisor) = (self.polynomial().into_owned(), divisor.polynomial().into_owned());
        if divisor.leads_negative() {
            (dividend, divisor) = (dividend.negate()?, divisor.negate()?);
        }
        let (quotient, remainder) = dividend.divide(&divisor)?;
        remainder.is_zero().then(|| Dim::from_polynomial(quotient))
    }
}

/// The normal form of floor(dividend / divisor). Each rule makes the quotient simpler and starts again.
fn floor(dividend: &Polynomial, divisor: &Polynomial) -> Option<Dim> {
    if divisor.leads_negative() {
        return floor(&dividend.negate()?, &divisor.negate()?);
    }
    let size = Dim::from_polynomial(divisor.clone());
    let positive = size.interval().is_non_negative();
    if positive && let Some(quotient) = settled(dividend, &size) {
        return Some(quotient);
    }
    // floor((q*d + r)/d) = q + floor(r/d)
    if let Some((whole, rest)) = dividend.divide(divisor)
        && !whole.is_zero()
    {
        let whole = Dim::from_polynomial(whole);
        return if rest.is_zero() { Some(whole) } else { Some(whole + floor(&rest, divisor)?) };
    }
    if dividend.is_zero() {
        return Some(Dim::fixed(0));
    }
    // floor((g*a)/(g*d)) = floor(a/d)
    if let Some((dividend, divisor)) = cancel(dividend, divisor) {
        return floor(&dividend, &divisor);
    }
    if positive {
        // floor((g*a + c)/(g*d)) = floor(floor(a + c/g)/d) = floor((a + floor(c/g))/d)
        let factor = gcd(dividend.variable_content(), divisor.content());
        if let Some(factor) = i64::try_from(factor).ok().filter(|factor| *factor > 1) {
            let one = Monomial::default();
            return floor(&dividend.divide_terms(&one, factor)?, &divisor.divide_terms(&one, factor)?);
        }
        if let Some((dividend, divisor)) = unnest(dividend, divisor) {
            return floor(&dividend, &divisor);
        }
    }
    Some(Dim::from_atom(Atom::FloorDiv(Dim::from_polynomial(dividend.clone()), size)))
}

/// The normal form of a truncated quotient of unknown sign: without common factor, leading terms positive.
fn truncated(dividend: &Polynomial, divisor: &Polynomial) -> Option<Dim> {
    if let Some((dividend, divisor)) = cancel(dividend, divisor) {
        let (dividend, divisor) = (Dim::from_polynomial(dividend), Dim::from_polynomial(divisor));
        return Some(dividend.truncated_div(&divisor));
    }
    let positive = |polynomial: &Polynomial| {
        let positive = if polynomial.leads_negative() { polynomial.negate()? } else { polynomial.clone() };
        Some(Dim::from_polynomial(positive))
    };
    let quotient = Dim::from_atom(Atom::TruncatedDiv(positive(dividend)?, positive(divisor)?));
    Some(if dividend.leads_negative() == divisor.leads_negative() { quotient } else { -quotient })
}

/// Both without their greatest common integer and monomial, if they have one.
fn cancel(dividend: &Polynomial, divisor: &Polynomial) -> Option<(Polynomial, Polynomial)> {
    let factor = i64::try_from(gcd(dividend.content(), divisor.content())).ok()?;
    let monomial = dividend.common_monomial()?.common(&divisor.common_monomial()?);
    if factor <= 1 && monomial.is_one() {
        return None;
    }
    Some((dividend.divide_terms(&monomial, factor)?, divisor.divide_terms(&monomial, factor)?))
}

/// floor((floor(x/e) + p)/d) = floor((x + p*e)/(e*d)) for positive d. Products of symbols alone are taken for
/// e: the number of divisions falls, so this ends.
fn unnest(dividend: &Polynomial, divisor: &Polynomial) -> Option<(Polynomial, Polynomial)> {
    let plain = |inner: &Dim| {
        let polynomial = inner.polynomial();
        let mut atoms = polynomial.terms().iter().flat_map(|term| term.monomial.atoms());
        atoms.all(|atom| matches!(atom, Atom::Symbol(_)))
    };
    dividend.terms().iter().filter(|term| term.coefficient == 1).find_map(|term| {
        let [Atom::FloorDiv(inner_dividend, inner_divisor)] = term.monomial.atoms() else { return None };
        if inner_divisor.as_fixed() == Some(0) || !plain(inner_divisor) {
            return None;
        }
        let inner_divisor = inner_divisor.polynomial();
        let others = dividend.subtract(&Polynomial::term(term.monomial.clone(), 1))?;
        let dividend = inner_dividend.polynomial().add(&others.multiply(&inner_divisor)?)?;
        Some((dividend, divisor.multiply(&inner_divisor)?))
    })
}

/// The quotient by a positive divisor, if the bounds leave one value.
fn settled(dividend: &Polynomial, divisor: &Dim) -> Option<Dim> {
    let dividend = Dim::from_polynomial(dividend.clone());
    let interval = dividend.interval();
    if let Some(quotient) = interval.floor_div(divisor.interval()).as_point() {
        return Some(Dim::fixed(quotient));
    }
    if divisor.is_fixed() {
        return None;
    }
    if interval.is_non_negative() && divisor.proves_gt(&dividend) {
        return Some(Dim::fixed(0));
    }
    if interval.is_negative() && divisor.proves_ge(&-dividend) {
        return Some(Dim::fixed(-1));
    }
    None
}
