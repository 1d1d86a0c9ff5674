//! Grids: which real number each integer stands for.

use onnx_opt_ir::{ElementType, Tensor};

use super::Range;

/// The integer q of `element` stands for (q − zero)·scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Type of the integers.
    pub element: ElementType,
    /// Distance of two neighbours.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero: i64,
}

/// Scales below this leave the normal numbers when they are multiplied.
const SMALLEST: f64 = 1e-30;

/// Smallest and largest integer of a type that is used: symmetric ones have as many above zero as below.
pub(super) fn limits(element: ElementType, symmetric: bool) -> (i64, i64) {
    let bits = element.bits() as u32;
    if element.is_unsigned_integer() {
        (0, (1 << bits) - 1)
    } else {
        let high = (1 << (bits - 1)) - 1;
        (if symmetric { -high } else { -high - 1 }, high)
    }
}

impl Grid {
    /// The finest grid over a range and zero.
    pub fn of(range: Range, element: ElementType, symmetric: bool) -> Self {
        let (lowest, highest) = limits(element, symmetric);
        let (low, high) = (f64::from(range.low.min(0.0)), f64::from(range.high.max(0.0)));
        let steps = (highest - lowest) as f64;
        let span = if symmetric { 2.0 * high.max(-low) } else { high - low };
        let scale = span / steps;
        if scale < SMALLEST {
            let zero = if symmetric { (lowest + highest + 1) / 2 } else { lowest };
            return Self { element, scale: 1.0, zero };
        }
        let scale = scale as f32;
        let zero = if symmetric {
            // Of unsigned integers the middle is half a step beside the sum.
            (lowest + highest + 1) / 2
        } else {
            let zero = lowest as f64 - low / f64::from(scale);
            (zero.round_ties_even() as i64).clamp(lowest, highest)
        };
        Self { element, scale, zero }
    }

    /// The same integers for numbers that are `factor` times as large.
    pub(super) fn scaled(self, factor: f64) -> Self {
        Self { scale: (f64::from(self.scale) * factor) as f32, ..self }
    }

    /// The integer nearest to a number, as `QuantizeLinear` computes it.
    pub fn quantize(&self, value: f32) -> i64 {
        let (lowest, highest) = limits(self.element, false);
        let steps = (value / self.scale).round_ties_even();
        (steps as i64).saturating_add(self.zero).clamp(lowest, highest)
    }

    /// The number that an integer stands for.
    pub fn dequantize(&self, integer: i64) -> f32 {
        (integer - self.zero) as f32 * self.scale
    }

    /// Whether limiting numbers to `low..=high` changes no integer that they come to.
    pub fn ends_within(&self, low: f64, high: f64) -> bool {
        let (lowest, highest) = limits(self.element, false);
        let integer = |limit: f64| (limit as f32 / self.scale).round_ties_even() as i64;
        integer(low).saturating_add(self.zero) <= lowest && integer(high).saturating_add(self.zero) >= highest
    }

    /// This grid or one a little finer that ends within limits, so that they vanish into it; this one if none does.
    pub(super) fn ending_within(self, low: f64, high: f64) -> Self {
        let finer = [1.0, 511.0 / 512.0, 255.0 / 256.0].map(|factor| self.scaled(factor));
        finer.into_iter().find(|grid| grid.ends_within(low, high)).unwrap_or(self)
    }

    /// Scale and zero point as constants.
    pub(super) fn constants(&self) -> impl Iterator<Item = Tensor> {
        let scale = Tensor::from_f32(&[], &[self.scale]);
        scale.into_iter().chain(Tensor::from_integers(self.element, &[], &[self.zero]))
    }
}

/// The smallest range that holds these numbers; `None` if there are none or one is not finite.
pub(super) fn range_of(values: &[f32]) -> Option<Range> {
    if values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let low = values.iter().copied().reduce(f32::min)?;
    let high = values.iter().copied().reduce(f32::max)?;
    Range::new(low, high)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn grid(low: f32, high: f32, element: ElementType, symmetric: bool) -> Grid {
        Grid::of(Range::new(low, high).unwrap(), element, symmetric)
    }

    #[test]
    fn the_ends_of_a_range_are_the_ends_of_the_integers() {
        let unsigned = grid(-1.0, 4.1, ElementType::Uint8, false);
        assert_eq!(unsigned, Grid { element: ElementType::Uint8, scale: 0.02, zero: 50 });
        assert_eq!((unsigned.quantize(-1.0), unsigned.quantize(4.1), unsigned.quantize(9.0)), (0, 255, 255));
        assert_eq!(unsigned.dequantize(50), 0.0);
        let signed = grid(0.0, 2.55, ElementType::Int8, false);
        assert_eq!((signed.zero, signed.quantize(0.0), signed.quantize(-3.0)), (-128, -128, -128));
        assert!(signed.ends_within(0.0, f64::INFINITY));
    }

    #[test]
    fn a_symmetric_grid_is_the_same_on_both_sides() {
        let signed = grid(-1.0, 2.54, ElementType::Int8, true);
        assert_eq!(signed, Grid { element: ElementType::Int8, scale: 0.02, zero: 0 });
        assert_eq!(grid(-1.0, 2.0, ElementType::Uint8, true).zero, 128);
        assert!(!signed.ends_within(0.0, f64::INFINITY));
    }

    #[test]
    fn zero_is_exact_wherever_the_range_lies() {
        for (low, high) in [(1.0, 2.0), (-2.0, -1.0), (-0.3, 0.7), (0.0, 0.0), (1e-38, 2e-38)] {
            for element in [ElementType::Uint8, ElementType::Int8, ElementType::Uint16] {
                let grid = grid(low, high, element, false);
                assert_eq!(grid.dequantize(grid.quantize(0.0)), 0.0, "{grid:?}");
            }
        }
    }

    #[test]
    fn limits_vanish_at_the_ends_alone() {
        let six = grid(0.0, 6.0, ElementType::Uint8, false);
        assert!(six.ends_within(0.0, 6.0) && !six.ends_within(0.0, 5.0) && !six.ends_within(1.0, 6.0));
        let less = grid(0.0, 4.7, ElementType::Uint8, false);
        assert!(less.ends_within(0.0, 6.0));
        let both = grid(-1.0, 1.0, ElementType::Uint8, false);
        assert!(!both.ends_within(-1.0, 1.0), "half a step is rounded");
        let finer = both.ending_within(-1.0, 1.0);
        assert!(finer.ends_within(-1.0, 1.0) && finer.scale > both.scale * 0.995);
    }
}
