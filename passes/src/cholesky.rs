//! The Cholesky factor of a positive definite matrix.

use ndarray::{Array2, s};

/// Columns that are done at a time; the rest of the matrix follows by a matrix product.
const PANEL: usize = 64;

/// The lower triangle L with L·Lᵀ = `matrix`, which is symmetric. `None` if it is not positive definite.
pub(crate) fn cholesky(mut matrix: Array2<f64>) -> Option<Array2<f64>> {
    let size = matrix.nrows();
    for start in (0..size).step_by(PANEL) {
        let end = (start + PANEL).min(size);
        for column in start..end {
            let done = matrix.slice(s![column, start..column]);
            let pivot = matrix[[column, column]] - done.dot(&done);
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            let root = pivot.sqrt();
            matrix[[column, column]] = root;
            for row in column + 1..size {
                let product =
                    matrix.slice(s![row, start..column]).dot(&matrix.slice(s![column, start..column]));
                matrix[[row, column]] = (matrix[[row, column]] - product) / root;
            }
        }
        let panel = matrix.slice(s![end.., start..end]).to_owned();
        let update = panel.dot(&panel.t());
        let mut rest = matrix.slice_mut(s![end.., end..]);
        rest -= &update;
    }
    for row in 0..size {
        matrix.slice_mut(s![row, row + 1..]).fill(0.0);
    }
    Some(matrix)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_times_itself_is_the_matrix() {
        for size in [1, 5, 64, 150] {
            let root = Array2::from_shape_fn((size, size), |(i, j)| ((i * 7 + j * 13) % 11) as f64 - 5.0);
            let matrix = root.dot(&root.t()) + Array2::<f64>::eye(size);
            let factor = cholesky(matrix.clone()).unwrap();
            let off = (factor.dot(&factor.t()) - &matrix).iter().fold(0f64, |most, off| most.max(off.abs()));
            assert!(off <= 1e-9 * matrix.diag().sum(), "{size}: {off}");
        }
    }

    #[test]
    fn other_matrices_have_none() {
        assert!(cholesky(Array2::zeros((2, 2))).is_none());
        assert!(cholesky(-Array2::<f64>::eye(3)).is_none());
        assert!(cholesky(Array2::from_elem((1, 1), f64::NAN)).is_none());
    }
}
