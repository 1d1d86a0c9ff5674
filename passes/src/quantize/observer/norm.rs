//! The limits of least error, by a norm.

use onnx_opt_ir::ElementType;

use super::Distribution;
use crate::quantize::{Grid, Range};

/// Limits are tried in hundredths of the full range.
const STEPS: u32 = 100;

/// The limits of least Σ hᵢ·|xᵢ − Q(xᵢ)|ᵖ over the bins of a histogram, where xᵢ is the middle of a bin, hᵢ its count, and
/// Q rounds to the grid over the limits. The larger p, the more the few numbers count that limits cut off.
///
/// Symmetric integers have one limit, which is searched among hundredths of the largest magnitude. Otherwise both ends
/// are: first together, then each alone, until neither moves. (Grid search over a histogram as in PPQ; the two ends in
/// turn as in PyTorch's histogram observer.)
pub(super) fn ends(
    distribution: &Distribution,
    element: ElementType,
    symmetric: bool,
    power: f64,
) -> (f32, f32) {
    let search = Search::new(distribution, element, symmetric, power);
    let &Distribution { low, high, .. } = distribution;
    let part = |end: f32, step: u32| (f64::from(end) * f64::from(step) / f64::from(STEPS)) as f32;
    let full = [STEPS, STEPS];
    let mut best = (search.error(low, high), full);
    let try_all = |best: &mut (f64, [u32; 2]), change: &dyn Fn([u32; 2], u32) -> [u32; 2]| {
        let before = *best;
        // From wide to narrow: of equals the widest.
        for step in (1..=STEPS).rev() {
            let steps = change(before.1, step);
            let error = search.error(part(low, steps[0]), part(high, steps[1]));
            if error < best.0 {
                *best = (error, steps);
            }
        }
        best.1 != before.1
    };
    if symmetric {
        // The limit of the larger magnitude; the other end lies within.
        let largest = high.max(-low);
        try_all(&mut best, &|_, step| [step, step]);
        let limit = part(largest, best.1[0]);
        return (low.max(-limit), high.min(limit));
    }
    try_all(&mut best, &|_, step| [step, step]);
    while try_all(&mut best, &|[_, high], step| [step, high])
        | try_all(&mut best, &|[low, _], step| [low, step])
    {}
    (part(low, best.1[0]), part(high, best.1[1]))
}

struct Search {
    /// Middles and counts of the bins that are not empty, by ascending middle.
    bins: Vec<(f32, f64)>,
    element: ElementType,
    symmetric: bool,
    power: f64,
}

impl Search {
    fn new(distribution: &Distribution, element: ElementType, symmetric: bool, power: f64) -> Self {
        let Distribution { low, high, positive, negative, .. } = distribution;
        let negative = negative.occupied().rev().map(|(middle, count)| (-middle, count));
        // Zeros are exact. The middle of the last bin may lie beyond the last number.
        let bins = negative.chain(positive.occupied());
        let bins = bins.map(|(middle, count)| ((middle as f32).clamp(*low, *high), count as f64)).collect();
        Self { bins, element, symmetric, power }
    }

    fn error(&self, low: f32, high: f32) -> f64 {
        let Some(range) = Range::new(low, high) else { return f64::INFINITY };
        let grid = Grid::of(range, self.element, self.symmetric);
        let error = |&(middle, count): &(f32, f64)| {
            let error = (f64::from(middle) - f64::from(grid.dequantize(grid.quantize(middle)))).abs();
            // The usual powers, of which millions are taken.
            let power = match self.power {
                2.0 => error * error,
                3.0 => error * error * error,
                power => error.powf(power),
            };
            power * count
        };
        self.bins.iter().map(error).sum()
    }
}
