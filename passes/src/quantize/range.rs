//! Ranges of values, the result of calibration.

use std::collections::BTreeMap;

/// Smallest and largest value that a tensor takes, as calibration chose them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Finite.
    pub low: f32,
    /// Finite, and no less than `low`.
    pub high: f32,
}

impl Range {
    /// The range from one value to another, `None` if one is not finite or the first is greater.
    pub fn new(low: f32, high: f32) -> Option<Self> {
        (low.is_finite() && high.is_finite() && low <= high).then_some(Self { low, high })
    }
}

/// Ranges by name of the value in the float model that is quantized.
pub type Ranges = BTreeMap<String, Range>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_finite_and_ordered() {
        assert_eq!(Range::new(-1.0, 2.0), Some(Range { low: -1.0, high: 2.0 }));
        for (low, high) in [(2.0, 1.0), (f32::NAN, 1.0), (0.0, f32::INFINITY)] {
            assert_eq!(Range::new(low, high), None);
        }
    }
}
