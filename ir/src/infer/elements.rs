//! Small integer and boolean tensors known element by element, and what operators do with the elements.

use super::Inference;
use crate::dim::Dim;
use crate::graph::Value;
use crate::types::ElementType;

/// A tensor of fixed shape and few elements, each a number or a symbolic expression.
pub(super) struct Elements {
    shape: Vec<usize>,
    /// Row-major.
    pub(super) elements: Vec<Dim>,
}

impl Elements {
    /// Those of operand `index`, if they are known.
    pub(super) fn of(cx: &Inference<'_>, index: usize) -> Option<Self> {
        let shape = fixed_sizes(cx.shape(index)?)?;
        let elements = cx.elements(index)?;
        (count(&shape)? == elements.len()).then_some(Self { shape, elements })
    }

    /// Those of operand `index`; where only their number is known, each is an unknown integer.
    pub(super) fn of_or_unknown(cx: &Inference<'_>, index: usize) -> Option<Self> {
        if let Some(known) = Self::of(cx, index) {
            return Some(known);
        }
        if !matches!(cx.element(index)?, ElementType::Int64 | ElementType::Int32) {
            return None;
        }
        let shape = fixed_sizes(cx.shape(index)?)?;
        let elements = (0..count(&shape)?).map(|_| unknown_integer(cx)).collect();
        Some(Self { shape, elements })
    }

    /// The element at these coordinates, which lie inside the shape.
    pub(super) fn at(&self, coordinates: &[usize]) -> Option<&Dim> {
        if coordinates.len() != self.shape.len() {
            return None;
        }
        let flat = coordinates.iter().zip(&self.shape).try_fold(0usize, |flat, (&at, &size)| {
            if at < size { flat.checked_mul(size)?.checked_add(at) } else { None }
        })?;
        self.elements.get(flat)
    }

    /// The element that numpy broadcasting puts at these coordinates of the result.
    pub(super) fn broadcast_at(&self, coordinates: &[usize]) -> Option<&Dim> {
        let extra = coordinates.len().checked_sub(self.shape.len())?;
        let inner: Vec<usize> = coordinates
            .iter()
            .skip(extra)
            .zip(&self.shape)
            .map(|(&at, &size)| if size == 1 { 0 } else { at })
            .collect();
        self.at(&inner)
    }
}

/// An integer of which nothing is known, not even that it is no less than zero, as symbols are.
pub(super) fn unknown_integer(cx: &Inference<'_>) -> Dim {
    cx.fresh() - cx.fresh()
}

/// Row-major elements of a tensor of this shape. `None` if it is not fixed, if they are too many, or if `element`
/// does not know one of them.
pub(super) fn fill(shape: &[Dim], element: impl Fn(&[usize]) -> Option<Dim>) -> Option<Vec<Dim>> {
    let shape = fixed_sizes(shape)?;
    let count = count(&shape)?;
    let mut coordinates = vec![0; shape.len()];
    (0..count)
        .map(|flat| {
            let mut rest = flat;
            for (at, &size) in coordinates.iter_mut().zip(&shape).rev() {
                *at = rest % size;
                rest /= size;
            }
            element(&coordinates)
        })
        .collect()
}

/// Whether a tensor of this shape is of fixed shape and few elements.
pub(super) fn is_small(shape: &[Dim]) -> bool {
    fixed_sizes(shape).is_some_and(|shape| count(&shape).is_some())
}

/// All sizes as numbers.
fn fixed_sizes(shape: &[Dim]) -> Option<Vec<usize>> {
    shape.iter().map(|size| usize::try_from(size.as_fixed()?).ok()).collect()
}

/// The number of elements, if it is small.
fn count(shape: &[usize]) -> Option<usize> {
    crate::tensor::element_count(shape).filter(|&count| count <= Value::MAX_ELEMENTS)
}

/// A result of arithmetic in a type, unless it may have wrapped: symbolic results count as in range for 64 bits
/// alone.
pub(super) fn in_range(element: ElementType, value: Dim) -> Option<Dim> {
    let Some(number) = value.as_fixed() else { return (element == ElementType::Int64).then_some(value) };
    let bits = element.bits() as u32;
    let fits = match element {
        ElementType::Int64 => true,
        _ if element.is_signed_integer() => (-(1i64 << (bits - 1))..1i64 << (bits - 1)).contains(&number),
        ElementType::Uint64 => number >= 0,
        _ if element.is_unsigned_integer() => (0..1i64 << bits).contains(&number),
        _ => false,
    };
    fits.then_some(value)
}

/// The value cast from an integer or boolean type. A symbolic size stays itself in 32 bits too: no axis is longer
/// than they count.
pub(super) fn cast(to: ElementType, value: &Dim) -> Option<Dim> {
    match (to, value.as_symbol()) {
        (ElementType::Bool, _) => truth(value).map(boolean),
        (ElementType::Int32, Some(_)) => Some(value.clone()),
        _ => in_range(to, value.clone()),
    }
}

/// Whether a value is not zero, if that is certain.
pub(super) fn truth(value: &Dim) -> Option<bool> {
    let zero = Dim::fixed(0);
    if *value == zero { Some(false) } else { value.proves_ne(&zero).then_some(true) }
}

/// 1 or 0.
pub(super) fn boolean(value: bool) -> Dim {
    Dim::fixed(value.into())
}

/// Equality, if it is certain.
pub(super) fn equal(a: &Dim, b: &Dim) -> Option<bool> {
    if a == b { Some(true) } else { a.proves_ne(b).then_some(false) }
}

/// `a > b`, if that is certain.
pub(super) fn greater(a: &Dim, b: &Dim) -> Option<bool> {
    if a.proves_gt(b) { Some(true) } else { b.proves_ge(a).then_some(false) }
}

/// A size that an operand asks for: itself, since no run gets past a negative one, unless it is an integer of
/// which nothing is known.
pub(super) fn size(cx: &Inference<'_>, asked: &Dim) -> Dim {
    let named = !asked.has_anonymous() && asked.upper_bound().is_none_or(|bound| bound >= 0);
    if named || is_size(asked) { asked.clone() } else { cx.fresh() }
}

/// Whether a value is certainly no less than zero.
pub(super) fn is_size(value: &Dim) -> bool {
    value.lower_bound().is_some_and(|bound| bound >= 0)
}
