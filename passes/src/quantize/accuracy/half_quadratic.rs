//! Grids fitted to most weights, while few may be far off (HQQ, Badri and Shaji, 2023).

use super::super::Grid;
use super::super::grid::limits;

/// Power of the norm: below 1, many small errors count for more than a few large ones.
const POWER: f32 = 0.7;
/// How soft the first threshold is, and how fast it hardens, in units of the scale.
const STIFFNESS: f32 = 10.0;
const HARDENING: f32 = 1.01;
const ROUNDS: usize = 20;

/// The grid that makes Σ|w − (q − z)·s|^0.7 small: errors e are split off by the generalized soft threshold
/// sgn(x)·max(|x| − |x|^(p−1)/β, 0), and scale and zero point are fitted to w − e by least squares.
pub(super) fn fit(weights: &[f32], grid: Grid) -> Grid {
    let error = |grid: Grid| -> f64 {
        let off = |&weight: &f32| (grid.dequantize(grid.quantize(weight)) - weight).abs().powf(POWER);
        weights.iter().map(|weight| f64::from(off(weight))).sum()
    };
    let (lowest, highest) = limits(grid.element, !grid.element.is_unsigned_integer());
    let mut best = (error(grid), grid);
    let (mut current, mut stiffness) = (grid, STIFFNESS);
    for _ in 0..ROUNDS {
        let integers: Vec<f32> = weights.iter().map(|&weight| current.quantize(weight) as f32).collect();
        let rest: Vec<f32> = weights
            .iter()
            .zip(&integers)
            .map(|(&weight, &integer)| {
                let off = (weight - (integer - current.zero as f32) * current.scale) / current.scale;
                let size = off.abs();
                let kept =
                    if size > 0.0 { (size - size.powf(POWER - 1.0) / stiffness).max(0.0) } else { 0.0 };
                weight - off.signum() * kept * current.scale
            })
            .collect();
        if grid.element.is_unsigned_integer() {
            let shift = integers.iter().zip(&rest).map(|(integer, rest)| integer - rest / current.scale);
            let mean = shift.sum::<f32>() / weights.len().max(1) as f32;
            current.zero = (mean.round_ties_even() as i64).clamp(lowest, highest);
        }
        let steps = integers.iter().map(|integer| f64::from(integer - current.zero as f32));
        let (mut product, mut square) = (0.0, 0.0);
        for (step, rest) in steps.zip(&rest) {
            product += step * f64::from(*rest);
            square += step * step;
        }
        let factor = product / square / f64::from(current.scale);
        if !(factor.is_finite() && factor > 0.0) {
            break;
        }
        current = current.scaled(factor);
        let error = error(current);
        if error < best.0 {
            best = (error, current);
        }
        stiffness *= HARDENING;
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::super::round::testing::{Numbers, grids};
    use super::*;

    #[test]
    fn errors_are_smaller_than_on_the_whole_range() {
        let mut numbers = Numbers::new(1);
        let [mut whole, mut fitted] = [0.0; 2];
        for _ in 0..64 {
            let weights: Vec<f32> = (0..64).map(|_| numbers.normal() * 0.1).collect();
            let full = grids(&weights, 64)[0];
            let error = |grid: Grid| -> f32 {
                weights.iter().map(|&weight| (grid.dequantize(grid.quantize(weight)) - weight).powi(2)).sum()
            };
            whole += error(full);
            fitted += error(fit(&weights, full));
        }
        assert!(fitted < 0.95 * whole, "{fitted} of {whole}");
    }

    #[test]
    fn weights_on_the_grid_stay() {
        let weights: Vec<f32> = (0..16).map(|integer| (integer - 6) as f32 * 0.25).collect();
        let full = grids(&weights, 16)[0];
        assert_eq!(fit(&weights, full), full);
    }
}
