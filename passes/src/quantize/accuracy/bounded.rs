//! Rounding the weights of a channel to symmetric integers that keep to bounds, whichever way changes its result least.

use ndarray::Array2;

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

/// Scales that may be tried, as parts of the whole one, in steps of a twentieth: first each third from the whole one down,
/// then the neighbours of the best of these.
const CANDIDATES: std::ops::RangeInclusive<u32> = 7..=20;
const STRIDE: u32 = 3;

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

/// Integers of a channel and their scale.
#[derive(Clone)]
struct Steps {
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
        let nearest = |scale: f32, limit: i64| -> Steps {
            let steps = weights.iter().map(|weight| (weight / scale).round_ties_even() as i64);
            Steps { scale, integers: steps.map(|integer| integer.clamp(-limit, limit)).collect() }
        };
        let largest = weights.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
        let limit = bounds.limit();
        let whole = largest / limit as f32;
        let finer = |candidate: u32| {
            let scale = whole * candidate as f32 / *CANDIDATES.end() as f32;
            (scale >= bounds.least && CANDIDATES.contains(&candidate)).then(|| nearest(scale, limit))
        };
        let tried: Vec<u32> = CANDIDATES.rev().step_by(STRIDE as usize).collect();
        let steps: Vec<Steps> = tried.iter().filter_map(|&candidate| finer(candidate)).collect();
        let own = nearest(grid.scale, bounds.highest);
        let mut found = errors(weights, std::slice::from_ref(&own), second);
        let (mut best, mut error) = (own, found.swap_remove(0));
        let mut keep_best = |steps: Vec<Steps>| {
            let found = errors(weights, &steps, second);
            let least = (0..found.len()).min_by(|&a, &b| found[a].total_cmp(&found[b]))?;
            if found[least] < error {
                (best, error) = (steps[least].clone(), found[least]);
            }
            Some(least)
        };
        if let Some(least) = keep_best(steps) {
            let neighbours = (1..STRIDE).flat_map(|by| [tried[least] - by, tried[least] + by]);
            keep_best(neighbours.filter_map(finer).collect());
        }
        let grid = Grid { scale: best.scale, ..grid };
        let mut integers = self.integers(group, weights, &[grid], weights.len());
        integers.iter_mut().for_each(|integer| *integer = (*integer).clamp(-bounds.highest, bounds.highest));
        let refined = Steps { scale: grid.scale, integers };
        let other = errors(weights, std::slice::from_ref(&refined), second);
        if other[0] < error && bounds.hold(&refined.integers) {
            best = refined;
        }
        (best.scale, best.integers)
    }
}

/// d·H·dᵀ of each, where d is what rounding changed and H are second moments of the operand, or the identity. H may be
/// larger than the caches: it is read once for all.
fn errors(weights: &[f32], candidates: &[Steps], second: Option<&Array2<f32>>) -> Vec<f64> {
    let off = Array2::from_shape_fn((candidates.len(), weights.len()), |(candidate, place)| {
        let Steps { scale, integers } = &candidates[candidate];
        integers[place] as f32 * scale - weights[place]
    });
    let changed = second.map(|second| off.dot(second));
    let changed = changed.as_ref().unwrap_or(&off);
    off.outer_iter().zip(changed.outer_iter()).map(|(off, changed)| f64::from(off.dot(&changed))).collect()
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
        let both = [Steps { scale: grid.scale, integers: nearest }, Steps { scale, integers }];
        let found = super::errors(&weights, &both, prepared.second(0));
        (found[0], found[1])
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
