//! Rounding one weight after the other, each so that it makes up for those before (GPTQ).
//!
//! With the Cholesky factor L of the second moments H = L·Lᵀ, what d changes in the result is |Lᵀ·d|². Row j of Lᵀ
//! begins at j: from the last weight to the first, the integer that makes row j smallest is the one nearest to
//! w_j − Σ_{k>j} L_kj·d_k / L_jj. This is GPTQ (Frantar et al., 2022) without the inverse of H; the order is that of its
//! `act_order`, weights of large operands first.

use ndarray::Array2;

use super::super::Grid;
use crate::cholesky::cholesky;

/// Second moments, ready for rounding.
pub(crate) struct Successive {
    /// The weight that stands at each place: that of the largest operand last.
    order: Vec<usize>,
    /// Lᵀ/L_jj, row by row.
    rows: Array2<f32>,
}

impl Successive {
    /// From second moments; `None` where they are not positive definite.
    pub fn of(second: Array2<f64>) -> Option<Self> {
        let mut order: Vec<usize> = (0..second.nrows()).collect();
        order.sort_by(|&a, &b| second[[a, a]].total_cmp(&second[[b, b]]));
        let size = order.len();
        let ordered =
            Array2::from_shape_fn((size, size), |(row, column)| second[[order[row], order[column]]]);
        let lower = cholesky(ordered)?;
        let rows = Array2::from_shape_fn((size, size), |(row, column)| {
            (lower[[column, row]] / lower[[row, row]]) as f32
        });
        Some(Self { order, rows })
    }

    /// The integers of a channel, with a grid for each block of `size` weights.
    pub fn round(&self, weights: &[f32], grids: &[Grid], size: usize) -> Vec<i64> {
        let mut integers = vec![0; weights.len()];
        let mut off = vec![0f32; weights.len()];
        for (place, row) in self.rows.outer_iter().enumerate().rev() {
            let weight = self.order[place];
            let grid = grids[weight / size];
            let owed: f32 = row.iter().zip(&off).skip(place + 1).map(|(factor, off)| factor * off).sum();
            let integer = grid.quantize(weights[weight] - owed);
            integers[weight] = integer;
            off[place] = grid.dequantize(integer) - weights[weight];
        }
        integers
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::round::{nearest, testing::grids};
    use super::*;

    #[test]
    fn operands_that_do_not_depend_on_each_other_leave_the_nearest() {
        let weights = [0.31f32, -0.72, 0.05, 0.9];
        let grids = grids(&weights, 2);
        let alone = Successive::of(Array2::from_diag(&ndarray::arr1(&[1.0, 3.0, 0.5, 2.0]))).unwrap();
        assert_eq!(alone.round(&weights, &grids, 2), nearest(&weights, &grids, 2));
    }

    #[test]
    fn equal_operands_make_up_for_each_other() {
        // Both weights are multiplied by the same number: only their sum matters.
        let grid = Grid { element: onnx_opt_ir::ElementType::Int8, scale: 1.0, zero: 0 };
        let mut second = Array2::from_elem((2, 2), 1.0);
        second[[1, 1]] += 1e-3;
        let integers = Successive::of(second).unwrap().round(&[0.4, 0.4], &[grid], 2);
        assert_eq!(integers.iter().sum::<i64>(), 1);
    }
}
