//! Rounding the weights of a channel to symmetric integers that keep to bounds, whichever way changes its result least.

use ndarray::{Array1, Array2};

use super::super::Grid;
use super::round::Prepared;

/// What the integers of a channel keep to.
#[derive(Clone, Copy, Debug)]
pub(in crate::quantize) struct Bounds {
    /// The largest magnitude.
    pub highest: i64,
    /// The largest sum of the magnitudes of two of one sign.
    pub pair: Option<i64>,
    /// The smallest scale.
    pub least: f32,
}

/// Scales that are tried, as parts of the whole one, in steps of a twentieth.
const CANDIDATES: std::ops::RangeInclusive<u32> = 7..=20;

impl Bounds {
    /// A magnitude of which no two are too many.
    fn limit(&self) -> i64 {
        self.pair.map_or(self.highest, |pair| (pair / 2).min(self.highest))
    }

    fn hold(&self, integers: &[i64]) -> bool {
        let pair = |sign: i64| {
            let mut largest = [0, 0];
            for size in integers.iter().map(|integer| integer * sign) {
                if size > largest[0] {
                    largest = [size, largest[0]];
                } else {
                    largest[1] = largest[1].max(size);
                }
            }
            largest
        };
        let pairs = [pair(1), pair(-1)];
        pairs.iter().all(|&[first, second]| {
            first <= self.highest && self.pair.is_none_or(|limit| first + second <= limit)
        })
    }
}

/// Integers of a channel and their scale, with the error that they make in its result.
struct Rounded {
    error: f64,
    scale: f32,
    integers: Vec<i64>,
}

impl Prepared {
    /// The integers of a channel of a group, and their scale: those nearest on the grid of a scale that keeps to the bounds,
    /// or on a finer one whose ends leave some out, and from there as the way of rounding goes.
    pub(in crate::quantize) fn round_within(
        &self,
        group: usize,
        weights: &[f32],
        grid: Grid,
        bounds: Bounds,
    ) -> (f32, Vec<i64>) {
        let second = self.second(group);
        let rounded = |scale: f32, mut integers: Vec<i64>, limit: i64| {
            integers.iter_mut().for_each(|integer| *integer = (*integer).clamp(-limit, limit));
            Rounded { error: error(weights, &integers, scale, second), scale, integers }
        };
        let nearest = |scale: f32, limit: i64| {
            let steps = weights.iter().map(|weight| (weight / scale).round_ties_even() as i64);
            rounded(scale, steps.collect(), limit)
        };
        let mut best = nearest(grid.scale, bounds.highest);
        let largest = weights.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
        let limit = bounds.limit();
        let whole = largest / limit as f32;
        for candidate in CANDIDATES {
            let scale = whole * candidate as f32 / *CANDIDATES.end() as f32;
            if scale >= bounds.least {
                let found = nearest(scale, limit);
                if found.error < best.error {
                    best = found;
                }
            }
        }
        let grid = Grid { scale: best.scale, ..grid };
        let refined =
            rounded(grid.scale, self.integers(group, weights, &[grid], weights.len()), bounds.highest);
        if refined.error < best.error && bounds.hold(&refined.integers) {
            best = refined;
        }
        (best.scale, best.integers)
    }
}

/// d·H·dᵀ, where d is what rounding changed and H are second moments of the operand, or the identity.
fn error(weights: &[f32], integers: &[i64], scale: f32, second: Option<&Array2<f32>>) -> f64 {
    let off = weights.iter().zip(integers).map(|(weight, &integer)| integer as f32 * scale - weight);
    let off: Array1<f32> = off.collect();
    f64::from(match second {
        Some(second) => off.dot(&second.dot(&off)),
        None => off.dot(&off),
    })
}

#[cfg(test)]
mod tests {
    use onnx_opt_ir::ElementType;

    use super::super::round::testing::problem;
    use super::super::{Rounding, round::prepare};
    use super::*;

    /// Error of nearest integers by the largest weight, and of a way to round.
    fn errors(rounding: Rounding, pair: Option<i64>) -> (f64, f64) {
        let (weights, moments) = problem(64);
        let bounds = Bounds { highest: 127, pair, least: 0.0 };
        let largest = weights.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
        let grid = Grid { element: ElementType::Int8, scale: largest / bounds.limit() as f32, zero: 0 };
        let moments = std::slice::from_ref(&moments);
        let prepared = prepare(rounding, Some(moments));
        let (scale, integers) = prepared.round_within(0, &weights, grid, bounds);
        assert!(bounds.hold(&integers), "{rounding:?} {integers:?}");
        let nearest: Vec<i64> =
            weights.iter().map(|weight| (weight / grid.scale).round_ties_even() as i64).collect();
        let of = |integers: &[i64], scale| error(&weights, integers, scale, prepared.second(0));
        (of(&nearest, grid.scale), of(&integers, scale))
    }

    #[test]
    fn the_result_changes_less_and_no_integer_is_past_its_bounds() {
        for pair in [None, Some(128)] {
            // Of 255 levels none are left over that a narrower range would put to use.
            for (rounding, share) in
                [(Rounding::SeqMse, 1.0), (Rounding::Gptq, 0.8), (Rounding::AdaRound, 0.8)]
            {
                let (nearest, found) = errors(rounding, pair);
                assert!(found <= share * nearest, "{rounding:?} {pair:?}: {found} of {nearest}");
            }
        }
    }

    #[test]
    fn a_scale_is_no_smaller_than_asked_for() {
        let weights = [0.01f32, 0.02, -0.015, 1.0];
        let grid = Grid { element: ElementType::Int8, scale: 1.0 / 127.0, zero: 0 };
        let bounds = Bounds { highest: 127, pair: None, least: grid.scale };
        let (scale, integers) = prepare(Rounding::SeqMse, None).round_within(0, &weights, grid, bounds);
        assert_eq!((scale, integers), (grid.scale, vec![1, 3, -2, 127]));
    }

    #[test]
    fn pairs_of_one_sign_count_together() {
        let bounds = Bounds { highest: 127, pair: Some(128), least: 0.0 };
        assert!(bounds.hold(&[127, 1, -127, -1]) && bounds.hold(&[64, 64, -64]));
        assert!(!bounds.hold(&[100, 29, 0]) && !bounds.hold(&[-128]) && !bounds.hold(&[-65, 3, -64]));
    }
}
