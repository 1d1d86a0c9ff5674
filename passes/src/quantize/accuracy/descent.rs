//! Rounding up or down, whichever changes the result less.
//!
//! This is the problem of AdaRound (Nagel et al., 2020), which it solves by gradients of a smooth stand-in; here the
//! weights of a channel are gone through instead, and each is moved to its other neighbour while that makes the error
//! smaller, until none does.

use ndarray::Array2;

use super::super::Grid;

/// The channel is gone through so often at most.
const SWEEPS: usize = 24;

/// Moves integers of a channel between their two neighbours so that d·H·dᵀ falls, d being what rounding changed and H
/// second moments of the operand: one step δ of weight k changes it by 2·δ·(H·d)_k + δ²·H_kk.
pub(super) fn improve(
    weights: &[f32],
    integers: &mut [i64],
    grids: &[Grid],
    size: usize,
    second: &Array2<f32>,
) {
    let off = |place: usize, integer: i64| grids[place / size].dequantize(integer) - weights[place];
    let changed = ndarray::Array1::from_shape_fn(weights.len(), |place| off(place, integers[place]));
    let mut pull = second.dot(&changed);
    for _ in 0..SWEEPS {
        let mut moved = false;
        for place in 0..weights.len() {
            let (grid, old) = (grids[place / size], integers[place]);
            let now = off(place, old);
            let other = if now > 0.0 { old - 1 } else { old + 1 };
            let step = off(place, other) - now;
            // Neither past the end of the integers nor past the neighbour.
            let is_neighbour = step.abs() > now.abs() && now != 0.0;
            let exists = grid.quantize(grid.dequantize(other)) == other;
            if is_neighbour && exists && step * (2.0 * pull[place] + step * second[[place, place]]) < 0.0 {
                integers[place] = other;
                pull.scaled_add(step, &second.row(place));
                moved = true;
            }
        }
        if !moved {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { element: onnx_opt_ir::ElementType::Int8, scale: 1.0, zero: 0 };

    #[test]
    fn one_of_two_goes_up_where_their_sum_matters() {
        let second = Array2::from_elem((2, 2), 1.0);
        let mut integers = [0, 0];
        improve(&[0.4, 0.4], &mut integers, &[GRID], 2, &second);
        assert_eq!(integers.iter().sum::<i64>(), 1);
    }

    #[test]
    fn integers_stay_next_to_their_weights() {
        let second = Array2::from_elem((2, 2), 1.0);
        // The second weight could take on all that the first lacks at the end of its integers.
        let (weights, mut integers) = ([130.0, 0.2], [127, 0]);
        improve(&weights, &mut integers, &[GRID], 2, &second);
        assert_eq!(integers, [127, 1]);
    }
}
