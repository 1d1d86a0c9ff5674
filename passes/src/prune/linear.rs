//! Symmetric positive definite systems, as normal equations are.

use ndarray::Array2;

use crate::cholesky::cholesky;

/// A symmetric positive definite matrix by its factor L, with A = L·Lᵀ, in rows of `size`.
pub(super) struct Cholesky {
    rows: Vec<f64>,
    size: usize,
}

impl Cholesky {
    /// Factors a matrix. `None` if it is not positive definite.
    pub fn of(rows: Vec<f64>, size: usize) -> Option<Self> {
        let matrix = Array2::from_shape_vec((size, size), rows).ok()?;
        let factor = cholesky(matrix)?;
        let rows = factor.as_standard_layout().iter().copied().collect();
        Some(Self { rows, size })
    }

    /// x with A·x = b.
    pub fn solve(&self, b: &mut [f64]) {
        let row = |i: usize| &self.rows[i * self.size..(i + 1) * self.size];
        for i in 0..self.size {
            b[i] = (b[i] - dot(&row(i)[..i], &b[..i])) / row(i)[i];
        }
        for i in (0..self.size).rev() {
            b[i] /= row(i)[i];
            let value = b[i];
            for (left, factor) in b[..i].iter_mut().zip(row(i)) {
                *left -= factor * value;
            }
        }
    }

    /// A⁻¹ in rows.
    pub fn inverse(&self) -> Vec<f64> {
        let mut inverse = vec![0.0; self.size * self.size];
        for (i, row) in inverse.chunks_mut(self.size.max(1)).enumerate() {
            row[i] = 1.0;
            self.solve(row);
        }
        inverse
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Four sums at once, which a processor can add side by side.
    let mut sums = [0.0; 4];
    let (mut fours_a, mut fours_b) = (a.chunks_exact(4), b.chunks_exact(4));
    for (a, b) in (&mut fours_a).zip(&mut fours_b) {
        for lane in 0..4 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = fours_a.remainder().iter().zip(fours_b.remainder()).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_solved() {
        let a = vec![4.0, 2.0, 0.6, 2.0, 5.0, 1.0, 0.6, 1.0, 3.0];
        let factored = Cholesky::of(a.clone(), 3).unwrap();
        let mut x = vec![1.0, -2.0, 3.0];
        factored.solve(&mut x);
        for (row, expected) in a.chunks(3).zip([1.0, -2.0, 3.0]) {
            assert!((dot(row, &x) - expected).abs() < 1e-12);
        }
        let inverse = factored.inverse();
        for (i, row) in a.chunks(3).enumerate() {
            for (j, column) in inverse.chunks(3).enumerate() {
                assert!((dot(row, column) - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
        assert!(Cholesky::of(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
    }
}
